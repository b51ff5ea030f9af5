//! The sockets of one call, each in the namespace that it belongs to.

use std::path::Path;

use crate::{
    error::Error,
    netns::{self, Identity, Netns},
    rtnl::{Host, Pod, Rtnl},
};

/// Both ends of an attachment. Opening it changes nothing.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) host: Rtnl<Host>,
    pub(crate) pod: Rtnl<Pod>,
    pub(crate) netns: Netns,
    /// The node's namespace.
    pub(crate) home: Identity,
}

/// Whether the pod's namespace may be the node's (`CNI_NETNS_OVERRIDE`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OwnNetns {
    Allowed,
    Refused,
}

impl OwnNetns {
    pub(crate) fn when(overridden: bool) -> Self {
        if overridden {
            Self::Allowed
        } else {
            Self::Refused
        }
    }
}

impl Kernel {
    /// Opens the namespace at `path` and a socket on either side.
    pub(crate) fn open(path: &Path, own: OwnNetns) -> Result<Self, Error> {
        let home = netns::own()?;
        let netns = Netns::open(path)?;
        if netns.identity == home && own == OwnNetns::Refused {
            return Err(Error::OwnNetns(path.to_owned()));
        }
        let host = open_host()?;
        let pod = netns.run(Rtnl::open)?.map_err(Error::Connect)?;
        Ok(Self {
            host,
            pod,
            netns,
            home,
        })
    }
}

/// A socket in the node's namespace.
pub(crate) fn open_host() -> Result<Rtnl<Host>, Error> {
    Rtnl::open().map_err(Error::Connect)
}
