//! `cni-bridge remove`: the last of a network on this node, when its pods are gone. Leases that
//! nobody gave back, rules, tables, the bridge.
//!
//! For those who take the plugin off a node: a person, or cni-install. A runtime never asks
//! for it, and while a pod is connected nothing is removed.

use std::path::PathBuf;

use cni_protocol::{Args, Failure, NetworkConfig};

use crate::{
    config::{Config, Ipam},
    error::Error,
    heal, kernel,
    object::{
        bridge::{self, Unused},
        firewall, masquerade, spoof,
    },
    plan,
    reconcile::{self, Report},
};

/// Serves all networks that the files describe, and goes on past one that fails.
pub(crate) fn remove(paths: &[PathBuf]) -> Report {
    let mut report = Report::default();
    reconcile::each(paths, &mut report, |source, report| {
        let heading = reconcile::heading(source);
        match network(&source.config) {
            Ok(done) => {
                report.line(format_args!("{heading}: {} removed", done.removed.len()));
                for thing in &done.removed {
                    report.line(format_args!("  removed: {thing}"));
                }
                for thing in &done.stays {
                    report.line(format_args!("  stays: {thing}"));
                }
            }
            Err(error) => report.problem(format_args!("{heading}: {}", error.reply())),
        }
    });
    report
}

/// What became of a network's things, in words.
#[derive(Debug, Default)]
struct Done {
    removed: Vec<String>,
    stays: Vec<String>,
}

fn network(network: &NetworkConfig) -> Result<Done, Error> {
    let config = Config::parse(network, &Args::default())?;
    let name = network.name();
    refuse_connected(&config, network)?;
    let mut done = Done::default();
    if let Ipam::BuiltIn(_) = &config.ipam {
        // Only what is provably nobody's: an ADD may come at any moment.
        let ended = cni_ipam::gc(&cni_ipam::data_dir(network), name, None)?.released;
        let lease = |address| format!("lease of {address}");
        done.removed.extend(ended.into_iter().map(lease));
    }
    let mut host = kernel::open_host()?;
    masquerade::collect_garbage(name, &[])?;
    firewall::collect_garbage(name, &[])?;
    spoof::collect_garbage(&mut host)?;
    done.removed.extend(masquerade::remove_table()?);
    done.removed.extend(spoof::remove_table()?);
    let plan = plan::bridge(&config, 0, Vec::new())?;
    let gateway = plan::gateway_holder(&config)?;
    let gateway = gateway.filter(|holder| *holder != plan.name);
    match bridge::remove_unused(&mut host, &plan.name, gateway.as_ref())? {
        Unused::Absent => {}
        Unused::Removed => done.removed.push(format!("bridge {}", plan.name)),
        Unused::Stays(why) => done.stays.push(format!("bridge {}: {why}", plan.name)),
    }
    // Whoever came meanwhile gets back what was taken from under him.
    if !heal::pods(name)?.is_empty() {
        reconcile::settle(network, false)?;
        refuse_connected(&config, network)?;
    }
    Ok(done)
}

/// Fails while a pod is connected: by its link, or by a lease of which it is not known that
/// its pod is gone. Pods of another plugin that were taken over have only that, and so have
/// those that cannot be seen from this network namespace.
fn refuse_connected(config: &Config, network: &NetworkConfig) -> Result<(), Error> {
    let name = network.name();
    let mut pods = heal::pods(name)?.len();
    if let Ipam::BuiltIn(_) = &config.ipam {
        pods = pods.max(cni_ipam::inspect::in_use(&cni_ipam::data_dir(network), name)?.len());
    }
    if pods > 0 {
        return Err(Error::PodsConnected {
            network: name.clone(),
            pods,
        });
    }
    Ok(())
}
