//! containerd ends and is started again, as an update or a crash does it, and callers lose
//! their patience.

use std::{fs::File, thread, time::Duration};

use harness::{Containerd, Echo, Host, Node, Pod, node, on_host, packet};
use nix::sys::signal::Signal;
use serde_json::json;

for_each_containerd!(
    pods_outlive_containerd,
    an_add_outlives_containerd,
    a_del_outlives_containerd,
    an_add_that_takes_too_long_is_killed,
);

fn pods_outlive_containerd(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        node.pod(&cri, "first").remove(&cri);
        let empty = host.state();
        let pods = ["a", "b"].map(|name| node.pod(&cri, name));
        let (a, b) = (node.netns_of(&cri, &pods[0]), node.netns_of(&cri, &pods[1]));
        let target = format!("{}:8080", pods[1].address(&cri));
        let _server = Echo::start(&b, &target);
        let asks = || packet::ask(&a, &target).expect("an answer").to_string();
        assert_eq!(asks(), pods[0].address(&cri));
        let running = host.state();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let ((), calls) = node.calls_during(|| {
                node.end_containerd(signal);
                asks();
                node.start_containerd();
            });
            assert!(calls.iter().all(|call| call.verb == "STATUS"), "{calls:?}");
            host.state().assert_same(&running);
            let mut expected = pods
                .each_ref()
                .map(|pod| (pod.id.clone(), "ready".to_owned()));
            let mut sandboxes = cri.pod_sandboxes();
            expected.sort();
            sandboxes.sort();
            assert_eq!(sandboxes, expected, "after {signal}");
            asks();
        }
        for pod in &pods {
            pod.remove(&cri);
        }
        host.state().assert_same(&empty);
    });
}

/// Nobody gets an address, and nobody gives one back, while this lives.
fn held_store() -> File {
    let store = File::open("/run/cni-ipam/cbr0").expect("the store");
    store.lock().expect("the lock of the store");
    store
}

/// Waits until the plugin was called with this verb for that pod.
fn wait_for_call(node: &Node, verb: &str, pod: &str) {
    let name = format!("K8S_POD_NAME={pod}");
    node::wait_for(verb, || {
        node.calls()
            .iter()
            .any(|call| {
                call.plugin == "cni-bridge" && call.verb == verb && call.args.contains(&name)
            })
            .then_some(())
    });
}

/// Waits until the plugin is at work on calls with these verbs.
fn wait_for_running(node: &Node, verbs: &[&str]) {
    node::wait_for("what the plugin works on", || {
        (node.running("cni-bridge") == verbs).then_some(())
    });
}

/// The plugin goes on to its end, and nobody is there to be told. The sandbox is known.
fn an_add_outlives_containerd(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let neighbour = node.pod(&node.cri(), "neighbour");
        let before = host.state();
        let store = held_store();
        thread::scope(|scope| {
            let caller = scope.spawn(|| node.try_pod(&node.cri(), "late"));
            wait_for_call(&node, "ADD", "late");
            node.end_containerd(Signal::SIGKILL);
            let refusal = caller.join().expect("an answer").expect_err("no pod");
            assert_eq!(refusal.code, "Unavailable", "{refusal}");
        });
        wait_for_running(&node, &["ADD"]);
        drop(store);
        wait_for_running(&node, &[]);
        node.start_containerd();
        assert_eq!(node.remove_what_is_not_ready(), 1);
        host.state().assert_same(&before);
        still_works(host, &node, &neighbour);
    });
}

fn a_del_outlives_containerd(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        let neighbour = node.pod(&cri, "neighbour");
        let before = host.state();
        let pod = node.pod(&cri, "late");
        let store = held_store();
        thread::scope(|scope| {
            let caller = scope.spawn(|| node.cri().stop_pod_sandbox(&pod.id));
            wait_for_call(&node, "DEL", "late");
            node.end_containerd(Signal::SIGKILL);
            let refusal = caller.join().expect("an answer").expect_err("not stopped");
            assert_eq!(refusal.code, "Unavailable", "{refusal}");
        });
        drop(store);
        node.start_containerd();
        pod.remove(&cri);
        wait_for_running(&node, &[]);
        host.state().assert_same(&before);
        still_works(host, &node, &neighbour);
    });
}

/// The caller's time is over, and with it the plugin's: containerd kills it, and sends a DEL.
fn an_add_that_takes_too_long_is_killed(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        let neighbour = node.pod(&cri, "neighbour");
        let before = host.state();
        let store = held_store();
        let request = json!({ "config": node.pod_config("late") });
        // Enough for a busy machine to come as far as the ADD.
        let limit = Duration::from_secs(3);
        let answer = cri.call("RuntimeService/RunPodSandbox", &request, limit);
        let refusal = answer.outcome.expect_err("no pod");
        assert_eq!(refusal.code, "DeadlineExceeded", "{refusal}");
        wait_for_call(&node, "DEL", "late");
        assert!(!node.running("cni-bridge").contains(&"ADD".to_owned()));
        wait_for_running(&node, &["DEL"]);
        drop(store);
        wait_for_running(&node, &[]);
        node.remove_what_is_not_ready();
        node::wait_for("the end of the sandbox", || {
            (cri.pod_sandboxes().len() == 1).then_some(())
        });
        host.state().assert_same(&before);
        still_works(host, &node, &neighbour);
    });
}

/// The pod that was there all the time, and a new one, which gets the next address.
fn still_works(host: &Host, node: &Node, neighbour: &Pod) {
    let cri = node.cri();
    let pod = node.pod(&cri, "next");
    let _server = Echo::start(
        &node.netns_of(&cri, &pod),
        &format!("{}:8080", pod.address(&cri)),
    );
    let target = format!("{}:8080", pod.address(&cri));
    for from in [&node.netns_of(&cri, neighbour), &host.netns] {
        packet::ask(from, &target).expect("an answer");
    }
}
