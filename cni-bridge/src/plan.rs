//! What an ADD will make, decided before it is made.
//!
//! Pure: the same arguments make the same plan on any host. `Display` is the plan in words.

use std::{fmt, net::IpAddr};

use cni_ipam::alias::Alias;
use cni_protocol::{Attachment, InterfaceName, NetworkName, Route};
use ipnet::IpNet;

use crate::{
    config::{AddressConflict, Config, Masquerade, Mtu, PodEnd, SpoofCheck},
    error::Error,
    guard::Guard,
    mac::Mac,
    masquerade::Rule,
    vlan::Vlan,
};

/// What an Ethernet link has where nothing says otherwise, in bytes.
const DEFAULT_MTU: u32 = 1500;
/// The route scope of what is on the link itself (`RT_SCOPE_LINK`).
const SCOPE_LINK: u8 = 253;

/// Addresses for one pod, and what comes with them, from whichever IPAM.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allocation {
    pub(crate) addresses: Vec<Allocated>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: cni_protocol::Dns,
    /// The networks that the pods of this network have addresses in.
    pub(crate) pods: Vec<IpNet>,
}

/// One address of a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Allocated {
    pub(crate) address: IpNet,
    pub(crate) gateway: Option<IpAddr>,
}

/// What is looked up on the node, because it decides the MTU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings {
    /// The MTU of the link by which the default route leaves, in bytes.
    pub(crate) uplink_mtu: Option<u32>,
    /// The MTU of the bridge that is there already, in bytes.
    pub(crate) bridge_mtu: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) bridge: BridgePlan,
    pub(crate) veth: VethPlan,
    pub(crate) pod: PodPlan,
    pub(crate) masquerade: Vec<Rule>,
    /// Every network that pods have addresses in.
    pub(crate) pods: Vec<IpNet>,
    /// The node's firewall is told to let them pass.
    pub(crate) forward_accept: bool,
}

/// What the pods of a network have in common, without any of them.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) bridge: BridgePlan,
    pub(crate) port: PortPlan,
    pub(crate) masquerade: Vec<Rule>,
    /// Every network that pods have addresses in.
    pub(crate) pods: Vec<IpNet>,
    /// The link with the gateways' addresses, where the node routes for its pods.
    pub(crate) gateway: Option<InterfaceName>,
}

/// The shared side.
#[derive(Clone, Debug)]
pub(crate) struct BridgePlan {
    pub(crate) name: InterfaceName,
    /// Given at creation; a bridge that is there keeps its own.
    pub(crate) mac: Mac,
    /// In bytes.
    pub(crate) mtu: u32,
    pub(crate) promiscuous: bool,
    pub(crate) vlan_filtering: bool,
    pub(crate) gateways: Vec<IpNet>,
    /// What has the gateways' addresses, where it is not the bridge itself.
    pub(crate) gateway_link: Option<GatewayLink>,
    pub(crate) conflict: AddressConflict,
}

impl BridgePlan {
    /// Families that the node has to route for these pods: (IPv4, IPv6).
    pub(crate) fn forwarding(&self) -> (bool, bool) {
        let any = |v4: bool| {
            let mut gateways = self.gateways.iter();
            gateways.any(|gateway| gateway.addr().is_ipv4() == v4)
        };
        (any(true), any(false))
    }

    /// The link that has the gateways' addresses.
    pub(crate) fn gateway_holder(&self) -> &InterfaceName {
        self.gateway_link
            .as_ref()
            .map_or(&self.name, |link| &link.name)
    }
}

/// The node's own link in a VLAN.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct GatewayLink {
    pub(crate) name: InterfaceName,
    /// The other end, a port of the bridge.
    pub(crate) port: InterfaceName,
    pub(crate) mac: Mac,
    pub(crate) id: u16,
    pub(crate) keep_default: bool,
}

/// The pair.
#[derive(Clone, Debug)]
pub(crate) struct VethPlan {
    pub(crate) attachment: Attachment,
    pub(crate) host: InterfaceName,
    pub(crate) host_mac: Mac,
    pub(crate) pod: InterfaceName,
    pub(crate) pod_mac: Mac,
    /// In bytes, of both ends.
    pub(crate) mtu: u32,
    pub(crate) alias: String,
    pub(crate) port: PortPlan,
    /// What is checked of what the pod sends.
    pub(crate) guard: Option<Guard>,
}

/// What every port of a network's pods has in common.
#[derive(Clone, Debug)]
pub(crate) struct PortPlan {
    pub(crate) hairpin: bool,
    pub(crate) isolated: bool,
    pub(crate) vlan: Option<Vlan>,
    /// What the pods send is checked.
    pub(crate) checked: bool,
}

impl PortPlan {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            hairpin: config.hairpin,
            isolated: config.isolated,
            vlan: config.vlan.clone(),
            checked: config.spoof_check != SpoofCheck::Nothing,
        }
    }
}

/// The pod's side.
#[derive(Clone, Debug)]
pub(crate) struct PodPlan {
    pub(crate) end: PodEnd,
    /// The gateway of each address, in their order.
    pub(crate) gateways: Vec<Option<IpAddr>>,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) duplicate_address_detection: bool,
    /// The link-local address follows from the MAC address, whatever the pod's default is.
    pub(crate) derived_link_local: bool,
}

impl Plan {
    /// Decides all that configuration, leases and surroundings settle.
    pub(crate) fn new(
        config: &Config,
        attachment: &Attachment,
        pod: Option<String>,
        allocation: &Allocation,
        around: Surroundings,
    ) -> Result<Self, Error> {
        let addresses = with_gateways(config, &allocation.addresses)?;
        let nets: Vec<IpNet> = addresses
            .iter()
            .map(|allocated| allocated.address)
            .collect();
        let gateways = if config.gateway {
            gateways(&addresses)
        } else {
            Vec::new()
        };
        let (bridge_mtu, mtu) = mtus(config.mtu, around);
        let host = cni_ipam::names::host_link(attachment);
        let pod_mac = config.mac.unwrap_or_else(|| derived_mac(&nets, &host));
        let alias = Alias::new(attachment, nets.iter().map(IpNet::addr).collect(), pod)
            .with_mac(config.mac.map(|mac| mac.0));
        Ok(Self {
            bridge: bridge(config, bridge_mtu, gateways)?,
            veth: VethPlan {
                attachment: attachment.clone(),
                host_mac: Mac::of_host_end(host.as_str()),
                pod: attachment.interface.clone(),
                pod_mac,
                mtu,
                alias: alias.to_string(),
                port: PortPlan::new(config),
                guard: guard(config.spoof_check, &host, pod_mac, &nets),
                host,
            },
            pod: PodPlan {
                end: config.pod_end,
                gateways: addresses
                    .iter()
                    .map(|allocated| allocated.gateway)
                    .collect(),
                routes: routes(config, &addresses, &allocation.routes),
                addresses: nets,
                duplicate_address_detection: config.duplicate_address_detection,
                derived_link_local: config.spoof_check == SpoofCheck::Addresses,
            },
            masquerade: rules(config, &attachment.network, allocation),
            pods: allocation.pods.clone(),
            forward_accept: config.forward_accept,
        })
    }
}

impl Shared {
    /// Decides what the pods of a network have in common, from the addresses that they have.
    pub(crate) fn new(
        config: &Config,
        network: &NetworkName,
        allocation: &Allocation,
        around: Surroundings,
    ) -> Result<Self, Error> {
        let addresses = with_gateways(config, &allocation.addresses)?;
        let gateways = if config.gateway {
            gateways(&addresses)
        } else {
            Vec::new()
        };
        Ok(Self {
            bridge: bridge(config, mtus(config.mtu, around).0, gateways)?,
            port: PortPlan::new(config),
            masquerade: rules(config, network, allocation),
            pods: allocation.pods.clone(),
            gateway: gateway_holder(config)?,
        })
    }
}

/// The shared side of a configuration with these gateways; `mtu` in bytes.
pub(crate) fn bridge(config: &Config, mtu: u32, gateways: Vec<IpNet>) -> Result<BridgePlan, Error> {
    let by_name = || Mac::of_name(config.bridge.as_str());
    let by_gateway = first_v4(&gateways).map_or_else(by_name, Mac::of_address);
    let gateway_link = gateway_link(config, by_gateway)?.filter(|_| !gateways.is_empty());
    Ok(BridgePlan {
        name: config.bridge.clone(),
        // Two links must not have one address.
        mac: if gateway_link.is_some() {
            by_name()
        } else {
            by_gateway
        },
        mtu,
        promiscuous: config.promiscuous,
        vlan_filtering: config.vlan.is_some(),
        gateways,
        gateway_link,
        conflict: config.conflict,
    })
}

/// Untagged packets of the node belong to no VLAN of the pods: there it needs a link of its
/// own, which has the Go plugin's name.
fn gateway_link(config: &Config, mac: Mac) -> Result<Option<GatewayLink>, Error> {
    let Some((vlan, id)) = config
        .vlan
        .as_ref()
        .and_then(|vlan| Some((vlan, vlan.native?)))
    else {
        return Ok(None);
    };
    let name = format!("{}.{id}", config.bridge);
    let port = Mac::of_name(&name).to_string().replace(':', "");
    let named = |name: String| {
        name.parse().map_err(|source| Error::GatewayLinkName {
            name: name.clone(),
            source,
        })
    };
    Ok(Some(GatewayLink {
        name: named(name.clone())?,
        port: named(format!("vgw{port}"))?,
        mac,
        id,
        keep_default: vlan.keep_default,
    }))
}

/// The link that has the gateways' addresses, where the node routes for its pods.
pub(crate) fn gateway_holder(config: &Config) -> Result<Option<InterfaceName>, Error> {
    if !config.gateway {
        return Ok(None);
    }
    let link = gateway_link(config, Mac::of_name(config.bridge.as_str()))?;
    let name = link.map_or_else(|| config.bridge.clone(), |link| link.name);
    Ok(Some(name))
}

/// The masquerade rules that a configuration asks for.
pub(crate) fn rules(config: &Config, network: &NetworkName, allocation: &Allocation) -> Vec<Rule> {
    match &config.masquerade {
        Masquerade::By(policy) => policy.rules(network, &allocation.pods),
        Masquerade::Off | Masquerade::Unknown(_) => Vec::new(),
    }
}

/// Where the IPAM named no gateway and one is needed, it is the first address of the network.
fn with_gateways(config: &Config, addresses: &[Allocated]) -> Result<Vec<Allocated>, Error> {
    addresses
        .iter()
        .map(|allocated| match allocated.gateway {
            None if config.gateway => {
                let net = allocated.address.trunc();
                // A network of one address, or of two, has none to spare.
                let first = (net.max_prefix_len() - net.prefix_len() >= 2)
                    .then(|| net.hosts().next())
                    .flatten();
                let gateway = match net {
                    // hosts() of IPv6 begins with the network's own address.
                    IpNet::V6(net) => first
                        .and(u128::from(net.network()).checked_add(1))
                        .map(|n| IpAddr::V6(n.into())),
                    IpNet::V4(_) => first,
                };
                let gateway = gateway.ok_or(Error::NoGateway(allocated.address))?;
                Ok(Allocated {
                    gateway: Some(gateway),
                    ..*allocated
                })
            }
            _ => Ok(*allocated),
        })
        .collect()
}

fn gateways(addresses: &[Allocated]) -> Vec<IpNet> {
    let mut gateways = Vec::new();
    for allocated in addresses {
        if let Some(gateway) = allocated.gateway
            && let Ok(net) = IpNet::new(gateway, allocated.address.prefix_len())
            && !gateways.contains(&net)
        {
            gateways.push(net);
        }
    }
    gateways
}

fn first_v4(nets: &[IpNet]) -> Option<IpAddr> {
    nets.iter()
        .map(IpNet::addr)
        .find(IpAddr::is_ipv4)
        .or_else(|| nets.first().map(IpNet::addr))
}

fn derived_mac(addresses: &[IpNet], host: &InterfaceName) -> Mac {
    first_v4(addresses).map_or_else(|| Mac::of_name(host.as_str()), Mac::of_address)
}

/// What is checked of what the pod behind a port sends. `mac` is what it was asked to have.
pub(crate) fn guard_of(
    config: &Config,
    port: &InterfaceName,
    mac: Option<Mac>,
    addresses: &[IpNet],
) -> Option<Guard> {
    let mac = mac.unwrap_or_else(|| derived_mac(addresses, port));
    guard(config.spoof_check, port, mac, addresses)
}

fn guard(check: SpoofCheck, port: &InterfaceName, mac: Mac, addresses: &[IpNet]) -> Option<Guard> {
    let addresses = match check {
        SpoofCheck::Nothing => return None,
        SpoofCheck::Mac => None,
        SpoofCheck::Addresses => Some(addresses.iter().map(IpNet::addr).collect()),
    };
    Some(Guard {
        port: port.clone(),
        mac,
        addresses,
    })
}

/// (bridge, pair), in bytes.
///
/// A bridge never has a larger MTU than a port. A bridge that is there and smaller than the
/// uplink keeps its pods small too, as all on one link have to agree; an explicit number is
/// taken at its word.
fn mtus(mtu: Mtu, around: Surroundings) -> (u32, u32) {
    let bridge = around.bridge_mtu;
    match mtu {
        Mtu::Bytes(bytes) => (bridge.map_or(bytes, |bridge| bridge.min(bytes)), bytes),
        Mtu::Auto => {
            let wanted = around.uplink_mtu.unwrap_or(DEFAULT_MTU);
            let mtu = bridge.map_or(wanted, |bridge| bridge.min(wanted));
            (mtu, mtu)
        }
    }
}

/// The IPAM's routes and the default routes, each destination with its gateway, none twice.
fn routes(config: &Config, addresses: &[Allocated], from_ipam: &[Route]) -> Vec<Route> {
    let gateway_of = |v4: bool| {
        let gateways = addresses.iter().filter_map(|allocated| allocated.gateway);
        gateways.into_iter().find(|gateway| gateway.is_ipv4() == v4)
    };
    let mut routes: Vec<Route> = Vec::new();
    for route in from_ipam {
        let mut route = route.clone();
        if route.gw.is_none() && route.scope != Some(SCOPE_LINK) {
            route.gw = gateway_of(route.dst.addr().is_ipv4());
        }
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    for v4 in [true, false] {
        let Some(gateway) = gateway_of(v4).filter(|_| config.default_gateway) else {
            continue;
        };
        let is_default =
            |route: &Route| route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4() == v4;
        if !routes.iter().any(is_default) {
            routes.push(default_route(gateway));
        }
    }
    routes
}

fn default_route(gateway: IpAddr) -> Route {
    let dst = match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    Route {
        dst,
        gw: Some(gateway),
        mtu: None,
        advmss: None,
        priority: None,
        table: None,
        scope: None,
    }
}

/// The plan as one would tell it.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bridge,
            veth,
            pod,
            masquerade,
            pods: _,
            forward_accept,
        } = self;
        writeln!(
            f,
            "bridge {} mac {} mtu {}",
            bridge.name, bridge.mac, bridge.mtu
        )?;
        for gateway in &bridge.gateways {
            writeln!(f, "address {gateway} on {}", bridge.gateway_holder())?;
        }
        writeln!(
            f,
            "veth {} mac {} in {}, mtu {}",
            veth.host, veth.host_mac, bridge.name, veth.mtu
        )?;
        writeln!(f, "peer {} mac {}", veth.pod, veth.pod_mac)?;
        writeln!(f, "alias {}", veth.alias)?;
        for address in &pod.addresses {
            writeln!(f, "address {address} on {}", veth.pod)?;
        }
        for route in &pod.routes {
            write!(f, "route {}", route.dst)?;
            match route.gw {
                Some(gateway) => writeln!(f, " via {gateway}")?,
                None => writeln!(f, " on {}", veth.pod)?,
            }
        }
        for rule in masquerade {
            writeln!(f, "masquerade {rule}")?;
        }
        if *forward_accept {
            writeln!(f, "accept {} where it is dropped", bridge.gateway_holder())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_protocol::{Args, NetworkConfig};

    fn config(keys: &str) -> Config {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"cni-bridge","ipam":{{"type":"other"}}{keys}}}"#
        );
        let network = NetworkConfig::parse(text.into_bytes()).unwrap();
        Config::parse(&network, &Args::default()).unwrap()
    }

    fn attachment() -> Attachment {
        Attachment {
            network: "cbr0".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        }
    }

    fn allocation(list: &[(&str, Option<&str>)]) -> Allocation {
        let addresses: Vec<Allocated> = list
            .iter()
            .map(|(address, gateway)| Allocated {
                address: address.parse().unwrap(),
                gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            })
            .collect();
        let pods = addresses
            .iter()
            .map(|allocated| allocated.address.trunc())
            .collect();
        Allocation {
            addresses,
            pods,
            ..Allocation::default()
        }
    }

    fn route(dst: &str, gw: Option<&str>) -> Route {
        Route {
            dst: dst.parse().unwrap(),
            ..default_route(gw.unwrap_or("0.0.0.0").parse().unwrap())
        }
    }

    fn plan(config: &Config, allocation: &Allocation) -> Result<Plan, Error> {
        Plan::new(
            config,
            &attachment(),
            Some("default/web-0".into()),
            allocation,
            Surroundings::default(),
        )
    }

    #[test]
    fn dual_stack_behind_a_gateway() {
        let leases = [("10.64.1.7/24", Some("10.64.1.1")), ("fd00::7/64", None)];
        let plan = plan(&config(""), &allocation(&leases)).unwrap().to_string();
        let host = cni_ipam::names::host_link(&attachment());
        let host_mac = Mac::of_host_end(host.as_str());
        let expected = format!(
            "\
bridge cbr0 mac 0a:58:0a:40:01:01 mtu 1500
address 10.64.1.1/24 on cbr0
address fd00::1/64 on cbr0
veth {host} mac {host_mac} in cbr0, mtu 1500
peer eth0 mac 0a:58:0a:40:01:07
alias cni cbr0 c1 eth0 10.64.1.7,fd00::7 default/web-0
address 10.64.1.7/24 on eth0
address fd00::7/64 on eth0
route 0.0.0.0/0 via 10.64.1.1
route ::/0 via fd00::1
masquerade ip saddr {{ 10.64.1.0/24 }} ip daddr != {{ 10.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4 }} fib daddr type != local masquerade fully-random
masquerade ip6 saddr {{ fd00::/64 }} ip6 daddr != {{ fc00::/7, fe80::/10, ff00::/8 }} fib daddr type != local masquerade fully-random
"
        );
        assert_eq!(plan, expected);
    }

    #[test]
    fn a_default_route_of_the_ipam_is_not_made_twice() {
        let mut allocation = allocation(&[("10.64.1.7/24", Some("10.64.1.1"))]);
        allocation.routes = vec![Route {
            gw: None,
            ..route("0.0.0.0/0", None)
        }];
        let routes = plan(&config(""), &allocation).unwrap().pod.routes;
        assert_eq!(routes, [default_route("10.64.1.1".parse().unwrap())]);
    }

    #[test]
    fn a_host_route_without_a_gateway_is_refused_where_one_is_needed() {
        let allocation = allocation(&[("10.99.0.80/32", None)]);
        let error = plan(&config(""), &allocation).unwrap_err();
        assert!(
            matches!(error, Error::NoGateway(net) if net.to_string() == "10.99.0.80/32"),
            "{error:?}"
        );
        let routed = config(r#","isGateway":false"#);
        assert_eq!(plan(&routed, &allocation).unwrap().bridge.gateways, []);
    }

    #[test]
    fn the_smaller_side_decides_the_mtu() {
        let around = |uplink_mtu, bridge_mtu| Surroundings {
            uplink_mtu,
            bridge_mtu,
        };
        assert_eq!(mtus(Mtu::Auto, around(None, None)), (1500, 1500));
        assert_eq!(mtus(Mtu::Auto, around(Some(1460), None)), (1460, 1460));
        assert_eq!(
            mtus(Mtu::Auto, around(Some(1460), Some(1500))),
            (1460, 1460)
        );
        assert_eq!(
            mtus(Mtu::Auto, around(Some(9000), Some(1500))),
            (1500, 1500)
        );
        assert_eq!(
            mtus(Mtu::Bytes(9000), around(Some(1500), Some(1500))),
            (1500, 9000)
        );
        assert_eq!(
            mtus(Mtu::Bytes(1400), around(None, Some(1500))),
            (1400, 1400)
        );
    }
}
