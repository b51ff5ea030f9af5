//! The masquerade rules in the kernel, each with its guard: verified by each ADD, written when
//! they differ.
//!
//! Shared by all pods of a network, so DEL leaves them.

use std::sync::Arc;

use cni_protocol::{Attachment, Failure, NetworkName};
use ipnet::IpNet;

use crate::{
    agent,
    error::Error,
    masquerade::{Part, Policy, Rule, everything},
    nft::{
        Nft, TABLE,
        masquerade::{Change, FAMILY, Installed, installed, update},
        predecessor,
    },
};

const PARTS: [Part; 2] = [Part::Masquerade, Part::Guard];

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
        for part in PARTS {
            let there = || installed.iter().filter(move |old| old.part == part);
            remove.extend(there().filter(|old| tag.supersedes(old.tag)));
            let mut same = there().filter(|old| old.tag == tag);
            if same.next().is_none() {
                add.push((part, rule.clone()));
            }
            remove.extend(same);
        }
    }
    (remove, add)
}

/// What an ADD does when the file with the exceptions cannot be used: rules that are there go
/// on as they are, which is said on stderr. Without any, nothing can be connected.
///
/// `pods` is `None` where only an ADD would tell their networks: then any rule of the network
/// will do.
pub(crate) fn keep(
    network: &NetworkName,
    pods: Option<&[IpNet]>,
    unusable: &Arc<agent::Error>,
) -> Result<(), Error> {
    let there = installed(&mut Nft::open().map_err(Error::Nftables)?)?;
    let is_there = |rule: &Rule| {
        let tag = rule.tag();
        there
            .iter()
            .any(|old| old.part == Part::Masquerade && tag.is_for_the_pods_of(old.tag))
    };
    let kept = match pods {
        None => there.iter().any(|old| old.tag.is_of(network)),
        // Whatever it says: for these pods it is.
        Some(pods) => [Vec::new(), vec![everything()]]
            .into_iter()
            .any(|masqueraded| {
                let policy = Policy::of_agent(None, masqueraded, &[]);
                policy.rules(network, pods).iter().all(is_there)
            }),
    };
    if !kept {
        return Err(Error::MasqueradeFile(Arc::clone(unusable)));
    }
    note_kept(network, unusable);
    Ok(())
}

/// Says on stderr that the file cannot be used, and that nothing came of that.
pub(crate) fn note_kept(network: &NetworkName, unusable: &Arc<agent::Error>) {
    let why = Error::MasqueradeFile(Arc::clone(unusable)).reply();
    cni_protocol::log(&format_args!(
        "{why}: the masquerade rules of network {network} stay as they are"
    ));
}

/// The rules that should be there and are not, in words.
pub(crate) fn check(rules: &[Rule]) -> Result<Vec<String>, Error> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let there = installed(&mut Nft::open().map_err(Error::Nftables)?)?;
    let mut differences = Vec::new();
    for rule in rules {
        let tag = rule.tag();
        let is_there = |part| there.iter().any(|old| old.part == part && old.tag == tag);
        for part in PARTS.into_iter().filter(|part| !is_there(*part)) {
            let name = match part {
                Part::Masquerade => "masquerade rule",
                Part::Guard => "rule that no packet leaves without being masqueraded",
            };
            let text = rule.part(part);
            differences.push(format!(
                "the {name} is missing in nftables table inet {TABLE}: {text}"
            ));
        }
    }
    Ok(differences)
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

/// Removes our table when no rule is left in it, of any network. Answers its name.
pub(crate) fn remove_table() -> Result<Option<String>, Error> {
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    let is_empty = |nft: &mut Nft| nft.has_no_rules(FAMILY);
    let removed = nft.remove_table(FAMILY, is_empty)?;
    Ok(removed.then(|| format!("nftables table inet {TABLE}")))
}

/// Removes the rules that the Go plugin made for one pod, which this plugin took over.
pub(crate) fn remove_predecessor(attachment: &Attachment) -> Result<(), Error> {
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    Ok(predecessor::remove(&mut nft, attachment)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::masquerade::Tag;

    fn rule(spared: &[&str]) -> Rule {
        let spared = spared.iter().map(|net| net.parse().unwrap()).collect();
        let pods = ["10.64.1.0/24".parse().unwrap()];
        Policy::new(Some(spared), vec![], false)
            .rules(&"cbr0".parse().unwrap(), &pods)
            .remove(0)
    }

    fn there(handle: u64, part: Part, tag: Tag) -> Installed {
        Installed { handle, part, tag }
    }

    #[test]
    fn each_part_is_seen_to_by_itself() {
        let (rule, other) = (rule(&["10.0.0.0/8"]), rule(&["10.0.0.0/9"]));
        let both = |tag| [there(1, Part::Masquerade, tag), there(2, Part::Guard, tag)];
        let wanted = [rule.clone()];
        let add = |part| (part, rule.clone());

        assert_eq!(decide(&both(rule.tag()), &wanted), (vec![], vec![]));
        let [masquerade, guard] = both(rule.tag());
        assert_eq!(
            decide(&[masquerade], &wanted),
            (vec![], vec![add(Part::Guard)])
        );
        assert_eq!(
            decide(&[guard, guard], &wanted),
            (vec![guard], vec![add(Part::Masquerade)])
        );
        // An older wording goes as the new one comes, of either part.
        let [masquerade, guard] = both(other.tag());
        assert_eq!(
            decide(&[masquerade, guard], &wanted),
            (vec![masquerade, guard], PARTS.map(add).to_vec())
        );
    }
}
