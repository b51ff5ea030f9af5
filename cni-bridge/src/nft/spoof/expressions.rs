//! A rule of the check in the words of `nf_tables`.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterMessage,
    nftables::{
        Bitwise, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
        MetaKey, NfTablesMessage, Operator, Register, RuleAttribute, RuleMessage, Verdict,
        VerdictAttribute,
    },
};

use super::{
    FAMILY,
    rules::{Field, Header, Match, Rule, Set, Then},
};
use crate::nft::{self, Batch, LOOKUP_INVERTED, TABLE};

/// `NF_DROP`, `NF_ACCEPT`.
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// The first five bytes, and the first half of the sixth, of the destinations that bridges
/// keep to themselves (`is_link_local_ether_addr()`).
const DESTINATION: Field = Field {
    header: Header::Link,
    offset: 0,
    length: 6,
};
const RESERVED: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];
const RESERVED_MASK: [u8; 6] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xf0];
/// `NFTA_EXTHDR_*`, the fragment header, and in it the offset without the three bits of flags.
const EXTHDR_REGISTER: u16 = 1;
const EXTHDR_TYPE: u16 = 2;
const EXTHDR_OFFSET: u16 = 3;
const EXTHDR_LENGTH: u16 = 4;
const FRAGMENT: u8 = 44;
const FRAGMENT_OFFSET: u32 = 2;
const FRAGMENT_OFFSET_MASK: [u8; 2] = [0xff, 0xf8];

impl Set {
    /// Its number in a transaction that makes it.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Ports => 1,
            Self::Senders => 2,
            Self::Addressed => 3,
            Self::Addresses4 => 4,
            Self::Addresses6 => 5,
        }
    }
}

impl Batch {
    /// Puts a rule at the end of its chain.
    pub(super) fn spoof_rule(&mut self, rule: &Rule, comment: &str) {
        let operation = format!(
            "write nftables rule \"{comment}\" into chain {} of table bridge {TABLE}",
            rule.chain
        );
        self.push(
            operation,
            NLM_F_CREATE | NLM_F_APPEND,
            message(rule, comment),
        );
    }
}

fn message(rule: &Rule, comment: &str) -> NetfilterMessage {
    let message = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(rule.chain.to_owned()),
            RuleAttribute::Expressions(expressions(rule)),
            RuleAttribute::UserData(nft::user_data(comment)),
        ],
    };
    nft::envelope(FAMILY, NfTablesMessage::NewRule(message))
}

fn expressions(rule: &Rule) -> Vec<ListAttribute<ExpressionAttribute>> {
    let matches = rule.matches.iter().flat_map(asked);
    matches
        .chain([verdict(rule.then)])
        .map(ListAttribute::from)
        .collect()
}

fn asked(asked: &Match) -> Vec<Expressions> {
    match *asked {
        Match::Port(set) => vec![load_port(), look_up(set, 0)],
        Match::Own(set, field) => vec![load_port(), load(Register::Reg2, field), look_up(set, 0)],
        Match::NotOwn(set, field) => vec![
            load_port(),
            load(Register::Reg2, field),
            look_up(set, LOOKUP_INVERTED),
        ],
        Match::Is(field, value) => compared(field, Operator::Equal, value),
        Match::Below(field, value) => compared(field, Operator::LessThan, value),
        Match::Above(field, value) => compared(field, Operator::GreaterThan, value),
        Match::Reserved => vec![
            load(Register::Reg1, DESTINATION),
            masked(&RESERVED_MASK),
            nft::compare(Operator::Equal, RESERVED.to_vec()),
        ],
        Match::Protocol(number) => protocol(Operator::Equal, number),
        Match::NotProtocol(number) => protocol(Operator::NotEqual, number),
        Match::LaterFragment => vec![
            load_fragment_offset(),
            masked(&FRAGMENT_OFFSET_MASK),
            nft::compare(Operator::NotEqual, vec![0; FRAGMENT_OFFSET_MASK.len()]),
        ],
    }
}

fn load_port() -> Expressions {
    nft::load_meta(Register::Reg1, MetaKey::Iifname)
}

fn load(register: Register, field: Field) -> Expressions {
    nft::load_payload(register, field.header as u32, field.offset, field.length)
}

fn look_up(set: Set, flags: u32) -> Expressions {
    nft::look_up(set.name(), set.id(), flags)
}

fn compared(field: Field, operator: Operator, value: &[u8]) -> Vec<Expressions> {
    vec![
        load(Register::Reg1, field),
        nft::compare(operator, value.to_vec()),
    ]
}

fn protocol(operator: Operator, number: u8) -> Vec<Expressions> {
    vec![
        nft::load_meta(Register::Reg1, MetaKey::L4Proto),
        nft::compare(operator, vec![number]),
    ]
}

/// Leaves of register 1 what is in the mask.
fn masked(mask: &[u8]) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(u32::try_from(mask.len()).unwrap_or(u32::MAX)),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
    ])
}

fn load_fragment_offset() -> Expressions {
    let number = |kind, number: u32| DefaultNla::new(kind, number.to_be_bytes().to_vec());
    nft::other(
        "exthdr",
        vec![
            number(EXTHDR_REGISTER, Register::Reg1.into()),
            DefaultNla::new(EXTHDR_TYPE, vec![FRAGMENT]),
            number(EXTHDR_OFFSET, FRAGMENT_OFFSET),
            number(EXTHDR_LENGTH, 2),
        ],
    )
}

fn verdict(then: Then) -> Expressions {
    let (code, chain) = match then {
        Then::Accept => (Verdict::Other(NF_ACCEPT), None),
        Then::Drop => (Verdict::Other(NF_DROP), None),
        Then::Jump(chain) => (Verdict::Jump, Some(chain)),
        Then::Goto(chain) => (Verdict::Goto, Some(chain)),
    };
    let code = VerdictAttribute::Code(code);
    let chain = chain.map(|chain| VerdictAttribute::Chain(chain.to_owned()));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(
            std::iter::once(code).chain(chain).collect(),
        )),
    ])
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkSerializable;

    use super::*;
    use crate::nft::spoof::rules::{FORMAT, RULES};

    /// Whoever changes a rule has to raise `FORMAT`, or nodes keep the old one.
    #[test]
    fn the_format_stands_for_these_very_bytes() {
        let mut bytes = Vec::new();
        for rule in RULES {
            let message = message(rule, rule.comment);
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        let hash = siphasher::sip::SipHasher13::new().hash(&bytes);
        assert_eq!(
            (FORMAT, format!("{hash:016x}")),
            (2, "ab0d661c344fe2fe".to_owned())
        );
    }
}
