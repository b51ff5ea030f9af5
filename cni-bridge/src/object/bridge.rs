//! The bridge: found, made, and its gateway addresses. Shared, so never removed.

use cni_protocol::InterfaceName;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use crate::{
    config::AddressConflict,
    error::Error,
    mac::Mac,
    object::{address, vlan},
    plan::BridgePlan,
    rtnl::{Host, Index, Link, RouteRequest, Rtnl, change},
    sysctl::{self, Sysctl},
};

/// Finds the bridge. `None` when no link has the name; another kind of link is refused.
pub(crate) fn find(
    host: &mut Rtnl<Host>,
    name: &InterfaceName,
) -> Result<Option<Link<Host>>, Error> {
    match host.find_link(name)? {
        Some(link) if !link.is_bridge() => Err(Error::NotABridge { name: name.clone() }),
        found => Ok(found),
    }
}

/// The bridge, and the link beside it that has the gateways' addresses in a VLAN.
#[derive(Debug)]
pub(crate) struct Ensured {
    pub(crate) bridge: Link<Host>,
    pub(crate) gateway_link: Option<Link<Host>>,
    /// It was not as it should be: new, down, or somebody else changed it.
    pub(crate) changed: bool,
}

/// Sees to it that the bridge is there as planned, and answers it as it is now.
///
/// Any number of ADDs may do this at once. Its address never changes after its creation:
/// all that the pods remember of the gateway hangs on it.
pub(crate) fn ensure(
    host: &mut Rtnl<Host>,
    found: Option<Link<Host>>,
    plan: &BridgePlan,
) -> Result<Ensured, Error> {
    let mut changed = found.is_none();
    let (link, seen) = match found {
        // Nothing is changed about a bridge that turns out to be somebody else's.
        Some(link) if plan.gateway_link.is_none() => {
            let seen = gateways_there(host, &link, plan)?;
            (link, Some(seen))
        }
        Some(link) => (link, None),
        None => (create(host, plan)?, None),
    };
    changed |= settle(host, &link, plan)?;
    let bridge = Link {
        mtu: link.mtu.min(plan.mtu),
        ..link
    };
    let gateway_link = match &plan.gateway_link {
        Some(gateway) => Some(vlan::ensure_gateway_link(host, &bridge, gateway)?),
        None => None,
    };
    let holder = gateway_link.as_ref().unwrap_or(&bridge);
    let seen = match seen {
        Some(seen) => seen,
        None => gateways_there(host, holder, plan)?,
    };
    changed |= ensure_gateways(host, holder.index, plan, &seen)?;
    Ok(Ensured {
        bridge,
        gateway_link,
        changed,
    })
}

/// Makes the bridge with its address and its switches in one message. It is not up yet.
fn create(host: &mut Rtnl<Host>, plan: &BridgePlan) -> Result<Link<Host>, Error> {
    let mut message = LinkMessageBuilder::<LinkBridge>::new(plan.name.as_str())
        .address(plan.mac.0.to_vec())
        .mtu(plan.mtu)
        .nf_call_iptables(true)
        .nf_call_ip6tables(true);
    if plan.vlan_filtering {
        message = message.vlan_filtering(true);
    }
    if plan.promiscuous {
        message = message.promiscuous(true);
    }
    match host.create_link(format!("create bridge {}", plan.name), message.build()) {
        Ok(Some(link)) => return Ok(link),
        Ok(None) => {}
        Err(error) if error.is_exists() => {}
        Err(error) => return Err(error.into()),
    }
    find(host, &plan.name)?.ok_or_else(|| Error::BridgeVanished {
        bridge: plan.name.clone(),
    })
}

/// Brings a bridge to what the plan wants of it; usually there is nothing to do. Answers
/// whether there was.
fn settle(host: &mut Rtnl<Host>, link: &Link<Host>, plan: &BridgePlan) -> Result<bool, Error> {
    // A bridge of ours was up only after these; a stranger's may have them or not.
    if !link.up || link.mac != Some(plan.mac.0) {
        // A pod could send router advertisements, and the node would believe them
        // (CVE-2020-10749).
        let mut settings = vec![("accept_ra", "0")];
        if !link.up {
            // While its own link-local address is tested, the bridge asks for no neighbour, and
            // what comes from outside for the first pod is lost (`ndisc_send_ns()`).
            settings.push(("accept_dad", "0"));
        }
        sysctl::ensure_link(&plan.name, &settings)?;
    }
    let requests = differences(link, plan);
    if requests.is_empty() {
        return Ok(false);
    }
    host.execute(requests)?;
    Ok(true)
}

/// Has the node believe no router advertisements that come by the bridge. Done for every
/// bridge when it is made; here for one that somebody switched back.
pub(crate) fn silence(plan: &BridgePlan) -> Result<(), Error> {
    Ok(sysctl::ensure_link(&plan.name, &[("accept_ra", "0")])?)
}

fn differences(link: &Link<Host>, plan: &BridgePlan) -> Vec<RouteRequest> {
    let name = &plan.name;
    let by_index = || LinkUnspec::new_with_index(link.index.number);
    let set =
        |operation: String, message| change(operation, RouteNetlinkMessage::SetLink(message), 0);
    let mut requests = Vec::new();
    if !link.up {
        requests.push(set(
            format!("bring bridge {name} up"),
            by_index().up().build(),
        ));
    }
    if plan.promiscuous && !link.promiscuous {
        requests.push(set(
            format!("make bridge {name} promiscuous"),
            by_index().promiscuous(true).build(),
        ));
    }
    if link.mtu > plan.mtu {
        requests.push(set(
            format!("set the MTU of bridge {name} to {}", plan.mtu),
            by_index().mtu(plan.mtu).build(),
        ));
    }
    if let Some(mac) = link.mac.filter(|mac| *mac != plan.mac.0) {
        // Somebody else's bridge: the kernel gives it the lowest address of its ports, a
        // different one with each pod, until one is set.
        let operation = format!("fix the address of bridge {name} at {}", Mac(mac));
        requests.push(set(operation, by_index().address(mac.to_vec()).build()));
    }
    if link.netfilter_calls != Some((true, true)) {
        requests.push(options(
            format!("hand the packets of bridge {name} to iptables"),
            link,
            vec![
                InfoBridge::NfCallIpTables(true),
                InfoBridge::NfCallIp6Tables(true),
            ],
        ));
    }
    if plan.vlan_filtering && link.vlan_filtering != Some(true) {
        let operation = format!("switch VLAN filtering of bridge {name} on");
        requests.push(options(
            operation,
            link,
            vec![InfoBridge::VlanFiltering(true)],
        ));
    }
    requests
}

/// Options of a bridge are changed by a "new link" that may exist (`br_changelink()`).
fn options(operation: String, link: &Link<Host>, options: Vec<InfoBridge>) -> RouteRequest {
    let mut message = LinkMessage::default();
    message.header.index = link.index.number;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(options)),
    ]));
    change(operation, RouteNetlinkMessage::NewLink(message), 0)
}

/// The addresses of the link that is to have the gateways'. One that stands in a gateway's
/// way is refused, unless it is to be replaced.
fn gateways_there(
    host: &mut Rtnl<Host>,
    link: &Link<Host>,
    plan: &BridgePlan,
) -> Result<Vec<IpNet>, Error> {
    let is_v4 = |gateway: &IpNet| gateway.addr().is_ipv4();
    let family = match plan.gateways.as_slice() {
        [] => return Ok(Vec::new()),
        gateways if gateways.iter().all(is_v4) => AddressFamily::Inet,
        _ => AddressFamily::Unspec,
    };
    let addresses = host.addresses(link.index, family)?;
    let there: Vec<IpNet> = addresses.into_iter().map(|address| address.net).collect();
    let conflict = there
        .iter()
        .find_map(|found| Some((*found, conflict(found, plan)?)));
    match conflict {
        Some((found, wanted)) if plan.conflict == AddressConflict::Refuse => {
            Err(Error::OtherAddress {
                bridge: plan.gateway_holder().clone(),
                found,
                wanted,
            })
        }
        _ => Ok(there),
    }
}

/// Gives the bridge, or the link in its VLAN, the gateways' addresses that it has not.
/// Answers whether there were any.
fn ensure_gateways(
    host: &mut Rtnl<Host>,
    index: Index<Host>,
    plan: &BridgePlan,
    there: &[IpNet],
) -> Result<bool, Error> {
    let name = plan.gateway_holder();
    let in_the_way = there.iter().filter(|found| conflict(found, plan).is_some());
    let mut requests: Vec<_> = in_the_way
        .map(|found| address::remove(name, index, *found))
        .collect();
    let missing: Vec<&IpNet> = plan
        .gateways
        .iter()
        .filter(|gateway| !there.contains(gateway))
        .collect();
    if missing.iter().any(|gateway| gateway.addr().is_ipv6()) {
        sysctl::ensure(&Sysctl::Ipv6Link(name.clone(), "disable_ipv6"), "0")?;
    }
    requests.extend(
        missing
            .into_iter()
            .map(|gateway| address::create(name, index, *gateway, true)),
    );
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

/// What is not as an ADD would have left it, in words.
///
/// Its own address is not compared: a bridge that was there before keeps what it had.
pub(crate) fn check(
    host: &mut Rtnl<Host>,
    link: &Link<Host>,
    plan: &BridgePlan,
) -> Result<Vec<String>, Error> {
    let name = &plan.name;
    let mut differences = Vec::new();
    if !link.up {
        differences.push(format!("bridge {name} is down"));
    }
    if plan.promiscuous && !link.promiscuous {
        differences.push(format!("bridge {name} is not promiscuous"));
    }
    if link.netfilter_calls != Some((true, true)) {
        differences.push(format!(
            "bridge {name} does not hand its packets to iptables, so Services on one node fail"
        ));
    }
    if plan.vlan_filtering && link.vlan_filtering != Some(true) {
        differences.push(format!("VLAN filtering of bridge {name} is off"));
    }
    let accepts = Sysctl::Ipv6Link(name.clone(), "accept_ra");
    if sysctl::read(&accepts)?.is_some_and(|value| value != "0") {
        differences.push(format!(
            "the node believes router advertisements of pods: sysctl {accepts} is not 0"
        ));
    }
    if !plan.gateways.is_empty() {
        differences.extend(check_gateways(host, link, plan)?);
    }
    Ok(differences)
}

fn check_gateways(
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
    let there = host.addresses(index, AddressFamily::Unspec)?;
    let missing = plan
        .gateways
        .iter()
        .filter(|gateway| !there.iter().any(|address| address.net == **gateway));
    Ok(missing
        .map(|gateway| format!("gateway address {gateway} is missing on {name}"))
        .collect())
}

/// Says so when the kernel cannot hand bridged packets to iptables at all. It is no failure:
/// a node whose Services do not depend on it is as well as any other.
pub(crate) fn note_missing_netfilter() {
    if !sysctl::has_bridge_netfilter() {
        cni_protocol::log(
            &"the kernel has br_netfilter not loaded: a Service whose pod is on the caller's own node cannot be \
              reached from there (modprobe br_netfilter)",
        );
    }
}
