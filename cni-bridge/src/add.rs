//! ADD: a pod gets its place on the bridge, or everything stays as it was.

use cni_protocol::{AddRequest, AddResult, Dns, Failure, Interface, IpConfig, step};

use crate::{
    config::{Config, Ipam, Masquerade, Mtu, PodEnd},
    error::Error,
    heal, ipam,
    kernel::{Kernel, OwnNetns},
    mac::Mac,
    object::{
        bridge, bridge::Ensured, firewall, forwarding, masquerade, neighbour, pod, spoof, uplink,
        veth, veth::Veth,
    },
    plan::{Allocation, Plan, PortPlan, Surroundings},
    rtnl::{Host, Link, Rtnl},
    undo::UndoLog,
};

/// What has been made, as the result tells it.
struct Made {
    bridge: Ensured,
    veth: Veth,
    plan: Plan,
    dns: Dns,
}

/// Connects the attachment.
///
/// Everything that can be refused is refused before the first change; a later failure is
/// undone, newest step first. What cannot be undone is said on stderr.
pub(crate) fn add(request: &AddRequest) -> Result<AddResult, Error> {
    let config = Config::parse(&request.config, &request.args)?;
    let before = request.config.prev_result().map_err(Error::PrevResult)?;
    if matches!(config.ipam, Ipam::None) {
        // Old versions have no result without an address.
        before
            .clone()
            .unwrap_or_default()
            .ensure_representable(request.config.version())?;
    }
    step("open");
    let mut kernel = Kernel::open(&request.netns, OwnNetns::when(request.netns_override))?;
    let found = bridge::find(&mut kernel.host, &config.bridge)?;
    if found.is_none() || matches!(config.ipam, Ipam::Delegated(_)) {
        // Later the kernel says so itself. But a bridge that is made now would stay, and
        // another IPAM, told of the failure, would release what the live attachment has.
        veth::refuse_existing(&mut kernel, &request.attachment)?;
    }
    let mut undo = UndoLog::default();
    let outcome = apply(request, &config, &mut kernel, found, &mut undo)
        .and_then(|made| result(request, made, before.unwrap_or_default()));
    if outcome.is_err() {
        step("undo");
        for (step, error) in undo.unwind(request, &mut kernel) {
            cni_protocol::log(&format_args!(
                "cannot {step} after a failed ADD: {}",
                error.reply()
            ));
        }
    }
    outcome
}

fn apply(
    request: &AddRequest,
    config: &Config,
    kernel: &mut Kernel,
    found: Option<Link<Host>>,
    undo: &mut UndoLog,
) -> Result<Made, Error> {
    step("lease");
    let allocation = ipam::lease(request, config, kernel.home, undo)?;
    if let Masquerade::Unknown(unusable) = &config.masquerade {
        masquerade::keep(
            &request.attachment.network,
            Some(&allocation.pods),
            unusable,
        )?;
    }
    let around = surroundings(config, kernel, found.as_ref(), &allocation)?;
    let plan = Plan::new(
        config,
        &request.attachment,
        request.args.pod(),
        &allocation,
        around,
    )?;
    step("bridge");
    let bridge = bridge::ensure(&mut kernel.host, found, &plan.bridge)?;
    let mut changed = bridge.changed;
    changed |= forwarding::ensure(&mut kernel.host, plan.bridge.forwarding())?;
    step("firewall");
    firewall::ensure(&mut kernel.host, &firewall::Scope::of(&plan))?;
    step("veth");
    let veth = veth::create(kernel, &plan.veth, &bridge.bridge, undo)?;
    step("lease");
    ipam::confirm(request, config, &allocation)?;
    if let Some(guard) = &plan.veth.guard {
        step("spoof");
        changed |= spoof::create(guard, undo)?;
        veth::bring_up(&mut kernel.host, &veth.host)?;
    }
    step("pod");
    pod::configure(kernel, &plan.veth.pod, veth.pod, &plan.pod)?;
    step("masquerade");
    changed |= masquerade::ensure(&plan.masquerade)?;
    if changed {
        heal_others(request, config, &mut kernel.host, &bridge.bridge);
    }
    if config.pod_end == PodEnd::Up {
        step("carrier");
        veth::await_carrier(&mut kernel.host, &bridge.bridge, &veth.host)?;
        announce(kernel, &veth, &plan)?;
    }
    let dns = if config.dns.is_empty() {
        allocation.dns
    } else {
        config.dns.clone()
    };
    Ok(Made {
        bridge,
        veth,
        plan,
        dns,
    })
}

/// Something that all pods share was not as it should be: then their ports may not be either.
///
/// This pod is well whatever comes of it.
fn heal_others(request: &AddRequest, config: &Config, host: &mut Rtnl<Host>, bridge: &Link<Host>) {
    let outcome = heal::pods(&request.attachment.network).and_then(|pods| {
        spoof::restore(&heal::guards(config, &pods))?;
        heal::restore_ports(host, &pods, bridge, &PortPlan::new(config))
    });
    if let Err(error) = outcome {
        cni_protocol::log(&format_args!(
            "cannot put the ports of the other pods right: {}",
            error.reply()
        ));
    }
}

/// That the others learn of the pod some seconds later is no reason to have none; that it is
/// gone is one.
fn announce(kernel: &mut Kernel, veth: &Veth, plan: &Plan) -> Result<(), Error> {
    let of_pod = (plan.pod.addresses.as_slice(), plan.veth.pod_mac);
    let Err(error) = neighbour::announce(kernel, &plan.veth.pod, veth.pod, of_pod) else {
        return Ok(());
    };
    if kernel.pod.find_link_by_index(veth.pod)?.is_none() {
        return Err(Error::LinkVanished(veth.host.name.clone()));
    }
    cni_protocol::log(&format_args!(
        "those who knew the pod's addresses before may not reach it at once: {}",
        error.reply()
    ));
    Ok(())
}

fn surroundings(
    config: &Config,
    kernel: &mut Kernel,
    found: Option<&Link<Host>>,
    allocation: &Allocation,
) -> Result<Surroundings, Error> {
    let uplink_mtu = match config.mtu {
        Mtu::Bytes(_) => None,
        Mtu::Auto => {
            let addresses: Vec<_> = allocation
                .addresses
                .iter()
                .map(|allocated| allocated.address.addr())
                .collect();
            uplink::mtu(&mut kernel.host, &addresses)?
        }
    };
    Ok(Surroundings {
        uplink_mtu,
        bridge_mtu: found.map(|bridge| bridge.mtu),
    })
}

/// What earlier plugins of the chain made comes first; then bridge, node's end, pod's end,
/// in the order that later plugins expect.
fn result(request: &AddRequest, made: Made, before: AddResult) -> Result<AddResult, Error> {
    let Made {
        bridge,
        veth,
        plan,
        dns,
    } = made;
    let on_node = |link: &Link<Host>| Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| Mac(mac).to_string()),
        mtu: Some(link.mtu),
        ..Interface::default()
    };
    let in_pod = Interface {
        name: plan.veth.pod.to_string(),
        mac: Some(plan.veth.pod_mac.to_string()),
        mtu: Some(plan.veth.mtu),
        sandbox: Some(request.netns.display().to_string()),
        ..Interface::default()
    };
    let mut result = before;
    result
        .interfaces
        .extend([on_node(&bridge.bridge), on_node(&veth.host), in_pod]);
    let pod_end = result.interfaces.len() - 1;
    result
        .interfaces
        .extend(bridge.gateway_link.as_ref().map(on_node));
    let addresses = plan.pod.addresses.iter().zip(&plan.pod.gateways);
    result
        .ips
        .extend(addresses.map(|(address, gateway)| IpConfig {
            interface: Some(pod_end),
            address: *address,
            gateway: *gateway,
        }));
    result.routes.extend(plan.pod.routes);
    if !dns.is_empty() {
        result.dns = dns;
    }
    result.ensure_representable(request.config.version())?;
    Ok(result)
}
