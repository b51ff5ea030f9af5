//! The node's end of a pair as a port of the bridge: its switches, compared and put right.
//!
//! The configuration alone says how a port has to be, so it can be put right without its
//! pod. Whose port it is, and that it exists at all, is `object/veth.rs`'s business.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkMessage, LinkProtoInfoBridge},
};
use rtnetlink::LinkUnspec;

use crate::{
    error::Error,
    object::vlan,
    plan::PortPlan,
    rtnl::{Host, Index, Link, Message, RouteRequest, Rtnl, change},
};

/// `IFLA_BRPORT_MODE`: a packet may leave by the port it came in by.
const HAIRPIN: u16 = 4;
/// `IFLA_BRPORT_ISOLATED`: no packets to other isolated ports.
const ISOLATED: u16 = 33;
/// `IFLA_BRPORT_GROUP_FWD_MASK`: which frames to 01:80:c2:00:00:0X pass through the bridge's
/// rules like others.
const GROUP_FWD_MASK: u16 = 31;
/// All but pause frames, which the kernel drops (`BR_GROUPFWD_MACPAUSE`).
const PASSED_ON: u16 = 0xfffd;

/// A switch of a port.
#[derive(Clone, Copy, Debug)]
struct Switch {
    kind: u16,
    name: &'static str,
    wanted: bool,
    found: Option<bool>,
}

impl Switch {
    /// Of a port that the kernel said nothing of, `found` is `None`.
    fn all(plan: &PortPlan, port: Option<&Link<Host>>) -> [Self; 3] {
        let passed_on = port.and_then(|port| port.port.passed_on);
        [
            Self {
                kind: HAIRPIN,
                name: "hairpin",
                wanted: plan.hairpin,
                found: port.and_then(|port| port.port.hairpin),
            },
            Self {
                kind: ISOLATED,
                name: "isolation",
                wanted: plan.isolated,
                found: port.and_then(|port| port.port.isolated),
            },
            // Else the bridge learns the forged sender of such a frame and hands it to the
            // node's IP, past all rules (`br_handle_frame()`).
            Self {
                kind: GROUP_FWD_MASK,
                name: "the check of frames to 01:80:c2:00:00:0X (group_fwd_mask)",
                wanted: plan.checked,
                // Of what is not checked, the mask is nobody's business.
                found: passed_on
                    .filter(|_| plan.checked)
                    .map(|mask| mask == PASSED_ON),
            },
        ]
    }

    fn is_wrong(&self) -> bool {
        self.found.is_some_and(|found| found != self.wanted)
    }
}

/// Sets the switches of a new port, whose are all off.
pub(crate) fn switch_on(plan: &PortPlan, name: &str, index: Index<Host>) -> Option<RouteRequest> {
    let on: Vec<Switch> = Switch::all(plan, None)
        .into_iter()
        .filter(|switch| switch.wanted)
        .collect();
    (!on.is_empty()).then(|| set(name, index, &on))
}

fn set(name: &str, index: Index<Host>, switches: &[Switch]) -> RouteRequest {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index.number;
    let attribute = |switch: &Switch| {
        let value = match switch.kind {
            GROUP_FWD_MASK => PASSED_ON.to_ne_bytes().to_vec(),
            _ => vec![u8::from(switch.wanted)],
        };
        LinkProtoInfoBridge::Other(DefaultNla::new(switch.kind, value))
    };
    message.attributes.push(LinkAttribute::ProtoInfoBridge(
        switches.iter().map(attribute).collect(),
    ));
    let words: Vec<String> = switches
        .iter()
        .map(|switch| format!("{} {}", switch.name, on_off(switch.wanted)))
        .collect();
    let operation = format!("switch {} at bridge port {name}", words.join(" and "));
    change(operation, Message::SetLink(message), 0)
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// What is not as an ADD leaves a port of the bridge, in words.
pub(crate) fn check(
    host: &mut Rtnl<Host>,
    port: &Link<Host>,
    bridge: &Link<Host>,
    plan: &PortPlan,
) -> Result<Vec<String>, Error> {
    let name = &port.name;
    let mut differences = Vec::new();
    if !port.up {
        differences.push(format!("link {name} on the node is down"));
    }
    if port.master != Some(bridge.index.number) {
        // What a port is, a link that is none cannot be asked.
        differences.push(format!("link {name} is no port of bridge {}", bridge.name));
        return Ok(differences);
    }
    let wrong = Switch::all(plan, Some(port))
        .into_iter()
        .filter(Switch::is_wrong);
    differences.extend(wrong.map(|switch| {
        format!(
            "{} of bridge port {name} is {}, it should be {}",
            switch.name,
            on_off(!switch.wanted),
            on_off(switch.wanted)
        )
    }));
    if let Some(vlan) = &plan.vlan {
        differences.extend(vlan::check(host, port, bridge, vlan)?);
    }
    Ok(differences)
}

/// Brings a port to what [`check`] compares it with. Nothing to do when it is so, or when
/// the link went meanwhile. A link that is a port of another bridge is left there: somebody
/// wanted that.
pub(crate) fn restore(
    host: &mut Rtnl<Host>,
    port: &Link<Host>,
    bridge: &Link<Host>,
    plan: &PortPlan,
) -> Result<(), Error> {
    let by_index = || LinkUnspec::new_with_index(port.index.number);
    let is_port = port.master == Some(bridge.index.number);
    if !is_port && port.master.is_some() {
        return Ok(());
    }
    let mut requests = Vec::new();
    if !is_port || !port.up {
        let message = by_index().controller(bridge.index.number).up().build();
        let operation = format!("make link {} a port of bridge {}", port.name, bridge.name);
        requests.push(change(operation, Message::SetLink(message), 0));
    }
    let wrong: Vec<Switch> = Switch::all(plan, Some(port))
        .into_iter()
        .filter(|switch| switch.is_wrong() || !is_port && switch.wanted)
        .collect();
    if !wrong.is_empty() {
        requests.push(set(&port.name, port.index, &wrong));
    }
    if let Some(vlan) = &plan.vlan
        && (!is_port || !vlan::check(host, port, bridge, vlan)?.is_empty())
    {
        requests.extend(vlan::rejoin(host, port, bridge, vlan)?);
    }
    if requests.is_empty() {
        return Ok(());
    }
    for outcome in host.execute_each(requests)? {
        match outcome {
            Err(error) if error.is_absent() => return Ok(()),
            outcome => outcome?,
        }
    }
    Ok(())
}
