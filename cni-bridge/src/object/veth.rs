//! The pair of links that connects a pod: made, completed, found again and removed.

use std::{
    os::fd::AsRawFd,
    panic, thread,
    time::{Duration, Instant},
};

use cni_ipam::alias::{self, Alias};
use cni_protocol::{Attachment, InterfaceName};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use nix::errno::Errno;
use rtnetlink::{LinkUnspec, LinkVeth};

use crate::{
    error::Error,
    kernel::{self, Kernel},
    netlink,
    object::{port, vlan},
    plan::VethPlan,
    rtnl::{Host, Index, Link, Message, Pod, RouteRequest, Rtnl, change},
    sysctl::{self, Sysctl},
    undo::{Undo, UndoLog},
};

/// Without a queueing discipline a veth has no use for a queue for each processor, and making
/// them is a third of the work of making the pair (`veth_get_num_queues()`).
const QUEUES: u32 = 1;
/// How long bridge and port may take until packets pass, and how often they are looked at.
const CARRIER: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_micros(200);

/// Both ends of a new pair.
#[derive(Debug)]
pub(crate) struct Veth {
    pub(crate) host: Link<Host>,
    pub(crate) pod: Index<Pod>,
}

/// Makes the pair in one message, the pod's end straight in its namespace, the node's end a
/// port of the bridge, and up if it needs no guard; then names its owner and sets the port's
/// switches.
///
/// Nothing is ever moved from one namespace to another: the kernel would wait for an RCU
/// barrier, 15 ms (`netdev_run_todo()`).
pub(crate) fn create(
    kernel: &mut Kernel,
    plan: &VethPlan,
    bridge: &Link<Host>,
    undo: &mut UndoLog,
) -> Result<Veth, Error> {
    let message = pair(plan, bridge.index, kernel.netns.file().as_raw_fd());
    let operation = format!("create veth {} with peer {}", plan.host, plan.pod);
    let created = match kernel.host.create_link(operation, message) {
        Ok(created) => created,
        Err(error) => return Err(refused(kernel, plan, bridge, error)),
    };
    undo.record(Undo::RemoveHostLink(plan.host.clone()));
    let host = match created {
        Some(link) => link,
        None => kernel.host.link(&plan.host)?,
    };
    let pod = Index::new(host.peer.unwrap_or_default());
    let mut requests = completion(plan, host.index);
    if let Some(vlan) = &plan.port.vlan {
        requests.extend(vlan::join(
            &plan.host,
            host.index,
            bridge.default_vlan,
            vlan,
        ));
    }
    kernel.host.execute(requests)?;
    // What a pod sends to 01:80:c2:00:00:0X reaches the node's IP on this very link
    // (`br_handle_frame()`), a router advertisement too.
    sysctl::ensure(&Sysctl::Ipv6Link(plan.host.clone(), "accept_ra"), "0")?;
    Ok(Veth { host, pod })
}

fn pair(plan: &VethPlan, bridge: Index<Host>, netns: i32) -> LinkMessage {
    let peer = LinkUnspec::new_with_name(plan.pod.as_str())
        .mtu(plan.mtu)
        .address(plan.pod_mac.0.to_vec())
        .append_extra_attribute(LinkAttribute::NumTxQueues(QUEUES))
        .append_extra_attribute(LinkAttribute::NumRxQueues(QUEUES))
        .setns_by_fd(netns)
        .build();
    let outside = LinkVeth::new(plan.host.as_str(), plan.pod.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(plan.mtu)
        .address(plan.host_mac.0.to_vec())
        .append_extra_attribute(LinkAttribute::NumTxQueues(QUEUES))
        .append_extra_attribute(LinkAttribute::NumRxQueues(QUEUES))
        .controller(bridge.number);
    // What is to be checked waits until it is: the pod may run already, and be quick.
    match plan.guard {
        None => outside.up().build(),
        Some(_) => outside.build(),
    }
}

/// Brings up the node's end of a pair that was made with a guard.
pub(crate) fn bring_up(host: &mut Rtnl<Host>, port: &Link<Host>) -> Result<(), Error> {
    let up = LinkUnspec::new_with_index(port.index.number).up().build();
    let operation = format!("bring link {} up", port.name);
    Ok(host.execute(vec![change(operation, Message::SetLink(up), 0)])?)
}

/// What the creating message cannot carry: the kernel takes an alias and a port's switches
/// only for a link that is there (`do_setlink()`).
fn completion(plan: &VethPlan, index: Index<Host>) -> Vec<RouteRequest> {
    let mut requests = Vec::new();
    requests.extend(port::switch_on(&plan.port, plan.host.as_str(), index));
    let message = LinkUnspec::new_with_index(index.number)
        .alias(plan.alias.clone())
        .build();
    let operation = format!("set the alias of link {}", plan.host);
    requests.push(change(operation, Message::SetLink(message), 0));
    requests
}

/// The reason why a pair was not made, in words of the attachment.
fn refused(
    kernel: &mut Kernel,
    plan: &VethPlan,
    bridge: &Link<Host>,
    error: netlink::Error,
) -> Error {
    match error.errno() {
        Some(Errno::EEXIST) => match kernel.host.find_link(&plan.host) {
            Ok(Some(_)) => Error::AttachmentExists {
                attachment: Box::new(plan.attachment.clone()),
                link: plan.host.clone(),
            },
            _ => interface_exists(kernel, &plan.pod),
        },
        Some(Errno::EXFULL) => match bridge.name.parse() {
            Ok(bridge) => Error::BridgeFull {
                bridge,
                source: error,
            },
            Err(_impossible) => error.into(),
        },
        _ => error.into(),
    }
}

fn interface_exists(kernel: &Kernel, interface: &InterfaceName) -> Error {
    Error::InterfaceExists {
        interface: interface.clone(),
        netns: kernel.netns.path().to_owned(),
    }
}

/// Refuses an attachment that is there, and a name that is taken in the pod, before
/// anything is made.
pub(crate) fn refuse_existing(kernel: &mut Kernel, attachment: &Attachment) -> Result<(), Error> {
    let link = cni_ipam::names::host_link(attachment);
    if kernel.host.find_link(&link)?.is_some() {
        return Err(Error::AttachmentExists {
            attachment: Box::new(attachment.clone()),
            link,
        });
    }
    match kernel.pod.find_link(&attachment.interface)? {
        Some(_) => Err(interface_exists(kernel, &attachment.interface)),
        None => Ok(()),
    }
}

/// Waits until packets pass between the bridge and the pod, which they do as soon as the
/// kernel has worked off that the pod's end is up (`linkwatch_event()`): mostly before one can
/// look, later when others keep RTNL busy. The first port also gives the bridge its carrier.
///
/// What takes longer than that is not waited for: it comes up by itself. A port that is gone
/// was removed by a DEL of the same attachment that came in between.
pub(crate) fn await_carrier(
    host: &mut Rtnl<Host>,
    bridge: &Link<Host>,
    port: &Link<Host>,
) -> Result<(), Error> {
    let started = Instant::now();
    let mut forwards = false;
    let mut carries = bridge.operational;
    loop {
        if !forwards {
            let link = host.find_link_by_index(port.index)?;
            let vanished = || Error::LinkVanished(port.name.clone());
            forwards = link.ok_or_else(vanished)?.port.forwarding == Some(true);
        }
        if forwards && !carries {
            carries = host
                .find_link_by_index(bridge.index)?
                .is_none_or(|bridge| bridge.operational);
        }
        if forwards && carries {
            return Ok(());
        }
        if started.elapsed() >= CARRIER {
            cni_protocol::log(&format_args!(
                "the pod's bridge port does not forward after {} s: its first packets may be lost",
                CARRIER.as_secs()
            ));
            return Ok(());
        }
        thread::sleep(POLL);
    }
}

/// Removes the pair by the name of the node's end. Answers whether it was there.
pub(crate) fn remove(host: &mut Rtnl<Host>, name: &InterfaceName) -> Result<bool, Error> {
    let message = LinkUnspec::new_with_name(name.as_str()).build();
    let request = change(format!("remove link {name}"), Message::DelLink(message), 0);
    match host.execute(vec![request]) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Who has the name of an attachment's link.
#[derive(Debug)]
pub(crate) enum Named {
    Nobody,
    /// The attachment. Without an alias it is its link too: the ADD was killed before it had
    /// set one.
    Own(Link<Host>),
    Stranger(Link<Host>),
}

/// Looks at what has the name of the attachment's link.
pub(crate) fn find_own(
    host: &mut Rtnl<Host>,
    name: &InterfaceName,
    attachment: &Attachment,
) -> Result<Named, Error> {
    let is_own = |link: &Link<Host>| {
        let alias = link.alias.as_deref();
        link.is_veth() && alias.is_none_or(|alias| alias::is_of(alias, attachment))
    };
    Ok(match host.find_link(name)? {
        None => Named::Nobody,
        Some(link) if is_own(&link) => Named::Own(link),
        Some(link) => Named::Stranger(link),
    })
}

/// Removes the pair that has been looked at, and none that has got its name since.
pub(crate) fn remove_seen(host: &mut Rtnl<Host>, link: &Link<Host>) -> Result<(), Error> {
    let message = LinkUnspec::new_with_index(link.index.number).build();
    let request = change(
        format!("remove link {}", link.name),
        Message::DelLink(message),
        0,
    );
    match host.execute(vec![request]) {
        Err(error) if error.is_absent() => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Removes the pair like [`remove_seen`], and does `meanwhile` as soon as it is gone: the kernel
/// answers only after it has waited for an RCU barrier, 10 to 20 ms (`netdev_run_todo()`).
///
/// That it is gone the kernel tells under RTNL: after the removal, and after the last packet
/// that was still on its way through the pair. A pair that stays has nothing done meanwhile.
pub(crate) fn remove_seen_and(
    host: &mut Rtnl<Host>,
    link: &Link<Host>,
    meanwhile: impl FnOnce(),
) -> Result<(), Error> {
    let Ok(mut second) = kernel::open_host() else {
        remove_seen(host, link)?;
        meanwhile();
        return Ok(());
    };
    thread::scope(|scope| {
        // The kernel does all of it within the system call that sends the request.
        let removal = thread::Builder::new().spawn_scoped(scope, || remove_seen(host, link));
        // At the limit of processes a DEL is what helps: then one after the other.
        let Ok(removal) = removal else {
            remove_seen(&mut second, link)?;
            meanwhile();
            return Ok(());
        };
        let mut gone = false;
        while !gone && !removal.is_finished() {
            thread::sleep(POLL);
            gone = matches!(second.find_link_by_index(link.index), Ok(None));
        }
        let removed = || {
            let outcome = removal.join();
            outcome.unwrap_or_else(|panic| panic::resume_unwind(panic))
        };
        if gone {
            meanwhile();
            return removed();
        }
        removed()?;
        meanwhile();
        Ok(())
    })
}

/// A pair that is not of our making, seen from both ends.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) inside: Link<Pod>,
    pub(crate) outside: Link<Host>,
}

/// The pair behind an interface in the pod, if another plugin connected it to `bridge`: a
/// veth whose other end is a veth on the bridge and has that interface as its own other end.
///
/// Links of ours say in their alias whose they are: what has one is never foreign.
pub(crate) fn find_foreign(
    kernel: &mut Kernel,
    interface: &InterfaceName,
    bridge: &InterfaceName,
) -> Result<Option<Foreign>, Error> {
    let Some(inside) = kernel.pod.find_link(interface)?.filter(Link::is_veth) else {
        return Ok(None);
    };
    let Some(peer) = inside.peer else {
        return Ok(None);
    };
    let Some(outside) = kernel.host.find_link_by_index(Index::new(peer))? else {
        return Ok(None);
    };
    let Some(bridge) = kernel.host.find_link(bridge)? else {
        return Ok(None);
    };
    let mutual = outside.is_veth() && outside.peer == Some(inside.index.number);
    let named = outside
        .alias
        .as_deref()
        .is_some_and(|alias| alias.parse::<Alias>().is_ok());
    let is_foreign = mutual && !named && outside.master == Some(bridge.index.number);
    Ok(is_foreign.then_some(Foreign { inside, outside }))
}
