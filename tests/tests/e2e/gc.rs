//! GC: what the runtime does not list any more is cleaned up, and nothing else.

use harness::{Container, Host, conf, on_host};
use serde_json::{Value, json};

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn succeeds_in_silence_with_all_pods_valid() {
    on_host(|host| {
        let (pod, _) = host.pod(&conf::dual_stack());
        let before = host.state();
        for _ in 0..2 {
            host.gc(&conf::dual_stack(), &[&pod]).done();
            host.state().assert_same(&before);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn succeeds_where_nothing_ever_was() {
    on_host(|host| {
        let before = host.state();
        host.gc(&conf::dual_stack(), &[]).done();
        let ipam = host.request("GC", &conf::dual_stack()).plugin("cni-ipam");
        ipam.run().done();
        host.state().assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn frees_the_addresses_of_pods_that_are_not_listed() {
    on_host(|host| {
        let conf = conf::dual_stack();
        let (kept, _) = host.pod(&conf);
        let before = host.state().only(&["lease"]);
        let (mut gone, _) = host.pod(&conf);
        gone.die();
        host.gc(&conf, &[&kept]).done();
        host.state().only(&["lease"]).assert_same(&before);
    });
}

mod ours {
    use super::*;

    /// A network that shares nothing but the node.
    fn other_network() -> Value {
        let other =
            json!({ "name": "other", "bridge": "other0", "ipam": { "subnet": "10.65.0.0/24" } });
        conf::with(&conf::smallest(), &other)
    }

    fn pods(host: &Host, count: usize) -> Vec<Container> {
        (0..count).map(|_| host.pod(&conf::smallest()).0).collect()
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn frees_what_is_not_listed() {
        on_host(|host| {
            let (_other, _) = host.pod(&other_network());
            let kept = pods(host, 1);
            let (before, inside) = (host.state(), kept[0].state());
            let _gone = pods(host, 2);
            for _ in 0..2 {
                host.gc(&conf::smallest(), &[&kept[0]]).done();
                host.state().assert_same(&before);
                kept[0].state().assert_same(&inside);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_empty_list_frees_all_of_this_network_alone() {
        on_host(|host| {
            let (_other, _) = host.pod(&other_network());
            let first = pods(host, 1);
            host.del(&conf::smallest(), &first[0]).done();
            let before = host.state();
            for nothing in [json!([]), Value::Null] {
                let _pods = pods(host, 2);
                let mut conf = conf::smallest();
                conf["cni.dev/valid-attachments"] = nothing;
                host.request("GC", &conf).run().done();
                host.state().assert_same(&before);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn without_a_list_live_pods_stay() {
        on_host(|host| {
            let _pods = pods(host, 2);
            let before = host.state();
            let answer = host.request("GC", &conf::smallest()).run();
            assert!(
                answer.stderr.contains("cni.dev/valid-attachments"),
                "{answer:?}"
            );
            answer.done();
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_old_name_of_the_list_is_known() {
        on_host(|host| {
            let pods = pods(host, 2);
            let valid = json!([{ "containerID": pods[0].id, "ifname": "eth0" }]);
            let old = conf::with(&conf::smallest(), &json!({ "cni.dev/attachments": valid }));
            host.request("GC", &old).run().done();
            let leases = host.state().only(&["lease"]);
            assert_eq!(leases.text().lines().count(), 1, "{leases:?}");
            assert!(leases.text().contains(" pod1 "), "{leases:?}");
            // libcni sends both; the new name counts.
            let both = json!({ "cni.dev/attachments": [], "cni.dev/valid-attachments": valid });
            host.request("GC", &conf::with(&conf::smallest(), &both))
                .run()
                .done();
            host.state().only(&["lease"]).assert_same(&leases);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn another_interface_of_the_same_container_is_another_attachment() {
        on_host(|host| {
            let conf = conf::with(&conf::smallest(), &json!({ "isDefaultGateway": false }));
            let (mut pod, _) = host.pod(&conf);
            let before = host.state();
            pod.interface = "eth1".to_owned();
            host.add(&conf, &pod).result();
            pod.interface = "eth0".to_owned();
            host.gc(&conf, &[&pod]).done();
            host.state().assert_same(&before);
            assert_eq!(pod.sh("ip -o link show type veth").lines().count(), 1);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_ipam_frees_leases() {
        on_host(|host| {
            let conf = conf::smallest();
            let pods = [host.container(), host.container()];
            for pod in &pods {
                host.request_for("ADD", &conf, pod)
                    .plugin("cni-ipam")
                    .run()
                    .result();
            }
            let valid = json!([{ "containerID": pods[1].id, "ifname": "eth0" }]);
            let gc = conf::with(&conf, &json!({ "cni.dev/valid-attachments": valid }));
            host.request("GC", &gc).plugin("cni-ipam").run().done();
            let leases = host.state().only(&["lease"]);
            assert_eq!(leases.text().lines().count(), 1, "{leases:?}");
            assert!(leases.text().contains(" pod2 "), "{leases:?}");
        });
    }

    /// A record of host-local's old form names no interface: the container's id decides.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn leases_taken_over_from_host_local_stay_while_their_container_is_valid() {
        on_host(|host| {
            harness::sh(
                "mkdir -p /var/lib/cni/networks/cbr0; cd /var/lib/cni/networks/cbr0
                 printf 'old1' >10.64.1.2; printf 'old2\\r\\neth0' >10.64.1.3; printf 'old3' >10.64.1.4",
            );
            let (pod, result) = host.pod(&conf::smallest());
            assert_eq!(result["ips"][0]["address"], "10.64.1.5/24");
            let mut valid = host.container();
            valid.id = "old1".to_owned();
            host.gc(&conf::smallest(), &[&pod, &valid]).done();
            let leases = host.state().only(&["lease /run/cni-ipam"]);
            for (id, kept) in [
                ("old1", true),
                ("old2", false),
                ("old3", false),
                (&*pod.id, true),
            ] {
                assert_eq!(
                    leases.text().contains(&format!(" {id} ")),
                    kept,
                    "{id}: {leases:?}"
                );
            }
        });
    }
}
