//! What the tests look at, in a cluster and on its nodes.

use harness::{Cluster, Netns, State, cluster::wait_for};
use serde_json::Value;

/// A Deployment of two pods on each node behind a Service, and a pod that is alone behind one.
pub(crate) const WEB: &str = include_str!("web.yaml");

/// The Deployment alone, under another name.
pub(crate) fn web_called(name: &str) -> String {
    let deployment = WEB.split("---").next().expect("a deployment");
    deployment.replace("web", name)
}

/// What a node has of the plugins: links, addresses, routes, rules, leases. The tables of the
/// kubelet and of kube-proxy come and change as they like, and so do the runtime's files.
pub(crate) fn network(cluster: &Cluster, number: u8) -> State {
    let state = cluster.state(number).without(&["lease /var/lib/cni/"]);
    let mut ours = true;
    let lines = state.text().lines().filter(|line| {
        if let Some(table) = line.strip_prefix("nft table ") {
            ours = table.contains("cni-bridge");
        }
        ours
    });
    State::from_text(&lines.collect::<Vec<_>>().join("\n"))
}

/// The leases of a node, one a line.
pub(crate) fn leases(cluster: &Cluster, number: u8) -> Vec<String> {
    let state = cluster.state(number).only(&["lease /run/cni-ipam/cbr0/"]);
    let lines = state.text().lines();
    let taken = lines.filter(|line| line.contains(": A "));
    taken.map(str::to_owned).collect()
}

/// On both nodes.
pub(crate) fn no_lease_is_left(cluster: &Cluster) {
    for number in [1, 2] {
        wait_for("the end of the leases", || {
            leases(cluster, number).is_empty().then_some(())
        });
        let state = cluster.state(number);
        assert!(!state.text().contains("alias cni cbr0"), "{state:?}");
    }
}

/// A pod with a network of its own.
pub(crate) struct Pod {
    pub(crate) address: String,
    pub(crate) netns: Netns,
}

impl Pod {
    pub(crate) fn of(cluster: &Cluster, pod: &Value) -> Self {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let address = pod["status"]["podIP"].as_str().expect("an address");
        Self {
            address: address.to_owned(),
            netns: cluster.netns_of(name),
        }
    }
}

/// Both of a node.
pub(crate) fn web_pods(cluster: &Cluster, node: &str) -> Vec<Pod> {
    let pods = cluster.get(&format!(
        "pods --selector app=web --field-selector spec.nodeName={node}"
    ));
    let pods: Vec<Pod> = items(&pods).map(|pod| Pod::of(cluster, pod)).collect();
    assert_eq!(pods.len(), 2, "on {node}");
    pods
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// One member of each item, as a text.
pub(crate) fn texts(list: &Value, pointer: &str) -> Vec<String> {
    items(list)
        .filter_map(|item| item.pointer(pointer)?.as_str())
        .map(str::to_owned)
        .collect()
}
