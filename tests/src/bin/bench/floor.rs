//! The kernel's share of an ADD: the same netlink messages, sent by this process. What a
//! plugin needs beyond that is its own: the process, configuration, lease and result.

use std::{fs::File, io, net::Ipv4Addr, os::fd::AsRawFd, time::Instant};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        LinkProtoInfoBridge,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};

use crate::{
    Outcome,
    call::Call,
    stage::{Pod, Side},
};

/// `IFLA_BRPORT_MODE`.
const HAIRPIN: u16 = 4;
const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const MTU: u32 = 1500;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const PREFIX: u8 = 22;

/// What a plugin does for each pod, on a bridge that is there.
pub(crate) fn adds(side: &Side, pods: &[Pod]) -> Outcome<Vec<Call>> {
    let mut calls = Vec::new();
    let mut links = Vec::new();
    for (pod, number) in pods.iter().zip(1_u8..) {
        let (call, link) = side.inside(|| add(pod, number))??;
        calls.push(call);
        links.push(link);
    }
    side.inside(|| links.into_iter().try_for_each(remove))??;
    Ok(calls)
}

/// Answers the time it took, and the number of the link to remove. The calling thread ends
/// up in the pod's namespace.
#[expect(clippy::disallowed_methods, reason = "a thread made for that")]
fn add(pod: &Pod, number: u8) -> Outcome<(Call, u32)> {
    let bridge = if_nametoindex("cbr0")?;
    let started = Instant::now();
    let host = Socket::new(NETLINK_ROUTE)?;
    let netns = File::open(&pod.netns)?;
    let pair = RouteNetlinkMessage::NewLink(pair(number, bridge, &netns));
    let (link, peer) = exchange(&host, vec![(pair, CREATE | NLM_F_ECHO)])?;
    exchange(&host, port(link, &pod.id))?;
    setns(&netns, CloneFlags::CLONE_NEWNET)?;
    exchange(&Socket::new(NETLINK_ROUTE)?, pod_end(peer, number))?;
    let call = Call {
        started,
        ended: Instant::now(),
        stdout: Vec::new(),
        failure: None,
    };
    Ok((call, link))
}

fn remove(link: u32) -> Outcome {
    let mut message = LinkMessage::default();
    message.header.index = link;
    let request = RouteNetlinkMessage::DelLink(message);
    Ok(exchange(&Socket::new(NETLINK_ROUTE)?, vec![(request, 0)]).map(drop)?)
}

fn pair(number: u8, bridge: u32, netns: &File) -> LinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::Address(vec![0x0a, 0x58, 10, 64, 3, number]),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
    ];
    let veth = InfoData::Veth(InfoVeth::Peer(peer));
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(format!("floor{number}")),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::Address(vec![0x0a, 0x59, 10, 64, 3, number]),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(veth)]),
    ];
    message
}

/// Hairpin and alias, which the creating message cannot carry.
fn port(link: u32, alias: &str) -> Vec<(RouteNetlinkMessage, u16)> {
    let mut hairpin = LinkMessage::default();
    hairpin.header.interface_family = AddressFamily::Bridge;
    hairpin.header.index = link;
    let on = LinkProtoInfoBridge::Other(DefaultNla::new(HAIRPIN, vec![1]));
    hairpin
        .attributes
        .push(LinkAttribute::ProtoInfoBridge(vec![on]));
    let mut named = LinkMessage::default();
    named.header.index = link;
    named
        .attributes
        .push(LinkAttribute::IfAlias(alias.to_owned()));
    [hairpin, named]
        .map(|message| (RouteNetlinkMessage::SetLink(message), 0))
        .into()
}

/// Address, up, default route.
fn pod_end(link: u32, number: u8) -> Vec<(RouteNetlinkMessage, u16)> {
    let own = Ipv4Addr::new(10, 64, 3, number);
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = PREFIX;
    address.header.index = link;
    address.attributes = vec![
        AddressAttribute::Local(own.into()),
        AddressAttribute::Address(own.into()),
    ];
    let mut up = LinkMessage::default();
    up.header.index = link;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = 254;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![
        RouteAttribute::Oif(link),
        RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY)),
    ];
    vec![
        (RouteNetlinkMessage::NewAddress(address), CREATE),
        (RouteNetlinkMessage::SetLink(up), 0),
        (RouteNetlinkMessage::NewRoute(route), CREATE),
    ]
}

/// Sends all in one datagram and reads until the last one is acknowledged. Answers the
/// numbers of the link that an echo announced, and of its peer.
fn exchange(socket: &Socket, requests: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<(u32, u32)> {
    let last = requests.len();
    let mut datagram = Vec::new();
    for (number, (request, flags)) in (1..).zip(requests) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags | if number == last { NLM_F_ACK } else { 0 };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut bytes);
        datagram.extend(bytes);
    }
    socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
    acknowledged(socket)
}

fn acknowledged(socket: &Socket) -> io::Result<(u32, u32)> {
    let mut announced = (0, 0);
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => return Ok(announced),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    let peer = link
                        .attributes
                        .iter()
                        .find_map(|attribute| match attribute {
                            LinkAttribute::Link(number) => Some(*number),
                            _ => None,
                        });
                    announced = (link.header.index, peer.unwrap_or_default());
                }
                _ => {}
            }
        }
    }
}
