//! rtnetlink in one network namespace: links, addresses, routes, as typed messages.
//!
//! Each function makes one exchange. Nothing here decides what should exist.

mod address;
mod link;
mod message;
mod route;

use std::{io, marker::PhantomData, net::IpAddr};

use cni_protocol::InterfaceName;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily,
    address::AddressMessage,
    link::{BridgeVlanInfo, LinkAttribute, LinkExtentMask, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use nix::{
    errno::Errno,
    libc::{RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE},
};

pub(crate) use self::{
    address::Address,
    link::Link,
    message::Message,
    route::{FoundRoute, Hop},
};
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

/// A request with its words, before it gets its place in a datagram.
pub(crate) type RouteRequest = Request<Message>;

/// A request that changes something.
pub(crate) fn change(operation: String, message: Message, flags: u16) -> RouteRequest {
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
        let request = change(operation, Message::NewLink(message), CREATE | NLM_F_ECHO);
        let mut created = None;
        self.socket.execute(vec![request], |reply| {
            created = body(&reply, RTM_NEWLINK)
                .and_then(Link::read)
                .or(created.take());
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
        let message = Message::GetLink(message);
        self.dump("list the links", &message, RTM_NEWLINK, Link::read)
    }

    fn get_link(
        &mut self,
        operation: String,
        mut message: LinkMessage,
    ) -> Result<Option<Link<N>>, Error> {
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let message = Message::GetLink(message);
        let request = Request {
            message,
            flags: 0,
            answer: Answer::One,
            operation,
        };
        let mut found = None;
        let outcome = self.socket.execute(vec![request], |reply| {
            found = body(&reply, RTM_NEWLINK)
                .and_then(Link::read)
                .or(found.take());
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
        let message = Message::GetAddress(message);
        let operation = format!("list the addresses of link number {}", link.number);
        let mut found = self.dump(&operation, &message, RTM_NEWADDR, Address::read)?;
        found.retain(|address| address.link == link.number);
        Ok(found)
    }

    /// The addresses of all links, each with its link; of one family, or of both.
    pub(crate) fn all_addresses(
        &mut self,
        family: AddressFamily,
    ) -> Result<Vec<(Index<N>, IpNet)>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = family;
        let message = Message::GetAddress(message);
        let operation = "list the addresses of all links";
        let found = self.dump(operation, &message, RTM_NEWADDR, Address::read)?;
        let with_link = |address: Address| (Index::new(address.link), address.net);
        Ok(found.into_iter().map(with_link).collect())
    }

    /// The ports of a bridge.
    pub(crate) fn ports(&mut self, bridge: Index<N>) -> Result<Vec<Link<N>>, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::Controller(bridge.number),
            LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        ];
        let message = Message::GetLink(message);
        let operation = format!("list the ports of bridge number {}", bridge.number);
        let mut found: Vec<Link<N>> = self.dump(&operation, &message, RTM_NEWLINK, Link::read)?;
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
        let message = Message::GetLink(message);
        let operation = format!("list the VLANs of bridge port number {}", port.number);
        let read = |body: &[u8]| Some(link::vlans(body, port.number));
        let found = self.dump(&operation, &message, RTM_NEWLINK, read)?;
        Ok(found.concat())
    }

    /// The routes of all tables that leave by one link.
    pub(crate) fn routes(
        &mut self,
        link: Index<N>,
        family: AddressFamily,
    ) -> Result<Vec<FoundRoute>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.attributes.push(RouteAttribute::Oif(link.number));
        let message = Message::GetRoute(message);
        let operation = format!("list the routes of link number {}", link.number);
        self.dump(&operation, &message, RTM_NEWROUTE, FoundRoute::read)
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
        let message = Message::GetRoute(message);
        let request = Request {
            message,
            flags: 0,
            answer: Answer::One,
            operation,
        };
        let mut found = None;
        let outcome = self.socket.exchange(vec![request], |reply| {
            if let Some(route) = body(&reply, RTM_NEWROUTE).and_then(FoundRoute::read) {
                found = route.hop();
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
    fn dump<T>(
        &mut self,
        operation: &str,
        message: &Message,
        message_type: u16,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        if !self.filtered {
            self.socket.filter_dumps();
            self.filtered = true;
        }
        let mut attempt = 1;
        loop {
            let mut found = Vec::new();
            let request = Request {
                message: message.clone(),
                flags: 0,
                answer: Answer::Dump,
                operation: operation.to_owned(),
            };
            let outcome = self.socket.execute(vec![request], |reply| {
                found.extend(body(&reply, message_type).and_then(&read));
            });
            match outcome {
                Err(Error {
                    cause: Cause::Interrupted,
                    ..
                }) if attempt < DUMP_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(found),
            }
        }
    }
}

/// What a message of this type says.
fn body<'a>(reply: &Reply<'a>, message_type: u16) -> Option<&'a [u8]> {
    (reply.message_type == message_type).then_some(reply.payload)
}

/// An address of either family.
fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_longer| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
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
