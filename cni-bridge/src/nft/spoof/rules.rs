//! The rules of the check, as data: the same for any number of ports.
//!
//! ```text
//! prerouting ─ port is checked → checked ─ own MAC address; port has addresses → addresses
//! addresses  ─ IPv4 with an own source · ARP → arp_claims · IPv6 → ipv6_sources · nothing else
//! ipv6_sources ─ own source → ipv6_claims (neighbour discovery) · none → ipv6_unspecified
//! ```
//!
//! A rule that cannot read something of a packet, because it is too short, matches nothing
//! (`NFT_BREAK`): so what is right is let through, and the last rule of a chain drops.
//! It knows nothing of ports and of what is in the kernel.

/// Raised with every change of the rules: a node that has older ones gets these with its next
/// ADD. A test compares it with the rules' bytes.
pub(super) const FORMAT: u32 = 2;

pub(super) const PREROUTING: &str = "prerouting";
pub(super) const CHECKED: &str = "checked";
pub(super) const ADDRESSES: &str = "addresses";
pub(super) const ARP_CLAIMS: &str = "arp_claims";
pub(super) const IPV6_SOURCES: &str = "ipv6_sources";
pub(super) const IPV6_CLAIMS: &str = "ipv6_claims";
pub(super) const IPV6_UNSPECIFIED: &str = "ipv6_unspecified";

/// The chains that are called from `prerouting`. None has the name of a word of nft's
/// language: `nft list ruleset` could not be read back.
pub(super) const CALLED: [&str; 6] = [
    CHECKED,
    ADDRESSES,
    ARP_CLAIMS,
    IPV6_SOURCES,
    IPV6_CLAIMS,
    IPV6_UNSPECIFIED,
];

/// The sets that the rules look ports up in.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Set {
    /// The ports that are checked.
    Ports,
    /// Pairs of port and MAC address.
    Senders,
    /// The ports of which IP addresses are checked too.
    Addressed,
    /// Pairs of port and IPv4 address.
    Addresses4,
    /// Pairs of port and IPv6 address.
    Addresses6,
}

impl Set {
    pub(super) const ALL: [Self; 5] = [
        Self::Ports,
        Self::Senders,
        Self::Addressed,
        Self::Addresses4,
        Self::Addresses6,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Senders => "senders",
            Self::Addressed => "addressed",
            Self::Addresses4 => "addresses4",
            Self::Addresses6 => "addresses6",
        }
    }
}

/// Some bytes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Field {
    pub(super) header: Header,
    /// In bytes.
    pub(super) offset: u32,
    /// In bytes.
    pub(super) length: u32,
}

/// What a field is counted from; the numbers are nftables' (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Header {
    Link = 0,
    Network = 1,
    /// Behind all of IPv6's extension headers, and not there in a later fragment.
    Transport = 2,
}

const fn link(offset: u32, length: u32) -> Field {
    Field {
        header: Header::Link,
        offset,
        length,
    }
}

const fn network(offset: u32, length: u32) -> Field {
    Field {
        header: Header::Network,
        offset,
        length,
    }
}

const fn transport(offset: u32, length: u32) -> Field {
    Field {
        header: Header::Transport,
        offset,
        length,
    }
}

const ETHER_SOURCE: Field = link(6, 6);
/// Of a frame with a VLAN tag, the tag's type, also where the kernel keeps the tag beside the
/// frame (`nft_payload_copy_vlan()`): such frames are neither of IP nor of ARP here.
const ETHER_TYPE: Field = link(12, 2);
/// Hardware and protocol, and the lengths of their addresses: all else is of no fixed place.
const ARP_KIND: Field = network(0, 6);
const ARP_OPERATION: Field = network(6, 2);
const ARP_SENDER_MAC: Field = network(8, 6);
const ARP_SENDER: Field = network(14, 4);
const ARP_TARGET: Field = network(24, 4);
const IPV4_SOURCE: Field = network(12, 4);
const IPV6_SOURCE: Field = network(8, 16);
const ICMPV6_TYPE: Field = transport(0, 1);
/// Of a neighbour solicitation or advertisement.
const NEIGHBOUR_TARGET: Field = transport(8, 16);

const IPV4: &[u8] = &[0x08, 0x00];
const ARP: &[u8] = &[0x08, 0x06];
const IPV6: &[u8] = &[0x86, 0xdd];
const ARP_OF_IPV4: &[u8] = &[0, 1, 0x08, 0x00, 6, 4];
const ARP_REQUEST: &[u8] = &[0, 1];
const ICMPV6: u8 = 58;
const LISTENER_REPORT: &[u8] = &[131];
const LISTENER_DONE: &[u8] = &[132];
const ROUTER_ADVERTISEMENT: &[u8] = &[134];
const NEIGHBOUR_SOLICITATION: &[u8] = &[135];
const NEIGHBOUR_ADVERTISEMENT: &[u8] = &[136];
const REDIRECT: &[u8] = &[137];
const LISTENER_REPORT_2: &[u8] = &[143];

/// What a rule asks of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Match {
    /// The port is in this set.
    Port(Set),
    /// The pair of port and field is in this set.
    Own(Set, Field),
    NotOwn(Set, Field),
    Is(Field, &'static [u8]),
    Below(Field, &'static [u8]),
    Above(Field, &'static [u8]),
    /// The destination is one of 01:80:c2:00:00:00 to :0f, which bridges keep to themselves.
    Reserved,
    /// The protocol behind all of IPv6's extension headers.
    Protocol(u8),
    NotProtocol(u8),
    /// A fragment, and not the first one.
    LaterFragment,
}

/// What becomes of a packet of which everything is so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Then {
    Accept,
    Drop,
    /// To a chain that comes back.
    Jump(&'static str),
    /// To a chain that does not.
    Goto(&'static str),
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    /// What it is for: its name among the rules of its chain.
    pub(super) comment: &'static str,
    pub(super) matches: &'static [Match],
    pub(super) then: Then,
}

const fn rule(
    chain: &'static str,
    comment: &'static str,
    matches: &'static [Match],
    then: Then,
) -> Rule {
    Rule {
        chain,
        comment,
        matches,
        then,
    }
}

use Match::{Above, Below, Is, LaterFragment, NotOwn, NotProtocol, Own, Port, Protocol, Reserved};
use Set::{Addressed, Addresses4, Addresses6, Ports, Senders};
use Then::{Accept, Drop, Goto, Jump};

/// All rules, chain by chain, in their order. The tests know a packet for each.
///
/// Types and protocols that a chain has settled are asked for again where nft(8) prints the
/// rest of the rule by their names then.
pub(super) const RULES: &[Rule] = &[
    rule(
        PREROUTING,
        "other ports pay no more than this",
        &[Port(Ports)],
        Jump(CHECKED),
    ),
    // The bridge learns the sender of such frames and hands them to the port's own IP, some
    // without any hook (`br_handle_frame()`). A checked port has them pass here instead, by its
    // group_fwd_mask.
    rule(
        CHECKED,
        "nothing to what bridges keep to themselves",
        &[Reserved],
        Drop,
    ),
    rule(
        CHECKED,
        "own MAC address",
        &[NotOwn(Senders, ETHER_SOURCE)],
        Drop,
    ),
    rule(
        CHECKED,
        "and own IP addresses",
        &[Port(Addressed)],
        Goto(ADDRESSES),
    ),
    rule(
        ADDRESSES,
        "own IPv4 address",
        &[Is(ETHER_TYPE, IPV4), Own(Addresses4, IPV4_SOURCE)],
        Accept,
    ),
    rule(
        ADDRESSES,
        "IPv6",
        &[Is(ETHER_TYPE, IPV6)],
        Goto(IPV6_SOURCES),
    ),
    rule(
        ADDRESSES,
        "ARP",
        &[Is(ETHER_TYPE, ARP), Is(ARP_KIND, ARP_OF_IPV4)],
        Goto(ARP_CLAIMS),
    ),
    rule(ADDRESSES, "no other protocol, no VLAN tag", &[], Drop),
    rule(
        ARP_CLAIMS,
        "own MAC address in ARP",
        &[Is(ETHER_TYPE, ARP), NotOwn(Senders, ARP_SENDER_MAC)],
        Drop,
    ),
    rule(
        ARP_CLAIMS,
        "own address in ARP",
        &[Is(ETHER_TYPE, ARP), Own(Addresses4, ARP_SENDER)],
        Accept,
    ),
    rule(
        ARP_CLAIMS,
        "probe for an own address",
        &[
            Is(ETHER_TYPE, ARP),
            Is(ARP_OPERATION, ARP_REQUEST),
            Is(ARP_SENDER, &[0; 4]),
            Own(Addresses4, ARP_TARGET),
        ],
        Accept,
    ),
    rule(ARP_CLAIMS, "no other claim", &[], Drop),
    rule(
        IPV6_SOURCES,
        "own IPv6 address",
        &[Is(ETHER_TYPE, IPV6), Own(Addresses6, IPV6_SOURCE)],
        Goto(IPV6_CLAIMS),
    ),
    rule(
        IPV6_SOURCES,
        "no address yet",
        &[Is(ETHER_TYPE, IPV6), Is(IPV6_SOURCE, &[0; 16])],
        Goto(IPV6_UNSPECIFIED),
    ),
    rule(IPV6_SOURCES, "no other source", &[], Drop),
    rule(IPV6_CLAIMS, "not ICMPv6", &[NotProtocol(ICMPV6)], Accept),
    // Without a first one that passes below it comes to nothing. The next rules would take its
    // IPv6 header for its ICMPv6 (`nft_payload_fast_eval()`).
    rule(IPV6_CLAIMS, "later fragment", &[LaterFragment], Accept),
    rule(
        IPV6_CLAIMS,
        "errors, echo, multicast listeners, question for a router",
        &[Protocol(ICMPV6), Below(ICMPV6_TYPE, ROUTER_ADVERTISEMENT)],
        Accept,
    ),
    rule(
        IPV6_CLAIMS,
        "not neighbour discovery",
        &[Protocol(ICMPV6), Above(ICMPV6_TYPE, REDIRECT)],
        Accept,
    ),
    rule(
        IPV6_CLAIMS,
        "question for a neighbour",
        &[Protocol(ICMPV6), Is(ICMPV6_TYPE, NEIGHBOUR_SOLICITATION)],
        Accept,
    ),
    rule(
        IPV6_CLAIMS,
        "own address in neighbour discovery",
        &[
            Protocol(ICMPV6),
            Is(ICMPV6_TYPE, NEIGHBOUR_ADVERTISEMENT),
            Own(Addresses6, NEIGHBOUR_TARGET),
        ],
        Accept,
    ),
    rule(
        IPV6_CLAIMS,
        "no router advertisement, no redirect, no other claim",
        &[],
        Drop,
    ),
    rule(
        IPV6_UNSPECIFIED,
        "multicast listener report",
        &[Protocol(ICMPV6), Is(ICMPV6_TYPE, LISTENER_REPORT)],
        Accept,
    ),
    rule(
        IPV6_UNSPECIFIED,
        "multicast listener done",
        &[Protocol(ICMPV6), Is(ICMPV6_TYPE, LISTENER_DONE)],
        Accept,
    ),
    rule(
        IPV6_UNSPECIFIED,
        "multicast listener report, version 2",
        &[Protocol(ICMPV6), Is(ICMPV6_TYPE, LISTENER_REPORT_2)],
        Accept,
    ),
    rule(
        IPV6_UNSPECIFIED,
        "probe for an own address",
        &[
            Protocol(ICMPV6),
            Is(ICMPV6_TYPE, NEIGHBOUR_SOLICITATION),
            Own(Addresses6, NEIGHBOUR_TARGET),
        ],
        Accept,
    ),
    rule(
        IPV6_UNSPECIFIED,
        "nothing else without an address",
        &[],
        Drop,
    ),
];
