//! VLANs: those of a port, and the link that has the gateway's address in one.
//!
//! Needs a kernel with `CONFIG_BRIDGE_VLAN_FILTERING`; without it making the bridge fails.

use std::collections::BTreeMap;

use cni_protocol::InterfaceName;
use netlink_packet_route::{
    AddressFamily,
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
    rtnl::{Host, Index, Link, Message, RouteRequest, Rtnl, change},
    sysctl::{self, Sysctl},
    vlan::Vlan,
};

/// The VLAN that every new port belongs to, unless the bridge says otherwise
/// (`br->default_pvid`).
const DEFAULT: u16 = 1;

/// A port's VLANs, each with the manner in which it is a member, in the words of bridge(8).
type Members = BTreeMap<u16, &'static str>;

/// The VLAN of a port's untagged packets. `None` where that is for the bridge to say.
///
/// As in the Go plugin, a port with a trunk and no VLAN of its own has the usual default one.
fn native(vlan: &Vlan) -> Option<u16> {
    vlan.native
        .or_else(|| (!vlan.trunk.is_empty()).then_some(DEFAULT))
}

/// Makes a new port a member of its VLANs, and of no other.
pub(crate) fn join(
    port: &InterfaceName,
    index: Index<Host>,
    default: Option<u16>,
    vlan: &Vlan,
) -> Vec<RouteRequest> {
    let mut requests = Vec::new();
    let Some(native) = native(vlan) else {
        return requests;
    };
    let default = default.unwrap_or(DEFAULT);
    let untagged = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
    if !vlan.keep_default && default != 0 && native != default {
        let message = membership(index, &[(default, BridgeVlanInfoFlags::empty())]);
        let operation = format!("remove VLAN {default} from bridge port {port}");
        requests.push(change(operation, Message::DelLink(message), 0));
    }
    let mut add = |vlans: &[(u16, BridgeVlanInfoFlags)], name: String| {
        let operation = format!("add VLAN {name} to bridge port {port}");
        requests.push(change(
            operation,
            Message::SetLink(membership(index, vlans)),
            0,
        ));
    };
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

/// Brings a port that is there to its VLANs: out of what it should not be in, and into all
/// that [`join`] gives a new one.
pub(crate) fn rejoin(
    host: &mut Rtnl<Host>,
    port: &Link<Host>,
    bridge: &Link<Host>,
    vlan: &Vlan,
) -> Result<Vec<RouteRequest>, Error> {
    let Ok(name) = port.name.parse::<InterfaceName>() else {
        return Ok(Vec::new());
    };
    let found = members(&host.port_vlans(port.index)?);
    let wanted = wanted(vlan);
    let default = bridge.default_vlan.unwrap_or(DEFAULT);
    let stray = found
        .keys()
        .filter(|id| !(wanted.contains_key(id) || vlan.keep_default && **id == default));
    let mut requests: Vec<RouteRequest> = stray
        .map(|id| {
            let message = membership(port.index, &[(*id, BridgeVlanInfoFlags::empty())]);
            let operation = format!("remove VLAN {id} from bridge port {name}");
            change(operation, Message::DelLink(message), 0)
        })
        .collect();
    let kept = Vlan {
        keep_default: true,
        ..vlan.clone()
    };
    requests.extend(join(&name, port.index, bridge.default_vlan, &kept));
    Ok(requests)
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
///
/// It comes up last: one that is down may not be in its VLAN yet, whoever made it.
pub(crate) fn ensure_gateway_link(
    host: &mut Rtnl<Host>,
    bridge: &Link<Host>,
    plan: &GatewayLink,
) -> Result<Link<Host>, Error> {
    let link = match host.find_link(&plan.name)? {
        Some(link) => link,
        None => create_gateway_link(host, bridge, plan)?,
    };
    // A pod could send router advertisements, as to the bridge itself.
    sysctl::ensure(&Sysctl::Ipv6Link(plan.name.clone(), "accept_ra"), "0")?;
    if link.up {
        return Ok(link);
    }
    let mut requests = Vec::new();
    if let Some(port) = link.peer.filter(|_| link.is_veth()) {
        let port = Index::new(port);
        requests = join(&plan.port, port, bridge.default_vlan, &of_gateway(plan));
    }
    let message = LinkUnspec::new_with_index(link.index.number).up().build();
    requests.push(change(
        format!("bring link {} up", plan.name),
        Message::SetLink(message),
        0,
    ));
    host.execute(requests)?;
    Ok(Link { up: true, ..link })
}

fn create_gateway_link(
    host: &mut Rtnl<Host>,
    bridge: &Link<Host>,
    plan: &GatewayLink,
) -> Result<Link<Host>, Error> {
    let peer = LinkUnspec::new_with_name(plan.name.as_str())
        .mtu(bridge.mtu)
        .address(plan.mac.0.to_vec())
        .build();
    let message = LinkVeth::new(plan.port.as_str(), plan.name.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(bridge.mtu)
        .address(Mac::of_host_end(plan.port.as_str()).0.to_vec())
        .controller(bridge.index.number)
        .up()
        .build();
    let operation = format!("create veth {} with peer {}", plan.port, plan.name);
    match host.create_link(operation, message) {
        Ok(_port) => {}
        Err(error) if error.is_exists() => {}
        Err(error) => return Err(error.into()),
    }
    host.find_link(&plan.name)?
        .ok_or_else(|| Error::BridgeVanished {
            bridge: plan.name.clone(),
        })
}

fn of_gateway(plan: &GatewayLink) -> Vlan {
    Vlan {
        native: Some(plan.id),
        trunk: vec![],
        keep_default: plan.keep_default,
    }
}

/// What is not as [`join`] leaves a port, in words.
pub(crate) fn check(
    host: &mut Rtnl<Host>,
    port: &Link<Host>,
    bridge: &Link<Host>,
    vlan: &Vlan,
) -> Result<Vec<String>, Error> {
    if native(vlan).is_none() {
        return Ok(Vec::new());
    }
    let found = members(&host.port_vlans(port.index)?);
    let default = bridge.default_vlan.unwrap_or(DEFAULT);
    Ok(differences(&port.name, &found, default, vlan))
}

/// What is not as [`ensure_gateway_link`] leaves the node's way into the VLAN, in words.
/// That the link is there at all is for the check of the gateway's addresses to say.
pub(crate) fn check_gateway_link(
    host: &mut Rtnl<Host>,
    bridge: &Link<Host>,
    plan: &GatewayLink,
) -> Result<Vec<String>, Error> {
    let mut differences = Vec::new();
    let Some(link) = host.find_link(&plan.name)? else {
        return Ok(differences);
    };
    if !link.up {
        differences.push(format!("link {} is down", link.name));
    }
    let Some(port) = link.peer.filter(|_| link.is_veth()) else {
        return Ok(differences);
    };
    let port = host.find_link_by_index(Index::new(port))?;
    match port.filter(|port| port.master == Some(bridge.index.number)) {
        None => differences.push(format!(
            "the other end of link {} is no port of bridge {}",
            link.name, bridge.name
        )),
        Some(port) => {
            if !port.up {
                differences.push(format!("bridge port {} is down", port.name));
            }
            differences.extend(check(host, &port, bridge, &of_gateway(plan))?);
        }
    }
    Ok(differences)
}

fn differences(port: &str, found: &Members, default: u16, vlan: &Vlan) -> Vec<String> {
    let wanted = wanted(vlan);
    let mut differences: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for (id, manner) in &wanted {
        let difference = match found.get(id) {
            None => "is missing".to_owned(),
            Some(found) if found != manner => format!("is {found}, it should be {manner}"),
            Some(_) => continue,
        };
        differences.entry(difference).or_default().push(*id);
    }
    for id in found.keys() {
        if !(wanted.contains_key(id) || vlan.keep_default && *id == default) {
            let difference = "should not be there".to_owned();
            differences.entry(difference).or_default().push(*id);
        }
    }
    differences
        .into_iter()
        .map(|(difference, ids)| {
            format!("VLAN {} of bridge port {port} {difference}", ranges(&ids))
        })
        .collect()
}

fn wanted(vlan: &Vlan) -> Members {
    let tagged = vlan.trunk.iter().cloned().flatten();
    let mut wanted: Members = tagged
        .map(|id| (id, manner(BridgeVlanInfoFlags::empty())))
        .collect();
    let untagged = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
    wanted.extend(native(vlan).map(|id| (id, manner(untagged))));
    wanted
}

fn manner(flags: BridgeVlanInfoFlags) -> &'static str {
    let pvid = flags.contains(BridgeVlanInfoFlags::Pvid);
    match (pvid, flags.contains(BridgeVlanInfoFlags::Untagged)) {
        (true, true) => "pvid untagged",
        (true, false) => "pvid tagged",
        (false, true) => "untagged",
        (false, false) => "tagged",
    }
}

/// The kernel's list with its ranges written out.
fn members(list: &[BridgeVlanInfo]) -> Members {
    let mut members = Members::new();
    let mut first = None;
    for info in list {
        if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            first = Some(info.vid);
            continue;
        }
        let ids = first.take().unwrap_or(info.vid)..=info.vid;
        members.extend(ids.map(|id| (id, manner(info.flags))));
    }
    members
}

/// Numbers in ascending order as "10-14, 30".
fn ranges(ids: &[u16]) -> String {
    let runs: Vec<String> = ids
        .chunk_by(|id, next| id + 1 == *next)
        .filter_map(|run| match run {
            [id] => Some(id.to_string()),
            [first, .., last] => Some(format!("{first}-{last}")),
            [] => None,
        })
        .collect();
    runs.join(", ")
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

    #[test]
    fn an_empty_trunk_leaves_a_port_to_its_bridge() {
        let vlan = Vlan {
            native: None,
            trunk: vec![],
            keep_default: false,
        };
        assert_eq!(words(&vlan), Vec::<String>::new());
    }

    #[test]
    fn a_trunk_alone_leaves_the_unusual_default_vlan_of_a_bridge() {
        let vlan = Vlan {
            native: None,
            trunk: vec![10..=10],
            keep_default: false,
        };
        let port = "veth0".parse().unwrap();
        let first = join(&port, Index::new(7), Some(5), &vlan).swap_remove(0);
        assert_eq!(first.operation, "remove VLAN 5 from bridge port veth0");
    }

    fn found(list: &[(u16, BridgeVlanInfoFlags)]) -> Members {
        let info = |(vid, flags): &(u16, BridgeVlanInfoFlags)| BridgeVlanInfo {
            flags: *flags,
            vid: *vid,
        };
        members(&list.iter().map(info).collect::<Vec<_>>())
    }

    #[test]
    fn a_port_as_it_should_be_has_no_differences() {
        let mut vlan = Vlan {
            native: Some(15),
            trunk: vec![10..=20, 30..=30],
            keep_default: false,
        };
        let mut list = vec![
            (10, BridgeVlanInfoFlags::RangeBegin),
            (14, BridgeVlanInfoFlags::RangeEnd),
            (
                15,
                BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
            ),
            (16, BridgeVlanInfoFlags::RangeBegin),
            (20, BridgeVlanInfoFlags::RangeEnd),
            (30, BridgeVlanInfoFlags::empty()),
        ];
        assert_eq!(differences("veth0", &found(&list), 1, &vlan), [""; 0]);

        list.push((1, BridgeVlanInfoFlags::Untagged));
        vlan.keep_default = true;
        assert_eq!(differences("veth0", &found(&list), 1, &vlan), [""; 0]);
    }

    #[test]
    fn differences_are_named_with_all_their_vlans() {
        let vlan = Vlan {
            native: Some(15),
            trunk: vec![10..=20, 30..=30],
            keep_default: false,
        };
        let list = [
            (1, BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged),
            (13, BridgeVlanInfoFlags::RangeBegin),
            (20, BridgeVlanInfoFlags::RangeEnd),
        ];
        assert_eq!(
            differences("veth0", &found(&list), 1, &vlan),
            [
                "VLAN 10-12, 30 of bridge port veth0 is missing",
                "VLAN 15 of bridge port veth0 is tagged, it should be pvid untagged",
                "VLAN 1 of bridge port veth0 should not be there",
            ]
        );
    }
}
