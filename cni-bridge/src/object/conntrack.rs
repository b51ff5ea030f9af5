//! What the node remembers of the connections of an address: forgotten when its pod goes.
//!
//! The address is another pod's next. A remembered translation would go on to send packets to
//! it that were meant for the old one; a remembered TCP window would have the new one's taken
//! for invalid.

use std::net::IpAddr;

use cni_protocol::Failure;
use nix::errno::Errno;

use crate::{
    ctnetlink::Ctnetlink,
    error::Error,
    netlink,
    sysctl::{self, Sysctl},
};

/// Has the node forget the connections that a pod with these addresses began, and those that
/// were begun with it, be it by its own address or by that of a Service.
///
/// That it cannot is said on stderr, and is no reason to keep the addresses from other pods.
/// Where the kernel tracks nothing, nothing is asked: to be asked would make it load a module.
pub(crate) fn forget(addresses: &[IpAddr]) {
    if let Err(error) = try_to_forget(addresses) {
        cni_protocol::log(&format_args!(
            "the node still remembers connections of the pod's addresses: {}",
            error.reply()
        ));
    }
}

fn try_to_forget(addresses: &[IpAddr]) -> Result<(), Error> {
    if !may_know(addresses)? {
        return Ok(());
    }
    let mut table = Ctnetlink::open().map_err(Error::Connect)?;
    for address in addresses {
        forget_one(&mut table, *address)?;
    }
    Ok(())
}

/// There may be something to forget: connection tracking in this namespace knows of some
/// connection.
pub(crate) fn may_know(addresses: &[IpAddr]) -> Result<bool, Error> {
    if addresses.is_empty() {
        return Ok(false);
    }
    let count = sysctl::read(&Sysctl::ConntrackCount)?;
    Ok(count.is_some_and(|count| count != "0"))
}

fn forget_one(table: &mut Ctnetlink, address: IpAddr) -> Result<(), netlink::Error> {
    if let IpAddr::V4(address) = address {
        match table.delete_all_of(address) {
            Err(error) if is_too_old(&error) => {}
            outcome => return outcome,
        }
    }
    let entries = table.entries_of(address)?;
    table.delete(entries)
}

/// The kernel cannot look for the entries to delete by itself.
fn is_too_old(error: &netlink::Error) -> bool {
    matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP))
}
