//! Connection tracking by netlink: entries of one address, listed and deleted.
//!
//! It knows how an entry looks in bytes, and nothing of pods.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    conntrack::{ConntrackMessage, IPTuple, Tuple},
};

use crate::netlink::{Answer, Attributes, Error, Request, Socket};

const IPCTNL_MSG_CT_GET: u8 = 1;
const IPCTNL_MSG_CT_DELETE: u8 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
/// `CTA_FILTER_F_CTA_IP_SRC`: compare the source address and nothing else.
const COMPARE_SOURCE: u32 = 1;
/// How many entries are deleted by one datagram.
const BATCH: usize = 64;

/// A socket to connection tracking in the node's namespace.
#[derive(Debug)]
pub(crate) struct Ctnetlink {
    socket: Socket,
}

/// The side of a connection that an address is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    /// It sent the first packet.
    Asks,
    /// It answers: it was sent the first packet, or that was translated to it.
    Answers,
}

const SIDES: [Side; 2] = [Side::Asks, Side::Answers];

impl Side {
    fn tuple(self) -> u16 {
        match self {
            Self::Asks => CTA_TUPLE_ORIG,
            Self::Answers => CTA_TUPLE_REPLY,
        }
    }
}

/// An entry, as much of it as it takes to name it.
#[derive(Debug)]
pub(crate) struct Entry {
    family: NetfilterProtoFamily,
    /// The attributes by which the kernel finds it, and nothing that came in its place.
    names: Vec<DefaultNla>,
}

impl Ctnetlink {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?,
        })
    }

    /// Has the kernel delete the entries that have an address on one of the sides.
    ///
    /// Since Linux 6.12, before that refused as invalid. In IPv6 it must not be used: the
    /// kernel compares the wrong way round and deletes all entries but those that are meant
    /// (`ctnetlink_filter_match_tuple()`, as of 6.18), so that there is a type against it.
    pub(crate) fn delete_all_of(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        let address = IpAddr::V4(address);
        let request = |side| Request {
            message: envelope(family(address), IPCTNL_MSG_CT_DELETE, filter(address, side)),
            flags: 0,
            answer: Answer::Ack,
            operation: format!("delete the conntrack entries of {address}"),
        };
        self.socket.execute(SIDES.map(request).into(), |_reply| {})
    }

    /// The entries that have an address on one of the sides; one that has it on both, twice.
    ///
    /// In IPv4 the kernel looks for them, since Linux 5.8. What it finds is compared again; what
    /// it does not find is not there, but for the side that answers before 5.10.83 and 5.15.6.
    pub(crate) fn entries_of(&mut self, address: IpAddr) -> Result<Vec<Entry>, Error> {
        let wanted = match address {
            IpAddr::V4(_) => SIDES.map(|side| filter(address, side)).into(),
            // The wrong way round, see above.
            IpAddr::V6(_) => vec![Vec::new()],
        };
        let mut entries = Vec::new();
        for attributes in wanted {
            let request = Request {
                message: envelope(family(address), IPCTNL_MSG_CT_GET, attributes),
                flags: 0,
                answer: Answer::Dump,
                operation: format!("list the conntrack entries of {address}"),
            };
            self.socket.execute(vec![request], |reply| {
                let attributes = reply.payload.get(4..).unwrap_or_default();
                let is_at = |side: &Side| source(attributes, *side) == Some(address);
                if SIDES.iter().any(is_at) {
                    entries.push(entry(address, attributes));
                }
            })?;
        }
        Ok(entries)
    }

    /// Deletes entries, but for those that are gone by themselves. The first other failure
    /// is the answer; the rest is deleted all the same.
    pub(crate) fn delete(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut entries = entries.into_iter().peekable();
        let mut failed = Ok(());
        while entries.peek().is_some() {
            let requests = entries.by_ref().take(BATCH).map(|entry| Request {
                message: envelope(entry.family, IPCTNL_MSG_CT_DELETE, entry.names),
                flags: 0,
                answer: Answer::Ack,
                operation: "delete a conntrack entry".to_owned(),
            });
            for outcome in self.socket.exchange(requests.collect(), |_reply| {})? {
                if outcome.as_ref().is_err_and(|error| !error.is_absent()) {
                    failed = failed.and(outcome);
                }
            }
        }
        failed
    }
}

fn family(address: IpAddr) -> NetfilterProtoFamily {
    match address {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    }
}

/// The library's own attributes would lose the mark of those that have others in them.
fn envelope(
    family: NetfilterProtoFamily,
    message_type: u8,
    attributes: Vec<DefaultNla>,
) -> NetfilterMessage {
    let message = ConntrackMessage::Other {
        message_type,
        attributes,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// Entries with this source address in the direction that begins on the side, whatever else.
///
/// The tuple is always there: a deletion without one would be of the whole table.
fn filter(address: IpAddr, side: Side) -> Vec<DefaultNla> {
    let addresses = Tuple::Ip(vec![IPTuple::SourceAddress(address)]);
    let mut tuple = vec![0; addresses.buffer_len()];
    addresses.emit(&mut tuple);
    let (original, reply) = match side {
        Side::Asks => (COMPARE_SOURCE, 0),
        Side::Answers => (0, COMPARE_SOURCE),
    };
    let flags = [
        flag_attribute(CTA_FILTER_ORIG_FLAGS, original),
        flag_attribute(CTA_FILTER_REPLY_FLAGS, reply),
    ];
    vec![
        DefaultNla::new(side.tuple() | NLA_F_NESTED, tuple),
        DefaultNla::new(CTA_FILTER | NLA_F_NESTED, flags.concat()),
    ]
}

fn flag_attribute(kind: u16, flags: u32) -> [u8; 8] {
    let [l0, l1] = 8_u16.to_ne_bytes();
    let [k0, k1] = kind.to_ne_bytes();
    let [f0, f1, f2, f3] = flags.to_ne_bytes();
    [l0, l1, k0, k1, f0, f1, f2, f3]
}

/// What names an entry: its first direction, its zone if it is in one, and its number, so
/// that one that was made in its place meanwhile stays.
fn entry(address: IpAddr, attributes: &[u8]) -> Entry {
    let names = Attributes(attributes).filter_map(|(kind, value)| match kind {
        CTA_TUPLE_ORIG => Some(DefaultNla::new(kind | NLA_F_NESTED, value.to_vec())),
        CTA_ZONE | CTA_ID => Some(DefaultNla::new(kind, value.to_vec())),
        _ => None,
    });
    Entry {
        family: family(address),
        names: names.collect(),
    }
}

/// The source address of the direction that begins on the side.
fn source(attributes: &[u8], side: Side) -> Option<IpAddr> {
    let tuple = find(attributes, |kind| kind == side.tuple())?.1;
    let addresses = find(tuple, |kind| kind == CTA_TUPLE_IP)?.1;
    match find(addresses, |kind| {
        [CTA_IP_V4_SRC, CTA_IP_V6_SRC].contains(&kind)
    })? {
        (CTA_IP_V4_SRC, value) => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        (_, value) => Some(IpAddr::from(*value.first_chunk::<16>()?)),
    }
}

fn find(attributes: &[u8], is_wanted: impl Fn(u16) -> bool) -> Option<(u16, &[u8])> {
    Attributes(attributes).find(|(kind, _)| is_wanted(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As the kernel lists one: from `asks` to somebody, and answered by `answers`.
    fn listed(asks: IpAddr, answers: IpAddr) -> Vec<u8> {
        let tuple = |kind: u16, address: IpAddr| {
            let source = match address {
                IpAddr::V4(address) => attribute(CTA_IP_V4_SRC, &address.octets()),
                IpAddr::V6(address) => attribute(CTA_IP_V6_SRC, &address.octets()),
            };
            let nested = attribute(CTA_TUPLE_IP | NLA_F_NESTED, &source);
            attribute(kind | NLA_F_NESTED, &nested)
        };
        [
            tuple(CTA_TUPLE_ORIG, asks),
            tuple(CTA_TUPLE_REPLY, answers),
            attribute(CTA_ID, &[1, 2, 3, 4]),
            attribute(7, &[0, 0, 0, 30]),
        ]
        .concat()
    }

    #[test]
    fn an_entry_is_known_by_both_of_its_sides() {
        for [asks, answers] in [["10.64.1.2", "10.64.1.3"], ["fd00::2", "fd00::3"]] {
            let [asks, answers] = [asks, answers].map(|text| text.parse().unwrap());
            let attributes = listed(asks, answers);
            assert_eq!(source(&attributes, Side::Asks), Some(asks));
            assert_eq!(source(&attributes, Side::Answers), Some(answers));
        }
        assert_eq!(source(&[], Side::Asks), None);
    }

    #[test]
    fn an_entry_is_named_by_its_first_direction_and_its_number() {
        let address = "10.64.1.2".parse().unwrap();
        let entry = entry(address, &listed(address, address));
        let kinds: Vec<u16> = entry
            .names
            .iter()
            .map(netlink_packet_core::Nla::kind)
            .collect();
        assert_eq!(kinds, [CTA_TUPLE_ORIG | NLA_F_NESTED, CTA_ID]);
    }

    /// Without it a deletion would be of all that the node tracks.
    #[test]
    fn a_filter_never_comes_without_an_address() {
        for side in SIDES {
            let attributes = filter("10.64.1.2".parse().unwrap(), side);
            let mut bytes = vec![0; attributes.as_slice().buffer_len()];
            attributes.as_slice().emit(&mut bytes);
            assert_eq!(source(&bytes, side), Some("10.64.1.2".parse().unwrap()));
            let flags = find(&bytes, |kind| kind == CTA_FILTER).unwrap().1;
            let own = match side {
                Side::Asks => CTA_FILTER_ORIG_FLAGS,
                Side::Answers => CTA_FILTER_REPLY_FLAGS,
            };
            let compared = find(flags, |kind| kind == own).unwrap().1;
            assert_eq!(compared, COMPARE_SOURCE.to_ne_bytes());
        }
    }
}
