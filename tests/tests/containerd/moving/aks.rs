//! From the AKS kubenet template, which containerd fills in.

use std::fs;

use harness::{Containerd, Cri, Document, Echo, Host, Node, Pod, World, conf, on_host, packet, sh};
use serde_json::json;

use super::{nothing_is_left_of, type_section, wait_until_loaded};

for_each_containerd!(
    the_template_with_two_words_changed,
    the_template_as_it_is_and_links
);

const RENDERED: &str = "/etc/cni/net.d/10-containerd-net.conflist";
const CIDRS: &str = "10.64.1.0/24,fd00:64:1::/64";

/// What kube-proxy has made on such a node, and `portmap` uses.
const MARKS: &str = "
    for tables in iptables ip6tables; do
        $tables -t nat -N KUBE-MARK-MASQ
        $tables -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
        $tables -t nat -N KUBE-POSTROUTING
        $tables -t nat -A POSTROUTING -j KUBE-POSTROUTING
        $tables -t nat -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
    done
";

/// A node of AKS, ready for pods.
fn node_of_aks(host: &Host, which: Containerd, document: &Document) -> Option<Node> {
    let mut node = Node::prepared(host, which, std::path::Path::new("/run/disk"))?;
    node.with_go_plugins();
    let config = "/etc/containerd/config.toml";
    let text = fs::read_to_string(config).expect("containerd's configuration");
    let text = text.replace("containerd-cni-template.conf", "kubenet_template.conf");
    fs::write(config, text).expect("containerd's configuration");
    let template = document.section("Before").file("gotemplate");
    fs::write("/etc/containerd/kubenet_template.conf", template).expect("the template");
    sh(MARKS);
    node.start();
    let cri = node.cri();
    cri.update_runtime_config(CIDRS);
    wait_until_loaded(&cri, "bridge");
    Some(node)
}

/// A pod with this host port.
fn pod(node: &Node, cri: &Cri, name: &str, port: u16) -> Pod {
    let ports = json!({ "portMappings": [{ "containerPort": 8080, "hostPort": port }] });
    let config = conf::with(&node.pod_config(name), &ports);
    let id = cri.run_pod_sandbox(&config).expect("a pod");
    Pod { id, config }
}

/// Both families, to the outside and from it, straight and by host port. Nobody is
/// masqueraded: that is the agent's business.
fn has_traffic(node: &Node, cri: &Cri, world: &World, pod: &Pod, port: u16) {
    let netns = node.netns_of(cri, pod);
    let addresses = pod.addresses(cri);
    let [v4, v6] = addresses.as_slice() else {
        panic!("not two addresses: {addresses:?}");
    };
    let (at4, at6) = (format!("{v4}:8080"), format!("[{v6}]:8080"));
    let _servers = [
        Echo::start(&netns, &at4),
        Echo::start(&netns, &at6),
        Echo::start(&world.lan, "10.250.0.10:8080"),
        Echo::start(&world.lan, "[fd00:250::10]:8080"),
    ];
    let by_port = format!("10.200.0.2:{port}");
    for (from, target, sender) in [
        (&netns, "10.250.0.10:8080", &**v4),
        (&netns, "[fd00:250::10]:8080", v6),
        (&world.lan, &at4, "10.250.0.10"),
        (&world.lan, &at6, "fd00:250::10"),
        (&world.lan, &by_port, "10.250.0.10"),
    ] {
        let seen = packet::connect(from, target).expect(target);
        assert_eq!(seen.to_string(), sender, "connected to {target}");
    }
}

fn the_template_with_two_words_changed(which: Containerd) {
    on_host(|host| {
        let world = World::around(host);
        let document = Document::moving_over("aks-kubenet");
        let Some(node) = node_of_aks(host, which, &document) else {
            return;
        };
        let cri = node.cri();
        let typed = |section: &str| type_section(&node, &document, section);
        let old = pod(&node, &cri, "old", 8081);
        has_traffic(&node, &cri, &world, &old, 8081);

        typed("The change");
        wait_until_loaded(&cri, "cni-bridge");
        let new = pod(&node, &cri, "new", 8082);
        typed("Look at it");
        has_traffic(&node, &cri, &world, &new, 8082);
        has_traffic(&node, &cri, &world, &old, 8081);

        typed("Back again");
        wait_until_loaded(&cri, "bridge");
        has_traffic(&node, &cri, &world, &new, 8082);
        old.remove(&cri);
        new.remove(&cri);
        let had = [(&old, "10.64.1.2"), (&new, "10.64.1.3")];
        nothing_is_left_of(host, &had);
        nothing_is_left_of(host, &[(&old, "fd00:64:1::2"), (&new, "fd00:64:1::3")]);

        // What a node gets that has no file yet.
        typed("The change");
        fs::remove_file(RENDERED).expect("the rendered file");
        harness::node::wait_for("the loss", || (!cri.network_ready().0).then_some(()));
        cri.update_runtime_config(CIDRS);
        wait_until_loaded(&cri, "cni-bridge");
        let fresh = pod(&node, &cri, "fresh", 8081);
        has_traffic(&node, &cri, &world, &fresh, 8081);
        fresh.remove(&cri);
    });
}

fn the_template_as_it_is_and_links(which: Containerd) {
    on_host(|host| {
        let world = World::around(host);
        let document = Document::moving_over("aks-kubenet");
        let Some(node) = node_of_aks(host, which, &document) else {
            return;
        };
        let cri = node.cri();
        let typed = |section: &str| type_section(&node, &document, section);
        let before = fs::read_to_string(RENDERED).expect("the file");
        let old = pod(&node, &cri, "old", 8081);

        typed("Without touching the file");
        let new = pod(&node, &cri, "new", 8082);
        typed("Look at the links");
        has_traffic(&node, &cri, &world, &new, 8082);
        has_traffic(&node, &cri, &world, &old, 8081);
        let links = sh("ip -d link show master cbr0");
        assert!(
            links.contains(&format!("alias cni kubenet {}", new.id)),
            "{links}"
        );

        typed("Back from the links");
        let last = pod(&node, &cri, "last", 8083);
        assert_eq!(last.addresses(&cri)[0], "10.64.1.4");
        has_traffic(&node, &cri, &world, &new, 8082);
        for pod in [&old, &new, &last] {
            pod.remove(&cri);
        }
        let had = [
            (&old, "10.64.1.2"),
            (&new, "10.64.1.3"),
            (&last, "10.64.1.4"),
        ];
        nothing_is_left_of(host, &had);
        assert_eq!(fs::read_to_string(RENDERED).expect("the file"), before);
    });
}
