//! `prevResult`: the bytes are its value, in a configuration of each version.
//!
//! What can be read can be printed in every version, what is printed can be read, and says
//! the same again.

use cni_protocol::{AddResult, DecodeError, NetworkConfig, Version};
use serde_json::Value;

use crate::refusal;

/// The target.
pub fn check(bytes: &[u8]) {
    for unstated in Version::ALL {
        let Ok(read) = read(bytes, unstated) else {
            // Not JSON, or more than a value: another target's business.
            return;
        };
        match read {
            Err(error) => {
                refusal::check(&error);
            }
            Ok(None) => {}
            Ok(Some(result)) => Version::ALL
                .into_iter()
                .for_each(|version| there_and_back(&result, version)),
        }
    }
}

/// Reads the value as a plugin does. The outer error: there is no configuration to read.
fn read(value: &[u8], unstated: Version) -> Result<Result<Option<AddResult>, DecodeError>, ()> {
    let before = format!(r#"{{"cniVersion":"{unstated}","name":"n","prevResult":"#);
    let text = [before.as_bytes(), value, b"}"].concat();
    let network = NetworkConfig::parse(text).map_err(|_refused| ())?;
    Ok(network.prev_result())
}

fn there_and_back(result: &AddResult, version: Version) {
    let Ok(document) = result.to_json(version) else {
        assert!(version <= Version::V0_2_0 && result.ips.is_empty());
        assert!(result.ensure_representable(version).is_err());
        return;
    };
    assert_eq!(result.ensure_representable(version), Ok(()));
    let text = result.to_text(version).expect("the same as to_json");
    assert_eq!(
        serde_json::from_str::<Value>(&text).ok().as_ref(),
        Some(&document)
    );
    check_shape(&document, version);

    // It says its version itself, so that of the configuration does not matter.
    let back = read(text.as_bytes(), Version::V0_1_0)
        .expect("a configuration around it")
        .expect("what is printed can be read")
        .expect("a result");
    let again = back.to_text(version).expect("what was read has an address");
    assert_eq!(again, text, "the second way prints something else");
    if version == Version::LATEST {
        assert_eq!(
            kept(&back),
            kept(result),
            "the newest version keeps everything"
        );
    }
}

/// What runtimes rely on.
fn check_shape(document: &Value, version: Version) {
    let list = |key: &str| {
        document
            .get(key)
            .and_then(Value::as_array)
            .map_or(&[][..], |list| list)
    };
    assert_eq!(document["cniVersion"], version.as_str());
    let interfaces = list("interfaces").len() as u64;
    for ip in list("ips") {
        // containerd's go-cni dies, as a whole, of an index that leads nowhere.
        let index = ip.get("interface").and_then(Value::as_u64);
        assert!(index.is_none_or(|index| index < interfaces), "{ip}");
        assert_eq!(
            ip.get("version").is_some(),
            version < Version::V1_0_0,
            "{ip}"
        );
    }
    for key in ["interfaces", "ips"] {
        assert!(version > Version::V0_2_0 || document.get(key).is_none());
    }
    for key in ["ip4", "ip6"] {
        assert!(version <= Version::V0_2_0 || document.get(key).is_none());
    }
    assert!(version >= Version::V1_0_0 || document.get("dns").is_some());
}

/// The result without indexes that lead to no interface: those are not printed.
fn kept(result: &AddResult) -> AddResult {
    let mut result = result.clone();
    let interfaces = result.interfaces.len();
    for ip in &mut result.ips {
        ip.interface = ip.interface.filter(|index| *index < interfaces);
    }
    result
}
