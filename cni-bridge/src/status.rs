//! STATUS: could an ADD work? Without side effects and without waiting.
//!
//! containerd asks every few seconds, and makes the node `NotReady` when the answer is no.

use cni_protocol::{
    Args, Code, Command, Failure, NetworkName, StatusRequest, delegate::Delegate, step,
};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use crate::{
    config::{Config, Ipam, Masquerade},
    error::Error,
    ipam, kernel,
    nft::{Nft, masquerade::installed},
    object::{
        bridge,
        firewall::{self, Scope},
        gateway, masquerade,
    },
    plan,
    rtnl::{Host, Link, Rtnl},
};

/// Looks at what every ADD needs: a valid configuration, the IPAM, a bridge or a free name
/// for one, a free network for the pods, and nftables where rules are wanted.
pub(crate) fn status(request: &StatusRequest) -> Result<(), Error> {
    let config = Config::parse(&request.config, &Args::default())?;
    step("lease");
    match &config.ipam {
        Ipam::None => {}
        Ipam::BuiltIn(ipam) => cni_ipam::status(ipam, request.config.name())
            .map_err(|error| not_ready(error.into()))?,
        Ipam::Delegated(name) => {
            Delegate::find(name, &request.plugin_path)?.call(Command::Status, &request.config)?;
        }
    }
    step("open");
    let mut host = kernel::open_host().map_err(not_ready)?;
    step("bridge");
    let found = bridge::find(&mut host, &config.bridge).map_err(not_ready)?;
    look_at_gateways(&mut host, &config, found.as_ref()).map_err(not_ready)?;
    step("masquerade");
    check_masquerade(&config, request.config.name()).map_err(not_ready)?;
    step("firewall");
    bridge::note_missing_netfilter();
    if let Err(error) = note_firewall(request, &config, &mut host, found.as_ref()) {
        let error = error.reply();
        cni_protocol::log(&format_args!("cannot look at the node's firewall: {error}"));
    }
    if found.is_some() {
        bridge::note_few_ports(&config.bridge);
    }
    Ok(())
}

/// What is in the way of pods, but of no ADD.
fn note_firewall(
    request: &StatusRequest,
    config: &Config,
    host: &mut Rtnl<Host>,
    bridge: Option<&Link<Host>>,
) -> Result<(), Error> {
    let gateway = plan::gateway_holder(config)?;
    let pods = match (&config.ipam, bridge) {
        (Ipam::BuiltIn(ipam), _) => ipam::pod_networks(ipam),
        // Another IPAM has told nobody but earlier pods.
        (Ipam::Delegated(_), Some(bridge)) => {
            let addresses = host.addresses(bridge.index, AddressFamily::Unspec)?;
            let networks = addresses.iter().map(|address| address.net.trunc());
            networks.filter(|net| !is_link_local(net)).collect()
        }
        (Ipam::None, _) | (Ipam::Delegated(_), None) => return Ok(()),
    };
    let scope = Scope {
        network: request.config.name(),
        bridge: &config.bridge,
        gateway: gateway.as_ref(),
        pods: &pods,
        accept: config.forward_accept,
    };
    firewall::note(host, &scope)
}

fn is_link_local(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// What an ADD would refuse for the sake of the gateways' addresses, as far as it is known
/// which these will be.
fn look_at_gateways(
    host: &mut Rtnl<Host>,
    config: &Config,
    found: Option<&Link<Host>>,
) -> Result<(), Error> {
    let Ipam::BuiltIn(ipam) = &config.ipam else {
        return Ok(());
    };
    let gateways = ipam.sets().iter().filter_map(|set| match set.ranges() {
        [range] => IpNet::new(range.gateway(), range.subnet().prefix_len()).ok(),
        // The next pod may be in any of them.
        _ => None,
    });
    let gateways: Vec<IpNet> = gateways.filter(|_| config.gateway).collect();
    let mtu = found.map_or(0, |bridge| bridge.mtu);
    let plan = plan::bridge(config, mtu, gateways)?;
    let in_vlan = match &plan.gateway_link {
        Some(gateway) => host.find_link(&gateway.name)?,
        None => None,
    };
    let gateways = gateway::look(host, found, in_vlan.as_ref(), &plan)?;
    gateway::refuse_overlap(host, &gateways.missing, &plan)
}

fn check_masquerade(config: &Config, network: &NetworkName) -> Result<(), Error> {
    match &config.masquerade {
        Masquerade::Off => Ok(()),
        Masquerade::By(_) => {
            let mut nft = Nft::open().map_err(Error::Nftables)?;
            installed(&mut nft)?;
            Ok(())
        }
        Masquerade::Unknown(unusable) => {
            let pods = match &config.ipam {
                Ipam::BuiltIn(ipam) => Some(ipam::pod_networks(ipam)),
                Ipam::None | Ipam::Delegated(_) => None,
            };
            masquerade::keep(network, pods.as_deref(), unusable)
        }
    }
}

/// What an ADD would fail with is what STATUS fails with, in a code of its own.
fn not_ready(error: Error) -> Error {
    if matches!(error.code(), Code::Unavailable | Code::LimitedConnectivity) {
        return error;
    }
    Error::NotReady(error.reply().to_string())
}
