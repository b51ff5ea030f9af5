//! Answers of nftables, read by a plain walk over their attributes.
//!
//! What is not understood is "maybe", never an error: these are other people's rules.

use super::super::{NFTA_RULE_USERDATA, attribute, comment, handle};
use crate::{
    firewall::{
        BaseChain, Element, Family, Hook, Key, Manager, Match, Operator, Rule, Set, Step, Table,
        Verdict, target,
    },
    netlink::{Attributes, text_of},
};

/// `NFTA_TABLE_*`, `NFTA_CHAIN_*`, `NFTA_HOOK_*`, `NFTA_RULE_*`.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const RULE_EXPRESSIONS: u16 = 4;
/// `NFT_TABLE_F_*`: its chains are not called; another process may not change it.
const DORMANT: u32 = 1;
const OWNER: u32 = 2;
/// `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD`; bridges have the same numbers.
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
/// `NFTA_EXPR_*`, `NFTA_DATA_*`, `NFTA_VERDICT_*`.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_META_MARK`.
const META_MARK: u32 = 3;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// `NFTA_SET_*`, `NFTA_SET_DESC_CONCAT`, `NFTA_SET_FIELD_LEN`.
const SET_FLAGS: u16 = 3;
const SET_KEY_LENGTH: u16 = 5;
const SET_DESCRIPTION: u16 = 9;
const DESCRIPTION_FIELDS: u16 = 2;
const FIELD_LENGTH: u16 = 1;
/// `NFT_SET_INTERVAL`.
const INTERVAL: u32 = 4;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_SET_ELEM_*`, `NFT_SET_ELEM_*`.
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;
const INTERVAL_END: u32 = 1;
const CATCH_ALL: u32 = 2;

/// The chains among `chains` that count here, with what `tables` says of their tables.
pub(super) fn base_chains(tables: &[Vec<u8>], chains: &[Vec<u8>]) -> Vec<BaseChain> {
    let flags = |table: &Table| {
        let is_it = |other: &&Vec<u8>| {
            named(other, TABLE_NAME)
                .is_some_and(|(of, name)| (of, &name) == (table.family, &table.name))
        };
        let found = tables.iter().find(is_it)?;
        number(attribute(found, TABLE_FLAGS)?)
    };
    let named_so: Vec<(Table, String)> = chains.iter().filter_map(|chain| names(chain)).collect();
    let manager = |table: &Table, chain: &str| {
        let has = |name: &str| {
            named_so
                .iter()
                .any(|(of, other)| of == table && other == name)
        };
        match (table.family, table.name.as_str(), chain) {
            (_, "firewalld", _) => Manager::Firewalld,
            (Family::Ip | Family::Ip6, "filter", "FORWARD") if has("DOCKER-USER") => {
                Manager::Docker
            }
            (Family::Ip, "filter", "FORWARD") if has("ufw-user-forward") => Manager::Ufw,
            (Family::Ip6, "filter", "FORWARD") if has("ufw6-user-forward") => Manager::Ufw,
            (Family::Ip | Family::Ip6, "filter", "FORWARD") => Manager::Iptables,
            _ => Manager::Unknown,
        }
    };
    chains
        .iter()
        .filter_map(|chain| base_chain(chain))
        .filter_map(|chain| {
            let flags = flags(&chain.table).unwrap_or_default();
            (flags & DORMANT == 0).then(|| BaseChain {
                owned: flags & OWNER != 0,
                manager: manager(&chain.table, &chain.name),
                ..chain
            })
        })
        .collect()
}

fn base_chain(message: &[u8]) -> Option<BaseChain> {
    let (table, name) = names(message)?;
    let hook = first(attribute(message, CHAIN_HOOK)?, HOOK_NUMBER)?;
    let policy = attribute(message, CHAIN_POLICY).and_then(number);
    Some(BaseChain {
        table,
        name,
        hook: match number(hook)? {
            PREROUTING => Hook::Prerouting,
            FORWARD => Hook::Forward,
            _ => return None,
        },
        kind: text_of(attribute(message, CHAIN_TYPE)?),
        drops_by_policy: policy == Some(0),
        owned: false,
        manager: Manager::Unknown,
    })
}

/// Table and name of a chain.
fn names(message: &[u8]) -> Option<(Table, String)> {
    let (family, name) = named(message, CHAIN_TABLE)?;
    let chain = text_of(attribute(message, CHAIN_NAME)?);
    Some((Table { family, name }, chain))
}

/// The family of a message, and a name in it.
fn named(message: &[u8], kind: u16) -> Option<(Family, String)> {
    let family = match message.first()? {
        1 => Family::Inet,
        2 => Family::Ip,
        7 => Family::Bridge,
        10 => Family::Ip6,
        _ => return None,
    };
    Some((family, text_of(attribute(message, kind)?)))
}

pub(super) fn rule(message: &[u8]) -> Option<Rule> {
    let expressions = attribute(message, RULE_EXPRESSIONS).unwrap_or_default();
    let steps: Vec<Step> = Attributes(expressions)
        .map(|(_, expression)| step(expression).unwrap_or(Step::Maybe))
        .collect();
    // iptables keeps a comment as a match of its own.
    let of_iptables = steps.iter().find_map(|step| match step {
        Step::Match(asked) if asked.name == "comment" => Some(text_of(&asked.info)),
        _ => None,
    });
    let of_nft = attribute(message, NFTA_RULE_USERDATA).and_then(comment);
    Some(Rule {
        handle: handle(message)?,
        comment: of_nft.or(of_iptables),
        steps,
    })
}

fn step(expression: &[u8]) -> Option<Step> {
    let name = text_of(first(expression, EXPRESSION_NAME)?);
    let data = first(expression, EXPRESSION_DATA).unwrap_or_default();
    match name.as_str() {
        "counter" | "log" | "last" | "flow_offload" | "dup" => Some(Step::Nothing),
        "notrack" => Some(Step::Untrack),
        "reject" => Some(Step::Decide(Verdict::Drop)),
        "queue" | "synproxy" => Some(Step::Decide(Verdict::Unknown)),
        "meta" => meta(data),
        "ct" => connection(data),
        "payload" => payload(data),
        "immediate" => immediate(data),
        "bitwise" => mask(data),
        "byteorder" => Some(Step::Reverse {
            from: register(data, 1)?,
            to: register(data, 2)?,
            length: size(data, 4)?,
            size: size(data, 5)?,
        }),
        "cmp" => Some(Step::Compare {
            from: register(data, 1)?,
            operator: operator(field(data, 2)?)?,
            with: value(data, 3)?,
        }),
        "range" => Some(Step::Range {
            from: register(data, 1)?,
            inside: field(data, 2)? == 0,
            low: value(data, 3)?,
            high: value(data, 4)?,
        }),
        "lookup" => look_up(data),
        "match" => Some(Step::Match(Match {
            name: text_of(first(data, 1)?),
            revision: field(data, 2)?,
            info: first(data, 3)?.to_vec(),
        })),
        "target" => Some(target(&text_of(first(data, 1)?))),
        _ => None,
    }
}

/// Loads, or with another attribute sets.
fn meta(data: &[u8]) -> Option<Step> {
    let key = field(data, 2)?;
    if first(data, 3).is_some() {
        return Some(if key == META_MARK {
            Step::SetMark
        } else {
            Step::Nothing
        });
    }
    let to = register(data, 1)?;
    Some(Step::Meta { key, to })
}

fn connection(data: &[u8]) -> Option<Step> {
    if first(data, 4).is_some() {
        return Some(Step::Nothing);
    }
    let (key, to) = (field(data, 2)?, register(data, 1)?);
    Some(Step::Connection { key, to })
}

fn payload(data: &[u8]) -> Option<Step> {
    if first(data, 5).is_some() {
        return Some(Step::Nothing);
    }
    Some(Step::Payload {
        to: register(data, 1)?,
        base: field(data, 2)?,
        offset: size(data, 3)?,
        length: size(data, 4)?,
    })
}

fn immediate(data: &[u8]) -> Option<Step> {
    if field(data, 1)? == VERDICT {
        return Some(Step::Decide(verdict(first(data, 2)?)?));
    }
    Some(Step::Constant {
        to: register(data, 1)?,
        value: value(data, 2)?,
    })
}

/// Masks and flips bits; shifts and the like are left out.
fn mask(data: &[u8]) -> Option<Step> {
    if field(data, 6).is_some_and(|operation| operation != 0) {
        return None;
    }
    Some(Step::Mask {
        from: register(data, 1)?,
        to: register(data, 2)?,
        mask: value(data, 4)?,
        flipped: value(data, 5)?,
    })
}

fn look_up(data: &[u8]) -> Option<Step> {
    let (set, from) = (text_of(first(data, 1)?), register(data, 2)?);
    match field(data, 3) {
        Some(VERDICT) => Some(Step::Choose { from, set }),
        Some(_) => None,
        None => Some(Step::Lookup {
            from,
            set,
            found: field(data, 5).is_none_or(|flags| flags & 1 == 0),
        }),
    }
}

fn operator(number: u32) -> Option<Operator> {
    Some(match number {
        0 => Operator::Equal,
        1 => Operator::NotEqual,
        2 => Operator::Below,
        3 => Operator::BelowOrEqual,
        4 => Operator::Above,
        5 => Operator::AboveOrEqual,
        _ => return None,
    })
}

/// `nft_parse_register()`: four large registers behind the verdict's, or each quarter of one.
fn register(data: &[u8], kind: u16) -> Option<usize> {
    let number = size(data, kind)?;
    Some(match number {
        1..=4 => number * 4,
        8.. => number - 4,
        _ => return None,
    })
}

/// `NFTA_DATA_VERDICT`.
fn verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = first(data, DATA_VERDICT)?;
    let chain = || first(verdict, VERDICT_CHAIN).map(text_of);
    // NF_DROP, NF_ACCEPT, and the negative numbers of nftables' own.
    Some(match field(verdict, VERDICT_CODE)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 | -2 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => Verdict::Unknown,
    })
}

/// `None` for a set whose description cannot be read.
pub(super) fn set(description: &[u8], lists: &[Vec<u8>]) -> Option<Set> {
    let length = usize::try_from(number(attribute(description, SET_KEY_LENGTH)?)?).ok()?;
    let flags = attribute(description, SET_FLAGS)
        .and_then(number)
        .unwrap_or_default();
    let fields = fields(description).filter(|fields| fields.len() > 1);
    let elements: Option<Vec<RawElement>> = lists
        .iter()
        .filter_map(|list| attribute(list, ELEMENTS))
        .flat_map(|list| Attributes(list).map(|(_, element)| raw_element(element)))
        .collect();
    let pairs = flags & INTERVAL != 0 && fields.is_none();
    let mut elements = if pairs {
        intervals(elements?, length)
    } else {
        elements?.into_iter().map(RawElement::single).collect()
    };
    // What is for all others comes after them.
    elements.sort_by_key(|element| element.key == Key::Rest);
    Some(Set {
        fields: fields.unwrap_or_else(|| vec![length]),
        elements,
    })
}

fn fields(description: &[u8]) -> Option<Vec<usize>> {
    let fields = first(attribute(description, SET_DESCRIPTION)?, DESCRIPTION_FIELDS)?;
    Attributes(fields)
        .map(|(_, field)| size(field, FIELD_LENGTH))
        .collect()
}

/// As it comes: one end of an interval, perhaps.
struct RawElement {
    key: Vec<u8>,
    end: Option<Vec<u8>>,
    flags: u32,
    verdict: Option<Verdict>,
}

fn raw_element(element: &[u8]) -> Option<RawElement> {
    let flags = field(element, ELEMENT_FLAGS).unwrap_or_default();
    let verdict = first(element, ELEMENT_DATA).map(verdict);
    // A map to something else than verdicts is never asked for one.
    let verdict = verdict.map(|verdict| verdict.unwrap_or(Verdict::Unknown));
    Some(RawElement {
        key: value(element, ELEMENT_KEY).or_else(|| (flags & CATCH_ALL != 0).then(Vec::new))?,
        end: value(element, ELEMENT_KEY_END),
        flags,
        verdict,
    })
}

impl RawElement {
    fn single(self) -> Element {
        let key = match self.end {
            _ if self.flags & CATCH_ALL != 0 => Key::Rest,
            Some(end) => Key::Range(self.key, end),
            None => Key::One(self.key),
        };
        Element {
            key,
            verdict: self.verdict,
        }
    }
}

/// An interval begins with one element and ends before the next, which is marked as an end;
/// the last one may have none.
fn intervals(mut raw: Vec<RawElement>, length: usize) -> Vec<Element> {
    let mut elements = Vec::new();
    raw.sort_by(|a, b| {
        let is_start = |element: &RawElement| element.flags & INTERVAL_END == 0;
        a.key.cmp(&b.key).then(is_start(a).cmp(&is_start(b)))
    });
    let mut open: Option<RawElement> = None;
    let close = |open: Option<RawElement>, last: Vec<u8>| {
        open.map(|first| Element {
            key: Key::Range(first.key, last),
            verdict: first.verdict,
        })
    };
    for element in raw {
        if element.flags & CATCH_ALL != 0 {
            elements.push(element.single());
        } else if element.flags & INTERVAL_END != 0 {
            elements.extend(close(open.take(), before(element.key)));
        } else {
            let next = before(element.key.clone());
            elements.extend(close(open.replace(element), next));
        }
    }
    elements.extend(close(open, vec![0xff; length]));
    elements
}

/// The number before this one; before 0 there is none, and nobody asks.
fn before(mut number: Vec<u8>) -> Vec<u8> {
    for byte in number.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            break;
        }
    }
    number
}

fn first(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// Numbers of nftables are big-endian.
fn number(value: &[u8]) -> Option<u32> {
    value
        .first_chunk()
        .map(|number| u32::from_be_bytes(*number))
}

fn field(attributes: &[u8], kind: u16) -> Option<u32> {
    number(first(attributes, kind)?)
}

fn size(attributes: &[u8], kind: u16) -> Option<usize> {
    usize::try_from(field(attributes, kind)?).ok()
}

/// `NFTA_DATA_VALUE`.
fn value(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    first(first(attributes, kind)?, DATA_VALUE).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn number_of(kind: u16, number: u32) -> Vec<u8> {
        attribute_of(kind, &number.to_be_bytes())
    }

    fn data_of(kind: u16, value: &[u8]) -> Vec<u8> {
        attribute_of(kind, &attribute_of(DATA_VALUE, value))
    }

    /// A message of the IPv4 family.
    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        [vec![2, 0, 0, 0], attributes.concat()].concat()
    }

    fn element(key: &[u8], flags: u32) -> Vec<u8> {
        let value = [data_of(ELEMENT_KEY, key), number_of(ELEMENT_FLAGS, flags)];
        attribute_of(1, &value.concat())
    }

    fn described(flags: u32) -> Vec<u8> {
        message(&[number_of(SET_FLAGS, flags), number_of(SET_KEY_LENGTH, 4)])
    }

    /// As the kernel lists `{ 10.64.0.0/16, 10.65.0.0/24, 224.0.0.0/3 }`.
    #[test]
    fn the_elements_of_intervals_are_put_together() {
        let elements = [
            element(&[224, 0, 0, 0], 0),
            element(&[10, 65, 1, 0], INTERVAL_END),
            element(&[10, 65, 0, 0], 0),
            element(&[10, 65, 0, 0], INTERVAL_END),
            element(&[10, 64, 0, 0], 0),
            element(&[0, 0, 0, 0], INTERVAL_END),
        ];
        let list = message(&[attribute_of(ELEMENTS, &elements.concat())]);
        let set = set(&described(INTERVAL), &[list]).unwrap();
        let range = |first: [u8; 4], last: [u8; 4]| Element {
            key: Key::Range(first.to_vec(), last.to_vec()),
            verdict: None,
        };
        assert_eq!(
            set.elements,
            [
                range([10, 64, 0, 0], [10, 64, 255, 255]),
                range([10, 65, 0, 0], [10, 65, 0, 255]),
                range([224, 0, 0, 0], [255, 255, 255, 255]),
            ]
        );
    }

    #[test]
    fn the_element_for_all_others_comes_last() {
        let others = attribute_of(1, &number_of(ELEMENT_FLAGS, CATCH_ALL));
        let elements = [others, element(&[10, 64, 1, 7], 0)];
        let list = message(&[attribute_of(ELEMENTS, &elements.concat())]);
        let set = set(&described(0), &[list]).unwrap();
        let keys: Vec<Key> = set
            .elements
            .into_iter()
            .map(|element| element.key)
            .collect();
        assert_eq!(keys, [Key::One(vec![10, 64, 1, 7]), Key::Rest]);
    }

    fn expression(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
        let parts = [
            attribute_of(EXPRESSION_NAME, format!("{name}\0").as_bytes()),
            attribute_of(EXPRESSION_DATA, &attributes.concat()),
        ];
        attribute_of(1, &parts.concat())
    }

    #[test]
    fn a_rule_is_read_step_by_step() {
        let verdict = attribute_of(
            DATA_VERDICT,
            &[
                number_of(VERDICT_CODE, (-3_i32).cast_unsigned()),
                attribute_of(VERDICT_CHAIN, b"DOCKER\0"),
            ]
            .concat(),
        );
        let expressions = [
            expression("meta", &[number_of(1, 1), number_of(2, 6)]),
            expression(
                "cmp",
                &[number_of(1, 8), number_of(2, 1), data_of(3, b"lo\0")],
            ),
            expression("numgen", &[number_of(1, 1)]),
            expression(
                "match",
                &[
                    attribute_of(1, b"comment\0"),
                    number_of(2, 0),
                    attribute_of(3, b"hello\0\0\0"),
                ],
            ),
            expression("immediate", &[number_of(1, 0), attribute_of(2, &verdict)]),
        ];
        let message = message(&[
            attribute_of(3, &7_u64.to_be_bytes()),
            attribute_of(RULE_EXPRESSIONS, &expressions.concat()),
        ]);
        let rule = rule(&message).unwrap();
        assert_eq!((rule.handle, rule.comment.as_deref()), (7, Some("hello")));
        let [load, compare, unknown, _, jump] = rule.steps.as_slice() else {
            panic!("{rule:?}");
        };
        // Register 1 and the first quarter of it are the same.
        assert_eq!(*load, Step::Meta { key: 6, to: 4 });
        assert_eq!(
            *compare,
            Step::Compare {
                from: 4,
                operator: Operator::NotEqual,
                with: b"lo\0".to_vec()
            }
        );
        assert_eq!(*unknown, Step::Maybe);
        assert_eq!(*jump, Step::Decide(Verdict::Jump("DOCKER".to_owned())));
    }

    /// What is cut off anywhere is not understood, and no more than that.
    #[test]
    fn half_an_answer_is_no_disaster() {
        let expressions = expression("cmp", &[number_of(1, 8), number_of(2, 9), data_of(3, b"x")]);
        let whole = message(&[
            attribute_of(3, &7_u64.to_be_bytes()),
            attribute_of(RULE_EXPRESSIONS, &expressions),
            number_of(SET_KEY_LENGTH, 4),
        ]);
        for length in 0..whole.len() {
            let cut = &whole[..length];
            drop((rule(cut), base_chain(cut), set(cut, &[cut.to_vec()])));
        }
        assert_eq!(rule(&whole).unwrap().steps, [Step::Maybe]);
    }
}
