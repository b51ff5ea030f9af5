//! What the keys of a configuration do that no other test is about.

use harness::{Echo, Host, conf, on_host, packet};
use serde_json::{Value, json};

/// `10.64.1.0/24` with these changes.
fn network(changes: &Value) -> Value {
    conf::with(&conf::ipv4(), changes)
}

/// The line of the node's end of the pod's pair.
fn port(host: &Host, result: &Value) -> String {
    let name = result["interfaces"][1]["name"].as_str().expect("a name");
    host.state()
        .only(&[&format!("link {name} ")])
        .text()
        .to_owned()
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn hairpin_mode_and_promisc_mode() {
    for (changes, hairpin, promisc) in [
        (json!({ "hairpinMode": true }), true, false),
        (json!({ "hairpinMode": false }), false, false),
        (
            json!({ "hairpinMode": false, "promiscMode": true }),
            false,
            true,
        ),
        (
            json!({ "hairpinMode": null, "promiscMode": true }),
            false,
            true,
        ),
    ] {
        on_host(|host| {
            let (_pod, result) = host.pod(&network(&changes));
            let port = port(host, &result);
            assert!(
                port.contains(&format!(" hairpin {hairpin} ")),
                "{changes}: {port}"
            );
            let bridge = host.state().only(&["link cbr0 "]);
            assert_eq!(
                bridge.text().contains(" PROMISC"),
                promisc,
                "{changes}: {bridge:?}"
            );
        });
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn port_isolation_keeps_pods_apart() {
    on_host(|host| {
        let conf = network(&json!({ "portIsolation": true }));
        let (first, result) = host.pod(&conf);
        let (second, _) = host.pod(&conf);
        assert!(port(host, &result).contains(" isolated true"));
        let _echo = Echo::start(&host.netns, "[::]:7");
        packet::ask(&first.netns, "10.64.1.1:7").expect("the gateway");
        let _echo = Echo::start(&second.netns, "[::]:7");
        assert!(packet::is_silent(&first.netns, "10.64.1.3:7"));
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn force_address_replaces_another_address_of_the_bridge() {
    on_host(|host| {
        harness::sh("ip link add cbr0 type bridge; ip addr add 10.99.0.1/16 dev cbr0");
        let conf = network(&json!({ "forceAddress": true }));
        let (_pod, _) = host.pod(&conf);
        let addresses = host.state().only(&["address 10."]);
        assert_eq!(addresses.text(), "address 10.64.1.1/24 on cbr0");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn macspoofchk_drops_what_comes_from_another_hardware_address() {
    on_host(|host| {
        let conf = network(&json!({ "macspoofchk": true }));
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let (pod, result) = host.pod(&conf);
        let _echo = Echo::start(&host.netns, "[::]:7");
        packet::ask(&pod.netns, "10.64.1.1:7").expect("the gateway");
        pod.sh("ip link set eth0 address 02:00:00:00:00:99");
        assert!(packet::is_silent(&pod.netns, "10.64.1.1:7"));
        let mac = result["interfaces"][2]["mac"]
            .as_str()
            .expect("a hardware address");
        pod.sh(&format!("ip link set eth0 address {mac}"));
        packet::ask(&pod.netns, "10.64.1.1:7").expect("the gateway");
        host.del(&conf, &pod).done();
        host.state().assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn disable_container_interface_leaves_the_link_down() {
    on_host(|host| {
        let changes = json!({
            "disableContainerInterface": true, "ipam": null,
            "isGateway": null, "isDefaultGateway": null,
        });
        let (pod, _) = host.pod(&network(&changes));
        let link = pod.state().only(&["link eth0 "]);
        assert!(!link.text().contains(" UP"), "{link:?}");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn dns_of_the_configuration_wins_over_that_of_the_ipam() {
    on_host(|host| {
        let resolv = "search cluster.local\nnameserver 10.0.0.10 # the first\n; no\n\
                      options ndots:5 timeout:1\ndomain example.org\n";
        std::fs::write("/run/resolv.conf", resolv).expect("a file");
        let ipam = json!({ "ipam": { "resolvConf": "/run/resolv.conf" } });
        let (_pod, result) = host.pod(&network(&ipam));
        let expected = json!({
            "nameservers": ["10.0.0.10"], "domain": "example.org",
            "search": ["cluster.local"], "options": ["ndots:5", "timeout:1"],
        });
        harness::assert_json(&result["dns"], &expected);

        let own = json!({ "nameservers": ["192.0.2.53"] });
        let conf = conf::with(&network(&ipam), &json!({ "dns": own }));
        let (_pod, result) = host.pod(&conf);
        harness::assert_json(&result["dns"], &own);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn range_start_range_end_and_gateway() {
    on_host(|host| {
        let range = json!([[{
            "subnet": "10.64.1.0/24", "rangeStart": "10.64.1.20",
            "rangeEnd": "10.64.1.22", "gateway": "10.64.1.21",
        }]]);
        let conf = network(&json!({ "ipam": { "ranges": range } }));
        let pods = [host.pod(&conf), host.pod(&conf)];
        let address = |index: usize| pods[index].1["ips"][0]["address"].clone();
        assert_eq!([address(0), address(1)], ["10.64.1.20/24", "10.64.1.22/24"]);
        assert_eq!(pods[0].1["ips"][0]["gateway"], "10.64.1.21");
        let refusal = host.add(&conf, &host.container()).refusal();
        let words = "no IP addresses available in range set: 10.64.1.20-10.64.1.22";
        assert!(format!("{refusal:?}").contains(words), "{refusal:?}");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn ranges_of_one_set_are_used_one_after_the_other() {
    on_host(|host| {
        let set = json!([[
            { "subnet": "10.64.1.0/24", "rangeStart": "10.64.1.20", "rangeEnd": "10.64.1.20" },
            { "subnet": "10.64.1.0/24", "rangeStart": "10.64.1.30", "rangeEnd": "10.64.1.30" },
        ]]);
        let conf = network(&json!({ "ipam": { "ranges": set } }));
        let pods = [host.pod(&conf), host.pod(&conf)];
        let addresses = pods
            .iter()
            .map(|(_, result)| result["ips"][0]["address"].clone());
        assert_eq!(
            addresses.collect::<Vec<_>>(),
            ["10.64.1.20/24", "10.64.1.30/24"]
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn routes_with_a_priority_a_table_and_a_scope() {
    on_host(|host| {
        let routes = json!([
            { "dst": "10.1.0.0/16", "priority": 7 },
            { "dst": "10.2.0.0/16", "table": 100 },
            { "dst": "10.3.0.0/16", "gw": "10.64.1.9" },
        ]);
        let (pod, result) = host.pod(&network(&json!({ "ipam": { "routes": routes } })));
        assert_eq!(result["routes"][0]["priority"], 7, "{result:#}");
        let kernel = pod.sh("ip -4 route show table all");
        for words in [
            "10.1.0.0/16 via 10.64.1.1 dev eth0 metric 7",
            "10.2.0.0/16 via 10.64.1.1 dev eth0 table 100",
            "10.3.0.0/16 via 10.64.1.9 dev eth0",
        ] {
            assert!(kernel.contains(words), "{words} is not in\n{kernel}");
        }
    });
}

mod ours {
    use harness::World;

    use super::*;

    fn smallest(changes: &Value) -> Value {
        conf::with(&conf::smallest(), changes)
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn routes_with_an_mtu_and_a_segment_size() {
        on_host(|host| {
            let routes = json!([{ "dst": "10.1.0.0/16", "mtu": 1300, "advmss": 1200 }]);
            let (pod, result) = host.pod(&smallest(&json!({ "ipam": { "routes": routes } })));
            assert_eq!(result["routes"][0]["mtu"], 1300, "{result:#}");
            let kernel = pod.sh("ip -4 route show 10.1.0.0/16");
            assert!(
                kernel.contains("mtu 1300") && kernel.contains("advmss 1200"),
                "{kernel}"
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn excluded_addresses_are_never_given() {
        on_host(|host| {
            let exclude = json!(["10.64.1.2", "10.64.1.4/31"]);
            let conf =
                smallest(&json!({ "ipam": { "subnet": "10.64.1.0/29", "exclude": exclude } }));
            let pods = [host.pod(&conf), host.pod(&conf)];
            let addresses = pods
                .iter()
                .map(|(_, result)| result["ips"][0]["address"].clone());
            assert_eq!(
                addresses.collect::<Vec<_>>(),
                ["10.64.1.3/29", "10.64.1.6/29"]
            );
            let refusal = host.add(&conf, &host.container()).refusal();
            assert!(
                format!("{refusal:?}").contains("no IP addresses available"),
                "{refusal:?}"
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn masquerade_cidrs_are_exceptions_from_the_others() {
        on_host(|host| {
            let world = World::around(host);
            let (pod, _) = host.pod(&smallest(&json!({ "masqueradeCIDRs": ["10.250.0.0/16"] })));
            for (netns, target, source) in [
                (&world.lan, "10.250.0.10:7", "10.200.0.2"),
                (&world.other_node, "10.64.2.7:7", "10.64.1.2"),
                (&world.outside, "203.0.113.10:7", "10.200.0.2"),
            ] {
                let _echo = Echo::start(netns, target);
                let seen = packet::ask(&pod.netns, target).expect(target);
                assert_eq!(seen.to_string(), source, "{target}");
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn ip_masq_switched_off_makes_no_rules() {
        on_host(|host| {
            let (_pod, _) = host.pod(&smallest(&json!({ "ipMasq": false })));
            assert_eq!(host.state().only(&["nft"]).text(), "");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_iptables_back_end_is_accepted_with_a_note() {
        on_host(|host| {
            let pod = host.container();
            let answer = host.add(&smallest(&json!({ "ipMasqBackend": "iptables" })), &pod);
            assert!(answer.stderr.contains("nftables"), "{answer:?}");
            answer.result();
            assert!(host.state().text().contains("masquerade"));
        });
    }

    /// The rules of macspoofchk belong to one pod: they go with it, whatever became of it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn macspoofchk_leaves_nothing_of_a_pod_that_died() {
        on_host(|host| {
            let conf = smallest(&json!({ "macspoofchk": true }));
            let (_neighbour, _) = host.pod(&conf);
            let before = host.state().only(&["nft"]);
            let (mut pod, _) = host.pod(&conf);
            pod.die();
            pod.path = "".into();
            host.del(&smallest(&json!({})), &pod).done();
            host.state().only(&["nft"]).assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn enabledad_lets_the_kernel_look_for_duplicates() {
        on_host(|host| {
            let subnet = json!({ "ipam": { "subnet": "fd00:64:1::/64" }, "enabledad": true });
            let (pod, _) = host.pod(&smallest(&subnet));
            let addresses = pod.state().only(&["address fd00"]);
            assert_eq!(addresses.text(), "address fd00:64:1::2/64 on eth0");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_node_itself_can_be_a_container_if_it_is_said_explicitly() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            let before = host.state();
            let conf = smallest(&json!({ "isDefaultGateway": false, "ipMasq": false }));
            let mut pod = host.container();
            pod.path = host.netns.path();
            pod.interface = "pod0".to_owned();
            let request = |verb| {
                let request = host.request_for(verb, &conf, &pod);
                request.env("CNI_NETNS_OVERRIDE", "TRUE")
            };
            request("ADD").run().result();
            assert!(host.state().text().contains("link pod0 veth"));
            request("DEL").run().done();
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_store_elsewhere() {
        on_host(|host| {
            let conf = smallest(&json!({ "ipam": { "dataDir": "/run/cni-ipam/deep/er" } }));
            let (pod, _) = host.pod(&conf);
            let leases = host.state().only(&["lease /run/cni-ipam/deep/er/cbr0/"]);
            assert_eq!(leases.text().lines().count(), 1, "{leases:?}");
            host.del(&conf, &pod).done();
            assert_eq!(host.state().only(&["lease"]).text(), "");
        });
    }
}
