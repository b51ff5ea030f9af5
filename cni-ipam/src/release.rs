//! Taking addresses back: from one attachment, or from all that are no longer valid.

use std::{collections::HashSet, net::IpAddr};

use cni_protocol::{Attachment, ContainerId, NetworkName, ValidAttachment};

use crate::{
    config::DataDir,
    error::Error,
    import,
    lease::owner_of,
    names,
    reclaim::{self, Mode},
    store::{
        Absent, Fault, Held, Here, Locked, Store,
        block::Reading,
        line::{Line, Made, NO_INTERFACE, Owner},
        snapshot::Snapshot,
    },
};

/// What an attachment has, as a DEL wants to know before it gives it back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holdings {
    pub addresses: Vec<IpAddr>,
    /// Host-local gave one of them, or may have given one that was not taken over yet.
    pub from_host_local: bool,
}

impl Holdings {
    /// A release would find nothing.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && !self.from_host_local
    }
}

/// What an attachment has. Nothing there is fine, and nothing is ever made.
pub fn holdings(data_dir: &DataDir, attachment: &Attachment) -> Result<Holdings, Error> {
    let store = Store::new(data_dir, &attachment.network, &Here)?;
    holdings_in(&store, data_dir, attachment)
}

pub(crate) fn holdings_in(
    store: &Store<'_>,
    data_dir: &DataDir,
    attachment: &Attachment,
) -> Result<Holdings, Error> {
    let found = store.transact(Absent::Leave, |locked| {
        let mut holdings = Holdings::default();
        for owner in owners(attachment) {
            for held in locked.held_by(&owner)? {
                let made = held.line.map(|line| line.made);
                holdings.from_host_local |= made == Some(Made::ByImport);
                holdings.addresses.push(held.address);
            }
        }
        Ok((locked.is_imported(), holdings))
    })?;
    let (is_imported, mut holdings) = found.unwrap_or_default();
    if let Some(from) = data_dir.import_from().filter(|_| !is_imported) {
        holdings.from_host_local |= import::there_is_any(store, from)?;
    }
    Ok(holdings)
}

/// Releases what an attachment has. Nothing there is fine, and nothing is ever made.
pub fn release(data_dir: &DataDir, attachment: &Attachment) -> Result<(), Error> {
    let store = Store::new(data_dir, &attachment.network, &Here)?;
    release_in(&store, data_dir, attachment)
}

pub(crate) fn release_in(
    store: &Store<'_>,
    data_dir: &DataDir,
    attachment: &Attachment,
) -> Result<(), Error> {
    let release_here = || {
        store.transact(Absent::Leave, |locked| {
            for owner in owners(attachment) {
                for held in locked.held_by(&owner)? {
                    locked.free(&held, Some(&owner))?;
                }
            }
            Ok(locked.is_imported())
        })
    };
    let is_imported = release_here()?.unwrap_or_default();
    let Some(from) = data_dir.import_from().filter(|_| !is_imported) else {
        return Ok(());
    };
    // Nothing was taken over yet: the record is where host-local put it. Or it is here by
    // now, when somebody took it over at the same time.
    if import::release_there(store, from, attachment)? {
        release_here()?;
    }
    Ok(())
}

/// An attachment as a lease names it. Host-local's oldest records name no interface.
fn owners(attachment: &Attachment) -> [Owner; 2] {
    let owner = owner_of(attachment);
    let unnamed = Owner {
        interface: NO_INTERFACE.to_owned(),
        ..owner.clone()
    };
    [owner, unnamed]
}

/// What a GC did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GcReport {
    /// The addresses that are free again.
    pub released: Vec<IpAddr>,
    /// True: the runtime did not say what is valid, so only what is provably gone ended.
    pub only_proven: bool,
}

/// Ends all leases of a network but those of valid attachments, and those made after the
/// call began.
///
/// `None`: the runtime does not say which are valid. Then only leases end whose owners are
/// provably gone.
pub fn gc(
    data_dir: &DataDir,
    network: &NetworkName,
    valid: Option<&[ValidAttachment]>,
) -> Result<GcReport, Error> {
    let store = Store::new(data_dir, network, &Here)?;
    gc_in(&store, valid)
}

pub(crate) fn gc_in(
    store: &Store<'_>,
    valid: Option<&[ValidAttachment]>,
) -> Result<GcReport, Error> {
    let Some(valid) = valid else {
        let report = reclaim::reclaim(store, Mode::Real)?;
        return Ok(GcReport {
            released: report.reclaimed.iter().map(|line| line.address).collect(),
            only_proven: true,
        });
    };
    let released = free_unchanged(store, &stale(store, valid)?)?;
    Ok(GcReport {
        released: released.iter().map(|line| line.address).collect(),
        only_proven: false,
    })
}

/// The leases of attachments that are not in the list.
fn stale(store: &Store<'_>, valid: &[ValidAttachment]) -> Result<Vec<Line>, Error> {
    let valid = Valid::new(valid);
    let snapshot =
        Snapshot::read(&store.path, store.boot).map_err(|error| store.failed("read", error))?;
    let taken = snapshot.iter().flat_map(Snapshot::taken);
    let is_stale = |line: &&Line| line.owner.as_ref().is_none_or(|owner| !valid.has(owner));
    Ok(taken.filter(is_stale).cloned().collect())
}

/// The attachments whose leases were taken over from host-local, and that a [`gc`] with this
/// list ends: what the plugin of that time made for them has to go before.
pub fn stale_predecessors(
    data_dir: &DataDir,
    network: &NetworkName,
    valid: &[ValidAttachment],
) -> Result<Vec<Attachment>, Error> {
    let store = Store::new(data_dir, network, &Here)?;
    let mut stale = stale(&store, valid)?;
    stale.retain(|line| line.made == Made::ByImport);
    let attachment = |owner: Owner| {
        Some(Attachment {
            network: network.clone(),
            container_id: owner.key.parse().ok()?,
            // Early releases of host-local did not write it.
            interface: owner.interface.parse().ok()?,
        })
    };
    let owners = stale.into_iter().filter_map(|line| line.owner);
    Ok(owners.filter_map(attachment).collect())
}

/// Frees those of the lines that still stand as they were read. A lease that was made or
/// confirmed in between has another line, and stays.
pub(crate) fn free_unchanged(store: &Store<'_>, lines: &[Line]) -> Result<Vec<Line>, Error> {
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let freed = store.transact(Absent::Leave, |locked| {
        let mut freed = Vec::new();
        for line in lines {
            if still_stands(locked, line)? {
                let held = Held {
                    address: line.address,
                    line: Some(line.clone()),
                };
                locked.free(&held, line.owner.as_ref())?;
                freed.push(line.clone());
            }
        }
        Ok(freed)
    })?;
    Ok(freed.unwrap_or_default())
}

/// Whether a line is still what it was when it was read without the lock.
pub(crate) fn still_stands(locked: &mut Locked, line: &Line) -> Result<bool, Fault> {
    let reading = locked.find(line.address)?;
    Ok(reading.as_ref() == Some(&Reading::Line(line.clone())))
}

/// The owners that may keep what they have.
struct Valid {
    owners: HashSet<(String, String)>,
    containers: HashSet<String>,
}

impl Valid {
    fn new(valid: &[ValidAttachment]) -> Self {
        let mut owners = HashSet::new();
        let mut containers = HashSet::new();
        for attachment in valid {
            // What is no container id is no owner of anything.
            let Ok(id) = ContainerId::try_from(attachment.container_id.clone()) else {
                continue;
            };
            let key = names::id_key(&id);
            containers.insert(key.clone());
            owners.insert((key, attachment.interface.clone()));
        }
        Self { owners, containers }
    }

    fn has(&self, owner: &Owner) -> bool {
        if owner.interface == NO_INTERFACE {
            return self.containers.contains(&owner.key);
        }
        let owner = (owner.key.clone(), owner.interface.clone());
        self.owners.contains(&owner)
    }
}

#[cfg(test)]
mod tests {
    use cni_protocol::Failure;

    use super::*;
    use crate::{
        lease::Maker,
        testing::{Node, attachment},
    };

    const POOL: &str = r#""subnet":"10.64.1.0/29""#;

    fn valid(pairs: &[(&str, &str)]) -> Vec<ValidAttachment> {
        let attachment = |(id, interface): &(&str, &str)| ValidAttachment {
            container_id: (*id).to_owned(),
            interface: (*interface).to_owned(),
        };
        pairs.iter().map(attachment).collect()
    }

    #[test]
    fn where_nothing_is_a_release_makes_nothing() {
        let node = Node::new(POOL);
        node.del("c1");
        assert!(!node.dir.path().join("data").exists());
        std::fs::create_dir_all(node.path()).unwrap();
        node.del("c1");
        assert_eq!(std::fs::read_dir(node.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_the_owner_releases() {
        let node = Node::new(POOL);
        node.add("c1");
        node.del("c2");
        let mut other = attachment("c1");
        other.interface = "eth1".parse().unwrap();
        release_in(&node.store(), &node.data_dir(), &other).unwrap();
        assert_eq!(node.taken(), ["10.64.1.2 c1 eth0"]);
        for _ in 0..3 {
            node.del("c1");
        }
        assert_eq!(node.taken(), [""; 0]);
    }

    #[test]
    fn what_an_attachment_has_can_be_asked_before_it_is_released() {
        let node = Node::new(POOL);
        let held =
            |id: &str| holdings_in(&node.store(), &node.data_dir(), &attachment(id)).unwrap();
        assert!(held("c1").is_empty());
        assert!(!node.dir.path().join("data").exists());
        node.add("c1");
        node.add("c2");
        assert_eq!(
            held("c1").addresses,
            ["10.64.1.2".parse::<IpAddr>().unwrap()]
        );
        assert!(!held("c1").is_empty() && held("c3").is_empty());
        assert_eq!(node.taken(), ["10.64.1.2 c1 eth0", "10.64.1.3 c2 eth0"]);
        node.del("c1");
        assert!(held("c1").is_empty());
    }

    #[test]
    fn a_gc_keeps_what_is_valid() {
        let node = Node::new(POOL);
        for id in ["c1", "c2", "c3"] {
            node.lease_by(id, Maker::Other).unwrap();
        }
        let keep = valid(&[("c2", "eth0"), ("c3", "eth1"), ("not an id", "eth0")]);
        let report = gc_in(&node.store(), Some(&keep)).unwrap();
        assert_eq!(report.released.len(), 2);
        assert_eq!(node.taken(), ["10.64.1.3 c2 eth0"]);
        gc_in(&node.store(), Some(&[])).unwrap();
        assert_eq!(node.taken(), [""; 0]);
    }

    #[test]
    fn a_gc_without_a_list_ends_only_what_is_provably_gone() {
        let node = Node::new(POOL);
        node.add_pod("alive");
        node.add_pod("gone");
        node.lease_by("other", Maker::Other).unwrap();
        node.remove_link("gone");
        node.age(100);
        let report = gc_in(&node.store(), None).unwrap();
        assert!(report.only_proven);
        assert_eq!(
            node.taken(),
            ["10.64.1.2 alive eth0", "10.64.1.4 other eth0"]
        );
    }

    #[test]
    fn a_gc_of_no_store_makes_none() {
        let node = Node::new(POOL);
        assert_eq!(
            gc_in(&node.store(), Some(&[])).unwrap(),
            GcReport::default()
        );
        assert!(gc_in(&node.store(), None).unwrap().released.is_empty());
        assert!(!node.path().exists());
    }

    #[test]
    fn a_gc_leaves_what_was_leased_after_it_began() {
        let node = Node::new(POOL);
        node.add("c1");
        let before: Vec<Line> = node.snapshot().taken().cloned().collect();
        node.del("c1");
        node.add("c1");
        // The same container again: another lease.
        assert_eq!(free_unchanged(&node.store(), &before).unwrap(), []);
        assert_eq!(node.taken().len(), 1);
    }

    #[test]
    fn a_failed_release_never_reads_as_success() {
        let node = Node::new(POOL);
        node.add("c1");
        std::fs::remove_file(node.path().join("index")).unwrap();
        std::fs::create_dir(node.path().join("index")).unwrap();
        let reply = node.try_del("c1").unwrap_err().reply();
        let text = reply.to_string().to_lowercase();
        assert!(
            !text.contains("not found") && !text.contains("no such file"),
            "{text}"
        );
    }
}
