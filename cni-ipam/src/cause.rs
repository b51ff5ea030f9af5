//! Why the system refused, in words of our own.

use std::{fmt, io};

/// An error of the operating system, worded so that it can be shown for a DEL.
///
/// Some runtimes take a failed DEL whose text says that something was not found, or that
/// there is no such file, for a successful one (go-cni's `Remove`), and forget the pod. So
/// the system's own texts are never shown.
#[derive(Debug)]
pub struct Cause(io::Error);

impl Cause {
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind()
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<nix::Error> for Cause {
    fn from(errno: nix::Error) -> Self {
        Self(errno.into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0.kind() {
            io::ErrorKind::NotFound => "it is missing",
            io::ErrorKind::PermissionDenied => "permission denied",
            io::ErrorKind::StorageFull => "the file system is full",
            io::ErrorKind::QuotaExceeded => "the disk quota is used up",
            io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
            io::ErrorKind::NotADirectory => "a part of the path is no directory",
            io::ErrorKind::IsADirectory => "it is a directory",
            _ if self.0.raw_os_error() == Some(nix::libc::ELOOP) => "it is a symbolic link",
            io::ErrorKind::AlreadyExists => "it is there already",
            _ => return self.unusual(f),
        };
        f.write_str(text)
    }
}

impl Cause {
    fn unusual(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(number) => {
                let errno = nix::Error::from_raw(number);
                write!(f, "the system says {errno:?} (error {number})")
            }
            None => write!(f, "{}", self.0),
        }
    }
}

impl std::error::Error for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_reads_as_success_to_a_runtime() {
        for number in 1..134 {
            let text = Cause(io::Error::from_raw_os_error(number)).to_string();
            let text = text.to_lowercase();
            assert!(!text.contains("not found"), "{text}");
            assert!(!text.contains("no such file"), "{text}");
        }
    }
}
