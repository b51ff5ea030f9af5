//! Standard input of `cni-bridge`: the configuration, and the plan that follows from it.
//!
//! Addresses come from the first of each range, or, where another plugin would give them,
//! from `prevResult`.

use cni_ipam::alias::Alias;
use cni_protocol::{AddResult, Args, Attachment, IpConfig, NetworkConfig};
use ipnet::IpNet;

use crate::{
    config::{self, Config, Ipam, Mtu},
    error::Error,
    ipam_stdin,
    masquerade::{Interval, Rule, Tag},
    plan::{Allocated, Allocation, Plan, Surroundings},
    refusal,
};

/// The target.
pub fn check(bytes: &[u8]) {
    let network = match NetworkConfig::parse(bytes.to_vec()) {
        Ok(network) => network,
        Err(error) => {
            refusal::check(&error);
            return;
        }
    };
    assert_eq!(network.bytes(), bytes, "delegates get what we got");
    // All that DEL and GC need, whatever else is wrong.
    let bridge = config::bridge_of(&network);
    let ipam_type = config::ipam_type(&network);
    if let Err(error) = network.valid_attachments() {
        refusal::check(&error);
    }
    let before = match network.prev_result() {
        Ok(before) => before.unwrap_or_default(),
        Err(error) => {
            refusal::check(&Error::PrevResult(error));
            AddResult::default()
        }
    };
    match Config::parse(&network, &Args::default()) {
        Err(error) => {
            refusal::check(&error);
        }
        Ok(config) => {
            assert_eq!(Some(&config.bridge), bridge.as_ref());
            assert_eq!(matches!(config.ipam, Ipam::None), ipam_type.is_none());
            check_config(&config);
            check_plan(&network, &config, &allocation(&config, &before));
        }
    }
}

fn check_config(config: &Config) {
    assert!(!(config.hairpin && config.promiscuous));
    assert!(config.gateway || !config.default_gateway);
    if let Mtu::Bytes(mtu) = config.mtu {
        assert!((68..=65_535).contains(&mtu), "mtu {mtu}");
    }
    if let Some(mac) = config.mac {
        assert!(mac.0 != [0; 6] && mac.0[0] & 1 == 0, "{mac}");
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }
    if let Some(vlan) = &config.vlan {
        let ids = vlan
            .trunk
            .iter()
            .flat_map(|range| [*range.start(), *range.end()]);
        assert!(ids.chain(vlan.native).all(|id| (1..=4094).contains(&id)));
        assert!(vlan.trunk.iter().all(|range| range.start() <= range.end()));
    }
}

fn allocation(config: &Config, before: &AddResult) -> Allocation {
    let from_sets =
        |ipam: &cni_ipam::Config| ipam.sets().iter().map(ipam_stdin::first_lease).collect();
    let (ips, routes): (Vec<IpConfig>, _) = match &config.ipam {
        Ipam::None => (Vec::new(), Vec::new()),
        Ipam::BuiltIn(ipam) => (from_sets(ipam), ipam.routes().to_vec()),
        Ipam::Delegated(_) => (before.ips.clone(), before.routes.clone()),
    };
    Allocation {
        pods: ips.iter().map(|ip| ip.address.trunc()).collect(),
        addresses: ips
            .iter()
            .map(|ip| Allocated {
                address: ip.address,
                gateway: ip.gateway,
            })
            .collect(),
        routes,
        ..Allocation::default()
    }
}

fn check_plan(network: &NetworkConfig, config: &Config, allocation: &Allocation) {
    let attachment = Attachment {
        network: network.name().clone(),
        container_id: "c1".parse().expect("a name"),
        interface: "eth0".parse().expect("a name"),
    };
    let around = Surroundings {
        uplink_mtu: Some(1460),
        bridge_mtu: None,
    };
    let plan = match Plan::new(config, &attachment, None, allocation, around) {
        Ok(plan) => plan,
        Err(error) => {
            refusal::check(&error);
            return;
        }
    };
    assert!(!plan.to_string().is_empty());
    assert_eq!(plan.pod.addresses.len(), allocation.addresses.len());
    assert_eq!(plan.pod.gateways.len(), allocation.addresses.len());
    assert!(plan.bridge.mtu <= plan.veth.mtu);
    assert!(plan.veth.alias.len() <= 255);
    if network.name().as_str().len() < 80 && (1..=2).contains(&plan.pod.addresses.len()) {
        let alias: Alias = plan.veth.alias.parse().expect("an alias of ours");
        assert_eq!(alias.host_link(), plan.veth.host);
        assert!(
            alias
                .addresses
                .iter()
                .copied()
                .eq(plan.pod.addresses.iter().map(IpNet::addr))
        );
    }
    for (n, route) in plan.pod.routes.iter().enumerate() {
        assert!(
            !plan.pod.routes[..n].contains(route),
            "route {route:?} is made twice"
        );
    }
    plan.masquerade.iter().for_each(check_rule);
}

pub(crate) fn check_rule(rule: &Rule) {
    assert!(!rule.sources.is_empty());
    for intervals in [&rule.sources, &rule.spared] {
        let ascending = |pair: &[Interval]| pair[0].last < pair[1].first;
        assert!(
            intervals
                .iter()
                .all(|interval| interval.first <= interval.last)
        );
        assert!(intervals.windows(2).all(ascending), "{intervals:?}");
    }
    let tag = rule.tag();
    assert_eq!(Tag::parse(&tag.to_string()), Some(tag));
}
