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

use std::{thread, time::Duration};

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
        let world = Self {
            router: Netns::new(),
            lan: Netns::new(),
            outside: Netns::new(),
            other_node: Netns::new(),
        };
        world.set_up_router(host, mtu);
        set_up_node(host);
        end(
            &world.lan,
            "10.250.0.10/24 10.250.0.1 fd00:250::10/64 fd00:250::1",
        );
        end(
            &world.outside,
            "203.0.113.10/24 203.0.113.1 2001:db8:113::10/64 2001:db8:113::1",
        );
        end(
            &world.other_node,
            "10.200.2.2/24 10.200.2.1 fd00:200:2::2/64 fd00:200:2::1",
        );
        world.other_node.ip("addr add 10.64.2.7/32 dev lo
             addr add 192.168.2.7/32 dev lo
             addr add fd00:64:2::7/128 dev lo nodad");
        world.wait_for_the_router();
        world
    }

    /// The kernel drops what is sent over a link until it has noticed the carrier.
    fn wait_for_the_router(&self) {
        for _ in 0..500 {
            let links = self.router.sh("ip -o link show up");
            if links.matches(" state UP ").count() == 4 {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the links of the router do not come up");
    }

    fn set_up_router(&self, host: &Host, mtu: u32) {
        let links = [
            ("node", &host.netns, "uplink"),
            ("lan", &self.lan, "eth0"),
            ("outside", &self.outside, "eth0"),
            ("other", &self.other_node, "eth0"),
        ];
        let links = links.map(|(name, netns, peer)| {
            let path = netns.path();
            let mtu = if name == "node" { mtu } else { 1500 };
            format!(
                "link add {name} mtu {mtu} type veth peer name {peer} mtu {mtu} netns {}\n\
                 link set {name} up\n",
                path.display()
            )
        });
        for netns in [&self.router, &self.lan, &self.outside, &self.other_node] {
            without_duplicate_detection(netns);
        }
        self.router.sh(
            "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        );
        self.router.ip(&links.concat());
        self.router.ip("addr add 10.200.0.1/24 dev node
             addr add fd00:200::1/64 dev node nodad
             addr add 2001:db8:200::1/64 dev node nodad
             addr add 10.250.0.1/24 dev lan
             addr add fd00:250::1/64 dev lan nodad
             addr add 203.0.113.1/24 dev outside
             addr add 2001:db8:113::1/64 dev outside nodad
             addr add 10.200.2.1/24 dev other
             addr add fd00:200:2::1/64 dev other nodad
             route add 10.64.1.0/24 via 10.200.0.2
             route add 192.168.1.0/24 via 10.200.0.2
             route add fd00:64:1::/64 via fd00:200::2
             route add 2001:db8:64:1::/64 via fd00:200::2
             route add 10.64.2.0/24 via 10.200.2.2
             route add 192.168.2.0/24 via 10.200.2.2
             route add fd00:64:2::/64 via fd00:200:2::2");
    }
}

/// The world has been there for a while: nobody waits a second for his link-local address,
/// without which neighbours cannot be found.
fn without_duplicate_detection(netns: &Netns) {
    netns.sh("cd /proc/sys/net/ipv6/conf; echo 0 >all/accept_dad; echo 0 >default/accept_dad");
}

fn set_up_node(host: &Host) {
    // A node that has been up for a while has its link-local address.
    host.netns.ip("link set uplink addrgenmode none
         addr add fe80::2/64 dev uplink nodad
         link set uplink up
         addr add 10.200.0.2/24 dev uplink
         addr add fd00:200::2/64 dev uplink nodad
         addr add 2001:db8:200::2/64 dev uplink nodad
         route add default via 10.200.0.1
         route add default via 2001:db8:200::1");
}

/// A host with one link: "address4 gateway4 address6 gateway6".
fn end(netns: &Netns, addresses: &str) {
    let words: Vec<&str> = addresses.split(' ').collect();
    let [address4, gateway4, address6, gateway6] = *words.as_slice() else {
        panic!("not four addresses: {addresses}");
    };
    netns.ip(&format!(
        "link set lo up
         link set eth0 up
         addr add {address4} dev eth0
         addr add {address6} dev eth0 nodad
         route add default via {gateway4}
         route add default via {gateway6}"
    ));
}
