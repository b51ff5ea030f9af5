//! Frames as no honest stack sends them, byte by byte, and a socket on one link that sends
//! them and sees what comes.
//!
//! Checksums and lengths are right: what is wrong with a frame is what it claims.

#![expect(
    clippy::indexing_slicing,
    reason = "the places of a header's fields are fixed"
)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType},
};

use crate::Netns;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Everybody on the link.
pub const BROADCAST: Mac = [0xff; 6];
/// Types of frames.
pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const RARP: u16 = 0x8035;
pub const IPV6: u16 = 0x86dd;
pub const LLDP: u16 = 0x88cc;
/// Types of tags.
pub const VLAN: u16 = 0x8100;
pub const PROVIDER_VLAN: u16 = 0x88a8;
/// Kinds of ARP.
pub const REQUEST: u16 = 1;
pub const REPLY: u16 = 2;
/// Protocols behind IP.
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Kinds of `ICMPv6`.
const ECHO_REQUEST: u8 = 128;
const EARLY_REPORT: u8 = 131;
const EARLY_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT: u8 = 143;
/// A header of IPv6 without its extensions, in bytes.
const IPV6_HEADER: usize = 40;
/// How often a wait looks.
const POLL: Duration = Duration::from_millis(2);

/// The whole of a link's traffic, and a way to add to it.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    seen: Mutex<Vec<Vec<u8>>>,
}

impl Wire {
    /// On a link that has to be there.
    pub fn on(netns: &Netns, link: &str) -> Self {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = netns.run(|| {
            let kind = (AddressFamily::Packet, SockType::Raw);
            let socket = socket::socket(kind.0, kind.1, flags, SockProtocol::EthAll).unwrap();
            let address = getifaddrs()
                .unwrap()
                .filter(|found| found.interface_name == link)
                .find_map(|found| found.address?.as_link_addr().copied())
                .unwrap_or_else(|| panic!("there is no link {link}"));
            socket::bind(socket.as_raw_fd(), &address).unwrap();
            socket
        });
        Self {
            socket,
            seen: Mutex::default(),
        }
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) {
        socket::send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }

    /// How many frames so far have these bytes in them, in either direction.
    ///
    /// The kernel takes a VLAN tag out before anybody can see it here.
    pub fn count(&self, mark: &[u8]) -> usize {
        let mut seen = self.seen.lock().unwrap();
        let mut frame = [0; 2048];
        while let Ok(length) = socket::recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty())
        {
            seen.push(frame.get(..length).unwrap_or_default().to_vec());
        }
        seen.iter()
            .filter(|frame| frame.windows(mark.len()).any(|part| part == mark))
            .count()
    }

    /// Waits for a frame with these bytes in it. Answers whether one came in time.
    pub fn saw(&self, mark: &[u8], patience: Duration) -> bool {
        let started = Instant::now();
        loop {
            if self.count(mark) > 0 {
                return true;
            }
            if started.elapsed() >= patience {
                return false;
            }
            thread::sleep(POLL);
        }
    }
}

/// The Ethernet address in a text like "0a:58:0a:40:01:02".
pub fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// The address that follows from an Ethernet address.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&[0xfe, 0x80]);
    address[8..11].copy_from_slice(&mac[..3]);
    address[11..13].copy_from_slice(&[0xff, 0xfe]);
    address[13..].copy_from_slice(&mac[3..]);
    address[8] ^= 2;
    address.into()
}

/// The group of everybody whose address has the same end: who is asked for an address.
pub fn solicited(address: Ipv6Addr) -> Ipv6Addr {
    let [.., d, e, f] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, d, e, f])
}

/// The Ethernet address of a group.
pub fn group(address: Ipv6Addr) -> Mac {
    let [.., c, d, e, f] = address.octets();
    [0x33, 0x33, c, d, e, f]
}

/// A frame.
pub fn frame(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

/// A frame with an IP packet, of whichever version.
pub fn packet(destination: Mac, source: Mac, packet: &[u8]) -> Vec<u8> {
    let kind = match packet.first().map(|byte| byte >> 4) {
        Some(4) => IPV4,
        _ => IPV6,
    };
    frame(destination, source, kind, packet)
}

/// The frame with a tag more: `id` 0 only has a priority.
pub fn tagged(frame: &[u8], kind: u16, id: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &kind.to_be_bytes(), &id.to_be_bytes(), rest].concat()
}

/// What ARP says: `sender` is here, where is `target`, or the answer.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    ]
    .concat()
}

/// A datagram in an IP packet; both addresses are of one version.
pub fn udp(source: IpAddr, destination: IpAddr, port: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + body.len()).unwrap();
    let mut datagram = [
        &port.to_be_bytes()[..],
        &port.to_be_bytes(),
        &length.to_be_bytes(),
        &[0, 0],
        body,
    ]
    .concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let pseudo = [
                &source.octets()[..],
                &destination.octets(),
                &[0, UDP],
                &length.to_be_bytes(),
                &datagram,
            ]
            .concat();
            datagram[6..8].copy_from_slice(&checksum(&pseudo));
            ipv4(UDP, source, destination, &datagram)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let sum = checksum6(UDP, source, destination, &datagram);
            datagram[6..8].copy_from_slice(&sum);
            ipv6(UDP, 64, source, destination, &datagram)
        }
        _ => panic!("{source} and {destination} are of two versions"),
    }
}

fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut header = [
        &[0x45, 0][..],
        &length.to_be_bytes(),
        &[0, 0, 0x40, 0, 64, protocol, 0, 0],
        &source.octets(),
        &destination.octets(),
    ]
    .concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

fn ipv6(next: u8, hops: u8, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [
        &[0x60, 0, 0, 0][..],
        &length.to_be_bytes(),
        &[next, hops],
        &source.octets(),
        &destination.octets(),
        payload,
    ]
    .concat()
}

/// `rest` is what follows the checksum.
fn icmpv6(kind: u8, source: Ipv6Addr, destination: Ipv6Addr, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], rest].concat();
    let sum = checksum6(ICMPV6, source, destination, &message);
    message[2..4].copy_from_slice(&sum);
    ipv6(ICMPV6, 255, source, destination, &message)
}

/// "Are you there?", which is answered with the same body.
pub fn echo_request(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    icmpv6(
        ECHO_REQUEST,
        source,
        destination,
        &[&[0, 7, 0, 1], body].concat(),
    )
}

/// "Who has `target`? I am at this Ethernet address."
pub fn solicitation(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    own: Option<Mac>,
) -> Vec<u8> {
    let option = own.map(|mac| [&[1, 1][..], &mac].concat());
    let rest = [&[0; 4][..], &target.octets(), &option.unwrap_or_default()].concat();
    icmpv6(NEIGHBOUR_SOLICITATION, source, destination, &rest)
}

/// "`target` is at this Ethernet address, whatever you knew before."
pub fn advertisement(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    at: Mac,
) -> Vec<u8> {
    let rest = [&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &at].concat();
    icmpv6(NEIGHBOUR_ADVERTISEMENT, source, destination, &rest)
}

/// The network that a forged router advertises.
pub const FALSE_PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0);

/// "I am a router, and addresses of `FALSE_PREFIX` are to be had here."
pub fn router_advertisement(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let lifetime = 1800_u32.to_be_bytes();
    let prefix = [
        &[3, 4, 64, 0xc0][..],
        &lifetime,
        &lifetime,
        &[0; 4],
        &FALSE_PREFIX.octets(),
    ];
    let rest = [&[64, 0, 7, 8][..], &[0; 8], &prefix.concat()].concat();
    icmpv6(ROUTER_ADVERTISEMENT, source, destination, &rest)
}

/// "To `destination`, send by way of `by`", to the host `to`.
pub fn redirect(source: Ipv6Addr, to: Ipv6Addr, by: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let rest = [&[0; 4][..], &by.octets(), &destination.octets()].concat();
    icmpv6(REDIRECT, source, to, &rest)
}

/// "I listen to this group", in the words of version 2.
pub fn listener_report(source: Ipv6Addr, listened: Ipv6Addr) -> Vec<u8> {
    let everybody_who_routes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let rest = [&[0, 0, 0, 1, 4, 0, 0, 0][..], &listened.octets()].concat();
    let report = icmpv6(LISTENER_REPORT, source, everybody_who_routes, &rest);
    behind(Extension::HopByHop, &report)
}

/// "I listen to this group", or not any more, in the words of version 1.
pub fn early_listener(source: Ipv6Addr, listened: Ipv6Addr, still: bool) -> Vec<u8> {
    let kind = if still { EARLY_REPORT } else { EARLY_DONE };
    let rest = [&[0; 4][..], &listened.octets()].concat();
    behind(Extension::HopByHop, &icmpv6(kind, source, listened, &rest))
}

/// "Is there a router?"
pub fn router_solicitation(source: Ipv6Addr, own: Mac) -> Vec<u8> {
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let rest = [&[0, 0, 0, 0, 1, 1][..], &own].concat();
    icmpv6(ROUTER_SOLICITATION, source, routers, &rest)
}

/// A header between that of IPv6 and what it carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extension {
    /// Options for every router, of which there are none: padding.
    HopByHop,
    /// Options for the destination: padding.
    Destination,
    /// A way by routers, all of which are behind.
    Routing,
    /// A fragment that is all there is.
    Atomic,
    /// One of a protocol that nobody has heard of.
    Unknown,
}

/// The IPv6 packet with an extension header more, in front.
pub fn behind(extension: Extension, packet: &[u8]) -> Vec<u8> {
    let (header, payload) = packet.split_at(IPV6_HEADER);
    let next = header[6];
    let (kind, inserted) = match extension {
        Extension::HopByHop => (0, [next, 0, 1, 4, 0, 0, 0, 0]),
        Extension::Destination => (60, [next, 0, 1, 4, 0, 0, 0, 0]),
        Extension::Routing => (43, [next, 0, 253, 0, 0, 0, 0, 0]),
        Extension::Atomic => (44, [next, 0, 0, 0, 0, 0, 0, 7]),
        Extension::Unknown => (253, [next, 0, 0, 0, 0, 0, 0, 0]),
    };
    with_header(header, kind, &[&inserted[..], payload].concat())
}

/// The IPv6 packet in two fragments, the second from this byte of its payload on: a multiple
/// of eight.
pub fn fragments(packet: &[u8], at: usize) -> [Vec<u8>; 2] {
    let (header, payload) = packet.split_at(IPV6_HEADER);
    let (first, second) = payload.split_at(at);
    let part = |offset: usize, more: u8, part: &[u8]| {
        let [high, low] = u16::try_from(offset).unwrap().to_be_bytes();
        let fragment = [header[6], 0, high, low | more, 0xf0, 0x46, 0xed, 0x01];
        with_header(header, 44, &[&fragment[..], part].concat())
    };
    [part(0, 1, first), part(at, 0, second)]
}

fn with_header(header: &[u8], next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = [header, payload].concat();
    packet[4..6].copy_from_slice(&length);
    packet[6] = next;
    packet
}

fn checksum6(next: u8, source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let length = u32::try_from(message.len()).unwrap();
    checksum(
        &[
            &source.octets()[..],
            &destination.octets(),
            &length.to_be_bytes(),
            &[0, 0, 0, next],
            message,
        ]
        .concat(),
    )
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        _ => 0,
    });
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

#[test]
fn checksums_are_those_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum(&bytes), (!0xddf2_u16).to_be_bytes());
}

#[test]
fn fragments_are_the_packet_again() {
    let of = |text: &str| text.parse().unwrap();
    let whole = echo_request(of("fd00::1"), of("fd00::2"), &[7; 28]);
    let [first, second] = fragments(&whole, 16);
    assert_eq!((first.len(), second.len()), (40 + 8 + 16, 40 + 8 + 20));
    assert_eq!([&first[48..], &second[48..]].concat(), whole[40..]);
    assert_eq!(
        (first[42..44].to_vec(), second[42..44].to_vec()),
        (vec![0, 1], vec![0, 16])
    );
}
