//! A link as the kernel describes it: what is of use here, and nothing else of a message that
//! newer kernels make longer.

use netlink_packet_route::link::{BridgeVlanInfo, LinkFlags, LinkHeader};
use nix::libc;

use super::Index;
use crate::netlink::{Attributes, text_of};

/// `struct ifinfomsg`.
const HEADER: usize = 16;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BR_STATE_FORWARDING: u8 = 3;
/// RFC 2863: the link does not tell, or packets pass.
const IF_OPER_UNKNOWN: u8 = 0;
const IF_OPER_UP: u8 = 6;

/// A link that was there, in the namespace `N`, when we looked.
#[derive(Clone, Debug)]
pub(crate) struct Link<N> {
    pub(crate) index: Index<N>,
    pub(crate) name: String,
    /// "bridge", "veth", "dummy"; `None` for hardware and the loopback.
    pub(crate) kind: Option<String>,
    pub(crate) mac: Option<[u8; 6]>,
    /// In bytes.
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// Packets pass: it is up, has a carrier, and the kernel has taken note of both.
    pub(crate) operational: bool,
    /// `IFF_PROMISC` was set on the link itself, not by a capture.
    pub(crate) promiscuous: bool,
    pub(crate) master: Option<u32>,
    /// The other end of a veth pair, as a number in that end's namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) alias: Option<String>,
    /// The bridge hands its packets to iptables: (IPv4, IPv6). `None` for other kinds.
    pub(crate) netfilter_calls: Option<(bool, bool)>,
    pub(crate) vlan_filtering: Option<bool>,
    /// The VLAN that a bridge makes its new ports members of; 0 for none.
    pub(crate) default_vlan: Option<u16>,
    pub(crate) port: PortFlags,
}

/// What a link says of itself as a port of a bridge; `None` where it is none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct PortFlags {
    pub(crate) forwarding: Option<bool>,
    pub(crate) hairpin: Option<bool>,
    pub(crate) isolated: Option<bool>,
    /// Which frames to 01:80:c2:00:00:0X it passes on like others (`group_fwd_mask`).
    pub(crate) passed_on: Option<u16>,
}

/// The attributes in which a kind of link describes itself (`IFLA_LINKINFO`).
#[derive(Default)]
struct Info<'a> {
    kind: Option<&'a [u8]>,
    data: &'a [u8],
    port_kind: Option<&'a [u8]>,
    port_data: &'a [u8],
}

impl<N> Link<N> {
    /// Reads the body of an `RTM_NEWLINK`.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let header = LinkHeader::parse(body).ok()?;
        let mut link = Self {
            index: Index::new(header.index),
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            operational: false,
            promiscuous: header.flags.contains(LinkFlags::Promisc),
            master: None,
            peer: None,
            alias: None,
            netfilter_calls: None,
            vlan_filtering: None,
            default_vlan: None,
            port: PortFlags::default(),
        };
        // A bridge that always had its carrier is never seen to get it (`netif_oper_up()`).
        let carrier = header.flags.contains(LinkFlags::LowerUp);
        for (kind, value) in Attributes(body.get(HEADER..)?) {
            link.take(kind, value, carrier);
        }
        Some(link)
    }

    fn take(&mut self, kind: u16, value: &[u8], carrier: bool) {
        match kind {
            libc::IFLA_IFNAME => self.name = text_of(value),
            libc::IFLA_ADDRESS => self.mac = value.try_into().ok(),
            libc::IFLA_MTU => self.mtu = number(value).unwrap_or_default(),
            libc::IFLA_OPERSTATE => {
                self.operational = match value.first() {
                    Some(&IF_OPER_UP) => true,
                    Some(&IF_OPER_UNKNOWN) => carrier,
                    _ => false,
                }
            }
            libc::IFLA_MASTER => self.master = number(value),
            libc::IFLA_LINK => self.peer = number(value),
            libc::IFLA_IFALIAS => self.alias = Some(text_of(value)),
            libc::IFLA_LINKINFO => self.take_info(&Info::read(value)),
            _ => {}
        }
    }

    fn take_info(&mut self, info: &Info<'_>) {
        self.kind = info.kind.map(text_of);
        if self.is_bridge() {
            let mut calls = (false, false);
            for (kind, value) in Attributes(info.data) {
                match kind {
                    IFLA_BR_NF_CALL_IPTABLES => calls.0 = is_on(value),
                    IFLA_BR_NF_CALL_IP6TABLES => calls.1 = is_on(value),
                    IFLA_BR_VLAN_FILTERING => self.vlan_filtering = Some(is_on(value)),
                    IFLA_BR_VLAN_DEFAULT_PVID => self.default_vlan = short(value),
                    _ => {}
                }
            }
            self.netfilter_calls = Some(calls);
        }
        if info.port_kind.map(text_of).as_deref() == Some("bridge") {
            self.port = PortFlags::read(info.port_data);
        }
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    pub(crate) fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

impl<'a> Info<'a> {
    fn read(attributes: &'a [u8]) -> Self {
        let mut info = Self::default();
        for (kind, value) in Attributes(attributes) {
            match kind {
                libc::IFLA_INFO_KIND => info.kind = Some(value),
                libc::IFLA_INFO_DATA => info.data = value,
                libc::IFLA_INFO_SLAVE_KIND => info.port_kind = Some(value),
                libc::IFLA_INFO_SLAVE_DATA => info.port_data = value,
                _ => {}
            }
        }
        info
    }
}

impl PortFlags {
    fn read(attributes: &[u8]) -> Self {
        let mut port = Self::default();
        for (kind, value) in Attributes(attributes) {
            match kind {
                IFLA_BRPORT_STATE => port.forwarding = Some(value == [BR_STATE_FORWARDING]),
                IFLA_BRPORT_MODE => port.hairpin = Some(is_on(value)),
                IFLA_BRPORT_ISOLATED => port.isolated = Some(is_on(value)),
                IFLA_BRPORT_GROUP_FWD_MASK => port.passed_on = short(value),
                _ => {}
            }
        }
        port
    }
}

/// The VLANs in an `RTM_NEWLINK` of the bridge family, of the port with this number.
pub(super) fn vlans(body: &[u8], port: u32) -> Vec<BridgeVlanInfo> {
    let is_of_port = LinkHeader::parse(body).is_ok_and(|header| header.index == port);
    Attributes(body.get(HEADER..).unwrap_or_default())
        .filter(|(kind, _)| is_of_port && *kind == libc::IFLA_AF_SPEC)
        .flat_map(|(_, specifics)| Attributes(specifics))
        .filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO)
        .filter_map(|(_, info)| BridgeVlanInfo::try_from(info).ok())
        .collect()
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn short(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_ne_bytes)
}

fn is_on(value: &[u8]) -> bool {
    value.first().is_some_and(|value| *value != 0)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::link::{
        AfSpecBridge, BridgePortState, BridgeVlanInfoFlags, InfoBridge, InfoBridgePort, InfoData,
        InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage, State,
    };

    use super::*;
    use crate::rtnl::Host;

    /// As the library encodes it, which knows nothing of how it is read here.
    fn encoded(flags: LinkFlags, attributes: Vec<LinkAttribute>) -> Vec<u8> {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = flags;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn read(flags: LinkFlags, attributes: Vec<LinkAttribute>) -> Link<Host> {
        Link::read(&encoded(flags, attributes)).unwrap()
    }

    #[test]
    fn a_bridge_with_its_switches() {
        let link = read(
            LinkFlags::Up | LinkFlags::Promisc,
            vec![
                LinkAttribute::IfName("cbr0".to_owned()),
                LinkAttribute::Address(vec![10, 88, 10, 64, 1, 1]),
                LinkAttribute::Mtu(1460),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::Bridge),
                    LinkInfo::Data(InfoData::Bridge(vec![
                        InfoBridge::VlanFiltering(true),
                        InfoBridge::VlanDefaultPvid(5),
                        InfoBridge::NfCallIpTables(true),
                        InfoBridge::NfCallIp6Tables(false),
                    ])),
                ]),
            ],
        );
        assert!(link.is_bridge() && !link.is_veth());
        assert_eq!(link.index, Index::new(7));
        assert_eq!((link.name.as_str(), link.mtu), ("cbr0", 1460));
        assert_eq!(link.mac, Some([10, 88, 10, 64, 1, 1]));
        assert_eq!((link.up, link.promiscuous), (true, true));
        assert_eq!(link.netfilter_calls, Some((true, false)));
        assert_eq!(link.vlan_filtering, Some(true));
        assert_eq!(link.default_vlan, Some(5));
        assert_eq!(link.port, PortFlags::default());
    }

    #[test]
    fn a_veth_as_a_port_of_a_bridge() {
        let link = read(
            LinkFlags::empty(),
            vec![
                LinkAttribute::Controller(3),
                LinkAttribute::Link(2),
                LinkAttribute::IfAlias("whose it is".to_owned()),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::PortKind(InfoPortKind::Bridge),
                    LinkInfo::PortData(InfoPortData::BridgePort(vec![
                        InfoBridgePort::State(BridgePortState::Forwarding),
                        InfoBridgePort::HairpinMode(true),
                        InfoBridgePort::GroupFwdMask(0xfff8),
                        InfoBridgePort::Isolated(false),
                    ])),
                    LinkInfo::Kind(InfoKind::Veth),
                ]),
            ],
        );
        assert!(link.is_veth() && !link.is_bridge());
        assert_eq!((link.master, link.peer), (Some(3), Some(2)));
        assert_eq!(link.alias.as_deref(), Some("whose it is"));
        assert_eq!((link.up, link.promiscuous), (false, false));
        assert_eq!(link.netfilter_calls, None);
        let port = PortFlags {
            forwarding: Some(true),
            hairpin: Some(true),
            isolated: Some(false),
            passed_on: Some(0xfff8),
        };
        assert_eq!(link.port, port);
    }

    #[test]
    fn packets_pass_where_the_link_says_so_or_has_a_carrier_and_says_nothing() {
        let carrier = LinkFlags::LowerUp;
        for (flags, state, passes) in [
            (carrier, State::Up, true),
            (carrier, State::Unknown, true),
            (LinkFlags::empty(), State::Unknown, false),
            (carrier, State::Down, false),
            (carrier, State::LowerLayerDown, false),
        ] {
            let link = read(flags, vec![LinkAttribute::OperState(state)]);
            assert_eq!(link.operational, passes, "{flags:?} {state:?}");
        }
    }

    #[test]
    fn vlans_are_those_of_one_port() {
        let info = |vid, flags| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid });
        let mut message = LinkMessage::default();
        message.header.interface_family = netlink_packet_route::AddressFamily::Bridge;
        message.header.index = 7;
        message.attributes = vec![LinkAttribute::AfSpecBridge(vec![
            info(10, BridgeVlanInfoFlags::RangeBegin),
            info(14, BridgeVlanInfoFlags::RangeEnd),
        ])];
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let ids = |port| vlans(&bytes, port).iter().map(|info| info.vid).collect();
        let [own, others]: [Vec<u16>; 2] = [7, 8].map(ids);
        assert_eq!((own, others), (vec![10, 14], vec![]));
    }

    #[test]
    fn a_message_without_its_header_is_none() {
        assert!(Link::<Host>::read(&[0; HEADER - 1]).is_none());
    }
}
