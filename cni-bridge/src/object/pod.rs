//! The pod's end of the pair: its switches, addresses, routes, and that it is up.

use std::{
    thread,
    time::{Duration, Instant},
};

use cni_protocol::InterfaceName;
use netlink_packet_route::AddressFamily;
use rtnetlink::LinkUnspec;

use crate::{
    config::PodEnd,
    error::Error,
    kernel::Kernel,
    netns::Netns,
    object::{address, route},
    plan::PodPlan,
    rtnl::{Index, Message, Pod, change},
    sysctl,
};

/// How long duplicate address detection may take; it takes one to two seconds.
const DETECTION: Duration = Duration::from_secs(5);
/// How often the addresses are looked at meanwhile.
const POLL: Duration = Duration::from_millis(10);

/// Configures the pod's end: the switches first, while nothing can be received, then
/// addresses, up and routes in one datagram.
///
/// On failure whatever was done is gone with the link, which the caller removes.
pub(crate) fn configure(
    kernel: &mut Kernel,
    interface: &InterfaceName,
    index: Index<Pod>,
    plan: &PodPlan,
) -> Result<(), Error> {
    let has_v6 = plan
        .addresses
        .iter()
        .any(|address| address.addr().is_ipv6());
    silence(&kernel.netns, interface, plan, has_v6)?;
    if plan.end == PodEnd::Down {
        return Ok(());
    }
    let immediate = !plan.duplicate_address_detection;
    let addresses = plan
        .addresses
        .iter()
        .map(|net| address::create(interface, index, *net, immediate));
    let up = LinkUnspec::new_with_index(index.number).up().build();
    let up = change(
        format!("bring interface {interface} up"),
        Message::SetLink(up),
        0,
    );
    let before: Vec<_> = addresses.chain([up]).collect();
    let routes = plan
        .routes
        .iter()
        .map(|route| route::create(interface, index, route));
    if has_v6 && !immediate {
        kernel.pod.execute(before)?;
        settle(kernel, interface, index)?;
        return Ok(kernel.pod.execute(routes.collect())?);
    }
    Ok(kernel
        .pod
        .execute(before.into_iter().chain(routes).collect())?)
}

/// The pod believes no router advertisements: another pod may send them (CVE-2020-10749).
fn silence(
    netns: &Netns,
    interface: &InterfaceName,
    plan: &PodPlan,
    has_v6: bool,
) -> Result<(), Error> {
    let mut settings = vec![("accept_ra", "0"), ("autoconf", "0")];
    if plan.derived_link_local {
        // It sends with no other link-local address.
        settings.push(("addr_gen_mode", "0"));
    }
    if has_v6 {
        // A pod that takes its interface down and up again keeps its addresses.
        settings.extend([("disable_ipv6", "0"), ("keep_addr_on_down", "1")]);
    }
    let work = || sysctl::ensure_link(interface, &settings);
    Ok(netns.run(work)??)
}

/// Waits until no address is tentative: only then routes through them work.
fn settle(kernel: &mut Kernel, interface: &InterfaceName, index: Index<Pod>) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        let addresses = kernel.pod.addresses(index, AddressFamily::Inet6)?;
        if let Some(duplicate) = addresses.iter().find(|address| address.duplicate) {
            let address = duplicate.net.addr();
            return Err(Error::DuplicateAddress {
                interface: interface.clone(),
                address,
            });
        }
        if !addresses.iter().any(|address| address.tentative) || started.elapsed() >= DETECTION {
            return Ok(());
        }
        thread::sleep(POLL);
    }
}
