//! The masquerade rules as nftables has them: two rules a network and family, one in a chain
//! at the end of routing, and its guard in a chain for what is forwarded.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{
        Bitwise, DataAttribute, Expressions, HookNumber, Immediate, InetHookNumber, ListAttribute,
        MetaKey, NfTablesMessage, Operator, Register, RuleAttribute, RuleMessage, SetAttribute,
        SetElementAttribute, SetElementFlags, SetElementList, SetElementMessage, SetFlags,
        SetMessage, Verdict, VerdictAttribute,
    },
};

use super::{BaseChain, Batch, LOOKUP_INVERTED, MAX_COMMENT, Nft, TABLE};
use crate::{
    masquerade::{Family, Interval, Part, Rule, Tag},
    netlink::Error,
};

pub(crate) const FAMILY: NetfilterProtoFamily = NetfilterProtoFamily::Inet;
const CHAIN: BaseChain = BaseChain {
    family: FAMILY,
    family_name: "inet",
    name: "postrouting",
    kind: "nat",
    hook: HookNumber::Inet(InetHookNumber::PostRouting),
    // `NF_IP_PRI_NAT_SRC`, what nft calls `srcnat`.
    priority: 100,
};
const GUARD_CHAIN: BaseChain = BaseChain {
    family: FAMILY,
    family_name: "inet",
    name: "forward",
    kind: "filter",
    hook: HookNumber::Inet(InetHookNumber::Forward),
    // `NF_IP_PRI_FILTER`: behind connection tracking.
    priority: 0,
};
/// nft's own numbers of its types, so that it can print the sets (`enum datatypes`).
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const NETWORK_HEADER: u32 = 1;
/// `NFTA_FIB_*`, `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, `RTN_LOCAL`.
const FIB_REGISTER: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const LOCAL: u32 = 2;
/// `NFTA_MASQ_FLAGS` with `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const MASQ_FLAGS: u16 = 1;
const RANDOM_FULLY: u32 = 1 << 4;
/// `NFTA_CT_*`, `NFT_CT_STATE`, and `NF_CT_STATE_INVALID_BIT` in it.
const CT_REGISTER: u16 = 1;
const CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;
const STATE_INVALID: u32 = 1;
/// `NF_DROP`.
const NF_DROP: u32 = 0;
/// How many elements go into one message: an attribute has at most 64 KiB, an element of
/// IPv6 takes 36 bytes.
const ELEMENTS: usize = 1000;
/// The kernel puts a number in the place of `%d`.
const SET_NAME: &str = "__set%d";

/// A rule of ours in the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Installed {
    pub(crate) handle: u64,
    pub(crate) part: Part,
    pub(crate) tag: Tag,
}

/// What to take out and what to put in.
pub(crate) type Change = (Vec<Installed>, Vec<(Part, Rule)>);

/// Our rules; what somebody else put into our table is not among them.
pub(crate) fn installed(nft: &mut Nft) -> Result<Vec<Installed>, Error> {
    let rules = nft.rules_of_table(FAMILY)?;
    let ours = |(chain, rule): (String, super::Found)| {
        Some(Installed {
            handle: rule.handle,
            part: [Part::Masquerade, Part::Guard]
                .into_iter()
                .find(|part| chain_of(*part).name == chain)?,
            tag: Tag::parse(&rule.comment)?,
        })
    };
    Ok(rules.into_iter().filter_map(ours).collect())
}

fn chain_of(part: Part) -> &'static BaseChain {
    match part {
        Part::Masquerade => &CHAIN,
        Part::Guard => &GUARD_CHAIN,
    }
}

/// Brings the table to hold what `decide` wants, in one transaction, or leaves it.
pub(crate) fn update(nft: &mut Nft, decide: impl Fn(&[Installed]) -> Change) -> Result<(), Error> {
    nft.transact(|nft, batch| {
        let (remove, add) = decide(&installed(nft)?);
        for part in [Part::Masquerade, Part::Guard] {
            if add.iter().any(|(added, _)| *added == part) {
                batch.base_chain(chain_of(part));
            }
        }
        for rule in remove {
            batch.remove(rule);
        }
        for (number, (part, rule)) in (1_u32..).zip(&add) {
            batch.add(number, *part, rule);
        }
        Ok(())
    })
}

/// Whose pods these are, and the tag.
fn comment(rule: &Rule) -> String {
    let tag = rule.tag().to_string();
    let room = MAX_COMMENT - 1 - tag.len() - "pods of  ".len();
    let network: String = rule.network.as_str().chars().take(room).collect();
    format!("pods of {network} {tag}")
}

impl Batch {
    fn masquerade(&mut self, operation: String, flags: u16, message: NfTablesMessage) {
        self.push(operation, flags, super::envelope(FAMILY, message));
    }

    fn remove(&mut self, rule: Installed) {
        let message = RuleMessage {
            attributes: vec![
                RuleAttribute::Table(TABLE.to_owned()),
                RuleAttribute::Chain(chain_of(rule.part).name.to_owned()),
                RuleAttribute::Handle(rule.handle),
            ],
        };
        self.masquerade(
            format!("remove nftables rule {}", rule.handle),
            0,
            NfTablesMessage::DeleteRule(message),
        );
    }

    fn add(&mut self, number: u32, part: Part, rule: &Rule) {
        let (sources, spared) = (2 * number - 1, 2 * number);
        self.set(sources, rule.family, &rule.sources);
        self.set(spared, rule.family, &rule.spared);
        let (offset_source, offset_destination, length, protocol) = match rule.family {
            Family::V4 => (12, 16, 4, 2),
            Family::V6 => (8, 24, 16, 10),
        };
        let pods_to_elsewhere = vec![
            super::load_meta(Register::Reg1, MetaKey::Nfproto),
            super::compare(Operator::Equal, vec![protocol]),
            super::load_payload(Register::Reg1, NETWORK_HEADER, offset_source, length),
            super::look_up(SET_NAME, sources, 0),
            super::load_payload(Register::Reg1, NETWORK_HEADER, offset_destination, length),
            super::look_up(SET_NAME, spared, LOOKUP_INVERTED),
        ];
        let expressions = match part {
            Part::Masquerade => [pods_to_elsewhere, masquerade()].concat(),
            Part::Guard => [is_invalid(), pods_to_elsewhere, vec![drop_it()]].concat(),
        };
        let message = RuleMessage {
            attributes: vec![
                RuleAttribute::Table(TABLE.to_owned()),
                RuleAttribute::Chain(chain_of(part).name.to_owned()),
                RuleAttribute::Expressions(
                    expressions.into_iter().map(ListAttribute::from).collect(),
                ),
                RuleAttribute::UserData(super::user_data(&comment(rule))),
            ],
        };
        self.masquerade(
            format!("write nftables rule \"{}\"", rule.part(part)),
            NLM_F_CREATE | NLM_F_APPEND,
            NfTablesMessage::NewRule(message),
        );
    }

    /// A set without a name of its own, which lives and dies with the rule that uses it.
    fn set(&mut self, id: u32, family: Family, intervals: &[Interval]) {
        let (key_type, length) = match family {
            Family::V4 => (TYPE_IPV4, 4),
            Family::V6 => (TYPE_IPV6, 16),
        };
        let message = SetMessage {
            attributes: vec![
                SetAttribute::Table(TABLE.to_owned()),
                SetAttribute::Name(SET_NAME.to_owned()),
                SetAttribute::Flags(SetFlags::Anonymous | SetFlags::Constant | SetFlags::Interval),
                SetAttribute::KeyType(key_type),
                SetAttribute::KeyLen(length),
                SetAttribute::Id(id),
            ],
        };
        self.masquerade(
            "create an nftables set of address ranges".to_owned(),
            NLM_F_CREATE,
            NfTablesMessage::NewSet(message),
        );
        let elements: Vec<_> = intervals.iter().flat_map(elements).collect();
        for part in elements.chunks(ELEMENTS) {
            let message = SetElementMessage {
                attributes: vec![
                    SetElementList::Table(TABLE.to_owned()),
                    SetElementList::Set(SET_NAME.to_owned()),
                    SetElementList::SetId(id),
                    SetElementList::Elements(part.to_vec()),
                ],
            };
            let operation = "fill an nftables set of address ranges".to_owned();
            self.masquerade(
                operation,
                NLM_F_CREATE,
                NfTablesMessage::NewSetElement(message),
            );
        }
    }
}

/// An interval in a set is its first address, and the one behind its last marked as an end;
/// nothing is behind the last address of all.
fn elements(interval: &Interval) -> Vec<ListAttribute<SetElementAttribute>> {
    let key = |address: IpAddr| {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        SetElementAttribute::Key(DataAttribute::Value(bytes))
    };
    let behind = match interval.last {
        IpAddr::V4(last) => u32::from(last)
            .checked_add(1)
            .map(|number| IpAddr::V4(number.into())),
        IpAddr::V6(last) => u128::from(last)
            .checked_add(1)
            .map(|number| IpAddr::V6(number.into())),
    };
    let end = behind.map(|address| {
        ListAttribute::Element(vec![
            key(address),
            SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
        ])
    });
    std::iter::once(ListAttribute::Element(vec![key(interval.first)]))
        .chain(end)
        .collect()
}

/// `fib daddr type != local masquerade fully-random`
fn masquerade() -> Vec<Expressions> {
    vec![
        super::other(
            "fib",
            vec![
                number(FIB_REGISTER, Register::Reg1.into()),
                number(FIB_RESULT, FIB_ADDRESS_TYPE),
                number(FIB_FLAGS, FIB_DESTINATION),
            ],
        ),
        super::compare(Operator::NotEqual, LOCAL.to_ne_bytes().to_vec()),
        super::other("masq", vec![number(MASQ_FLAGS, RANDOM_FULLY)]),
    ]
}

/// `ct state invalid`
fn is_invalid() -> Vec<Expressions> {
    let four_bytes = |value: u32| DataAttribute::Value(value.to_ne_bytes().to_vec());
    vec![
        super::other(
            "ct",
            vec![
                number(CT_REGISTER, Register::Reg1.into()),
                number(CT_KEY, CT_STATE),
            ],
        ),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(4),
            Bitwise::Mask(four_bytes(STATE_INVALID)),
            Bitwise::Xor(four_bytes(0)),
        ]),
        super::compare(Operator::NotEqual, 0_u32.to_ne_bytes().to_vec()),
    ]
}

fn drop_it() -> Expressions {
    let verdict = VerdictAttribute::Code(Verdict::Other(NF_DROP));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![verdict])),
    ])
}

fn number(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::masquerade::Policy;

    #[test]
    fn the_tag_is_found_again_in_the_comment() {
        for network in ["cbr0", &"n".repeat(200)] {
            let pods = ["10.64.1.0/24".parse().unwrap()];
            let rule = Policy::new(None, vec![], false)
                .rules(&network.parse().unwrap(), &pods)
                .remove(0);
            let comment = comment(&rule);
            assert!(comment.len() < MAX_COMMENT);
            assert_eq!(Tag::parse(&comment), Some(rule.tag()));
        }
    }

    #[test]
    fn the_last_address_of_all_has_no_end() {
        let interval = |first: &str, last: &str| Interval {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
        };
        assert_eq!(elements(&interval("10.0.0.0", "10.255.255.255")).len(), 2);
        assert_eq!(elements(&interval("224.0.0.0", "255.255.255.255")).len(), 1);
        assert_eq!(
            elements(&interval(
                "ff00::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
            ))
            .len(),
            1
        );
    }
}
