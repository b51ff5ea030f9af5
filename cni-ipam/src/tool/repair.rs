//! `verify`, `repair` and `release`: is the store healthy, and how it gets so.

use std::net::IpAddr;

use cni_ipam::{
    inspect::{self, Occupation, Problem},
    repair::{self, Repair},
};
use cni_protocol::NetworkName;
use serde_json::{Value, json};

use super::{
    Failed, Health, Options,
    output::{Colour, Output},
};

pub(super) fn verify(options: &Options, output: &mut Output) -> Result<Health, Failed> {
    let mut networks = Vec::new();
    for network in options.networks()? {
        match inspect::verify(&options.data_dir, &network)? {
            Some(problems) => networks.push((network, problems)),
            None => options.complain_if_named()?,
        }
    }
    let is_healthy = networks.iter().all(|(_, problems)| problems.is_empty());
    if options.json {
        let networks: Vec<Value> = networks
            .iter()
            .map(|(network, problems)| {
                json!({ "network": network.as_str(), "problems": texts(problems) })
            })
            .collect();
        output.json(&json!({ "healthy": is_healthy, "networks": networks }));
    } else {
        for (network, problems) in &networks {
            print(network, "problem", Colour::Red, problems, output);
            if problems.is_empty() {
                output.line(&format!("{network}: healthy"));
            }
        }
        if !is_healthy {
            output.line("`cni-ipam repair --dry-run` shows what can be done");
        }
    }
    Ok(health(is_healthy))
}

pub(super) fn repair(
    dry_run: bool,
    options: &Options,
    output: &mut Output,
) -> Result<Health, Failed> {
    let how = if dry_run { Repair::DryRun } else { Repair::Do };
    let mut networks = Vec::new();
    for network in options.networks()? {
        match repair::repair(&options.data_dir, &network, how)? {
            Some(repaired) => networks.push((network, repaired)),
            None => options.complain_if_named()?,
        }
    }
    let is_healthy = networks
        .iter()
        .all(|(_, repaired)| repaired.left.is_empty() && (!dry_run || repaired.solved.is_empty()));
    if options.json {
        let networks: Vec<Value> = networks
            .iter()
            .map(|(network, repaired)| {
                json!({
                    "network": network.as_str(),
                    "repaired": texts(&repaired.solved),
                    "left": texts(&repaired.left),
                })
            })
            .collect();
        output.json(&json!({ "healthy": is_healthy, "dryRun": dry_run, "networks": networks }));
        return Ok(health(is_healthy));
    }
    let (solved, left) = if dry_run {
        ("would repair", "would not repair")
    } else {
        ("repaired", "left")
    };
    for (network, repaired) in &networks {
        print(network, solved, Colour::Green, &repaired.solved, output);
        print(network, left, Colour::Red, &repaired.left, output);
        if repaired.solved.is_empty() && repaired.left.is_empty() {
            output.line(&format!("{network}: healthy, nothing to repair"));
        }
    }
    let lost = networks.iter().flat_map(|(_, repaired)| &repaired.left);
    if lost
        .filter(|problem| matches!(problem, Problem::Quarantined(_)))
        .count()
        > 0
        && !dry_run
    {
        output.line("if you know that nobody has an address: `cni-ipam release <IP>`");
    }
    Ok(health(is_healthy))
}

pub(super) fn release(
    address: IpAddr,
    force: bool,
    options: &Options,
    output: &mut Output,
) -> Result<Health, Failed> {
    let is_wanted = |state| state != Occupation::Free;
    let views = options.views()?;
    let mut found = views.iter().flat_map(|view| {
        let records = view.records.iter().map(move |record| (view, record));
        records.filter(|(_, record)| record.address == address && is_wanted(record.state))
    });
    let Some((view, record)) = found.next() else {
        return Err(Failed::Refused(format!("{address} is free already")));
    };
    if let Some((other, _)) = found.next() {
        return Err(Failed::Usage(format!(
            "networks {} and {} both have {address}: say which with --network",
            view.network, other.network
        )));
    }
    if let (Some(link), Some(true), false) = (&record.link, record.link_is_present, force) {
        return Err(Failed::Refused(format!(
            "{address} is in use: its link {link} is there; delete the pod, or say --force"
        )));
    }
    let freed = repair::release_address(&options.data_dir, &view.network, address)?;
    let Some((container, interface)) = freed else {
        return Err(Failed::Refused(format!("{address} is free already")));
    };
    if options.json {
        output.json(&json!({
            "network": view.network.as_str(),
            "released": address.to_string(),
            "containerID": container,
            "interface": interface,
        }));
    } else {
        output.line(&format!(
            "{address} of network {} is free; it was container {container}'s ({interface})",
            view.network
        ));
    }
    Ok(Health::Good)
}

fn health(is_healthy: bool) -> Health {
    if is_healthy {
        Health::Good
    } else {
        Health::Problems
    }
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn print(
    network: &NetworkName,
    what: &str,
    colour: Colour,
    problems: &[Problem],
    output: &mut Output,
) {
    let what = output.paint(colour, what);
    for problem in problems {
        output.line(&format!("{network}: {what}: {problem}"));
    }
}
