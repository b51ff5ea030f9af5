//! The pod CIDRs of a node, as Kubernetes writes them: `spec.podCIDRs`, or in one line.
//!
//! Whether addresses can be given of them is for the plugin to judge.

use std::{fmt, str::FromStr};

use ipnet::IpNet;

/// One CIDR, or one of each family, in the order in which a pod gets its addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PodCidrs(Vec<IpNet>);

/// Why these are no pod CIDRs of a node.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidPodCidrs {
    #[error("pod CIDR {0:?} is no network as 10.64.1.0/24 or fd00:10:64:1::/64")]
    NoNetwork(String),
    #[error("pod CIDR {written} has bits behind its prefix: is {meant} meant?")]
    HostBits { written: IpNet, meant: IpNet },
    #[error("pod CIDRs {0} and {1} are of one family: a node has one of each")]
    SameFamily(IpNet, IpNet),
}

impl PodCidrs {
    /// Checks what the Kubernetes API or a person says.
    pub(crate) fn new<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidPodCidrs> {
        let mut cidrs: Vec<IpNet> = Vec::new();
        for text in texts {
            let text = text.trim();
            let written: IpNet = text
                .parse()
                .map_err(|_invalid| InvalidPodCidrs::NoNetwork(text.to_owned()))?;
            let meant = written.trunc();
            if meant != written {
                return Err(InvalidPodCidrs::HostBits { written, meant });
            }
            let is_ipv4 = written.addr().is_ipv4();
            if let Some(other) = cidrs.iter().find(|cidr| cidr.addr().is_ipv4() == is_ipv4) {
                return Err(InvalidPodCidrs::SameFamily(*other, written));
            }
            cidrs.push(written);
        }
        if cidrs.is_empty() {
            return Err(InvalidPodCidrs::NoNetwork(String::new()));
        }
        Ok(Self(cidrs))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }
}

impl FromStr for PodCidrs {
    type Err = InvalidPodCidrs;

    /// As the kubelet writes them for the runtime: separated by commas.
    fn from_str(text: &str) -> Result<Self, InvalidPodCidrs> {
        Self::new(text.split(','))
    }
}

impl fmt::Display for PodCidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.iter().map(IpNet::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_family_in_their_order() {
        for text in [
            "10.64.1.0/24",
            "fd00:1::/64",
            "10.64.1.0/24,fd00:1::/64",
            "fd00:1::/64,10.64.1.0/24",
        ] {
            assert_eq!(text.parse::<PodCidrs>().unwrap().to_string(), text);
        }
        let spaced: PodCidrs = "10.64.1.0/24, fd00:1::/64".parse().unwrap();
        assert_eq!(spaced.to_string(), "10.64.1.0/24,fd00:1::/64");
    }

    #[test]
    fn others_are_refused_with_their_text() {
        for (text, words) in [
            ("", "\"\""),
            ("10.64.1.0/24,", "\"\""),
            ("10.64.1.0", "\"10.64.1.0\""),
            ("10.64.1.0/33", "\"10.64.1.0/33\""),
            ("10.64.1.7/24", "is 10.64.1.0/24 meant?"),
            ("10.64.1.0/24,10.64.2.0/24", "of one family"),
        ] {
            let refusal = text.parse::<PodCidrs>().unwrap_err().to_string();
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }
}
