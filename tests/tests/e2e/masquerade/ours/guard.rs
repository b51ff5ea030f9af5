//! Packets that belong to no connection are not translated: they must not leave with a pod's
//! address instead. Only where translated ones would leave.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use harness::{Container, Host, Netns, World, conf, on_host, packet, packet::Capture};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
};
use serde_json::json;

use super::{OUTSIDE, dual_stack, rules, seen};

/// How long it may take until the kernel has done what it does by itself.
const PATIENCE: Duration = Duration::from_secs(10);
const ETHERNET: usize = 14;
/// Where a server answers, and where the segments go.
const SERVER: u16 = 80;
const TARGET: u16 = 4000;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A segment that the kernel of the pod knows nothing of.
#[derive(Clone, Copy, Debug)]
struct Segment {
    source: SocketAddr,
    target: SocketAddr,
    sequence: u32,
    flags: u8,
}

impl Segment {
    fn send(self, from: &Netns) {
        let (family, bytes) = match self.target {
            SocketAddr::V4(_) => (AddressFamily::Inet, self.bytes()),
            SocketAddr::V6(_) => (AddressFamily::Inet6, self.bytes()),
        };
        from.run(|| {
            let socket =
                socket::socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp)
                    .expect("a raw socket");
            let (socket, nothing) = (socket.as_raw_fd(), MsgFlags::empty());
            // Such a socket has no ports.
            let sent = match self.target.ip() {
                IpAddr::V4(ip) => {
                    let [a, b, c, d] = ip.octets();
                    socket::sendto(socket, &bytes, &SockaddrIn::new(a, b, c, d, 0), nothing)
                }
                IpAddr::V6(ip) => {
                    let target = std::net::SocketAddrV6::new(ip, 0, 0, 0);
                    socket::sendto(socket, &bytes, &SockaddrIn6::from(target), nothing)
                }
            };
            sent.expect("to send a segment");
        });
    }

    /// A TCP header with its checksum: a wrong one would be a reason of its own to drop it.
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.target.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(1_u32.to_be_bytes());
        bytes.extend([5 << 4, self.flags, 255, 255, 0, 0, 0, 0]);
        let mut covered = Vec::new();
        for address in [self.source.ip(), self.target.ip()] {
            match address {
                IpAddr::V4(ip) => covered.extend(ip.octets()),
                IpAddr::V6(ip) => covered.extend(ip.octets()),
            }
        }
        covered.extend([0, 6, 0, 20]);
        covered.extend(&bytes);
        let mut sum: u32 = covered
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = !u16::try_from(sum).expect("two bytes");
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn echo(netns: &Netns, target: &str) -> harness::Echo {
    harness::Echo::start(netns, &SocketAddr::new(address(target), SERVER).to_string())
}

/// The TCP segments among frames that come from an address with these flags.
fn segments(frames: &[Vec<u8>], source: IpAddr, flags: u8) -> usize {
    let is_one = |frame: &&Vec<u8>| {
        let (at, header) = match source {
            IpAddr::V4(_) => (ETHERNET + 12, ETHERNET + 20),
            IpAddr::V6(_) => (ETHERNET + 8, ETHERNET + 40),
        };
        let from = match source {
            IpAddr::V4(ip) => frame.get(at..at + 4) == Some(&ip.octets()[..]),
            IpAddr::V6(ip) => frame.get(at..at + 16) == Some(&ip.octets()[..]),
        };
        from && frame.get(header + 13) == Some(&flags)
    };
    frames.iter().filter(is_one).count()
}

/// All frames from an address.
fn all(frames: &[Vec<u8>], source: Ipv4Addr) -> usize {
    let from = |frame: &&Vec<u8>| frame.get(26..30) == Some(&source.octets()[..]);
    frames.iter().filter(from).count()
}

/// How often a host sees this segment with the pod's address; the pod has sent it so often.
fn arrivals(pod: &Container, at: &Netns, segment: Segment) -> usize {
    let (leaving, arriving) = (Capture::start(&pod.netns), Capture::start(at));
    for _ in 0..3 {
        segment.send(&pod.netns);
    }
    // What comes after them has arrived: so have they, if they do.
    let last = SocketAddr::new(segment.target.ip(), SERVER);
    packet::ask(&pod.netns, &last.to_string()).expect("an answer");
    let source = segment.source.ip();
    let sent = segments(&leaving.frames(), source, segment.flags);
    assert_eq!(sent, 3, "{segment:?} did not leave the pod");
    segments(&arriving.frames(), source, segment.flags)
}

/// The pod's address in each family, and that of the host outside.
const FAMILIES: [(&str, &str); 2] = [
    ("10.64.1.2", "203.0.113.10"),
    ("fd00:64:1::2", "2001:db8:113::10"),
];

/// A connection of a pod with a server that keeps it.
struct Connection {
    pod: TcpStream,
    server: TcpStream,
    target: SocketAddr,
    /// The first sequence number of the pod.
    sequence: u32,
}

impl Connection {
    fn new(pod: &Container, server: &Netns, target: IpAddr) -> Self {
        let target = SocketAddr::new(target, TARGET);
        let wire = Capture::start(&pod.netns);
        let listener = server
            .run(|| TcpListener::bind(target))
            .expect("a listener");
        let pod = pod
            .netns
            .run(|| TcpStream::connect(target))
            .expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        let sequence = wire.frames().iter().find_map(|frame| {
            let header = ETHERNET + if target.is_ipv4() { 20 } else { 40 };
            let is_syn = frame.get(header + 13) == Some(&2);
            let number = frame.get(header + 4..header + 8)?.try_into().ok()?;
            is_syn.then_some(u32::from_be_bytes(number))
        });
        Self {
            pod,
            server,
            target,
            sequence: sequence.expect("the first segment"),
        }
    }

    /// The connection carries data both ways.
    fn assert_alive(&self) {
        for (mut from, mut to) in [(&self.pod, &self.server), (&self.server, &self.pod)] {
            from.write_all(b"still there?").expect("to write");
            to.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            to.read_exact(&mut [0; 12]).expect("to read");
        }
    }
}

/// Takes the guards away, as an administrator might.
fn without_guards() {
    harness::sh("nft flush chain inet cni-bridge forward");
}

/// Has an ADD bring them back.
fn with_guards(host: &Host) {
    let (pod, _) = host.pod(&dual_stack(&json!({})));
    assert_eq!(rules().len(), 4);
    host.keep(pod);
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_reset_of_no_connection_does_not_leave_with_the_pods_address() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&dual_stack(&json!({})));
        for (source, target) in FAMILIES {
            let _echo = echo(&world.outside, target);
            let segment = Segment {
                source: SocketAddr::new(address(source), 4000),
                target: SocketAddr::new(address(target), TARGET),
                sequence: 1,
                flags: RST | ACK,
            };
            without_guards();
            assert_eq!(arrivals(&pod, &world.outside, segment), 3, "{target}");
            with_guards(host);
            assert_eq!(arrivals(&pod, &world.outside, segment), 0, "{target}");
        }
    });
}

/// A client that resets what the node has forgotten: the late segment of every busy node.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_late_reset_of_a_closed_connection_does_not_leave_with_the_pods_address() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&dual_stack(&json!({})));
        harness::sh("echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait");
        for (_, target) in FAMILIES {
            let _echo = echo(&world.outside, target);
            let connection = Connection::new(&pod, &world.outside, address(target));
            let segment = Segment {
                source: connection.pod.local_addr().expect("an address"),
                target: connection.target,
                sequence: 1,
                flags: RST | ACK,
            };
            drop(connection);
            wait_until_forgotten(host, segment.source.port());
            without_guards();
            assert_eq!(arrivals(&pod, &world.outside, segment), 3, "{target}");
            with_guards(host);
            assert_eq!(arrivals(&pod, &world.outside, segment), 0, "{target}");
        }
    });
}

/// Waits until the node knows no connection with this port of a pod.
fn wait_until_forgotten(host: &Host, port: u16) {
    let started = Instant::now();
    let port = format!("sport={port} ");
    while host
        .netns
        .sh("cat /proc/thread-self/net/nf_conntrack")
        .contains(&port)
    {
        assert!(started.elapsed() < PATIENCE, "{port}is still known");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_segment_out_of_window_does_not_leave_with_the_pods_address() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&dual_stack(&json!({})));
        for (_, target) in FAMILIES {
            let _echo = echo(&world.outside, target);
            let connection = Connection::new(&pod, &world.outside, address(target));
            let segment = Segment {
                source: connection.pod.local_addr().expect("an address"),
                target: connection.target,
                sequence: connection.sequence.wrapping_add(0x1000_0000),
                flags: ACK,
            };
            without_guards();
            assert_eq!(arrivals(&pod, &world.outside, segment), 3, "{target}");
            with_guards(host);
            assert_eq!(arrivals(&pod, &world.outside, segment), 0, "{target}");
            connection.assert_alive();
        }
    });
}

/// Whom the rules spare gets everything, as if there were no rules.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn spared_destinations_get_invalid_packets_too() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&conf::smallest());
        let (neighbour, _) = host.pod(&conf::smallest());
        for (netns, target) in [
            (&world.lan, "10.250.0.10"),
            (&world.other_node, "10.64.2.7"),
            (&neighbour.netns, "10.64.1.3"),
            (&host.netns, "10.200.0.2"),
        ] {
            let _echo = echo(netns, target);
            let segment = Segment {
                source: SocketAddr::new(address("10.64.1.2"), 4000),
                target: SocketAddr::new(address(target), TARGET),
                sequence: 1,
                flags: RST | ACK,
            };
            let expected = if netns.path() == host.netns.path() {
                // There it is seen on the pod's link and on the bridge.
                6
            } else {
                3
            };
            assert_eq!(arrivals(&pod, netns, segment), expected, "{target}");
        }
    });
}

/// What the node does not look at at all is not invalid.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn untracked_packets_pass() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&conf::smallest());
        let (neighbour, _) = host.pod(&conf::smallest());
        harness::sh(
            "nft 'table inet untracked {
                 chain before { type filter hook prerouting priority raw;
                     ip saddr 10.64.1.0/24 notrack; ip daddr 10.64.1.0/24 notrack; }
             }'",
        );
        for (netns, target) in [
            (&world.lan, "10.250.0.10:80"),
            (&world.other_node, "10.64.2.7:80"),
            (&neighbour.netns, "10.64.1.3:80"),
            // And nobody translates it.
            (&world.outside, OUTSIDE),
        ] {
            assert_eq!(seen(&pod, netns, target), "10.64.1.2", "{target}");
        }
        assert_eq!(clients_of(&pod, &world), ["203.0.113.10", "10.250.0.10"]);
    });
}

/// The node sees one direction only: to it, half of what follows is invalid.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn half_of_a_connection_passes_to_spared_destinations() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&conf::smallest());
        let (neighbour, _) = host.pod(&conf::smallest());
        harness::sh(
            "nft 'table inet half {
                 chain before { type filter hook prerouting priority raw;
                     ip daddr 10.64.1.2 notrack; }
             }'",
        );
        for (netns, target) in [
            (&world.lan, "10.250.0.10:80"),
            (&world.other_node, "10.64.2.7:80"),
            (&neighbour.netns, "10.64.1.3:80"),
        ] {
            assert_eq!(seen(&pod, netns, target), "10.64.1.2", "{target}");
        }
        let _echo = harness::Echo::start(&pod.netns, "10.64.1.2:80");
        for (client, address) in [(&world.lan, "10.250.0.10"), (&neighbour.netns, "10.64.1.3")] {
            let seen = packet::connect(client, "10.64.1.2:80").expect(address);
            assert_eq!(seen.to_string(), address);
        }
    });
}

/// As whom a pod sees clients from outside and from the network around the node.
fn clients_of(pod: &Container, world: &World) -> [String; 2] {
    let _echo = harness::Echo::start(&pod.netns, "10.64.1.2:80");
    [&world.outside, &world.lan].map(|client| {
        let seen = packet::connect(client, "10.64.1.2:80").expect("an answer");
        seen.to_string()
    })
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn clients_from_outside_get_their_answers() {
    on_host(|host| {
        let world = World::around(host);
        let (pod, _) = host.pod(&conf::smallest());
        assert_eq!(rules().len(), 2);
        let wire = Capture::start(&world.outside);
        assert_eq!(clients_of(&pod, &world), ["203.0.113.10", "10.250.0.10"]);
        assert!(all(&wire.frames(), Ipv4Addr::new(10, 64, 1, 2)) >= 4);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn each_rule_that_is_missing_is_named_and_restored() {
    for (chain, missing, there) in [
        ("forward", "ct state invalid", "masquerade fully-random"),
        ("postrouting", "masquerade fully-random", "ct state invalid"),
    ] {
        on_host(|host| {
            let (pod, result) = host.pod(&conf::smallest());
            let before = host.state().only(&["nft"]);
            harness::sh(&format!("nft flush chain inet cni-bridge {chain}"));
            let refusal = host.check(&conf::smallest(), &pod, &result).refusal();
            assert!(
                refusal.msg.contains(missing) && !refusal.msg.contains(there),
                "{refusal:?}"
            );
            let (_second, _) = host.pod(&conf::smallest());
            host.state().only(&["nft"]).assert_same(&before);
            host.check(&conf::smallest(), &pod, &result).done();
        });
    }
}

/// The rules of an earlier version of this plugin, which knew of no guard, say the same
/// under another tag.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn rules_of_an_earlier_version_are_replaced() {
    on_host(|host| {
        let (pod, result) = host.pod(&conf::smallest());
        let now = host.state().only(&["nft"]);
        let list = harness::sh("nft --stateless list chain inet cni-bridge postrouting");
        let rule = list.lines().map(str::trim).find(|line| line.contains('#'));
        let rule = rule.expect("a rule");
        let (rest, _content) = rule.rsplit_once('.').expect("a tag");
        harness::sh(&format!(
            "nft -f - <<'END'
delete table inet cni-bridge
table inet cni-bridge {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        {rest}.0123456789abcdef\"
    }}
}}
END"
        ));
        assert_eq!(rules().len(), 1);
        let refusal = host.check(&conf::smallest(), &pod, &result).refusal();
        for words in ["masquerade fully-random", "ct state invalid"] {
            assert!(refusal.msg.contains(words), "{refusal:?}");
        }
        let (_second, _) = host.pod(&conf::smallest());
        host.state().only(&["nft"]).assert_same(&now);
    });
}

/// What others put into our table is none of our business, not even under a tag of ours.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn rules_of_others_in_our_table_stay() {
    on_host(|host| {
        let (_pod, _) = host.pod(&conf::smallest());
        let list = harness::sh("nft list chain inet cni-bridge forward");
        let tag = list.split('"').nth(1).expect("a comment");
        harness::sh(&format!(
            "nft add rule inet cni-bridge forward counter comment '\"mine\"'
             nft add chain inet cni-bridge mine
             nft add rule inet cni-bridge mine counter comment '\"{tag}\"'"
        ));
        let before = host.state().only(&["nft"]);
        let (_second, _) = host.pod(&conf::smallest());
        host.gc(&conf::smallest(), &[]).done();
        host.state().only(&["nft"]).assert_same(&before);
    });
}
