//! Pods, nodes and Services reach each other.

use std::net::IpAddr;

use harness::{Cluster, Echo, Netns, lab, packet};

use crate::kit::{Pod, web_pods};

/// Who sees which sender, in every direction.
pub(crate) fn senders(cluster: &Cluster) {
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("wait --for=condition=Ready pod/lonely --timeout=60s");
    let [here, there] = ["one", "two"].map(|node| web_pods(cluster, node));
    let (a, b, c) = (&here[0], &here[1], &there[0]);
    let lonely = Pod::of(cluster, &cluster.get("pod lonely"));
    let servers = here.iter().chain(&there).chain([&lonely]);
    let _servers: Vec<Echo> = servers
        .map(|pod| Echo::start(&pod.netns, &format!("{}:8080", pod.address)))
        .collect();
    let _outside = Echo::start(cluster.outside(), "203.0.113.10:8080");
    let (one, two) = (cluster.netns(1), cluster.netns(2));
    let ways: [(&Netns, &str, &str); 9] = [
        (&a.netns, &b.address, &a.address),
        (&a.netns, &a.address, &a.address),
        (&a.netns, &c.address, &a.address),
        (&c.netns, &a.address, &c.address),
        (one, &a.address, "10.64.0.1"),
        (two, &a.address, lab::IPV4.two),
        (&a.netns, lab::IPV4.outside, lab::IPV4.public_one),
        (&a.netns, "10.96.0.81", &a.address),
        // kube-proxy has put another sender in: a pod does not answer itself.
        (&lonely.netns, "10.96.0.81", "10.64.0.1"),
    ];
    for (from, target, sender) in ways {
        see(from, target, sender);
    }
    for pod in here.iter().chain(&there) {
        answers(&pod.netns, "10.96.0.80");
    }
    answers(one, "10.96.0.80");
    answers(two, "10.96.0.80");
}

#[track_caller]
fn see(from: &Netns, target: &str, sender: &str) {
    let target = format!("{target}:8080");
    let seen = packet::ask(from, &target).expect(&target).to_string();
    assert_eq!(seen, sender, "asked {target}");
    let seen = packet::connect(from, &target).expect(&target).to_string();
    assert_eq!(seen, sender, "connected to {target}");
}

/// Each endpoint of a Service will have its turn.
#[track_caller]
fn answers(from: &Netns, service: &str) {
    let target = format!("{service}:8080");
    for _ in 0..16 {
        let _seen: IpAddr = packet::connect(from, &target).expect(&target);
    }
}

/// As a user looks at it: a name, and a page of a container.
pub(crate) fn names(cluster: &Cluster) {
    let exec = "exec deployment/web --";
    let found = cluster.kubectl(&format!("{exec} nslookup web.default.svc.cluster.local"));
    assert!(found.contains("10.96.0.80"), "{found}");
    let page = cluster.kubectl(&format!("{exec} wget -q -O - http://10.96.0.80/"));
    assert!(page.starts_with("web-"), "{page}");
}
