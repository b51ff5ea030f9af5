//! What arrives where, and with which source address.

use std::net::Ipv4Addr;

use harness::{Container, Echo, Host, Netns, World, conf, on_host, packet};
use serde_json::{Value, json};

/// The source address that a server at `target` in `netns` sees of a pod's packets, by
/// UDP and TCP.
fn seen(pod: &Container, netns: &Netns, target: &str) -> String {
    let _echo = Echo::start(netns, target);
    let udp = packet::ask(&pod.netns, target);
    let udp = udp.unwrap_or_else(|error| panic!("no answer from {target} by UDP: {error}"));
    let tcp = packet::connect(&pod.netns, target);
    let tcp = tcp.unwrap_or_else(|error| panic!("no answer from {target} by TCP: {error}"));
    assert_eq!(udp, tcp, "{target}");
    udp.to_string()
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn two_pods_and_their_node_see_each_other_as_they_are() {
    on_host(|host| {
        let (first, _) = host.pod(&conf::dual_stack());
        let (second, _) = host.pod(&conf::dual_stack());
        assert_eq!(seen(&first, &second.netns, "10.64.1.3:80"), "10.64.1.2");
        assert_eq!(
            seen(&first, &second.netns, "[fd00:64:1::3]:80"),
            "fd00:64:1::2"
        );
        assert_eq!(seen(&first, &host.netns, "10.64.1.1:80"), "10.64.1.2");
        assert_eq!(from_host(host, &first, "10.64.1.2:80"), "10.64.1.1");
    });
}

/// The source address that a pod sees of the node's own packets.
fn from_host(host: &Host, pod: &Container, target: &str) -> String {
    let _echo = Echo::start(&pod.netns, target);
    packet::ask(&host.netns, target).expect(target).to_string()
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn with_ip_masq_the_outside_sees_the_node() {
    on_host(|host| {
        let world = World::around(host);
        let conf = conf::with(&conf::ipv4(), &json!({ "ipMasq": true }));
        let (pod, _) = host.pod(&conf);
        assert_eq!(seen(&pod, &world.outside, "203.0.113.10:80"), "10.200.0.2");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn without_ip_masq_the_outside_sees_the_pod() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&conf::ipv4());
        assert_eq!(seen(&pod, &world.outside, "203.0.113.10:80"), "10.64.1.2");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_client_from_outside_keeps_its_address() {
    on_host(|host| {
        let world = World::around(host);
        let conf = conf::with(&conf::ipv4(), &json!({ "ipMasq": true }));
        let (pod, _) = host.pod(&conf);
        let _echo = Echo::start(&pod.netns, "10.64.1.2:80");
        for (client, address) in [
            (&world.outside, "203.0.113.10"),
            (&world.lan, "10.250.0.10"),
        ] {
            let seen = packet::connect(client, "10.64.1.2:80").expect(address);
            assert_eq!(seen.to_string(), address);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_member_of_a_multicast_group_sees_the_pod() {
    on_host(|host| {
        let conf = conf::with(&conf::ipv4(), &json!({ "ipMasq": true }));
        multicast_keeps_the_source(host, &conf);
    });
}

fn multicast_keeps_the_source(host: &Host, conf: &Value) {
    let (sender, _) = host.pod(conf);
    let (receiver, _) = host.pod(conf);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let member = packet::Member::join(&receiver.netns, group, Ipv4Addr::new(10, 64, 1, 3), 5353);
    packet::send(&sender.netns, "239.1.2.3:5353").expect("a multicast route");
    let seen = member.sender().expect("the datagram");
    assert_eq!(seen.to_string(), "10.64.1.2");
}

mod ours {
    use std::time::{Duration, Instant};

    use super::*;

    /// The smallest configuration with another pod CIDR.
    fn of(subnet: &str) -> Value {
        conf::with(&conf::smallest(), &json!({ "ipam": { "subnet": subnet } }))
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn only_what_leaves_10_is_masqueraded() {
        on_host(|host| {
            let world = World::around(host);
            let (pod, _) = host.pod(&of("10.64.1.0/24"));
            let (other, _) = host.pod(&of("10.64.1.0/24"));
            for (netns, target, source) in [
                (&world.lan, "10.250.0.10:80", "10.64.1.2"),
                (&world.other_node, "10.64.2.7:80", "10.64.1.2"),
                (&world.outside, "203.0.113.10:80", "10.200.0.2"),
                (&host.netns, "10.200.0.2:80", "10.64.1.2"),
                (&host.netns, "10.64.1.1:80", "10.64.1.2"),
                (&other.netns, "10.64.1.3:80", "10.64.1.2"),
            ] {
                assert_eq!(seen(&pod, netns, target), source, "{target}");
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn nothing_with_the_address_of_a_pod_arrives_outside() {
        on_host(|host| {
            let world = World::around(host);
            let (pod, _) = host.pod(&conf::smallest());
            let wire = packet::Capture::start(&world.outside);
            assert_eq!(seen(&pod, &world.outside, "203.0.113.10:80"), "10.200.0.2");
            let frames = wire.frames();
            // 14 bytes of Ethernet, then the source is at 12 of the IPv4 header.
            let from = |address: [u8; 4]| {
                let source = |frame: &&Vec<u8>| frame.get(26..30) == Some(&address[..]);
                frames.iter().filter(source).count()
            };
            assert!(from([10, 200, 0, 2]) >= 5, "{} frames", frames.len());
            assert_eq!(from([10, 64, 1, 2]), 0);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_pod_cidr_outside_10_is_not_masqueraded_to_itself() {
        on_host(|host| {
            let world = World::around(host);
            harness::sh("ip addr add 192.0.2.77/32 dev lo");
            let (pod, _) = host.pod(&of("192.168.1.0/24"));
            let (other, _) = host.pod(&of("192.168.1.0/24"));
            for (netns, target, source) in [
                (&other.netns, "192.168.1.3:80", "192.168.1.2"),
                (&world.lan, "10.250.0.10:80", "192.168.1.2"),
                // The node's own addresses, whatever they are.
                (&host.netns, "10.200.0.2:80", "192.168.1.2"),
                (&host.netns, "192.0.2.77:80", "192.168.1.2"),
                (&world.outside, "203.0.113.10:80", "10.200.0.2"),
                // Another node's pods: nobody has said yet that they are pods.
                (&world.other_node, "192.168.2.7:80", "10.200.0.2"),
            ] {
                assert_eq!(seen(&pod, netns, target), source, "{target}");
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_cluster_cidr_of_the_configuration_is_not_masqueraded() {
        on_host(|host| {
            let world = World::around(host);
            let cidrs = json!(["10.0.0.0/8", "192.168.0.0/16"]);
            let conf = conf::with(
                &of("192.168.1.0/24"),
                &json!({ "nonMasqueradeCIDRs": cidrs }),
            );
            let (pod, _) = host.pod(&conf);
            for (netns, target, source) in [
                (&world.other_node, "192.168.2.7:80", "192.168.1.2"),
                (&world.outside, "203.0.113.10:80", "10.200.0.2"),
            ] {
                assert_eq!(seen(&pod, netns, target), source, "{target}");
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_client_from_outside_keeps_its_address_in_a_pod_cidr_outside_10() {
        on_host(|host| {
            let world = World::around(host);
            let (pod, _) = host.pod(&of("192.168.1.0/24"));
            let _echo = Echo::start(&pod.netns, "192.168.1.2:80");
            for client in [&world.outside, &world.lan] {
                let seen = packet::connect(client, "192.168.1.2:80").expect("an answer");
                assert!(
                    ["203.0.113.10", "10.250.0.10"].contains(&&*seen.to_string()),
                    "{seen}"
                );
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn multicast_keeps_its_source_with_all_defaults() {
        on_host(|host| multicast_keeps_the_source(host, &conf::smallest()));
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn unique_local_sources_are_masqueraded_and_global_ones_are_not() {
        for (subnet, source) in [
            ("fd00:64:1::/64", "2001:db8:200::2"),
            ("2001:db8:64:1::/64", "2001:db8:64:1::2"),
        ] {
            on_host(|host| {
                let world = World::around(host);
                let (pod, _) = host.pod(&of(subnet));
                assert_eq!(seen(&pod, &world.outside, "[2001:db8:113::10]:80"), source);
                // Other unique local addresses are neighbours, as 10.0.0.0/8 is.
                let pod_itself = source.replace("2001:db8:200::2", "fd00:64:1::2");
                assert_eq!(seen(&pod, &world.lan, "[fd00:250::10]:80"), pod_itself);
            });
        }
    }

    /// Nobody waits for a link-local address of the bridge.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_client_from_outside_reaches_a_new_pod_by_ipv6_at_once() {
        on_host(|host| {
            let world = World::around(host);
            let (pod, _) = host.pod(&of("fd00:64:1::/64"));
            let _echo = Echo::start(&pod.netns, "[::]:80");
            let started = Instant::now();
            let seen = packet::ask(&world.outside, "[fd00:64:1::2]:80").expect("an answer");
            assert_eq!(seen.to_string(), "2001:db8:113::10");
            assert!(
                started.elapsed() < Duration::from_secs(1),
                "{:?}",
                started.elapsed()
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn after_a_flush_the_next_add_heals_all_pods() {
        on_host(|host| {
            let world = World::around(host);
            let (pod, _) = host.pod(&conf::smallest());
            let (second, _) = host.pod(&conf::smallest());
            assert_eq!(seen(&pod, &world.outside, "203.0.113.10:80"), "10.200.0.2");
            host.del(&conf::smallest(), &second).done();
            let rules = host.state().only(&["nft"]);

            harness::sh("nft flush ruleset");
            // Nobody knows the flows of before any more, either.
            assert_eq!(seen(&pod, &world.outside, "203.0.113.10:81"), "10.64.1.2");
            let (_third, _) = host.pod(&conf::smallest());

            host.state().only(&["nft"]).assert_same(&rules);
            assert_eq!(seen(&pod, &world.outside, "203.0.113.10:82"), "10.200.0.2");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn masquerading_needs_the_same_rules_for_one_pod_and_for_many() {
        on_host(|host| {
            let (_first, _) = host.pod(&conf::smallest());
            let rules = host.state().only(&["nft"]);
            let pods: Vec<_> = (0..5).map(|_| host.pod(&conf::smallest())).collect();
            host.state().only(&["nft"]).assert_same(&rules);
            for (pod, _) in &pods {
                host.del(&conf::smallest(), pod).done();
            }
            host.state().only(&["nft"]).assert_same(&rules);
        });
    }

    /// A Service as kube-proxy makes it: 10.96.0.1:80 is a pod's port 7, and what a pod
    /// sends to itself comes from the node.
    fn service(pod: &str) {
        harness::sh(&format!(
            "nft -f - <<'END'
table ip service {{
    chain before {{
        type nat hook prerouting priority dstnat
        ip daddr 10.96.0.1 udp dport 80 dnat to {pod}:7
        ip daddr 10.96.0.1 tcp dport 80 dnat to {pod}:7
    }}
    chain after {{
        type nat hook postrouting priority srcnat - 1
        ip saddr {pod} ip daddr {pod} masquerade
    }}
}}
END"
        ));
    }

    /// The sources that a server sees of one question by UDP and one by TCP.
    fn through_the_service(client: &Container, server: &Container, address: &str) -> Vec<String> {
        service(address);
        let echo = Echo::start(&server.netns, &format!("{address}:7"));
        packet::ask(&client.netns, "10.96.0.1:80").expect("an answer by UDP");
        packet::connect(&client.netns, "10.96.0.1:80").expect("an answer by TCP");
        // One packet, one arrival: nothing is duplicated.
        echo.seen()
            .iter()
            .map(|sender| sender.ip().to_string())
            .collect()
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_pod_reaches_itself_through_its_service() {
        on_host(|host| {
            let (pod, _) = host.pod(&conf::smallest());
            let seen = through_the_service(&pod, &pod, "10.64.1.2");
            assert_eq!(seen, ["10.64.1.1", "10.64.1.1"]);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_pod_reaches_its_neighbour_through_a_service() {
        on_host(|host| {
            let (client, _) = host.pod(&conf::smallest());
            let (server, _) = host.pod(&conf::smallest());
            let seen = through_the_service(&client, &server, "10.64.1.3");
            assert_eq!(seen, ["10.64.1.2", "10.64.1.2"]);
        });
    }

    /// The bridge alone decides: not the setting of the whole machine.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_service_works_although_the_node_does_not_pass_bridged_frames_to_its_rules() {
        on_host(|host| {
            let all = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            if std::fs::write(all, "0").is_err() {
                host.cannot_run(&format!("{all} cannot be written: no br_netfilter"));
                return;
            }
            let (client, _) = host.pod(&conf::smallest());
            let (server, _) = host.pod(&conf::smallest());
            let seen = through_the_service(&client, &server, "10.64.1.3");
            assert_eq!(seen, ["10.64.1.2", "10.64.1.2"]);
        });
    }
}
