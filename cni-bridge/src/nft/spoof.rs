//! The check of what ports send, as nftables has it: rules that are the same for any number of
//! ports, and for each port its elements in sets.
//!
//! A packet costs the same with one port and with a thousand, and so does a port.

mod elements;
mod expressions;
mod rules;
mod table;

use std::collections::BTreeSet;

use cni_protocol::InterfaceName;
use netlink_packet_netfilter::NetfilterProtoFamily;

use self::{
    elements::{Element, Presence},
    rules::Set,
};
use super::{Batch, Nft, TABLE};
use crate::{guard::Guard, netlink::Error};

pub(crate) const FAMILY: NetfilterProtoFamily = NetfilterProtoFamily::Bridge;

/// Checks a port from here on, and sees to it that all rules are there.
///
/// In the ordinary case it adds the port's elements, whatever others do at the same time, and
/// reads the rules. What an earlier port of the name left goes.
///
/// Answers whether rules or sets were missing: then the elements of other ports may be, too.
pub(crate) fn guard(nft: &mut Nft, guard: &Guard) -> Result<bool, Error> {
    let elements = elements::of(guard);
    match add(nft, &elements) {
        Err(error) if error.is_exists() => replace(nft, guard).map(|()| false),
        Err(error) if error.is_absent() => {
            ensure_rules(nft)?;
            match add(nft, &elements) {
                // Another ADD has put them in with those of all pods that it found.
                Err(error) if error.is_exists() => replace(nft, guard)?,
                outcome => outcome?,
            }
            Ok(true)
        }
        Ok(()) if !table::is_whole(&table::rules(nft)?) => ensure_rules(nft).map(|()| true),
        outcome => outcome.map(|()| false),
    }
}

fn add(nft: &mut Nft, elements: &[Element]) -> Result<(), Error> {
    let mut batch = Batch::new(None);
    batch.spoof_elements(elements, Presence::New);
    nft.commit(batch)
}

/// Puts the guard's elements in the place of all that its port has.
///
/// They are written even where they are the same: a DEL that saw them, and not yet the port
/// that has come again, begins anew then.
fn replace(nft: &mut Nft, guard: &Guard) -> Result<(), Error> {
    nft.transact(|nft, batch| {
        batch.spoof_whole(&table::rules(nft)?);
        let mut there = all(nft)?;
        there.retain(|element| element.port == guard.port.as_str());
        batch.spoof_elements(&there, Presence::Gone);
        batch.spoof_elements(&elements::of(guard), Presence::There);
        Ok(())
    })
}

fn ensure_rules(nft: &mut Nft) -> Result<(), Error> {
    nft.transact(|nft, batch| {
        batch.spoof_whole(&table::rules(nft)?);
        Ok(())
    })
}

/// Brings the table to hold the rules, and for the port of each guard what the guard says and
/// nothing else, in one transaction. Other ports are let alone: an ADD may be under way.
///
/// Answers in words what was not so. Reads only, when all is.
pub(crate) fn restore(nft: &mut Nft, guards: &[Guard]) -> Result<Vec<String>, Error> {
    let found = differences(nft, guards)?;
    if found.is_empty() {
        return Ok(found);
    }
    nft.transact(|nft, batch| {
        batch.spoof_whole(&table::rules(nft)?);
        let (missing, superfluous) = compare(&all(nft)?, guards);
        batch.spoof_elements(&superfluous, Presence::Gone);
        batch.spoof_elements(&missing, Presence::There);
        Ok(())
    })?;
    Ok(found)
}

/// The guards that make no port's check less than it is: a pod keeps the check of its addresses,
/// although pods are made without one by now.
pub(crate) fn not_less(nft: &mut Nft, guards: &[Guard]) -> Result<Vec<Guard>, Error> {
    let addressed = elements::list(nft, Set::Addressed)?;
    let is_less = |guard: &&Guard| {
        let mut addressed = addressed.iter();
        guard.addresses.is_none() && addressed.any(|element| element.port == guard.port.as_str())
    };
    Ok(guards
        .iter()
        .filter(|guard| !is_less(guard))
        .cloned()
        .collect())
}

/// What is not as these guards say, in words. Changes nothing.
pub(crate) fn differences(nft: &mut Nft, guards: &[Guard]) -> Result<Vec<String>, Error> {
    let (mut found, there) = table::differences(nft)?;
    let (missing, superfluous) = compare(&all(nft)?, guards);
    let in_words = |element: &Element| {
        let set = element.key.set();
        there.contains(&set).then(|| {
            format!(
                "element {element} is missing in set {} of nftables table bridge {TABLE}",
                set.name()
            )
        })
    };
    found.extend(missing.iter().filter_map(in_words));
    found.extend(superfluous.iter().map(|element| {
        let set = element.key.set().name();
        format!("element {element} should not be in set {set} of nftables table bridge {TABLE}")
    }));
    Ok(found)
}

/// Ends the checks of the ports that `is_over` names.
///
/// It is asked a second time within the transaction: what began meanwhile is not ended.
pub(crate) fn release(
    nft: &mut Nft,
    mut is_over: impl FnMut(&str) -> Result<bool, Error>,
) -> Result<(), Error> {
    loop {
        let over = only(all(nft)?, &mut is_over)?;
        if over.is_empty() {
            return Ok(());
        }
        let outcome = nft.transact(|_nft, batch| {
            let over = only(over.clone(), &mut is_over)?;
            batch.spoof_elements(&over, Presence::Gone);
            Ok(())
        });
        match outcome {
            // Another call was quicker with one of them, and does not put it back.
            Err(error) if error.is_absent() => {}
            outcome => return outcome,
        }
    }
}

/// The elements of those ports that are asked for; each port is asked about once.
fn only(
    mut elements: Vec<Element>,
    is_asked_for: &mut impl FnMut(&str) -> Result<bool, Error>,
) -> Result<Vec<Element>, Error> {
    elements.sort();
    let mut chosen = Vec::new();
    for of_port in elements.chunk_by(|one, next| one.port == next.port) {
        if let [first, ..] = of_port
            && is_asked_for(&first.port)?
        {
            chosen.extend_from_slice(of_port);
        }
    }
    Ok(chosen)
}

/// A port is checked. Costs the same however many are.
pub(crate) fn is_checked(nft: &mut Nft, port: &InterfaceName) -> Result<bool, Error> {
    elements::is_checked(nft, port.as_str())
}

/// No port is checked, and nobody else has put a rule into the table.
pub(crate) fn is_unused(nft: &mut Nft) -> Result<bool, Error> {
    Ok(all(nft)?.is_empty() && nft.count_rules(FAMILY)? == table::count_ours(&table::rules(nft)?))
}

fn all(nft: &mut Nft) -> Result<Vec<Element>, Error> {
    let mut all = Vec::new();
    for set in Set::ALL {
        all.extend(elements::list(nft, set)?);
    }
    Ok(all)
}

/// (missing, superfluous) of the guards' ports.
fn compare(there: &[Element], guards: &[Guard]) -> (Vec<Element>, Vec<Element>) {
    let there: BTreeSet<&Element> = there.iter().collect();
    let wanted: BTreeSet<Element> = guards.iter().flat_map(elements::of).collect();
    let ports: BTreeSet<&str> = guards.iter().map(|guard| guard.port.as_str()).collect();
    let missing = wanted.iter().filter(|element| !there.contains(element));
    let superfluous = there
        .iter()
        .filter(|element| ports.contains(element.port.as_str()) && !wanted.contains(element));
    (
        missing.cloned().collect(),
        superfluous.map(|element| (*element).clone()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;

    fn guard(port: &str, last: u8, addresses: Option<&[&str]>) -> Guard {
        Guard {
            port: port.parse().unwrap(),
            mac: Mac([0x0a, 0x58, 10, 64, 1, last]),
            addresses: addresses.map(|list| {
                list.iter()
                    .map(|address| address.parse().unwrap())
                    .collect()
            }),
        }
    }

    fn elements_of(guards: &[Guard]) -> Vec<Element> {
        guards.iter().flat_map(elements::of).collect()
    }

    #[test]
    fn what_a_guards_port_has_too_much_is_superfluous_and_other_ports_are_not() {
        let wanted = [guard("veth1", 2, Some(&["10.64.1.2"]))];
        let there = elements_of(&[
            guard("veth1", 2, Some(&["10.64.1.9"])),
            guard("veth2", 3, None),
        ]);
        let (missing, superfluous) = compare(&there, &wanted);
        let shown = |list: Vec<Element>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(missing), ["veth1 . 10.64.1.2"]);
        assert_eq!(shown(superfluous), ["veth1 . 10.64.1.9"]);
        assert_eq!(compare(&elements_of(&wanted), &wanted), (vec![], vec![]));
    }

    #[test]
    fn a_guard_without_addresses_does_not_keep_those_of_before() {
        let there = elements_of(&[guard("veth1", 2, Some(&["10.64.1.2"]))]);
        let (missing, superfluous) = compare(&there, &[guard("veth1", 2, None)]);
        assert_eq!((missing.len(), superfluous.len()), (0, 3));
    }
}
