//! A pod that is checked and honest notices nothing of it.

use std::net::{Ipv6Addr, UdpSocket};

use harness::{
    Container, Echo, Host, Netns, Stub, World, conf,
    forge::{self, Extension, Wire},
    on_host, packet,
};
use serde_json::{Value, json};

use super::super::{PATIENCE, ip, of_interface, v4, v6};

fn checked(changes: &Value) -> Value {
    let conf = conf::with(&conf::dual_stack(), &json!({ "ipspoofchk": true }));
    conf::with(&conf, changes)
}

/// One asks the other, by UDP and TCP.
fn assert_talk(from: &Netns, to: &Netns, target: &str) {
    let _echo = Echo::start(to, target);
    packet::ask(from, target).unwrap_or_else(|error| panic!("UDP to {target}: {error}"));
    packet::connect(from, target).unwrap_or_else(|error| panic!("TCP to {target}: {error}"));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn talks_to_pods_node_and_world() {
    on_host(|host| {
        let world = World::around(host);
        let (one, _) = host.pod(&checked(&json!({})));
        let mac = json!({ "runtimeConfig": { "mac": "02:00:00:00:00:07" } });
        let (two, _) = host.pod(&checked(&mac));
        for (from, to, target) in [
            (&one.netns, &two.netns, "10.64.1.3:7"),
            (&one.netns, &two.netns, "[fd00:64:1::3]:7"),
            (&two.netns, &one.netns, "10.64.1.2:7"),
            (&two.netns, &one.netns, "[fd00:64:1::2]:7"),
            (&one.netns, &host.netns, "10.64.1.1:7"),
            (&two.netns, &host.netns, "[fd00:64:1::1]:7"),
            (&one.netns, &host.netns, "10.200.0.2:7"),
            (&host.netns, &two.netns, "10.64.1.3:7"),
            (&host.netns, &one.netns, "[fd00:64:1::2]:7"),
            (&one.netns, &world.lan, "10.250.0.10:7"),
            (&one.netns, &world.outside, "203.0.113.10:7"),
            (&two.netns, &world.outside, "[2001:db8:113::10]:7"),
            (&one.netns, &world.other_node, "10.64.2.7:7"),
            (&two.netns, &world.other_node, "[fd00:64:2::7]:7"),
            (&world.outside, &one.netns, "10.64.1.2:7"),
            (&world.outside, &two.netns, "[fd00:64:1::3]:7"),
        ] {
            assert_talk(from, to, target);
        }
    });
}

/// The number by which a namespace knows one of its links.
fn number(netns: &Netns, link: &str) -> String {
    let shown = netns.sh(&format!("ip -o link show {link}"));
    shown.split(':').next().expect("a number").to_owned()
}

/// The link-local address follows from the MAC address, whatever the pod would rather have.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn has_the_link_local_address_that_it_may_send_with() {
    on_host(|host| {
        let (one, result) = host.pod(&checked(&json!({})));
        let two = host.container();
        // A random one.
        two.sh("echo 3 >/proc/sys/net/ipv6/conf/default/addr_gen_mode");
        let of_two = host.add(&checked(&json!({})), &two).result();
        for (from, to, of) in [(&one, &two, &of_two), (&two, &one, &result)] {
            let address = forge::link_local(forge::mac(of_interface(of, 2, "mac")));
            let scope = number(&from.netns, "eth0");
            let there = format!("[{address}%{}]:7", number(&to.netns, "eth0"));
            // It is not there before it has been probed.
            assert!(super::super::becomes(|| {
                to.netns
                    .sh("ip -6 -o addr show dev eth0 scope link -tentative")
                    .contains(&address.to_string())
            }));
            let _echo = Echo::start(&to.netns, &there);
            packet::ask(&from.netns, &format!("[{address}%{scope}]:7")).expect("an answer");
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn is_probed_for_duplicates() {
    on_host(|host| {
        let (_one, _) = host.pod(&checked(&json!({})));
        let tap = Wire::on(&host.netns, "cbr0");
        let (_two, _) = host.pod(&checked(&json!({ "enabledad": true })));
        // Source, destination and then the type of a probe for fd00:64:1::3.
        let asked = forge::solicited(v6("fd00:64:1::3")).octets();
        let probe = [&[0; 16][..], &asked, &[135]].concat();
        assert!(tap.saw(&probe, PATIENCE));
    });
}

/// As one that has it looks whether others have it, tells that it has it, and so on.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn says_to_neighbours_what_is_true() {
    on_host(|host| {
        let (one, result) = host.pod(&checked(&json!({})));
        let (two, _) = host.pod(&checked(&json!({})));
        let own = forge::mac(of_interface(&result, 2, "mac"));
        let wire = Wire::on(&one.netns, "eth0");
        let taps = [Wire::on(&two.netns, "eth0"), Wire::on(&host.netns, "cbr0")];
        let frames = [of_arp(own), of_ipv6(own)].concat();
        for (name, frame) in &frames {
            wire.send(frame);
            for tap in &taps {
                // All behind the addresses of Ethernet.
                assert!(tap.saw(&frame[12..], PATIENCE), "{name}");
            }
        }
    });
}

type Named = (String, Vec<u8>);

fn of_arp(own: forge::Mac) -> Vec<Named> {
    let (here, other, nobody) = (v4("10.64.1.2"), v4("10.64.1.3"), v4("0.0.0.0"));
    [
        (
            "probe",
            forge::arp(forge::REQUEST, (own, nobody), ([0; 6], here)),
        ),
        (
            "announcement",
            forge::arp(forge::REQUEST, (own, here), ([0; 6], here)),
        ),
        (
            "unasked reply",
            forge::arp(forge::REPLY, (own, here), (own, here)),
        ),
        (
            "question",
            forge::arp(forge::REQUEST, (own, here), ([0; 6], other)),
        ),
    ]
    .map(|(name, arp)| {
        let frame = forge::frame(forge::BROADCAST, own, forge::ARP, &arp);
        (name.to_owned(), frame)
    })
    .into()
}

fn of_ipv6(own: forge::Mac) -> Vec<Named> {
    let (here, all) = (v6("fd00:64:1::2"), v6("ff02::1"));
    let near = forge::link_local(own);
    let mut packets = vec![
        ("probe".to_owned(), probe(here)),
        ("probe of the link-local address".to_owned(), probe(near)),
        (
            "advertisement".to_owned(),
            forge::advertisement(here, all, here, own),
        ),
        (
            "advertisement from near".to_owned(),
            forge::advertisement(near, all, here, own),
        ),
        (
            "question".to_owned(),
            forge::solicitation(here, all, v6("fd00:64:1::3"), Some(own)),
        ),
        (
            "question from near".to_owned(),
            forge::solicitation(near, all, all, Some(own)),
        ),
        (
            "question for a router".to_owned(),
            forge::router_solicitation(near, own),
        ),
        ("echo".to_owned(), forge::echo_request(here, all, b"echo")),
    ];
    packets.extend(of_groups(near));
    packets.extend(of_datagrams(here, all));
    let framed = |(name, packet): Named| (name, forge::packet(forge::group(all), own, &packet));
    packets.into_iter().map(framed).collect()
}

/// To those who pass packets for groups on, as soon as there is an address and before.
fn of_groups(near: Ipv6Addr) -> Vec<Named> {
    let mut packets = Vec::new();
    let group = v6("ff02::1:ff00:2");
    for source in [near, v6("::")] {
        packets.extend([
            (
                format!("report from {source}"),
                forge::listener_report(source, group),
            ),
            (
                format!("early report from {source}"),
                forge::early_listener(source, group, true),
            ),
            (
                format!("early farewell from {source}"),
                forge::early_listener(source, group, false),
            ),
        ]);
    }
    packets
}

/// Behind extension headers, and in fragments.
fn of_datagrams(here: Ipv6Addr, all: Ipv6Addr) -> Vec<Named> {
    let mut packets = Vec::new();
    let datagram = |body: &[u8]| forge::udp(here.into(), all.into(), 9, body);
    for extension in [
        Extension::HopByHop,
        Extension::Destination,
        Extension::Routing,
        Extension::Atomic,
        Extension::Unknown,
    ] {
        let name = format!("{extension:?}");
        let packet = forge::behind(extension, &datagram(name.as_bytes()));
        packets.push((name, packet));
    }
    for (name, packet) in [
        ("datagram", datagram(&[b'd'; 40])),
        ("echo", forge::echo_request(here, all, &[b'e'; 40])),
    ] {
        for fragment in forge::fragments(&packet, 16) {
            packets.push((format!("fragment of a {name}"), fragment));
        }
    }
    packets
}

fn probe(address: Ipv6Addr) -> Vec<u8> {
    forge::solicitation(v6("::"), forge::solicited(address), address, None)
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn sends_what_does_not_fit_one_packet() {
    on_host(|host| {
        let (one, _) = host.pod(&checked(&json!({})));
        let (two, _) = host.pod(&checked(&json!({})));
        for (from, to) in [
            ("10.64.1.2:9", "10.64.1.3:9"),
            ("[fd00:64:1::2]:9", "[fd00:64:1::3]:9"),
        ] {
            let receiver = two.netns.run(|| UdpSocket::bind(to)).expect(to);
            receiver
                .set_read_timeout(Some(PATIENCE))
                .expect("a time-out");
            let sender = one.netns.run(|| UdpSocket::bind(from)).expect(from);
            sender.send_to(&[7; 4000], to).expect(to);
            let mut datagram = [0; 5000];
            assert_eq!(receiver.recv(&mut datagram).expect(to), 4000);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn sends_to_groups_and_listens_to_them() {
    on_host(|host| {
        let (one, _) = host.pod(&checked(&json!({})));
        let (two, _) = host.pod(&checked(&json!({})));
        let group = v4("239.1.2.3");
        let member = packet::Member::join(&two.netns, group, v4("10.64.1.3"), 5353);
        packet::send(&one.netns, "239.1.2.3:5353").expect("a multicast route");
        assert_eq!(member.sender().expect("the datagram"), ip("10.64.1.2"));

        let tap = Wire::on(&host.netns, "cbr0");
        let listener = one
            .netns
            .run(|| UdpSocket::bind("[::]:5353"))
            .expect("a socket");
        let scope = number(&one.netns, "eth0").parse().expect("a number");
        listener
            .join_multicast_v6(&v6("ff02::1234"), scope)
            .expect("to join");
        assert!(tap.saw(&v6("ff02::1234").octets(), PATIENCE));
    });
}

/// A Service as kube-proxy makes it, of which the pod itself is the only server.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn reaches_services_and_itself_through_one() {
    on_host(|host| {
        let (one, _) = host.pod(&checked(&json!({})));
        let (two, _) = host.pod(&checked(&json!({})));
        harness::sh(
            "nft -f - <<'END'
table ip service {
    chain before {
        type nat hook prerouting priority dstnat
        ip daddr 10.96.0.1 tcp dport 80 dnat to 10.64.1.2:7
        ip daddr 10.96.0.1 udp dport 80 dnat to 10.64.1.2:7
    }
    chain after {
        type nat hook postrouting priority srcnat - 1
        ip saddr 10.64.1.2 ip daddr 10.64.1.2 masquerade
    }
}
END",
        );
        let _echo = Echo::start(&one.netns, "10.64.1.2:7");
        for (client, seen) in [(&one, "10.64.1.1"), (&two, "10.64.1.3")] {
            assert_eq!(
                packet::ask(&client.netns, "10.96.0.1:80").expect("UDP"),
                ip(seen)
            );
            assert_eq!(
                packet::connect(&client.netns, "10.96.0.1:80").expect("TCP"),
                ip(seen)
            );
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn has_a_second_interface_in_another_network() {
    on_host(|host| {
        let second = checked(&json!({
            "name": "second", "bridge": "second0", "isDefaultGateway": false,
            "ipam": { "ranges": [
                [{ "subnet": "10.65.1.0/24" }], [{ "subnet": "fd00:65:1::/64" }],
            ] },
        }));
        let add = |host: &Host| -> Container {
            let (mut pod, _) = host.pod(&checked(&json!({})));
            pod.interface = "eth1".to_owned();
            host.add(&second, &pod).result();
            pod
        };
        let (one, two) = (add(host), add(host));
        for target in [
            "10.64.1.3:7",
            "[fd00:64:1::3]:7",
            "10.65.1.3:7",
            "[fd00:65:1::3]:7",
        ] {
            assert_talk(&one.netns, &two.netns, target);
        }
        for target in ["10.64.1.1:7", "10.65.1.1:7", "[fd00:65:1::1]:7"] {
            assert_talk(&one.netns, &host.netns, target);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn has_its_addresses_from_any_ipam() {
    on_host(|host| {
        let stub = Stub::new("ok");
        let conf = conf::with(
            &conf::network(&json!({ "type": "stub" })),
            &json!({ "ipspoofchk": true }),
        );
        let pod = host.container();
        let add = stub.in_path_of(host.request_for("ADD", &conf, &pod));
        let result = add.run().result();
        assert_talk(&pod.netns, &host.netns, "10.64.1.1:7");
        let port = of_interface(&result, 1, "name");
        let addresses = harness::sh("nft list set bridge cni-bridge addresses4");
        let element = format!("\"{port}\" . 10.64.1.80");
        assert!(addresses.contains(&element), "{addresses}");
    });
}
