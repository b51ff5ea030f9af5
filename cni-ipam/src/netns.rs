//! A look into a container's network namespace: the only place that enters one.

use std::{fs::File, io, path::Path, thread};

use cni_protocol::InterfaceName;
use nix::{
    net::if_,
    sched::{self, CloneFlags},
};

/// Whether an interface of this name is in the namespace.
///
/// The look is taken on a thread of its own, which ends with it: no failure can leave the
/// caller in the wrong namespace.
pub(crate) fn has_interface(netns: &Path, name: &InterfaceName) -> io::Result<bool> {
    let netns = File::open(netns)?;
    let look = || -> io::Result<bool> {
        #[expect(clippy::disallowed_methods, reason = "the one place that may")]
        sched::setns(&netns, CloneFlags::CLONE_NEWNET)?;
        Ok(if_::if_nametoindex(name.as_str()).is_ok())
    };
    thread::scope(|scope| scope.spawn(look).join())
        .unwrap_or_else(|_| Err(io::Error::other("the look into the namespace panicked")))
}
