//! The way of a packet through the rules of a chain: every way that it could take.
//!
//! Pure: rules come from a [`Ruleset`], which reads them where they are.

use std::{collections::HashMap, rc::Rc};

use super::{
    packet::Packet,
    value::{REGISTER, Truth, Value},
    xtables::Match,
};

/// How deep the kernel lets chains call each other (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;
/// `NFT_META_MARK` and `NFT_CT_STATE`.
const META_MARK: u32 = 3;
const CT_STATE: u32 = 0;

/// A number of a register, in units of four bytes.
pub(crate) type Register = usize;

/// What a rule does, step by step, as far as it matters to whether a packet passes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// What the kernel notes about a packet (`NFT_META_*`).
    Meta {
        key: u32,
        to: Register,
    },
    /// What connection tracking knows (`NFT_CT_*`).
    Connection {
        key: u32,
        to: Register,
    },
    Payload {
        base: u32,
        offset: usize,
        length: usize,
        to: Register,
    },
    Constant {
        value: Vec<u8>,
        to: Register,
    },
    Mask {
        from: Register,
        to: Register,
        mask: Vec<u8>,
        flipped: Vec<u8>,
    },
    Reverse {
        from: Register,
        to: Register,
        length: usize,
        size: usize,
    },
    Compare {
        from: Register,
        operator: Operator,
        with: Vec<u8>,
    },
    Range {
        from: Register,
        inside: bool,
        low: Vec<u8>,
        high: Vec<u8>,
    },
    Lookup {
        from: Register,
        set: String,
        found: bool,
    },
    /// A lookup that answers with a verdict.
    Choose {
        from: Register,
        set: String,
    },
    Match(Match),
    Decide(Verdict),
    SetMark,
    Untrack,
    /// Neither ends the rule nor changes what later ones see: counters, logs.
    Nothing,
    /// May end the rule; nobody knows what the registers hold after it.
    Maybe,
}

/// How `cmp` compares (`NFT_CMP_*`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Below,
    BelowOrEqual,
    Above,
    AboveOrEqual,
}

/// What a rule says of a packet in the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
    /// Another program decides, or something that is not known here.
    Unknown,
}

/// A rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rule {
    pub(crate) handle: u64,
    /// What nft and iptables show as its comment.
    pub(crate) comment: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// A set or a verdict map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Set {
    /// The lengths of the parts of a key, in bytes.
    pub(crate) fields: Vec<usize>,
    pub(crate) elements: Vec<Element>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Element {
    pub(crate) key: Key,
    pub(crate) verdict: Option<Verdict>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Key {
    One(Vec<u8>),
    /// From the first to the second, both included, in each of the fields.
    Range(Vec<u8>, Vec<u8>),
    /// Whatever no other element has.
    Rest,
}

/// Where the rules of one table come from.
pub(crate) trait Ruleset {
    type Error;

    /// None for a chain that is not there.
    fn rules(&mut self, chain: &str) -> Result<Rc<[Rule]>, Self::Error>;

    /// `None` when its elements cannot be read.
    fn set(&mut self, name: &str) -> Result<Option<Rc<Set>>, Self::Error>;
}

/// Who drops packets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum By {
    Policy,
    Rule { chain: String, handle: u64 },
}

/// A place at which packets in question can end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Drop {
    pub(crate) by: By,
    /// All that come there end there: the way there asks for nothing that only some have.
    pub(crate) by_default: bool,
    /// Somebody meant the pods: the way there names their link or their network.
    pub(crate) meant: bool,
}

/// What can become of packets that enter a chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Flow {
    /// Some may be accepted in it.
    pub(crate) accepts: bool,
    /// Some may come out at its end.
    pub(crate) falls: bool,
    pub(crate) drops: Vec<Drop>,
    /// What may be changed of some on the way.
    pub(crate) changes: Notes,
    /// What the outcome hangs on.
    pub(crate) asks: Notes,
}

/// What other rules can have changed of a packet before: its mark, or whether its
/// connection has a state at all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Notes {
    pub(crate) mark: bool,
    pub(crate) state: bool,
}

impl std::ops::BitOrAssign for Notes {
    fn bitor_assign(&mut self, other: Self) {
        self.mark |= other.mark;
        self.state |= other.state;
    }
}

impl Flow {
    /// More of it than one of a kind says nothing new.
    pub(crate) fn drop_at(&mut self, drop: Drop) {
        let same = |other: &Drop| (other.by_default, other.meant) == (drop.by_default, drop.meant);
        if !self.drops.iter().any(same) {
            self.drops.push(drop);
        }
    }
}

/// One packet's walk through a table.
pub(crate) struct Walk<'a, R> {
    ruleset: &'a mut R,
    packet: Packet<'a>,
    /// What is known of a chain, for packets with a known mark and for others.
    seen: HashMap<(String, bool), Flow>,
}

impl<'a, R: Ruleset> Walk<'a, R> {
    pub(crate) fn new(ruleset: &'a mut R, packet: Packet<'a>) -> Self {
        Self {
            ruleset,
            packet,
            seen: HashMap::new(),
        }
    }

    /// What becomes of the packet in a chain.
    pub(crate) fn chain(&mut self, name: &str) -> Result<Flow, R::Error> {
        self.enter(name, 0)
    }

    fn enter(&mut self, name: &str, depth: usize) -> Result<Flow, R::Error> {
        let key = (name.to_owned(), self.packet.unmarked);
        if let Some(flow) = self.seen.get(&key) {
            return Ok(flow.clone());
        }
        let mut passage = Passage {
            chain: name,
            depth,
            flow: Flow::default(),
            rest: depth < DEPTH,
        };
        if passage.rest {
            for rule in self.ruleset.rules(name)?.iter() {
                self.rule(&mut passage, rule)?;
                if !passage.rest {
                    break;
                }
            }
            passage.flow.falls |= passage.rest;
        } else {
            // The kernel has refused such rules: this is not what it has.
            passage.unknown();
            passage.flow.falls = true;
        }
        self.seen.insert(key, passage.flow.clone());
        Ok(passage.flow)
    }

    fn rule(&mut self, passage: &mut Passage<'_>, rule: &Rule) -> Result<(), R::Error> {
        let mut state = Rulestate {
            handle: rule.handle,
            truth: Truth::Yes,
            meant: false,
            registers: Vec::new(),
        };
        for step in &rule.steps {
            self.step(passage, &mut state, step)?;
            if state.truth == Truth::No || !passage.rest {
                break;
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        passage: &mut Passage<'_>,
        state: &mut Rulestate,
        step: &Step,
    ) -> Result<(), R::Error> {
        match step {
            Step::Meta { key, to } => {
                passage.flow.asks.mark |= *key == META_MARK;
                state.set(*to, self.packet.meta(*key));
            }
            Step::Connection { key, to } => {
                passage.flow.asks.state |= *key == CT_STATE;
                state.set(*to, self.packet.connection(*key));
            }
            Step::Payload {
                base,
                offset,
                length,
                to,
            } => state.set(*to, self.packet.payload(*base, *offset, *length)),
            Step::Lookup { from, set, found } => {
                let mut truth = Truth::Maybe;
                // It may be large, and of an address that may be any it says nothing.
                if state.says_something(*from)
                    && let Some(set) = self.ruleset.set(set)?
                {
                    truth = state.contains(*from, &set);
                }
                state.ask(truth.inverted(!found));
            }
            Step::Choose { from, set } => self.choose(passage, state, *from, set)?,
            Step::Match(asked) => {
                passage.flow.asks.mark |= asked.reads_mark();
                passage.flow.asks.state = true;
                state.ask(asked.holds(&self.packet));
            }
            Step::Decide(verdict) => {
                let way = state.way();
                self.decide(passage, &way, verdict)?;
            }
            Step::SetMark => {
                passage.flow.changes.mark = true;
                self.packet.unmarked = false;
            }
            Step::Untrack => {
                passage.flow.changes.state = true;
                self.packet.tracked = false;
            }
            Step::Maybe => {
                state.registers.clear();
                state.ask(Truth::Maybe);
            }
            step => state.calculate(step),
        }
        Ok(())
    }

    /// At most one element of a map is that of the packet.
    fn choose(
        &mut self,
        passage: &mut Passage<'_>,
        state: &mut Rulestate,
        from: Register,
        set: &str,
    ) -> Result<(), R::Error> {
        let set = self.ruleset.set(set)?;
        let Some(set) = set else {
            passage.unknown();
            return Ok(());
        };
        let value = state.key(from, &set);
        let mut found = Truth::No;
        for element in &set.elements {
            let truth = element.key.is(&value, &set.fields);
            let way = Way {
                truth: state.truth.and(truth),
                meant: state.meant || (truth == Truth::Yes && value.is_of_pods()),
                ..state.way()
            };
            if let (true, Some(verdict)) = (way.truth != Truth::No, &element.verdict) {
                self.decide(passage, &way, verdict)?;
            }
            if truth == Truth::Yes || !passage.rest {
                return Ok(());
            }
            found = found.or(truth);
        }
        state.ask(found);
        Ok(())
    }

    /// Follows a verdict, which is spoken for those that came this way.
    fn decide(
        &mut self,
        passage: &mut Passage<'_>,
        way: &Way,
        verdict: &Verdict,
    ) -> Result<(), R::Error> {
        let all = way.truth == Truth::Yes;
        match verdict {
            Verdict::Accept => passage.flow.accepts = true,
            Verdict::Drop => passage.flow.drop_at(Drop {
                by: By::Rule {
                    chain: passage.chain.to_owned(),
                    handle: way.handle,
                },
                by_default: all,
                meant: way.meant,
            }),
            Verdict::Return => passage.flow.falls = true,
            Verdict::Unknown => {
                passage.unknown();
                return Ok(());
            }
            Verdict::Continue => return Ok(()),
            Verdict::Jump(chain) | Verdict::Goto(chain) => {
                let inner = self.enter(chain, passage.depth + 1)?;
                // What happened to a mark in there may have happened to this packet.
                self.packet.unmarked &= !inner.changes.mark;
                self.packet.tracked &= !inner.changes.state;
                passage.flow.changes |= inner.changes;
                passage.flow.asks |= inner.asks;
                passage.flow.accepts |= inner.accepts;
                for drop in inner.drops {
                    passage.flow.drop_at(Drop {
                        by_default: drop.by_default && all,
                        meant: drop.meant || way.meant,
                        ..drop
                    });
                }
                if matches!(verdict, Verdict::Jump(_)) {
                    passage.rest &= !all || inner.falls;
                    return Ok(());
                }
                passage.flow.falls |= inner.falls;
            }
        }
        passage.rest &= !all;
        Ok(())
    }
}

/// Through one chain.
struct Passage<'a> {
    chain: &'a str,
    depth: usize,
    flow: Flow,
    /// Some may come to the next step.
    rest: bool,
}

impl Passage<'_> {
    /// Anything can have become of them.
    fn unknown(&mut self) {
        self.flow.accepts = true;
        self.flow.changes.mark = true;
        let by = By::Rule {
            chain: self.chain.to_owned(),
            handle: 0,
        };
        self.flow.drop_at(Drop {
            by,
            by_default: false,
            meant: false,
        });
    }
}

/// How packets came to a verdict.
struct Way {
    handle: u64,
    truth: Truth,
    meant: bool,
}

/// Within one rule.
struct Rulestate {
    handle: u64,
    /// Whether the packets meet what the rule has asked so far.
    truth: Truth,
    meant: bool,
    registers: Vec<(Register, Value)>,
}

impl Rulestate {
    fn way(&self) -> Way {
        Way {
            handle: self.handle,
            truth: self.truth,
            meant: self.meant,
        }
    }

    fn ask(&mut self, answer: Truth) {
        self.truth = self.truth.and(answer);
    }

    fn set(&mut self, to: Register, value: Value) {
        let words = |value: &Value| value.len().div_ceil(REGISTER);
        let end = to + words(&value);
        self.registers
            .retain(|(start, other)| *start >= end || start + words(other) <= to);
        self.registers.push((to, value));
    }

    /// What the registers from this one on hold.
    fn load(&self, from: Register, length: usize) -> Value {
        let mut value = Value::default();
        let mut at = from;
        while value.len() < length {
            let here = self.registers.iter().find(|(start, _)| *start == at);
            let next = here.map_or_else(|| Value::unknown(REGISTER), |(_, next)| next.clone());
            at += next.len().div_ceil(REGISTER).max(1);
            value.append(next);
        }
        value.part(0..length)
    }

    /// What a set is asked for.
    fn key(&self, from: Register, set: &Set) -> Value {
        self.load(from, key_length(&set.fields))
    }

    /// Something is known of a register from this one on.
    fn says_something(&self, from: Register) -> bool {
        let behind = self.registers.iter().filter(|(start, _)| *start >= from);
        behind.into_iter().any(|(_, value)| value.says_something())
    }

    fn contains(&mut self, from: Register, set: &Set) -> Truth {
        let value = self.key(from, set);
        let answers = set
            .elements
            .iter()
            .map(|element| element.key.is(&value, &set.fields));
        let truth = answers.fold(Truth::No, Truth::or);
        self.meant |= truth == Truth::Yes && value.is_of_pods();
        truth
    }

    /// Steps that need nothing but the registers.
    fn calculate(&mut self, step: &Step) {
        match step {
            Step::Constant { value, to } => self.set(*to, Value::exactly(value)),
            Step::Mask {
                from,
                to,
                mask,
                flipped,
            } => self.set(*to, self.load(*from, mask.len()).masked(mask, flipped)),
            Step::Reverse {
                from,
                to,
                length,
                size,
            } => self.set(*to, self.load(*from, *length).reversed(*size)),
            Step::Compare {
                from,
                operator,
                with,
            } => {
                let value = self.load(*from, with.len());
                let answer = operator.ask(&value, with);
                self.meant |=
                    *operator == Operator::Equal && answer == Truth::Yes && value.is_of_pods();
                self.ask(answer);
            }
            Step::Range {
                from,
                inside,
                low,
                high,
            } => {
                let answer = self.load(*from, low.len()).within(low, high);
                self.ask(answer.inverted(!inside));
            }
            _ => {}
        }
    }
}

fn key_length(fields: &[usize]) -> usize {
    let padded = fields
        .iter()
        .rev()
        .skip(1)
        .map(|field| field.next_multiple_of(REGISTER));
    padded.sum::<usize>() + fields.last().copied().unwrap_or_default()
}

impl Operator {
    fn ask(self, value: &Value, with: &[u8]) -> Truth {
        match self {
            Self::Equal => value.equals(with),
            Self::NotEqual => !value.equals(with),
            Self::Below => value.is_below(with),
            Self::AboveOrEqual => !value.is_below(with),
            Self::BelowOrEqual => value.is_at_most(with),
            Self::Above => !value.is_at_most(with),
        }
    }
}

impl Key {
    fn is(&self, value: &Value, fields: &[usize]) -> Truth {
        match self {
            Self::One(key) => value.equals(key),
            Self::Rest => Truth::Yes,
            Self::Range(low, high) => {
                let mut at = 0;
                let mut truth = Truth::Yes;
                for field in fields {
                    let part = at..at + field;
                    let (low, high) = (low.get(part.clone()), high.get(part.clone()));
                    truth = truth.and(match (low, high) {
                        (Some(low), Some(high)) => value.part(part).within(low, high),
                        _ => Truth::Maybe,
                    });
                    at += field.next_multiple_of(REGISTER);
                }
                truth
            }
        }
    }
}
