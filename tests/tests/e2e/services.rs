//! Services, with the rules that kube-proxy writes for them (`tests/fixtures/kube-proxy/`):
//! what pods, nodes and the outside reach through them, and with which source. Every packet
//! is counted where it leaves and where it arrives: none is seen twice.
//!
//! All Services have the port 80, their pods answer at port 7. They are numbered as in
//! `record.py`, by the last number of their addresses.

use std::fs;

use harness::{
    Exchange, Host, Lab, Netns, Port, conf,
    lab::{Family, IPV4, IPV6, Node, Pods},
    on_host, packet, sh,
};

const SERVICE: u16 = 80;
const POD: u16 = 7;

/// Which back end of kube-proxy wrote the rules.
#[derive(Clone, Copy)]
enum Mode {
    Iptables,
    Nftables,
}

impl Mode {
    /// Reports if there is nothing to put these rules in force with.
    fn is_possible(self, host: &Host) -> bool {
        let tool = match self {
            Self::Iptables => "ip6tables-restore",
            Self::Nftables => "nft",
        };
        let found = !sh(&format!("command -v {tool} || true")).is_empty();
        if !found {
            host.cannot_run(&format!("{tool} is not installed"));
        }
        found
    }

    /// Puts the rules in force on the node that the calling thread is in.
    fn load(self) {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/kube-proxy");
        match self {
            Self::Iptables => sh(&format!(
                "iptables-restore <{rules}/iptables.rules; ip6tables-restore <{rules}/ip6tables.rules"
            )),
            Self::Nftables => sh(&format!("nft -f {rules}/nftables.rules")),
        };
    }
}

fn eth0(netns: &Netns) -> Port<'_> {
    Port {
        netns,
        link: "eth0",
    }
}

/// The address of a Service, like that of the family.
fn vip(family: &Family, number: u8) -> String {
    if family.first.contains(':') {
        format!("fd00:96::{number}")
    } else {
        format!("10.96.0.{number}")
    }
}

/// From the first pod to a Service.
fn first_asks(pods: &Pods, family: &Family, service: u8, server: (Port, &str), seen: &str) {
    let exchange = Exchange {
        client: eth0(&pods.first.netns),
        from: family.first,
        asks: (&vip(family, service), SERVICE),
        server: server.0,
        at: (server.1, POD),
        seen,
    };
    exchange.check();
}

fn a_pod_reaches_services(lab: &Lab, pods: &Pods, family: &Family) {
    let [first, second, other] =
        [&pods.first, &pods.second, &pods.other].map(|pod| eth0(&pod.netns));
    let outside = Port {
        netns: &lab.outside,
        link: "uplink",
    };
    // Itself, by way of the node, whose address it sees.
    first_asks(pods, family, 1, (first, family.first), family.gateway);
    first_asks(pods, family, 2, (second, family.second), family.first);
    first_asks(pods, family, 3, (other, family.other), family.first);
    // A Service without a selector: our masquerade on top of their address.
    first_asks(
        pods,
        family,
        4,
        (outside, family.outside),
        family.public_one,
    );
}

/// From the outside to a port of node one.
fn outside_asks(lab: &Lab, family: &Family, port: u16, server: (Port, &str), seen: &str) {
    let exchange = Exchange {
        client: Port {
            netns: &lab.outside,
            link: "uplink",
        },
        from: family.outside,
        asks: (family.public_one, port),
        server: server.0,
        at: (server.1, POD),
        seen,
    };
    exchange.check();
}

fn the_outside_reaches_node_ports(lab: &Lab, pods: &Pods, family: &Family) {
    let [first, other] = [&pods.first, &pods.other].map(|pod| eth0(&pod.netns));
    // externalTrafficPolicy Cluster: from the node, by the link over which it reaches the pod.
    outside_asks(lab, family, 30080, (first, family.first), family.gateway);
    outside_asks(lab, family, 30081, (other, family.other), family.one);
    // Local: the client itself.
    outside_asks(lab, family, 30082, (first, family.first), family.outside);
}

/// The node's own processes, kubelet among them.
fn the_node_reaches_services(lab: &Lab, pods: &Pods, family: &Family) {
    for (service, pod, address, seen) in [
        (2, &pods.second, family.second, family.gateway),
        (3, &pods.other, family.other, family.one),
    ] {
        let [at, asked] =
            [(address, POD), (&vip(family, service), SERVICE)].map(|(address, port)| {
                let v6 = address.contains(':');
                if v6 {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                }
            });
        let _echo = harness::Echo::start(&pod.netns, &at);
        let udp = packet::ask(&lab.one.netns, &asked).expect(&asked);
        let tcp = packet::connect(&lab.one.netns, &asked).expect(&asked);
        assert_eq!([udp, tcp].map(|ip| ip.to_string()), [seen, seen], "{asked}");
    }
}

/// Masquerade without any Service, which kube-proxy's rules must not change.
fn the_outside_sees_the_node_and_is_seen_itself(lab: &Lab, pods: &Pods, family: &Family) {
    let outside = Port {
        netns: &lab.outside,
        link: "uplink",
    };
    let [first, other] = [&pods.first, &pods.other].map(|pod| eth0(&pod.netns));
    for (client, from, server, address, seen) in [
        (
            first,
            family.first,
            outside,
            family.outside,
            family.public_one,
        ),
        (outside, family.outside, first, family.first, family.outside),
        (first, family.first, other, family.other, family.first),
    ] {
        let at = (address, POD);
        Exchange {
            client,
            from,
            asks: at,
            server,
            at,
            seen,
        }
        .check();
    }
}

fn all(lab: &Lab, pods: &Pods) {
    for family in [&IPV4, &IPV6] {
        a_pod_reaches_services(lab, pods, family);
        the_outside_reaches_node_ports(lab, pods, family);
        the_node_reaches_services(lab, pods, family);
        the_outside_sees_the_node_and_is_seen_itself(lab, pods, family);
    }
}

/// Whether the whole node passes bridged frames to its rules: what the bridge itself has
/// been told stands beside that.
fn bridged_frames_everywhere(host: &Host, on: bool) -> bool {
    for family in ["iptables", "ip6tables"] {
        let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        if fs::write(&file, if on { "1" } else { "0" }).is_err() {
            host.cannot_run(&format!("{file} cannot be written: no br_netfilter"));
            return false;
        }
    }
    true
}

mod ours {
    use super::*;

    fn services_work(mode: Mode, bridged_frames: bool) {
        on_host(|host| {
            let lab = Lab::new();
            let set = || bridged_frames_everywhere(host, bridged_frames);
            if mode.is_possible(host) && lab.one.run(|_| set()) {
                let pods = lab.pods(Node::smallest);
                lab.one.run(|_| mode.load());
                all(&lab, &pods);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn services_of_iptables_work_where_the_node_passes_bridged_frames() {
        services_work(Mode::Iptables, true);
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn services_of_iptables_work_where_only_the_bridge_passes_frames() {
        services_work(Mode::Iptables, false);
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn services_of_nftables_work_where_the_node_passes_bridged_frames() {
        services_work(Mode::Nftables, true);
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn services_of_nftables_work_where_only_the_bridge_passes_frames() {
        services_work(Mode::Nftables, false);
    }

    /// Chains of the same priority are run in the order in which they were made.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn services_work_when_their_rules_were_there_before_the_first_pod() {
        for mode in [Mode::Iptables, Mode::Nftables] {
            on_host(|host| {
                if !mode.is_possible(host) {
                    return;
                }
                let lab = Lab::new();
                lab.one.run(|_| mode.load());
                let pods = lab.pods(Node::smallest);
                all(&lab, &pods);
            });
        }
    }

    /// kube-proxy's rules do not change by what we do, nor ours by theirs.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_pod_changes_nothing_of_the_rules_of_services() {
        for mode in [Mode::Iptables, Mode::Nftables] {
            on_host(|host| {
                if !mode.is_possible(host) {
                    return;
                }
                let (pod, _) = host.pod(&conf::smallest());
                let ours = host.state().only(&["nft"]);
                mode.load();
                let both = host.state().only(&["nft"]);
                assert!(both.text().contains(ours.text()), "{both:?}");

                host.del(&conf::smallest(), &pod).done();
                host.pod(&conf::smallest());

                host.state().only(&["nft"]).assert_same(&both);
            });
        }
    }
}
