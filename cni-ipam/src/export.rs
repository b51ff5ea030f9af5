//! Handing the leases over to host-local, with the pods running: the way back of `import`.
//!
//! Host-local has the leases, or our store has them, and never both. Under the lock of our
//! store, a directory with one file an address is made; it takes the place of the note that
//! stands there; then our store is gone. An ADD of ours that comes after that finds no store,
//! and takes everything over again: whoever is configured is right.
//!
//! Whoever dies in the middle leaves a store that has not imported anything yet: the next ADD
//! of ours, or the next export, imports what host-local has by then.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cni_protocol::NetworkName;

use crate::{
    config::DataDir,
    error::Error,
    import::{self, LAST_RESERVED},
    inspect,
    store::{
        Absent, Fault, Here, Store,
        line::{Line, NO_INTERFACE, Owner},
        snapshot::Snapshot,
    },
};

/// How often our store is looked at again because an ADD came between.
const ATTEMPTS: usize = 5;

/// What host-local has got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exported {
    /// Where it keeps this network's addresses.
    pub directory: PathBuf,
    pub addresses: usize,
    /// Those of containers with an id so long that only a part of it is known: no DEL of
    /// host-local frees them.
    pub unnamed: Vec<IpAddr>,
}

/// The networks of which we keep the leases in host-local's stead: our note is in its directory.
pub fn taken_over(to: &Path) -> Result<Vec<NetworkName>, Error> {
    let failed = |error| Error::io("read", to, error);
    let entries = match fs::read_dir(to) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut networks = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if import::is_note(&entry.path()) {
            let name = entry.file_name().into_string().ok();
            networks.extend(name.and_then(|name| NetworkName::try_from(name).ok()));
        }
    }
    Ok(networks)
}

/// Gives a network's leases to host-local, whose directory of all networks is `to`, and
/// removes our store. `None` when there is none, and host-local is not kept out either.
pub fn export(
    data_dir: &DataDir,
    network: &NetworkName,
    to: &Path,
) -> Result<Option<Exported>, Error> {
    export_in(&Store::new(data_dir, network, &Here)?, to)
}

pub(crate) fn export_in(store: &Store<'_>, to: &Path) -> Result<Option<Exported>, Error> {
    let target = Target {
        path: to.join(store.network.as_str()),
        new: to.join(format!(".{}.new", store.network)),
    };
    // After a boot there may be no store, and our note is there still.
    let absent = if import::is_note(&target.path) {
        Absent::Create
    } else {
        Absent::Leave
    };
    for _ in 0..ATTEMPTS {
        let step = store.transact(absent, |locked| {
            let failed = |error| Fault::Refused(target.failed(error));
            let there = target.has_records(store).map_err(failed)?;
            match (locked.is_imported(), there) {
                (true, false) => {
                    locked.forget_import()?;
                    Ok(Step::Again)
                }
                (true, true) => Err(Fault::Refused(target.occupied())),
                (false, true) => Ok(Step::Import),
                (false, false) => {
                    let done = hand_over(store, &target);
                    done.map(Step::Done).map_err(Fault::Refused)
                }
            }
        })?;
        match step {
            None => return Ok(None),
            Some(Step::Done(exported)) => return Ok(Some(exported)),
            // An ADD may come before the next look, and import: that is what is looked for.
            Some(Step::Again) => {}
            Some(Step::Import) => import::import(store, Some(to))?,
        }
    }
    Err(Error::InUse {
        path: store.path.clone(),
    })
}

/// How a look under the lock ended.
enum Step {
    Done(Exported),
    Again,
    /// Host-local has records that were not taken over yet.
    Import,
}

/// Where host-local looks, and where its new directory is made.
struct Target {
    path: PathBuf,
    new: PathBuf,
}

/// Under the lock.
fn hand_over(store: &Store<'_>, target: &Target) -> Result<Exported, Error> {
    let snapshot = Snapshot::read(&store.path, store.boot);
    let snapshot = snapshot.map_err(|error| store.failed("read", error))?;
    let snapshot = snapshot.unwrap_or_else(|| Snapshot::empty(store.boot));
    let lost: Vec<String> = snapshot.lost().map(|address| address.to_string()).collect();
    if !lost.is_empty() {
        return Err(Error::Damaged {
            path: store.path.clone(),
            addresses: lost.join(", "),
        });
    }
    let taken: Vec<&Line> = snapshot.taken().collect();
    let failed = |error| target.failed(error);
    target.prepare(store, &taken).map_err(failed)?;
    import::forget_asides(&target.path).map_err(failed)?;
    target.put_in_place(store).map_err(failed)?;
    Ok(Exported {
        directory: target.path.clone(),
        addresses: taken.len(),
        unnamed: unnamed(&taken),
    })
}

fn unnamed(taken: &[&Line]) -> Vec<IpAddr> {
    let is_cut = |line: &&&Line| {
        let owner = line.owner.as_ref();
        owner.is_some_and(|owner| owner.key.contains('~'))
    };
    let cut = taken.iter().filter(is_cut);
    cut.map(|line| line.address).collect()
}

impl Target {
    fn failed(&self, error: io::Error) -> Error {
        Error::io("hand leases over to host-local in", &self.path, error)
    }

    fn occupied(&self) -> Error {
        let path = self.path.clone();
        Error::HostLocalHasRecords { path }
    }

    /// Our own store may be in host-local's very directory: its files are no records.
    fn has_records(&self, store: &Store<'_>) -> io::Result<bool> {
        if import::is_same(&self.path, &store.path) {
            return Ok(false);
        }
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(there) if there.is_dir() => import::has_records(&self.path),
            Ok(_) if import::is_note(&self.path) => Ok(false),
            Ok(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn prepare(&self, store: &Store<'_>, taken: &[&Line]) -> io::Result<()> {
        remove(&self.new)?;
        fs::create_dir_all(&self.new)?;
        for line in taken {
            if let Some(owner) = &line.owner {
                self.write(&line.address.to_string(), &record(owner))?;
            }
        }
        for pool in inspect::pools(&store.path, &[]) {
            let of_pool = taken.iter().filter(|line| pool.gives(line.address));
            if let Some(last) = of_pool.max_by_key(|line| line.sequence) {
                // Its next address is the one behind that.
                let name = format!("{LAST_RESERVED}{}", pool.set);
                self.write(&name, &last.address.to_string())?;
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file: io::Result<File> = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.new.join(name));
        file?.write_all(content.as_bytes())
    }

    /// Exchanges what is in the place for the new directory; then our store is gone.
    fn put_in_place(&self, store: &Store<'_>) -> io::Result<()> {
        let in_place = import::is_same(&self.path, &store.path);
        match fs::symlink_metadata(&self.path) {
            Ok(_) => {
                import::swap(&self.new, &self.path)?;
                remove(&self.new)?;
            }
            Err(_) => fs::rename(&self.new, &self.path)?,
        }
        if in_place {
            return Ok(());
        }
        // At once, so that nobody finds a part of it.
        let gone = store
            .path
            .with_file_name(format!(".{}.gone", store.network));
        remove(&gone)?;
        fs::rename(&store.path, &gone)?;
        remove(&gone)
    }
}

/// What host-local writes for an owner; its early releases did without the interface.
fn record(owner: &Owner) -> String {
    if owner.interface == NO_INTERFACE {
        return owner.key.clone();
    }
    format!("{}\r\n{}", owner.key, owner.interface)
}

/// Removes a file or a directory of ours, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::Locked,
        testing::{Node, parse_config},
    };

    /// A node that takes over from, and hands over to, a directory of host-local.
    fn node(in_place: bool) -> (Node, PathBuf) {
        let mut node = Node::new(r#""subnet":"10.64.1.0/28""#);
        let data = node.dir.path().join("data");
        let host_local = if in_place {
            data.clone()
        } else {
            node.dir.path().join("host-local")
        };
        node.config = parse_config(&format!(
            r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"x","ipam":{{"subnet":"10.64.1.0/28","dataDir":{data:?},"importFrom":{host_local:?}}}}}"#
        ));
        (node, host_local)
    }

    /// Host-local's files with what they say, and the names in its directory of all networks.
    fn files(dir: &Path) -> Vec<String> {
        let mut files: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let content = fs::read_to_string(&path).unwrap_or_default();
                format!("{name} {content:?}")
            })
            .collect();
        files.sort_unstable();
        files
    }

    #[test]
    fn host_local_finds_its_own_files_and_our_store_is_gone() {
        let (node, to) = node(false);
        node.add_pod("c2");
        node.add_pod("c3");
        node.add_pod("c4");
        node.del("c3");
        let exported = export_in(&node.store(), &to).unwrap().unwrap();
        let directory = to.join("cbr0");
        assert_eq!(
            exported,
            Exported {
                directory: directory.clone(),
                addresses: 2,
                unnamed: Vec::new(),
            }
        );
        assert_eq!(
            files(&directory),
            [
                r#"10.64.1.2 "c2\r\neth0""#,
                r#"10.64.1.4 "c4\r\neth0""#,
                r#"last_reserved_ip.0 "10.64.1.4""#,
            ]
        );
        assert_eq!(files(&to), [r#"cbr0 """#]);
        assert_eq!(files(&node.dir.path().join("data")), [""; 0]);
        assert_eq!(export_in(&node.store(), &to).unwrap(), None);
    }

    #[test]
    fn there_and_back_and_there_again() {
        for in_place in [false, true] {
            let (node, to) = node(in_place);
            let there = to.join("cbr0");
            fs::create_dir_all(&there).unwrap();
            fs::write(there.join("10.64.1.2"), "old\r\neth0").unwrap();
            fs::write(there.join("10.64.1.3"), "older").unwrap();
            fs::write(there.join("last_reserved_ip.0"), "10.64.1.3").unwrap();
            assert_eq!(node.add("new"), "10.64.1.4");

            let exported = export_in(&node.store(), &to).unwrap().unwrap();
            assert_eq!(exported.addresses, 3);
            let expected = [
                r#"10.64.1.2 "old\r\neth0""#,
                r#"10.64.1.3 "older""#,
                r#"10.64.1.4 "new\r\neth0""#,
                r#"last_reserved_ip.0 "10.64.1.4""#,
            ];
            assert_eq!(files(&there), expected, "in place: {in_place}");
            assert_eq!(files(&to), [r#"cbr0 """#], "what was set aside is gone");

            // A DEL of ours, before host-local is configured; then an ADD.
            node.del("old");
            assert_eq!(files(&there)[0], expected[1]);
            assert_eq!(node.add("newest"), "10.64.1.2");
            assert_eq!(
                node.taken(),
                [
                    "10.64.1.2 newest eth0",
                    "10.64.1.3 older -",
                    "10.64.1.4 new eth0"
                ]
            );
            let has_records = there.is_dir() && import::has_records(&there).unwrap();
            assert!(!has_records, "host-local has them still");
        }
    }

    #[test]
    fn addresses_that_nobody_knows_the_owner_of_are_not_handed_over() {
        let (node, to) = node(false);
        node.add("c2");
        node.add("c3");
        node.damage("10.64.1.3", 77);
        let refused = export_in(&node.store(), &to).unwrap_err();
        assert!(refused.to_string().contains("10.64.1.3"), "{refused}");
        assert!(!to.exists() && node.path().exists());
    }

    #[test]
    fn records_that_host_local_has_already_are_not_replaced() {
        let (node, to) = node(false);
        node.add("c2");
        let there = to.join("cbr0");
        fs::remove_file(&there).ok();
        fs::create_dir_all(&there).unwrap();
        fs::write(there.join("10.64.1.9"), "c9\r\neth0").unwrap();
        let refused = export_in(&node.store(), &to).unwrap_err();
        assert!(
            matches!(refused, Error::HostLocalHasRecords { .. }),
            "{refused}"
        );
        assert_eq!(files(&there), [r#"10.64.1.9 "c9\r\neth0""#]);
        assert_eq!(node.taken(), ["10.64.1.2 c2 eth0"]);
    }

    #[test]
    fn what_stands_there_and_is_not_our_note_stays() {
        let (node, to) = node(false);
        node.add("c2");
        fs::create_dir_all(&to).unwrap();
        fs::write(to.join("cbr0"), "something else").unwrap();
        let refused = export_in(&node.store(), &to).unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
        assert!(node.path().exists());
    }

    #[test]
    fn after_a_boot_the_note_goes_and_what_the_kernel_knows_is_handed_over() {
        let (node, to) = node(false);
        let there = to.join("cbr0");
        fs::create_dir_all(&there).unwrap();
        fs::write(there.join("10.64.1.2"), "old\r\neth0").unwrap();
        node.add_pod("c3");
        node.remove_store();
        let network: NetworkName = "cbr0".parse().unwrap();
        assert_eq!(taken_over(&to).unwrap(), [network]);

        let exported = export_in(&node.store(), &to).unwrap().unwrap();
        assert_eq!(exported.addresses, 1);
        assert_eq!(files(&there)[0], r#"10.64.1.3 "c3\r\neth0""#);
        assert_eq!(taken_over(&to).unwrap(), []);
        assert_eq!(export_in(&node.store(), &to).unwrap(), None);
    }

    #[test]
    fn a_container_id_that_is_not_known_whole_is_told() {
        let (node, to) = node(false);
        node.add(&"x".repeat(120));
        let exported = export_in(&node.store(), &to).unwrap().unwrap();
        let address: IpAddr = "10.64.1.2".parse().unwrap();
        assert_eq!(exported.unnamed, [address]);
        assert!(to.join("cbr0/10.64.1.2").exists());
    }

    #[test]
    fn one_who_died_after_the_exchange_leaves_no_address_to_be_given_twice() {
        let (node, to) = node(false);
        node.add_pod("c2");
        let before = node.taken();
        // As far as the exchange, and no further.
        node.store()
            .transact(Absent::Leave, Locked::forget_import)
            .unwrap();
        let target = Target {
            path: to.join("cbr0"),
            new: to.join(".cbr0.new"),
        };
        let snapshot = node.snapshot();
        let taken: Vec<&Line> = snapshot.taken().collect();
        fs::create_dir_all(&to).unwrap();
        target.prepare(&node.store(), &taken).unwrap();
        fs::rename(&target.new, &target.path).unwrap();

        // Host-local gave an address; then the next export came, and then an ADD of ours.
        fs::write(to.join("cbr0/10.64.1.3"), "c3\r\neth0").unwrap();
        let exported = export_in(&node.store(), &to).unwrap().unwrap();
        assert_eq!(exported.addresses, 2);
        assert_eq!(node.add("c4"), "10.64.1.4");
        assert_eq!(node.taken()[0], before[0]);
        assert_eq!(node.taken().len(), 3);
    }
}
