//! Hardware addresses: of a link that is to be made, derived so that they never change.

use std::{fmt, net::IpAddr, str::FromStr};

/// The prefix of addresses that are derived from an IP address, as kubenet had it.
/// Locally administered, unicast.
const FROM_ADDRESS: [u8; 2] = [0x0a, 0x58];
/// The prefix of the node's end of a pair, so that it never equals a pod's.
const HOST_END: [u8; 2] = [0x0a, 0x59];

/// An Ethernet address that a link may have: neither a group's nor all zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

/// Text that is not an address which a link may have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidMac {
    #[error("'{0}' is not a MAC address of six bytes like 0a:58:0a:40:01:05")]
    Syntax(String),
    #[error("MAC address {0} is a group address, which no interface can have")]
    Group(String),
    #[error("MAC address {0} is all zero")]
    Zero(String),
}

impl Mac {
    /// The address of whatever holds `address`: an address that is used again has the same
    /// MAC address again, so no neighbour entry can be stale.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::new(FROM_ADDRESS, address.octets()),
            IpAddr::V6(address) => Self::hashed(FROM_ADDRESS, &address.octets()),
        }
    }

    /// It was derived from something, as those of our bridges and of pods are.
    pub(crate) fn is_derived(self) -> bool {
        self.0.starts_with(&FROM_ADDRESS)
    }

    /// The address of something that has only a name.
    pub(crate) fn of_name(name: &str) -> Self {
        Self::hashed(FROM_ADDRESS, name.as_bytes())
    }

    /// The address of the node's end of a pair.
    pub(crate) fn of_host_end(link: &str) -> Self {
        Self::hashed(HOST_END, link.as_bytes())
    }

    fn hashed(prefix: [u8; 2], of: &[u8]) -> Self {
        let hash = siphasher::sip::SipHasher13::new().hash(of);
        let [tail @ .., _, _, _, _] = hash.to_be_bytes();
        Self::new(prefix, tail)
    }

    fn new(prefix: [u8; 2], tail: [u8; 4]) -> Self {
        let mut bytes = [0; 6];
        for (byte, value) in bytes.iter_mut().zip(prefix.into_iter().chain(tail)) {
            *byte = value;
        }
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, byte) in self.0.iter().enumerate() {
            let colon = if number == 0 { "" } else { ":" };
            write!(formatter, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Mac {
    type Err = InvalidMac;

    /// The forms of Go's `net.ParseMAC` for six bytes: colons, hyphens, or dotted quads.
    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let syntax = || InvalidMac::Syntax(text.to_owned());
        let mut bytes = [0; 6];
        let mut digits = text.chars().filter(char::is_ascii_hexdigit);
        for byte in &mut bytes {
            let (high, low) = (
                digits.next().ok_or_else(syntax)?,
                digits.next().ok_or_else(syntax)?,
            );
            *byte = u8::from_str_radix(&format!("{high}{low}"), 16).map_err(|_not_hex| syntax())?;
        }
        let mac = Self(bytes);
        let colons = mac.to_string();
        let lower = text.to_ascii_lowercase();
        let dotted: String = lower.replace('.', "");
        let known = lower == colons
            || lower == colons.replace(':', "-")
            || (lower.matches('.').count() == 2
                && lower.split('.').all(|part| part.len() == 4)
                && dotted.len() == 12);
        match bytes {
            _ if !known => Err(syntax()),
            [0, 0, 0, 0, 0, 0] => Err(InvalidMac::Zero(text.to_owned())),
            [first, ..] if first & 1 == 1 => Err(InvalidMac::Group(text.to_owned())),
            _ => Ok(mac),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_from_the_ipv4_address() {
        let mac = Mac::of_address("10.64.1.7".parse().unwrap());
        assert_eq!(mac.to_string(), "0a:58:0a:40:01:07");
    }

    #[test]
    fn stays_the_same_for_an_ipv6_address() {
        let mac = Mac::of_address("fd00::7".parse().unwrap());
        assert_eq!(mac, Mac::of_address("fd00:0::7".parse().unwrap()));
        assert!(mac.to_string().starts_with("0a:58:"));
    }

    #[test]
    fn reads_what_go_reads() {
        for text in ["0A:58:0a:40:01:05", "0a-58-0a-40-01-05", "0a58.0a40.0105"] {
            assert_eq!(
                text.parse::<Mac>().unwrap().to_string(),
                "0a:58:0a:40:01:05"
            );
        }
    }

    #[test]
    fn refuses_what_no_link_can_have() {
        let refused = |text: &str| text.parse::<Mac>().unwrap_err();
        assert_eq!(
            refused("01:00:5e:00:00:01"),
            InvalidMac::Group("01:00:5e:00:00:01".into())
        );
        assert_eq!(
            refused("00:00:00:00:00:00"),
            InvalidMac::Zero("00:00:00:00:00:00".into())
        );
        for text in [
            "",
            "0a:58",
            "0a:58:0a:40:01:05:06",
            "0a580a400105",
            "zz:58:0a:40:01:05",
            "0a:580:a4:00:10:5",
        ] {
            assert_eq!(refused(text), InvalidMac::Syntax(text.into()));
        }
    }
}
