//! What cannot be done, and what is taken away behind containerd's back.

use harness::{Containerd, Cri, Node, Pod, node, on_host};
use serde_json::json;

for_each_containerd!(
    a_pod_without_an_address_is_refused_in_our_words,
    a_pod_that_was_damaged_is_removed,
);

fn a_pod_without_an_address_is_refused_in_our_words(which: Containerd) {
    on_host(|host| {
        // One address for the gateway, one for a pod.
        let small = json!({ "ipam": { "type": "cni-ipam", "subnet": "10.64.1.0/30" } });
        let Some(node) = Node::booted_with(host, which, &node::conflist(&small)) else {
            return;
        };
        let cri = node.cri();
        let only = node.pod(&cri, "only");
        let before = host.state();

        let (refusal, calls) = node.calls_during(|| node.try_pod(&cri, "another"));
        let said = refusal.expect_err("no address is left").message;
        assert!(
            said.contains("plugin type=\"cni-bridge\" failed (add): ")
                && said.contains("10.64.1.1-10.64.1.2")
                && !said.contains('\n'),
            "{said}"
        );
        assert!(calls.iter().any(|call| call.verb == "DEL"), "{calls:?}");
        host.state().assert_same(&before);
        assert_eq!(cri.pod_sandboxes(), [(only.id.clone(), "ready".to_owned())]);

        only.remove(&cri);
        let another = node.pod(&cri, "another");
        assert_eq!(another.addresses(&cri), ["10.64.1.2"]);
    });
}

fn a_pod_that_was_damaged_is_removed(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        let _neighbour = node.pod(&cri, "neighbour");
        let before = host.state();
        for damage in [kill_its_process, unmount_its_namespace, take_its_link] {
            let pod = node.pod(&cri, "damaged");
            damage(&node, &cri, &pod);
            pod.remove(&cri);
            host.state().assert_same(&before);
        }
        assert_eq!(cri.pod_sandboxes().len(), 1);
    });
}

/// The namespace stays: it is mounted.
fn kill_its_process(node: &Node, cri: &Cri, pod: &Pod) {
    let status = cri.pod_sandbox_status(&pod.id);
    node.sh(&format!("kill -KILL {}", status["info"]["pid"]));
    node::wait_for("the end of the sandbox", || {
        let status = cri.pod_sandbox_status(&pod.id);
        (status["status"]["state"] == "SANDBOX_NOTREADY").then_some(())
    });
}

fn unmount_its_namespace(node: &Node, cri: &Cri, pod: &Pod) {
    let path = pod.netns_path(cri);
    node.sh(&format!("umount {path}; rm {path}"));
}

fn take_its_link(node: &Node, cri: &Cri, pod: &Pod) {
    node.netns_of(cri, pod).ip("link del eth0");
}
