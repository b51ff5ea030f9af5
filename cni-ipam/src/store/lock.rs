//! The lock of a store: `flock` on its directory, with a deadline.
//!
//! There is no lock file that somebody could delete while others hold it. The kernel lets
//! the lock go when the holder's descriptor is closed, however it dies.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    thread,
    time::{Duration, Instant},
};

/// The process that holds a lock.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    pub pid: u32,
    /// Its command line and, where it may be read, its `CNI_COMMAND`.
    pub what: String,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub(crate) enum NotLocked {
    /// Another process has it.
    Held,
    Failed(io::Error),
}

/// How often a lock that is taken is asked for again without sleeping. Holders need some
/// ten microseconds, less than a sleep does.
const SPINS: u32 = 20;
const SHORTEST_NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_millis(2);

/// Takes the lock of an open file or directory, or gives up after `patience`.
pub(crate) fn take(file: &File, patience: Duration) -> Result<(), NotLocked> {
    let started = Instant::now();
    let mut nap = SHORTEST_NAP;
    for attempt in 0_u32.. {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(NotLocked::Failed(error)),
            Err(TryLockError::WouldBlock) if started.elapsed() >= patience => break,
            Err(TryLockError::WouldBlock) if attempt < SPINS => thread::yield_now(),
            Err(TryLockError::WouldBlock) => {
                thread::sleep(nap);
                nap = (nap * 2).min(LONGEST_NAP);
            }
        }
    }
    Err(NotLocked::Held)
}

/// Who holds the lock of this file, as far as /proc/locks tells.
pub(crate) fn holder(file: &File) -> Option<Holder> {
    let metadata = file.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = find_holder(&locks, metadata.dev(), metadata.ino())?;
    Some(Holder {
        pid,
        what: describe(pid),
    })
}

/// Finds the pid in lines such as `1: FLOCK  ADVISORY  WRITE 709 fe:00:1053 0 EOF`.
fn find_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (nix::libc::major(device), nix::libc::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, "WRITE", pid, at, ..] if *at == file => pid.parse().ok(),
            _ => None,
        }
    })
}

fn describe(pid: u32) -> String {
    let words = |file: &str| -> Vec<String> {
        fs::read(format!("/proc/{pid}/{file}"))
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    };
    let line: String = words("cmdline").join(" ").chars().take(120).collect();
    let command = words("environ")
        .into_iter()
        .find(|variable| variable.starts_with("CNI_COMMAND="));
    match command {
        Some(command) => format!("{line}, {command}"),
        None => line,
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if self.what.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let one = File::open(dir.path()).unwrap();
        let other = File::open(dir.path()).unwrap();
        take(&one, Duration::ZERO).unwrap();

        let started = Instant::now();
        let refused = take(&other, Duration::from_millis(30));
        assert!(matches!(refused, Err(NotLocked::Held)), "{refused:?}");
        assert!(started.elapsed() >= Duration::from_millis(30));
        assert_eq!(
            holder(&other).map(|holder| holder.pid),
            Some(std::process::id())
        );

        drop(one);
        take(&other, Duration::ZERO).unwrap();
    }

    #[test]
    fn one_who_waits_is_no_holder() {
        let locks = "1: FLOCK  ADVISORY  WRITE 709 fe:00:1053 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 800 fe:00:1054 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 711 fe:00:1055 0 EOF\n";
        let device = nix::libc::makedev(0xfe, 0);
        assert_eq!(find_holder(locks, device, 1053), Some(709));
        assert_eq!(find_holder(locks, device, 1054), None);
        assert_eq!(find_holder(locks, device, 1055), None);
    }
}
