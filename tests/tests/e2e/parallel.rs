//! Many pods at once, also on a node where nothing is there yet.

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use harness::{Host, Netns, Running, conf, on_host};
use serde_json::Value;

fn add_all(host: &Host, count: usize) -> Vec<(harness::Container, Value)> {
    let conf = conf::dual_stack();
    let pods: Vec<_> = (0..count).map(|_| host.container()).collect();
    let start = |pod| host.request_for("ADD", &conf, pod).start();
    let running: Vec<Running> = pods.iter().map(start).collect();
    let results: Vec<Value> = running.into_iter().map(|run| run.wait().result()).collect();
    pods.into_iter().zip(results).collect()
}

fn addresses(pods: &[(harness::Container, Value)]) -> BTreeSet<String> {
    let ips = pods
        .iter()
        .flat_map(|(_, result)| result["ips"].as_array().expect("ips"));
    ips.map(|ip| ip["address"].to_string()).collect()
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_hundred_pods_at_once_on_a_node_without_a_bridge() {
    on_host(|host| {
        let pods = add_all(host, 100);

        assert_eq!(addresses(&pods).len(), 200);
        let links = host.state().only(&["link cbr0 ", "link veth"]);
        assert_eq!(links.text().lines().count(), 101, "{links:?}");
        let gateways = host
            .state()
            .only(&["address 10.64.1.1/24", "address fd00:64:1::1/64"]);
        assert_eq!(gateways.text().lines().count(), 2, "{gateways:?}");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn pods_that_come_and_go_at_once_leave_nothing() {
    on_host(|host| {
        let (_neighbour, _) = host.pod(&conf::dual_stack());
        let before = host.state();
        let old = add_all(host, 12);
        let del = |pod| host.request_for("DEL", &conf::dual_stack(), pod).start();
        let going: Vec<Running> = old.iter().map(|(pod, _)| del(pod)).collect();
        let new = add_all(host, 12);
        let going = going.into_iter().chain(new.iter().map(|(pod, _)| del(pod)));
        going.for_each(|run| run.wait().done());
        assert_eq!(addresses(&new).len(), 24);
        host.state().assert_same(&before);
    });
}

/// What the first packets of a pod depend on: the kernel does it some time after the link
/// is up, and later the more others want the same lock.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_port_of_a_new_pod_forwards_when_add_returns() {
    on_host(|host| {
        let busy = AtomicBool::new(true);
        thread::scope(|scope| {
            scope.spawn(|| {
                let others = Netns::new();
                while busy.load(Ordering::Relaxed) {
                    others.ip(&churn("a"));
                }
            });
            let late = ports_that_are_late(host, 40);
            busy.store(false, Ordering::Relaxed);
            assert_eq!(late, Vec::<String>::new(), "of 40 ports");
        });
    });
}

/// Links that come and go.
fn churn(name: &str) -> String {
    let pair =
        |n| format!("link add {name}{n} up type veth peer name {name}{n}x\nlink del {name}{n}\n");
    (0..10).map(pair).collect()
}

/// The first pod on a bridge wakes the bridge itself, too: every time is the first.
fn ports_that_are_late(host: &Host, count: usize) -> Vec<String> {
    let mut late = Vec::new();
    for _ in 0..count {
        let (pod, result) = host.pod(&conf::ipv4());
        let port = result["interfaces"][1]["name"].as_str().expect("a name");
        let read = |file: String| fs::read_to_string(format!("/sys/class/net/{file}"));
        let bridge = read("cbr0/operstate".to_owned()).expect("the bridge's state");
        let state = read(format!("{port}/brport/state")).expect("the port's state");
        // BR_STATE_FORWARDING
        if (state.trim(), bridge.trim()) != ("3", "up") {
            late.push(format!("port {} bridge {}", state.trim(), bridge.trim()));
        }
        host.del(&conf::ipv4(), &pod).done();
        harness::sh("ip link delete cbr0");
    }
    late
}

mod ours {
    use super::*;

    /// Samples cbr0's hardware address while `work` runs.
    fn bridge_macs(work: impl FnOnce()) -> BTreeSet<String> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut macs = BTreeSet::new();
                loop {
                    let last = done.load(Ordering::Relaxed);
                    macs.extend(fs::read_to_string("/sys/class/net/cbr0/address"));
                    if last {
                        return macs;
                    }
                    thread::yield_now();
                }
            });
            work();
            done.store(true, Ordering::Relaxed);
            sampler.join().expect("the sampler")
        })
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_bridge_has_one_hardware_address_from_the_first_pod_to_the_last() {
        on_host(|host| {
            let macs = bridge_macs(|| {
                let pods = add_all(host, 40);
                let conf = conf::dual_stack();
                for (pod, _) in &pods {
                    host.del(&conf, pod).done();
                }
            });
            assert_eq!(macs, BTreeSet::from(["0a:58:0a:40:01:01\n".to_owned()]));
        });
    }

    /// A dump of links is inconsistent when others come and go meanwhile.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn links_of_others_that_come_and_go_do_not_matter() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::dual_stack());
            let before = host.state();
            let busy = AtomicBool::new(true);
            thread::scope(|scope| {
                for name in ["a", "b"] {
                    let (busy, netns) = (&busy, &host.netns);
                    scope.spawn(move || {
                        while busy.load(Ordering::Relaxed) {
                            netns.ip(&churn(name));
                        }
                    });
                }
                for _ in 0..20 {
                    let (pod, _) = host.pod(&conf::dual_stack());
                    host.del(&conf::dual_stack(), &pod).done();
                }
                busy.store(false, Ordering::Relaxed);
            });
            host.state().assert_same(&before);
        });
    }
}
