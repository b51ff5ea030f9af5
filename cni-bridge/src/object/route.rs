//! One route in the pod.

use cni_protocol::{InterfaceName, Route};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};

use crate::rtnl::{CREATE, Index, Message, Pod, RouteRequest, change, family_of, route_address};

/// Adds a route that must not be there yet.
pub(crate) fn create(link: &InterfaceName, index: Index<Pod>, route: &Route) -> RouteRequest {
    let operation = match route.gw {
        Some(gateway) => format!("add route {} via {gateway} to {link}", route.dst),
        None => format!("add route {} to {link}", route.dst),
    };
    change(operation, Message::NewRoute(message(index, route)), CREATE)
}

fn message(index: Index<Pod>, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family_of(route.dst.addr());
    header.destination_prefix_length = route.dst.prefix_len();
    header.protocol = RouteProtocol::Boot;
    header.kind = RouteType::Unicast;
    header.scope = match (route.scope, route.gw) {
        (Some(scope), _) => RouteScope::from(scope),
        (None, Some(_)) => RouteScope::Universe,
        (None, None) => RouteScope::Link,
    };
    let table = route
        .table
        .unwrap_or_else(|| RouteHeader::RT_TABLE_MAIN.into());
    header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let attributes = &mut message.attributes;
    if route.dst.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route_address(
            route.dst.network(),
        )));
    }
    attributes.push(RouteAttribute::Oif(index.number));
    attributes.extend(
        route
            .gw
            .map(|gateway| RouteAttribute::Gateway(route_address(gateway))),
    );
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    if table > u32::from(u8::MAX) {
        attributes.push(RouteAttribute::Table(table));
    }
    let metrics: Vec<RouteMetric> = route
        .mtu
        .map(RouteMetric::Mtu)
        .into_iter()
        .chain(route.advmss.map(RouteMetric::Advmss))
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}
