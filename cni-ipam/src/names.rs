//! Names that follow from the attachment alone, so that nobody has to remember them.
//!
//! They must never change: a link made by an earlier release has to be found by a later one.

use std::hash::Hasher;

use cni_protocol::{Attachment, ContainerId, InterfaceName};
use siphasher::{sip::SipHasher13, sip128};

/// The longest container id that is its own key, in bytes.
const LONGEST_ID: usize = 96;
/// How much of a longer id stays readable in its key.
const KEPT_OF_ID: usize = 63;

/// The name of the host's end of an attachment's veth pair.
pub fn host_link(attachment: &Attachment) -> InterfaceName {
    host_link_of(
        attachment.network.as_str(),
        &id_key(&attachment.container_id),
        &attachment.interface,
    )
}

/// The same, from the key of the container id.
pub(crate) fn host_link_of(
    network: &str,
    container_key: &str,
    interface: &InterfaceName,
) -> InterfaceName {
    let mut hasher = SipHasher13::new();
    hasher.write(network.as_bytes());
    hasher.write(&[0]);
    hasher.write(container_key.as_bytes());
    hasher.write(&[0]);
    hasher.write(interface.as_str().as_bytes());
    let digits = format!("{:011x}", hasher.finish() >> 20);
    // 15 bytes of letters and digits: always a name. The fallback cannot happen.
    InterfaceName::try_from(format!("veth{digits}")).unwrap_or_else(|_| interface.clone())
}

/// What stands for a container id where there is little room: the id itself, or the
/// beginning of a long one and its hash. `~` is in no id, so keys and ids never meet.
pub fn id_key(id: &ContainerId) -> String {
    let id = id.as_str();
    if id.len() <= LONGEST_ID {
        return id.to_owned();
    }
    let mut hasher = sip128::SipHasher13::new();
    hasher.write(id.as_bytes());
    let hash = sip128::Hasher128::finish128(&hasher);
    // Ids are ASCII, so any cut is between two characters.
    let kept = id.get(..KEPT_OF_ID).unwrap_or_default();
    format!("{kept}~{:016x}{:016x}", hash.h1, hash.h2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, id: &str, interface: &str) -> Attachment {
        Attachment {
            network: network.to_owned().try_into().unwrap(),
            container_id: id.to_owned().try_into().unwrap(),
            interface: interface.to_owned().try_into().unwrap(),
        }
    }

    // Golden values: another value here means that links of running pods are not found.
    #[test]
    fn the_names_of_links_never_change() {
        let name = host_link(&attachment("cbr0", &"a1".repeat(32), "eth0"));
        assert_eq!(name.as_str(), GOLDEN_SHORT);
        let name = host_link(&attachment("cbr0", &"a1".repeat(100), "eth0"));
        assert_eq!(name.as_str(), GOLDEN_LONG);
    }

    const GOLDEN_SHORT: &str = "veth312e3498a7e";
    const GOLDEN_LONG: &str = "vetha3784cd74ba";

    #[test]
    fn the_parts_of_an_attachment_do_not_run_into_each_other() {
        let a = host_link(&attachment("net", "ab", "eth0"));
        let b = host_link(&attachment("neta", "b", "eth0"));
        assert_ne!(a, b);
    }

    #[test]
    fn a_long_id_has_a_key_of_96_bytes() {
        let id = "x".repeat(300);
        let key = id_key(&id.clone().try_into().unwrap());
        assert_eq!(key.len(), LONGEST_ID);
        assert!(key.starts_with(&id[..KEPT_OF_ID]));
        let other = id_key(&("x".repeat(299) + "y").try_into().unwrap());
        assert_ne!(key, other);
        let short = "y".repeat(96);
        assert_eq!(id_key(&short.clone().try_into().unwrap()), short);
    }
}
