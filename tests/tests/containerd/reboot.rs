//! The node's plug is pulled. What is on the disk is there again; /run, links, rules and
//! namespaces are not.

use harness::{Call, Containerd, Cri, Echo, Host, Node, Pod, conf, node, on_host, packet};
use serde_json::{Value, json};
use tempfile::TempDir;

for_each_containerd!(leases_in_run, leases_on_the_disk);

fn leases_in_run(which: Containerd) {
    reboots(which, &json!({}));
}

fn leases_on_the_disk(which: Containerd) {
    // Beside libcni's cache, which has to be there again too.
    let ipam = json!({ "ipam": { "dataDir": "/var/lib/cni/leases" } });
    reboots(which, &ipam);
}

fn reboots(which: Containerd, changes: &Value) {
    let disk = tempfile::tempdir().expect("a directory");
    let mut old = None;
    on_host(|host| old = first_boot(host, which, &disk, changes));
    let Some(old) = old else { return };
    on_host(|host| second_boot(host, which, &disk, changes, &old));
}

fn started(host: &Host, which: Containerd, disk: &TempDir, changes: &Value) -> Option<Node> {
    let mut node = Node::prepared(host, which, disk.path())?;
    node.record_calls();
    node.configure(&node::conflist(changes));
    node.start();
    Some(node)
}

/// Two pods that run when the power fails.
fn first_boot(host: &Host, which: Containerd, disk: &TempDir, changes: &Value) -> Option<[Pod; 2]> {
    let mut node = started(host, which, disk, changes)?;
    let cri = node.cri();
    let pods = ["web", "shell"].map(|name| node.pod(&cri, name));
    assert_eq!(pods[0].addresses(&cri), ["10.64.1.2"]);
    assert_eq!(pods[1].addresses(&cri), ["10.64.1.3"]);
    node.power_off();
    Some(pods)
}

/// As the kubelet does it: each old sandbox is stopped, a new one is made, and only then the
/// old one is stopped again and removed.
fn second_boot(host: &Host, which: Containerd, disk: &TempDir, changes: &Value, old: &[Pod; 2]) {
    let node = started(host, which, disk, changes).expect("a node");
    let cri = node.cri();
    let sandboxes = cri.pod_sandboxes();
    assert!(
        sandboxes.len() == 2 && sandboxes.iter().all(|(_, state)| state == "not ready"),
        "{sandboxes:?}"
    );
    let (new, calls) = node.calls_during(|| {
        ["web", "shell"].map(|name| {
            let number = usize::from(name == "shell");
            cri.stop_pod_sandbox(&old[number].id).expect("stopped");
            second_attempt(&node, &cri, name)
        })
    });
    for pod in old {
        without_namespace(&calls, pod);
    }
    let running = host.state();
    let ((), calls) = node.calls_during(|| old.iter().for_each(|pod| pod.remove(&cri)));
    for pod in old {
        without_namespace(&calls, pod);
    }
    host.state().assert_same(&running);
    reach_each_other(&node, &cri, &new);
    for pod in &new {
        pod.remove(&cri);
    }
    let left = host.state().only(&["lease"]);
    assert_eq!(left.text(), "");
}

/// The same pod in the kubelet's eyes, and a sandbox of its own.
fn second_attempt(node: &Node, cri: &Cri, name: &str) -> Pod {
    let attempt = json!({ "metadata": { "attempt": 1 } });
    let config = conf::with(&node.pod_config(name), &attempt);
    let id = cri.run_pod_sandbox(&config).expect("a pod");
    Pod { id, config }
}

fn without_namespace(calls: &[Call], pod: &Pod) {
    let dels: Vec<&Call> = calls
        .iter()
        .filter(|call| call.plugin == "cni-bridge" && call.container == pod.id)
        .collect();
    assert!(!dels.is_empty(), "no DEL for {}", pod.id);
    for del in dels {
        assert_eq!((&*del.verb, &*del.netns), ("DEL", ""), "{del:?}");
    }
}

fn reach_each_other(node: &Node, cri: &Cri, pods: &[Pod; 2]) {
    let [web, shell] = [&pods[0], &pods[1]].map(|pod| node.netns_of(cri, pod));
    let target = format!("{}:8080", pods[0].address(cri));
    let _server = Echo::start(&web, &target);
    let sender = packet::ask(&shell, &target).expect("an answer");
    assert_eq!(sender.to_string(), pods[1].address(cri));
}
