//! An address of a link as the kernel describes it.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressFlags, AddressHeader};
use nix::libc;

use super::ip;
use crate::netlink::Attributes;

/// `struct ifaddrmsg`.
const HEADER: usize = 8;

/// An address on a link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    pub(crate) net: IpNet,
    /// The number of its link.
    pub(super) link: u32,
    /// Duplicate address detection is under way.
    pub(crate) tentative: bool,
    /// Duplicate address detection found another host with it.
    pub(crate) duplicate: bool,
    /// It was given without duplicate address detection.
    pub(crate) immediate: bool,
}

impl Address {
    /// Reads the body of an `RTM_NEWADDR`.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let header = AddressHeader::parse(body).ok()?;
        let mut local: Option<IpAddr> = None;
        let mut address = None;
        let mut flags = AddressFlags::empty();
        for (kind, value) in Attributes(body.get(HEADER..)?) {
            match kind {
                // On a point-to-point link IFA_ADDRESS is the other side; the own one wins.
                libc::IFA_LOCAL => local = ip(value),
                libc::IFA_ADDRESS => address = ip(value),
                libc::IFA_FLAGS => {
                    let bits = value.try_into().ok().map(u32::from_ne_bytes)?;
                    flags = AddressFlags::from_bits_retain(bits);
                }
                _ => {}
            }
        }
        Some(Self {
            net: IpNet::new(local.or(address)?, header.prefix_len).ok()?,
            link: header.index,
            tentative: flags.contains(AddressFlags::Tentative),
            duplicate: flags.contains(AddressFlags::Dadfailed),
            immediate: flags.contains(AddressFlags::Nodad),
        })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::address::{AddressAttribute, AddressMessage};

    use super::*;

    fn read(prefix: u8, attributes: Vec<AddressAttribute>) -> Option<Address> {
        let mut message = AddressMessage::default();
        message.header.prefix_len = prefix;
        message.header.index = 7;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        Address::read(&bytes)
    }

    #[test]
    fn an_address_with_its_flags() {
        let address = read(
            64,
            vec![
                AddressAttribute::Address("fd00::2".parse().unwrap()),
                AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Tentative),
            ],
        );
        let wanted = Address {
            net: "fd00::2/64".parse().unwrap(),
            link: 7,
            tentative: true,
            duplicate: false,
            immediate: true,
        };
        assert_eq!(address, Some(wanted));
    }

    #[test]
    fn of_two_ends_of_a_line_the_own_one_counts() {
        let address = read(
            32,
            vec![
                AddressAttribute::Address("10.0.0.9".parse().unwrap()),
                AddressAttribute::Local("10.0.0.1".parse().unwrap()),
            ],
        );
        assert_eq!(address.unwrap().net, "10.0.0.1/32".parse().unwrap());
        assert_eq!(read(32, vec![]), None);
    }
}
