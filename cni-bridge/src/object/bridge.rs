//! The bridge: found, made and brought to what the plan wants of it. Shared, so no DEL removes it.

use cni_ipam::alias::Alias;
use cni_protocol::InterfaceName;
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use crate::{
    error::Error,
    mac::Mac,
    object::{gateway, veth, vlan},
    plan::BridgePlan,
    rtnl::{Host, Link, Message, RouteRequest, Rtnl, change},
    sysctl::{self, Sysctl},
};

/// How many ports a bridge can have (`BR_MAX_PORTS`, of which number 0 is none).
const MOST_PORTS: usize = 1023;
/// How many ports are named in a note.
const FEW: usize = 3;

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
    let holder = match &plan.gateway_link {
        None => None,
        Some(gateway) => host.find_link(&gateway.name)?,
    };
    let had_gateways = match &plan.gateway_link {
        None => found.is_some(),
        Some(_) => holder.is_some(),
    };
    // Nothing is changed about a bridge that turns out to be somebody else's, and none is made
    // for pods whose network is not free.
    let mut gateways = gateway::look(host, found.as_ref(), holder.as_ref(), plan)?;
    gateway::refuse_overlap(host, &gateways.missing, plan)?;
    let link = match found {
        Some(link) => link,
        None => create(host, plan)?,
    };
    let mut changed = settle(host, &link, plan)?;
    let bridge = Link {
        mtu: link.mtu.min(plan.mtu),
        ..link
    };
    let gateway_link = match &plan.gateway_link {
        Some(gateway) => Some(vlan::ensure_gateway_link(host, &bridge, gateway)?),
        None => None,
    };
    if !had_gateways {
        // Another ADD may have made it at the same time.
        gateways = gateway::look(host, Some(&bridge), gateway_link.as_ref(), plan)?;
    }
    let holder = gateway_link.as_ref().unwrap_or(&bridge);
    changed |= gateway::ensure(host, holder.index, plan, &gateways)?;
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
    let others = link.mac.filter(|mac| *mac != plan.mac.0).map(Mac);
    let requests = differences(link, plan, others.filter(|_| !has_own_address(&plan.name)));
    if requests.is_empty() {
        return Ok(false);
    }
    if others.is_some_and(|mac| !mac.is_derived()) {
        note_foreign(host, link, plan, &requests)?;
    }
    host.execute(requests)?;
    Ok(true)
}

/// The bridge's address was set by somebody (`NET_ADDR_SET`), and so does not change when its
/// ports do. Where that cannot be seen, it is taken for not so.
fn has_own_address(name: &InterfaceName) -> bool {
    std::fs::read_to_string(format!("/sys/class/net/{name}/addr_assign_type"))
        .is_ok_and(|how| how.trim() == "3")
}

/// Has the node believe no router advertisements that come by the bridge. Done for every
/// bridge when it is made; here for one that somebody switched back.
pub(crate) fn silence(plan: &BridgePlan) -> Result<(), Error> {
    Ok(sysctl::ensure_link(&plan.name, &[("accept_ra", "0")])?)
}

/// Says that a bridge which somebody else made, for ports of his own, is about to be changed.
fn note_foreign(
    host: &mut Rtnl<Host>,
    link: &Link<Host>,
    plan: &BridgePlan,
    changes: &[RouteRequest],
) -> Result<(), Error> {
    let mut ports = host.ports(link.index)?;
    ports.retain(|port| !is_of_pod(port));
    if ports.is_empty() {
        return Ok(());
    }
    let named = ports.iter().take(FEW).map(|port| port.name.as_str());
    let mut named = named.collect::<Vec<_>>().join(", ");
    if ports.len() > FEW {
        named.push_str(", ...");
    }
    let changes: Vec<&str> = changes
        .iter()
        .map(|change| change.operation.as_str())
        .collect();
    cni_protocol::log(&format_args!(
        "bridge {} was made by somebody else and has ports that are no pods' ({named}). For the pods it is changed all the same: {}",
        plan.name,
        changes.join("; ")
    ));
    Ok(())
}

/// The port is the node's end of a pair of ours.
fn is_of_pod(port: &Link<Host>) -> bool {
    let alias = port.alias.as_deref();
    port.is_veth() && alias.is_some_and(|alias| alias.parse::<Alias>().is_ok())
}

/// What has to be changed. `unfixed` is the bridge's address, if it is somebody else's and
/// nobody has set it.
fn differences(link: &Link<Host>, plan: &BridgePlan, unfixed: Option<Mac>) -> Vec<RouteRequest> {
    let name = &plan.name;
    let by_index = || LinkUnspec::new_with_index(link.index.number);
    let set = |operation: String, message| change(operation, Message::SetLink(message), 0);
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
    if let Some(mac) = unfixed {
        // The kernel gives the bridge the lowest address of its ports, a different one with
        // each pod, until one is set.
        let operation = format!("fix the address of bridge {name} at {mac}");
        requests.push(set(operation, by_index().address(mac.0.to_vec()).build()));
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
    change(operation, Message::NewLink(message), 0)
}

/// What became of a bridge that no pod needs.
#[derive(Debug)]
pub(crate) enum Unused {
    Absent,
    Removed,
    /// Why.
    Stays(&'static str),
}

/// Removes the bridge, and the link that stood for the node in a VLAN of it, when it is of our
/// making and has no other ports.
pub(crate) fn remove_unused(
    host: &mut Rtnl<Host>,
    name: &InterfaceName,
    in_vlan: Option<&InterfaceName>,
) -> Result<Unused, Error> {
    let Some(link) = find(host, name)? else {
        return Ok(Unused::Absent);
    };
    if !link.mac.is_some_and(|mac| Mac(mac).is_derived()) {
        return Ok(Unused::Stays("somebody else made it"));
    }
    let gateway = match in_vlan {
        Some(name) => host.find_link(name)?,
        None => None,
    };
    let mut ports = host.ports(link.index)?;
    let is_its_port = |port: &Link<Host>, gateway: &Link<Host>| {
        gateway.is_veth() && gateway.peer == Some(port.index.number)
    };
    // Only with a pod on the bridge does another network need it, or this link.
    if let Some(gateway) = gateway
        && !ports.iter().any(is_of_pod)
        && ports.iter().any(|port| is_its_port(port, &gateway))
    {
        veth::remove_seen(host, &gateway)?;
        ports.retain(|port| !is_its_port(port, &gateway));
    }
    if !ports.is_empty() {
        return Ok(Unused::Stays("it has ports"));
    }
    veth::remove_seen(host, &link)?;
    Ok(Unused::Removed)
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
        differences.extend(gateway::check(host, link, plan)?);
    }
    Ok(differences)
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

/// Says so when there is hardly a port left. Where it cannot be seen, it is not said.
pub(crate) fn note_few_ports(name: &InterfaceName) {
    let Ok(ports) = std::fs::read_dir(format!("/sys/class/net/{name}/brif")) else {
        return;
    };
    let used = ports.count();
    if used * 100 > MOST_PORTS * 95 {
        cni_protocol::log(&format_args!(
            "bridge {name} has {used} ports: the kernel allows {MOST_PORTS}, so hardly another pod fits on this node"
        ));
    }
}
