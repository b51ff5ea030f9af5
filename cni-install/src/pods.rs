//! The pods that a network connects: by the aliases of their links, and by their leases where
//! another main plugin made the links.

use std::collections::BTreeMap;

use cni_ipam::{DEFAULT_DATA_DIR, DataDir, inspect, links::Links};
use cni_protocol::{NetworkConfig, NetworkName};
use serde_json::Value;

use crate::{conflist, error::Error};

/// So many are named; the others are counted.
const EXAMPLES: usize = 3;

/// Fails when a pod is connected: by any network, since all need the executables. `conflist`
/// tells where the leases are that are not where they are by default.
pub(crate) fn refuse_connected(conflist: Option<&str>) -> Result<(), Error> {
    let mut networks = of_links()?;
    let default = DataDir::new(DEFAULT_DATA_DIR);
    for network in inspect::networks(default.path()).map_err(|error| leases(&error))? {
        of_leases(&network, &default, &mut networks)?;
    }
    if let Some((network, data_dir)) = conflist.and_then(network) {
        of_leases(&network, &data_dir, &mut networks)?;
    }
    networks.retain(|_network, pods| !pods.is_empty());
    let Some((network, pods)) = networks.into_iter().next() else {
        return Ok(());
    };
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

/// Its name, and where its store is. A broken configuration tells neither.
fn network(conflist: &str) -> Option<(NetworkName, DataDir)> {
    let list: Value = serde_json::from_str(conflist).ok()?;
    let mut config = serde_json::Map::new();
    config.insert("name".to_owned(), list.get("name")?.clone());
    let plugins = list.get("plugins")?.as_array()?;
    let mut plugins = plugins.iter().filter_map(Value::as_object);
    if let Some(ipam) = plugins.find_map(|plugin| conflist::member(plugin, "ipam")) {
        config.insert("ipam".to_owned(), ipam.clone());
    }
    let config = NetworkConfig::parse(Value::Object(config).to_string().into_bytes()).ok()?;
    Some((config.name().clone(), cni_ipam::data_dir(&config)))
}

/// Container and what to call it.
type Pods = BTreeMap<String, String>;
type Networks = BTreeMap<NetworkName, Pods>;

fn leases(error: &cni_ipam::Error) -> Error {
    Error::Leases(error.to_string())
}

fn of_links() -> Result<Networks, Error> {
    let aliases = Links::open()
        .and_then(|mut links| links.aliases())
        .map_err(|error| Error::Leases(error.to_string()))?;
    let mut networks = Networks::new();
    for (_link, alias) in aliases {
        let name = alias.pod.unwrap_or_else(|| alias.container_key.clone());
        let pods = networks.entry(alias.network).or_default();
        pods.insert(alias.container_key, name);
    }
    Ok(networks)
}

fn of_leases(
    network: &NetworkName,
    data_dir: &DataDir,
    networks: &mut Networks,
) -> Result<(), Error> {
    let pods = networks.entry(network.clone()).or_default();
    for record in inspect::in_use(data_dir, network).map_err(|error| leases(&error))? {
        if let Some(container) = record.container {
            let name = record.pod.unwrap_or_else(|| container.clone());
            pods.insert(container, name);
        }
    }
    Ok(())
}
