//! The world around the node: an uplink, a router, and hosts behind it.
//!
//! ```text
//! node 10.200.0.2 ── router ─┬─ lan         10.250.0.10   fd00:250::10
//!                            ├─ outside     203.0.113.10  2001:db8:113::10
//!                            └─ other node  10.200.2.2, with pods 10.64.2.7,
//!                                           192.168.2.7, fd00:64:2::7
//! ```
//!
//! The router knows the way to the node's pods: `10.64.1.0/24`, `192.168.1.0/24`,
//! `fd00:64:1::/64`, `2001:db8:64:1::/64`.

use std::{fmt::Write as _, thread, time::Duration};

use crate::{Host, Netns};

/// What stands around one node.
#[derive(Debug)]
pub struct World {
    /// Where the node's uplink ends.
    pub router: Netns,
    /// A host in 10.0.0.0/8 that is no pod.
    pub lan: Netns,
    /// A host in the Internet.
    pub outside: Netns,
    /// Another node with its pods' addresses.
    pub other_node: Netns,
}

impl World {
    /// Connects the node's `uplink` (MTU 1500) to a new world.
    pub fn around(host: &Host) -> Self {
        Self::with_mtu(host, 1500)
    }

    /// The same with another MTU of the uplink.
    pub fn with_mtu(host: &Host, mtu: u32) -> Self {
        let [lan, outside, other_node] = [(); 3].map(|()| Netns::new());
        let router = router(
            &[
                Cable::new("node", &host.netns, NODE_ONE).mtu(mtu),
                Cable::new("lan", &lan, LAN),
                Cable::new("outside", &outside, OUTSIDE),
                Cable::new("other", &other_node, NODE_TWO),
            ],
            "10.64.1.0/24 via 10.200.0.2
             192.168.1.0/24 via 10.200.0.2
             fd00:64:1::/64 via fd00:200::2
             2001:db8:64:1::/64 via fd00:200::2
             10.64.2.0/24 via 10.200.2.2
             192.168.2.0/24 via 10.200.2.2
             fd00:64:2::/64 via fd00:200:2::2",
        );
        other_node.ip("addr add 10.64.2.7/32 dev lo
             addr add 192.168.2.7/32 dev lo
             addr add fd00:64:2::7/128 dev lo nodad");
        Self {
            router,
            lan,
            outside,
            other_node,
        }
    }
}

/// The addresses at both ends of a link: the router's, the machine's.
type Addresses = &'static [[&'static str; 2]];

pub(crate) const NODE_ONE: Addresses = &[
    ["10.200.0.1/24", "10.200.0.2/24"],
    ["fd00:200::1/64", "fd00:200::2/64"],
    ["2001:db8:200::1/64", "2001:db8:200::2/64"],
];
pub(crate) const NODE_TWO: Addresses = &[
    ["10.200.2.1/24", "10.200.2.2/24"],
    ["fd00:200:2::1/64", "fd00:200:2::2/64"],
    ["2001:db8:200:2::1/64", "2001:db8:200:2::2/64"],
];
pub(crate) const OUTSIDE: Addresses = &[
    ["203.0.113.1/24", "203.0.113.10/24"],
    ["2001:db8:113::1/64", "2001:db8:113::10/64"],
];
const LAN: Addresses = &[
    ["10.250.0.1/24", "10.250.0.10/24"],
    ["fd00:250::1/64", "fd00:250::10/64"],
];

/// The link between the router and one machine, whose end is called `uplink`.
#[derive(Debug)]
pub(crate) struct Cable<'a> {
    name: &'a str,
    machine: &'a Netns,
    addresses: Addresses,
    mtu: u32,
}

impl<'a> Cable<'a> {
    /// `name` is that of the router's end. MTU 1500.
    pub(crate) fn new(name: &'a str, machine: &'a Netns, addresses: Addresses) -> Self {
        Self {
            name,
            machine,
            addresses,
            mtu: 1500,
        }
    }

    pub(crate) fn mtu(self, mtu: u32) -> Self {
        Self { mtu, ..self }
    }

    fn at_the_router(&self) -> String {
        let Self { name, mtu, .. } = self;
        let machine = self.machine.path();
        let machine = machine.display();
        let mut commands = format!(
            "link add {name} mtu {mtu} type veth peer name uplink mtu {mtu} netns {machine}\n"
        );
        end(name, "fe80::1/64", &mut commands);
        for [router, _] in self.addresses {
            address(router, name, &mut commands);
        }
        commands
    }

    /// Its default routes lead to the router's last address of each family.
    fn at_the_machine(&self) -> String {
        let mut commands = "link set lo up\n".to_owned();
        end("uplink", "fe80::2/64", &mut commands);
        for [router, machine] in self.addresses {
            address(machine, "uplink", &mut commands);
            let (router, _) = router.split_once('/').unwrap();
            writeln!(commands, "route replace default via {router}").unwrap();
        }
        commands
    }
}

/// The link has been there for a while: nobody waits a second for his link-local address,
/// without which neighbours cannot be found.
fn end(link: &str, local: &str, commands: &mut String) {
    writeln!(commands, "link set {link} addrgenmode none").unwrap();
    address(local, link, commands);
    writeln!(commands, "link set {link} up").unwrap();
}

fn address(address: &str, link: &str, commands: &mut String) {
    let nodad = if address.contains(':') { "nodad" } else { "" };
    writeln!(commands, "addr add {address} dev {link} {nodad}").unwrap();
}

/// A router with these links and, one a line, these further routes.
pub(crate) fn router(cables: &[Cable], routes: &str) -> Netns {
    let netns = Netns::new();
    netns.sh(
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
    );
    let mut commands: String = cables.iter().map(Cable::at_the_router).collect();
    for route in routes.lines() {
        writeln!(commands, "route add {route}").unwrap();
    }
    netns.ip(&commands);
    for cable in cables {
        cable.machine.ip(&cable.at_the_machine());
    }
    wait_for_the_carriers(&netns, cables.len());
    netns
}

/// The kernel drops what is sent over a link until it has noticed the carrier.
fn wait_for_the_carriers(router: &Netns, count: usize) {
    for _ in 0..500 {
        let links = router.sh("ip -o link show up");
        if links.matches(" state UP ").count() == count {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("the links of the router do not come up");
}
