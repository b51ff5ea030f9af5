//! nftables by netlink: sockets, lists and transactions.
//!
//! Below it, one file for each table of this plugin, which alone knows how its rules look in
//! bytes. Other tables are touched by nothing but `firewall`, and only when asked for.

pub(crate) mod firewall;
pub(crate) mod masquerade;
pub(crate) mod predecessor;
pub(crate) mod spoof;

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, GenMessage, Hook,
        HookNumber, Lookup, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
        RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};
use nix::errno::Errno;

use crate::netlink::{Answer, Attributes, Error, Request, Socket, text_of};

/// The name of our tables, in each family where there is one.
pub(crate) const TABLE: &str = "cni-bridge";

/// `NFNL_MSG_BATCH_BEGIN` and, in it, the generation that the transaction builds on.
const BATCH_BEGIN: u8 = 16;
const NFNL_BATCH_GENID: u16 = 1;
/// The subsystem that a transaction is for, in the place of the resource id.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFTA_GEN_ID: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_USERDATA: u16 = 7;
/// `NFTNL_UDATA_RULE_COMMENT`: what nft prints as the comment.
const UDATA_COMMENT: u8 = 0;
/// The longest comment that nft prints, with its NUL (`NFTNL_UDATA_COMMENT_MAXLEN`).
pub(crate) const MAX_COMMENT: usize = 128;
const LOOKUP_INVERTED: u32 = 1;
/// How often a transaction or a list is begun again when a transaction came in between.
const ATTEMPTS: usize = 32;

/// A socket to nftables in the node's namespace.
#[derive(Debug)]
pub(crate) struct Nft {
    socket: Socket,
}

/// A rule in one of our chains.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Found {
    handle: u64,
    comment: String,
}

impl Nft {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// Closing it costs 10 ms when rules were deleted a moment ago (`nft_rcv_nl_event()`),
    /// by us or by others; nothing on the way of an ordinary ADD deletes.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?,
        })
    }

    /// The rules of all chains of our table that have a comment, with the chain's name.
    fn rules_of_table(
        &mut self,
        family: NetfilterProtoFamily,
    ) -> Result<Vec<(String, Found)>, Error> {
        let message = NfTablesMessage::GetRule(RuleMessage {
            attributes: vec![RuleAttribute::Table(TABLE.to_owned())],
        });
        let operation = format!("list the rules of nftables table {TABLE}");
        let mut rules = Vec::new();
        self.list(&operation, &envelope(family, message), |payload| {
            let chain = attribute(payload, NFTA_RULE_CHAIN).map(text_of);
            rules.extend(chain.zip(found(payload)));
        })?;
        Ok(rules)
    }

    /// How many rules our table has, whoever put them there.
    fn count_rules(&mut self, family: NetfilterProtoFamily) -> Result<usize, Error> {
        let message = NfTablesMessage::GetRule(RuleMessage {
            attributes: vec![RuleAttribute::Table(TABLE.to_owned())],
        });
        let operation = format!("count the rules of nftables table {TABLE}");
        let mut rules = 0;
        self.list(&operation, &envelope(family, message), |_rule| rules += 1)?;
        Ok(rules)
    }

    /// Nobody has a rule in our table of this family, or there is no such table.
    pub(crate) fn has_no_rules(&mut self, family: NetfilterProtoFamily) -> Result<bool, Error> {
        Ok(self.count_rules(family)? == 0)
    }

    /// Removes our table of this family, if it has no use. Answers whether it was there.
    pub(crate) fn remove_table(
        &mut self,
        family: NetfilterProtoFamily,
        is_unused: impl Fn(&mut Self) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let outcome = self.transact(|nft, batch| {
            if is_unused(nft)? {
                let message = NfTablesMessage::DeleteTable(TableMessage {
                    attributes: vec![TableAttribute::Name(TABLE.to_owned())],
                });
                let operation = format!("remove nftables table {TABLE}");
                batch.push(operation, 0, envelope(family, message));
                return Ok(true);
            }
            Ok(false)
        });
        match outcome {
            Err(error) if error.is_absent() => Ok(false),
            outcome => outcome,
        }
    }

    /// Reads the rules of a chain, which may be missing.
    fn list_rules(
        &mut self,
        family: NetfilterProtoFamily,
        table: &str,
        chain: &str,
        take: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let message = NfTablesMessage::GetRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(table.to_owned()),
                RuleAttribute::Chain(chain.to_owned()),
            ],
        });
        let operation = format!("list the rules of chain {chain} in nftables table {table}");
        self.list(&operation, &envelope(family, message), take)
    }

    /// Reads a list, again when it changed meanwhile; what is to be listed may be missing.
    fn list(
        &mut self,
        operation: &str,
        message: &NetfilterMessage,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            let request = Request {
                message: message.clone(),
                flags: 0,
                answer: Answer::Dump,
                operation: operation.to_owned(),
            };
            let mut payloads = Vec::new();
            let outcome = self
                .socket
                .execute(vec![request], |reply| payloads.push(reply.payload.to_vec()));
            match outcome {
                Err(error) if error.is_interrupted() && attempt < ATTEMPTS => attempt += 1,
                Err(error) if error.is_absent() => return Ok(()),
                Err(error) => return Err(error),
                Ok(()) => {
                    for payload in &payloads {
                        take(payload);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// A number that changes with every transaction, whoever commits it.
    pub(crate) fn generation(&mut self) -> Result<u32, Error> {
        let message = envelope(
            NetfilterProtoFamily::Unspec,
            NfTablesMessage::GetGen(GenMessage { attributes: vec![] }),
        );
        let operation = "ask nftables for its generation".to_owned();
        let request = Request {
            message,
            flags: 0,
            answer: Answer::One,
            operation,
        };
        let mut generation = 0;
        self.socket.execute(vec![request], |reply| {
            for (kind, value) in Attributes(reply.payload.get(4..).unwrap_or_default()) {
                if kind == NFTA_GEN_ID
                    && let Some(number) = value.first_chunk::<4>()
                {
                    generation = u32::from_be_bytes(*number);
                }
            }
        })?;
        Ok(generation)
    }

    /// Commits what `decide` puts together, all of it or nothing.
    ///
    /// `decide` looks at what is there; it is asked again when somebody else changed nftables
    /// in between. An empty transaction is not sent.
    fn transact<T>(
        &mut self,
        mut decide: impl FnMut(&mut Self, &mut Batch) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut attempt = 1;
        loop {
            let mut batch = Batch::new(Some(self.generation()?));
            let decided = decide(self, &mut batch)?;
            match self.commit(batch) {
                Err(error) if error.errno() == Some(Errno::ERESTART) && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                outcome => return outcome.map(|()| decided),
            }
        }
    }

    /// Commits a transaction, if there is anything in it.
    fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.socket.execute(batch.finish(), |_reply| {})
    }
}

/// A rule with a comment out of a list.
fn found(payload: &[u8]) -> Option<Found> {
    let comment = comment(attribute(payload, NFTA_RULE_USERDATA)?)?;
    Some(Found {
        handle: handle(payload)?,
        comment,
    })
}

/// The number by which a rule is known.
fn handle(payload: &[u8]) -> Option<u64> {
    attribute(payload, NFTA_RULE_HANDLE)?
        .first_chunk::<8>()
        .map(|number| u64::from_be_bytes(*number))
}

/// An attribute behind the header of a message.
fn attribute(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(payload.get(4..)?)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// The comment among a rule's user data: entries of type, length, value.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let (value, next) = rest.split_at_checked(usize::from(*length))?;
        if *kind == UDATA_COMMENT {
            return Some(text_of(value));
        }
        data = next;
    }
    None
}

/// User data that nft shows as the rule's comment.
fn user_data(comment: &str) -> Vec<u8> {
    let mut value = comment.as_bytes().to_vec();
    value.truncate(MAX_COMMENT - 1);
    value.push(0);
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [vec![UDATA_COMMENT, length], value].concat()
}

fn envelope(family: NetfilterProtoFamily, message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// A chain that the kernel calls by itself, in our table of its family.
struct BaseChain {
    family: NetfilterProtoFamily,
    /// What nft calls the family.
    family_name: &'static str,
    name: &'static str,
    /// `nat` or `filter`.
    kind: &'static str,
    hook: HookNumber,
    priority: i32,
}

/// A transaction as it grows.
#[derive(Debug)]
struct Batch {
    requests: Vec<Request<NetfilterMessage>>,
}

impl Batch {
    /// One that builds on this generation of all rules and sets, or on any.
    fn new(generation: Option<u32>) -> Self {
        let named = |number: u32| DefaultNla::new(NFNL_BATCH_GENID, number.to_be_bytes().to_vec());
        let attributes = generation.map(named).into_iter().collect();
        let mut batch = Self {
            requests: Vec::new(),
        };
        batch.frame(ControlMessage::Other {
            message_type: BATCH_BEGIN,
            attributes,
        });
        batch
    }

    fn is_empty(&self) -> bool {
        self.requests.len() == 1
    }

    /// The kernel acknowledges the last message before the end, after the commit.
    fn finish(mut self) -> Vec<Request<NetfilterMessage>> {
        self.frame(ControlMessage::BatchEnd);
        self.requests
    }

    fn frame(&mut self, message: ControlMessage) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
        self.requests.push(Request {
            message: NetfilterMessage::new(header, message),
            flags: 0,
            answer: Answer::Nothing,
            operation: "commit the nftables transaction".to_owned(),
        });
    }

    /// Our table and a chain in it; both may be there.
    fn base_chain(&mut self, chain: &BaseChain) {
        let message = TableMessage {
            attributes: vec![TableAttribute::Name(TABLE.to_owned())],
        };
        let operation = format!("create nftables table {} {TABLE}", chain.family_name);
        self.push(
            operation,
            NLM_F_CREATE,
            envelope(chain.family, NfTablesMessage::NewTable(message)),
        );
        let message = ChainMessage {
            attributes: vec![
                ChainAttribute::Table(TABLE.to_owned()),
                ChainAttribute::Name(chain.name.to_owned()),
                ChainAttribute::Type(chain.kind.to_owned()),
                ChainAttribute::Hook(vec![
                    Hook::Number(chain.hook),
                    Hook::Priority(chain.priority.cast_unsigned()),
                ]),
            ],
        };
        let operation = format!(
            "create nftables chain {} of type {}",
            chain.name, chain.kind
        );
        self.push(
            operation,
            NLM_F_CREATE,
            envelope(chain.family, NfTablesMessage::NewChain(message)),
        );
    }

    fn push(&mut self, operation: String, flags: u16, message: NetfilterMessage) {
        self.requests.push(Request {
            message,
            flags,
            answer: Answer::Ack,
            operation,
        });
    }
}

fn load_meta(register: Register, key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(register), Meta::Key(key)])
}

/// `base`: 0 for the link layer's header, 1 for the network layer's. Lengths in bytes.
fn load_payload(register: Register, base: u32, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// Looks what is in register 1 up in a set: by its name, or by its id in this transaction.
fn look_up(set: &str, id: u32, flags: u32) -> Expressions {
    Expressions::Lookup(vec![
        Lookup::Set(set.to_owned()),
        Lookup::SourceRegister(Register::Reg1),
        Lookup::SetId(id),
        Lookup::Flags(flags),
    ])
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_found_again() {
        assert_eq!(
            comment(&user_data("pods of cbr0")),
            Some("pods of cbr0".to_owned())
        );
        let long = "n".repeat(300);
        assert_eq!(
            comment(&user_data(&long)).map(|comment| comment.len()),
            Some(MAX_COMMENT - 1)
        );
    }

    #[test]
    fn user_data_of_other_people_is_no_comment() {
        for data in [&[][..], &[0], &[0, 9, b'x'], &[1, 1, 0]] {
            assert_eq!(comment(data), None);
        }
    }
}
