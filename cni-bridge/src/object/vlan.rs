//! VLANs: those of a port, and the link that has the gateway's address in one.
//!
//! Needs a kernel with `CONFIG_BRIDGE_VLAN_FILTERING`; without it making the bridge fails.

use cni_protocol::InterfaceName;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{
        AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoData, InfoVeth, LinkAttribute,
        LinkMessage,
    },
};
use rtnetlink::{LinkUnspec, LinkVeth};

use crate::{
    error::Error,
    mac::Mac,
    plan::GatewayLink,
    rtnl::{Host, Index, Link, RouteRequest, Rtnl, change},
    vlan::Vlan,
};

/// The VLAN that every new port belongs to, unless the bridge says otherwise
/// (`br->default_pvid`).
const DEFAULT: u16 = 1;

/// Makes a new port a member of its VLANs, and of no other.
///
/// As in the Go plugin, a port with a trunk and no VLAN of its own keeps the default one
/// for its untagged packets.
pub(crate) fn join(
    port: &InterfaceName,
    index: Index<Host>,
    default: Option<u16>,
    vlan: &Vlan,
) -> Vec<RouteRequest> {
    let default = default.unwrap_or(DEFAULT);
    let untagged = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
    let mut requests = Vec::new();
    if !vlan.keep_default && default != 0 && vlan.native.is_some_and(|native| native != default) {
        let message = membership(index, &[(default, BridgeVlanInfoFlags::empty())]);
        let operation = format!("remove VLAN {default} from bridge port {port}");
        requests.push(change(operation, RouteNetlinkMessage::DelLink(message), 0));
    }
    let mut add = |vlans: &[(u16, BridgeVlanInfoFlags)], name: String| {
        let operation = format!("add VLAN {name} to bridge port {port}");
        requests.push(change(
            operation,
            RouteNetlinkMessage::SetLink(membership(index, vlans)),
            0,
        ));
    };
    let native = vlan.native.unwrap_or(DEFAULT);
    add(&[(native, untagged)], native.to_string());
    for range in &vlan.trunk {
        let (first, last) = (*range.start(), *range.end());
        // A member that is there with other flags would lose them.
        if first == last && first == native {
            continue;
        }
        for (first, last) in around(first, last, native) {
            if first == last {
                add(&[(first, BridgeVlanInfoFlags::empty())], first.to_string());
            } else {
                let ends = [
                    (first, BridgeVlanInfoFlags::RangeBegin),
                    (last, BridgeVlanInfoFlags::RangeEnd),
                ];
                add(&ends, format!("{first}-{last}"));
            }
        }
    }
    requests
}

/// A range without one number in it.
fn around(first: u16, last: u16, without: u16) -> Vec<(u16, u16)> {
    if !(first..=last).contains(&without) {
        return vec![(first, last)];
    }
    let before = (first < without).then(|| (first, without - 1));
    let after = (without < last).then(|| (without + 1, last));
    before.into_iter().chain(after).collect()
}

fn membership(index: Index<Host>, vlans: &[(u16, BridgeVlanInfoFlags)]) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index.number;
    let info = |(vid, flags): &(u16, BridgeVlanInfoFlags)| {
        AfSpecBridge::VlanInfo(BridgeVlanInfo {
            flags: *flags,
            vid: *vid,
        })
    };
    message.attributes.push(LinkAttribute::AfSpecBridge(
        vlans.iter().map(info).collect(),
    ));
    message
}

/// Sees to the link that stands for the node in a VLAN: one end of a pair whose other end
/// is a port of the bridge in that VLAN. Shared, so never removed.
pub(crate) fn ensure_gateway_link(
    host: &mut Rtnl<Host>,
    bridge: &Link<Host>,
    plan: &GatewayLink,
) -> Result<Link<Host>, Error> {
    if let Some(link) = host.find_link(&plan.name)? {
        return Ok(link);
    }
    let peer = LinkUnspec::new_with_name(plan.name.as_str())
        .mtu(bridge.mtu)
        .address(plan.mac.0.to_vec())
        .up()
        .build();
    let message = LinkVeth::new(plan.port.as_str(), plan.name.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(bridge.mtu)
        .address(Mac::of_host_end(plan.port.as_str()).0.to_vec())
        .controller(bridge.index.number)
        .up()
        .build();
    match host.create_link(
        format!("create veth {} with peer {}", plan.port, plan.name),
        message,
    ) {
        Ok(port) => {
            let vlan = Vlan {
                native: Some(plan.id),
                trunk: vec![],
                keep_default: plan.keep_default,
            };
            host.execute(join(&plan.port, port.index, bridge.default_vlan, &vlan))?;
        }
        Err(error) if error.is_exists() => {}
        Err(error) => return Err(error.into()),
    }
    let link = host
        .find_link(&plan.name)?
        .ok_or_else(|| Error::BridgeVanished {
            bridge: plan.name.clone(),
        })?;
    if !link.up {
        let message = LinkUnspec::new_with_index(link.index.number).up().build();
        host.execute(vec![change(
            format!("bring link {} up", plan.name),
            RouteNetlinkMessage::SetLink(message),
            0,
        )])?;
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(vlan: &Vlan) -> Vec<String> {
        let port = "veth0".parse().unwrap();
        join(&port, Index::new(7), None, vlan)
            .into_iter()
            .map(|request| request.operation)
            .collect()
    }

    #[test]
    fn a_port_leaves_the_default_vlan_for_its_own() {
        let vlan = Vlan {
            native: Some(100),
            trunk: vec![],
            keep_default: false,
        };
        assert_eq!(
            words(&vlan),
            [
                "remove VLAN 1 from bridge port veth0",
                "add VLAN 100 to bridge port veth0"
            ]
        );
        let vlan = Vlan {
            keep_default: true,
            ..vlan
        };
        assert_eq!(words(&vlan), ["add VLAN 100 to bridge port veth0"]);
    }

    #[test]
    fn a_trunk_spares_the_native_vlan() {
        let vlan = Vlan {
            native: Some(15),
            trunk: vec![10..=20, 15..=15, 30..=30],
            keep_default: true,
        };
        let expected = ["15", "10-14", "16-20", "30"]
            .map(|name| format!("add VLAN {name} to bridge port veth0"));
        assert_eq!(words(&vlan), expected);
    }

    #[test]
    fn a_trunk_alone_keeps_the_default_vlan_for_what_is_untagged() {
        let vlan = Vlan {
            native: None,
            trunk: vec![10..=10],
            keep_default: false,
        };
        assert_eq!(
            words(&vlan),
            [
                "add VLAN 1 to bridge port veth0",
                "add VLAN 10 to bridge port veth0"
            ]
        );
    }
}
