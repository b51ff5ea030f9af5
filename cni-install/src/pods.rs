//! The pods that a network connects: by the aliases of their links, and by their leases where
//! another main plugin made the links.

use std::collections::BTreeMap;

use cni_ipam::{
    DataDir,
    inspect::{self, Occupation},
    links::Links,
};
use cni_protocol::{NetworkConfig, NetworkName};
use serde_json::Value;

use crate::error::Error;

/// So many are named; the others are counted.
const EXAMPLES: usize = 3;

/// Fails when a pod is connected by the network of this configuration.
pub(crate) fn refuse_connected(conflist: &str) -> Result<(), Error> {
    // A broken configuration connects nobody new, and tells nothing of who is there.
    let Some((network, data_dir)) = network(conflist) else {
        return Ok(());
    };
    let mut pods = of_links(&network)?;
    pods.extend(of_leases(&network, &data_dir)?);
    if pods.is_empty() {
        return Ok(());
    }
    let mut examples: Vec<&str> = pods.values().map(String::as_str).take(EXAMPLES).collect();
    if pods.len() > EXAMPLES {
        examples.push("...");
    }
    Err(Error::Pods {
        network: network.to_string(),
        count: pods.len(),
        examples: examples.join(", "),
    })
}

/// Its name, and where its store is.
fn network(conflist: &str) -> Option<(NetworkName, DataDir)> {
    let list: Value = serde_json::from_str(conflist).ok()?;
    let mut config = serde_json::Map::new();
    config.insert("name".to_owned(), list.get("name")?.clone());
    let plugins = list.get("plugins")?.as_array()?;
    if let Some(ipam) = plugins.iter().find_map(|plugin| plugin.get("ipam")) {
        config.insert("ipam".to_owned(), ipam.clone());
    }
    let config = NetworkConfig::parse(Value::Object(config).to_string().into_bytes()).ok()?;
    Some((config.name().clone(), cni_ipam::data_dir(&config)))
}

/// Container and what to call it.
type Pods = BTreeMap<String, String>;

fn of_links(network: &NetworkName) -> Result<Pods, Error> {
    let aliases = Links::open()
        .and_then(|mut links| links.aliases())
        .map_err(|error| Error::Leases(error.to_string()))?;
    let ours = aliases
        .into_iter()
        .filter(|(_, alias)| alias.network == *network);
    Ok(ours
        .map(|(_, alias)| {
            let name = alias.pod.unwrap_or_else(|| alias.container_key.clone());
            (alias.container_key, name)
        })
        .collect())
}

fn of_leases(network: &NetworkName, data_dir: &DataDir) -> Result<Pods, Error> {
    let view =
        inspect::view(data_dir, network).map_err(|error| Error::Leases(error.to_string()))?;
    let records = view.into_iter().flat_map(|view| view.records);
    let taken = records.filter(|record| {
        let is_used = matches!(record.state, Occupation::Used | Occupation::Condemned);
        // A lease whose link is known to be gone has no pod.
        is_used && record.link_is_present != Some(false)
    });
    Ok(taken
        .filter_map(|record| {
            let container = record.container?;
            let name = record.pod.unwrap_or_else(|| container.clone());
            Some((container, name))
        })
        .collect())
}
