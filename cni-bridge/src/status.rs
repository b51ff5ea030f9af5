//! STATUS: could an ADD work? Without side effects and without waiting.
//!
//! containerd asks every few seconds, and makes the node `NotReady` when the answer is no.

use cni_protocol::{Args, Code, Command, Failure, StatusRequest, delegate::Delegate};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use crate::{
    config::{Config, Ipam},
    error::Error,
    ipam, kernel,
    nft::{Nft, masquerade::installed},
    object::{
        bridge,
        firewall::{self, Scope},
    },
    plan,
    rtnl::{Host, Link, Rtnl},
};

/// Looks at what every ADD needs: a valid configuration, the IPAM, a bridge or a free name
/// for one, and nftables where rules are wanted.
pub(crate) fn status(request: &StatusRequest) -> Result<(), Error> {
    let config = Config::parse(&request.config, &Args::default())?;
    match &config.ipam {
        Ipam::None => {}
        Ipam::BuiltIn(ipam) => cni_ipam::status(ipam, request.config.name())
            .map_err(|error| not_ready(error.into()))?,
        Ipam::Delegated(name) => {
            Delegate::find(name, &request.plugin_path)?.call(Command::Status, &request.config)?;
        }
    }
    let mut host = kernel::open_host().map_err(not_ready)?;
    let bridge = bridge::find(&mut host, &config.bridge).map_err(not_ready)?;
    if config.masquerade.is_some() {
        let probed = Nft::open()
            .map_err(Error::Nftables)
            .and_then(|mut nft| Ok(installed(&mut nft)?));
        probed.map_err(not_ready)?;
    }
    bridge::note_missing_netfilter();
    if let Err(error) = note_firewall(request, &config, &mut host, bridge.as_ref()) {
        let error = error.reply();
        cni_protocol::log(&format_args!("cannot look at the node's firewall: {error}"));
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

/// What an ADD would fail with is what STATUS fails with, in a code of its own.
fn not_ready(error: Error) -> Error {
    if matches!(error.code(), Code::Unavailable | Code::LimitedConnectivity) {
        return error;
    }
    Error::NotReady(error.reply().to_string())
}
