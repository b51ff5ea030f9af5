//! A node with pods of Go `bridge` and `host-local` goes on with our plugins: its
//! configuration is changed, and no pod is restarted.

use std::{collections::BTreeSet, net::IpAddr};

use harness::{Container, Echo, Host, World, conf, on_host, packet};
use serde_json::{Value, json};

use crate::kit;

const PODS: usize = 20;

/// What is outside sees the node.
const NODE: &str = "10.200.0.2";

fn new() -> Value {
    conf::with(&conf::ipv4(), &json!({ "ipMasq": true }))
}

fn old(backend: &str) -> Value {
    let changes = json!({
        "type": "bridge", "ipMasqBackend": backend, "ipam": { "type": "host-local" },
    });
    conf::with(&new(), &changes)
}

/// What of the node is about one of these containers or the Go plugins' rules.
fn left_of(host: &Host, pods: &[Container]) -> String {
    // What host-local kept is set aside, where nobody hands it out.
    let state = host.state().without(&["lease /var/lib/cni/networks/"]);
    let is_of =
        |line: &&str| line.contains("CNI-") || pods.iter().any(|pod| contains_word(line, &pod.id));
    state
        .text()
        .lines()
        .filter(is_of)
        .collect::<Vec<_>>()
        .join("\n")
}

/// pod1 is not in "pod10".
fn contains_word(line: &str, word: &str) -> bool {
    let mut parts = line.split(|c: char| !c.is_ascii_alphanumeric());
    parts.any(|part| part == word)
}

/// Half of the pods are deleted with their namespace, the others long after it was gone.
fn delete(host: &Host, pods: &mut [Container]) {
    for (n, pod) in pods.iter_mut().enumerate() {
        let request = host.request_for("DEL", &new(), pod);
        let request = match n % 4 {
            0 | 1 => request,
            2 => {
                pod.die();
                request.env("CNI_NETNS", "")
            }
            _ => {
                pod.die();
                request.env("CNI_NETNS", &pod.path)
            }
        };
        for _ in 0..2 {
            request.run().done();
        }
    }
}

/// Pods have their traffic: among themselves as they are, to the outside as the node.
fn have_traffic(pods: &[Container]) {
    for pod in pods {
        let seen = packet::ask(&pod.netns, "203.0.113.10:7").expect("the outside");
        assert_eq!(seen.to_string(), NODE, "{}", pod.id);
        let seen = packet::ask(&pod.netns, "10.64.1.1:7").expect("the gateway");
        assert_eq!(vec![seen], kit::in_kernel(pod), "{}", pod.id);
    }
}

fn moves_over(host: &Host, backend: &str) {
    let world = World::around(host);
    let (mut old_pods, old_addresses) = kit::pods(host, &old(backend), PODS);
    let _outside = Echo::start(&world.outside, "203.0.113.10:7");
    let _node = Echo::start(&host.netns, "10.64.1.1:7");
    assert_ne!(
        left_of(host, &old_pods),
        "",
        "the Go plugins have rules for their pods"
    );
    have_traffic(&old_pods[..2]);

    let (new_pods, new_addresses) = kit::pods(host, &new(), PODS - 1);
    let (last, result) = host.pod(&new());
    host.check(&new(), &last, &result).done();
    let new_pods: Vec<Container> = new_pods.into_iter().chain([last]).collect();
    assert!(old_addresses.is_disjoint(&new_addresses));
    let live = old_pods.iter().chain(&new_pods).flat_map(kit::in_kernel);
    assert_eq!(live.collect::<BTreeSet<IpAddr>>().len(), 2 * PODS);
    have_traffic(&new_pods[..2]);
    have_traffic(&old_pods[..2]);

    delete(host, &mut old_pods);
    assert_eq!(left_of(host, &old_pods), "");
    kit::wait_for_links(PODS);
    let leases = host.state().only(&["lease /run/cni-ipam/"]);
    assert_eq!(leases.text().lines().count(), PODS, "{leases:?}");
    have_traffic(&new_pods);
    kit::assert_healthy();

    // What they had can be had again.
    let (_more, more) = kit::pods(host, &new(), 253 - PODS);
    assert!(old_addresses.is_subset(&more));
    assert!(new_addresses.is_disjoint(&more));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_node_whose_rules_are_in_iptables() {
    harness::tool("bridge");
    on_host(|host| moves_over(host, "iptables"));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_node_whose_rules_are_in_nftables() {
    harness::tool("bridge");
    on_host(|host| moves_over(host, "nftables"));
}

/// Only the main plugin is another one; `host-local` stays. With the namespace there, the
/// pair tells that the Go plugin made the pod.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_node_that_keeps_host_local() {
    harness::tool("bridge");
    for backend in ["iptables", "nftables"] {
        on_host(|host| {
            let (pods, _) = kit::pods(host, &old(backend), 2);
            assert_ne!(left_of(host, &pods), "");
            let new = conf::with(&new(), &json!({ "ipam": { "type": "host-local" } }));
            let (other, _) = host.pod(&new);
            for pod in pods.iter().chain([&other]) {
                host.del(&new, pod).done();
                host.del(&new, pod).done();
            }
            assert_eq!(left_of(host, &pods), "");
            kit::wait_for_links(0);
            assert_eq!(host.state().only(&["lease "]).text(), "");
        });
    }
}

/// DEL of a pod of the old plugins whose namespace is gone, killed after each system call
/// that changes something: the next DEL finishes it.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_del_of_an_old_pod_that_is_killed_is_finished_by_the_next() {
    harness::tool("bridge");
    on_host(|host| {
        let (mut pods, _) = kit::pods(host, &old("nftables"), 40);
        let (_new, _) = host.pod(&new());
        for (n, pod) in pods.iter_mut().enumerate() {
            pod.die();
            let del = host.request_for("DEL", &new(), pod).env("CNI_NETNS", "");
            let killed = del.killed_after(n + 1);
            del.run().done();
            let pod = std::slice::from_ref(pod);
            assert_eq!(left_of(host, pod), "", "killed after call {}", n + 1);
            if !killed {
                return;
            }
        }
        panic!("a DEL makes more than 40 system calls that change something");
    });
}

/// The configuration is changed back too early: host-local does not hand out a second time
/// what it gave before, it fails.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_way_back_hands_out_nothing_twice() {
    harness::tool("bridge");
    on_host(|host| {
        let (_old, _) = kit::pods(host, &old("nftables"), 3);
        let (_new, _) = kit::pods(host, &new(), 3);
        let pod = host.container();
        let refusal = host.add(&old("nftables"), &pod).refusal();
        let said = format!("{}; {}", refusal.msg, refusal.details);
        assert!(said.contains("/var/lib/cni/networks/cbr0"), "{refusal:?}");
        assert_eq!(kit::in_kernel(&pod), Vec::<IpAddr>::new());
    });
}
