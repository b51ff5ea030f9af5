//! The node's pod CIDRs arrive by themselves: containerd renders the template that we ship
//! when the kubelet tells it the CIDRs.

use std::{fs, path::Path};

use harness::{Containerd, Host, Node, node, on_host};

for_each_containerd!(ipv4, ipv6, dual_stack);

const RENDERED: &str = "/etc/cni/net.d/10-containerd-net.conflist";

fn ipv4(which: Containerd) {
    is_rendered(which, "10.64.1.0/24", &["10.64.1.2"]);
}

fn ipv6(which: Containerd) {
    is_rendered(which, "fd00:64:1::/64", &["fd00:64:1::2"]);
}

fn dual_stack(which: Containerd) {
    let addresses = ["10.64.1.2", "fd00:64:1::2"];
    is_rendered(which, "10.64.1.0/24,fd00:64:1::/64", &addresses);
}

fn is_rendered(which: Containerd, cidrs: &str, addresses: &[&str]) {
    on_host(|host| {
        let Some(mut node) = Node::prepared(host, which, Path::new("/run/disk")) else {
            return;
        };
        node.start();
        let cri = node.cri();
        let (ready, message) = cri.network_ready();
        assert!(
            !ready && message.contains("cni plugin not initialized"),
            "{message}"
        );

        cri.update_runtime_config(cidrs);
        // containerd learns of its own file as of any other: by being notified.
        node::wait_for("the network", || cri.network_ready().0.then_some(()));
        let pod = node.pod(&cri, "web");
        assert_eq!(pod.addresses(&cri), addresses);
        stays(&node, host);
        pod.remove(&cri);
    });
}

/// What is rendered stays: a node's CIDRs do not change, and a kubelet that is started again
/// tells them again.
fn stays(node: &Node, host: &Host) {
    let before = host.state();
    let rendered = fs::read_to_string(RENDERED).expect("the file");
    node.cri().update_runtime_config("10.64.9.0/24");
    assert_eq!(fs::read_to_string(RENDERED).expect("the file"), rendered);
    host.state().assert_same(&before);
}
