//! The gateways' addresses: on the bridge, or on the link beside it in a VLAN. Shared, so only
//! removed where others take their place.

use cni_protocol::InterfaceName;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use crate::{
    config::AddressConflict,
    error::Error,
    mac::Mac,
    object::{address, uplink},
    overlap::{self, Occupant, Verdict},
    plan::BridgePlan,
    rtnl::{Host, Index, Link, Rtnl},
    sysctl::{self, Sysctl},
};

/// What there is to do.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    pub(crate) missing: Vec<IpNet>,
    /// Addresses in whose place a gateway's comes.
    in_the_way: Vec<IpNet>,
}

/// Looks which gateways' addresses are missing, and what stands in their way.
///
/// That is refused, unless it is to be replaced: because the configuration says so, or because
/// it was the gateway of pods that are all gone, on a bridge of ours. So a node can be given
/// another CIDR.
pub(crate) fn look(
    host: &mut Rtnl<Host>,
    bridge: Option<&Link<Host>>,
    in_vlan: Option<&Link<Host>>,
    plan: &BridgePlan,
) -> Result<Gateways, Error> {
    let holder = match &plan.gateway_link {
        None => bridge,
        Some(_) => in_vlan,
    };
    let Some(holder) = holder.filter(|_| !plan.gateways.is_empty()) else {
        return Ok(Gateways {
            missing: plan.gateways.clone(),
            in_the_way: Vec::new(),
        });
    };
    let is_v4 = |gateway: &IpNet| gateway.addr().is_ipv4();
    let family = if plan.gateways.iter().all(is_v4) {
        AddressFamily::Inet
    } else {
        AddressFamily::Unspec
    };
    let there = nets(host, holder.index, family)?;
    let is_missing = |gateway: &&IpNet| !there.contains(gateway);
    let missing = plan.gateways.iter().filter(is_missing).copied().collect();
    let mut in_the_way: Vec<IpNet> = there
        .iter()
        .filter(|found| conflict(found, plan).is_some())
        .copied()
        .collect();
    if !in_the_way.is_empty() && plan.conflict == AddressConflict::Refuse {
        refuse_unless_left(host, (bridge, holder), plan, &in_the_way)?;
        in_the_way = left_over(host, holder.index, plan)?;
    }
    Ok(Gateways {
        missing,
        in_the_way,
    })
}

fn nets(
    host: &mut Rtnl<Host>,
    link: Index<Host>,
    family: AddressFamily,
) -> Result<Vec<IpNet>, Error> {
    let addresses = host.addresses(link, family)?;
    Ok(addresses.into_iter().map(|address| address.net).collect())
}

/// The addresses of earlier gateways, also of those that are in no gateway's way: what is sent
/// to their networks would still go to the bridge, and these may be another node's by now.
fn left_over(
    host: &mut Rtnl<Host>,
    holder: Index<Host>,
    plan: &BridgePlan,
) -> Result<Vec<IpNet>, Error> {
    let addresses = host.addresses(holder, AddressFamily::Unspec)?;
    Ok(addresses
        .into_iter()
        .filter(|address| address.net.addr().is_ipv4() || address.immediate)
        .map(|address| address.net)
        .filter(|net| !plan.gateways.contains(net) && !overlap::is_link_local(net))
        .collect())
}

/// The gateway that an address on the bridge stands in the way of: in IPv4 any other
/// address does, in IPv6 one of an overlapping network.
fn conflict(found: &IpNet, plan: &BridgePlan) -> Option<IpNet> {
    if plan.gateways.contains(found) {
        return None;
    }
    plan.gateways
        .iter()
        .find(|gateway| match (found, gateway) {
            (IpNet::V4(_), IpNet::V4(_)) => true,
            (IpNet::V6(found), IpNet::V6(gateway)) => {
                found.contains(&gateway.network()) || gateway.contains(&found.network())
            }
            _ => false,
        })
        .copied()
}

/// Refuses addresses that stand in a gateway's way, unless they are what an earlier
/// configuration of ours has left: no port is there, so no pod that would miss them.
fn refuse_unless_left(
    host: &mut Rtnl<Host>,
    (bridge, holder): (Option<&Link<Host>>, &Link<Host>),
    plan: &BridgePlan,
    in_the_way: &[IpNet],
) -> Result<(), Error> {
    let mut ports = match bridge {
        Some(bridge) => host.ports(bridge.index)?,
        None => Vec::new(),
    };
    ports.retain(|port| {
        let of_gateway = plan.gateway_link.as_ref();
        of_gateway.is_none_or(|gateway| gateway.port.as_str() != port.name)
    });
    let ours = holder.mac.is_some_and(|mac| Mac(mac).is_derived());
    if ours && ports.is_empty() {
        return Ok(());
    }
    let conflict = in_the_way
        .iter()
        .find_map(|found| Some((*found, conflict(found, plan)?)));
    match conflict {
        Some((found, wanted)) => Err(Error::OtherAddress {
            bridge: plan.gateway_holder().clone(),
            found,
            wanted,
            ports: ports.len(),
            ours,
        }),
        None => Ok(()),
    }
}

/// Refuses gateways in networks that the node has already, by another link or as the way out.
/// Says so where such a network is only larger.
///
/// Only where they are missing: a gateway that is there is in use.
pub(crate) fn refuse_overlap(
    host: &mut Rtnl<Host>,
    missing: &[IpNet],
    plan: &BridgePlan,
) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let own = [&plan.name, plan.gateway_holder()];
    for (index, address) in host.all_addresses(AddressFamily::Unspec)? {
        for gateway in missing {
            let pods = gateway.trunc();
            let verdict = overlap::judge(&pods, &address);
            if verdict == Verdict::Free {
                continue;
            }
            let Some(link) = name(host, index)?.filter(|link| !is_one_of(link, &own)) else {
                continue;
            };
            if verdict == Verdict::Clash {
                let by = Occupant::Address { link, address };
                return Err(Error::Overlap { pods, by });
            }
            cni_protocol::log(&format_args!(
                "the pods' network {pods} is a part of {}, the network of link {link}: from this node, what has an \
                 address in it must be a pod",
                address.trunc()
            ));
        }
    }
    for gateway in missing {
        refuse_default_gateway(host, &gateway.trunc())?;
    }
    Ok(())
}

fn refuse_default_gateway(host: &mut Rtnl<Host>, pods: &IpNet) -> Result<(), Error> {
    let Some(hop) = uplink::next_hop(host, pods.addr())? else {
        return Ok(());
    };
    let Some(address) = hop.gateway.filter(|gateway| pods.contains(gateway)) else {
        return Ok(());
    };
    let link = name(host, hop.link)?.unwrap_or_default();
    let by = Occupant::DefaultGateway { link, address };
    Err(Error::Overlap { pods: *pods, by })
}

fn name(host: &mut Rtnl<Host>, index: Index<Host>) -> Result<Option<String>, Error> {
    Ok(host.find_link_by_index(index)?.map(|link| link.name))
}

fn is_one_of(link: &str, names: &[&InterfaceName]) -> bool {
    names.iter().any(|name| name.as_str() == link)
}

/// Gives the bridge, or the link in its VLAN, the gateways' addresses that it has not. Answers
/// whether there were any.
pub(crate) fn ensure(
    host: &mut Rtnl<Host>,
    index: Index<Host>,
    plan: &BridgePlan,
    todo: &Gateways,
) -> Result<bool, Error> {
    let name = plan.gateway_holder();
    let Gateways {
        missing,
        in_the_way,
    } = todo;
    if missing.iter().any(|gateway| gateway.addr().is_ipv6()) {
        sysctl::ensure(&Sysctl::Ipv6Link(name.clone(), "disable_ipv6"), "0")?;
    }
    for found in in_the_way {
        cni_protocol::log(&format_args!(
            "address {found} of {name} gives way to the gateway's"
        ));
    }
    let removals = in_the_way
        .iter()
        .map(|found| address::remove(name, index, *found));
    let additions = missing
        .iter()
        .map(|gateway| address::create(name, index, *gateway, true));
    let requests: Vec<_> = removals.chain(additions).collect();
    if requests.is_empty() {
        return Ok(false);
    }
    for outcome in host.execute_each(requests)? {
        match outcome {
            // Another ADD was quicker, or its address is gone already.
            Err(error) if error.is_exists() || error.is_absent() => {}
            outcome => outcome?,
        }
    }
    Ok(true)
}

/// The gateways' addresses that are missing, in words.
pub(crate) fn check(
    host: &mut Rtnl<Host>,
    bridge: &Link<Host>,
    plan: &BridgePlan,
) -> Result<Vec<String>, Error> {
    let (index, name) = match &plan.gateway_link {
        None => (bridge.index, format!("bridge {}", plan.name)),
        Some(gateway) => match host.find_link(&gateway.name)? {
            Some(link) => (link.index, format!("link {}", gateway.name)),
            None => {
                return Ok(vec![format!(
                    "the gateway's link {} is missing",
                    gateway.name
                )]);
            }
        },
    };
    let there = nets(host, index, AddressFamily::Unspec)?;
    let missing = plan
        .gateways
        .iter()
        .filter(|gateway| !there.contains(gateway));
    Ok(missing
        .map(|gateway| format!("gateway address {gateway} is missing on {name}"))
        .collect())
}
