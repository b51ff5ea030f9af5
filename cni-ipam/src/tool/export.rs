//! `export`: the way back to host-local, with the pods running.

use std::path::Path;

use cni_ipam::Exported;
use cni_protocol::NetworkName;
use serde_json::{Value, json};

use super::{Failed, Health, Options, output::Output};

pub(super) fn export(to: &Path, options: &Options, output: &mut Output) -> Result<Health, Failed> {
    let mut networks = options.networks()?;
    if options.network.is_none() {
        // Those without a store, too: after a boot, host-local is kept out still.
        networks.extend(cni_ipam::taken_over(to)?);
        networks.sort_unstable();
        networks.dedup();
    }
    let mut done = Vec::new();
    for network in networks {
        match cni_ipam::export(&options.data_dir, &network, to)? {
            Some(exported) => {
                if !options.json {
                    print(&network, &exported, output);
                }
                done.push((network, exported));
            }
            None => options.complain_if_named()?,
        }
    }
    if options.json {
        let networks: Vec<Value> = done.iter().map(to_json).collect();
        output.json(&json!({ "networks": networks }));
    } else if done.is_empty() {
        let (from, to) = (options.data_dir.path().display(), to.display());
        output.line(&format!(
            "no network has leases in {from}, and none was taken over from {to}"
        ));
    }
    Ok(Health::Good)
}

fn print(network: &NetworkName, exported: &Exported, output: &mut Output) {
    let addresses = match exported.addresses {
        1 => "1 address is".to_owned(),
        number => format!("{number} addresses are"),
    };
    let directory = exported.directory.display();
    output.line(&format!(
        "{network}: {addresses} host-local's now, in {directory}"
    ));
    for address in &exported.unnamed {
        output.line(&format!(
            "{network}: {address}: of its container's long id only a part is known: remove {directory}/{address} when that pod is gone"
        ));
    }
}

fn to_json((network, exported): &(NetworkName, Exported)) -> Value {
    let unnamed = exported.unnamed.iter().map(ToString::to_string);
    json!({
        "network": network.as_str(),
        "directory": exported.directory.display().to_string(),
        "addresses": exported.addresses,
        "withoutWholeId": unnamed.collect::<Vec<_>>(),
    })
}
