//! A route as the kernel describes it.

use std::net::IpAddr;

use netlink_packet_route::route::RouteHeader;
use nix::libc;

use super::{Index, ip};
use crate::netlink::Attributes;

/// `struct rtmsg`.
const HEADER: usize = 12;

/// Where a route leads next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hop<N> {
    pub(crate) link: Index<N>,
    /// `None` where the destination is on the link itself.
    pub(crate) gateway: Option<IpAddr>,
}

/// A route of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FoundRoute {
    /// `None` for the default route.
    pub(crate) destination: Option<IpAddr>,
    pub(crate) prefix_length: u8,
    pub(crate) gateway: Option<IpAddr>,
    link: Option<u32>,
}

impl FoundRoute {
    /// Reads the body of an `RTM_NEWROUTE`.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut route = Self {
            destination: None,
            prefix_length: RouteHeader::parse(body).ok()?.destination_prefix_length,
            gateway: None,
            link: None,
        };
        for (kind, value) in Attributes(body.get(HEADER..)?) {
            match kind {
                libc::RTA_DST => route.destination = ip(value),
                libc::RTA_GATEWAY => route.gateway = ip(value),
                libc::RTA_OIF => route.link = value.try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
        Some(route)
    }

    pub(super) fn hop<N>(&self) -> Option<Hop<N>> {
        let gateway = self.gateway;
        self.link.map(|link| Hop {
            link: Index::new(link),
            gateway,
        })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

    use super::*;
    use crate::rtnl::Host;

    #[test]
    fn a_route_and_its_next_hop() {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = 24;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet([10, 65, 0, 0].into())),
            RouteAttribute::Gateway(RouteAddress::Inet([10, 64, 1, 1].into())),
            RouteAttribute::Oif(7),
        ];
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let route = FoundRoute::read(&bytes).unwrap();
        let gateway = Some([10, 64, 1, 1].into());
        assert_eq!(route.destination, Some([10, 65, 0, 0].into()));
        assert_eq!((route.prefix_length, route.gateway), (24, gateway));
        let hop: Hop<Host> = route.hop().unwrap();
        assert_eq!((hop.link, hop.gateway), (Index::new(7), gateway));
    }

    #[test]
    fn a_route_without_a_link_leads_nowhere() {
        let route = FoundRoute::read(&[0; HEADER]).unwrap();
        assert!(route.hop::<Host>().is_none());
        assert_eq!(FoundRoute::read(&[0; HEADER - 1]), None);
    }
}
