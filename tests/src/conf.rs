//! Network configurations as tests write them.

use serde_json::{Map, Value, json};

use crate::plugin;

/// A bridge network with the IPAM section given, every key that the Go plugin knows and
/// that matters spelled out: both implementations read the same from it.
pub fn network(ipam: &Value) -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "cbr0",
        "type": "cni-bridge",
        "bridge": "cbr0",
        "isGateway": true,
        "isDefaultGateway": true,
        "hairpinMode": true,
        "ipMasq": false,
        "ipam": ipam,
    })
}

/// An IPAM section with one range set for each subnet.
pub fn ipam(subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets
        .iter()
        .map(|subnet| json!([{ "subnet": subnet }]))
        .collect();
    json!({ "type": "cni-ipam", "ranges": ranges })
}

/// `10.64.1.0/24` on cbr0.
pub fn ipv4() -> Value {
    network(&ipam(&["10.64.1.0/24"]))
}

/// `fd00:64:1::/64` on cbr0.
pub fn ipv6() -> Value {
    network(&ipam(&["fd00:64:1::/64"]))
}

/// Both, IPv4 first.
pub fn dual_stack() -> Value {
    network(&ipam(&["10.64.1.0/24", "fd00:64:1::/64"]))
}

/// The smallest configuration there is, which is a whole node with all our defaults.
pub fn smallest() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "cbr0",
        "type": "cni-bridge",
        "ipam": { "type": "cni-ipam", "subnet": "10.64.1.0/24" },
    })
}

/// The configuration for the plugins under test: [`crate::Request`] does this by itself.
pub fn mapped(conf: &Value) -> Value {
    let mut conf = conf.clone();
    plugin::map_types(&mut conf);
    conf
}

/// The configuration with some keys changed: objects are merged, `null` removes a key.
pub fn with(conf: &Value, changes: &Value) -> Value {
    let mut merged = conf.clone();
    merge(&mut merged, changes);
    merged
}

fn merge(target: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *target = changes.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (key, change) in changes {
        if change.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), change);
        }
    }
}

#[test]
fn changes_are_merged_and_null_removes() {
    let conf = json!({ "name": "n", "ipam": { "type": "t", "subnet": "s" }, "mtu": 1 });
    let changes = json!({ "ipam": { "subnet": null, "dataDir": "d" }, "mtu": null });
    assert_eq!(
        with(&conf, &changes),
        json!({ "name": "n", "ipam": { "type": "t", "dataDir": "d" } })
    );
}
