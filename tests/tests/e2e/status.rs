//! STATUS: could an ADD work?

use harness::{conf, on_host};
use serde_json::{Value, json};

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn of_a_node_before_its_first_pod_is_good() {
    on_host(|host| {
        let before = host.state();
        host.status(&conf::dual_stack()).done();
        host.request("STATUS", &conf::dual_stack())
            .plugin("cni-ipam")
            .run()
            .done();
        host.state().assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn of_a_node_with_pods_is_good() {
    on_host(|host| {
        let (_pod, _) = host.pod(&conf::dual_stack());
        let before = host.state();
        host.status(&conf::dual_stack()).done();
        host.state().assert_same(&before);
    });
}

mod ours {
    use harness::Host;

    use super::*;

    /// STATUS of both executables says no, with one of these codes and these words.
    fn is_bad(host: &Host, changes: &Value, plugins: &[&str], words: &str) {
        let conf = conf::with(&conf::smallest(), changes);
        let before = host.state();
        for plugin in plugins {
            let refusal = host.request("STATUS", &conf).plugin(plugin).run().refusal();
            let said = format!("{}; {}", refusal.msg, refusal.details);
            assert!([7, 50].contains(&refusal.code), "{plugin}: {refusal:?}");
            assert!(
                said.contains(words),
                "{plugin}: {words} is not in {refusal:?}"
            );
            assert!(!refusal.msg.contains('\n'), "{refusal:?}");
        }
        host.state().assert_same(&before);
    }

    const BOTH: [&str; 2] = ["cni-bridge", "cni-ipam"];

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_a_configuration_that_no_add_could_use_is_bad() {
        on_host(|host| {
            is_bad(
                host,
                &json!({ "ipam": { "subnet": "10.64.1.7/24" } }),
                &BOTH,
                "10.64.1.7/24",
            );
            is_bad(
                host,
                &json!({ "ipam": { "subnet": "10.64.1.0/31" } }),
                &BOTH,
                "10.64.1.0/31",
            );
            is_bad(host, &json!({ "ipam": { "subnet": null } }), &BOTH, "range");
            is_bad(host, &json!({ "vlan": -3 }), &["cni-bridge"], "vlan");
            is_bad(
                host,
                &json!({ "hairpinMode": true, "promiscMode": true }),
                &["cni-bridge"],
                "promiscMode",
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_a_bridge_name_that_is_no_bridge_is_bad() {
        on_host(|host| {
            harness::sh("ip link add br9 type veth peer name br9-peer");
            is_bad(host, &json!({ "bridge": "br9" }), &["cni-bridge"], "br9");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_a_store_that_cannot_be_made_is_bad() {
        on_host(|host| {
            harness::sh("mkdir /run/ro; mount -t tmpfs -o ro tmpfs /run/ro; echo >/run/file");
            is_bad(
                host,
                &json!({ "ipam": { "dataDir": "/run/ro" } }),
                &BOTH,
                "/run/ro",
            );
            is_bad(
                host,
                &json!({ "ipam": { "dataDir": "/run/file" } }),
                &BOTH,
                "/run/file",
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_an_exhausted_range_is_good_unless_asked_for() {
        on_host(|host| {
            let small = json!({ "ipam": { "subnet": "10.64.1.0/30" } });
            let conf = conf::with(&conf::smallest(), &small);
            let (_only, _) = host.pod(&conf);
            host.status(&conf).done();
            let asked = json!({ "ipam": { "subnet": "10.64.1.0/30", "statusOnExhaustion": true } });
            is_bad(host, &asked, &BOTH, "10.64.1.1-10.64.1.2");
        });
    }

    /// The lock is held: STATUS does not wait for it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn does_not_wait_for_the_store() {
        on_host(|host| {
            let (_pod, _) = host.pod(&conf::smallest());
            let store = std::fs::File::open("/run/cni-ipam/cbr0").expect("the store");
            store.lock().expect("the lock of the store");
            let started = std::time::Instant::now();
            host.status(&conf::smallest()).done();
            assert!(started.elapsed().as_secs() < 1, "{:?}", started.elapsed());
        });
    }
}
