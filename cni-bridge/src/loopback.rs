//! The loopback plugin, which containerd wants beside every network: `lo` is up.
//!
//! It answers when the executable is called by the name `loopback`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_protocol::{
    AddRequest, AddResult, CheckRequest, DelRequest, GcRequest, Interface, InterfaceName, IpConfig,
    Plugin, StatusRequest,
};
use netlink_packet_route::AddressFamily;
use rtnetlink::LinkUnspec;

use crate::{
    error::Error,
    kernel::{Kernel, OwnNetns},
    mac::Mac,
    netns,
    rtnl::{Link, Message, Pod, change},
};

/// The name by which the executable has to be called.
pub(crate) const NAME: &str = "loopback";
/// The one interface that every namespace is born with.
const INTERFACE: &str = "lo";

pub(crate) struct Loopback;

impl Plugin for Loopback {
    type Error = Error;
    const NAME: &'static str = NAME;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn add(&self, request: &AddRequest) -> Result<AddResult, Error> {
        let before = request.config.prev_result().map_err(Error::PrevResult)?;
        let mut kernel = Kernel::open(&request.netns, OwnNetns::when(request.netns_override))?;
        let lo = link(&mut kernel)?;
        if !lo.up {
            set_up(&mut kernel, &lo, true)?;
        }
        match before {
            Some(before) => Ok(before),
            None => result(request, &mut kernel, &lo),
        }
    }

    fn del(&self, request: &DelRequest) -> Result<(), Error> {
        let Some(path) = &request.netns else {
            return Ok(());
        };
        match Kernel::open(path, OwnNetns::when(request.netns_override)) {
            Ok(mut kernel) => {
                let lo = link(&mut kernel)?;
                if lo.up {
                    set_up(&mut kernel, &lo, false)
                } else {
                    Ok(())
                }
            }
            Err(Error::Netns(netns::Error::Gone { .. }) | Error::OwnNetns(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn check(&self, request: &CheckRequest) -> Result<(), Error> {
        let mut kernel = Kernel::open(&request.netns, OwnNetns::Refused)?;
        if link(&mut kernel)?.up {
            return Ok(());
        }
        Err(Error::Differences(vec![format!(
            "interface {INTERFACE} in the pod is down"
        )]))
    }

    fn gc(&self, _request: &GcRequest) -> Result<(), Error> {
        Ok(())
    }

    fn status(&self, _request: &StatusRequest) -> Result<(), Error> {
        Ok(())
    }
}

fn name() -> Result<InterfaceName, Error> {
    INTERFACE
        .parse()
        .map_err(|invalid| Error::Config(crate::config::Error::Bridge(invalid)))
}

fn link(kernel: &mut Kernel) -> Result<Link<Pod>, Error> {
    let name = name()?;
    kernel
        .pod
        .find_link(&name)?
        .ok_or(Error::Differences(vec![format!(
            "interface {INTERFACE} is missing in the pod"
        )]))
}

fn set_up(kernel: &mut Kernel, lo: &Link<Pod>, up: bool) -> Result<(), Error> {
    let message = LinkUnspec::new_with_index(lo.index.number);
    let (message, direction) = if up {
        (message.up(), "up")
    } else {
        (message.down(), "down")
    };
    let operation = format!("bring interface {INTERFACE} {direction}");
    Ok(kernel.pod.execute(vec![change(
        operation,
        Message::SetLink(message.build()),
        0,
    )])?)
}

/// The interface, and the loopback addresses that the kernel gave it.
fn result(request: &AddRequest, kernel: &mut Kernel, lo: &Link<Pod>) -> Result<AddResult, Error> {
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let addresses = kernel.pod.addresses(lo.index, AddressFamily::Unspec)?;
    Ok(AddResult {
        interfaces: vec![Interface {
            name: INTERFACE.to_owned(),
            mac: Some(Mac(lo.mac.unwrap_or_default()).to_string()),
            sandbox: Some(request.netns.display().to_string()),
            ..Interface::default()
        }],
        ips: addresses
            .into_iter()
            .filter(|address| loopback.contains(&address.net.addr()))
            .map(|address| IpConfig {
                interface: Some(0),
                address: address.net,
                gateway: None,
            })
            .collect(),
        ..AddResult::default()
    })
}
