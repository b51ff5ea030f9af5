//! Two nodes, a router that knows only their static routes, as a cloud's does, and a host
//! outside.
//!
//! ```text
//! node one 10.200.0.2  2001:db8:200::2   ─┐
//!     pods 10.64.1.0/24  fd00:64:1::/64   ├─ router ── outside 203.0.113.10  2001:db8:113::10
//! node two 10.200.2.2  2001:db8:200:2::2 ─┘
//!     pods 10.64.2.0/24  fd00:64:2::/64
//! ```

use std::{fs::File, thread};

use nix::sched::{self, CloneFlags};
use serde_json::{Value, json};

use crate::{
    Container, Host, Netns, conf,
    namespace::{enter_new, joined},
    wire::{self, Cable},
};

/// The whole of it. Everything is gone with this value.
#[derive(Debug)]
pub struct Lab {
    /// The node 10.200.0.2.
    pub one: Node,
    /// The node 10.200.2.2.
    pub two: Node,
    /// What connects the three others.
    pub router: Netns,
    /// A host in the Internet.
    pub outside: Netns,
}

impl Lab {
    /// One with an MTU of 1500 everywhere.
    #[expect(clippy::new_without_default, reason = "it makes kernel objects")]
    pub fn new() -> Self {
        Self::with_mtu(1500)
    }

    /// The same with another MTU of all links of the router.
    pub fn with_mtu(mtu: u32) -> Self {
        let one = Node::new("one", 1);
        let two = Node::new("two", 2);
        let outside = Netns::new();
        let router = wire::router(
            &[
                Cable::new("one", &one.netns, wire::NODE_ONE).mtu(mtu),
                Cable::new("two", &two.netns, wire::NODE_TWO).mtu(mtu),
                Cable::new("outside", &outside, wire::OUTSIDE).mtu(mtu),
            ],
            "10.64.1.0/24 via 10.200.0.2
             fd00:64:1::/64 via fd00:200::2
             10.64.2.0/24 via 10.200.2.2
             fd00:64:2::/64 via fd00:200:2::2",
        );
        Self {
            one,
            two,
            router,
            outside,
        }
    }

    /// Two pods on node one and one on node two, each with the first free address.
    pub fn pods(&self, conf: impl Fn(&Node) -> Value) -> Pods {
        let pod = |node: &Node| {
            let conf = conf(node);
            node.run(|host| host.pod(&conf).0)
        };
        Pods {
            first: pod(&self.one),
            second: pod(&self.one),
            other: pod(&self.two),
        }
    }
}

/// The pods of a lab.
#[derive(Debug)]
pub struct Pods {
    /// On node one.
    pub first: Container,
    /// On node one too.
    pub second: Container,
    /// On node two.
    pub other: Container,
}

/// The addresses of the lab, all of one family.
#[derive(Debug)]
pub struct Family {
    /// The first pod of node one.
    pub first: &'static str,
    /// The second pod of node one.
    pub second: &'static str,
    /// The first pod of node two.
    pub other: &'static str,
    /// Node one on its bridge.
    pub gateway: &'static str,
    /// Node one, as the cluster knows it.
    pub one: &'static str,
    /// Node two, as the cluster knows it.
    pub two: &'static str,
    /// Node one, when it speaks with the outside.
    pub public_one: &'static str,
    /// Node two, when it speaks with the outside.
    pub public_two: &'static str,
    /// The host outside.
    pub outside: &'static str,
}

/// IPv4.
pub const IPV4: Family = Family {
    first: "10.64.1.2",
    second: "10.64.1.3",
    other: "10.64.2.2",
    gateway: "10.64.1.1",
    one: "10.200.0.2",
    two: "10.200.2.2",
    public_one: "10.200.0.2",
    public_two: "10.200.2.2",
    outside: "203.0.113.10",
};

/// IPv6.
pub const IPV6: Family = Family {
    first: "fd00:64:1::2",
    second: "fd00:64:1::3",
    other: "fd00:64:2::2",
    gateway: "fd00:64:1::1",
    one: "fd00:200::2",
    two: "fd00:200:2::2",
    public_one: "2001:db8:200::2",
    public_two: "2001:db8:200:2::2",
    outside: "2001:db8:113::10",
};

/// A node with network and mounts of its own, so that it shares nothing with the other:
/// no link, no rule, no lease.
#[derive(Debug)]
pub struct Node {
    /// Its network namespace.
    pub netns: Netns,
    /// Which one it is: the third number of its pods' addresses.
    pub number: u8,
    host: Host,
    mounts: File,
}

impl Node {
    /// One that is connected to nothing.
    pub fn new(name: &str, number: u8) -> Self {
        let inside = || {
            let host = Host::enter(name);
            let mounts = File::open("/proc/thread-self/ns/mnt").expect("cannot open /proc");
            (Netns::current(), host, mounts)
        };
        let (netns, host, mounts) = thread::scope(|scope| joined(scope.spawn(inside).join()));
        Self {
            netns,
            number,
            host,
            mounts,
        }
    }

    /// Runs `work` on a thread of this node, and returns what it returns.
    pub fn run<T: Send>(&self, work: impl FnOnce(&Host) -> T + Send) -> T {
        let inside = || {
            self.netns.enter();
            self.enter_mounts();
            work(&self.host)
        };
        thread::scope(|scope| joined(scope.spawn(inside).join()))
    }

    fn enter_mounts(&self) {
        // The kernel moves only who shares his root and working directory with no one.
        enter_new(CloneFlags::CLONE_FS);
        #[expect(clippy::disallowed_methods, reason = "the harness's way into a node")]
        sched::setns(&self.mounts, CloneFlags::CLONE_NEWNS).expect("cannot enter a node");
    }

    /// Its pod CIDRs, IPv4 first.
    pub fn pod_cidrs(&self) -> [String; 2] {
        let n = self.number;
        [format!("10.64.{n}.0/24"), format!("fd00:64:{n}::/64")]
    }

    /// Both pod CIDRs, in few words: all our defaults.
    pub fn smallest(&self) -> Value {
        let ranges = self.pod_cidrs().map(|subnet| json!([{ "subnet": subnet }]));
        let ipam = json!({ "subnet": null, "ranges": ranges });
        conf::with(&conf::smallest(), &json!({ "ipam": ipam }))
    }
}
