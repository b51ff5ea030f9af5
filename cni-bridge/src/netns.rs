//! Network namespaces: opening a pod's, and working inside it.
//!
//! The one file that may change the namespace of a thread.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};

/// Where the namespace of this thread is seen as a file.
const OWN: &str = "/proc/thread-self/ns/net";
/// The file system of namespaces, of any kind (`NSFS_MAGIC`).
const NSFS: FsType = FsType(0x6e73_6673);

/// Which namespace a file stands for: two paths to one namespace have the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    device: u64,
    pub(crate) inode: u64,
}

/// Why there is no way into a namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing is at the path, or what is there is no namespace: the pod is gone.
    #[error("{} {}", path.display(), Missing(source.as_ref()))]
    Gone {
        path: PathBuf,
        #[source]
        source: Option<io::Error>,
    },
    #[error("cannot open network namespace {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter network namespace {}", path.display())]
    Enter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot return to the node's network namespace")]
    Return(#[source] io::Error),
    #[error("cannot open the node's own network namespace {OWN}")]
    Own(#[source] io::Error),
}

/// In which way a namespace is not there.
struct Missing<'a>(Option<&'a io::Error>);

impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => {
                f.write_str("does not exist, it should be a network namespace")
            }
            _ => f.write_str("is not a network namespace"),
        }
    }
}

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    path: PathBuf,
    home: File,
    pub(crate) identity: Identity,
}

/// The namespace that this process works in.
pub(crate) fn own() -> Result<Identity, Error> {
    std::fs::metadata(OWN)
        .map(|metadata| identity(&metadata))
        .map_err(Error::Own)
}

fn identity(metadata: &std::fs::Metadata) -> Identity {
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

impl Netns {
    /// Opens what is at `path`, which may be any path to a namespace.
    ///
    /// What can never be entered (nothing there, a plain file that was left behind when the
    /// namespace was unmounted, a directory) is [`Error::Gone`].
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let gone = |source| Error::Gone {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if means_gone(&error) => return Err(gone(Some(error))),
            Err(source) => {
                return Err(Error::Open {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        match fstatfs(&file) {
            Ok(of) if of.filesystem_type() == NSFS => {}
            Ok(_other) => return Err(gone(None)),
            Err(errno) => {
                return Err(Error::Open {
                    path: path.to_owned(),
                    source: errno.into(),
                });
            }
        }
        let metadata = file.metadata();
        let metadata = metadata.map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        let home = File::open(OWN).map_err(Error::Own)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            home,
            identity: identity(&metadata),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` inside this namespace and comes back, whatever `work` answers.
    ///
    /// The thread is the only one, so there is nobody whom it could mislead; a panic ends
    /// the process. When there is no way back, the error says so and nothing else is done.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        let entered = enter(&self.file);
        entered.map_err(|source| {
            // Another kind of namespace (a pid namespace, say) is refused with EINVAL.
            if source.raw_os_error() == Some(nix::libc::EINVAL) {
                Error::Gone {
                    path: self.path.clone(),
                    source: Some(source),
                }
            } else {
                Error::Enter {
                    path: self.path.clone(),
                    source,
                }
            }
        })?;
        let answer = work();
        enter(&self.home).map_err(Error::Return)?;
        Ok(answer)
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

fn means_gone(error: &io::Error) -> bool {
    // ESRCH and EINVAL: /proc/<pid>/ns/net of a process that has ended, by its state.
    matches!(
        error.raw_os_error(),
        Some(
            nix::libc::ENOENT
                | nix::libc::ENOTDIR
                | nix::libc::ESRCH
                | nix::libc::ELOOP
                | nix::libc::ENXIO
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_gone() {
        for path in [
            "/nowhere/at/all",
            "/etc/passwd",
            "/etc",
            "/proc/self/status",
            "/proc/999999999/ns/net",
        ] {
            let error = Netns::open(Path::new(path)).unwrap_err();
            assert!(matches!(error, Error::Gone { .. }), "{path}: {error:?}");
        }
    }

    #[test]
    fn two_paths_to_one_namespace_have_one_identity() {
        let one = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(one.identity, own().unwrap());
    }
}
