//! The links towards the outside, first of all that of the default route. Only looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    error::Error,
    rtnl::{Hop, Host, Link, Rtnl},
};

/// Addresses that are nowhere, so that only a default route leads there (RFC 5737, RFC 3849).
const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// The link towards the outside, in the family of `like`.
///
/// The kernel is asked for one route: a node may have a hundred thousand of them.
pub(crate) fn find(host: &mut Rtnl<Host>, like: IpAddr) -> Result<Option<Link<Host>>, Error> {
    match next_hop(host, like)? {
        Some(hop) => Ok(host.find_link_by_index(hop.link)?),
        None => Ok(None),
    }
}

/// Where the node's default route leads, in the family of `like`.
pub(crate) fn next_hop(host: &mut Rtnl<Host>, like: IpAddr) -> Result<Option<Hop<Host>>, Error> {
    let outside = match like {
        IpAddr::V4(_) => IpAddr::V4(OUTSIDE_V4),
        IpAddr::V6(_) => IpAddr::V6(OUTSIDE_V6),
    };
    Ok(host.next_hop(outside)?)
}

/// Every link that may lead to other machines: none that only has containers behind it.
pub(crate) fn all(host: &mut Rtnl<Host>) -> Result<Vec<Link<Host>>, Error> {
    let links = host.links()?;
    let leads_out = |link: &&Link<Host>| {
        let inside = ["veth", "bridge", "dummy", "ifb"];
        link.up
            && link.name != "lo"
            && !link
                .kind
                .as_deref()
                .is_some_and(|kind| inside.contains(&kind))
    };
    // Packets come by the bridge or bond that a link is a part of.
    let mut indexes: Vec<u32> = links
        .iter()
        .filter(leads_out)
        .map(|link| link.master.unwrap_or(link.index.number))
        .collect();
    indexes.sort_unstable();
    indexes.dedup();
    Ok(links
        .into_iter()
        .filter(|link| indexes.contains(&link.index.number))
        .collect())
}

/// The MTU towards the outside, in bytes: the smaller one where both families have a way out.
pub(crate) fn mtu(host: &mut Rtnl<Host>, addresses: &[IpAddr]) -> Result<Option<u32>, Error> {
    let mut smallest: Option<u32> = None;
    for v4 in [true, false] {
        if let Some(address) = addresses.iter().find(|address| address.is_ipv4() == v4)
            && let Some(link) = find(host, *address)?
        {
            smallest = Some(smallest.map_or(link.mtu, |mtu| mtu.min(link.mtu)));
        }
    }
    Ok(smallest)
}
