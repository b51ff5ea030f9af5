//! `cni-bridge reconcile`: what an ADD would put right, without an ADD, for every network of
//! the node that this plugin serves.
//!
//! Compares, brings right, compares again; says each thing that was not as it should be.
//! Called by a person, a systemd unit or a hook of a firewall, at any time and by several at
//! once: everything it does is done by ADDs too.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use cni_protocol::{Args, Failure, NetworkConfig};

use crate::{
    config::{Config, Ipam, Masquerade, Mtu},
    error::Error,
    heal::{self, Pod},
    kernel,
    netconf::{self, Source},
    object::{bridge, firewall, forwarding, masquerade, spoof, uplink, vlan},
    plan::{Shared, Surroundings},
    rtnl::{Host, Rtnl},
};

/// Where the runtime's configurations are.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";

/// What is asked for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Options {
    /// Files and directories with configurations.
    pub(crate) paths: Vec<PathBuf>,
    /// Only say what is wrong.
    pub(crate) dry_run: bool,
}

/// What became of it, and the words for it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) text: String,
    /// Something is not as it should be, still.
    pub(crate) problems: bool,
}

impl Report {
    /// A text that is longer never fails to be.
    pub(crate) fn line(&mut self, words: std::fmt::Arguments<'_>) {
        self.text.write_fmt(words).unwrap_or_default();
        self.text.push('\n');
    }

    pub(crate) fn problem(&mut self, words: std::fmt::Arguments<'_>) {
        self.line(words);
        self.problems = true;
    }
}

/// Serves all networks that the files describe, and goes on past one that fails.
pub(crate) fn reconcile(options: &Options) -> Report {
    let mut report = Report::default();
    each(&options.paths, &mut report, |source, report| {
        network(source, options.dry_run, report);
    });
    report
}

/// Goes through the networks of this plugin in these files and directories.
pub(crate) fn each(
    paths: &[PathBuf],
    report: &mut Report,
    mut work: impl FnMut(&Source, &mut Report),
) {
    let mut networks = 0;
    for path in paths {
        match netconf::read(path) {
            Ok(found) => {
                for problem in found.problems {
                    report.problem(format_args!("{problem}"));
                }
                for source in found.sources {
                    networks += 1;
                    work(&source, report);
                }
            }
            Err(error) => report.problem(format_args!("cannot read {}: {error}", path.display())),
        }
    }
    if networks == 0 && !report.problems {
        let places: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        report.line(format_args!(
            "no network of this plugin in {}",
            places.join(", ")
        ));
    }
}

/// How a network is called in a report.
pub(crate) fn heading(source: &Source) -> String {
    format!("network {} ({})", source.config.name(), shown(&source.file))
}

fn network(source: &Source, dry_run: bool, report: &mut Report) {
    let heading = heading(source);
    match settle(&source.config, dry_run) {
        Ok(outcome) => {
            report.line(format_args!("{heading}: {}", outcome.summary()));
            for difference in &outcome.restored {
                report.line(format_args!("  restored: {difference}"));
            }
            for difference in &outcome.left {
                report.problem(format_args!("  wrong: {difference}"));
            }
            for note in &outcome.notes {
                report.line(format_args!("  note: {note}"));
            }
        }
        Err(error) => report.problem(format_args!("{heading}: {}", error.reply())),
    }
}

fn shown(file: &Path) -> String {
    file.file_name().map_or_else(
        || file.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// What was found and done in one network.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pods: usize,
    restored: Vec<String>,
    left: Vec<String>,
    notes: Vec<String>,
}

impl Outcome {
    fn summary(&self) -> String {
        let pods = match self.pods {
            1 => "1 pod".to_owned(),
            number => format!("{number} pods"),
        };
        let state = match (self.restored.len(), self.left.len()) {
            (0, 0) => "all as it should be".to_owned(),
            (restored, 0) => format!("{restored} restored"),
            (0, left) => format!("{left} wrong"),
            (restored, left) => format!("{restored} restored, {left} wrong"),
        };
        format!("{pods}, {state}")
    }
}

/// Compares, does what ADDs do where `dry_run` does not forbid it, and compares again.
pub(crate) fn settle(network: &NetworkConfig, dry_run: bool) -> Result<Outcome, Error> {
    let config = Config::parse(network, &Args::default())?;
    let pods = heal::pods(network.name())?;
    let mut host = kernel::open_host()?;
    let mut outcome = Outcome {
        pods: pods.len(),
        ..Outcome::default()
    };
    if pods.is_empty() && bridge::find(&mut host, &config.bridge)?.is_none() {
        outcome.notes.push("no pod has been here yet".to_owned());
        return Ok(outcome);
    }
    if let Ipam::Delegated(ipam) = &config.ipam {
        outcome.notes.push(format!(
            "gateway addresses and masquerade rules come from {ipam}'s answers: the next ADD restores them"
        ));
    }
    let before = differences(&config, network, &pods, &mut host)?;
    if dry_run || before.is_empty() {
        outcome.left = before;
        return Ok(outcome);
    }
    restore(&config, network, &pods, &mut host)?;
    outcome.left = differences(&config, network, &pods, &mut host)?;
    outcome.restored = before;
    outcome
        .restored
        .retain(|difference| !outcome.left.contains(difference));
    Ok(outcome)
}

fn shared(
    config: &Config,
    network: &NetworkConfig,
    pods: &[Pod],
    host: &mut Rtnl<Host>,
) -> Result<Shared, Error> {
    let allocation = heal::allocation(config, pods);
    let bridge = bridge::find(host, &config.bridge)?;
    let uplink_mtu = match config.mtu {
        Mtu::Bytes(_) => None,
        Mtu::Auto => {
            let addresses = allocation.addresses.iter();
            let addresses: Vec<_> = addresses.map(|found| found.address.addr()).collect();
            uplink::mtu(host, &addresses)?
        }
    };
    let around = Surroundings {
        uplink_mtu,
        bridge_mtu: bridge.map(|bridge| bridge.mtu),
    };
    Shared::new(config, network.name(), &allocation, around)
}

/// Everything that is not as an ADD leaves it, in words.
fn differences(
    config: &Config,
    network: &NetworkConfig,
    pods: &[Pod],
    host: &mut Rtnl<Host>,
) -> Result<Vec<String>, Error> {
    let plan = shared(config, network, pods, host)?;
    let mut differences = Vec::new();
    if let Masquerade::Unknown(unusable) = &config.masquerade {
        let why = Error::MasqueradeFile(Arc::clone(unusable)).reply();
        differences.push(format!("the masquerade rules stay as they are: {why}"));
    }
    match bridge::find(host, &config.bridge)? {
        None => differences.push(format!("bridge {} is missing", config.bridge)),
        Some(bridge) => {
            differences.extend(bridge::check(host, &bridge, &plan.bridge)?);
            if let Some(gateway) = &plan.bridge.gateway_link {
                differences.extend(vlan::check_gateway_link(host, &bridge, gateway)?);
            }
            differences.extend(heal::check_ports(host, pods, &bridge, &plan.port)?);
        }
    }
    differences.extend(forwarding::check(plan.bridge.forwarding())?);
    differences.extend(masquerade::check(&plan.masquerade)?);
    differences.extend(spoof::check_all(&heal::guards(config, pods))?);
    differences.extend(firewall::check(host, &scope(config, network, &plan))?);
    Ok(differences)
}

fn scope<'a>(
    config: &'a Config,
    network: &'a NetworkConfig,
    plan: &'a Shared,
) -> firewall::Scope<'a> {
    firewall::Scope {
        network: network.name(),
        bridge: &config.bridge,
        gateway: plan.gateway.as_ref(),
        pods: &plan.pods,
        accept: config.forward_accept,
    }
}

fn restore(
    config: &Config,
    network: &NetworkConfig,
    pods: &[Pod],
    host: &mut Rtnl<Host>,
) -> Result<(), Error> {
    let plan = shared(config, network, pods, host)?;
    let found = bridge::find(host, &config.bridge)?;
    let bridge = bridge::ensure(host, found, &plan.bridge)?.bridge;
    bridge::silence(&plan.bridge)?;
    forwarding::ensure(host, plan.bridge.forwarding())?;
    masquerade::ensure(&plan.masquerade)?;
    firewall::ensure(host, &scope(config, network, &plan))?;
    spoof::restore(&heal::guards(config, pods))?;
    heal::restore_ports(host, pods, &bridge, &plan.port)
}
