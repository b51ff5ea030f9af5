//! What a host link says about itself: whose it is, and which addresses its pod has.
//!
//! `ip link` shows it as the link's alias. The lease store can be rebuilt from the aliases.

use std::{fmt, net::IpAddr, str::FromStr};

use cni_protocol::{Attachment, InterfaceName, NetworkName};

use crate::names;

/// The longest alias in bytes (`IFALIASZ - 1` in include/uapi/linux/if.h).
const MAX_LEN: usize = 255;
/// The first word of every alias of ours.
const TAG: &str = "cni";
/// In the place of addresses where there are none.
const NONE: &str = "-";

/// The owner and the addresses of a host link.
///
/// As text: `cni cbr0 <container key> eth0 10.64.1.7,fd00::7 default/web-0`. A hardware address
/// that was asked for stands behind the addresses; `-` stands where there are none. The pod is
/// cut or left out when there is no room. A network name so long that even the rest does not
/// fit (some 80 bytes beside a container id of 64) makes an alias that cannot be read back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alias {
    pub network: NetworkName,
    /// [`names::id_key`] of the container id.
    pub container_key: String,
    pub interface: InterfaceName,
    pub addresses: Vec<IpAddr>,
    /// The hardware address that the pod's end was asked to have, if it is not a derived one.
    pub mac: Option<[u8; 6]>,
    /// `namespace/name`.
    pub pod: Option<String>,
}

impl Alias {
    pub fn new(attachment: &Attachment, addresses: Vec<IpAddr>, pod: Option<String>) -> Self {
        Self {
            network: attachment.network.clone(),
            container_key: names::id_key(&attachment.container_id),
            interface: attachment.interface.clone(),
            addresses,
            mac: None,
            pod,
        }
    }

    /// With the hardware address that was asked for.
    #[must_use]
    pub fn with_mac(self, mac: Option<[u8; 6]>) -> Self {
        Self { mac, ..self }
    }

    /// The name that the link with this alias must have. An alias on any other link is
    /// somebody's copy, and counts for nothing.
    pub fn host_link(&self) -> InterfaceName {
        names::host_link_of(self.network.as_str(), &self.container_key, &self.interface)
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        addresses.extend(self.mac.map(hardware));
        if addresses.is_empty() {
            addresses.push(NONE.to_owned());
        }
        let text = format!(
            "{TAG} {} {} {} {}",
            self.network,
            self.container_key,
            self.interface,
            addresses.join(",")
        );
        let room = MAX_LEN.saturating_sub(text.len() + 1);
        f.write_str(cut(&text, MAX_LEN))?;
        match &self.pod {
            Some(pod) if room > 0 && !pod.is_empty() => write!(f, " {}", cut(pod, room)),
            _ => Ok(()),
        }
    }
}

/// "02:00:00:00:00:99"
fn hardware(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads what [`hardware`] writes.
fn parse_hardware(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// Whether a text is the alias of an attachment's link.
///
/// A long name of the network may have left no room for the rest: then it is whose the part is
/// that was written.
pub fn is_of(text: &str, attachment: &Attachment) -> bool {
    let begin = format!(
        "{TAG} {} {} {} ",
        attachment.network,
        names::id_key(&attachment.container_id),
        attachment.interface
    );
    text.starts_with(cut(&begin, MAX_LEN))
}

/// The first `room` bytes of a text, or fewer, so that no character is cut.
fn cut(text: &str, room: usize) -> &str {
    let end = (0..=room.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// The text is no alias of ours.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the alias of a pod's link")]
pub struct NotAnAlias;

impl FromStr for Alias {
    type Err = NotAnAlias;

    fn from_str(text: &str) -> Result<Self, NotAnAlias> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(NotAnAlias);
        if word()? != TAG {
            return Err(NotAnAlias);
        }
        let network = word()?.parse().ok().ok_or(NotAnAlias)?;
        let container_key = word()?.to_owned();
        let interface = word()?.parse().ok().ok_or(NotAnAlias)?;
        let mut addresses = Vec::new();
        let mut mac = None;
        for part in word()?.split(',').filter(|part| *part != NONE) {
            match (part.parse(), parse_hardware(part)) {
                (Ok(address), _) => addresses.push(address),
                (Err(_), Some(found)) => mac = Some(found),
                (Err(_), None) => return Err(NotAnAlias),
            }
        }
        let pod = words.next().map(str::to_owned);
        Ok(Self {
            network,
            container_key,
            interface,
            addresses,
            mac,
            pod,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(network: &str, key: &str, pod: Option<&str>) -> Alias {
        Alias {
            network: network.parse().unwrap(),
            container_key: key.to_owned(),
            interface: "eth0".parse().unwrap(),
            addresses: vec!["10.64.1.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            mac: None,
            pod: pod.map(str::to_owned),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        for pod in [None, Some("default/web-0")] {
            let alias = alias("cbr0", "0123abc", pod);
            assert_eq!(alias.to_string().parse(), Ok(alias));
        }
        assert_eq!(
            alias("cbr0", "0123abc", Some("default/web-0")).to_string(),
            "cni cbr0 0123abc eth0 10.64.1.7,fd00::7 default/web-0"
        );
    }

    #[test]
    fn says_which_hardware_address_was_asked_for_and_that_there_is_no_address() {
        let plain = alias("cbr0", "0123abc", Some("default/web-0"));
        let asked = plain.clone().with_mac(Some([2, 0, 0, 0, 0, 0x99]));
        let text = "cni cbr0 0123abc eth0 10.64.1.7,fd00::7,02:00:00:00:00:99 default/web-0";
        assert_eq!(asked.to_string(), text);
        assert_eq!(text.parse(), Ok(asked));
        let bare = Alias {
            addresses: vec![],
            ..plain
        };
        assert_eq!(bare.to_string(), "cni cbr0 0123abc eth0 - default/web-0");
        assert_eq!(bare.to_string().parse(), Ok(bare));
    }

    #[test]
    fn the_pod_is_cut_before_anything_else() {
        let full = alias("cbr0", &"a".repeat(96), Some(&"ü".repeat(200)));
        let text = full.to_string();
        assert!(text.len() <= MAX_LEN && text.len() >= MAX_LEN - 1, "{text}");
        let back: Alias = text.parse().unwrap();
        assert_eq!(back.addresses, full.addresses);
        assert_eq!(back.container_key, full.container_key);
        assert_eq!(back.host_link(), full.host_link());
    }

    #[test]
    fn too_long_a_network_makes_no_alias_longer_than_the_kernel_takes() {
        let text = alias(&"n".repeat(200), &"a".repeat(64), Some("default/web-0")).to_string();
        assert_eq!(text.len(), MAX_LEN);
        assert_eq!(text.parse::<Alias>(), Err(NotAnAlias));
    }

    #[test]
    fn an_alias_tells_whose_it_is() {
        let attachment = |network: &str, id: &str, interface: &str| Attachment {
            network: network.parse().unwrap(),
            container_id: id.parse().unwrap(),
            interface: interface.parse().unwrap(),
        };
        let long = "n".repeat(200);
        for (network, id) in [("cbr0", "c1"), ("cbr0", &*"a".repeat(200)), (&*long, "c1")] {
            let own = attachment(network, id, "eth0");
            for addresses in [vec![], vec!["10.64.1.7".parse().unwrap()]] {
                let text = Alias::new(&own, addresses, Some("default/web-0".into())).to_string();
                assert!(is_of(&text, &own), "{text}");
                for other in [
                    attachment(network, id, "eth01"),
                    attachment(network, &format!("{}x", &id[..2]), "eth0"),
                    attachment("other", id, "eth0"),
                ] {
                    assert!(!is_of(&text, &other), "{text}");
                }
            }
        }
        let longest = attachment(&"n".repeat(200), &"a".repeat(64), "eth0");
        let cut = Alias::new(&longest, vec![], None).to_string();
        assert!(is_of(&cut, &longest));
        assert!(!is_of("", &longest) && !is_of("uplink", &longest));
    }

    #[test]
    fn other_peoples_aliases_are_none() {
        for text in [
            "",
            "cni",
            "uplink",
            "cni cbr0 x eth0",
            "cni cbr0 x eth0 10.1.2",
        ] {
            assert_eq!(text.parse::<Alias>(), Err(NotAnAlias), "{text}");
        }
    }
}
