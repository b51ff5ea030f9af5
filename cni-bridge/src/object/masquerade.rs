//! The masquerade rules in the kernel: verified by each ADD, written when they differ.
//!
//! Shared by all pods of a network, so DEL leaves them.

use cni_protocol::{Attachment, NetworkName};

use crate::{
    error::Error,
    masquerade::Rule,
    nft::{
        Nft, TABLE,
        masquerade::{Change, Installed, installed, update},
        predecessor,
    },
};

/// Sees to it that the rules are there, once each.
///
/// Reads only, when they are. Rules with an older wording for the same pods are replaced in
/// the same transaction; rules for pods with other addresses stay, as long as such pods may.
/// Answers whether there was anything to write.
pub(crate) fn ensure(rules: &[Rule]) -> Result<bool, Error> {
    if rules.is_empty() {
        return Ok(false);
    }
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    let (remove, add) = decide(&installed(&mut nft)?, rules);
    if remove.is_empty() && add.is_empty() {
        return Ok(false);
    }
    update(&mut nft, |installed| decide(installed, rules))?;
    Ok(true)
}

fn decide(installed: &[Installed], rules: &[Rule]) -> Change {
    let mut add = Vec::new();
    let mut remove = Vec::new();
    for rule in rules {
        let tag = rule.tag();
        remove.extend(installed.iter().filter(|old| tag.supersedes(old.tag)));
        let mut same = installed.iter().filter(|old| old.tag == tag);
        if same.next().is_none() {
            add.push(rule.clone());
        }
        remove.extend(same);
    }
    (remove, add)
}

/// The rules that should be there and are not, in words.
pub(crate) fn check(rules: &[Rule]) -> Result<Vec<String>, Error> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let there = installed(&mut Nft::open().map_err(Error::Nftables)?)?;
    let missing = rules
        .iter()
        .filter(|rule| !there.iter().any(|old| old.tag == rule.tag()));
    Ok(missing
        .map(|rule| {
            format!("the masquerade rule is missing in nftables table inet {TABLE}: {rule}")
        })
        .collect())
}

/// Removes the rules of a network for which it has no use: its configuration asks for others.
pub(crate) fn collect_garbage(network: &NetworkName, wanted: &[Rule]) -> Result<(), Error> {
    let is_stale = |old: &&Installed| {
        old.tag.is_of(network) && !wanted.iter().any(|rule| rule.tag() == old.tag)
    };
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    if !installed(&mut nft)?.iter().any(|old| is_stale(&old)) {
        return Ok(());
    }
    Ok(update(&mut nft, |installed| {
        (
            installed.iter().filter(is_stale).copied().collect(),
            Vec::new(),
        )
    })?)
}

/// Removes the rules that the Go plugin made for one pod, which this plugin took over.
pub(crate) fn remove_predecessor(attachment: &Attachment) -> Result<(), Error> {
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    Ok(predecessor::remove(&mut nft, attachment)?)
}
