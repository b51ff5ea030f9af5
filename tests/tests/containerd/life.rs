//! A pod from its first packet to its last DEL.

use std::path::Path;

use harness::{
    Call, Containerd, Cri, Echo, Host, Netns, Node, Pod, World, conf, node, on_host, packet, tool,
};
use serde_json::{Value, json};

for_each_containerd!(
    a_pod_lives_and_ends,
    a_host_port_leads_to_the_pod,
    a_pod_on_the_nodes_network_is_left_alone,
);

fn a_pod_lives_and_ends(which: Containerd) {
    on_host(|host| {
        let world = World::around(host);
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        let shell = node.pod(&cri, "shell");
        assert_eq!(shell.addresses(&cri), ["10.64.1.2"]);
        let before = host.state();

        let (web, calls) = node.calls_during(|| node.pod(&cri, "web"));
        assert_eq!(web.addresses(&cri), ["10.64.1.3"]);
        added(&calls, &web);
        let leases = host.state().only(&["lease /run/cni-ipam"]);
        assert!(leases.text().contains("default/web"), "{leases:?}");
        packets(host, &world, &node, &cri, [&shell, &web]);
        containers(&cri, &shell, &web);

        ends(&node, &cri, &web);
        host.state().assert_same(&before);
        let netns = node.netns_of(&cri, &shell);
        assert!(packet::is_silent(&netns, "10.64.1.3:8080"));
        shell.remove(&cri);
    });
}

/// One ADD, with what the kubelet wants a plugin to know.
fn added(calls: &[Call], pod: &Pod) {
    let calls: Vec<&Call> = calls
        .iter()
        .filter(|call| call.plugin == "cni-bridge" && call.verb != "STATUS")
        .collect();
    let [add] = calls.as_slice() else {
        panic!("not one call, but {calls:?}");
    };
    assert_eq!((&*add.verb, &*add.interface), ("ADD", "eth0"));
    assert_eq!(add.container, pod.id);
    for argument in [
        "IgnoreUnknown=1",
        "K8S_POD_NAMESPACE=default",
        "K8S_POD_NAME=web",
        "K8S_POD_UID=uid-of-web",
    ] {
        assert!(add.args.split(';').any(|one| one == argument), "{add:?}");
    }
}

/// Who sees which sender, in every direction. `pods` are 10.64.1.2 and 10.64.1.3.
fn packets(host: &Host, world: &World, node: &Node, cri: &Cri, pods: [&Pod; 2]) {
    let [shell, web] = pods.map(|pod| node.netns_of(cri, pod));
    let _server = Echo::start(&web, "10.64.1.3:8080");
    let _lan = Echo::start(&world.lan, "10.250.0.10:8080");
    let _outside = Echo::start(&world.outside, "203.0.113.10:8080");
    let _node = Echo::start(&host.netns, "10.200.0.2:8080");
    let ways: [(&Netns, &str, &str); 7] = [
        (&shell, "10.64.1.3:8080", "10.64.1.2"),
        (&web, "10.64.1.3:8080", "10.64.1.3"),
        (&host.netns, "10.64.1.3:8080", "10.64.1.1"),
        (&world.lan, "10.64.1.3:8080", "10.250.0.10"),
        (&web, "10.200.0.2:8080", "10.64.1.3"),
        (&web, "10.250.0.10:8080", "10.64.1.3"),
        (&web, "203.0.113.10:8080", "10.200.0.2"),
    ];
    for (from, target, sender) in ways {
        let seen = packet::ask(from, target).expect(target).to_string();
        assert_eq!(seen, sender, "asked {target}");
        let seen = packet::connect(from, target).expect(target).to_string();
        assert_eq!(seen, sender, "connected to {target}");
    }
}

/// Containers are in their pod's network.
fn containers(cri: &Cri, shell: &Pod, web: &Pod) {
    let server = web.container(cri);
    cri.exec(
        &server,
        &[
            "sh",
            "-c",
            "echo hello >/tmp/index.html; httpd -p 80 -h /tmp",
        ],
    );
    let client = shell.container(cri);
    let page = cri.exec(&client, &["wget", "-q", "-O", "-", "http://10.64.1.3/"]);
    assert_eq!(page, "hello\n");
}

/// The kubelet stops a sandbox more than once before it removes it. Each time there is a DEL:
/// the first with all that the runtime knows, the others without.
fn ends(node: &Node, cri: &Cri, pod: &Pod) {
    let netns = pod.netns_path(cri);
    let ((), calls) = node.calls_during(|| {
        cri.stop_pod_sandbox(&pod.id).expect("the first stop");
        cri.stop_pod_sandbox(&pod.id).expect("the second stop");
        cri.remove_pod_sandbox(&pod.id).expect("the removal");
    });
    for plugin in ["cni-bridge", "loopback"] {
        let seen: Vec<_> = calls
            .iter()
            .filter(|call| call.plugin == plugin)
            .map(|call| {
                assert_eq!(call.container, pod.id);
                let previous = call.conf.get("prevResult").is_some();
                (&*call.verb, &*call.netns, previous)
            })
            .collect();
        // The built-in configuration of loopback is 0.3.1: no DEL gets a result.
        let first = ("DEL", &*netns, plugin == "cni-bridge");
        let later = ("DEL", "", false);
        assert_eq!(seen, [first, later, later], "{plugin}");
    }
}

/// By `portmap` behind our plugin, as `conf/README.md` says.
fn a_host_port_leads_to_the_pod(which: Containerd) {
    on_host(|host| {
        let world = World::around(host);
        let Some(mut node) = Node::prepared(host, which, Path::new("/run/disk")) else {
            return;
        };
        node::install(&tool("portmap"));
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let mut list: Value =
            serde_json::from_str(&node::shipped("10-cbr0.conflist")).expect("the shipped file");
        list["plugins"]
            .as_array_mut()
            .expect("plugins")
            .push(portmap);
        node.configure(&list.to_string());
        node.start();
        let cri = node.cri();
        let ports = json!({ "portMappings": [{ "containerPort": 8080, "hostPort": 8081 }] });
        let config = conf::with(&node.pod_config("web"), &ports);
        let id = cri.run_pod_sandbox(&config).expect("a pod");
        let pod = Pod { id, config };
        let _server = Echo::start(&node.netns_of(&cri, &pod), "10.64.1.2:8080");

        let seen = packet::connect(&world.lan, "10.200.0.2:8081").expect("an answer");
        assert_eq!(seen.to_string(), "10.250.0.10");
        pod.remove(&cri);
        let refusal = packet::connect(&world.lan, "10.200.0.2:8081");
        assert!(refusal.is_err(), "{refusal:?}");
    });
}

fn a_pod_on_the_nodes_network_is_left_alone(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        // What the node has anyway.
        node.pod(&cri, "first").remove(&cri);
        let before = host.state();
        let changes = json!({
            "hostname": null,
            "linux": { "securityContext": { "namespaceOptions": { "network": "NODE" } } },
        });
        let config = conf::with(&node.pod_config("agent"), &changes);
        let ((), calls) = node.calls_during(|| {
            let id = cri.run_pod_sandbox(&config).expect("a pod");
            let pod = Pod { id, config };
            let container = pod.container(&cri);
            let links = cri.exec(&container, &["ip", "link"]);
            assert!(links.contains("cbr0"), "{links}");
            assert_eq!(pod.addresses(&cri), [""; 0]);
            host.state().assert_same(&before);
            pod.remove(&cri);
        });
        assert!(calls.is_empty(), "{calls:?}");
        host.state().assert_same(&before);
    });
}
