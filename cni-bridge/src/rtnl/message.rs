//! What is asked of rtnetlink.
//!
//! The library's type for all of its messages would bring the code of each of them, from
//! traffic control to neighbour tables.

use netlink_packet_core::{Emitable, NetlinkSerializable};
use netlink_packet_route::{address::AddressMessage, link::LinkMessage, route::RouteMessage};
use nix::libc;

/// A message that is sent.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    NewLink(LinkMessage),
    SetLink(LinkMessage),
    DelLink(LinkMessage),
    GetLink(LinkMessage),
    NewAddress(AddressMessage),
    DelAddress(AddressMessage),
    GetAddress(AddressMessage),
    NewRoute(RouteMessage),
    GetRoute(RouteMessage),
}

impl Message {
    fn body(&self) -> &dyn Emitable {
        match self {
            Self::NewLink(link)
            | Self::SetLink(link)
            | Self::DelLink(link)
            | Self::GetLink(link) => link,
            Self::NewAddress(address) | Self::DelAddress(address) | Self::GetAddress(address) => {
                address
            }
            Self::NewRoute(route) | Self::GetRoute(route) => route,
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::NewLink(_) => libc::RTM_NEWLINK,
            Self::SetLink(_) => libc::RTM_SETLINK,
            Self::DelLink(_) => libc::RTM_DELLINK,
            Self::GetLink(_) => libc::RTM_GETLINK,
            Self::NewAddress(_) => libc::RTM_NEWADDR,
            Self::DelAddress(_) => libc::RTM_DELADDR,
            Self::GetAddress(_) => libc::RTM_GETADDR,
            Self::NewRoute(_) => libc::RTM_NEWROUTE,
            Self::GetRoute(_) => libc::RTM_GETROUTE,
        }
    }

    fn buffer_len(&self) -> usize {
        self.body().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.body().emit(buffer);
    }
}
