//! What an operator can do to a store.

use std::net::IpAddr;

use cni_protocol::NetworkName;

use crate::{
    config::DataDir,
    error::Error,
    inspect::{Healing, Problem, verify_in},
    reclaim::{self, Mode},
    store::{
        Absent, Held, Here, Store,
        block::Reading,
        line::{Line, Owner},
    },
};

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Repaired {
    /// What was wrong and is right again.
    pub solved: Vec<Problem>,
    /// What is still wrong.
    pub left: Vec<Problem>,
}

/// Whether a repair changes anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repair {
    Do,
    /// Only says what is wrong, and what of it could be repaired.
    DryRun,
}

/// Heals damaged records from the index and the kernel's links, builds the index anew, and
/// ends the leases whose owners are provably gone. `None` when there is no store.
pub fn repair(
    data_dir: &DataDir,
    network: &NetworkName,
    how: Repair,
) -> Result<Option<Repaired>, Error> {
    repair_in(&Store::new(data_dir, network, &Here)?, how)
}

pub(crate) fn repair_in(store: &Store<'_>, how: Repair) -> Result<Option<Repaired>, Error> {
    let Some(before) = verify_in(store)? else {
        return Ok(None);
    };
    let left = match how {
        Repair::DryRun => {
            let mut healing = Healing::new(store)?;
            let mut left = before.clone();
            left.retain(|problem| !healing.may_heal(problem));
            left
        }
        Repair::Do => {
            store.rebuild()?;
            reclaim::reclaim(store, Mode::Real)?;
            verify_in(store)?.unwrap_or_default()
        }
    };
    let solved = before.into_iter().filter(|problem| !left.contains(problem));
    Ok(Some(Repaired {
        solved: solved.collect(),
        left,
    }))
}

/// Frees an address because an operator says that nobody has it, be it leased or in
/// quarantine. `None` when it was free; otherwise the container id and the interface that
/// had it, as far as they are known.
pub fn release_address(
    data_dir: &DataDir,
    network: &NetworkName,
    address: IpAddr,
) -> Result<Option<(String, String)>, Error> {
    release_address_in(&Store::new(data_dir, network, &Here)?, address)
}

pub(crate) fn release_address_in(
    store: &Store<'_>,
    address: IpAddr,
) -> Result<Option<(String, String)>, Error> {
    let freed = store.transact(Absent::Leave, |locked| {
        let line = match locked.find(address)? {
            None => return Ok(None),
            Some(Reading::Line(line)) if is_free(&line, store) => return Ok(None),
            Some(Reading::Line(line)) => Some(line),
            Some(Reading::Damaged) => None,
        };
        let owner = line.as_ref().and_then(|line| line.owner.clone());
        locked.free(&Held { address, line }, owner.as_ref())?;
        Ok(Some(owner.map_or_else(unknown, known)))
    })?;
    Ok(freed.flatten())
}

fn is_free(line: &Line, store: &Store<'_>) -> bool {
    !line.is_taken(store.boot) && !line.is_quarantined(store.boot)
}

fn known(owner: Owner) -> (String, String) {
    (owner.key, owner.interface)
}

fn unknown() -> (String, String) {
    ("unknown".to_owned(), "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    fn node() -> Node {
        let node = Node::new(r#""subnet":"10.64.1.0/29""#);
        for n in 2..5 {
            node.add_pod(&format!("c{n}"));
        }
        node
    }

    fn problems(node: &Node) -> Vec<String> {
        let problems = verify_in(&node.store()).unwrap().unwrap();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_healthy_store_has_no_problems() {
        assert_eq!(problems(&node()), [""; 0]);
        assert_eq!(
            repair_in(&node().store(), Repair::Do).unwrap(),
            Some(Repaired::default())
        );
    }

    #[test]
    fn a_damaged_record_of_a_pod_is_repaired_from_its_link() {
        let node = node();
        node.damage("10.64.1.3", 77);
        assert_eq!(
            problems(&node),
            [
                "10.64.1.3: its record is damaged, it is not given until that is repaired",
                &format!(
                    "10.64.1.3: link {} of container c3 has it, but no lease",
                    crate::names::host_link(&crate::testing::attachment("c3"))
                ),
            ]
        );
        let repaired = repair_in(&node.store(), Repair::Do).unwrap().unwrap();
        assert_eq!((repaired.solved.len(), repaired.left.len()), (2, 0));
        assert_eq!(problems(&node), [""; 0]);
        assert_eq!(node.taken().len(), 3);
    }

    #[test]
    fn what_cannot_be_repaired_is_left_to_the_operator() {
        let node = node();
        node.remove_link("c3");
        node.damage("10.64.1.3", 77);
        let repaired = repair_in(&node.store(), Repair::Do).unwrap().unwrap();
        assert_eq!(
            repaired.left,
            [Problem::Quarantined("10.64.1.3".parse().unwrap())]
        );
        let freed = release_address_in(&node.store(), "10.64.1.3".parse().unwrap()).unwrap();
        assert_eq!(freed, Some(unknown()));
        assert_eq!(problems(&node), [""; 0]);
        node.del("c3");
        assert_eq!(node.taken().len(), 2);
    }

    #[test]
    fn an_abandoned_lease_is_found_and_ended() {
        let node = node();
        node.age(100);
        node.remove_link("c3");
        assert_eq!(
            problems(&node),
            ["10.64.1.3: container c3 has it, but no link"]
        );
        let repaired = repair_in(&node.store(), Repair::DryRun).unwrap().unwrap();
        assert_eq!((repaired.solved.len(), repaired.left.len()), (1, 0));
        assert_eq!(node.taken().len(), 3, "a dry run changes nothing");
        repair_in(&node.store(), Repair::Do).unwrap();
        assert_eq!(node.taken().len(), 2);
    }

    #[test]
    fn an_operator_releases_one_address() {
        let node = node();
        let address = "10.64.1.3".parse().unwrap();
        let freed = release_address_in(&node.store(), address).unwrap();
        assert_eq!(freed, Some(("c3".to_owned(), "eth0".to_owned())));
        assert_eq!(release_address_in(&node.store(), address).unwrap(), None);
        let elsewhere = "10.99.0.1".parse().unwrap();
        assert_eq!(release_address_in(&node.store(), elsewhere).unwrap(), None);
    }
}
