//! The packets in question: a new connection of a pod, or to one, as the forward hook sees it.
//!
//! Knows headers and what the kernel notes about a packet, as the numbers of nftables have
//! them; no rules.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::value::Value;

/// `NFT_META_*` (`nf_tables.h`).
const META_PROTOCOL: u32 = 1;
const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// `NFT_CT_*`.
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`, the same number in nftables and in iptables.
pub(super) const STATE_NEW: u8 = 8;
/// Bits of `enum ip_conntrack_status` that no new connection has which nobody has redirected:
/// expected, seen reply, assured, confirmed, source and destination changed.
pub(super) const STATUS_OFF: u32 = 0x3f;
/// Where expressions of nftables begin to count.
const BASE_NETWORK: u32 = 1;
/// `IFNAMSIZ`.
const NAME: usize = 16;

/// An IP version. It is what decides which chains a packet comes to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Version {
    V4,
    V6,
}

impl Version {
    pub(crate) fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// A link of the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// `None` when it is not there yet.
    pub(crate) index: Option<u32>,
}

/// Where a new connection goes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Direction {
    Out,
    In,
    /// Between two pods: the bridge has IP's hooks called for what it passes on.
    Across,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "from pods to the outside",
            Self::In => "from the outside to pods",
            Self::Across => "between pods of this node",
        })
    }
}

/// A transport that pods need: iptables and nftables tell them apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    Tcp = 6,
    Udp = 17,
}

/// All packets that begin a connection in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) direction: Direction,
    pub(crate) transport: Transport,
    pub(crate) version: Version,
    /// By which the pods' packets come and go.
    pub(crate) pods_link: &'a Link,
    /// Towards the outside. `None` when it may be any.
    pub(crate) uplink: Option<&'a Link>,
    /// One network of the pods.
    pub(crate) network: IpNet,
    /// What nobody outside has for an address.
    pub(crate) networks: &'a [IpNet],
    /// Nothing before the forward hook changes marks: it is 0.
    pub(crate) unmarked: bool,
    /// Nothing before the forward hook takes packets out of connection tracking.
    pub(crate) tracked: bool,
}

impl Packet<'_> {
    /// What the kernel notes about the packet.
    pub(super) fn meta(&self, key: u32) -> Value {
        let ends = (
            self.direction != Direction::In,
            self.direction != Direction::Out,
        );
        match key {
            META_PROTOCOL => Value::exactly(match self.version {
                Version::V4 => &[0x08, 0x00],
                Version::V6 => &[0x86, 0xdd],
            }),
            META_MARK if self.unmarked => Value::exactly(&[0; 4]),
            META_IIF => self.index(ends.0),
            META_OIF => self.index(ends.1),
            META_IIFNAME => self.name(ends.0),
            META_OIFNAME => self.name(ends.1),
            META_NFPROTO => Value::exactly(match self.version {
                Version::V4 => &[2],
                Version::V6 => &[10],
            }),
            META_L4PROTO => Value::exactly(&[self.transport as u8]),
            _ => Value::unknown(NAME),
        }
    }

    fn index(&self, of_pods: bool) -> Value {
        let link = if of_pods {
            Some(self.pods_link)
        } else {
            self.uplink
        };
        let number = link.and_then(|link| link.index);
        let value = number.map_or_else(
            || Value::unknown(4),
            |number| Value::exactly(&number.to_ne_bytes()),
        );
        if of_pods { value.of_pods() } else { value }
    }

    fn name(&self, of_pods: bool) -> Value {
        let padded = |link: &Link| {
            let mut name = link.name.clone().into_bytes();
            name.resize(NAME, 0);
            Value::exactly(&name)
        };
        if of_pods {
            padded(self.pods_link).of_pods()
        } else {
            self.uplink.map_or(Value::unknown(NAME), padded)
        }
    }

    /// What connection tracking knows of it.
    pub(super) fn connection(&self, key: u32) -> Value {
        match key {
            CT_STATE if self.tracked => Value::exactly(&u32::from(STATE_NEW).to_ne_bytes()),
            CT_DIRECTION => Value::exactly(&[0]),
            CT_STATUS => Value::partly(&[0; 4], &STATUS_OFF.to_ne_bytes()),
            _ => Value::unknown(NAME),
        }
    }

    /// A part of a header.
    pub(super) fn payload(&self, base: u32, offset: usize, length: usize) -> Value {
        if base != BASE_NETWORK {
            return Value::unknown(length);
        }
        let ((protocol, source, destination), size) = match self.version {
            Version::V4 => ((9, 12, 16), 4),
            Version::V6 => ((6, 8, 24), 16),
        };
        let part = |start: usize| offset.wrapping_sub(start)..(offset + length).wrapping_sub(start);
        let inside = |start: usize, size: usize| offset >= start && offset + length <= start + size;
        if inside(protocol, 1) {
            Value::exactly(&[self.transport as u8])
        } else if inside(source, size) {
            self.address(self.direction != Direction::In)
                .part(part(source))
        } else if inside(destination, size) {
            self.address(self.direction != Direction::Out)
                .part(part(destination))
        } else if inside(source, 2 * size) && offset == source {
            // Both addresses at once, as nft loads what it compares in one go.
            let mut both = self.address(self.direction != Direction::In);
            both.append(self.address(self.direction != Direction::Out));
            both.part(part(source))
        } else {
            Value::unknown(length)
        }
    }

    pub(super) fn address(&self, of_pod: bool) -> Value {
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let parts = |net: &IpNet| (bytes(net.network()), bytes(net.netmask()));
        if of_pod {
            let (bits, mask) = parts(&self.network);
            return Value::partly(&bits, &mask).of_pods();
        }
        let size = bytes(self.network.addr()).len();
        self.networks
            .iter()
            .filter(|net| Version::of(net) == self.version)
            .map(parts)
            .fold(Value::unknown(size), |value, (bits, mask)| {
                value.but_not(&bits, &mask)
            })
    }
}
