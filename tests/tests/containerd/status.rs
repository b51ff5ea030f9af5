//! Is the network ready? containerd 2 asks the plugin, and tells the kubelet what it says.

use harness::{Containerd, Cri, Echo, Host, Node, on_host, packet, sh};

for_each_containerd!(readiness_follows_the_plugin);

/// What breaks a node, what the plugin says about it, and what mends it.
const TROUBLES: [(&str, &str, &str); 2] = [
    (
        "ip link add cbr0 type veth peer name cbr0-peer",
        "cbr0",
        "ip link del cbr0",
    ),
    ("echo >/run/cni-ipam", "/run/cni-ipam", "rm /run/cni-ipam"),
];

fn readiness_follows_the_plugin(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        let before = host.state();
        assert_eq!(cri.network_ready(), (true, String::new()));
        for (trouble, words, mended) in TROUBLES {
            sh(trouble);
            let broken = host.state();
            is_reported(&node, &cri, which, words);
            is_refused(&node, &cri, words);
            host.state().assert_same(&broken);
            sh(mended);
            assert_eq!(cri.network_ready(), (true, String::new()));
            // Without a store a DEL fails too; what containerd keeps for that is removed now.
            node.remove_what_is_not_ready();
            assert!(cri.pod_sandboxes().is_empty());
            host.state().assert_same(&before);
        }
        let statuses = node
            .calls()
            .iter()
            .filter(|call| call.verb == "STATUS")
            .count();
        let asks = which == Containerd::Current;
        assert_eq!(statuses > 0, asks, "{statuses} times STATUS");
        works(host, &node, &cri);
    });
}

/// In one line that names what is wrong. containerd 1.6 does not ask.
fn is_reported(node: &Node, cri: &Cri, which: Containerd, words: &str) {
    let ((ready, message), calls) = node.calls_during(|| cri.network_ready());
    if which == Containerd::Distribution {
        assert!(ready && calls.is_empty(), "{message} {calls:?}");
        return;
    }
    assert!(
        !ready && message.contains(words) && !message.contains('\n'),
        "{message}"
    );
    assert!(calls.iter().all(|call| call.verb == "STATUS"), "{calls:?}");
    assert!(!calls.is_empty());
}

/// Who makes a pod nevertheless is told the same.
fn is_refused(node: &Node, cri: &Cri, words: &str) {
    let refusal = node.try_pod(cri, "early").expect_err("no pod");
    assert!(refusal.message.contains(words), "{refusal}");
}

fn works(host: &Host, node: &Node, cri: &Cri) {
    let pod = node.pod(cri, "web");
    assert_eq!(pod.addresses(cri), ["10.64.1.2"]);
    let _server = Echo::start(&node.netns_of(cri, &pod), "10.64.1.2:8080");
    packet::ask(&host.netns, "10.64.1.2:8080").expect("an answer");
}
