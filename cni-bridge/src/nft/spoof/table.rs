//! Table, chains and rules of the check: whether they are as they should be, and putting them
//! there.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, HookNumber, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetMessage, TableMessage,
};

use super::{
    FAMILY,
    rules::{CALLED, FORMAT, PREROUTING, RULES, Set},
};
use crate::{
    netlink::{Attributes, Error, text_of},
    nft::{self, BaseChain, Batch, Found, Nft, TABLE},
};

/// `NF_BR_PRE_ROUTING`, and before everything else that bridges do there.
const HOOK: u32 = 0;
const PRIORITY: i32 = -300;
/// `NFTA_TABLE_NAME`; `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`.
const OF: u16 = 1;
/// `NFTA_RULE_CHAIN`, `NFTA_SET_NAME`; of a chain `NFTA_CHAIN_NAME`.
const NAME: u16 = 2;
const CHAIN_NAME: u16 = 3;

/// A rule that has a comment, in its chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Placed {
    chain: String,
    rule: Found,
}

/// The rules with a comment of all chains of the table, in their order.
pub(super) fn rules(nft: &mut Nft) -> Result<Vec<Placed>, Error> {
    let message = NfTablesMessage::GetRule(RuleMessage {
        attributes: vec![RuleAttribute::Table(TABLE.to_owned())],
    });
    let operation = format!("list the rules of nftables table bridge {TABLE}");
    let mut rules = Vec::new();
    nft.list(&operation, &nft::envelope(FAMILY, message), |payload| {
        rules.extend(placed(payload));
    })?;
    Ok(rules)
}

fn placed(payload: &[u8]) -> Option<Placed> {
    Some(Placed {
        chain: text_of(nft::attribute(payload, NAME)?),
        rule: nft::found(payload)?,
    })
}

/// Our rules are there, all of them, once each, and in their order.
pub(super) fn is_whole(rules: &[Placed]) -> bool {
    std::iter::once(PREROUTING)
        .chain(CALLED)
        .all(|chain| there(rules, chain).eq(wanted(chain)))
}

/// The comments of our rules in a chain, as they should be.
fn wanted(chain: &str) -> impl Iterator<Item = String> {
    RULES
        .iter()
        .filter(move |rule| rule.chain == chain)
        .map(|rule| comment(rule.comment))
}

/// The comments of our rules in a chain, as they are.
fn there<'a>(rules: &'a [Placed], chain: &'a str) -> impl Iterator<Item = String> {
    ours(rules)
        .filter(move |placed| placed.chain == chain)
        .map(|placed| placed.rule.comment.clone())
}

/// Rules of this and of other versions. What somebody else put into the table is let alone.
fn ours(rules: &[Placed]) -> impl Iterator<Item = &Placed> {
    rules.iter().filter(|placed| {
        let tag = placed.rule.comment.rsplit_once(" #");
        tag.is_some_and(|(_, number)| number.parse::<u32>().is_ok())
    })
}

/// How many of these rules are of this or another version of ours.
pub(super) fn count_ours(rules: &[Placed]) -> usize {
    ours(rules).count()
}

fn comment(text: &str) -> String {
    format!("{text} #{FORMAT}")
}

/// What is missing of table, chains, sets and rules, in words, and the sets that are there.
///
/// Of a chain that is missing the rules are not named, too.
pub(super) fn differences(nft: &mut Nft) -> Result<(Vec<String>, Vec<Set>), Error> {
    let table = NfTablesMessage::GetTable(TableMessage { attributes: vec![] });
    if !names(nft, "tables", table, OF, None)?.contains(&TABLE.to_owned()) {
        let missing = format!("nftables table bridge {TABLE} is missing");
        return Ok((vec![missing], Vec::new()));
    }
    let chains = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
    let chains = names(nft, "chains", chains, CHAIN_NAME, Some(OF))?;
    let sets = NfTablesMessage::GetSet(SetMessage {
        attributes: vec![SetAttribute::Table(TABLE.to_owned())],
    });
    let sets = names(nft, "sets", sets, NAME, Some(OF))?;
    let rules = rules(nft)?;
    let mut found = Vec::new();
    for chain in std::iter::once(PREROUTING).chain(CALLED) {
        if chains.iter().any(|name| name == chain) {
            found.extend(differences_of(chain, &rules));
        } else {
            found.push(format!(
                "chain {chain} is missing in nftables table bridge {TABLE}"
            ));
        }
    }
    let (there, missing): (Vec<Set>, Vec<Set>) = Set::ALL
        .into_iter()
        .partition(|set| sets.iter().any(|name| name == set.name()));
    found.extend(missing.iter().map(|set| {
        let name = set.name();
        format!("set {name} is missing in nftables table bridge {TABLE}")
    }));
    Ok((found, there))
}

fn differences_of(chain: &str, rules: &[Placed]) -> Vec<String> {
    let there: Vec<String> = there(rules, chain).collect();
    let wanted: Vec<String> = wanted(chain).collect();
    if there == wanted {
        return Vec::new();
    }
    let missing: Vec<String> = wanted
        .iter()
        .filter(|rule| !there.contains(rule))
        .map(|rule| {
            format!("rule \"{rule}\" is missing in chain {chain} of nftables table bridge {TABLE}")
        })
        .collect();
    if missing.is_empty() {
        return vec![format!(
            "the rules of chain {chain} of nftables table bridge {TABLE} are not in their order, once each"
        )];
    }
    missing
}

/// The names in a list; of those in our table only, where `of` says which attribute names it.
fn names(
    nft: &mut Nft,
    what: &str,
    message: NfTablesMessage,
    name: u16,
    of: Option<u16>,
) -> Result<Vec<String>, Error> {
    let operation = format!("list the {what} of nftables");
    let mut names = Vec::new();
    nft.list(&operation, &nft::envelope(FAMILY, message), |payload| {
        let text = |wanted| {
            Attributes(payload.get(4..).unwrap_or_default())
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| text_of(value))
        };
        if of.is_none_or(|of| text(of).as_deref() == Some(TABLE)) {
            names.extend(text(name));
        }
    })?;
    Ok(names)
}

impl Batch {
    /// Whatever is missing for the rules to be whole.
    pub(super) fn spoof_whole(&mut self, there: &[Placed]) {
        if !is_whole(there) {
            self.spoof_foundation();
            self.spoof_rules(there);
        }
    }

    /// Table, chains and sets; each may be there.
    fn spoof_foundation(&mut self) {
        self.base_chain(&BaseChain {
            family: FAMILY,
            family_name: "bridge",
            name: PREROUTING,
            kind: "filter",
            hook: HookNumber::Other(HOOK),
            priority: PRIORITY,
        });
        for chain in CALLED {
            let message = NfTablesMessage::NewChain(ChainMessage {
                attributes: vec![
                    ChainAttribute::Table(TABLE.to_owned()),
                    ChainAttribute::Name(chain.to_owned()),
                ],
            });
            self.push(
                format!("create chain {chain} in nftables table bridge {TABLE}"),
                NLM_F_CREATE,
                nft::envelope(FAMILY, message),
            );
        }
        for set in Set::ALL {
            self.spoof_set(set);
        }
    }

    /// All rules of this version in the place of those that are there.
    fn spoof_rules(&mut self, there: &[Placed]) {
        for placed in ours(there) {
            let message = NfTablesMessage::DeleteRule(RuleMessage {
                attributes: vec![
                    RuleAttribute::Table(TABLE.to_owned()),
                    RuleAttribute::Chain(placed.chain.clone()),
                    RuleAttribute::Handle(placed.rule.handle),
                ],
            });
            self.push(
                format!(
                    "remove nftables rule \"{}\" from chain {} of table bridge {TABLE}",
                    placed.rule.comment, placed.chain
                ),
                0,
                nft::envelope(FAMILY, message),
            );
        }
        for rule in RULES {
            self.spoof_rule(rule, &comment(rule.comment));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_written() -> Vec<Placed> {
        let placed = |rule: &super::super::rules::Rule| Placed {
            chain: rule.chain.to_owned(),
            rule: Found {
                handle: 1,
                comment: comment(rule.comment),
            },
        };
        RULES.iter().map(placed).collect()
    }

    fn foreign(comment: &str) -> Placed {
        Placed {
            chain: PREROUTING.to_owned(),
            rule: Found {
                handle: 99,
                comment: comment.to_owned(),
            },
        }
    }

    #[test]
    fn whole_is_what_was_written_and_what_others_added() {
        let mut rules = as_written();
        assert!(is_whole(&rules));
        rules.insert(0, foreign("count what comes"));
        assert!(is_whole(&rules));
    }

    #[test]
    fn a_rule_that_is_missing_moved_twice_or_of_another_version_is_noticed() {
        for (number, rule) in RULES.iter().enumerate() {
            let mut rules = as_written();
            rules.remove(number);
            assert!(!is_whole(&rules), "without {rule:?}");
        }
        let mut swapped = as_written();
        swapped.swap(1, 2);
        assert!(!is_whole(&swapped));
        let mut old = as_written();
        old.push(foreign("pods send with their own MAC address only #1"));
        assert!(!is_whole(&old));
        let mut twice = as_written();
        twice.push(twice[0].clone());
        assert!(!is_whole(&twice));
    }

    #[test]
    fn the_comments_of_a_chain_differ_and_fit() {
        for rule in RULES {
            let same = wanted(rule.chain).filter(|text| *text == comment(rule.comment));
            assert_eq!(same.count(), 1, "{rule:?}");
            assert!(comment(rule.comment).len() < nft::MAX_COMMENT, "{rule:?}");
        }
    }
}
