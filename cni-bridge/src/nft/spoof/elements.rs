//! The elements of the check: what is in the sets for a port, as `nf_tables` has it and as a
//! person reads it.

use std::{fmt, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetAttribute, SetElementAttribute,
    SetElementList, SetElementMessage, SetMessage,
};

use super::{FAMILY, rules::Set};
use crate::{
    guard::{Guard, link_local},
    mac::Mac,
    netlink::{Answer, Attributes, Error, Request, text_of},
    nft::{self, Batch, Nft, TABLE},
};

/// nft's own numbers of its types (`enum datatypes`), and how it joins two of them.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_ETHER: u32 = 9;
const TYPE_IFNAME: u32 = 41;
const TYPE_BITS: u32 = 6;
/// `IFNAMSIZ`, in bytes.
const NAME: usize = 16;
/// An Ethernet address is filled up to whole registers of 4 bytes.
const ETHER: usize = 8;
/// `NFTNL_UDATA_SET_KEYBYTEORDER`, four bytes, and nft's `BYTEORDER_HOST_ENDIAN`.
const UDATA_BYTE_ORDER: [u8; 2] = [0, 4];
const HOST_ENDIAN: u32 = 1;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const FIRST: u16 = 1;
/// How many elements go into one message: an attribute has at most 64 KiB.
const PART: usize = 1000;

/// What a port has in one of the sets.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Element {
    pub(super) port: String,
    pub(super) key: Key,
}

/// What stands behind the port's name; that it stands in which set follows from it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    Port,
    Sender([u8; 6]),
    Addressed,
    Address(IpAddr),
}

impl Key {
    pub(super) fn set(self) -> Set {
        match self {
            Self::Port => Set::Ports,
            Self::Sender(_) => Set::Senders,
            Self::Addressed => Set::Addressed,
            Self::Address(IpAddr::V4(_)) => Set::Addresses4,
            Self::Address(IpAddr::V6(_)) => Set::Addresses6,
        }
    }
}

/// As nft(8) prints it.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = &self.port;
        match self.key {
            Key::Port | Key::Addressed => f.write_str(port),
            Key::Sender(mac) => write!(f, "{port} . {}", Mac(mac)),
            Key::Address(address) => write!(f, "{port} . {address}"),
        }
    }
}

/// All elements that a guard is.
pub(super) fn of(guard: &Guard) -> Vec<Element> {
    let mut keys = vec![Key::Port, Key::Sender(guard.mac.0)];
    if let Some(addresses) = &guard.addresses {
        keys.extend([Key::Addressed, Key::Address(link_local(guard.mac).into())]);
        keys.extend(addresses.iter().copied().map(Key::Address));
    }
    let element = |key| Element {
        port: guard.port.to_string(),
        key,
    };
    keys.into_iter().map(element).collect()
}

impl Element {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.port.as_bytes().to_vec();
        bytes.resize(NAME, 0);
        match self.key {
            Key::Port | Key::Addressed => {}
            Key::Sender(mac) => {
                bytes.extend(mac);
                bytes.resize(NAME + ETHER, 0);
            }
            Key::Address(IpAddr::V4(address)) => bytes.extend(address.octets()),
            Key::Address(IpAddr::V6(address)) => bytes.extend(address.octets()),
        }
        bytes
    }

    /// `None` for a key that no set of ours has.
    fn parse(set: Set, bytes: &[u8]) -> Option<Self> {
        let (port, rest) = bytes.split_at_checked(NAME)?;
        let key = match set {
            Set::Ports => Key::Port,
            Set::Senders => Key::Sender(*rest.first_chunk()?),
            Set::Addressed => Key::Addressed,
            Set::Addresses4 => Key::Address(IpAddr::from(*rest.first_chunk::<4>()?)),
            Set::Addresses6 => Key::Address(IpAddr::from(*rest.first_chunk::<16>()?)),
        };
        Some(Self {
            port: text_of(port),
            key,
        })
    }

    fn attribute(&self) -> ListAttribute<SetElementAttribute> {
        let key = SetElementAttribute::Key(DataAttribute::Value(self.bytes()));
        ListAttribute::Element(vec![key])
    }
}

impl Set {
    /// nft's type of the keys, and their length in bytes.
    fn key(self) -> (u32, usize) {
        let with = |other| TYPE_IFNAME << TYPE_BITS | other;
        match self {
            Self::Ports | Self::Addressed => (TYPE_IFNAME, NAME),
            Self::Senders => (with(TYPE_ETHER), NAME + ETHER),
            Self::Addresses4 => (with(TYPE_IPV4), NAME + 4),
            Self::Addresses6 => (with(TYPE_IPV6), NAME + 16),
        }
    }
}

/// All that is in a set; nothing when there is no such set.
pub(super) fn list(nft: &mut Nft, set: Set) -> Result<Vec<Element>, Error> {
    let message = NfTablesMessage::GetSetElement(message(set, Vec::new()));
    let operation = format!("list set {} of nftables table bridge {TABLE}", set.name());
    let mut elements = Vec::new();
    nft.list(&operation, &nft::envelope(FAMILY, message), |payload| {
        let attributes = Attributes(payload.get(4..).unwrap_or_default());
        for (_, list) in attributes.filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS) {
            elements.extend(Attributes(list).filter_map(|(_, element)| read(set, element)));
        }
    })?;
    Ok(elements)
}

/// One element: its key's value is the first attribute of its first attribute.
fn read(set: Set, element: &[u8]) -> Option<Element> {
    let first = |data| {
        Attributes(data)
            .find(|(kind, _)| *kind == FIRST)
            .map(|(_, value)| value)
    };
    Element::parse(set, first(first(element)?)?)
}

/// A port is checked. Costs the same however many are.
pub(super) fn is_checked(nft: &mut Nft, port: &str) -> Result<bool, Error> {
    let element = Element {
        port: port.to_owned(),
        key: Key::Port,
    };
    let message = message(Set::Ports, vec![element.attribute()]);
    let request = Request {
        message: nft::envelope(FAMILY, NfTablesMessage::GetSetElement(message)),
        flags: 0,
        answer: Answer::One,
        operation: format!("look {port} up in nftables set ports"),
    };
    match nft.socket.execute(vec![request], |_reply| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

fn message(set: Set, elements: Vec<ListAttribute<SetElementAttribute>>) -> SetElementMessage {
    let mut attributes = vec![
        SetElementList::Table(TABLE.to_owned()),
        SetElementList::Set(set.name().to_owned()),
    ];
    if !elements.is_empty() {
        attributes.push(SetElementList::Elements(elements));
    }
    SetElementMessage { attributes }
}

/// What is to become of elements.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Presence {
    /// Put in; that a port is there already is an error.
    New,
    There,
    Gone,
}

impl Batch {
    /// Makes a set, which may be there.
    pub(super) fn spoof_set(&mut self, set: Set) {
        let (key_type, length) = set.key();
        let mut attributes = vec![
            SetAttribute::Table(TABLE.to_owned()),
            SetAttribute::Name(set.name().to_owned()),
            SetAttribute::KeyType(key_type),
            SetAttribute::KeyLen(u32::try_from(length).unwrap_or(u32::MAX)),
            SetAttribute::Id(set.id()),
        ];
        if length == NAME {
            // Without it nft turns a name's bytes round before it prints them.
            attributes.push(SetAttribute::UserData(
                [&UDATA_BYTE_ORDER[..], &HOST_ENDIAN.to_ne_bytes()].concat(),
            ));
        }
        let message = NfTablesMessage::NewSet(SetMessage { attributes });
        self.push(
            format!("create set {} in nftables table bridge {TABLE}", set.name()),
            NLM_F_CREATE,
            nft::envelope(FAMILY, message),
        );
    }

    /// Puts elements into their sets, or takes them out.
    pub(super) fn spoof_elements(&mut self, elements: &[Element], presence: Presence) {
        for set in Set::ALL {
            let of_set: Vec<&Element> = elements
                .iter()
                .filter(|element| element.key.set() == set)
                .collect();
            for part in of_set.chunks(PART) {
                self.spoof_part(set, part, presence);
            }
        }
    }

    fn spoof_part(&mut self, set: Set, elements: &[&Element], presence: Presence) {
        let names: Vec<String> = elements.iter().take(3).map(ToString::to_string).collect();
        let (names, set_name) = (names.join(", "), set.name());
        let list = elements.iter().map(|element| element.attribute()).collect();
        let message = message(set, list);
        let (operation, flags, message) = match presence {
            Presence::New | Presence::There => (
                format!("add {names} to set {set_name} of nftables table bridge {TABLE}"),
                if presence == Presence::New && set == Set::Ports {
                    NLM_F_CREATE | NLM_F_EXCL
                } else {
                    NLM_F_CREATE
                },
                NfTablesMessage::NewSetElement(message),
            ),
            Presence::Gone => (
                format!("remove {names} from set {set_name} of nftables table bridge {TABLE}"),
                0,
                NfTablesMessage::DeleteSetElement(message),
            ),
        };
        self.push(operation, flags, nft::envelope(FAMILY, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(addresses: Option<&[&str]>) -> Guard {
        let parsed = |list: &[&str]| {
            list.iter()
                .map(|address| address.parse().unwrap())
                .collect()
        };
        Guard {
            port: "veth0123".parse().unwrap(),
            mac: "0a:58:0a:40:01:07".parse().unwrap(),
            addresses: addresses.map(parsed),
        }
    }

    fn shown(guard: &Guard) -> Vec<String> {
        let line = |element: Element| format!("{}: {element}", element.key.set().name());
        of(guard).into_iter().map(line).collect()
    }

    #[test]
    fn a_guard_is_these_elements() {
        let mac = ["ports: veth0123", "senders: veth0123 . 0a:58:0a:40:01:07"];
        assert_eq!(shown(&guard(None)), mac);
        let addresses = guard(Some(&["10.64.1.7", "fd00::7"]));
        let expected = [
            mac[0],
            mac[1],
            "addressed: veth0123",
            "addresses6: veth0123 . fe80::858:aff:fe40:107",
            "addresses4: veth0123 . 10.64.1.7",
            "addresses6: veth0123 . fd00::7",
        ];
        assert_eq!(shown(&addresses), expected);
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let nested = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        for element in of(&guard(Some(&["10.64.1.7", "fd00::7"]))) {
            let set = element.key.set();
            let bytes = element.bytes();
            assert_eq!(bytes.len(), set.key().1);
            let found = read(set, &nested(1 | 0x8000, &nested(1, &bytes)));
            assert_eq!(found, Some(element));
            assert_eq!(read(set, &nested(1, &nested(1, &bytes[..12]))), None);
        }
    }
}
