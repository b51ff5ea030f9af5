//! Many pods at once, as when a node comes back with all its pods.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{Containerd, Cri, Echo, Node, on_host, packet};

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
        let pods = by_callers(&node, PODS, |cri, n| node.pod(cri, &format!("pod{n}")));
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
        by_callers(&node, PODS, |cri, n| pods[n].remove(cri));
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

/// The results of `work` for 0, 1, ..., from so many callers with a connection each.
fn by_callers<T: Send>(
    node: &Node,
    count: usize,
    work: impl Fn(&Cri, usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let caller = || {
        let cri = node.cri();
        let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
        numbers
            .take_while(|number| *number < count)
            .map(|number| (number, work(&cri, number)))
            .collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        let mut results: Vec<_> = callers
            .into_iter()
            .flat_map(|caller| caller.join().expect("a caller"))
            .collect();
        results.sort_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result).collect()
    })
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
