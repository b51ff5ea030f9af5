//! The life of a cluster, in the steps of the README: `kubeadm init`, the manifest, another
//! node, pods, an upgrade, and the way back.

use std::{fs, thread, time::Instant};

use harness::{
    Cluster, State,
    cluster::{Release, wait_for},
    lab, node, on_host,
};

use crate::{
    kit::{WEB, leases, network, no_lease_is_left, texts, web_called},
    packets,
};

const SYSTEM: &str = "--namespace kube-system";
const INSTALL: &str = "--selector app.kubernetes.io/name=cni-bridge";
const UNINSTALL: &str = "--selector app.kubernetes.io/name=cni-bridge-uninstall";

/// Of the 16 addresses of a node, the first and the last are no pod's, and one is the gateway.
const USABLE: usize = 13;

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_cluster_of_kubeadm() {
    on_host(|host| {
        let started = Instant::now();
        let chapter = |name| println!("after {:?}: {name}", started.elapsed());
        let (release, next) = (Release::built(), Release::next());
        let images = [&release.image, &next.image];
        let Some(cluster) = Cluster::machines(host, &images) else {
            return;
        };
        let before = [1, 2].map(|number| network(&cluster, number));
        chapter("kubeadm init");
        cluster.init();
        without_a_network(&cluster);
        chapter("kubectl apply");
        gets_its_network(&cluster, &release);
        chapter("kubeadm join");
        another_node_joins(&cluster);
        chapter("pods and services");
        cluster.apply(WEB);
        packets::senders(&cluster);
        packets::names(&cluster);
        // The nodes look once a minute: meanwhile something else.
        cluster.apply(&with_key("\"vlan\": 5000"));
        chapter("addresses run out");
        addresses_run_out(&cluster);
        chapter("what others changed");
        what_others_changed(&cluster, &release);
        chapter("upgrade");
        upgrade(&cluster, &next);
        chapter("the way back");
        the_way_back(&cluster, &before);
    });
}

/// What kubeadm leaves behind: a node that waits, and pods that wait for it.
fn without_a_network(cluster: &Cluster) {
    wait_for("the node's complaint", || {
        let (status, message) = cluster.ready("one");
        (status == "False" && message.contains("cni plugin not initialized")).then_some(())
    });
    let dns = cluster.get(&format!("{SYSTEM} pods --selector k8s-app=kube-dns"));
    let phases = texts(&dns, "/status/phase");
    assert!(phases.iter().all(|phase| phase == "Pending"), "{phases:?}");
}

/// The manifest, and nothing else.
fn gets_its_network(cluster: &Cluster, release: &Release) {
    cluster.apply(&node::shipped("kubernetes/cni-bridge.yaml"));
    cluster.kubectl("wait --for=condition=Ready node/one --timeout=60s");
    cluster.kubectl(&format!(
        "{SYSTEM} rollout status daemonset/cni-bridge --timeout=60s"
    ));
    cluster.kubectl(&format!(
        "{SYSTEM} rollout status deployment/coredns --timeout=60s"
    ));
    is_installed(cluster, 1, release);
    assert_eq!(cluster.subnet(1), "10.64.0.0/28");
}

/// The executables are those of the image; the configuration has the CIDR that the controller
/// manager gave the node.
fn is_installed(cluster: &Cluster, number: u8, release: &Release) {
    let files = cluster.on(number, |_| {
        ["cni-bridge", "cni-ipam"].map(|name| (name, fs::read(format!("/opt/cni/bin/{name}"))))
    });
    for (name, content) in files {
        let content = content.expect(name);
        assert!(content == release.executable(name), "{name} is another one");
    }
    assert_eq!(cluster.subnet(number), cluster.pod_cidr(number));
}

/// A node that comes later needs nothing but its way in the network between the nodes, which
/// a cloud's route controller or static routes provide.
fn another_node_joins(cluster: &Cluster) {
    cluster.join();
    cluster.kubectl("wait --for=create node/two --timeout=60s");
    cluster.kubectl("wait --for=condition=Ready node/two --timeout=60s");
    assert_eq!(cluster.subnet(2), "10.64.0.16/28");
    for (number, address) in [(1, lab::IPV4.one), (2, lab::IPV4.two)] {
        let cidr = cluster.pod_cidr(number);
        cluster
            .router()
            .ip(&format!("route add {cidr} via {address}"));
    }
}

/// The manifest with one more key in the network of its `ConfigMap`.
fn with_key(key: &str) -> String {
    let shipped = node::shipped("kubernetes/cni-bridge.yaml");
    let plugin = "\"type\": \"cni-bridge\",";
    assert!(shipped.contains(plugin), "{shipped}");
    shipped.replace(plugin, &format!("{plugin} {key},"))
}

/// A network that cannot work is refused, and the nodes stay as they are. One that can work
/// comes to them, and so does an executable that somebody removed.
fn what_others_changed(cluster: &Cluster, release: &Release) {
    wait_for("the refusals", || {
        let log = cluster.kubectl(&format!("{SYSTEM} logs {INSTALL} --tail -1"));
        let refusal = "cni-bridge refuses the configuration: \"vlan\" is 5000";
        (log.matches(refusal).count() == 2).then_some(())
    });
    for number in [1, 2] {
        is_installed(cluster, number, release);
    }
    cluster.on(2, |node| node.sh("rm /opt/cni/bin/cni-ipam"));
    let key = "\"portIsolation\": false";
    cluster.apply(&with_key(key));
    wait_for("the new network", || {
        let has_it = [1, 2].map(|number| {
            cluster.on(number, |_| {
                let list = fs::read_to_string("/etc/cni/net.d/10-cbr0.conflist");
                list.is_ok_and(|list| list.contains(key))
            })
        });
        (has_it == [true, true]).then_some(())
    });
    for number in [1, 2] {
        is_installed(cluster, number, release);
    }
}

/// More pods than addresses: the pod says why it waits, in one line, and gets its address when
/// another one is given back.
fn addresses_run_out(cluster: &Cluster) {
    cluster.kubectl("delete deployment web --wait --cascade=foreground");
    let crowd = web_called("crowd")
        .replace("replicas: 4", &format!("replicas: {USABLE}"))
        .replace("    spec:\n", "    spec:\n      nodeName: one\n");
    cluster.apply(&crowd);
    let (pod, message) = wait_for("the event", || {
        let events = cluster.get("events --field-selector reason=FailedCreatePodSandBox");
        let pod = texts(&events, "/involvedObject/name").into_iter().next()?;
        Some((pod, texts(&events, "/message").into_iter().next()?))
    });
    assert!(!message.contains('\n'), "{message}");
    let words = "plugin type=\"cni-bridge\" failed (add): no IP addresses available in range set: \
                 10.64.0.1-10.64.0.14 (13 used, ";
    assert!(message.contains(words), "{message}");
    let described = cluster.kubectl(&format!("describe pod {pod}"));
    assert!(described.contains(message.trim()), "{described}");
    wait_for("the last lease", || {
        (leases(cluster, 1).len() == USABLE).then_some(())
    });

    // Three come back.
    cluster.kubectl("delete pod lonely");
    cluster.kubectl(&format!("{SYSTEM} scale deployment coredns --replicas 0"));
    cluster.kubectl("rollout status deployment/crowd --timeout=60s");
    cluster.kubectl("delete deployment crowd --wait --cascade=foreground");
    no_lease_is_left(cluster);
}

/// The next version comes while pods come and go: none of them fails.
fn upgrade(cluster: &Cluster, next: &Release) {
    cluster.kubectl("delete events --all");
    let rounds = thread::scope(|scope| {
        let rollout = scope.spawn(|| {
            let image = format!("*={}", next.image.name);
            cluster.kubectl(&format!("{SYSTEM} set image daemonset/cni-bridge {image}"));
            cluster.kubectl(&format!(
                "{SYSTEM} rollout status daemonset/cni-bridge --timeout=60s"
            ));
        });
        let mut rounds = 0;
        while rounds < 3 || !rollout.is_finished() {
            pods_come_and_go(cluster, rounds);
            rounds += 1;
        }
        rollout.join().expect("the rollout");
        rounds
    });
    println!("{rounds} rounds of pods during the upgrade");
    for number in [1, 2] {
        is_installed(cluster, number, next);
    }
    for reason in ["FailedCreatePodSandBox", "FailedKillPod", "NetworkNotReady"] {
        let events = cluster.get(&format!("events --field-selector reason={reason}"));
        let failures = texts(&events, "/message");
        assert!(failures.is_empty(), "{failures:?}");
    }
    no_lease_is_left(cluster);
}

fn pods_come_and_go(cluster: &Cluster, round: usize) {
    let name = format!("round{round}");
    let file = format!("/run/node/{name}.yaml");
    cluster.on(1, |_| {
        fs::write(&file, web_called(&name)).expect("a file");
    });
    cluster.kubectl(&format!("apply --filename {file}"));
    cluster.kubectl(&format!("rollout status deployment/{name} --timeout=60s"));
    cluster.kubectl(&format!(
        "delete deployment {name} --wait --cascade=foreground"
    ));
}

/// What `conf/kubernetes/uninstall.yaml` promises: a node is left when its last pod has left.
fn the_way_back(cluster: &Cluster, before: &[State; 2]) {
    cluster.kubectl(&format!("{SYSTEM} scale deployment coredns --replicas 0"));
    cluster.apply(WEB);
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("delete pod lonely");
    let connected = [1, 2].map(|number| {
        wait_for("two pods", || {
            (leases(cluster, number).len() == 2).then_some(())
        });
        network(cluster, number)
    });

    cluster.fed(
        "delete --filename",
        &node::shipped("kubernetes/cni-bridge.yaml"),
    );
    let uninstall = node::shipped("kubernetes/uninstall.yaml");
    cluster.apply(&uninstall);
    wait_for("what the nodes wait for", || {
        let log = cluster.kubectl(&format!("{SYSTEM} logs {UNINSTALL} --tail -1 2>&1 || true"));
        (log.matches("network cbr0 still connects 2 pods (").count() >= 2).then_some(())
    });
    // Nothing has changed, and nothing does before a node is drained.
    for (number, connected) in [1, 2].into_iter().zip(connected) {
        network(cluster, number).assert_same(&connected);
        assert_eq!(cluster.subnet(number), cluster.pod_cidr(number));
    }

    for name in ["two", "one"] {
        let log = cluster.kubectl(&format!(
            "drain {name} --ignore-daemonsets --delete-emptydir-data --timeout=60s"
        ));
        assert!(log.contains("drained"), "{log}");
    }
    cluster.kubectl(&format!(
        "{SYSTEM} rollout status daemonset/cni-bridge-uninstall --timeout=60s"
    ));
    cluster.fed("delete --filename", &uninstall);
    for (number, before) in [1, 2].into_iter().zip(before) {
        network(cluster, number).assert_same(before);
        let left = cluster.on(number, |node| node.sh("ls -A /opt/cni/bin /etc/cni/net.d"));
        assert_eq!(
            left, "/etc/cni/net.d:\n\n/opt/cni/bin:\n",
            "on node {number}"
        );
    }
    wait_for("the nodes without a network", || {
        let ready = ["one", "two"].map(|name| cluster.ready(name).0);
        (ready == ["False", "False"]).then_some(())
    });
}
