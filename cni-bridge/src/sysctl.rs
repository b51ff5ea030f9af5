//! The few switches of the kernel that have no netlink message, under `/proc/sys/net`.
//!
//! They are read first and written only when they differ: a write can cost a wait for RTNL.
//! The namespace is that of the calling thread.

use std::{fmt, fs, io};

use cni_protocol::InterfaceName;

/// One switch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Sysctl {
    /// The node routes IPv4.
    Ipv4Forwarding,
    /// The node routes IPv6.
    Ipv6Forwarding,
    /// One of a link's IPv6 settings, for example `accept_ra`.
    Ipv6Link(InterfaceName, &'static str),
}

impl fmt::Display for Sysctl {
    /// The path below `/proc/sys`. `InterfaceName` has no '/', so it stays one component.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4Forwarding => f.write_str("net/ipv4/ip_forward"),
            Self::Ipv6Forwarding => f.write_str("net/ipv6/conf/all/forwarding"),
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
    match fs::read_to_string(path(sysctl)) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read {
            sysctl: sysctl.clone(),
            source,
        }),
    }
}

/// Sees to it that a switch stands at `value`. Nothing to do when the kernel has none.
pub(crate) fn ensure(sysctl: &Sysctl, value: &'static str) -> Result<(), Error> {
    match read(sysctl)? {
        None => Ok(()),
        Some(found) if found == value => Ok(()),
        Some(_other) => fs::write(path(sysctl), value).map_err(|source| Error::Write {
            sysctl: sysctl.clone(),
            value,
            source,
        }),
    }
}

/// The module `br_netfilter` is there: it brings switches of its own.
pub(crate) fn has_bridge_netfilter() -> bool {
    std::path::Path::new("/proc/sys/net/bridge").exists()
}

fn path(sysctl: &Sysctl) -> String {
    format!("/proc/sys/{sysctl}")
}
