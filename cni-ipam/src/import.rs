//! Taking over what host-local keeps: a directory with one file an address.
//!
//! It happens once, before the first lease, under host-local's own lock. Then host-local's
//! directory is moved aside, to `<network>.imported-by-cni-ipam`, and a file with a note
//! stands in its place: a host-local that still runs with an old configuration fails there
//! instead of handing out addresses a second time. The way back is [`export`](crate::export());
//! the note says so.
//!
//! Where our store is in host-local's very directory (an old `dataDir`), its files are moved
//! out of it, and a directory stands in the place of its lock, which stops it as well.
//!
//! The order is: our lines, then the move, then the mark in our index. Whoever dies between
//! is followed by one who begins again and finds the same.

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Write},
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use cni_protocol::{Attachment, ContainerId, InterfaceName};
use nix::fcntl::{self, AT_FDCWD, RenameFlags};

use crate::{
    error::Error,
    names,
    store::{
        Absent, Fault, Locked, Store,
        block::Reading,
        boot::booted_at,
        line::{Line, Made, NO_INTERFACE, Owner, State},
        lock::{self, NotLocked},
    },
};

/// What host-local locks, in the directory of a network.
const LOCK: &str = "lock";
/// Where host-local remembers the last address of a set.
pub(crate) const LAST_RESERVED: &str = "last_reserved_ip.";
/// How the note begins that stands in the place of a directory that was taken over.
const NOTE: &str = "The leases of network ";
/// What is added to the name of a directory that was taken over.
const ASIDE: &str = ".imported-by-cni-ipam";

/// A directory of host-local under its lock.
struct Source {
    path: PathBuf,
    /// Our own store is in the same directory.
    in_place: bool,
    /// Held as long as this lives.
    _lock: File,
}

/// A file of host-local.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Record {
    path: PathBuf,
    address: IpAddr,
    owner: Owner,
    /// When it was written, in seconds since 1970.
    time: u64,
}

/// Takes over what is there, and moves it aside. Does nothing when nothing is there.
pub(crate) fn import(store: &Store<'_>, from: Option<&Path>) -> Result<(), Error> {
    let sources = sources(store, from)?;
    if sources.is_empty() {
        return Ok(());
    }
    let since = alive_since(store);
    for source in sources {
        let failed = |error| Error::io("take over", &source.path, error);
        let records = source.records(since).map_err(failed)?;
        store.transact(Absent::Create, |locked| merge(locked, &records))?;
        cni_protocol::log(&format_args!(
            "took over {} addresses from {}",
            records.len(),
            source.path.display()
        ));
        source.set_aside(store).map_err(failed)?;
    }
    Ok(())
}

/// Whether host-local has, or had, something that is not set aside.
pub(crate) fn is_needed(store: &Store<'_>, from: Option<&Path>) -> Result<bool, Error> {
    let Some(from) = from else {
        let failed = |error| Error::io("read", &store.path, error);
        return is_host_locals(&store.path).map_err(failed);
    };
    there_is_any(store, from)
}

/// Since when records can be of pods that live: since the boot.
///
/// The clock may have been set right after the records were written, and then the boot seems
/// to be later. So the kernel has to agree that there are no such pods: as long as the node
/// has veth links that are not ours, every record counts.
fn alive_since(store: &Store<'_>) -> u64 {
    let (Ok(names), Ok(ours)) = (store.host.names(), store.host.aliases()) else {
        return 0;
    };
    let is_ours = |name: &String| ours.iter().any(|(ours, _)| ours == name);
    let has_others = names
        .iter()
        .any(|name| name.starts_with("veth") && !is_ours(name));
    if has_others {
        0
    } else {
        booted_at().unwrap_or(0)
    }
}

/// Removes an attachment's records where host-local put them, as its own DEL does. False:
/// there is nothing of host-local.
pub(crate) fn release_there(
    store: &Store<'_>,
    from: &Path,
    attachment: &Attachment,
) -> Result<bool, Error> {
    if !there_is_any(store, from)? {
        return Ok(false);
    }
    let key = names::id_key(&attachment.container_id);
    for source in sources(store, Some(from))? {
        let failed = |error| Error::io("release in", &source.path, error);
        for record in source.records(0).map_err(failed)? {
            let interface = &record.owner.interface;
            let names_it = interface == attachment.interface.as_str() || interface == NO_INTERFACE;
            if record.owner.key == key && names_it {
                remove(&record.path).map_err(failed)?;
            }
        }
    }
    Ok(true)
}

/// Whether an attachment has an address by a record that is still where host-local put it.
pub(crate) fn holds_there(
    store: &Store<'_>,
    from: &Path,
    attachment: &Attachment,
    address: IpAddr,
) -> Result<bool, Error> {
    if !there_is_any(store, from)? {
        return Ok(false);
    }
    let key = names::id_key(&attachment.container_id);
    for source in sources(store, Some(from))? {
        let failed = |error| Error::io("read", &source.path, error);
        let mut records = source.records(0).map_err(failed)?.into_iter();
        if records.any(|record| record.address == address && record.owner.key == key) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is anything of host-local: a cheap look, for the DELs that find nothing.
pub(crate) fn there_is_any(store: &Store<'_>, from: &Path) -> Result<bool, Error> {
    for path in [&store.path, &from.join(store.network.as_str())] {
        if is_host_locals(path).map_err(|error| Error::io("read", path, error))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The directories of host-local that there are for a network, each under its lock.
fn sources(store: &Store<'_>, from: Option<&Path>) -> Result<Vec<Source>, Error> {
    let elsewhere = from.map(|from| from.join(store.network.as_str()));
    let mut sources = Vec::new();
    for path in [Some(store.path.clone()), elsewhere].into_iter().flatten() {
        let in_place = is_same(&path, &store.path);
        let is_known = sources
            .iter()
            .any(|known: &Source| is_same(&path, &known.path));
        let failed = |error| Error::io("read", &path, error);
        if !is_known && is_host_locals(&path).map_err(failed)? {
            sources.extend(lock_source(path, in_place, store)?);
        }
    }
    Ok(sources)
}

pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => id(one) == id(other),
        _ => one == other,
    }
}

/// Whether a path is a directory in which host-local has, or had, records.
fn is_host_locals(path: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(is_host_locals_file);
        // The directory that we put in the place of its lock is not its file.
        if is_ours && entry.file_type()?.is_file() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a directory has a record of host-local.
pub(crate) fn has_records(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.parse::<IpAddr>().is_ok())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this is the note that [`import`] puts in the place of a directory.
pub(crate) fn is_note(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| text.starts_with(NOTE.as_bytes()))
}

fn is_host_locals_file(name: &str) -> bool {
    name == LOCK || name.starts_with(LAST_RESERVED) || name.parse::<IpAddr>().is_ok()
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Takes host-local's lock. `None` when the directory was moved aside while we waited.
fn lock_source(path: PathBuf, in_place: bool, store: &Store<'_>) -> Result<Option<Source>, Error> {
    let name = path.join(LOCK);
    let failed = |operation, error| Error::io(operation, &name, error);
    let opened = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&name);
    let file = match opened {
        Ok(file) => file,
        Err(error) if is_absence(&error) || error.kind() == ErrorKind::IsADirectory => {
            return Ok(None);
        }
        Err(error) => return Err(failed("open", error)),
    };
    match lock::take(&file, store.patience) {
        Ok(()) => {}
        Err(NotLocked::Failed(error)) => return Err(failed("lock", error)),
        Err(NotLocked::Held) => {
            return Err(Error::Busy {
                holder: lock::holder(&file),
                path: name,
                waited: store.patience,
            });
        }
    }
    let there = fs::symlink_metadata(&name);
    let ours = file.metadata().map_err(|error| failed("read", error))?;
    let is_current =
        there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
    Ok(is_current.then_some(Source {
        path,
        in_place,
        _lock: file,
    }))
}

impl Source {
    /// The records that were written at `since` or later, in seconds since 1970.
    fn records(&self, since: u64) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let written = entry.metadata()?.mtime();
            let time = u64::try_from(written).unwrap_or(0);
            if !entry.file_type()?.is_file() || time < since {
                continue;
            }
            let path = entry.path();
            match parse(&fs::read(&path)?) {
                Some(owner) => records.push(Record {
                    path,
                    address,
                    owner,
                    time,
                }),
                None => cni_protocol::log(&format_args!(
                    "{} names no container: it is not taken over",
                    path.display()
                )),
            }
        }
        records.sort_unstable_by_key(|record| record.address);
        Ok(records)
    }

    /// Moves what was taken over aside, so that host-local does not go on with it.
    fn set_aside(&self, store: &Store<'_>) -> io::Result<()> {
        let aside = free_name(&self.path)?;
        let note = note(&self.path, &aside, store);
        if !self.in_place {
            let mut file = File::options().write(true).create_new(true).open(&aside)?;
            file.write_all(note.as_bytes())?;
            return swap(&aside, &self.path);
        }
        fs::create_dir(&aside)?;
        fs::create_dir(aside.join(LOCK))?;
        fs::write(aside.join(LOCK).join("README"), note)?;
        swap(&aside.join(LOCK), &self.path.join(LOCK))?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(is_host_locals_file) && entry.file_type()?.is_file() {
                fs::rename(entry.path(), aside.join(name))?;
            }
        }
        Ok(())
    }
}

/// Exchanges two names at once, or one after the other where the file system cannot.
pub(crate) fn swap(new: &Path, old: &Path) -> io::Result<()> {
    let exchanged = fcntl::renameat2(AT_FDCWD, new, AT_FDCWD, old, RenameFlags::RENAME_EXCHANGE);
    match exchanged {
        Err(nix::Error::EINVAL | nix::Error::ENOSYS) => {
            let between = new.with_extension("swap");
            fs::rename(new, &between)?;
            fs::rename(old, new)?;
            fs::rename(&between, old)
        }
        other => Ok(other?),
    }
}

/// A name beside the directory that is not in use yet.
fn free_name(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(ASIDE);
    let first = PathBuf::from(&name);
    let mut candidate = first.clone();
    for n in 2.. {
        match fs::symlink_metadata(&candidate) {
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error),
            Ok(_) => {
                let mut numbered = name.clone();
                numbered.push(format!(".{n}"));
                candidate = numbered.into();
            }
        }
    }
    Ok(candidate)
}

/// Removes what was set aside for a directory: all of it is in the store.
pub(crate) fn forget_asides(path: &Path) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let start = format!("{}{ASIDE}", name.to_string_lossy());
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_aside = entry.file_name().to_string_lossy().starts_with(&start);
        if is_aside && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn note(path: &Path, aside: &Path, store: &Store<'_>) -> String {
    format!(
        "{NOTE}{network} are kept by cni-ipam, in {store}.\n\
         What host-local kept was taken over, and is in {aside}.\n\
         \n\
         This stands here so that host-local does not hand out addresses a second time.\n\
         To go back to host-local, also with pods that run: give the runtime the configuration\n\
         of bridge and host-local again, then run\n\
         cni-ipam export --network {network} --data-dir {data} --to {to}\n",
        network = store.network,
        store = store.path.display(),
        aside = aside.display(),
        data = parent(&store.path).display(),
        to = parent(path).display(),
    )
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// The owner in a file of host-local: the container id, and after a line break the
/// interface, which old releases did not write.
fn parse(content: &[u8]) -> Option<Owner> {
    let text = str::from_utf8(content).ok()?;
    let mut lines = text.lines().map(str::trim);
    let id = ContainerId::try_from(lines.next()?.to_owned()).ok()?;
    let interface: Option<InterfaceName> = lines.next().and_then(|name| name.parse().ok());
    Some(Owner {
        key: names::id_key(&id),
        interface: interface.map_or_else(|| NO_INTERFACE.to_owned(), |name| name.to_string()),
    })
}

/// Takes the records over. Does nothing for those that are here already.
fn merge(locked: &mut Locked, records: &[Record]) -> Result<(), Fault> {
    let boot = locked.boot();
    for record in records {
        if let Some(Reading::Line(line)) = locked.find(record.address)?
            && line.is_taken(boot)
        {
            if line.owner.as_ref() != Some(&record.owner) {
                cni_protocol::log(&format_args!(
                    "{} is not taken over: {} has another owner here",
                    record.path.display(),
                    record.address
                ));
            }
            continue;
        }
        if !locked.is_free(record.address)? {
            continue;
        }
        let sequence = locked.next_sequence()?;
        locked.grant(Line {
            state: State::Active,
            address: record.address,
            owner: Some(record.owner.clone()),
            made: Made::ByImport,
            netns: 0,
            boot: Some(boot),
            time: record.time,
            sequence,
            pod: None,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        config::DataDir,
        release::release_in,
        testing::{Node, attachment, parse_config},
    };

    /// A node on which host-local has three pods and a dead record, and what else there is.
    fn moving(in_place: bool) -> (Node, PathBuf) {
        let mut node = Node::new(r#""subnet":"10.64.1.0/28""#);
        let host_local = node
            .dir
            .path()
            .join(if in_place { "data" } else { "host-local" });
        let there = host_local.join("cbr0");
        fs::create_dir_all(&there).unwrap();
        for (name, content) in [
            ("10.64.1.2", "c2\r\neth0"),
            ("10.64.1.3", "c3"),
            ("10.64.1.7", "c7\r\neth0"),
            ("10.64.1.8", ""),
            ("10.64.1.9", "dead\r\neth0"),
            ("lock", ""),
            ("last_reserved_ip.0", "10.64.1.7"),
        ] {
            fs::write(there.join(name), content).unwrap();
        }
        let before_boot = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let dead = File::options()
            .write(true)
            .open(there.join("10.64.1.9"))
            .unwrap();
        dead.set_modified(before_boot).unwrap();
        let data = node.dir.path().join("data");
        node.config = parse_config(&format!(
            r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"x","ipam":{{"subnet":"10.64.1.0/28","dataDir":{data:?},"importFrom":{host_local:?}}}}}"#
        ));
        (node, there)
    }

    const TAKEN_OVER: [&str; 3] = ["10.64.1.2 c2 eth0", "10.64.1.3 c3 -", "10.64.1.7 c7 eth0"];

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn pods_of_host_local_keep_their_addresses_and_can_be_deleted() {
        let (node, there) = moving(false);
        let got: Vec<String> = (0..3).map(|n| node.add(&format!("new{n}"))).collect();
        assert_eq!(got, ["10.64.1.4", "10.64.1.5", "10.64.1.6"]);
        let taken = node.taken();
        assert!(
            TAKEN_OVER
                .iter()
                .all(|line| taken.iter().any(|t| t == line)),
            "{taken:?}"
        );
        for id in ["c2", "c3", "c7", "new0", "new1", "new2"] {
            node.del(id);
        }
        assert_eq!(node.taken(), [""; 0]);

        let text = fs::read_to_string(&there).unwrap();
        assert!(text.contains("To go back to host-local"), "{text}");
        let aside = there.with_file_name("cbr0.imported-by-cni-ipam");
        assert_eq!(names(&aside).len(), 7);
    }

    #[test]
    fn it_happens_once() {
        let (node, there) = moving(false);
        node.add("new");
        node.del("c2");
        // Somebody rolled back, and forward again.
        fs::remove_file(&there).unwrap();
        fs::create_dir(&there).unwrap();
        fs::write(there.join("10.64.1.5"), "c5\r\neth0").unwrap();
        node.add("new2");
        assert!(there.join("10.64.1.5").exists());
        assert_eq!(node.taken().len(), 4);
    }

    #[test]
    fn a_pod_that_is_deleted_before_the_move_is_deleted_where_it_is() {
        let (node, there) = moving(false);
        node.del("c2");
        node.del("c3");
        assert!(!node.path().exists());
        assert!(!there.join("10.64.1.2").exists() && !there.join("10.64.1.3").exists());
        node.add("new");
        assert_eq!(node.taken(), ["10.64.1.2 new eth0", "10.64.1.7 c7 eth0"]);
    }

    #[test]
    fn a_store_in_host_locals_own_directory_takes_it_over_too() {
        let (node, there) = moving(true);
        assert_eq!(node.add("new"), "10.64.1.4");
        assert_eq!(node.taken().len(), 4);
        assert_eq!(names(&there), ["10.64.1.leases", "index", "lock", "pools"]);
        assert!(
            there.join("lock").is_dir(),
            "host-local cannot take its lock"
        );
        node.del("c3");
        node.add("again");
        assert_eq!(node.taken().len(), 4);
    }

    #[test]
    fn a_host_local_that_holds_its_lock_is_waited_for_and_named() {
        let (node, there) = moving(false);
        let held = File::open(there.join("lock")).unwrap();
        held.lock().unwrap();
        let store = Store {
            patience: Duration::from_millis(30),
            ..node.store()
        };
        let data_dir = node.data_dir();
        let refused = release_in(&store, &data_dir, &attachment("c2")).unwrap_err();
        assert!(refused.is_busy(), "{refused}");
        let refused = import(&store, data_dir.import_from()).unwrap_err();
        assert!(refused.is_busy(), "{refused}");
        assert!(there.join("10.64.1.2").exists());
    }

    #[test]
    fn nothing_to_take_over_is_nothing() {
        let node = Node::new(r#""subnet":"10.64.1.0/28""#);
        let nowhere = node.dir.path().join("nowhere");
        import(&node.store(), Some(&nowhere)).unwrap();
        let data_dir = DataDir::new(node.dir.path().join("data")).with_import_from(&nowhere);
        release_in(&node.store(), &data_dir, &attachment("c1")).unwrap();
        assert_eq!(names(node.dir.path()), [""; 0]);
    }
}
