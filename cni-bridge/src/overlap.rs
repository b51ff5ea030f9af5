//! Whether the pods' network is free: that it is not a part of the node's own networks.
//!
//! Pure. When the bridge has the gateway's address, what is sent to that network goes to the
//! bridge. What the node had there before cannot be reached then, the node itself perhaps.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// What the node has in the pods' network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Occupant {
    /// A link has an address there.
    Address { link: String, address: IpNet },
    /// The default gateway is there.
    DefaultGateway { link: String, address: IpAddr },
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { link, address } => write!(f, "link {link} has the address {address}"),
            Self::DefaultGateway { link, address } => {
                write!(f, "the node's default gateway is {address}, by link {link}")
            }
        }
    }
}

/// What an address of the node's means for a network of pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Free,
    /// The pods' network is a part of the link's: the longer prefix leads to the pods.
    Part,
    /// The address is, and with it perhaps the link's whole network, in the pods' network.
    Clash,
}

/// An address that means something on its link only.
pub(crate) fn is_link_local(address: &IpNet) -> bool {
    match address.addr() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The network's own address, alone, which no pod ever gets: what flannel gives its tunnel.
fn is_of_tunnel(pods: &IpNet, address: &IpNet) -> bool {
    address.prefix_len() == address.max_prefix_len() && address.addr() == pods.network()
}

/// Judges an address of another link than the bridge.
pub(crate) fn judge(pods: &IpNet, address: &IpNet) -> Verdict {
    if is_link_local(address) || is_of_tunnel(pods, address) {
        Verdict::Free
    } else if pods.contains(&address.addr()) {
        Verdict::Clash
    } else if address.contains(pods) {
        Verdict::Part
    } else {
        Verdict::Free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_the_pods_network_clashes_and_a_larger_network_does_not() {
        for (pods, address, verdict) in [
            ("10.64.1.0/24", "10.0.0.4/24", Verdict::Free),
            ("10.64.1.0/24", "10.64.1.77/24", Verdict::Clash),
            ("10.64.1.0/24", "10.64.1.77/28", Verdict::Clash),
            ("10.64.1.0/24", "10.64.1.77/32", Verdict::Clash),
            // The node's own address would be given to a pod.
            ("10.64.1.0/24", "10.64.1.77/16", Verdict::Clash),
            ("10.64.1.0/24", "10.64.0.4/16", Verdict::Part),
            ("10.64.1.0/24", "10.64.2.4/24", Verdict::Free),
            ("10.64.1.0/24", "10.64.1.0/32", Verdict::Free),
            ("10.64.1.0/24", "10.64.1.0/28", Verdict::Clash),
            ("fd00:64:1::/64", "fd00:64:1::/128", Verdict::Free),
            ("169.254.0.0/16", "169.254.20.10/32", Verdict::Free),
            ("fd00:64:1::/64", "fd00:64:1::7/64", Verdict::Clash),
            ("fd00:64:1::/64", "fd00:64::7/48", Verdict::Free),
            ("fd00:64:1::/64", "fd00:64::7/32", Verdict::Part),
            ("fd00:64:1::/64", "fe80::7/64", Verdict::Free),
            ("fd00:64:1::/64", "10.64.1.7/24", Verdict::Free),
        ] {
            let [pods, address] = [pods, address].map(|net| net.parse().unwrap());
            assert_eq!(judge(&pods, &address), verdict, "{address} and {pods}");
        }
    }
}
