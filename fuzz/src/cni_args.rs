//! `CNI_ARGS`, and what the two plugins make of it: addresses, a MAC, the pod in the alias.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use cni_ipam::alias::Alias;
use cni_protocol::{Args, Attachment, Failure, NetworkConfig};

use crate::{config, ipam_stdin, refusal};

const NETWORK: &str = r#"{"cniVersion":"1.1.0","name":"cbr0","type":"cni-bridge","ipam":{
    "type":"cni-ipam","ranges":[[{"subnet":"10.64.1.0/24"}],[{"subnet":"fd00::/64"}]]}}"#;

/// The longest alias that a link can have, in bytes (`IFALIASZ - 1`).
const LONGEST_ALIAS: usize = 255;

/// The target.
pub fn check(bytes: &[u8]) {
    let text = OsStr::from_bytes(bytes);
    let args = Args::parse_tolerantly(text);
    match Args::parse(text) {
        Ok(strictly) => assert_eq!(strictly, args),
        Err(error) => {
            let reply = refusal::check(&error);
            assert_eq!(reply.code.number(), 4);
            assert!(reply.msg.contains("CNI_ARGS"), "{reply}");
        }
    }
    let network = NetworkConfig::parse(NETWORK.as_bytes().to_vec()).expect("it is well-formed");
    match config::Config::parse(&network, &args) {
        Ok(config) => {
            assert_eq!(config.mac.is_some(), args.mac.is_some());
        }
        Err(error) => {
            refusal::check(&error);
            assert!(args.ip.is_some() || args.mac.is_some(), "{error}");
        }
    }
    match cni_ipam::Config::parse(&network, &args) {
        Ok(config) => ipam_stdin::check_config(&config, network.version()),
        Err(error) => {
            assert_eq!(error.code().number(), 7);
            assert!(args.ip.is_some(), "{error}");
        }
    }
    check_alias(&args);
}

/// The store can be rebuilt from the alias, whatever the pod is called.
fn check_alias(args: &Args) {
    let attachment = Attachment {
        network: "cbr0".parse().expect("a name"),
        container_id: "c1".parse().expect("a name"),
        interface: "eth0".parse().expect("a name"),
    };
    let addresses = ["10.64.1.7", "fd00::7"].map(|address| address.parse().expect("an address"));
    let alias = Alias::new(&attachment, addresses.into(), args.pod());
    let text = alias.to_string();
    assert!(text.len() <= LONGEST_ALIAS, "{text:?}");
    let read: Alias = text.parse().expect("an alias of ours");
    assert_eq!(Alias { pod: None, ..read }, Alias { pod: None, ..alias });
}
