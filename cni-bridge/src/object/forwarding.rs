//! That the node routes the pods' packets. Shared, so never taken back.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    error::Error,
    object::uplink,
    rtnl::{Host, Rtnl},
    sysctl::{self, Sysctl},
};

/// Switches routing on, for the families (IPv4, IPv6) that need it and have it off. Answers
/// whether any had.
pub(crate) fn ensure(host: &mut Rtnl<Host>, (v4, v6): (bool, bool)) -> Result<bool, Error> {
    let mut changed = false;
    if v4 {
        changed |= sysctl::ensure(&Sysctl::Ipv4Forwarding, "1")?;
    }
    if v6 && sysctl::read(&Sysctl::Ipv6Forwarding)?.is_some_and(|value| value != "1") {
        keep_router_advertisements(host)?;
        changed |= sysctl::ensure(&Sysctl::Ipv6Forwarding, "1")?;
    }
    Ok(changed)
}

/// A node that begins to route IPv6 stops to listen to its own router, and loses its default
/// route minutes later, unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst).
fn keep_router_advertisements(host: &mut Rtnl<Host>) -> Result<(), Error> {
    let outside = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let Some(link) = uplink::find(host, outside)? else {
        return Ok(());
    };
    if let Ok(name) = link.name.parse() {
        let accept = Sysctl::Ipv6Link(name, "accept_ra");
        if sysctl::read(&accept)?.as_deref() == Some("1") {
            sysctl::ensure(&accept, "2")?;
        }
    }
    Ok(())
}

/// The families among (IPv4, IPv6) that need routing and do not have it, in words.
pub(crate) fn check((v4, v6): (bool, bool)) -> Result<Vec<String>, Error> {
    let mut differences = Vec::new();
    for (needed, sysctl) in [(v4, Sysctl::Ipv4Forwarding), (v6, Sysctl::Ipv6Forwarding)] {
        if needed && sysctl::read(&sysctl)?.as_deref() != Some("1") {
            differences.push(format!(
                "the node does not forward packets: sysctl {sysctl} is not 1"
            ));
        }
    }
    Ok(differences)
}
