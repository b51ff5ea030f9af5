//! Many pods at once, as when a node comes back with all its pods.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use harness::{Containerd, Echo, Node, on_host, packet};

for_each_containerd!(sixty_pods_from_eight_callers);

const PODS: usize = 60;
const CALLERS: usize = 8;

fn sixty_pods_from_eight_callers(which: Containerd) {
    on_host(|host| {
        let Some(node) = Node::boot(host, which) else {
            return;
        };
        let cri = node.cri();
        // With it comes what pods share.
        let _neighbour = node.pod(&cri, "neighbour");
        let before = host.state();

        let started = Instant::now();
        let pods = node.by_callers(CALLERS, PODS, |cri, n| node.pod(cri, &format!("pod{n}")));
        let made = started.elapsed();

        let addresses: BTreeSet<String> = pods.iter().map(|pod| pod.address(&cri)).collect();
        assert_eq!(addresses.len(), PODS);
        let server = "10.64.1.1:8080";
        let _gateway = Echo::start(&host.netns, server);
        for pod in &pods {
            let sender = packet::ask(&node.netns_of(&cri, pod), server).expect("an answer");
            assert_eq!(sender.to_string(), pod.address(&cri));
        }

        let started = Instant::now();
        node.by_callers(CALLERS, PODS, |cri, n| pods[n].remove(cri));
        let removed = started.elapsed();
        assert_eq!(cri.pod_sandboxes().len(), 1);
        host.state().assert_same(&before);
        println!(
            "{which:?}: {PODS} pods by {CALLERS} callers: made in {}, removed in {}",
            seconds(made),
            seconds(removed)
        );
    });
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
