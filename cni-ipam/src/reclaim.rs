//! Self-repair: leases whose owners are provably gone end without a DEL.
//!
//! Proof is: made by cni-bridge, in this boot, in the network namespace that we are in,
//! longer ago than any ADD takes, and there is no link of the name that follows from the
//! owner. Clocks may jump, so age proves little; what makes it safe are two phases. The
//! lease is condemned under the lock; then the link is looked for without the lock; then the
//! lease is freed under the lock, if it is still condemned by us. An ADD that made its link
//! too late for us to see confirms its lease after that, which takes the condemnation back.

use std::collections::HashSet;

use cni_protocol::InterfaceName;

use crate::{
    cause::Cause,
    error::Error,
    names,
    release::{free_unchanged, still_stands},
    store::{
        Absent, Store,
        boot::now,
        line::{Line, Made, State},
        snapshot::Snapshot,
    },
};

/// No ADD takes this long between its lease and its link, in seconds.
const GRACE: u64 = 60;

/// How long a condemned lease is left to who condemned it, in seconds. He needs milliseconds.
const PATIENCE: u64 = 1;

/// Whether anything is changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Real,
    /// Only finds out what would be done.
    DryRun,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Report {
    /// The leases that ended, or would end, as they stood.
    pub(crate) reclaimed: Vec<Line>,
    /// Others have been condemned by somebody who is about to end them.
    pub(crate) others_at_it: bool,
}

/// Whether the end of a lease's owner could be proved from the namespace with this inode.
pub(crate) fn can_be_proved(line: &Line, netns: u64) -> bool {
    line.made == Made::ByBridge && line.netns == netns && netns != 0
}

/// Whether a lease is older than an ADD takes. A time in the future is that of a clock that
/// was set back, and no age at all.
pub(crate) fn is_old(line: &Line, now: u64) -> bool {
    line.time <= now && now - line.time > GRACE
}

/// The name of the link that a lease of cni-bridge belongs to.
pub(crate) fn link_of(line: &Line, network: &str) -> Option<InterfaceName> {
    let owner = line.owner.as_ref()?;
    let interface = owner.interface.parse().ok()?;
    Some(names::host_link_of(network, &owner.key, &interface))
}

/// Ends the leases whose owners are provably gone.
pub(crate) fn reclaim(store: &Store<'_>, mode: Mode) -> Result<Report, Error> {
    let (candidates, others_at_it) = candidates(store)?;
    if candidates.is_empty() || mode == Mode::DryRun {
        return Ok(Report {
            reclaimed: candidates,
            others_at_it,
        });
    }
    let condemned = condemn(store, &candidates)?;
    // Those that do not stand as they were read are somebody else's by now.
    let others_at_it = others_at_it || condemned.len() < candidates.len();
    let (gone, alive): (Vec<Line>, Vec<Line>) =
        condemned.into_iter().partition(|line| is_gone(store, line));
    acquit(store, &alive)?;
    Ok(Report {
        reclaimed: free_unchanged(store, &gone)?,
        others_at_it,
    })
}

/// Whether enough time has passed to look for an owner. What was condemned was old enough
/// before; it is somebody's who is at work, unless he died over it.
fn is_due(line: &Line, now: u64) -> bool {
    match line.state {
        State::Condemned => line.time > now || now - line.time > PATIENCE,
        _ => is_old(line, now),
    }
}

/// The leases that look abandoned. Most of a full node is alive, and is not touched.
fn candidates(store: &Store<'_>) -> Result<(Vec<Line>, bool), Error> {
    let snapshot =
        Snapshot::read(&store.path, store.boot).map_err(|error| store.failed("read", error))?;
    let Some(snapshot) = snapshot else {
        return Ok((Vec::new(), false));
    };
    let links = |error| Error::Links(Cause::from(error));
    let netns = store.host.netns().map_err(links)?;
    let names: HashSet<String> = store.host.names().map_err(links)?.into_iter().collect();
    let now = now();
    let is_abandoned = |line: &&Line| {
        let link = link_of(line, store.network.as_str());
        is_due(line, now)
            && can_be_proved(line, netns)
            && link.is_some_and(|link| !names.contains(link.as_str()))
    };
    let is_somebodys = |line: &Line| line.state == State::Condemned && !is_due(line, now);
    let others_at_it = snapshot.taken().any(is_somebodys);
    Ok((
        snapshot.taken().filter(is_abandoned).cloned().collect(),
        others_at_it,
    ))
}

/// Condemns those leases that still stand as they were read. Each condemnation has a number
/// of its own, so that nobody takes another's for his.
fn condemn(store: &Store<'_>, candidates: &[Line]) -> Result<Vec<Line>, Error> {
    let condemned = store.transact(Absent::Leave, |locked| {
        let mut condemned = Vec::new();
        for line in candidates {
            if still_stands(locked, line)? {
                let line = Line {
                    state: State::Condemned,
                    time: now(),
                    sequence: locked.next_sequence()?,
                    ..line.clone()
                };
                locked.rewrite(line.clone())?;
                condemned.push(line);
            }
        }
        Ok(condemned)
    })?;
    Ok(condemned.unwrap_or_default())
}

/// Whether there is certainly no link of the lease's owner.
fn is_gone(store: &Store<'_>, line: &Line) -> bool {
    let name = link_of(line, store.network.as_str());
    name.is_some_and(|name| matches!(store.host.exists(&name), Ok(false)))
}

/// Takes condemnations back: the owners live, or it could not be found out.
fn acquit(store: &Store<'_>, alive: &[Line]) -> Result<(), Error> {
    if alive.is_empty() {
        return Ok(());
    }
    store.transact(Absent::Leave, |locked| {
        for line in alive {
            if still_stands(locked, line)? {
                let sequence = locked.next_sequence()?;
                locked.rewrite(Line {
                    state: State::Active,
                    time: now(),
                    sequence,
                    ..line.clone()
                })?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::{Maker, confirm_in},
        testing::{NETNS, Node, attachment},
    };

    const POOL: &str = r#""subnet":"10.64.1.0/29""#;
    const OLD: u64 = 61;

    /// A full node whose pods all live, with leases older than any ADD.
    fn full() -> Node {
        let node = Node::new(POOL);
        for n in 2..7 {
            node.add_pod(&format!("c{n}"));
        }
        node.age(OLD);
        node
    }

    #[test]
    fn a_full_node_reclaims_what_is_provably_gone_and_nothing_else() {
        let node = full();
        node.lease("new").unwrap_err();
        node.remove_link("c4");
        assert_eq!(node.add("new"), "10.64.1.4");
        node.lease("new2").unwrap_err();
    }

    #[test]
    fn without_proof_nothing_is_reclaimed() {
        let node = Node::new(POOL);
        node.lease_by("other", Maker::Other).unwrap();
        let elsewhere = Maker::Bridge {
            host_netns: NETNS + 1,
        };
        node.lease_by("elsewhere", elsewhere).unwrap();
        node.age(OLD);
        node.lease("young").unwrap();
        assert_eq!(
            reclaim(&node.store(), Mode::Real).unwrap(),
            Report::default()
        );
        assert_eq!(node.taken().len(), 3);
    }

    #[test]
    fn a_lease_from_the_future_is_young() {
        let node = full();
        node.remove_link("c4");
        // The clock was set back by an hour.
        for line in node.snapshot().taken() {
            let later = Line {
                time: line.time + 3600,
                ..line.clone()
            };
            let store = node.store();
            store
                .transact(Absent::Leave, |locked| locked.rewrite(later.clone()))
                .unwrap();
        }
        assert_eq!(
            reclaim(&node.store(), Mode::Real).unwrap(),
            Report::default()
        );
    }

    #[test]
    fn a_dry_run_changes_nothing() {
        let node = full();
        node.remove_link("c4");
        let report = reclaim(&node.store(), Mode::DryRun).unwrap();
        assert_eq!(report.reclaimed.len(), 1);
        assert_eq!(node.taken().len(), 5);
    }

    #[test]
    fn a_look_that_fails_gives_the_lease_back() {
        let node = full();
        node.remove_link("c4");
        *node.links.broken.lock().unwrap() = true;
        assert_eq!(
            reclaim(&node.store(), Mode::Real).unwrap(),
            Report::default()
        );
        assert!(
            node.snapshot()
                .taken()
                .all(|line| line.state == State::Active)
        );
    }

    /// What an ADD does that is as slow as can be: its link is made, and its lease
    /// confirmed, while a reclaimer is between its phases.
    #[test]
    fn an_add_that_confirms_in_the_middle_keeps_its_lease() {
        let node = full();
        let leased = node.lease("c4").unwrap();
        node.age(OLD);
        node.remove_link("c4");
        let store = node.store();
        let condemned = condemn(&store, &candidates(&store).unwrap().0).unwrap();
        assert_eq!(condemned.len(), 1);
        assert!(is_gone(&store, &condemned[0]));

        node.add_pod("c4");
        confirm_in(&store, &attachment("c4"), &leased.leases).unwrap();

        assert_eq!(free_unchanged(&store, &condemned).unwrap(), []);
        assert!(node.taken().contains(&"10.64.1.4 c4 eth0".to_owned()));
    }

    #[test]
    fn an_add_that_confirms_too_late_is_told() {
        let node = full();
        let leased = node.lease("c4").unwrap();
        node.age(OLD);
        node.remove_link("c4");
        assert_eq!(node.add("new"), "10.64.1.4");
        let error = confirm_in(&node.store(), &attachment("c4"), &leased.leases).unwrap_err();
        assert!(matches!(error, Error::TakenBack { .. }), "{error}");
    }

    #[test]
    fn a_second_reclaimer_does_not_finish_what_the_first_one_began() {
        let node = full();
        let leased = node.lease("c4").unwrap();
        node.age(OLD);
        node.remove_link("c4");
        let store = node.store();
        let first = condemn(&store, &candidates(&store).unwrap().0).unwrap();
        // The ADD confirms, and somebody else condemns it again.
        confirm_in(&store, &attachment("c4"), &leased.leases).unwrap();
        node.age(OLD);
        let second = condemn(&store, &candidates(&store).unwrap().0).unwrap();
        assert_eq!(second.len(), 1);

        assert_eq!(free_unchanged(&store, &first).unwrap(), []);
        acquit(&store, &first).unwrap();
        assert_eq!(free_unchanged(&store, &second).unwrap().len(), 1);
    }

    #[test]
    fn what_a_dead_reclaimer_condemned_is_a_candidate_again() {
        let node = full();
        node.remove_link("c4");
        let store = node.store();
        condemn(&store, &candidates(&store).unwrap().0).unwrap();
        assert_eq!(node.taken().len(), 5, "a condemned lease is taken");
        let early = reclaim(&store, Mode::Real).unwrap();
        assert_eq!((early.reclaimed.len(), early.others_at_it), (0, true));
        node.age(PATIENCE + 1);
        assert_eq!(reclaim(&store, Mode::Real).unwrap().reclaimed.len(), 1);
    }

    #[test]
    fn the_owner_of_a_condemned_lease_can_delete_it() {
        let node = full();
        node.remove_link("c4");
        let store = node.store();
        let condemned = condemn(&store, &candidates(&store).unwrap().0).unwrap();
        node.del("c4");
        assert_eq!(node.add("next"), "10.64.1.4");
        assert_eq!(free_unchanged(&store, &condemned).unwrap(), []);
    }
}
