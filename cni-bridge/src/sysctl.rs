//! The few switches of the kernel that have no netlink message, under `/proc/sys/net`.
//!
//! They are read first and written only when they differ: a write can cost a wait for RTNL.
//! The namespace is that of the calling thread.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use cni_protocol::InterfaceName;
use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

/// One switch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Sysctl {
    /// The node routes IPv4.
    Ipv4Forwarding,
    /// The node routes IPv6.
    Ipv6Forwarding,
    /// How many connections the node tracks. Only read.
    ConntrackCount,
    /// One of a link's IPv4 settings, for example `arp_notify`.
    Ipv4Link(InterfaceName, &'static str),
    /// One of a link's IPv6 settings, for example `accept_ra`.
    Ipv6Link(InterfaceName, &'static str),
}

impl fmt::Display for Sysctl {
    /// The path below `/proc/sys`. `InterfaceName` has no '/', so it stays one component.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4Forwarding => f.write_str("net/ipv4/ip_forward"),
            Self::Ipv6Forwarding => f.write_str("net/ipv6/conf/all/forwarding"),
            Self::ConntrackCount => f.write_str("net/netfilter/nf_conntrack_count"),
            Self::Ipv4Link(link, setting) => write!(f, "net/ipv4/conf/{link}/{setting}"),
            Self::Ipv6Link(link, setting) => write!(f, "net/ipv6/conf/{link}/{setting}"),
        }
    }
}

/// A switch that could not be read or set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read sysctl {sysctl}")]
    Read { sysctl: Sysctl, source: io::Error },
    #[error("cannot set sysctl {sysctl} to {value}")]
    Write {
        sysctl: Sysctl,
        value: &'static str,
        source: io::Error,
    },
}

/// What a switch stands at. `None` when the kernel has none of that name (no IPv6).
pub(crate) fn read(sysctl: &Sysctl) -> Result<Option<String>, Error> {
    match File::open(path(sysctl)).and_then(|mut file| value(&mut file)) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read {
            sysctl: sysctl.clone(),
            source,
        }),
    }
}

/// Sees to it that a switch stands at `value`. Nothing to do when the kernel has none.
/// Answers whether it stood elsewhere.
pub(crate) fn ensure(sysctl: &Sysctl, value: &'static str) -> Result<bool, Error> {
    let failed = |source| Error::Write {
        sysctl: sysctl.clone(),
        value,
        source,
    };
    let mut file = match File::options().read(true).write(true).open(path(sysctl)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // Where /proc/sys cannot be written, it may be right all the same.
        Err(_) if read(sysctl)?.as_deref() == Some(value) => return Ok(false),
        Err(source) => return Err(failed(source)),
    };
    bring(&mut file, value).map_err(failed)
}

/// Sees to it that IPv6 settings of one link stand at their values. Nothing to do when the
/// kernel has none.
///
/// One look-up for all of them: the kernel keeps the directories of all namespaces under one
/// name, and walks past those of every pod on the way (`proc_sys_compare()`).
pub(crate) fn ensure_link(
    link: &InterfaceName,
    settings: &[(&'static str, &'static str)],
) -> Result<(), Error> {
    let named = |setting| Sysctl::Ipv6Link(link.clone(), setting);
    let first = settings
        .first()
        .map_or("accept_ra", |(setting, _)| *setting);
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    let directory = match open(
        format!("/proc/sys/net/ipv6/conf/{link}").as_str(),
        flags,
        Mode::empty(),
    ) {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => {
            return Err(Error::Read {
                sysctl: named(first),
                source: errno.into(),
            });
        }
    };
    for (setting, value) in settings {
        let failed = |source| Error::Write {
            sysctl: named(setting),
            value,
            source,
        };
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mut file = match openat(&directory, *setting, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => continue,
            // Where /proc/sys cannot be written, it may be right all the same.
            Err(_) if read(&named(setting))?.as_deref() == Some(*value) => continue,
            Err(errno) => return Err(failed(errno.into())),
        };
        bring(&mut file, value).map_err(failed)?;
    }
    Ok(())
}

/// Writes a value, if another one stands there. Answers whether one did.
fn bring(file: &mut File, wanted: &str) -> io::Result<bool> {
    if value(file)? == wanted {
        return Ok(false);
    }
    // Away from the beginning the kernel ignores what is written (sysctl_writes_strict).
    file.write_all_at(wanted.as_bytes(), 0)?;
    Ok(true)
}

/// One read is all: a value is one number and a line's end.
fn value(file: &mut File) -> io::Result<String> {
    let mut buffer = [0; 32];
    let length = file.read(&mut buffer)?;
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    Ok(text.trim().to_owned())
}

/// The module `br_netfilter` is there: it brings switches of its own.
pub(crate) fn has_bridge_netfilter() -> bool {
    std::path::Path::new("/proc/sys/net/bridge").exists()
}

fn path(sysctl: &Sysctl) -> String {
    format!("/proc/sys/{sysctl}")
}
