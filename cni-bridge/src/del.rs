//! DEL: nothing of the attachment remains, however little of it is left or known.
//!
//! It needs the network's name, the container id and the interface's name. What the rest of
//! the request says helps where it can and hinders nowhere.

use cni_ipam::FromHostLocal;
use cni_protocol::{DelRequest, InterfaceName};

use netlink_packet_route::AddressFamily;

use crate::{
    config,
    error::Error,
    ipam,
    kernel::{self, Kernel, OwnNetns},
    netns::{self, Netns},
    object::{
        masquerade, spoof,
        veth::{self, Foreign},
    },
    rtnl::{Host, Rtnl},
};

/// Removes the attachment. Any number of times.
///
/// The link goes first and the address last, so that it cannot be handed out while an
/// interface has it. When the link may still be there, the leases stay and the error says so.
pub(crate) fn del(request: &DelRequest) -> Result<(), Error> {
    let name = cni_ipam::names::host_link(&request.attachment);
    let mut host = kernel::open_host()?;
    if !is_own(request)? {
        let was_there = veth::remove(&mut host, &name)?;
        if !was_there {
            remove_foreign(request, &mut host)?;
        }
        // The configuration may have changed since the ADD. What is asked for again and again
        // of an attachment that is gone need not be looked at each time.
        if was_there || request.config.has(&["macspoofchk"]) {
            spoof::remove(&name)?;
        }
    }
    let release = |old| {
        ipam::release(
            &request.config,
            &request.attachment,
            &request.plugin_path,
            old,
        )
    };
    if release(FromHostLocal::Keep)?.kept {
        // The Go plugin connected this pod: its rules go too, and the lease still goes last.
        masquerade::remove_predecessor(&request.attachment)?;
        release(FromHostLocal::Release)?;
    }
    Ok(())
}

/// The namespace that is given is the node's: a process id that was given out again, say.
/// There, no interface is ours to remove.
fn is_own(request: &DelRequest) -> Result<bool, Error> {
    let Some(path) = request.netns.as_deref().filter(|_| !request.netns_override) else {
        return Ok(false);
    };
    match Netns::open(path) {
        Ok(netns) if netns.identity == netns::own()? => {
            cni_protocol::log(&format_args!(
                "CNI_NETNS {} is the node's own network namespace: only the leases are released",
                path.display()
            ));
            Ok(true)
        }
        Ok(_) | Err(netns::Error::Gone { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes a pair that another plugin made on the same bridge, before this one took over.
fn remove_foreign(request: &DelRequest, host: &mut Rtnl<Host>) -> Result<(), Error> {
    let (Some(path), Some(bridge)) = (request.netns.as_deref(), config::bridge_of(&request.config))
    else {
        return Ok(());
    };
    let mut kernel = match Kernel::open(path, OwnNetns::when(request.netns_override)) {
        Ok(kernel) => kernel,
        // Whatever was in it went with it.
        Err(Error::Netns(netns::Error::Gone { .. })) => return Ok(()),
        Err(error) => return Err(error),
    };
    let interface = &request.attachment.interface;
    let Some(pair) = veth::find_foreign(&mut kernel, interface, &bridge)? else {
        return Ok(());
    };
    if !is_leased(request, &mut kernel, &pair)? {
        return Ok(());
    }
    // The kernel has no name that is none; there is nothing to do if it had.
    if let Ok(name) = pair.outside.name.parse::<InterfaceName>() {
        veth::remove(host, &name)?;
    }
    Ok(())
}

/// The pair has an address that this attachment holds: the path may lead to another pod,
/// when its number was given out again. Another IPAM cannot be asked, and is believed.
fn is_leased(request: &DelRequest, kernel: &mut Kernel, pair: &Foreign) -> Result<bool, Error> {
    if !config::ipam_type(&request.config).is_some_and(config::is_built_in) {
        return Ok(true);
    }
    let dir = cni_ipam::data_dir(&request.config);
    let addresses = kernel
        .pod
        .addresses(pair.inside.index, AddressFamily::Unspec)?;
    for address in addresses {
        if cni_ipam::holds(&dir, &request.attachment, address.net.addr())? {
            return Ok(true);
        }
    }
    Ok(false)
}
