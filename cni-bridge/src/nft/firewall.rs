//! Chains and rules of other people as nftables has them: reading all that a packet of a pod
//! comes by, and putting an accepting rule in front.

mod parse;

use std::{cell::Cell, collections::HashMap, rc::Rc};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        ChainMessage, DataAttribute, Expressions, Immediate, ListAttribute, MetaKey,
        NfTablesMessage, Operator, Register, RuleAttribute, RuleMessage, SetAttribute,
        SetElementList, SetElementMessage, SetMessage, TableMessage, Verdict, VerdictAttribute,
    },
};

use nix::errno::Errno;

use super::{Nft, envelope};
use crate::{
    firewall::{BaseChain, Family, Rule, Ruleset, Rulesets, Set, Table},
    netlink::{Answer, Error, Request},
};

/// `NF_ACCEPT`.
const NF_ACCEPT: u32 = 1;
/// `IFNAMSIZ`.
const NAME: usize = 16;

/// The end of the way that an accepting rule names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    From,
    To,
}

/// A rule that accepts what comes from a link, or goes to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Accept {
    pub(crate) link: String,
    pub(crate) end: End,
    /// By which it is known again.
    pub(crate) comment: String,
}

/// All chains that the kernel calls for packets which come in or are forwarded.
pub(crate) fn base_chains(nft: &mut Nft) -> Result<Vec<BaseChain>, Error> {
    let any = NetfilterProtoFamily::Unspec;
    let tables = TableMessage { attributes: vec![] };
    let tables = envelope(any, NfTablesMessage::GetTable(tables));
    let tables = match nft.read("list the tables of nftables", &tables) {
        // nfnetlink_rcv_msg() knows no nftables: this kernel has none, and nobody's rules.
        Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let chains = ChainMessage { attributes: vec![] };
    let chains = nft.read(
        "list the chains of nftables",
        &envelope(any, NfTablesMessage::GetChain(chains)),
    )?;
    Ok(parse::base_chains(&tables, &chains))
}

/// The rules of a chain, which may be missing.
pub(crate) fn rules(nft: &mut Nft, table: &Table, chain: &str) -> Result<Vec<Rule>, Error> {
    let message = NfTablesMessage::GetRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.name.clone()),
            RuleAttribute::Chain(chain.to_owned()),
        ],
    });
    let operation = format!("list the rules of chain {chain} in nftables table {table}");
    let rules = nft.read(&operation, &envelope(family(table.family), message))?;
    Ok(rules.iter().filter_map(|rule| parse::rule(rule)).collect())
}

/// What is in the kernel, read as far as somebody asks for it.
#[derive(Debug)]
pub(crate) struct Kernel<'a> {
    nft: &'a mut Nft,
    table: Table,
    rules: HashMap<(Table, String), Rc<[Rule]>>,
    sets: HashMap<(Table, String), Option<Rc<Set>>>,
}

impl<'a> Kernel<'a> {
    pub(crate) fn new(nft: &'a mut Nft) -> Self {
        Self {
            nft,
            table: Table {
                family: Family::Inet,
                name: String::new(),
            },
            rules: HashMap::new(),
            sets: HashMap::new(),
        }
    }
}

impl Rulesets for Kernel<'_> {
    type Error = Error;
    type Table = Self;

    fn table(&mut self, table: &Table) -> &mut Self {
        self.table.clone_from(table);
        self
    }
}

impl Ruleset for Kernel<'_> {
    type Error = Error;

    fn rules(&mut self, chain: &str) -> Result<Rc<[Rule]>, Error> {
        let key = (self.table.clone(), chain.to_owned());
        if let Some(rules) = self.rules.get(&key) {
            return Ok(rules.clone());
        }
        let rules: Rc<[Rule]> = rules(self.nft, &self.table, chain)?.into();
        self.rules.insert(key, rules.clone());
        Ok(rules)
    }

    fn set(&mut self, name: &str) -> Result<Option<Rc<Set>>, Error> {
        let key = (self.table.clone(), name.to_owned());
        if let Some(set) = self.sets.get(&key) {
            return Ok(set.clone());
        }
        let set = self.nft.set(&self.table, name)?.map(Rc::new);
        self.sets.insert(key, set.clone());
        Ok(set)
    }
}

/// Puts those of the rules at the head of a chain that are not in it. Answers whether there
/// were any: none, too, when the chain is gone.
pub(crate) fn insert(nft: &mut Nft, chain: &BaseChain, wanted: &[Accept]) -> Result<bool, Error> {
    let changed = Cell::new(false);
    let outcome = nft.transact(|nft, batch| {
        let there = rules(nft, &chain.table, &chain.name)?;
        let missing = wanted.iter().filter(|accept| !has(&there, accept));
        // Each is put before the one that was put before.
        for accept in missing.rev() {
            let operation = format!(
                "insert an accepting rule into chain {} of nftables table {}",
                chain.name, chain.table
            );
            batch.push(operation, NLM_F_CREATE, accept.message(chain));
        }
        changed.set(!batch.is_empty());
        Ok(())
    });
    match outcome {
        Err(error) if error.is_absent() => Ok(false),
        outcome => outcome.map(|()| changed.get()),
    }
}

/// Takes rules out of a chain, by what their comments say.
pub(crate) fn remove(
    nft: &mut Nft,
    chain: &BaseChain,
    is_stale: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    nft.transact(|nft, batch| {
        for rule in rules(nft, &chain.table, &chain.name)? {
            if rule.comment.as_deref().is_some_and(&is_stale) {
                let message = RuleMessage {
                    attributes: vec![
                        RuleAttribute::Table(chain.table.name.clone()),
                        RuleAttribute::Chain(chain.name.clone()),
                        RuleAttribute::Handle(rule.handle),
                    ],
                };
                let message = NfTablesMessage::DeleteRule(message);
                let operation = format!(
                    "remove an accepting rule from chain {} of nftables table {}",
                    chain.name, chain.table
                );
                batch.push(operation, 0, envelope(family(chain.table.family), message));
            }
        }
        Ok(())
    })
}

/// Whether the rule is there, by its comment.
pub(crate) fn has(there: &[Rule], accept: &Accept) -> bool {
    there
        .iter()
        .any(|rule| rule.comment.as_deref() == Some(accept.comment.as_str()))
}

impl Accept {
    /// `iifname "cbr0" counter accept`, in a form that iptables can show, save and delete.
    fn message(&self, chain: &BaseChain) -> NetfilterMessage {
        let key = match self.end {
            End::From => MetaKey::Iifname,
            End::To => MetaKey::Oifname,
        };
        let mut name = self.link.clone().into_bytes();
        name.resize(NAME, 0);
        let verdict = VerdictAttribute::Code(Verdict::Other(NF_ACCEPT));
        let expressions = vec![
            super::load_meta(Register::Reg1, key),
            super::compare(Operator::Equal, name),
            super::other("counter", vec![]),
            Expressions::Immediate(vec![
                Immediate::DestinationRegister(Register::Verdict),
                Immediate::Data(DataAttribute::Verdict(vec![verdict])),
            ]),
        ];
        let message = RuleMessage {
            attributes: vec![
                RuleAttribute::Table(chain.table.name.clone()),
                RuleAttribute::Chain(chain.name.clone()),
                RuleAttribute::Expressions(
                    expressions.into_iter().map(ListAttribute::from).collect(),
                ),
                RuleAttribute::UserData(super::user_data(&self.comment)),
            ],
        };
        envelope(
            family(chain.table.family),
            NfTablesMessage::NewRule(message),
        )
    }
}

impl Nft {
    /// A list, whole and of one moment; what is to be listed may be missing.
    fn read(&mut self, operation: &str, message: &NetfilterMessage) -> Result<Vec<Vec<u8>>, Error> {
        let mut list = Vec::new();
        self.list(operation, message, |payload| list.push(payload.to_vec()))?;
        Ok(list)
    }

    /// `None` when it is not there, or of a kind whose elements say nothing by themselves.
    fn set(&mut self, table: &Table, name: &str) -> Result<Option<Set>, Error> {
        let message = SetMessage {
            attributes: vec![
                SetAttribute::Table(table.name.clone()),
                SetAttribute::Name(name.to_owned()),
            ],
        };
        let request = Request {
            message: envelope(family(table.family), NfTablesMessage::GetSet(message)),
            flags: 0,
            answer: Answer::One,
            operation: format!("look up set {name} of nftables table {table}"),
        };
        let mut description = Vec::new();
        match self.socket.execute(vec![request], |reply| {
            description = reply.payload.to_vec();
        }) {
            Err(error) if error.is_absent() => return Ok(None),
            outcome => outcome?,
        }
        let message = SetElementMessage {
            attributes: vec![
                SetElementList::Table(table.name.clone()),
                SetElementList::Set(name.to_owned()),
            ],
        };
        let operation = format!("list set {name} of nftables table {table}");
        let message = NfTablesMessage::GetSetElement(message);
        let lists = self.read(&operation, &envelope(family(table.family), message))?;
        Ok(parse::set(&description, &lists))
    }
}

fn family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::Ip => NetfilterProtoFamily::IPv4,
        Family::Ip6 => NetfilterProtoFamily::IPv6,
        Family::Inet => NetfilterProtoFamily::Inet,
        Family::Bridge => NetfilterProtoFamily::Bridge,
    }
}
