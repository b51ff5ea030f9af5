//! DEL: nothing of the attachment remains, however little of it is left or known.
//!
//! It needs the network's name, the container id and the interface's name. What the rest of
//! the request says helps where it can and hinders nowhere.

use std::net::IpAddr;

use cni_ipam::{alias::Alias, links::Links};
use cni_protocol::{DelRequest, Failure, InterfaceName, step};

use netlink_packet_route::AddressFamily;

use crate::{
    config,
    error::Error,
    ipam,
    kernel::{self, Kernel, OwnNetns},
    netns::{self, Netns},
    object::{
        conntrack, masquerade, neighbour, spoof,
        veth::{self, Foreign, Named},
    },
    rtnl::{Host, Link, Rtnl},
};

/// How often an attachment is removed that an ADD makes again meanwhile.
const ROUNDS: usize = 8;

/// Removes the attachment. Any number of times.
///
/// The link goes first and the address last, so that it cannot be handed out while an
/// interface has it. When the link may still be there, the leases stay and the error says so.
///
/// An ADD of the same attachment may be under way: one that the runtime gave up, say. It takes
/// the lease, makes the link, and then looks whether it still has the lease (`confirm`). Here
/// it is the other way round, link and then lease, and if either was there, the link is looked
/// for once more. So when this ends, the latest release came
/// - before the ADD took its lease: nothing of the ADD was touched, and it comes to its end;
/// - before it confirmed: it finds its lease gone, and undoes all that it made;
/// - after it confirmed, so after it made the link, which the last look did not find: it was
///   removed here, and the ADD fails at its next step, undoing the rest, or was at its end.
///
/// Either all of an attachment is there or nothing. (Another IPAM has nothing to confirm: it
/// may have released the address of an ADD that has not made its link yet.)
pub(crate) fn del(request: &DelRequest) -> Result<(), Error> {
    step("open");
    let mut host = kernel::open_host()?;
    if is_own(request)? {
        return release(request, None, &[]).map(|_anything| ());
    }
    let name = cni_ipam::names::host_link(&request.attachment);
    let mut found = veth::find_own(&mut host, &name, &request.attachment)?;
    if let Named::Stranger(link) = &found {
        cni_protocol::log(&format_args!(
            "link {name} is not of {}: it stays. It is a {} with the alias \"{}\"",
            request.attachment,
            link.kind.as_deref().unwrap_or_default(),
            link.alias.as_deref().unwrap_or_default(),
        ));
    }
    for _ in 0..ROUNDS {
        let link = match found {
            Named::Own(link) => Some(link),
            Named::Nobody | Named::Stranger(_) => None,
        };
        let forgotten = remove(request, &mut host, &name, link.as_ref())?;
        let anything = release(request, link.as_ref(), &forgotten)?;
        if link.is_none() && !anything {
            return Ok(());
        }
        step("veth");
        found = veth::find_own(&mut host, &name, &request.attachment)?;
        if !matches!(found, Named::Own(_)) {
            return Ok(());
        }
    }
    Err(Error::ComesBack(Box::new(request.attachment.clone())))
}

/// Removes the link and what knows its name; or the pair that another plugin made. Answers
/// the addresses whose connections are forgotten by now.
fn remove(
    request: &DelRequest,
    host: &mut Rtnl<Host>,
    name: &InterfaceName,
    link: Option<&Link<Host>>,
) -> Result<Vec<IpAddr>, Error> {
    step("veth");
    let forgotten = if let Some(link) = link {
        if asked_for_mac(request) {
            step("spoof");
            spoof::remove(name)?;
            step("neighbour");
            bequeath(request, link);
            step("veth");
        }
        remove_and_forget(host, link)?
    } else {
        remove_foreign(request, host)?;
        Vec::new()
    };
    step("spoof");
    // Whatever the configuration says: it may have changed since the ADD.
    spoof::remove_of_gone(host, name)?;
    Ok(forgotten)
}

/// Removes the link. While the kernel still waits with its answer, the connections of the
/// addresses are forgotten that the link says it has: for IPv6 that is to read all of them.
fn remove_and_forget(host: &mut Rtnl<Host>, link: &Link<Host>) -> Result<Vec<IpAddr>, Error> {
    let addresses = addresses_in_alias(link).unwrap_or_default();
    // What cannot be told now is told when the addresses are released.
    if !conntrack::may_know(&addresses).unwrap_or(false) {
        veth::remove_seen(host, link)?;
        return Ok(Vec::new());
    }
    veth::remove_seen_and(host, link, || {
        step("conntrack");
        conntrack::forget(&addresses);
        step("veth");
    })?;
    Ok(addresses)
}

fn addresses_in_alias(link: &Link<Host>) -> Option<Vec<IpAddr>> {
    let alias: Alias = link.alias.as_deref()?.parse().ok()?;
    Some(alias.addresses)
}

/// The pod's MAC address does not follow from its addresses, as far as the request tells.
fn asked_for_mac(request: &DelRequest) -> bool {
    let config = &request.config;
    config.has(&["runtimeConfig", "mac"])
        || config.has(&["args", "cni", "mac"])
        || request.args.mac.is_some()
}

/// Tells the pod's neighbours of the next one's MAC address, if there is still a pod to do so.
fn bequeath(request: &DelRequest, link: &Link<Host>) {
    let Some(path) = request.netns.as_deref() else {
        return;
    };
    let Ok(mut kernel) = Kernel::open(path, OwnNetns::when(request.netns_override)) else {
        return;
    };
    let interface = &request.attachment.interface;
    if let Ok(Some(inside)) = kernel.pod.find_link(interface)
        && link.peer == Some(inside.index.number)
        && inside.peer == Some(link.index.number)
    {
        note(neighbour::bequeath(&mut kernel, interface, &inside));
    }
}

/// What those who knew the pod will lose is lost with it, if they cannot be told.
fn note(told: Result<(), Error>) {
    if let Err(error) = told {
        cni_protocol::log(&format_args!(
            "the next pod with these addresses may not be reached at once: {}",
            error.reply()
        ));
    }
}

/// Gives the addresses back, of which nothing is remembered then: of some it is `forgotten`
/// already. Answers whether there was anything to give back, as far as that can be known.
fn release(
    request: &DelRequest,
    link: Option<&Link<Host>>,
    forgotten: &[IpAddr],
) -> Result<bool, Error> {
    step("lease");
    let holdings = ipam::holdings(&request.config, &request.attachment)?;
    let is_other_ipam =
        config::ipam_type(&request.config).is_some_and(|name| !config::is_built_in(name));
    step("conntrack");
    let mut addresses = if is_other_ipam {
        addresses_of_other_ipam(request, link)
    } else {
        holdings.addresses.clone()
    };
    addresses.retain(|address| !forgotten.contains(address));
    conntrack::forget(&addresses);
    if holdings.from_host_local {
        step("masquerade");
        // The Go plugin connected this pod: its rules go too, and the lease still goes last.
        masquerade::remove_predecessor(&request.attachment)?;
    }
    step("lease");
    if is_other_ipam || !holdings.is_empty() {
        ipam::release(&request.config, &request.attachment, &request.plugin_path)?;
    }
    Ok(!holdings.is_empty())
}

/// What another IPAM gave, by what the link said; or by prevResult, but for what another
/// attachment has by now.
fn addresses_of_other_ipam(request: &DelRequest, link: Option<&Link<Host>>) -> Vec<IpAddr> {
    if let Some(addresses) = link.and_then(addresses_in_alias) {
        return addresses;
    }
    let Ok(Some(before)) = request.config.prev_result() else {
        return Vec::new();
    };
    let Ok(links) = Links::open().and_then(|mut links| links.aliases()) else {
        return Vec::new();
    };
    let is_taken = |address: &IpAddr| {
        let mut aliases = links.iter();
        aliases.any(|(_, alias)| alias.addresses.contains(address))
    };
    let addresses = before.ips.iter().map(|ip| ip.address.addr());
    addresses.filter(|address| !is_taken(address)).collect()
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
    note(neighbour::bequeath(&mut kernel, interface, &pair.inside));
    if !config::ipam_type(&request.config).is_some_and(config::is_built_in) {
        // Of what another IPAM holds nothing is known: this pair tells who connected the pod.
        masquerade::remove_predecessor(&request.attachment)?;
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
