//! Standard input of `cni-ipam`: the configuration, and what follows from it alone.

use std::net::IpAddr;

use cni_ipam::{Config, Range, RangeSet};
use cni_protocol::{AddResult, Args, IpConfig, NetworkConfig, Version};
use ipnet::IpNet;

use crate::refusal;

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
    let data_dir = cni_ipam::data_dir(&network);
    assert!(data_dir.path().is_absolute());
    if let Err(error) = network.valid_attachments() {
        refusal::check(&error);
    }
    match Config::parse(&network, &Args::default()) {
        Ok(config) => {
            assert_eq!(config.data_dir(), &data_dir);
            check_config(&config, network.version());
        }
        Err(error) => {
            refusal::check(&error);
        }
    }
}

pub(crate) fn check_config(config: &Config, version: Version) {
    let sets = config.sets();
    assert!(!sets.is_empty());
    for (n, set) in sets.iter().enumerate() {
        check_set(set);
        for range in sets.iter().skip(n + 1).flat_map(RangeSet::ranges) {
            assert!(
                !set.contains(range.first()) && !set.contains(range.last()),
                "{range}"
            );
        }
    }
    let result = AddResult {
        ips: sets.iter().map(first_lease).collect(),
        routes: config.routes().to_vec(),
        dns: config.dns().clone(),
        ..AddResult::default()
    };
    let document = result.to_json(version).expect("there is an address");
    if version <= Version::V0_2_0 {
        let families = ["ip4", "ip6"]
            .iter()
            .filter(|key| document.get(**key).is_some());
        assert_eq!(families.count(), sets.len(), "an address is not told");
    }
}

fn check_set(set: &RangeSet) {
    let is_v4 = |range: &Range| range.gateway().is_ipv4();
    assert!(!set.ranges().is_empty());
    for (n, range) in set.ranges().iter().enumerate() {
        let (subnet, first, last) = (range.subnet(), range.first(), range.last());
        assert!(set.contains(first) && set.contains(last));
        assert!(first <= last, "{range}");
        assert!(
            subnet.contains(&first) && subnet.contains(&last),
            "{range} of {subnet}"
        );
        assert_eq!(subnet, subnet.trunc());
        assert!(
            set.ranges()
                .iter()
                .all(|other| is_v4(other) == is_v4(range))
        );
        assert_eq!(first.is_ipv4(), is_v4(range));
        let apart = |other: &Range| other.last() < first || last < other.first();
        assert!(set.ranges().iter().skip(n + 1).all(apart), "{range}");
    }
}

/// What a pod would get, if the first address were free.
pub(crate) fn first_lease(set: &RangeSet) -> IpConfig {
    let range = set.ranges().first().expect("a set has ranges");
    let address: IpAddr = range.first();
    IpConfig {
        interface: None,
        address: IpNet::new(address, range.subnet().prefix_len()).expect("the subnet's prefix"),
        gateway: Some(range.gateway()),
    }
}
