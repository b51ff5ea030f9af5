//! Two nodes, a router that knows only their static routes, and a host outside: who reaches
//! whom, what for a source is seen there, and how large a packet may be. Every packet is
//! counted where it leaves and where it arrives.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{
    Exchange, Lab, Netns, Port, conf,
    lab::Node,
    lab::{Family, IPV4, IPV6, Pods},
    on_host,
};
use serde_json::Value;

/// The stacks of a network: one family alone, and both.
const STACKS: [&[&Family]; 3] = [&[&IPV4], &[&IPV6], &[&IPV4, &IPV6]];

/// What the Go plugins understand as we do, without masquerade.
fn plain(node: &Node, stack: &[&Family]) -> Value {
    conf::network(&ipam(node, stack))
}

fn ipam(node: &Node, stack: &[&Family]) -> Value {
    let [ipv4, ipv6] = node.pod_cidrs();
    let cidr = |family: &&Family| -> &str {
        if family.first.contains(':') {
            &ipv6
        } else {
            &ipv4
        }
    };
    conf::ipam(&stack.iter().map(cidr).collect::<Vec<_>>())
}

/// The pod's end, or that of the host outside.
fn eth0(netns: &Netns) -> Port<'_> {
    Port {
        netns,
        link: "eth0",
    }
}

fn uplink(netns: &Netns) -> Port<'_> {
    Port {
        netns,
        link: "uplink",
    }
}

fn bridge(node: &Node) -> Port<'_> {
    Port {
        netns: &node.netns,
        link: "cbr0",
    }
}

/// A client with its address, a server with its, and what the server sees.
fn direct<'a>(
    client: (Port<'a>, &'a str),
    server: (Port<'a>, &'a str),
    seen: &'a str,
) -> Exchange<'a> {
    let at = (server.1, 80);
    Exchange {
        client: client.0,
        from: client.1,
        asks: at,
        server: server.0,
        at,
        seen,
    }
}

/// Each pod of a lab with its address.
fn addressed<'a>(pods: &'a Pods, family: &'a Family) -> [(Port<'a>, &'a str); 3] {
    [
        (eth0(&pods.first.netns), family.first),
        (eth0(&pods.second.netns), family.second),
        (eth0(&pods.other.netns), family.other),
    ]
}

fn pods_see_each_other(pods: &Pods, family: &Family) {
    let [first, second, other] = addressed(pods, family);
    for (client, server) in [(first, second), (first, other), (other, second)] {
        direct(client, server, client.1).check();
    }
}

fn the_outside_keeps_its_address(lab: &Lab, pods: &Pods, family: &Family) {
    let outside = (uplink(&lab.outside), family.outside);
    let [first, _, other] = addressed(pods, family);
    for pod in [first, other] {
        direct(outside, pod, family.outside).check();
    }
}

fn nodes_reach_pods(lab: &Lab, pods: &Pods, family: &Family) {
    let [first, _, other] = addressed(pods, family);
    direct((bridge(&lab.one), family.gateway), first, family.gateway).check();
    direct((uplink(&lab.one.netns), family.one), other, family.one).check();
    direct((uplink(&lab.two.netns), family.two), first, family.two).check();
}

fn pods_reach_nodes(lab: &Lab, pods: &Pods, family: &Family) {
    let [first, ..] = addressed(pods, family);
    for node in [
        (bridge(&lab.one), family.gateway),
        (bridge(&lab.one), family.one),
        (bridge(&lab.one), family.public_one),
        (uplink(&lab.two.netns), family.two),
    ] {
        direct(first, node, family.first).check();
    }
}

fn until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed().as_secs() < 6, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn pods_see_each_other_as_they_are_on_one_node_and_on_two() {
    on_host(|_| {
        for stack in STACKS {
            let lab = Lab::new();
            let pods = lab.pods(|node| plain(node, stack));
            for family in stack {
                pods_see_each_other(&pods, family);
            }
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_client_outside_keeps_its_address_on_the_way_to_a_pod() {
    on_host(|_| {
        let lab = Lab::new();
        let pods = lab.pods(|node| plain(node, &[&IPV4, &IPV6]));
        for family in [&IPV4, &IPV6] {
            the_outside_keeps_its_address(&lab, &pods, family);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn nodes_and_pods_reach_each_other() {
    on_host(|_| {
        let lab = Lab::new();
        let pods = lab.pods(|node| plain(node, &[&IPV4, &IPV6]));
        // The Go plugin's gateway has no IPv6 for some two seconds.
        until(|| {
            lab.one
                .netns
                .sh("ip -6 addr show dev cbr0 scope global tentative")
                .is_empty()
        });
        for family in [&IPV4, &IPV6] {
            nodes_reach_pods(&lab, &pods, family);
            pods_reach_nodes(&lab, &pods, family);
        }
    });
}

mod ours {
    use std::io;

    use harness::{
        Echo, Tap, packet,
        tap::{Packet, Way},
        transfer,
    };
    use serde_json::json;

    use super::*;

    /// A network with all our defaults, masquerade among them.
    fn smallest(node: &Node, stack: &[&Family]) -> Value {
        let ranges = ipam(node, stack)["ranges"].take();
        let ipam = json!({ "subnet": null, "ranges": ranges });
        conf::with(&conf::smallest(), &json!({ "ipam": ipam }))
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_outside_sees_the_node_and_all_others_see_the_pod() {
        on_host(|_| {
            for stack in STACKS {
                let lab = Lab::new();
                let pods = lab.pods(|node| smallest(node, stack));
                for family in stack {
                    let outside = (uplink(&lab.outside), family.outside);
                    let [first, second, other] = addressed(&pods, family);
                    for (pod, node) in [
                        (first, family.public_one),
                        (second, family.public_one),
                        (other, family.public_two),
                    ] {
                        direct(pod, outside, node).check();
                    }
                    pods_see_each_other(&pods, family);
                    the_outside_keeps_its_address(&lab, &pods, family);
                    nodes_reach_pods(&lab, &pods, family);
                    pods_reach_nodes(&lab, &pods, family);
                }
            }
        });
    }

    /// A machine behind node one that is no pod: a virtual one, say.
    fn guest(lab: &Lab) -> Netns {
        let guest = Netns::new();
        lab.one.netns.ip(&format!(
            "link add guest up type veth peer name eth0 netns {}
             addr add 198.51.100.1/24 dev guest
             addr add fd00:51::1/64 dev guest nodad",
            guest.path().display()
        ));
        guest.ip("link set eth0 addrgenmode none
             addr add fe80::2/64 dev eth0 nodad
             addr add 198.51.100.2/24 dev eth0
             addr add fd00:51::2/64 dev eth0 nodad
             link set eth0 up
             route add default via 198.51.100.1
             route add default via fd00:51::1");
        lab.router.ip("route add 198.51.100.0/24 via 10.200.0.2
             route add fd00:51::/64 via fd00:200::2");
        guest
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_a_node_routes_for_others_keeps_its_source() {
        on_host(|_| {
            let lab = Lab::new();
            let pods = lab.pods(Node::smallest);
            let guest = guest(&lab);
            for (family, address) in [(&IPV4, "198.51.100.2"), (&IPV6, "fd00:51::2")] {
                let outside = (uplink(&lab.outside), family.outside);
                let [first, ..] = addressed(&pods, family);
                direct(first, outside, family.public_one).check();
                direct((eth0(&guest), address), outside, address).check();
            }
        });
    }

    /// Whom a pod of node one sends large packets: its neighbour, a pod of node two, and
    /// the outside.
    fn targets<'a>(
        lab: &'a Lab,
        pods: &'a Pods,
        family: &'a Family,
    ) -> [(Port<'a>, &'a str, &'a str); 3] {
        let [first, second, other] = addressed(pods, family);
        [
            (second.0, second.1, first.1),
            (other.0, other.1, first.1),
            (uplink(&lab.outside), family.outside, family.public_one),
        ]
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_largest_packet_arrives_whole_and_one_byte_more_is_refused_at_once() {
        on_host(|_| {
            for mtu in [1400, 1460, 9000] {
                let lab = Lab::with_mtu(mtu);
                let pods = lab.pods(Node::smallest);
                for family in [&IPV4, &IPV6] {
                    for (server, address, seen) in targets(&lab, &pods, family) {
                        let target = socket(address);
                        let echo = Echo::start(server.netns, &target);
                        packet::ask(&pods.first.netns, &target).expect(&target);
                        let before = echo.seen().len();
                        let mut tap = Tap::on(server.netns, server.link);
                        let sender = transfer::Sender::new(&pods.first.netns, &target);

                        let refused = sender.send(mtu as usize + 1);
                        sender.send(mtu as usize).expect("a full packet");

                        assert!(is_too_long(&refused), "{target}, {mtu}: {refused:?}");
                        until(|| echo.seen().len() > before);
                        assert_eq!(
                            large(&mut tap),
                            [(mtu as usize, seen.to_owned())],
                            "{target}"
                        );
                    }
                }
            }
        });
    }

    fn is_too_long(outcome: &io::Result<()>) -> bool {
        outcome
            .as_ref()
            .is_err_and(|error| error.raw_os_error() == Some(nix::libc::EMSGSIZE))
    }

    /// Length and source of what came in and is no small question.
    fn large(tap: &mut Tap) -> Vec<(usize, String)> {
        let large = |packet: &&Packet| packet.way == Way::In && packet.length > 200;
        let packets = tap.packets().iter().filter(large);
        packets
            .map(|packet| (packet.length, packet.source.ip().to_string()))
            .collect()
    }

    fn socket(address: &str) -> String {
        if address.contains(':') {
            format!("[{address}]:7")
        } else {
            format!("{address}:7")
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_megabyte_passes_both_ways_whatever_the_mtu() {
        on_host(|_| {
            for mtu in [1400, 1460, 9000] {
                let lab = Lab::with_mtu(mtu);
                let pods = lab.pods(Node::smallest);
                for family in [&IPV4, &IPV6] {
                    bulk_between_all(&lab, &pods, family);
                }
            }
        });
    }

    fn bulk_between_all(lab: &Lab, pods: &Pods, family: &Family) {
        let bulk = |from: &Netns, to: &Netns, address: &str| {
            let target = socket(address);
            transfer::bulk(from, &target, to, &target)
                .unwrap_or_else(|error| panic!("{target}: {error}"));
        };
        for (server, address, _) in targets(lab, pods, family) {
            bulk(&pods.first.netns, server.netns, address);
        }
        bulk(&lab.outside, &pods.first.netns, family.first);
        bulk(&lab.one.netns, &pods.other.netns, family.other);
    }

    /// The way is narrower than both its ends: somebody in the middle has to be heard.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_narrow_place_on_the_way_is_no_black_hole() {
        on_host(|_| {
            let lab = Lab::with_mtu(9000);
            let pods = lab.pods(Node::smallest);
            lab.router
                .ip("route replace 203.0.113.0/24 dev outside mtu 1400
                 route replace 10.200.0.0/24 dev one mtu 1400
                 route replace 10.64.1.0/24 via 10.200.0.2 mtu 1400
                 route replace 10.64.2.0/24 via 10.200.2.2 mtu 1400
                 route replace 2001:db8:113::/64 dev outside proto kernel metric 256 mtu 1400
                 route replace 2001:db8:200::/64 dev one proto kernel metric 256 mtu 1400
                 route replace fd00:64:1::/64 via fd00:200::2 mtu 1400
                 route replace fd00:64:2::/64 via fd00:200:2::2 mtu 1400");
            for family in [&IPV4, &IPV6] {
                for (server, address, seen) in targets(&lab, &pods, family).into_iter().skip(1) {
                    a_sender_learns_of_the_narrow_place(&pods, server, address, seen);
                }
                bulk_between_all(&lab, &pods, family);
            }
        });
    }

    fn a_sender_learns_of_the_narrow_place(pods: &Pods, server: Port, address: &str, seen: &str) {
        let target = socket(address);
        let echo = Echo::start(server.netns, &target);
        packet::ask(&pods.first.netns, &target).expect(&target);
        let before = echo.seen().len();
        let mut tap = Tap::on(server.netns, server.link);
        let sender = transfer::Sender::new(&pods.first.netns, &target);
        // The first one is lost. Errors that came by ICMP are told once.
        until(|| is_too_long(&sender.send(1401)));
        sender
            .send(1400)
            .or_else(|_| sender.send(1400))
            .expect("a packet that fits");
        until(|| echo.seen().len() > before);
        assert_eq!(large(&mut tap), [(1400, seen.to_owned())], "{target}");
    }
}
