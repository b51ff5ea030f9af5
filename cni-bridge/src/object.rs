//! One file for each kernel object: its whole life, from being made to being removed.

pub(crate) mod address;
pub(crate) mod bridge;
pub(crate) mod conntrack;
pub(crate) mod firewall;
pub(crate) mod forwarding;
pub(crate) mod gateway;
pub(crate) mod masquerade;
pub(crate) mod neighbour;
pub(crate) mod pod;
pub(crate) mod port;
pub(crate) mod route;
pub(crate) mod spoof;
pub(crate) mod uplink;
pub(crate) mod veth;
pub(crate) mod vlan;
