//! Only its owner ends a lease, and what was just released is given last.

use std::{collections::BTreeSet, net::IpAddr};

use harness::{Host, conf, on_host};
use serde_json::{Value, json};

use crate::kit;

fn named(name: &str) -> Value {
    conf::with(&conf::smallest(), &json!({ "name": name }))
}

fn gc(host: &Host, conf: &Value, valid: &[&str]) {
    let valid: Vec<Value> = valid
        .iter()
        .map(|id| json!({ "containerID": id, "ifname": "eth0" }))
        .collect();
    let conf = conf::with(conf, &json!({ "cni.dev/valid-attachments": valid }));
    host.request("GC", &conf).plugin("cni-ipam").run().done();
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn gc_ends_leases_of_its_network_alone() {
    on_host(|host| {
        let (ours, theirs) = (named("cbr0"), named("other"));
        for id in ["a", "b"] {
            kit::lease(host, &theirs, id);
        }
        kit::lease(host, &ours, "a");
        let before = host.state();
        for id in ["b", "c"] {
            kit::lease(host, &ours, id);
        }
        for _ in 0..2 {
            gc(host, &ours, &["a"]);
            host.state().assert_same(&before);
        }
        // A network that never was.
        gc(host, &named("unknown"), &[]);
        host.state().assert_same(&before);
        gc(host, &theirs, &[]);
        let left = host.state().only(&["lease"]);
        assert_eq!(left.text().lines().count(), 1, "{left:?}");
        assert!(left.text().contains("/cbr0/"), "{left:?}");
        kit::assert_healthy();
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn del_by_another_than_the_owner_releases_nothing() {
    on_host(|host| {
        let conf = named("cbr0");
        let address = kit::lease(host, &conf, "pod-1");
        kit::lease(host, &named("other"), "pod-2");
        let before = host.state();
        let asks = |conf: &Value, id: &str, interface: &str| {
            let result =
                json!({ "cniVersion": "1.1.0", "ips": [{ "address": format!("{address}/24") }] });
            let conf = conf::with(conf, &json!({ "prevResult": result }));
            let del = kit::ipam(host, "DEL", &conf, id).env("CNI_IFNAME", interface);
            del.run().done();
        };
        asks(&conf, "pod-2", "eth0");
        asks(&conf, "pod", "eth0");
        asks(&conf, "pod-1", "eth1");
        asks(&named("other"), "pod-1", "eth0");
        asks(&named("unknown"), "pod-1", "eth0");
        host.state().assert_same(&before);
        asks(&conf, "pod-1", "eth0");
        let left = host.state().only(&["lease"]);
        assert!(!left.text().contains("pod-1"), "{left:?}");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_address_that_was_free_longest_comes_next() {
    on_host(|host| {
        let conf = kit::network(&json!({ "subnet": "10.64.1.0/28" }));
        let all: Vec<IpAddr> = (0..13)
            .map(|n| kit::lease(host, &conf, &format!("first-{n}")))
            .collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 13);
        let order = [7, 2, 11, 0, 12];
        for n in order {
            kit::ipam(host, "DEL", &conf, &format!("first-{n}"))
                .run()
                .done();
        }
        // Each comes back in the order of its release, those released meanwhile after them.
        let mut waiting: Vec<IpAddr> = order.iter().map(|n| all[*n]).collect();
        for n in 0..40 {
            let id = format!("next-{n}");
            let next = waiting.remove(0);
            assert_eq!(kit::lease(host, &conf, &id), next, "{n}");
            kit::ipam(host, "DEL", &conf, &id).run().done();
            waiting.push(next);
        }
    });
}
