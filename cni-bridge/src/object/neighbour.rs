//! What the others on the bridge remember of an address: which hardware address it has.
//!
//! Mostly nobody has to be told when an address goes over to another pod, as the hardware
//! address follows from it. It does not where one was asked for, where another plugin made the
//! pod, and of a pod's second address: an IPv6 one that comes with an IPv4 one, say. Then what
//! is sent to the new pod by those who knew the old one would be lost for some ten seconds.

use std::net::IpAddr;

use cni_protocol::InterfaceName;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use rtnetlink::LinkUnspec;

use crate::{
    error::Error,
    kernel::Kernel,
    mac::Mac,
    rtnl::{Index, Link, Message, Pod, change},
    sysctl::{self, Sysctl},
};

/// Tells all on the bridge which hardware address a pod's addresses have, where they do not
/// tell by themselves.
///
/// To be called when the pod's port forwards packets.
pub(crate) fn announce(
    kernel: &mut Kernel,
    interface: &InterfaceName,
    index: Index<Pod>,
    plan: (&[IpNet], Mac),
) -> Result<(), Error> {
    let (addresses, mac) = plan;
    let untold: Vec<IpAddr> = addresses
        .iter()
        .map(IpNet::addr)
        .filter(|address| Mac::of_address(*address) != mac)
        .collect();
    if untold.is_empty() {
        return Ok(());
    }
    tell(kernel, interface, index, (&untold, mac))
}

/// Tells all on the bridge, before a pod goes, which hardware address its heir will have: the
/// next pod with its addresses.
pub(crate) fn bequeath(
    kernel: &mut Kernel,
    interface: &InterfaceName,
    inside: &Link<Pod>,
) -> Result<(), Error> {
    let addresses: Vec<IpAddr> = kernel
        .pod
        .addresses(inside.index, AddressFamily::Unspec)?
        .into_iter()
        .map(|address| address.net.addr())
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    let main = addresses.iter().find(|address| address.is_ipv4());
    let heir = main.or(addresses.first()).copied().map(Mac::of_address);
    match heir {
        Some(heir) if inside.mac != Some(heir.0) => {
            tell(kernel, interface, inside.index, (&addresses, heir))
        }
        _ => Ok(()),
    }
}

/// Has the kernel send a gratuitous ARP and an unsolicited neighbour advertisement. With these
/// switches it does when a hardware address is set, also to what it was (`NETDEV_CHANGEADDR`).
fn tell(
    kernel: &mut Kernel,
    interface: &InterfaceName,
    index: Index<Pod>,
    (addresses, mac): (&[IpAddr], Mac),
) -> Result<(), Error> {
    let switch_on = || {
        if addresses.iter().any(IpAddr::is_ipv4) {
            sysctl::ensure(&Sysctl::Ipv4Link(interface.clone(), "arp_notify"), "1")?;
        }
        if addresses.iter().any(IpAddr::is_ipv6) {
            sysctl::ensure_link(interface, &[("ndisc_notify", "1")])?;
        }
        Ok::<_, sysctl::Error>(())
    };
    kernel.netns.run(switch_on)??;
    let message = LinkUnspec::new_with_index(index.number)
        .address(mac.0.to_vec())
        .build();
    let operation = format!("announce that {interface} has MAC address {mac}");
    let request = change(operation, Message::SetLink(message), 0);
    Ok(kernel.pod.execute(vec![request])?)
}
