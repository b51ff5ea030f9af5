//! Pods on a node, made through the CRI as the kubelet makes them.

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON, where what is not there is null"
)]

use serde_json::{Value, json};

use super::{IMAGE, Node};
use crate::{Cri, CriError, Netns};

impl Node {
    /// The configuration of a pod sandbox as the kubelet makes it.
    pub fn pod_config(&self, name: &str) -> Value {
        json!({
            "metadata": { "name": name, "uid": format!("uid-of-{name}"), "namespace": "default" },
            "hostname": name,
            "logDirectory": format!("/run/node/log/{name}"),
            "linux": { "cgroupParent": format!("/{}", self.cgroup) },
        })
    }

    /// Makes a pod that has to come up.
    #[track_caller]
    pub fn pod(&self, cri: &Cri, name: &str) -> Pod {
        let pod = self.try_pod(cri, name);
        pod.unwrap_or_else(|error| panic!("pod {name}: {error}"))
    }

    /// Makes a pod.
    pub fn try_pod(&self, cri: &Cri, name: &str) -> Result<Pod, CriError> {
        let config = self.pod_config(name);
        let id = cri.run_pod_sandbox(&config)?;
        Ok(Pod { id, config })
    }

    /// What the kubelet does with sandboxes that are not ready: a DEL for each, at least.
    /// Returns how many there were.
    #[track_caller]
    pub fn remove_what_is_not_ready(&self) -> usize {
        let cri = self.cri();
        let mut sandboxes = cri.pod_sandboxes();
        sandboxes.retain(|(_, state)| state == "not ready");
        for (id, _) in &sandboxes {
            let (id, config) = (id.clone(), Value::Null);
            Pod { id, config }.remove(&cri);
        }
        sandboxes.len()
    }

    /// The network namespace of a pod.
    pub fn netns_of(&self, cri: &Cri, pod: &Pod) -> Netns {
        self.netns(&pod.netns_path(cri))
    }
}

/// A pod sandbox.
#[derive(Debug)]
pub struct Pod {
    /// The id, which is also `CNI_CONTAINERID`.
    pub id: String,
    /// What it was made from.
    pub config: Value,
}

impl Pod {
    /// All addresses, the first one first. They stand in the status.
    pub fn addresses(&self, cri: &Cri) -> Vec<String> {
        let network = &cri.pod_sandbox_status(&self.id)["status"]["network"];
        let further = network["additionalIps"].as_array().into_iter().flatten();
        let all = [&network["ip"]]
            .into_iter()
            .chain(further.map(|address| &address["ip"]));
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The only address.
    #[track_caller]
    pub fn address(&self, cri: &Cri) -> String {
        let mut addresses = self.addresses(cri);
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        addresses.remove(0)
    }

    /// Where the node has its network namespace.
    pub fn netns_path(&self, cri: &Cri) -> String {
        let status = cri.pod_sandbox_status(&self.id);
        let namespaces = &status["info"]["runtimeSpec"]["linux"]["namespaces"];
        let network = namespaces
            .as_array()
            .into_iter()
            .flatten()
            .find(|namespace| namespace["type"] == "network")
            .unwrap_or_else(|| panic!("no network namespace: {status}"));
        network["path"].as_str().unwrap().to_owned()
    }

    /// Starts a container in it that sleeps; its id.
    pub fn container(&self, cri: &Cri) -> String {
        let config = json!({
            "metadata": { "name": "main" },
            "image": { "image": IMAGE },
            "logPath": "main.log",
        });
        cri.start_container(&self.id, &self.config, &config)
    }

    /// Stops and removes it, as the kubelet does.
    #[track_caller]
    pub fn remove(&self, cri: &Cri) {
        cri.stop_pod_sandbox(&self.id)
            .unwrap_or_else(|error| panic!("StopPodSandbox: {error}"));
        cri.remove_pod_sandbox(&self.id)
            .unwrap_or_else(|error| panic!("RemovePodSandbox: {error}"));
    }
}
