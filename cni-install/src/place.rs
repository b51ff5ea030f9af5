//! One file into its place, or out of it. A reader sees the old file or the new one, whole:
//! what is new is written beside its place, synced, and renamed.
//!
//! The temporary file is in the same directory: a rename is atomic only there, and containerd
//! does not notice a configuration that is moved in from another one. Its name ends in `.new`,
//! which no runtime reads.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::error::Error;

/// Something to be done on the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Write {
        path: PathBuf,
        contents: Vec<u8>,
        mode: u32,
    },
    Link {
        path: PathBuf,
        to: &'static str,
    },
    Remove {
        path: PathBuf,
    },
    /// Out of the runtime's sight, and kept until all is done.
    SetAside {
        path: PathBuf,
        to: PathBuf,
    },
    /// What was set aside.
    Forget {
        path: PathBuf,
    },
    /// A runtime reads its configurations again when it is told of a change, a little later.
    LetTheRuntimeNotice(Duration),
    /// What pods of this configuration shared: `cni-bridge remove`.
    RemoveShared {
        executable: PathBuf,
        conflist: Vec<u8>,
    },
}

impl Step {
    /// The verb before and after, and what it is about.
    fn words(&self) -> (&'static str, &'static str, String) {
        let shown = |path: &Path| path.display().to_string();
        match self {
            Self::Write { path, .. } => ("install", "installed", shown(path)),
            Self::Link { path, to } => ("link", "linked", format!("{} to {to}", shown(path))),
            Self::Remove { path } | Self::SetAside { path, .. } => {
                ("remove", "removed", shown(path))
            }
            Self::Forget { path } => ("forget", "forgot", shown(path)),
            Self::LetTheRuntimeNotice(time) => {
                let rest = format!("{} s for the runtime to notice", time.as_secs());
                ("wait", "waited", rest)
            }
            Self::RemoveShared { .. } => {
                let rest = "the bridge and the rules of the network".to_owned();
                ("remove", "removed", rest)
            }
        }
    }

    /// In words, when it is done.
    pub(crate) fn done(&self) -> String {
        let (_, verb, rest) = self.words();
        format!("{verb} {rest}")
    }
}

/// In words, while it is not.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, _, rest) = self.words();
        write!(f, "{verb} {rest}")
    }
}

/// Wanted: a file with these contents. `None` when it is there already.
pub(crate) fn write(path: PathBuf, contents: Vec<u8>, mode: u32) -> Result<Option<Step>, Error> {
    let is_there = || -> io::Result<bool> {
        let found = fs::symlink_metadata(&path)?;
        let right = found.is_file() && found.permissions().mode() & 0o7777 == mode;
        Ok(right && found.len() == contents.len() as u64 && fs::read(&path)? == contents)
    };
    match is_there() {
        Ok(true) => Ok(None),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::Read(path, error)),
        Ok(false) | Err(_) => Ok(Some(Step::Write {
            path,
            contents,
            mode,
        })),
    }
}

/// Wanted: a plugin of this name, whichever. `None` when there is one.
pub(crate) fn link(path: PathBuf, to: &'static str) -> Option<Step> {
    // A link that leads nowhere is none.
    let is_there = fs::metadata(&path).is_ok();
    (!is_there).then_some(Step::Link { path, to })
}

/// Wanted: no file. `None` when there is none.
pub(crate) fn remove(path: PathBuf) -> Option<Step> {
    let is_there = fs::symlink_metadata(&path).is_ok();
    is_there.then_some(Step::Remove { path })
}

impl Step {
    /// Does it. What failed has changed nothing, but for a directory that was made.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        match self {
            Self::Write {
                path,
                contents,
                mode,
            } => renamed_into(path, contents, *mode)
                .map_err(|error| Error::Write(path.clone(), error)),
            Self::Link { path, to } => {
                linked_into(path, to).map_err(|error| Error::Write(path.clone(), error))
            }
            Self::SetAside { path, to } => {
                fs::rename(path, to).map_err(|error| Error::Remove(path.clone(), error))
            }
            Self::Remove { path } | Self::Forget { path } => match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(Error::Remove(path.clone(), error))
                }
                _ => Ok(()),
            },
            Self::LetTheRuntimeNotice(time) => {
                thread::sleep(*time);
                Ok(())
            }
            Self::RemoveShared {
                executable,
                conflist,
            } => crate::plugin::remove_shared(executable, conflist),
        }
    }
}

/// A link in a name of its own first, so that one that leads nowhere is replaced.
fn linked_into(path: &Path, to: &str) -> io::Result<()> {
    let temporary = hidden(path)?;
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    fs::remove_file(&temporary).or_else(if_absent)?;
    symlink(to, &temporary)?;
    fs::rename(&temporary, path).inspect_err(|_failed| {
        fs::remove_file(&temporary).ok();
    })
}

/// The name of what is not in its place yet.
fn hidden(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    Ok(path.with_file_name(hidden))
}

fn if_absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

fn renamed_into(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let temporary = hidden(path)?;
    let dir = path.parent().ok_or(ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    // What an installer that was killed has left.
    fs::remove_file(&temporary).or_else(if_absent)?;
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(contents)?;
        // The mode is for all, whatever the caller's umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        // While it is open for writing nobody can execute it.
        drop(file);
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written?;
    // The rename is durable only once the directory is.
    File::open(dir)?.sync_all()
}

/// Two installers at once would take each other's temporary files. Held while it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _dir: File,
}

impl Lock {
    /// Waits until nobody else installs into this directory, which is made if need be.
    pub(crate) fn take(dir: &Path) -> Result<Self, Error> {
        let take = || -> io::Result<Self> {
            fs::create_dir_all(dir)?;
            let file = File::open(dir)?;
            file.lock()?;
            Ok(Self { _dir: file })
        };
        take().map_err(|error| Error::Write(dir.to_owned(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/plugin");
        let wanted = || write(path.clone(), b"one".to_vec(), 0o755).unwrap();
        wanted().expect("it is missing").apply().unwrap();
        assert_eq!(wanted(), None);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o755
        );

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        wanted().expect("its mode is wrong").apply().unwrap();
        fs::write(&path, "two").unwrap();
        wanted().expect("its contents are wrong").apply().unwrap();
        assert_eq!(wanted(), None);
        assert_eq!(names(path.parent().unwrap()), ["plugin"]);
    }

    #[test]
    fn who_reads_sees_the_old_file_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        let step = |byte: u8| {
            let contents = vec![byte; 100_000];
            write(path.clone(), contents, 0o755).unwrap()
        };
        step(1).expect("missing").apply().unwrap();
        let old = File::open(&path).unwrap();
        step(2).expect("other").apply().unwrap();
        let through_old = io::read_to_string(old).unwrap();
        assert!(through_old.bytes().all(|byte| byte == 1) && through_old.len() == 100_000);
        assert_eq!(fs::read(&path).unwrap(), vec![2; 100_000]);
    }

    #[test]
    fn what_a_killed_installer_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".plugin.new"), "half").unwrap();
        let step = write(dir.path().join("plugin"), b"whole".to_vec(), 0o644).unwrap();
        step.expect("missing").apply().unwrap();
        assert_eq!(names(dir.path()), ["plugin"]);
    }

    #[test]
    fn a_place_that_is_taken_fails_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("plugin/below")).unwrap();
        let step = write(dir.path().join("plugin"), b"x".to_vec(), 0o644).unwrap();
        let error = step.expect("no file").apply().unwrap_err();
        assert!(error.to_string().contains("/plugin"), "{error}");
        assert_eq!(names(dir.path()), ["plugin"]);
    }
}
