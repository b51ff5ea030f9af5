//! CHECK: content with what ADD made, and with what others add to it; not content when
//! something is missing.

use harness::{Container, Host, Refusal, conf, on_host};
use serde_json::{Value, json};

/// A pod whose CHECK is content, and which is then made wrong.
fn finds(host: &Host, conf: &Value, fault: Fault) -> Refusal {
    let (pod, mut result) = host.pod(conf);
    host.check(conf, &pod, &result).done();
    fault(host, &pod, &mut result);
    let refusal = host.check(conf, &pod, &result).refusal();
    host.keep(pod);
    refusal
}

type Fault = fn(&Host, &Container, &mut Value);

/// The same for one fault, with words that stand in msg or details.
fn finds_words(words: &[&str], fault: Fault) {
    on_host(|host| {
        let refusal = finds(host, &conf::ipv4(), fault);
        let said = format!("{}; {}", refusal.msg, refusal.details);
        assert!(
            words.iter().any(|words| said.contains(words)),
            "{words:?} is not in {refusal:?}"
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn content_right_after_every_add_and_changes_nothing() {
    on_host(|host| {
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let conf = conf::with(&conf::dual_stack(), &json!({ "cniVersion": version }));
            let (pod, result) = host.pod(&conf);
            let (before, inside) = (host.state(), pod.state());
            host.check(&conf, &pod, &result).done();
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
            host.del(&conf, &pod).done();
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn needs_the_result_of_the_add() {
    on_host(|host| {
        let (pod, _) = host.pod(&conf::ipv4());
        let refusal = host
            .request_for("CHECK", &conf::ipv4(), &pod)
            .run()
            .refusal();
        assert!(refusal.msg.contains("prevResult"), "{refusal:?}");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn of_ipam_finds_a_missing_lease() {
    on_host(|host| {
        let conf = conf::ipv4();
        let (pod, result) = host.pod(&conf);
        let with_result = conf::with(&conf, &json!({ "prevResult": result }));
        let check = host
            .request_for("CHECK", &with_result, &pod)
            .plugin("cni-ipam");
        check.run().done();
        host.request_for("DEL", &conf, &pod)
            .plugin("cni-ipam")
            .run()
            .done();
        assert!(check.run().refusal().msg.contains("pod1"));
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn finds_that_the_interface_is_gone() {
    finds_words(&["eth0"], |_, pod, _| drop(pod.sh("ip link delete eth0")));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn finds_another_hardware_address() {
    finds_words(&["02:00:00:00:00:99"], |_, pod, _| {
        pod.sh("ip link set eth0 address 02:00:00:00:00:99");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn finds_that_an_address_is_gone() {
    finds_words(&["10.64.1.2"], |_, pod, _| {
        pod.sh("ip addr add 10.64.1.77/24 dev eth0; ip addr del 10.64.1.2/24 dev eth0");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn finds_that_a_route_is_gone() {
    let words = ["0.0.0.0", "default"];
    finds_words(&words, |_, pod, _| drop(pod.sh("ip route delete default")));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn finds_that_the_link_left_the_bridge() {
    finds_words(&["veth"], |_, _, result| {
        let link = result["interfaces"][1]["name"].as_str().expect("a name");
        harness::sh(&format!("ip link set {link} nomaster"));
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn finds_that_the_bridge_is_gone() {
    finds_words(&["cbr0"], |_, _, _| {
        drop(harness::sh("ip link delete cbr0"));
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn tolerates_what_others_add() {
    on_host(|host| {
        let (pod, mut result) = host.pod(&conf::ipv4());
        pod.sh("ip addr add 192.0.2.1/32 dev eth0; ip route add 198.51.100.0/24 dev eth0");
        harness::sh("ip addr add 192.0.2.9/32 dev lo");
        host.check(&conf::ipv4(), &pod, &result).done();
        // The tuning plugin changes the address, and says so in the result.
        pod.sh("ip link set eth0 address 02:00:00:00:00:99");
        pod.sh("ip route replace default via 10.64.1.1");
        result["interfaces"][2]["mac"] = "02:00:00:00:00:99".into();
        host.check(&conf::ipv4(), &pod, &result).done();
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn is_content_with_a_network_without_addresses() {
    on_host(|host| {
        let conf = conf::with(
            &conf::ipv4(),
            &json!({ "ipam": null, "isGateway": null, "isDefaultGateway": null }),
        );
        let (pod, result) = host.pod(&conf);
        host.check(&conf, &pod, &result).done();
    });
}

mod ours {
    use super::*;

    fn link(result: &Value) -> String {
        result["interfaces"][1]["name"]
            .as_str()
            .expect("a name")
            .to_owned()
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn finds_everything_else_that_an_add_makes() {
        let faults: [(&str, Fault); 12] = [
            ("down", |_, _, result| {
                drop(harness::sh(&format!("ip link set {} down", link(result))));
            }),
            ("cbr0", |_, _, _| drop(harness::sh("ip link set cbr0 down"))),
            ("10.64.1.1", |_, _, _| {
                drop(harness::sh("ip addr del 10.64.1.1/24 dev cbr0"));
            }),
            ("masquerade", |_, _, _| {
                drop(harness::sh("nft flush ruleset"));
            }),
            ("ip_forward", |_, _, _| {
                drop(harness::sh("echo 0 >/proc/sys/net/ipv4/ip_forward"));
            }),
            ("hairpin", |_, _, result| {
                harness::sh(&format!("bridge link set dev {} hairpin off", link(result)));
            }),
            ("isolat", |_, _, result| {
                harness::sh(&format!("bridge link set dev {} isolated on", link(result)));
            }),
            ("eth0", |_, pod, _| drop(pod.sh("ip link set eth0 down"))),
            ("iptables", |_, _, _| {
                harness::sh("ip link set cbr0 type bridge nf_call_iptables 0");
            }),
            ("10.64.1.2", |host, pod, _| {
                let request = host.request_for("DEL", &conf::smallest(), pod);
                request.plugin("cni-ipam").run().done();
            }),
            // The lease is there, but the result speaks of another address.
            ("10.64.1.99", |_, pod, result| {
                pod.sh("ip addr add 10.64.1.99/24 dev eth0");
                result["ips"][0]["address"] = "10.64.1.99/24".into();
            }),
            ("veth", |_, pod, _| {
                pod.sh("ip link delete eth0; ip link add eth0 type bridge; ip link set eth0 up");
            }),
        ];
        for (words, fault) in faults {
            on_host(|host| {
                let refusal = finds(host, &conf::smallest(), fault);
                let said = format!("{}; {}", refusal.msg, refusal.details);
                assert!(said.contains(words), "{words} is not in {refusal:?}");
            });
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn says_all_that_is_wrong_at_once() {
        on_host(|host| {
            let refusal = finds(host, &conf::smallest(), |_, pod, _| {
                harness::sh("ip addr del 10.64.1.1/24 dev cbr0; nft flush ruleset");
                pod.sh("ip route delete default");
            });
            let said = format!("{}; {}", refusal.msg, refusal.details);
            for words in ["10.64.1.1", "masquerade", "route"] {
                assert!(said.contains(words), "{words} is not in {refusal:?}");
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_code_of_a_missing_previous_result_is_7() {
        on_host(|host| {
            let (pod, _) = host.pod(&conf::smallest());
            host.request_for("CHECK", &conf::smallest(), &pod)
                .run()
                .refused(7, "prevResult");
        });
    }

    /// Without isGateway the kernel's choice of the bridge's address would follow its
    /// ports.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn is_content_after_other_pods_came_and_went() {
        on_host(|host| {
            let off = json!({ "isGateway": false, "isDefaultGateway": false });
            let conf = conf::with(&conf::smallest(), &off);
            let (pod, result) = host.pod(&conf);
            let others: Vec<_> = (0..4).map(|_| host.pod(&conf)).collect();
            host.check(&conf, &pod, &result).done();
            for (other, _) in &others {
                host.del(&conf, other).done();
            }
            host.check(&conf, &pod, &result).done();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn is_content_with_another_path_to_the_same_namespace() {
        on_host(|host| {
            let mut pod = host.container();
            pod.mount();
            let result = host.add(&conf::smallest(), &pod).result();
            harness::sh("ln -s /run /run/alias");
            pod.path = "/run/alias/netns/pod1".into();
            host.check(&conf::smallest(), &pod, &result).done();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn is_content_while_somebody_listens_on_the_bridge() {
        on_host(|host| {
            let (pod, result) = host.pod(&conf::smallest());
            harness::sh("ip link set cbr0 promisc on");
            pod.sh("ip link set eth0 promisc on");
            host.check(&conf::smallest(), &pod, &result).done();
        });
    }
}
