//! The lease store of one network: what is written, and in which order.
//!
//! The directory `<dataDir>/<network>` holds the lines (`*.leases`, see [`block`] and
//! [`line`](mod@line)), which are the truth, and the `index`, which is a cache of them.
//! Everything that changes them happens in [`Store::transact`], under the lock.
//!
//! A change is written in this order: the index is marked dirty; the changed parts of the
//! index; the lines; the index is marked clean. A process that dies anywhere between leaves
//! whole lines and a dirty index, which the next one builds anew from the lines. An address
//! is leased from the moment its line is written, and free from the moment its line says so.
//!
//! What has to survive a loss of power: nothing that is needed. Leases end with the boot,
//! and a line of another boot is void. On a disk, a lease is synced before it is given all
//! the same, so that what was running can be read after a crash. The index is synced once a
//! boot: its header is then known to be at least of this boot, so that the boot after it
//! can tell damage in void lines from damage in lines that count. A release is not synced:
//! if it is lost, so is the boot that it belongs to.

pub(crate) mod block;
pub(crate) mod boot;
pub(crate) mod dir;
#[cfg(test)]
pub(crate) mod faults;
pub(crate) mod index;
pub(crate) mod line;
pub(crate) mod lock;
mod locked;
mod rebuild;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, time::Duration};

use cni_protocol::{InterfaceName, NetworkName};

use self::{
    boot::Boot,
    dir::Dir,
    index::{Index, Opened},
    lock::NotLocked,
};
pub use lock::Holder;
pub(crate) use locked::{Held, Locked};
use rebuild::{Old, Rebuilt, Seeds};

use crate::{
    alias::Alias,
    cause::Cause,
    config::DataDir,
    error::Error,
    links::{self, Links},
};

/// How long a process waits for the lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a store is opened again because it had to be repaired first.
const ATTEMPTS: u32 = 5;

/// What the network namespace of the host tells.
pub(crate) trait Host {
    /// Our links' aliases, with the names of the links.
    fn aliases(&self) -> io::Result<Vec<(String, Alias)>>;
    /// The names of all links.
    fn names(&self) -> io::Result<Vec<String>>;
    fn exists(&self, link: &InterfaceName) -> io::Result<bool>;
    /// The inode of the namespace.
    fn netns(&self) -> io::Result<u64>;
}

/// The namespace of the calling thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here;

impl Host for Here {
    fn aliases(&self) -> io::Result<Vec<(String, Alias)>> {
        Links::open()?.aliases()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let links = Links::open()?.all()?;
        Ok(links.into_iter().map(|link| link.name).collect())
    }

    fn exists(&self, link: &InterfaceName) -> io::Result<bool> {
        Links::open()?.exists(link)
    }

    fn netns(&self) -> io::Result<u64> {
        links::netns()
    }
}

/// Where a network's store is, and what is needed to open it.
pub(crate) struct Store<'a> {
    pub(crate) path: PathBuf,
    pub(crate) network: &'a NetworkName,
    pub(crate) boot: Boot,
    pub(crate) patience: Duration,
    pub(crate) host: &'a dyn Host,
}

/// What to do about a store that is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Absent {
    Create,
    Leave,
}

/// Why work in a store ended early.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The index and the lines do not agree: the index is built anew, and the work done again.
    Contradiction,
    Io(io::Error),
    Refused(Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Ours, and a file that ends where a line should be.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Contradiction,
            _ => Self::Io(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// A store under its lock, or what stands in the way.
enum Entry {
    Ready(Box<Locked>),
    /// The kernel's links have to be listed first, without the lock.
    NeedsLinks,
    /// There is a directory, and nothing in it.
    Empty,
}

impl<'a> Store<'a> {
    pub(crate) fn new(
        data_dir: &DataDir,
        network: &'a NetworkName,
        host: &'a dyn Host,
    ) -> Result<Self, Error> {
        let boot = Boot::current()
            .map_err(|error| Error::io("read", "/proc/sys/kernel/random/boot_id", error))?;
        Ok(Self {
            path: data_dir.path().join(network.as_str()),
            network,
            boot,
            patience: PATIENCE,
            host,
        })
    }

    /// Does `work` under the lock, in a store that can be trusted. `work` may be done more
    /// than once; what it staged counts only when it succeeds.
    ///
    /// `None`: there is no store, and none was to be made.
    pub(crate) fn transact<T>(
        &self,
        absent: Absent,
        mut work: impl FnMut(&mut Locked) -> Result<T, Fault>,
    ) -> Result<Option<T>, Error> {
        let mut seeds = None;
        let mut distrusted = false;
        for _ in 0..ATTEMPTS {
            let Some(dir) = self.lock(absent)? else {
                return Ok(None);
            };
            let entry = self.enter(dir, absent, seeds.as_ref(), distrusted);
            let mut locked = match entry.map_err(|error| self.failed("open", error))? {
                Entry::Ready(locked) => locked,
                Entry::Empty => return Ok(None),
                Entry::NeedsLinks => {
                    seeds = Some(self.seeds()?);
                    continue;
                }
            };
            let done = match work(&mut locked) {
                Ok(done) => locked.commit().map(|()| done),
                Err(fault) => {
                    locked.abandon();
                    Err(fault)
                }
            };
            match done {
                Ok(done) => {
                    let unsynced = locked.unlock();
                    unsynced
                        .sync()
                        .map_err(|error| self.failed("sync", error))?;
                    return Ok(Some(done));
                }
                Err(Fault::Contradiction) => distrusted = true,
                Err(Fault::Io(error)) => return Err(self.failed("write to", error)),
                Err(Fault::Refused(error)) => return Err(error),
            }
        }
        let path = self.path.clone();
        Err(Error::Contradiction { path })
    }

    /// Builds the index anew from the lines and what the kernel knows, and heals what can be
    /// healed. False: there is no store.
    pub(crate) fn rebuild(&self) -> Result<bool, Error> {
        let seeds = self.seeds()?;
        let Some(dir) = self.lock(Absent::Leave)? else {
            return Ok(false);
        };
        let entry = self.enter(dir, Absent::Leave, Some(&seeds), true);
        let entry = entry.map_err(|error| self.failed("repair", error))?;
        Ok(matches!(entry, Entry::Ready(_)))
    }

    pub(crate) fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        Error::io(operation, &self.path, error)
    }

    /// Opens the directory and takes its lock. `None` when there is none to be made.
    fn lock(&self, absent: Absent) -> Result<Option<Dir>, Error> {
        loop {
            let dir = match absent {
                Absent::Create => Dir::create(&self.path).map(Some),
                Absent::Leave => Dir::open(&self.path),
            };
            let Some(dir) = dir.map_err(|error| self.failed("open", error))? else {
                return Ok(None);
            };
            match lock::take(dir.file(), self.patience) {
                Ok(()) => {}
                Err(NotLocked::Failed(error)) => return Err(self.failed("lock", error)),
                Err(NotLocked::Held) => {
                    return Err(Error::Busy {
                        path: self.path.clone(),
                        holder: lock::holder(dir.file()),
                        waited: self.patience,
                    });
                }
            }
            // Somebody may have removed the directory while we waited.
            if dir
                .is_current()
                .map_err(|error| self.failed("open", error))?
            {
                return Ok(Some(dir));
            }
        }
    }

    fn enter(
        &self,
        dir: Dir,
        absent: Absent,
        seeds: Option<&Seeds>,
        distrusted: bool,
    ) -> io::Result<Entry> {
        let old = match Index::open(&dir, self.boot)? {
            Opened::Good(index) if !distrusted => {
                let locked = Locked::new(dir, index, self.boot);
                return Ok(Entry::Ready(Box::new(locked)));
            }
            Opened::Good(index) => Old::Clean(index),
            Opened::EarlierBoot(index) => Old::EarlierBoot(index),
            Opened::Dirty(index) => Old::Dirty(index),
            Opened::Lost => Old::Nothing,
        };
        match rebuild::rebuild(&dir, self.boot, old, seeds, absent)? {
            Rebuilt::Empty => Ok(Entry::Empty),
            Rebuilt::NeedsLinks => Ok(Entry::NeedsLinks),
            Rebuilt::Done(index) => {
                let mut locked = Locked::new(dir, index, self.boot);
                locked.sync_index();
                Ok(Entry::Ready(Box::new(locked)))
            }
        }
    }

    /// What the kernel knows of this network's leases.
    fn seeds(&self) -> Result<Seeds, Error> {
        let ask = || -> io::Result<Seeds> {
            let aliases = self.host.aliases()?.into_iter().map(|(_, alias)| alias);
            Ok(Seeds {
                aliases: aliases
                    .filter(|alias| alias.network == *self.network)
                    .collect(),
                netns: self.host.netns()?,
            })
        };
        ask().map_err(|error| Error::Links(Cause::from(error)))
    }
}
