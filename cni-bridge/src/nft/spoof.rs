//! The check of source MAC addresses as nftables has it: one rule for all ports, and for each
//! port its name in a set, and its name and address in another.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{
        DataAttribute, Expressions, HookNumber, Immediate, ListAttribute, MetaKey, NfTablesMessage,
        Register, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementList,
        SetElementMessage, SetMessage, Verdict, VerdictAttribute,
    },
};

use super::{BaseChain, Batch, LOOKUP_INVERTED, Nft, TABLE};
use crate::{
    mac::Mac,
    netlink::{Attributes, Error, text_of},
};

const FAMILY: NetfilterProtoFamily = NetfilterProtoFamily::Bridge;
const CHAIN: &str = "prerouting";
/// `NF_BR_PRE_ROUTING`, and before everything else that bridges do there.
const HOOK: u32 = 0;
const PRIORITY: i32 = -300;
/// The ports that are checked.
const PORTS: &str = "ports";
/// The pairs of port and address that may send.
const SENDERS: &str = "senders";
/// nft's own numbers of its types (`enum datatypes`), and how it joins two of them.
const TYPE_ETHER: u32 = 9;
const TYPE_IFNAME: u32 = 41;
const TYPE_SENDER: u32 = TYPE_IFNAME << 6 | TYPE_ETHER;
/// `IFNAMSIZ`, in bytes.
const NAME: usize = 16;
/// An address is filled up to whole registers of 4 bytes.
const ETHER: usize = 8;
/// `NF_DROP`.
const NF_DROP: u32 = 0;
/// `NFTNL_UDATA_SET_KEYBYTEORDER`, four bytes, and nft's `BYTEORDER_HOST_ENDIAN`.
const UDATA_BYTE_ORDER: [u8; 2] = [0, 4];
const HOST_ENDIAN: u32 = 1;
const LINK_HEADER: u32 = 0;
const SOURCE_OFFSET: u32 = 6;
const SOURCE_LENGTH: u32 = 6;
const COMMENT: &str = "pods send with their own MAC address only #1";
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const FIRST: u16 = 1;

/// A port, and an address that it may send with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sender {
    pub(crate) port: String,
    pub(crate) mac: [u8; 6],
}

/// Checks a port from here on: it may send with `mac` and nothing else.
pub(crate) fn guard(nft: &mut Nft, port: &str, mac: Mac) -> Result<(), Error> {
    nft.transact(|nft, batch| {
        let there = nft
            .rules(FAMILY, CHAIN)?
            .iter()
            .any(|rule| rule.comment == COMMENT);
        batch.guarded();
        if !there {
            batch.rule();
        }
        batch.element(PORTS, port, name(port), Presence::There);
        batch.element(SENDERS, port, sender(port, mac.0), Presence::There);
        Ok(())
    })
}

/// Ends the check of a port. Answers whether there was one.
pub(crate) fn release(nft: &mut Nft, port: &str) -> Result<bool, Error> {
    let senders: Vec<Sender> = senders(nft)?
        .into_iter()
        .filter(|sender| sender.port == port)
        .collect();
    if senders.is_empty() {
        return Ok(false);
    }
    let outcome = nft.transact(|_nft, batch| {
        batch.element(PORTS, port, name(port), Presence::Gone);
        for allowed in &senders {
            batch.element(SENDERS, port, sender(port, allowed.mac), Presence::Gone);
        }
        Ok(())
    });
    match outcome {
        // Another DEL of the same attachment was quicker.
        Err(error) if error.is_absent() => Ok(true),
        outcome => outcome.map(|()| true),
    }
}

/// All ports that are checked, with what they may send with.
pub(crate) fn senders(nft: &mut Nft) -> Result<Vec<Sender>, Error> {
    let message = NfTablesMessage::GetSetElement(SetElementMessage {
        attributes: vec![
            SetElementList::Table(TABLE.to_owned()),
            SetElementList::Set(SENDERS.to_owned()),
        ],
    });
    let mut senders = Vec::new();
    let operation = format!("list set {SENDERS} of nftables table bridge {TABLE}");
    nft.list(operation, super::envelope(FAMILY, message), |payload| {
        let attributes = Attributes(payload.get(4..).unwrap_or_default());
        for (_, list) in attributes.filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS) {
            senders.extend(Attributes(list).filter_map(|(_, element)| parse(element)));
        }
    })?;
    Ok(senders)
}

/// One element: its key's value is the first attribute of its first attribute.
fn parse(element: &[u8]) -> Option<Sender> {
    let first = |data| {
        Attributes(data)
            .find(|(kind, _)| *kind == FIRST)
            .map(|(_, value)| value)
    };
    let key = first(first(element)?)?;
    let (port, mac) = key.split_at_checked(NAME)?;
    Some(Sender {
        port: text_of(port),
        mac: *mac.first_chunk()?,
    })
}

fn name(port: &str) -> Vec<u8> {
    let mut key = port.as_bytes().to_vec();
    key.resize(NAME, 0);
    key
}

fn sender(port: &str, mac: [u8; 6]) -> Vec<u8> {
    let mut key = name(port);
    key.extend(mac);
    key.resize(NAME + ETHER, 0);
    key
}

/// What is to become of an element.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Presence {
    There,
    Gone,
}

impl Batch {
    fn spoof(&mut self, operation: String, flags: u16, message: NfTablesMessage) {
        self.push(operation, flags, super::envelope(FAMILY, message));
    }

    /// Table, chain and sets; each may be there.
    fn guarded(&mut self) {
        self.base_chain(&BaseChain {
            family: FAMILY,
            family_name: "bridge",
            name: CHAIN,
            kind: "filter",
            hook: HookNumber::Other(HOOK),
            priority: PRIORITY,
        });
        for (set, key_type, length, id) in [
            (PORTS, TYPE_IFNAME, NAME, 1),
            (SENDERS, TYPE_SENDER, NAME + ETHER, 2),
        ] {
            let mut attributes = vec![
                SetAttribute::Table(TABLE.to_owned()),
                SetAttribute::Name(set.to_owned()),
                SetAttribute::KeyType(key_type),
                SetAttribute::KeyLen(u32::try_from(length).unwrap_or(u32::MAX)),
                SetAttribute::Id(id),
            ];
            if set == PORTS {
                // Without it nft turns a name's bytes round before it prints them.
                attributes.push(SetAttribute::UserData(
                    [&UDATA_BYTE_ORDER[..], &HOST_ENDIAN.to_ne_bytes()].concat(),
                ));
            }
            let message = SetMessage { attributes };
            self.spoof(
                format!("create nftables set {set}"),
                NLM_F_CREATE,
                NfTablesMessage::NewSet(message),
            );
        }
    }

    /// `iifname @ports iifname . ether saddr != @senders drop`
    fn rule(&mut self) {
        let verdict = VerdictAttribute::Code(Verdict::Other(NF_DROP));
        let expressions = vec![
            super::load_meta(Register::Reg1, MetaKey::Iifname),
            super::look_up(PORTS, 1, 0),
            super::load_payload(Register::Reg2, LINK_HEADER, SOURCE_OFFSET, SOURCE_LENGTH),
            super::look_up(SENDERS, 2, LOOKUP_INVERTED),
            Expressions::Immediate(vec![
                Immediate::DestinationRegister(Register::Verdict),
                Immediate::Data(DataAttribute::Verdict(vec![verdict])),
            ]),
        ];
        let message = RuleMessage {
            attributes: vec![
                RuleAttribute::Table(TABLE.to_owned()),
                RuleAttribute::Chain(CHAIN.to_owned()),
                RuleAttribute::Expressions(
                    expressions.into_iter().map(ListAttribute::from).collect(),
                ),
                RuleAttribute::UserData(super::user_data(COMMENT)),
            ],
        };
        let operation = "write the nftables rule against false MAC addresses".to_owned();
        self.spoof(
            operation,
            NLM_F_CREATE | NLM_F_APPEND,
            NfTablesMessage::NewRule(message),
        );
    }

    fn element(&mut self, set: &str, port: &str, key: Vec<u8>, presence: Presence) {
        let key = SetElementAttribute::Key(DataAttribute::Value(key));
        let message = SetElementMessage {
            attributes: vec![
                SetElementList::Table(TABLE.to_owned()),
                SetElementList::Set(set.to_owned()),
                SetElementList::Elements(vec![ListAttribute::Element(vec![key])]),
            ],
        };
        match presence {
            Presence::There => {
                let operation = format!("add {port} to nftables set {set}");
                self.spoof(
                    operation,
                    NLM_F_CREATE,
                    NfTablesMessage::NewSetElement(message),
                );
            }
            Presence::Gone => {
                let operation = format!("remove {port} from nftables set {set}");
                self.spoof(operation, 0, NfTablesMessage::DeleteSetElement(message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let mac = [0x0a, 0x58, 10, 64, 1, 7];
        let key = sender("veth0123", mac);
        let nested = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        let element = nested(1 | 0x8000, &nested(1, &key));
        assert_eq!(
            parse(&element),
            Some(Sender {
                port: "veth0123".to_owned(),
                mac
            })
        );
        assert_eq!(parse(&nested(1, &nested(1, &key[..12]))), None);
    }
}
