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
}

/// Whether the end of a lease's owner could be proved from the namespace with this inode.
pub(crate) fn can_be_proved(line: &Line, netns: u64) -> bool {
    line.made == Made::ByBridge && line.netns == netns && netns != 0
}

/// The name of the link that a lease of cni-bridge belongs to.
pub(crate) fn link_of(line: &Line, network: &str) -> Option<InterfaceName> {
    let owner = line.owner.as_ref()?;
    let interface = owner.interface.parse().ok()?;
    Some(names::host_link_of(network, &owner.key, &interface))
}

/// Ends the leases whose owners are provably gone.
pub(crate) fn reclaim(store: &Store<'_>, mode: Mode) -> Result<Report, Error> {
    let candidates = candidates(store)?;
    if candidates.is_empty() || mode == Mode::DryRun {
        return Ok(Report {
            reclaimed: candidates,
        });
    }
    let condemned = condemn(store, &candidates)?;
    let (gone, alive): (Vec<Line>, Vec<Line>) = condemned
        .into_iter()
        .partition(|line| is_gone(store, line));
    acquit(store, &alive)?;
    Ok(Report {
        reclaimed: free_unchanged(store, &gone)?,
    })
}

/// The leases that look abandoned. Most of a full node is alive, and is not touched.
fn candidates(store: &Store<'_>) -> Result<Vec<Line>, Error> {
    let snapshot =
        Snapshot::read(&store.path, store.boot).map_err(|error| store.failed("read", error))?;
    let Some(snapshot) = snapshot else {
        return Ok(Vec::new());
    };
    let links = |error| Error::Links(Cause::from(error));
    let netns = store.host.netns().map_err(links)?;
    let names: HashSet<String> = store.host.names().map_err(links)?.into_iter().collect();
    let now = now();
    let is_abandoned = |line: &&Line| {
        // A time in the future is that of a clock that was set back: no age at all.
        let is_old = line.time <= now && now - line.time > GRACE;
        let link = link_of(line, store.network.as_str());
        is_old
            && can_be_proved(line, netns)
            && link.is_some_and(|link| !names.contains(link.as_str()))
    };
    Ok(snapshot.taken().filter(is_abandoned).cloned().collect())
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
    let link = link_of(line, store.network.as_str());
    link.is_some_and(|link| matches!(store.host.exists(&link), Ok(false)))
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
                    sequence,
                    ..line.clone()
                })?;
            }
        }
        Ok(())
    })?;
    Ok(())
}
