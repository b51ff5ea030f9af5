//! GC: of this network, nothing remains but what the runtime knows.

use cni_ipam::{alias::Alias, names};
use cni_protocol::{Command, Failure, GcRequest, ValidAttachment, delegate::Delegate, step};

use crate::{
    config::{self, Config},
    error::Error,
    ipam, kernel,
    object::{conntrack, firewall, masquerade, spoof, veth},
    plan::{self, Allocation},
};

/// Removes links, leases and rules whose attachment is not in the runtime's list.
///
/// Goes on past what fails and answers all failures. Without a list (which the specification
/// does not allow, and `cnitool gc` sends) only what is provably gone is reclaimed.
pub(crate) fn gc(request: &GcRequest) -> Result<(), Error> {
    let mut failures = Vec::new();
    // A lease that was taken over is all that tells of the rules that its pod had.
    let mut leases = true;
    let mut note = |outcome: Result<(), Error>| {
        failures.extend(outcome.err().map(|error| error.reply().to_string()));
    };
    match &request.valid {
        None => cni_protocol::log(
            &"GC came without cni.dev/valid-attachments: only leases whose owner is provably gone are reclaimed",
        ),
        Some(valid) => {
            note(remove_links(request, valid));
            let removed = remove_predecessors(request, valid);
            leases = removed.is_ok();
            note(removed);
            if valid.is_empty() {
                step("masquerade");
                note(remove_rules(request));
                step("firewall");
                note(remove_accepts(request));
            }
        }
    }
    if leases {
        step("lease");
        note(release_leases(request));
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Error::Garbage(failures))
    }
}

/// Removes the pairs of attachments that are not in the list, by their alias, and what the
/// check of what they send and connection tracking knew of them.
fn remove_links(request: &GcRequest, valid: &[ValidAttachment]) -> Result<(), Error> {
    step("open");
    let links = cni_ipam::links::Links::open()
        .and_then(|mut links| links.aliases())
        .map_err(Error::Connect)?;
    let mut host = kernel::open_host()?;
    let mut failed = None;
    for (name, alias) in links {
        let is_valid = valid.iter().any(|attachment| is_of(&alias, attachment));
        if alias.network == *request.config.name()
            && !is_valid
            && let Ok(name) = name.parse()
        {
            step("veth");
            failed = veth::remove(&mut host, &name).err().or(failed);
            step("conntrack");
            conntrack::forget(&alias.addresses);
        }
    }
    step("spoof");
    failed = spoof::collect_garbage(&mut host).err().or(failed);
    failed.map_or(Ok(()), Err)
}

fn is_of(alias: &Alias, attachment: &ValidAttachment) -> bool {
    let key = attachment.container_id.parse().map(|id| names::id_key(&id));
    alias.interface.as_str() == attachment.interface
        && key.is_ok_and(|key| key == alias.container_key)
}

/// Removes what the Go plugin made for pods that were taken over, before their leases end.
fn remove_predecessors(request: &GcRequest, valid: &[ValidAttachment]) -> Result<(), Error> {
    if !config::ipam_type(&request.config).is_some_and(config::is_built_in) {
        return Ok(());
    }
    let dir = cni_ipam::data_dir(&request.config);
    let stale = cni_ipam::stale_predecessors(&dir, request.config.name(), valid)?;
    let outcomes = stale.iter().map(masquerade::remove_predecessor);
    outcomes.fold(Ok(()), Result::and)
}

/// Without pods, rules that the configuration does not ask for have no use.
fn remove_rules(request: &GcRequest) -> Result<(), Error> {
    let network = request.config.name();
    let config = Config::parse(&request.config, &cni_protocol::Args::default())?;
    if let config::Masquerade::Unknown(unusable) = &config.masquerade {
        masquerade::note_kept(network, unusable);
        return Ok(());
    }
    let pods = match &config.ipam {
        config::Ipam::BuiltIn(ipam) => ipam::pod_networks(ipam),
        config::Ipam::None | config::Ipam::Delegated(_) => Vec::new(),
    };
    let wanted = plan::rules(
        &config,
        network,
        &Allocation {
            pods,
            ..Allocation::default()
        },
    );
    masquerade::collect_garbage(network, &wanted)
}

/// The same for what `forwardAccept` put into the node's firewall.
fn remove_accepts(request: &GcRequest) -> Result<(), Error> {
    let config = Config::parse(&request.config, &cni_protocol::Args::default())?;
    let gateway = plan::gateway_holder(&config)?;
    let wanted = std::iter::once(&config.bridge).chain(&gateway);
    let wanted: Vec<_> = wanted.filter(|_| config.forward_accept).collect();
    firewall::collect_garbage(request.config.name(), &wanted)
}

fn release_leases(request: &GcRequest) -> Result<(), Error> {
    match config::ipam_type(&request.config) {
        None => Ok(()),
        Some(name) if config::is_built_in(name) => {
            let dir = cni_ipam::data_dir(&request.config);
            cni_ipam::gc(&dir, request.config.name(), request.valid.as_deref())?;
            Ok(())
        }
        Some(name) => {
            Ok(Delegate::find(name, &request.plugin_path)?.call(Command::Gc, &request.config)?)
        }
    }
}
