//! ADD that succeeds: what it answers, what it makes, and that DEL takes it away again.

use harness::{Echo, Host, assert_json, conf, on_host, packet, shape};
use serde_json::{Value, json};

/// ADD answers as expected, the pod reaches its gateways, and DEL leaves the node as it
/// was, another pod included.
fn comes_and_goes(host: &Host, conf: &Value, expected: &Value, gateways: &[&str]) {
    let _neighbour = host.pod(conf);
    let before = host.state();

    let (pod, result) = host.pod(conf);
    assert_json(&shape(&result), expected);
    let address = |index: usize| {
        let address = result["ips"][index]["address"]
            .as_str()
            .expect("an address");
        address.split('/').next().unwrap_or_default().to_owned()
    };
    let _echo = Echo::start(&host.netns, "[::]:7");
    for (index, gateway) in gateways.iter().enumerate() {
        let seen = packet::ask(&pod.netns, gateway).expect(gateway);
        assert_eq!(seen.to_string(), address(index));
    }

    host.del(conf, &pod).done();
    host.state().assert_same(&before);
    assert_eq!(
        pod.state()
            .only(&["link eth0", "address 10.", "route"])
            .text(),
        ""
    );
}

/// The interfaces of every result, in the order that chained plugins rely on.
fn interfaces() -> Value {
    json!([
        { "name": "cbr0" },
        { "name": "veth*" },
        { "name": "eth0", "sandbox": "<netns>" },
    ])
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_ipv4_pod_comes_and_goes() {
    on_host(|host| {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": interfaces(),
            "ips": [{ "interface": 2, "address": "10.64.1.3/24", "gateway": "10.64.1.1" }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.64.1.1" }],
        });
        comes_and_goes(host, &conf::ipv4(), &expected, &["10.64.1.1:7"]);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_ipv6_pod_comes_and_goes() {
    on_host(|host| {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": interfaces(),
            "ips": [{ "interface": 2, "address": "fd00:64:1::3/64", "gateway": "fd00:64:1::1" }],
            "routes": [{ "dst": "::/0", "gw": "fd00:64:1::1" }],
        });
        comes_and_goes(host, &conf::ipv6(), &expected, &["[fd00:64:1::1]:7"]);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_dual_stack_pod_comes_and_goes() {
    on_host(|host| {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": interfaces(),
            "ips": [
                { "interface": 2, "address": "10.64.1.3/24", "gateway": "10.64.1.1" },
                { "interface": 2, "address": "fd00:64:1::3/64", "gateway": "fd00:64:1::1" },
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.64.1.1" },
                { "dst": "::/0", "gw": "fd00:64:1::1" },
            ],
        });
        let gateways = ["10.64.1.1:7", "[fd00:64:1::1]:7"];
        comes_and_goes(host, &conf::dual_stack(), &expected, &gateways);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_second_attachment_of_the_same_container_gets_its_own_address() {
    on_host(|host| {
        let conf = conf::with(&conf::ipv4(), &json!({ "isDefaultGateway": false }));
        let (mut pod, first) = host.pod(&conf);
        let before = host.state();
        pod.interface = "eth1".to_owned();

        let second = host.add(&conf, &pod).result();
        assert_eq!(first["ips"][0]["address"], "10.64.1.2/24");
        assert_eq!(second["ips"][0]["address"], "10.64.1.3/24");

        host.del(&conf, &pod).done();
        host.state().assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn two_networks_on_one_node_do_not_touch_each_other() {
    on_host(|host| {
        let other = json!({
            "name": "other",
            "bridge": "other0",
            "ipam": { "ranges": [[{ "subnet": "10.65.0.0/24" }]] },
        });
        let other = conf::with(&conf::ipv4(), &other);
        let (_first, _) = host.pod(&conf::ipv4());
        let (_warm, _) = host.pod(&other);
        let before = host.state();

        let (pod, result) = host.pod(&other);
        assert_eq!(result["ips"][0]["address"], "10.65.0.3/24");
        host.del(&other, &pod).done();
        host.state().assert_same(&before);
    });
}

/// Configurations as they are in use, but for the names of the plugins.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn configurations_of_kubenet_containerd_crio_and_flannel() {
    let default4 = json!({ "dst": "0.0.0.0/0" });
    for conf in [
        json!({
            "cniVersion": "0.3.1", "name": "kubenet", "type": "cni-bridge", "bridge": "cbr0",
            "mtu": 1500, "addIf": "eth0", "isGateway": true, "ipMasq": false,
            "promiscMode": true, "hairpinMode": false,
            "ipam": { "type": "cni-ipam", "ranges": [[{ "subnet": "10.64.1.0/24" }]],
                      "routes": [default4] },
        }),
        json!({
            "cniVersion": "1.0.0", "name": "containerd-net", "type": "cni-bridge",
            "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
            "ipam": { "type": "cni-ipam",
                      "ranges": [[{ "subnet": "10.64.1.0/24" }], [{ "subnet": "fd00:64:1::/64" }]],
                      "routes": [default4, { "dst": "::/0" }] },
        }),
        json!({
            "cniVersion": "1.0.0", "name": "crio", "type": "cni-bridge",
            "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": { "type": "cni-ipam", "routes": [default4, { "dst": "1100:200::1/24" }],
                      "ranges": [[{ "subnet": "10.64.1.0/24" }], [{ "subnet": "1100:200::/24" }]] },
        }),
        json!({
            "cniVersion": "0.3.1", "name": "cbr0", "type": "cni-bridge", "mtu": 1450,
            "isGateway": true, "ipMasq": false, "hairpinMode": true, "isDefaultGateway": true,
            "ipam": { "type": "cni-ipam", "ranges": [[{ "subnet": "10.64.1.0/24" }]],
                      "routes": [{ "dst": "10.64.0.0/16" }] },
        }),
    ] {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf);
            let before = host.state();
            let (pod, _) = host.pod(&conf);
            let _echo = Echo::start(&host.netns, "[::]:7");
            let seen = packet::ask(&pod.netns, "10.64.1.1:7").expect("the gateway");
            assert_eq!(seen.to_string(), "10.64.1.3");
            host.del(&conf, &pod).done();
            host.state().assert_same(&before);
        });
    }
}

mod ours {
    use harness::{State, masked};

    use super::*;

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_result_tells_all_hardware_addresses_and_mtus() {
        on_host(|host| {
            let (_pod, result) = host.pod(&conf::smallest());
            let mut expected = json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    { "name": "cbr0", "mac": "0a:58:0a:40:01:01", "mtu": 1500 },
                    { "name": "veth*", "mtu": 1500 },
                    { "name": "eth0", "mac": "0a:58:0a:40:01:02", "mtu": 1500, "sandbox": "<netns>" },
                ],
                "ips": [{ "interface": 2, "address": "10.64.1.2/24", "gateway": "10.64.1.1" }],
                "routes": [{ "dst": "0.0.0.0/0", "gw": "10.64.1.1" }],
            });
            expected["interfaces"][1]["mac"] = result["interfaces"][1]["mac"].clone();
            assert_json(&masked(&result), &expected);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_mtu_is_that_of_the_uplink() {
        on_host(|host| {
            let _world = harness::World::with_mtu(host, 1460);
            let (pod, result) = host.pod(&conf::smallest());
            for index in 0..3 {
                assert_eq!(result["interfaces"][index]["mtu"], 1460, "{result:#}");
            }
            let mtus = |links: String| links.matches(" mtu 1460 ").count();
            assert_eq!(
                mtus(harness::sh(
                    "ip -o link show type bridge; ip -o link show type veth"
                )),
                3
            );
            assert_eq!(mtus(pod.sh("ip -o link show eth0")), 1);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_mtu_in_the_configuration_wins() {
        on_host(|host| {
            let _world = harness::World::around(host);
            let conf = conf::with(&conf::smallest(), &json!({ "mtu": 1400 }));
            let (pod, result) = host.pod(&conf);
            assert_eq!(result["interfaces"][2]["mtu"], 1400);
            assert!(pod.sh("ip -o link show eth0").contains(" mtu 1400 "));
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_default_route_that_is_asked_for_twice_is_made_once() {
        on_host(|host| {
            let routes = json!([{ "dst": "0.0.0.0/0" }, { "dst": "10.1.0.0/16" }]);
            let conf = conf::with(&conf::smallest(), &json!({ "ipam": { "routes": routes } }));
            let (pod, result) = host.pod(&conf);
            assert_eq!(
                result["routes"].as_array().map(Vec::len),
                Some(2),
                "{result:#}"
            );
            let routes = pod.sh("ip -4 route show proto boot; ip -4 route show proto static");
            assert_eq!(
                routes.matches("default via 10.64.1.1").count(),
                1,
                "{routes}"
            );
            assert_eq!(
                routes.matches("10.1.0.0/16 via 10.64.1.1").count(),
                1,
                "{routes}"
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_link_of_a_pod_says_whose_it_is() {
        on_host(|host| {
            let pod = host.container();
            let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
            let request = host.request_for("ADD", &conf::smallest(), &pod);
            let result = request.env("CNI_ARGS", args).run().result();
            let link = result["interfaces"][1]["name"].as_str().expect("a name");
            let alias = harness::sh(&format!("cat /sys/class/net/{link}/ifalias"));
            assert_eq!(alias.trim(), "cni cbr0 pod1 eth0 10.64.1.2 default/web-0");
        });
    }

    /// A release build makes some thirty fewer: no checks of file descriptors on closing.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_add_is_one_process_and_few_system_calls() {
        on_host(|host| {
            let conf = conf::with(&conf::smallest(), &json!({ "ipMasq": true }));
            let (_neighbour, _) = host.pod(&conf);
            let pod = host.container();
            let calls = host.request_for("ADD", &conf, &pod).system_calls();
            assert!((50..=150).contains(&calls), "{calls} system calls");
            assert!(host.state().text().contains(" pod2 eth0"));
            host.del(&conf, &pod).done();
        });
    }

    /// Nobody's table of neighbours is wrong when an address is used again.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_address_that_is_used_again_has_the_same_hardware_address() {
        on_host(|host| {
            let small = json!({ "ipam": { "subnet": "10.64.1.0/30" } });
            let conf = conf::with(&conf::smallest(), &small);
            let macs = [0, 1].map(|_| {
                let (pod, result) = host.pod(&conf);
                let _echo = Echo::start(&pod.netns, "10.64.1.2:7");
                packet::ask(&host.netns, "10.64.1.2:7").expect("the pod");
                host.del(&conf, &pod).done();
                result["interfaces"][2]["mac"].clone()
            });
            assert_eq!(macs[0], macs[1]);
        });
    }

    /// Everything that the first pod of a node brings with it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_first_pod_makes_this_and_nothing_else() {
        on_host(|host| {
            let conf = conf::with(&conf::dual_stack(), &json!({ "ipMasq": true }));
            let (pod, _) = host.pod(&conf);
            host.state()
                .without(&[
                    "link lo",
                    "sysctl lo",
                    "address 127",
                    "address ::1/",
                    "rule",
                ])
                .without_tags()
                .assert_same(&State::from_text(NODE));
            pod.state()
                .without(&[
                    "link lo",
                    "sysctl lo",
                    "address 127",
                    "address ::1/",
                    "rule",
                ])
                .assert_same(&State::from_text(POD));
        });
    }

    const NODE: &str = r#"
        address 10.64.1.1/24 on cbr0
        address fd00:64:1::1/64 on cbr0 nodad
        lease /run/cni-ipam/cbr0/10.64.1.leases: A 10.64.1.2 pod1 eth0 b -
        lease /run/cni-ipam/cbr0/fd00:64:1::.leases: A fd00:64:1::2 pod1 eth0 b -
        link cbr0 bridge 0a:58:0a:40:01:01 mtu 1500 UP vlan_filtering 0 nf_call_iptables 1 nf_call_ip6tables 1
        link veth96fa607f3d1 veth 0a:59:c1:bc:89:81 mtu 1500 UP master "cbr0" hairpin true isolated false alias "cni cbr0 pod1 eth0 10.64.1.2,fd00:64:1::2"
        route dev cbr0, dst 10.64.1.0/24, prefsrc 10.64.1.1, protocol kernel, scope link
        route dev cbr0, dst fd00:64:1::/64, metric 256, protocol kernel
        sysctl cbr0: rp_filter 0 route_localnet 0 accept_ra 0 autoconf 1 disable_ipv6 0
        sysctl net/ipv4/ip_forward = 1
        sysctl net/ipv6/conf/all/forwarding = 1
        sysctl net/ipv6/conf/default/accept_ra = 1
        sysctl veth96fa607f3d1: rp_filter 0 route_localnet 0 accept_ra 0 autoconf 1 disable_ipv6 0
        nft table inet cni-bridge {
        nft chain postrouting {
        nft type nat hook postrouting priority srcnat; policy accept;
        nft ip saddr { 10.64.1.0/24 } ip daddr != { 10.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4 } fib daddr type != local masquerade fully-random comment "pods of cbr0 #*"
        nft ip6 saddr { fd00:64:1::/64 } ip6 daddr != { fc00::/7, fe80::/10, ff00::/8 } fib daddr type != local masquerade fully-random comment "pods of cbr0 #*"
        nft }
        nft chain forward {
        nft type filter hook forward priority filter; policy accept;
        nft ct state invalid ip saddr { 10.64.1.0/24 } ip daddr != { 10.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4 } drop comment "pods of cbr0 #*"
        nft ct state invalid ip6 saddr { fd00:64:1::/64 } ip6 daddr != { fc00::/7, fe80::/10, ff00::/8 } drop comment "pods of cbr0 #*"
        nft }
        nft }
    "#;

    const POD: &str = "
        address 10.64.1.2/24 on eth0
        address fd00:64:1::2/64 on eth0 nodad
        link eth0 veth 0a:58:0a:40:01:02 mtu 1500 UP
        route dev eth0, dst 10.64.1.0/24, prefsrc 10.64.1.2, protocol kernel, scope link
        route dev eth0, dst default, gateway 10.64.1.1
        route dev eth0, dst default, gateway fd00:64:1::1, metric 1024
        route dev eth0, dst fd00:64:1::/64, metric 256, protocol kernel
        sysctl eth0: rp_filter 0 route_localnet 0 accept_ra 0 autoconf 0 disable_ipv6 0
    ";
}
