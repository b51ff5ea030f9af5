//! Putting right, for the pods of a network that are there already, what somebody else undid.
//!
//! An ordinary ADD looks at no other pod. Only when it found something shared that was not
//! as it should be (the bridge was gone or down, an address, a rule or a switch missing) it
//! comes here; `cni-bridge reconcile` always does. What is inside a pod is the pod's own.

use cni_ipam::alias::Alias;
use cni_protocol::{InterfaceName, NetworkName};
use ipnet::IpNet;

use crate::{
    config::{Config, Ipam},
    error::Error,
    guard::Guard,
    ipam,
    mac::Mac,
    object::port,
    plan::{self, Allocated, Allocation, PortPlan},
    rtnl::{Host, Link, Rtnl},
};

/// A pod of the network, as its link on the node says.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) link: InterfaceName,
    pub(crate) alias: Alias,
}

/// The pods of one network on this node. Lists all links: not for the way of an ordinary ADD.
pub(crate) fn pods(network: &NetworkName) -> Result<Vec<Pod>, Error> {
    let links = cni_ipam::links::Links::open()
        .and_then(|mut links| links.aliases())
        .map_err(Error::Connect)?;
    let ours = links
        .into_iter()
        .filter(|(_, alias)| alias.network == *network);
    Ok(ours
        .filter_map(|(link, alias)| {
            let link = link.parse().ok()?;
            Some(Pod { link, alias })
        })
        .collect())
}

/// What the IPAM gave these pods, as far as their links and the configuration tell: another
/// IPAM's networks and gateways are in no file of the node.
pub(crate) fn allocation(config: &Config, pods: &[Pod]) -> Allocation {
    let Ipam::BuiltIn(ipam) = &config.ipam else {
        return Allocation::default();
    };
    let ranges = || ipam.sets().iter().flat_map(cni_ipam::RangeSet::ranges);
    let addresses = pods.iter().flat_map(|pod| &pod.alias.addresses);
    let allocated = addresses.filter_map(|address| {
        // Pods of an earlier pod CIDR have a gateway that nobody knows any more.
        let range = ranges().find(|range| range.subnet().contains(address))?;
        let address = IpNet::new(*address, range.subnet().prefix_len()).ok()?;
        Some(Allocated {
            address,
            gateway: Some(range.gateway()),
        })
    });
    Allocation {
        addresses: allocated.collect(),
        pods: ipam::pod_networks(ipam),
        ..Allocation::default()
    }
}

/// What is wrong with the ports of the pods, in words. A link that goes meanwhile is none.
pub(crate) fn check_ports(
    host: &mut Rtnl<Host>,
    pods: &[Pod],
    bridge: &Link<Host>,
    plan: &PortPlan,
) -> Result<Vec<String>, Error> {
    let mut differences = Vec::new();
    for pod in pods {
        if let Some(link) = host.find_link(&pod.link)? {
            differences.extend(port::check(host, &link, bridge, plan)?);
        }
    }
    Ok(differences)
}

/// What is checked of what these pods send.
pub(crate) fn guards(config: &Config, pods: &[Pod]) -> Vec<Guard> {
    let guard = |pod: &Pod| {
        let addresses = pod.alias.addresses.iter().copied();
        let addresses: Vec<IpNet> = addresses.map(IpNet::from).collect();
        plan::guard_of(config, &pod.link, pod.alias.mac.map(Mac), &addresses)
    };
    pods.iter().filter_map(guard).collect()
}

/// Brings the ports of the pods to what the configuration asks for.
pub(crate) fn restore_ports(
    host: &mut Rtnl<Host>,
    pods: &[Pod],
    bridge: &Link<Host>,
    plan: &PortPlan,
) -> Result<(), Error> {
    for pod in pods {
        if let Some(link) = host.find_link(&pod.link)? {
            port::restore(host, &link, bridge, plan)?;
        }
    }
    Ok(())
}
