//! CHECK: what ADD made is still there. Every difference is named; nothing is changed.
//!
//! What later plugins of the chain may change (further addresses and routes, a route in
//! another table, the pod's MAC address as prevResult has it) is no difference.

use std::{path::Path, sync::Arc};

use cni_ipam::alias::Alias;
use cni_protocol::{
    AddResult, CheckRequest, Command, Failure, Interface, IpConfig, Route, delegate::Delegate, step,
};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use crate::{
    config::{Config, Ipam, Masquerade, PodEnd},
    error::Error,
    guard::Guard,
    ipam,
    kernel::{Kernel, OwnNetns},
    mac::Mac,
    netns::Netns,
    object::{bridge, firewall, forwarding, masquerade, port, spoof, vlan},
    plan::{Allocated, Allocation, Plan, Surroundings, VethPlan},
    rtnl::{FoundRoute, Host, Index, Link, Pod, Rtnl, family_of},
};

/// Compares the attachment with prevResult and the configuration.
pub(crate) fn check(request: &CheckRequest) -> Result<(), Error> {
    let config = Config::parse(&request.config, &request.args)?;
    let before = request
        .config
        .prev_result()
        .map_err(Error::PrevResult)?
        .ok_or(Error::NoPrevResult)?;
    let (interface, ips) = ours(request, &before)?;
    step("lease");
    check_ipam(request, &config, &ips)?;
    step("open");
    let mut kernel = Kernel::open(&request.netns, OwnNetns::Refused)?;
    let mut differences = Vec::new();
    differences.extend(other_sandbox(&kernel.netns, interface));
    let plan = plan(request, &config, &ips)?;
    step("bridge");
    let bridge = bridge::find(&mut kernel.host, &config.bridge)?;
    match &bridge {
        None => differences.push(format!("bridge {} is missing", config.bridge)),
        Some(bridge) => {
            differences.extend(bridge::check(&mut kernel.host, bridge, &plan.bridge)?);
            if let Some(gateway) = &plan.bridge.gateway_link {
                let host = &mut kernel.host;
                differences.extend(vlan::check_gateway_link(host, bridge, gateway)?);
            }
        }
    }
    step("pod");
    let name = &request.attachment.interface;
    match kernel.pod.find_link(name)? {
        None => differences.push(format!("interface {name} is missing in the pod")),
        Some(inside) => {
            differences.extend(check_pod_end(&inside, interface, &config));
            differences.extend(check_addresses(&mut kernel, &inside, &ips)?);
            differences.extend(check_routes(&mut kernel, &inside, &before.routes)?);
            differences.extend(check_host_end(
                &mut kernel,
                &inside,
                bridge.as_ref(),
                &plan,
            )?);
        }
    }
    differences.extend(check_shared(&mut kernel.host, &plan, &config)?);
    bridge::note_missing_netfilter();
    if differences.is_empty() {
        Ok(())
    } else {
        Err(Error::Differences(differences))
    }
}

/// What is the same for all pods, besides the bridge.
fn check_shared(host: &mut Rtnl<Host>, plan: &Plan, config: &Config) -> Result<Vec<String>, Error> {
    let mut differences = Vec::new();
    step("bridge");
    differences.extend(forwarding::check(plan.bridge.forwarding())?);
    step("masquerade");
    differences.extend(masquerade::check(&plan.masquerade)?);
    if let Masquerade::Unknown(unusable) = &config.masquerade {
        let why = Error::MasqueradeFile(Arc::clone(unusable)).reply();
        differences.push(format!("the masquerade rules cannot be compared: {why}"));
    }
    step("firewall");
    differences.extend(firewall::check(host, &firewall::Scope::of(plan))?);
    Ok(differences)
}

/// The pod's end in prevResult, and the addresses that it has there.
fn ours<'a>(
    request: &CheckRequest,
    before: &'a AddResult,
) -> Result<(&'a Interface, Vec<&'a IpConfig>), Error> {
    let name = request.attachment.interface.as_str();
    let is_ours = |interface: &&Interface| {
        interface.name == name
            && interface
                .sandbox
                .as_deref()
                .is_some_and(|path| !path.is_empty())
    };
    let position = before
        .interfaces
        .iter()
        .position(|interface| is_ours(&interface));
    let interface = position.and_then(|position| before.interfaces.get(position));
    let interface =
        interface.ok_or_else(|| Error::NotInPrevResult(request.attachment.interface.clone()))?;
    Ok((
        interface,
        before
            .ips
            .iter()
            .filter(|ip| ip.interface.is_none() || ip.interface == position)
            .collect(),
    ))
}

fn check_ipam(request: &CheckRequest, config: &Config, ips: &[&IpConfig]) -> Result<(), Error> {
    match &config.ipam {
        Ipam::None => Ok(()),
        Ipam::BuiltIn(_) => {
            let expected: Vec<_> = ips.iter().map(|ip| ip.address.addr()).collect();
            Ok(cni_ipam::check(
                &cni_ipam::data_dir(&request.config),
                &request.attachment,
                &expected,
            )?)
        }
        Ipam::Delegated(name) => Ok(
            Delegate::find(name, &request.plugin_path)?.call(Command::Check, &request.config)?
        ),
    }
}

/// What an ADD would plan for the addresses that the pod has.
fn plan(request: &CheckRequest, config: &Config, ips: &[&IpConfig]) -> Result<Plan, Error> {
    let pods = match &config.ipam {
        Ipam::BuiltIn(ipam) => ipam::pod_networks(ipam),
        Ipam::None | Ipam::Delegated(_) => ips.iter().map(|ip| ip.address.trunc()).collect(),
    };
    let addresses = ips
        .iter()
        .map(|ip| Allocated {
            address: ip.address,
            gateway: ip.gateway,
        })
        .collect();
    let allocation = Allocation {
        addresses,
        pods,
        ..Allocation::default()
    };
    Plan::new(
        config,
        &request.attachment,
        None,
        &allocation,
        Surroundings::default(),
    )
}

/// Two paths may lead to one namespace; only another namespace is a difference.
fn other_sandbox(netns: &Netns, interface: &Interface) -> Option<String> {
    let path = interface.sandbox.as_deref()?;
    let named = Netns::open(Path::new(path)).ok()?;
    (named.identity != netns.identity).then(|| {
        format!(
            "prevResult has the pod in {path}, CNI_NETNS is {}",
            netns.path().display()
        )
    })
}

fn check_pod_end(inside: &Link<Pod>, expected: &Interface, config: &Config) -> Vec<String> {
    let name = &inside.name;
    let mut differences = Vec::new();
    if !inside.is_veth() {
        differences.push(format!("interface {name} in the pod is no veth"));
    }
    if !inside.up && config.pod_end == PodEnd::Up {
        differences.push(format!("interface {name} in the pod is down"));
    }
    let mac = inside
        .mac
        .map(|mac| Mac(mac).to_string())
        .unwrap_or_default();
    if let Some(expected) = expected.mac.as_deref()
        && !expected.is_empty()
        && !expected.eq_ignore_ascii_case(&mac)
    {
        differences.push(format!(
            "interface {name} in the pod has MAC address {mac}, prevResult has {expected}"
        ));
    }
    differences
}

fn check_addresses(
    kernel: &mut Kernel,
    inside: &Link<Pod>,
    ips: &[&IpConfig],
) -> Result<Vec<String>, Error> {
    if ips.is_empty() {
        return Ok(Vec::new());
    }
    let there: Vec<IpNet> = kernel
        .pod
        .addresses(inside.index, AddressFamily::Unspec)?
        .into_iter()
        .map(|address| address.net)
        .collect();
    let missing = ips.iter().filter(|ip| !there.contains(&ip.address));
    Ok(missing
        .map(|ip| format!("address {} is missing on {}", ip.address, inside.name))
        .collect())
}

fn check_routes(
    kernel: &mut Kernel,
    inside: &Link<Pod>,
    routes: &[Route],
) -> Result<Vec<String>, Error> {
    let mut differences = Vec::new();
    for v4 in [true, false] {
        let expected: Vec<&Route> = routes
            .iter()
            .filter(|route| route.dst.addr().is_ipv4() == v4)
            .collect();
        let Some(first) = expected.first() else {
            continue;
        };
        let there = kernel
            .pod
            .routes(inside.index, family_of(first.dst.addr()))?;
        let missing = expected
            .iter()
            .filter(|route| !there.iter().any(|found| is_route(found, route)));
        differences.extend(missing.map(|route| match route.gw {
            Some(gateway) => format!(
                "route {} via {gateway} is missing on {}",
                route.dst, inside.name
            ),
            None => format!("route {} is missing on {}", route.dst, inside.name),
        }));
    }
    Ok(differences)
}

fn is_route(found: &FoundRoute, expected: &Route) -> bool {
    let is_default = expected.dst.prefix_len() == 0;
    let wanted = (!is_default).then(|| expected.dst.network());
    found.prefix_length == expected.dst.prefix_len()
        && found.destination == wanted
        && (expected.gw.is_none() || found.gateway == expected.gw)
}

/// What the two ends have to agree in, and what the node's end says of itself.
fn check_pair(inside: &Link<Pod>, outside: &Link<Host>, plan: &VethPlan) -> Vec<String> {
    let name = &outside.name;
    let mut differences = Vec::new();
    if inside.mtu != outside.mtu {
        differences.push(format!(
            "link {name} on the node has MTU {}, {} in the pod has {}",
            outside.mtu, inside.name, inside.mtu
        ));
    }
    // A pair that another plugin made has another name, and none of our aliases.
    let is_ours = *name == plan.host.as_str();
    let is_named = |alias: &str| {
        // One that had to be cut cannot be read back.
        alias.starts_with(&plan.alias)
            || (alias.parse::<Alias>()).is_ok_and(|alias| alias.host_link() == plan.host)
    };
    if is_ours && !outside.alias.as_deref().is_some_and(is_named) {
        differences.push(format!(
            "the alias of link {name} is missing, which says whose it is"
        ));
    }
    differences
}

fn check_host_end(
    kernel: &mut Kernel,
    inside: &Link<Pod>,
    bridge: Option<&Link<Host>>,
    plan: &Plan,
) -> Result<Vec<String>, Error> {
    step("veth");
    let outside = match inside.peer {
        Some(peer) => kernel.host.find_link_by_index(Index::new(peer))?,
        None => None,
    };
    let Some(outside) =
        outside.filter(|link| link.is_veth() && link.peer == Some(inside.index.number))
    else {
        return Ok(vec![format!(
            "the other end of {} is missing on the node",
            inside.name
        )]);
    };
    let name = &outside.name;
    let mut differences = Vec::new();
    if let Some(bridge) = bridge {
        let host = &mut kernel.host;
        differences.extend(port::check(host, &outside, bridge, &plan.veth.port)?);
    }
    differences.extend(check_pair(inside, &outside, &plan.veth));
    if let Some(guard) = &plan.veth.guard
        && let (Ok(port), Some(mac)) = (name.parse(), inside.mac)
    {
        step("spoof");
        differences.extend(spoof::check(&Guard {
            port,
            mac: Mac(mac),
            addresses: guard.addresses.clone(),
        })?);
    }
    Ok(differences)
}
