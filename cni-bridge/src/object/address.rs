//! One address on one link.

use std::net::IpAddr;

use cni_protocol::InterfaceName;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use crate::rtnl::{CREATE, Index, Message, RouteRequest, change, family_of};

/// Puts an address on a link that must not have it yet.
///
/// `immediate` skips duplicate address detection: the IPAM has seen to it that there is no
/// duplicate, and an address that is still being tested cannot be used for a second.
pub(crate) fn create<N>(
    link: &InterfaceName,
    index: Index<N>,
    net: IpNet,
    immediate: bool,
) -> RouteRequest {
    let mut message = message(index, net);
    if let IpNet::V4(net) = net
        && net.prefix_len() < 31
    {
        message
            .attributes
            .push(AddressAttribute::Broadcast(net.broadcast()));
    }
    if immediate && matches!(net, IpNet::V6(_)) {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    change(
        format!("add address {net} to {link}"),
        Message::NewAddress(message),
        CREATE,
    )
}

/// Takes an address from a link.
pub(crate) fn remove<N>(link: &InterfaceName, index: Index<N>, net: IpNet) -> RouteRequest {
    let operation = format!("remove address {net} from {link}");
    change(operation, Message::DelAddress(message(index, net)), 0)
}

fn message<N>(index: Index<N>, net: IpNet) -> AddressMessage {
    let address: IpAddr = net.addr();
    let mut message = AddressMessage::default();
    message.header.family = family_of(address);
    message.header.prefix_len = net.prefix_len();
    message.header.index = index.number;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}
