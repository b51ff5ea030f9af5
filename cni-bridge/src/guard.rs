//! What one port of the bridge may send with: a MAC address, and perhaps IP addresses.
//!
//! Pure. How it is checked is nftables' matter (`nft/spoof.rs`).

use std::net::{IpAddr, Ipv6Addr};

use cni_protocol::InterfaceName;

use crate::mac::Mac;

/// A port, and what the pod behind it may call its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Guard {
    /// The node's end of the pair.
    pub(crate) port: InterfaceName,
    pub(crate) mac: Mac,
    /// Without the link-local address, which follows from the MAC address. `None`: only the
    /// MAC address is checked.
    pub(crate) addresses: Option<Vec<IpAddr>>,
}

/// The link-local address that the kernel gives a link with this MAC address
/// (`addrconf_ifid_eui48()`, with `addr_gen_mode` 0).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [first, rest @ ..] = mac.0.map(u16::from);
    let [second, third, fourth, fifth, sixth] = rest;
    let join = |high: u16, low: u16| high << 8 | low;
    let start = join(first ^ 2, second);
    let (left, right) = (join(third, 0xff), join(0xfe, fourth));
    Ipv6Addr::new(0xfe80, 0, 0, 0, start, left, right, join(fifth, sixth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_follows_from_the_mac_address() {
        let mac = "0a:58:0a:40:01:02".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::858:aff:fe40:102");
    }
}
