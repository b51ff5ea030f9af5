//! The file of ip-masq-agent that `ipMasqConfig` names: YAML, or JSON, from outside.

use std::{path::PathBuf, sync::Arc};

use cni_protocol::NetworkName;
use ipnet::IpNet;

use crate::{
    agent::{self, UnknownKeys},
    bridge_stdin,
    error::Error,
    masquerade::Policy,
    refusal,
};

/// The target.
pub fn check(bytes: &[u8]) {
    let read = |unknown| agent::parse(bytes, unknown);
    match read(UnknownKeys::Ignored) {
        Ok(policy) => {
            check_policy(&policy);
            if let Ok(same) = read(UnknownKeys::Refused) {
                assert_eq!(same, policy);
            }
        }
        Err(rejected) => {
            let path = PathBuf::from("/etc/config/ip-masq-agent");
            let error = agent::Error::Rejected { path, rejected };
            let reply = refusal::check(&Error::MasqueradeFile(Arc::new(error)));
            assert_eq!(reply.code.number(), 7);
            check_line(bytes, &reply.msg);
            assert!(read(UnknownKeys::Refused).is_err());
        }
    }
}

/// The line that a person is sent to is there.
fn check_line(bytes: &[u8], msg: &str) {
    let number = msg.split("cannot be used: line ").nth(1);
    let number = number.and_then(|rest| rest.split(':').next());
    let line: usize = number.expect(msg).parse().expect(msg);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!((1..=lines).contains(&line), "{msg}");
}

fn check_policy(policy: &Policy) {
    let network: NetworkName = "cbr0".parse().expect("a name");
    let pods: Vec<IpNet> = ["10.64.1.0/24", "fd00:64:1::/64", "2001:db8:64:1::/64"]
        .map(|net| net.parse().expect("a network"))
        .into();
    let rules = policy.rules(&network, &pods);
    assert_eq!(rules.len(), 2);
    rules.iter().for_each(bridge_stdin::check_rule);
}
