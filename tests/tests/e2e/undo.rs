//! ADD that fails, at every step: code and words, and that the node, the container and
//! the leases are as before.

use std::fs;

use harness::{Host, conf, on_host};
use serde_json::{Value, json};

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_name_that_is_taken_in_the_container() {
    on_host(|host| {
        let conf = conf::dual_stack();
        let (_neighbour, _) = host.pod(&conf);
        let pod = host.container();
        pod.sh("ip link add eth0 type bridge");
        let (before, inside) = (host.state(), pod.state());

        let refusal = host.add(&conf, &pod).refusal();

        let words = format!("{}; {}", refusal.msg, refusal.details);
        assert!(words.contains("eth0"), "{refusal:?}");
        host.state().assert_same(&before);
        pod.state().assert_same(&inside);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_second_add_for_the_same_attachment() {
    on_host(|host| {
        let conf = conf::dual_stack();
        let (pod, _) = host.pod(&conf);
        let (before, inside) = (host.state(), pod.state());
        let refusal = host.add(&conf, &pod).refusal();
        let words = format!("{}; {}", refusal.msg, refusal.details);
        assert!(words.contains("eth0"), "{refusal:?}");
        host.state().assert_same(&before);
        pod.state().assert_same(&inside);
    });
}

/// What is wrong, and what the runtime has to be told: the code, and words that stand in
/// msg or details.
struct Fault {
    arrange: fn(&Host),
    conf: Value,
    netns: Option<&'static str>,
    code: u64,
    words: Vec<String>,
}

impl Fault {
    /// A fault of the configuration, refused for these words.
    fn conf(changes: &Value, code: u64, words: &[&str]) -> Self {
        Self {
            arrange: |_| {},
            conf: conf::with(&conf::smallest(), changes),
            netns: None,
            code,
            words: words.iter().map(|&words| words.to_owned()).collect(),
        }
    }

    /// Nothing changes: neither on a node where nothing is yet, nor on one with a pod.
    fn changes_nothing(&self) {
        on_host(|host| {
            (self.arrange)(host);
            self.refused_on(host);
        });
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            (self.arrange)(host);
            self.refused_on(host);
        });
    }

    fn refused_on(&self, host: &Host) {
        let mut pod = host.container();
        if let Some(path) = self.netns {
            pod.path = path.into();
        }
        let (before, inside) = (host.state(), pod.state());

        let refusal = host.add(&self.conf, &pod).refusal();

        let said = format!("{}; {}", refusal.msg, refusal.details);
        let all = self.words.iter().all(|words| said.contains(words.as_str()));
        assert!(
            refusal.code == self.code && all,
            "should be code {} with {:?}, but is {refusal:?}",
            self.code,
            self.words
        );
        assert!(!refusal.msg.contains('\n'), "{refusal:?}");
        host.state().assert_same(&before);
        pod.state().assert_same(&inside);
    }
}

mod ours {
    use super::*;

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_namespace_that_cannot_be_reached() {
        for path in [
            "/run/netns/nope",
            "/run",
            "/etc/hostname",
            "/proc/999999/ns/net",
        ] {
            let fault = Fault {
                netns: Some(path),
                // 3: nothing has been touched, no DEL is needed.
                ..Fault::conf(&json!({}), 3, &[path])
            };
            fault.changes_nothing();
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_namespace_of_the_node_itself() {
        on_host(|host| {
            let before = host.state();
            let mut pod = host.container();
            pod.path = host.netns.path();
            host.add(&conf::smallest(), &pod).refused(8, "same");
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_is_there_already_is_the_fault_of_the_call() {
        on_host(|host| {
            let (pod, _) = host.pod(&conf::smallest());
            let words = "the attachment cbr0/pod1/eth0 exists already";
            host.add(&conf::smallest(), &pod).refused(4, words);
            let taken = host.container();
            taken.sh("ip link add eth0 type bridge");
            host.add(&conf::smallest(), &taken).refused(4, "eth0");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_range_that_is_exhausted() {
        on_host(|host| {
            let small = json!({ "ipam": { "subnet": "10.64.1.0/30" } });
            let conf = conf::with(&conf::smallest(), &small);
            let (_only, _) = host.pod(&conf);
            let pod = host.container();
            let (before, inside) = (host.state(), pod.state());
            let words = "no IP addresses available in range set: 10.64.1.1-10.64.1.2";
            host.add(&conf, &pod).refused(11, words);
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
        });
    }

    /// The first range of two was leased already: it has to be given back.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_second_range_that_is_exhausted() {
        on_host(|host| {
            let ranges = json!([[{ "subnet": "10.64.1.0/24" }], [{ "subnet": "fd00:64::/126" }]]);
            let ipam = json!({ "subnet": null, "ranges": ranges });
            let conf = conf::with(&conf::smallest(), &json!({ "ipam": ipam }));
            let pods = [host.pod(&conf), host.pod(&conf)];
            assert_eq!(pods[1].1["ips"][1]["address"], "fd00:64::3/126");
            let pod = host.container();
            let before = host.state();
            let words = "no IP addresses available in range set: fd00:64::1-fd00:64::3";
            host.add(&conf, &pod).refused(11, words);
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_store_that_cannot_be_written() {
        let read_only = |_: &Host| {
            fs::create_dir_all("/run/read-only").expect("a directory");
            harness::sh("mount -t tmpfs -o ro tmpfs /run/read-only");
        };
        let changes = json!({ "ipam": { "dataDir": "/run/read-only" } });
        Fault {
            arrange: read_only,
            ..Fault::conf(&changes, 5, &["/run/read-only", "read-only"])
        }
        .changes_nothing();
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_store_that_is_a_file() {
        Fault {
            arrange: |_| fs::write("/run/file", "").expect("a file"),
            ..Fault::conf(
                &json!({ "ipam": { "dataDir": "/run/file" } }),
                5,
                &["/run/file"],
            )
        }
        .changes_nothing();
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_bridge_name_that_is_no_bridge() {
        Fault {
            arrange: |_| drop(harness::sh("ip link add br9 type veth peer name br9-peer")),
            ..Fault::conf(&json!({ "bridge": "br9" }), 7, &["br9", "bridge"])
        }
        .changes_nothing();
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_bridge_that_has_another_address() {
        Fault {
            arrange: |_| {
                harness::sh("ip link add br9 type bridge; ip addr add 10.99.0.1/16 dev br9");
            },
            ..Fault::conf(
                &json!({ "bridge": "br9" }),
                7,
                &["br9", "10.99.0.1/16", "10.64.1.1/24"],
            )
        }
        .changes_nothing();
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_route_that_cannot_be_added() {
        // The gateway of the route is in no network of the pod.
        let routes = json!([{ "dst": "10.1.0.0/16", "gw": "172.31.0.1" }]);
        let fault = Fault::conf(
            &json!({ "ipam": { "routes": routes } }),
            5,
            &["10.1.0.0/16", "172.31.0.1"],
        );
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            fault.refused_on(host);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_mtu_that_the_kernel_refuses() {
        let fault = Fault::conf(&json!({ "mtu": 20 }), 7, &["mtu", "20"]);
        fault.changes_nothing();
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn configurations_that_contradict_themselves() {
        for (changes, code, words) in [
            (
                json!({ "hairpinMode": true, "promiscMode": true }),
                7,
                "promiscMode",
            ),
            (
                json!({ "disableContainerInterface": true }),
                7,
                "disableContainerInterface",
            ),
            (json!({ "vlan": 5000 }), 7, "5000"),
            (json!({ "mtu": "1500" }), 6, "mtu"),
            (
                json!({ "bridge": "a-name-that-is-too-long" }),
                7,
                "a-name-that-is-too-long",
            ),
            (
                json!({ "bridge": "" , "ipMasqBackend": "ebtables"}),
                7,
                "ebtables",
            ),
            (
                json!({ "ipam": { "subnet": "10.64.1.7/24" } }),
                7,
                "10.64.1.7/24",
            ),
            (
                json!({ "ipam": { "subnet": "10.64.1.0/31" } }),
                7,
                "10.64.1.0/31",
            ),
            (json!({ "ipam": { "subnet": "junk" } }), 7, "junk"),
            (
                json!({ "ipam": { "rangeStart": "10.64.2.1" } }),
                7,
                "10.64.2.1",
            ),
            (json!({ "ipam": { "subnet": null } }), 7, "range"),
        ] {
            Fault::conf(&changes, code, &[words]).changes_nothing();
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_hardware_address_that_no_link_can_have() {
        for mac in [
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "junk",
        ] {
            Fault::conf(&json!({ "runtimeConfig": { "mac": mac } }), 7, &[mac]).changes_nothing();
        }
    }

    /// A Linux bridge takes 1023 ports.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_1024th_port() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            // Both ends of 511 pairs are ports: 1022 and the neighbour's.
            let pair = |n| {
                format!(
                    "link add a{n} type veth peer name b{n}\n\
                     link set a{n} master cbr0\nlink set b{n} master cbr0\n"
                )
            };
            host.netns.ip(&(0..511).map(pair).collect::<String>());
            let pod = host.container();
            let (before, inside) = (host.state(), pod.state());
            let refusal = host.add(&conf::smallest(), &pod).refusal();
            let said = format!("{}; {}", refusal.msg, refusal.details);
            assert!(
                said.contains("cbr0") && said.contains("1023"),
                "{refusal:?}"
            );
            assert_eq!(refusal.code, 11, "{refusal:?}");
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
        });
    }

    /// A name for the node's end that somebody else has taken is not taken away.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_name_of_the_hosts_link_is_taken_by_a_stranger() {
        on_host(|host| {
            let (pod, result) = host.pod(&conf::smallest());
            let link = result["interfaces"][1]["name"]
                .as_str()
                .expect("a name")
                .to_owned();
            host.del(&conf::smallest(), &pod).done();
            let (_neighbour, _) = host.pod(&conf::smallest());
            harness::sh(&format!("ip link add {link} type bridge"));
            let (before, inside) = (host.state(), pod.state());

            let refusal = host.add(&conf::smallest(), &pod).refusal();

            assert!(refusal.msg.contains(&link), "{refusal:?}");
            assert_eq!(refusal.code, 4, "{refusal:?}");
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
        });
    }
}
