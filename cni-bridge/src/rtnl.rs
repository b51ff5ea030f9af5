//! rtnetlink in one network namespace: links, addresses, routes, as typed messages.
//!
//! Each function makes one exchange. Nothing here decides what should exist.

use std::{io, marker::PhantomData, net::IpAddr};

use cni_protocol::InterfaceName;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecBridge, BridgeVlanInfo, InfoData, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags,
        LinkInfo, LinkMessage, State,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use nix::errno::Errno;

use crate::netlink::{Answer, Cause, Error, Reply, Request, Socket};

/// Ask for the message that the kernel would send to listeners: it has the new link's index.
const NLM_F_ECHO: u16 = 8;
/// How often a dump is begun again when links come and go meanwhile.
const DUMP_ATTEMPTS: usize = 10;

/// The namespace that the plugin was started in: the node's.
#[derive(Debug)]
pub(crate) enum Host {}

/// The pod's network namespace.
#[derive(Debug)]
pub(crate) enum Pod {}

/// A route socket in the namespace `N`.
#[derive(Debug)]
pub(crate) struct Rtnl<N> {
    socket: Socket,
    /// Dumps are answered by their filters.
    filtered: bool,
    namespace: PhantomData<N>,
}

/// The number of a link in the namespace `N`.
#[derive(Debug)]
pub(crate) struct Index<N> {
    pub(crate) number: u32,
    namespace: PhantomData<N>,
}

impl<N> Clone for Index<N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for Index<N> {}

impl<N> PartialEq for Index<N> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<N> Index<N> {
    pub(crate) fn new(number: u32) -> Self {
        Self {
            number,
            namespace: PhantomData,
        }
    }
}

/// A link that was there, in the namespace `N`, when we looked.
#[derive(Clone, Debug)]
pub(crate) struct Link<N> {
    pub(crate) index: Index<N>,
    pub(crate) name: String,
    pub(crate) kind: Option<InfoKind>,
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

/// An address on a link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    pub(crate) net: IpNet,
    /// Duplicate address detection is under way.
    pub(crate) tentative: bool,
    /// Duplicate address detection found another host with it.
    pub(crate) duplicate: bool,
    /// It was given without duplicate address detection.
    pub(crate) immediate: bool,
}

/// Where a route leads next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hop<N> {
    pub(crate) link: Index<N>,
    /// `None` where the destination is on the link itself.
    pub(crate) gateway: Option<IpAddr>,
}

/// A request with its words, before it gets its place in a datagram.
pub(crate) type RouteRequest = Request<RouteNetlinkMessage>;

/// A request that changes something.
pub(crate) fn change(operation: String, message: RouteNetlinkMessage, flags: u16) -> RouteRequest {
    Request {
        message,
        flags,
        answer: Answer::Ack,
        operation,
    }
}

/// Flags of a request that makes something that must not be there yet.
pub(crate) const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

impl<N> Rtnl<N> {
    /// Opens a socket in the namespace of the calling thread, where it stays.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::open(netlink_sys::protocols::NETLINK_ROUTE)?;
        Ok(Self {
            socket,
            filtered: false,
            namespace: PhantomData,
        })
    }

    /// Sends all requests in one datagram; the first failure is the answer.
    pub(crate) fn execute(&mut self, requests: Vec<RouteRequest>) -> Result<(), Error> {
        self.socket.execute(requests, |_reply| {})
    }

    /// Sends all requests in one datagram and answers one outcome for each.
    pub(crate) fn execute_each(
        &mut self,
        requests: Vec<RouteRequest>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        self.socket.exchange(requests, |_reply| {})
    }

    /// Makes a link and answers it as the kernel announced it. `None`: it is made, but the
    /// kernel is older than 6.2 and announces nothing.
    pub(crate) fn create_link(
        &mut self,
        operation: String,
        message: LinkMessage,
    ) -> Result<Option<Link<N>>, Error> {
        // The echo comes before the last steps (`rtnl_newlink_create()`): that they succeeded
        // too is in the acknowledgement after it.
        let request = change(
            operation,
            RouteNetlinkMessage::NewLink(message),
            CREATE | NLM_F_ECHO,
        );
        let mut created = None;
        self.socket.execute(vec![request], |reply| {
            if let Some(RouteNetlinkMessage::NewLink(message)) = parse(&reply) {
                created = Some(Link::new(&message));
            }
        })?;
        Ok(created)
    }

    /// A link that has to be there.
    pub(crate) fn link(&mut self, name: &InterfaceName) -> Result<Link<N>, Error> {
        self.find_link(name)?.ok_or_else(|| Error {
            operation: format!("look up link {name}"),
            cause: Cause::Refused {
                errno: Errno::ENODEV,
                explanation: None,
            },
        })
    }

    /// Finds a link by its name. `None` when there is none.
    pub(crate) fn find_link(&mut self, name: &InterfaceName) -> Result<Option<Link<N>>, Error> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_string()));
        self.get_link(format!("look up link {name}"), message)
    }

    /// Finds a link by its number. `None` when there is none.
    pub(crate) fn find_link_by_index(&mut self, index: Index<N>) -> Result<Option<Link<N>>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index.number;
        self.get_link(format!("look up link number {}", index.number), message)
    }

    /// All links. Takes as long as there are many: nothing for an ordinary ADD.
    pub(crate) fn links(&mut self) -> Result<Vec<Link<N>>, Error> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let message = RouteNetlinkMessage::GetLink(message);
        let mut links = Vec::new();
        self.dump("list the links", &message, &mut |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.push(Link::new(&message));
            }
        })?;
        Ok(links)
    }

    fn get_link(
        &mut self,
        operation: String,
        mut message: LinkMessage,
    ) -> Result<Option<Link<N>>, Error> {
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let message = RouteNetlinkMessage::GetLink(message);
        let request = Request {
            message,
            flags: 0,
            answer: Answer::One,
            operation,
        };
        let mut found = None;
        let outcome = self.socket.execute(vec![request], |reply| {
            if let Some(RouteNetlinkMessage::NewLink(message)) = parse(&reply) {
                found = Some(Link::new(&message));
            }
        });
        match outcome {
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// The addresses of one link; of one family, or of both.
    pub(crate) fn addresses(
        &mut self,
        link: Index<N>,
        family: AddressFamily,
    ) -> Result<Vec<Address>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = family;
        message.header.index = link.number;
        let message = RouteNetlinkMessage::GetAddress(message);
        let operation = format!("list the addresses of link number {}", link.number);
        let mut found = Vec::new();
        self.dump(&operation, &message, &mut |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.header.index == link.number
            {
                found.extend(address(&message));
            }
        })?;
        Ok(found)
    }

    /// The addresses of all links, each with its link; of one family, or of both.
    pub(crate) fn all_addresses(
        &mut self,
        family: AddressFamily,
    ) -> Result<Vec<(Index<N>, IpNet)>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = family;
        let message = RouteNetlinkMessage::GetAddress(message);
        let mut found = Vec::new();
        self.dump(
            "list the addresses of all links",
            &message,
            &mut |message| {
                if let RouteNetlinkMessage::NewAddress(message) = message
                    && let Some(address) = address(&message)
                {
                    found.push((Index::new(message.header.index), address.net));
                }
            },
        )?;
        Ok(found)
    }

    /// The ports of a bridge.
    pub(crate) fn ports(&mut self, bridge: Index<N>) -> Result<Vec<Link<N>>, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::Controller(bridge.number),
            LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        ];
        let message = RouteNetlinkMessage::GetLink(message);
        let operation = format!("list the ports of bridge number {}", bridge.number);
        let mut found = Vec::new();
        self.dump(&operation, &message, &mut |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                found.push(Link::new(&message));
            }
        })?;
        // Kernels without filters answer with all links.
        found.retain(|link| link.master == Some(bridge.number));
        Ok(found)
    }

    /// The VLANs that a port of a bridge is a member of; of a range, the first and the last.
    pub(crate) fn port_vlans(&mut self, port: Index<N>) -> Result<Vec<BridgeVlanInfo>, Error> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        // The kernel has no way to ask for one port only (`valid_bridge_getlink_req()`).
        message.attributes.push(LinkAttribute::ExtMask(vec![
            LinkExtentMask::BrvlanCompressed,
        ]));
        let message = RouteNetlinkMessage::GetLink(message);
        let operation = format!("list the VLANs of bridge port number {}", port.number);
        let mut found = Vec::new();
        self.dump(&operation, &message, &mut |message| {
            if let RouteNetlinkMessage::NewLink(message) = message
                && message.header.index == port.number
            {
                found.extend(vlans(&message));
            }
        })?;
        Ok(found)
    }

    /// The routes of all tables that leave by one link.
    pub(crate) fn routes(
        &mut self,
        link: Index<N>,
        family: AddressFamily,
    ) -> Result<Vec<RouteMessage>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.attributes.push(RouteAttribute::Oif(link.number));
        let message = RouteNetlinkMessage::GetRoute(message);
        let operation = format!("list the routes of link number {}", link.number);
        let mut found = Vec::new();
        self.dump(&operation, &message, &mut |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                found.push(message);
            }
        })?;
        Ok(found)
    }

    /// Where a packet to `destination` would go next, if there is a route.
    pub(crate) fn next_hop(&mut self, destination: IpAddr) -> Result<Option<Hop<N>>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(destination)));
        let operation = format!("look up the route to {destination}");
        let message = RouteNetlinkMessage::GetRoute(message);
        let request = Request {
            message,
            flags: 0,
            answer: Answer::One,
            operation,
        };
        let mut found = None;
        let outcome = self.socket.exchange(vec![request], |reply| {
            if let Some(RouteNetlinkMessage::NewRoute(message)) = parse(&reply) {
                found = hop(&message);
            }
        })?;
        // Whatever the reason (ENETUNREACH, a blackhole, no IPv6): there is no way out.
        Ok(outcome
            .into_iter()
            .all(|outcome| outcome.is_ok())
            .then_some(found)
            .flatten())
    }

    /// Reads a list, again when it changed meanwhile.
    fn dump(
        &mut self,
        operation: &str,
        message: &RouteNetlinkMessage,
        on_message: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> Result<(), Error> {
        if !self.filtered {
            self.socket.filter_dumps();
            self.filtered = true;
        }
        let mut attempt = 1;
        loop {
            let mut messages = Vec::new();
            let message = message.clone();
            let operation = operation.to_owned();
            let request = Request {
                message,
                flags: 0,
                answer: Answer::Dump,
                operation,
            };
            let outcome = self
                .socket
                .execute(vec![request], |reply| messages.extend(parse(&reply)));
            match outcome {
                Err(Error {
                    cause: Cause::Interrupted,
                    ..
                }) if attempt < DUMP_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => {
                    messages.into_iter().for_each(on_message);
                    return Ok(());
                }
            }
        }
    }
}

/// A message of a dump or an answer; `None` for what this program has no use for.
fn parse(reply: &Reply<'_>) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = reply.message_type;
    RouteNetlinkMessage::deserialize(&header, reply.payload).ok()
}

impl<N> Link<N> {
    fn new(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: Index::new(message.header.index),
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            operational: false,
            promiscuous: message.header.flags.contains(LinkFlags::Promisc),
            master: None,
            peer: None,
            alias: None,
            netfilter_calls: None,
            vlan_filtering: None,
            default_vlan: None,
            port: PortFlags::default(),
        };
        for attribute in &message.attributes {
            link.take(attribute);
        }
        // A bridge that always had its carrier is never seen to get it (`netif_oper_up()`).
        let state = LinkAttribute::OperState(State::Unknown);
        let carrier = message.header.flags.contains(LinkFlags::LowerUp);
        link.operational |= carrier && message.attributes.contains(&state);
        link
    }

    fn take(&mut self, attribute: &LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name.clone_from(name),
            LinkAttribute::Address(mac) => self.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => self.mtu = *mtu,
            LinkAttribute::OperState(state) => self.operational = *state == State::Up,
            LinkAttribute::Controller(index) => self.master = Some(*index),
            LinkAttribute::Link(index) => self.peer = Some(*index),
            LinkAttribute::IfAlias(alias) => self.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| self.take_info(info)),
            _ => {}
        }
    }

    fn take_info(&mut self, info: &LinkInfo) {
        use netlink_packet_route::link::{
            BridgePortState, InfoBridge, InfoBridgePort, InfoPortData,
        };
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind.clone()),
            LinkInfo::Data(InfoData::Bridge(options)) => {
                let mut calls = (false, false);
                for option in options {
                    match option {
                        InfoBridge::NfCallIpTables(on) => calls.0 = *on,
                        InfoBridge::NfCallIp6Tables(on) => calls.1 = *on,
                        InfoBridge::VlanFiltering(on) => self.vlan_filtering = Some(*on),
                        InfoBridge::VlanDefaultPvid(vlan) => self.default_vlan = Some(*vlan),
                        _ => {}
                    }
                }
                self.netfilter_calls = Some(calls);
            }
            LinkInfo::PortData(InfoPortData::BridgePort(options)) => {
                for option in options {
                    match option {
                        InfoBridgePort::State(state) => {
                            self.port.forwarding = Some(*state == BridgePortState::Forwarding);
                        }
                        InfoBridgePort::HairpinMode(on) => self.port.hairpin = Some(*on),
                        InfoBridgePort::Isolated(on) => self.port.isolated = Some(*on),
                        InfoBridgePort::GroupFwdMask(mask) => self.port.passed_on = Some(*mask),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }

    pub(crate) fn is_veth(&self) -> bool {
        self.kind == Some(InfoKind::Veth)
    }
}

fn vlans(message: &LinkMessage) -> Vec<BridgeVlanInfo> {
    let mut found = Vec::new();
    for attribute in &message.attributes {
        if let LinkAttribute::AfSpecBridge(specifics) = attribute {
            found.extend(specifics.iter().filter_map(|specific| match specific {
                AfSpecBridge::VlanInfo(info) => Some(*info),
                _ => None,
            }));
        }
    }
    found
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut net = None;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the other side; the own one wins.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => net = Some(*address),
            AddressAttribute::Flags(found) => flags = *found,
            _ => {}
        }
    }
    let net = IpNet::new(local.or(net)?, message.header.prefix_len).ok()?;
    let duplicate = flags.contains(AddressFlags::Dadfailed);
    Some(Address {
        net,
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate,
        immediate: flags.contains(AddressFlags::Nodad),
    })
}

fn hop<N>(message: &RouteMessage) -> Option<Hop<N>> {
    let mut link = None;
    let mut gateway = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(number) => link = Some(Index::new(*number)),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                gateway = Some((*address).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => {
                gateway = Some((*address).into());
            }
            _ => {}
        }
    }
    link.map(|link| Hop { link, gateway })
}

pub(crate) fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(crate) fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
