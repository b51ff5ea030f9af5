//! The link by which the node's default route leaves. Only looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    error::Error,
    rtnl::{Host, Link, Rtnl},
};

/// Addresses that are nowhere, so that only a default route leads there (RFC 5737, RFC 3849).
const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// The link towards the outside, in the family of `like`.
///
/// The kernel is asked for one route: a node may have a hundred thousand of them.
pub(crate) fn find(host: &mut Rtnl<Host>, like: IpAddr) -> Result<Option<Link<Host>>, Error> {
    let outside = match like {
        IpAddr::V4(_) => IpAddr::V4(OUTSIDE_V4),
        IpAddr::V6(_) => IpAddr::V6(OUTSIDE_V6),
    };
    match host.outgoing_link(outside)? {
        Some(index) => Ok(host.find_link_by_index(index)?),
        None => Ok(None),
    }
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
