//! Packets as they pass a link, to be counted on both sides of what they cross.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{self, LinkAddr},
};

use crate::{Netns, packet::Capture};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// In the place of an IPv6 packet's protocol: it is a piece of a larger one.
const FRAGMENT: u8 = 44;
/// `PACKET_OUTGOING`
const OUTGOING: u8 = 4;

/// What passes one link, in both directions, from the moment on when this was made.
#[derive(Debug)]
pub struct Tap {
    capture: Capture,
    link: usize,
    seen: Vec<Packet>,
}

/// A TCP segment or UDP datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Whether it left the namespace or came into it.
    pub way: Way,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it says that it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub target: SocketAddr,
    /// Bytes, with all headers but Ethernet's.
    pub length: usize,
}

/// Of a packet, seen from the namespace that the link is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Sent by the namespace.
    Out,
    /// Received by it.
    In,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// A segment.
    Tcp,
    /// A datagram.
    Udp,
    /// A piece of either. The ports are 0.
    Fragment,
}

impl Tap {
    /// Begins to look at this link, which has to be there.
    pub fn on(netns: &Netns, link: &str) -> Self {
        let index = netns.run(|| if_nametoindex(link));
        let index = index.unwrap_or_else(|error| panic!("no link {link}: {error}"));
        Self {
            capture: Capture::start(netns),
            link: usize::try_from(index).unwrap(),
            seen: Vec::new(),
        }
    }

    /// All that has passed so far, the oldest first.
    pub fn packets(&mut self) -> &[Packet] {
        let mut frame = [0; 128];
        while let Some((length, from)) = next(self.capture.socket(), &mut frame) {
            let way = if from.pkttype() == OUTGOING {
                Way::Out
            } else {
                Way::In
            };
            if from.ifindex() == self.link {
                self.seen
                    .extend(Packet::parse(way, frame.get(..length).unwrap_or(&frame)));
            }
        }
        &self.seen
    }
}

fn next(socket: &OwnedFd, frame: &mut [u8]) -> Option<(usize, LinkAddr)> {
    let (length, from) = socket::recvfrom(socket.as_raw_fd(), frame).ok()?;
    Some((length, from?))
}

impl Packet {
    /// None for what is neither IPv4 nor IPv6 or carries something else.
    fn parse(way: Way, frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(14)?;
        let (source, target, protocol, length, payload) = match number(ethernet, 12)? {
            IPV4 => ipv4(packet)?,
            IPV6 => ipv6(packet)?,
            _ => return None,
        };
        let protocol = match protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            FRAGMENT => Protocol::Fragment,
            _ => return None,
        };
        let port = |at| match protocol {
            Protocol::Fragment => Some(0),
            _ => number(payload, at),
        };
        Some(Self {
            way,
            protocol,
            source: SocketAddr::new(source, port(0)?),
            target: SocketAddr::new(target, port(2)?),
            length,
        })
    }
}

/// Source, target, protocol, length of the whole, and what comes after the header.
type Header<'a> = (IpAddr, IpAddr, u8, usize, &'a [u8]);

fn ipv4(packet: &[u8]) -> Option<Header<'_>> {
    let words = usize::from(packet.first()? & 0x0f);
    let address = |at: usize| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(bytes)))
    };
    // All but the flag "don't fragment": more of them come, or this is not the first.
    let fragment = number(packet, 6)? & 0x3fff != 0;
    let protocol = if fragment { FRAGMENT } else { *packet.get(9)? };
    let length = usize::from(number(packet, 2)?);
    let payload = packet.get(4 * words..)?;
    Some((address(12)?, address(16)?, protocol, length, payload))
}

fn ipv6(packet: &[u8]) -> Option<Header<'_>> {
    let address = |at: usize| {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(bytes)))
    };
    let (protocol, payload) = (*packet.get(6)?, packet.get(40..)?);
    let length = 40 + usize::from(number(packet, 4)?);
    Some((address(8)?, address(24)?, protocol, length, payload))
}

/// The 16 bits at this place.
fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame in hexadecimal, its parts separated by blanks.
    fn frame(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len() / 2).map(|n| byte(2 * n)).collect()
    }

    fn parsed(text: &str) -> Option<Packet> {
        Packet::parse(Way::In, &frame(text))
    }

    const ETHERNET: &str = "0a580a400102 0a580a400101";

    #[test]
    fn a_datagram_with_options_in_its_header_is_understood() {
        let packet = parsed(&format!(
            "{ETHERNET} 0800 46 00 0025 0001 4000 40 11 0000 0a400103 0a400102 01010101 1389 0007"
        ));
        let expected = Packet {
            way: Way::In,
            protocol: Protocol::Udp,
            source: "10.64.1.3:5001".parse().unwrap(),
            target: "10.64.1.2:7".parse().unwrap(),
            length: 37,
        };
        assert_eq!(packet, Some(expected));
    }

    #[test]
    fn a_fragment_is_told_by_its_flag_or_its_offset() {
        for bits in ["2000", "0010"] {
            let packet = parsed(&format!(
                "{ETHERNET} 0800 45 00 0025 0001 {bits} 40 11 0000 0a400103 0a400102 13890007"
            ));
            assert_eq!(packet.unwrap().protocol, Protocol::Fragment, "{bits}");
        }
    }

    #[test]
    fn a_segment_of_ipv6_is_understood() {
        let packet = parsed(&format!(
            "{ETHERNET} 86dd 60000000 0014 06 40 fd000064000100000000000000000003 \
             fd000064000100000000000000000002 1389 0050"
        ));
        let packet = packet.unwrap();
        assert_eq!(packet.protocol, Protocol::Tcp);
        assert_eq!(packet.source, "[fd00:64:1::3]:5001".parse().unwrap());
        assert_eq!(packet.target, "[fd00:64:1::2]:80".parse().unwrap());
        assert_eq!(packet.length, 60);
    }

    #[test]
    fn what_is_no_packet_of_ours_is_left_out() {
        assert_eq!(parsed(&format!("{ETHERNET} 0806 0001")), None);
        assert_eq!(parsed(&format!("{ETHERNET} 0800 45")), None);
        assert_eq!(parsed(""), None);
    }
}
