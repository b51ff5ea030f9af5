//! A full range, and what of it can be had back without a DEL.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use harness::{Container, Host, Netns, conf, on_host};
use serde_json::{Value, json};

use crate::kit::{self, STORE};

/// `10.64.1.2` to `10.64.1.6`.
const USABLE: usize = 5;

/// Older than any ADD takes, in seconds.
const OLD: u64 = 120;

fn small() -> Value {
    kit::network(&json!({ "subnet": "10.64.1.0/29" }))
}

/// Namespaces end without a DEL.
fn die(pods: &mut [Container], left: usize) {
    pods.iter_mut().for_each(Container::die);
    kit::wait_for_links(left);
}

/// ADD is refused and leaves nothing.
#[track_caller]
fn refused(host: &Host, conf: &Value, numbers: &[&str]) {
    let pod = host.container();
    let (before, inside) = (host.state(), pod.state());
    let words = kit::words(host.add(conf, &pod), 11);
    for number in numbers
        .iter()
        .chain(&["no IP addresses available in range set: 10.64.1.1-10.64.1.6"])
    {
        assert!(words.contains(number), "{number}: {words}");
    }
    host.state().assert_same(&before);
    pod.state().assert_same(&inside);
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn addresses_of_pods_that_are_gone_come_back_by_themselves() {
    on_host(|host| {
        let (mut pods, taken) = kit::pods(host, &small(), USABLE);
        die(&mut pods, 0);
        // Fifty seconds are not enough: an ADD may still be about to make its link.
        kit::age(Path::new(STORE), 50);
        refused(host, &small(), &["5 used, 0 of them", "0 quarantined"]);
        kit::age(Path::new(STORE), OLD);
        let (again, addresses) = kit::pods(host, &small(), USABLE);
        assert_eq!(addresses, taken);
        kit::assert_healthy();
        // A late DEL of the dead touches nobody.
        let live = host.state();
        for pod in &pods {
            host.del(&small(), pod).done();
        }
        host.state().assert_same(&live);
        drop(again);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn live_pods_keep_their_addresses_when_the_range_is_full() {
    on_host(|host| {
        let (mut pods, taken) = kit::pods(host, &small(), USABLE);
        kit::age(Path::new(STORE), OLD);
        refused(host, &small(), &["5 used, 0 of them", "0 quarantined"]);
        let live: BTreeSet<IpAddr> = pods.iter().flat_map(kit::in_kernel).collect();
        assert_eq!(live, taken);
        // One of them is gone: its address alone is given, once.
        let address = kit::in_kernel(&pods[2]);
        die(&mut pods[2..3], USABLE - 1);
        let (_live, result) = host.pod(&small());
        assert_eq!(vec![kit::address(&result)], address);
        refused(host, &small(), &["5 used"]);
    });
}

/// All who find the range full at once share what can be had, and none goes empty.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn those_who_repair_at_once_get_different_addresses() {
    on_host(|host| {
        let (mut pods, taken) = kit::pods(host, &small(), USABLE);
        for _ in 0..6 {
            die(&mut pods, 0);
            kit::age(Path::new(STORE), OLD);
            pods = (0..USABLE).map(|_| host.container()).collect();
            let start = |pod| host.request_for("ADD", &small(), pod).start();
            let running: Vec<_> = pods.iter().map(start).collect();
            for run in running {
                run.wait().result();
            }
            let live: BTreeSet<IpAddr> = pods.iter().flat_map(kit::in_kernel).collect();
            assert_eq!(live, taken);
            kit::assert_healthy();
        }
    });
}

/// An ADD that finds the range full is killed after each system call that changes something:
/// the one address there is can be had by the next, whoever condemned it.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_repair_that_is_killed_is_done_by_the_next() {
    on_host(|host| {
        let conf = kit::network(&json!({ "subnet": "10.64.1.0/30" }));
        let (mut pod, _) = host.pod(&conf);
        for nth in 1..100 {
            die(std::slice::from_mut(&mut pod), 0);
            kit::age(Path::new(STORE), OLD);
            let dead = host.container();
            let killed = host.request_for("ADD", &conf, &dead).killed_after(nth);
            host.del(&conf, &dead).done();
            kit::age(Path::new(STORE), OLD);
            println!("killed after call {nth}");
            let (next, result) = host.pod(&conf);
            assert_eq!(kit::in_kernel(&next), [kit::address(&result)]);
            kit::assert_healthy();
            if !killed {
                assert!(nth > 15, "ADD makes only {nth} system calls");
                return;
            }
            pod = next;
        }
        panic!("an ADD makes more than 100 system calls that change something");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn leases_of_other_plugins_and_namespaces_are_nobodys_to_end() {
    harness::tool("bridge");
    on_host(|host| {
        let go = conf::with(&small(), &json!({ "type": "bridge", "bridge": "cbr0" }));
        let (mut others, _) = kit::pods(host, &go, 2);
        let elsewhere = Netns::new();
        elsewhere.ip("link set lo up");
        let mut away: Vec<Container> = (0..2).map(|_| host.container()).collect();
        for pod in &away {
            let add = host.request_for("ADD", &small(), pod);
            elsewhere.run(|| add.run()).result();
        }
        let (mut own, _) = kit::pods(host, &small(), 1);
        die(&mut others, 1);
        away.iter_mut().for_each(Container::die);
        drop(elsewhere);
        kit::age(Path::new(STORE), OLD);
        // Of five, four cannot be proved to be gone. The fifth lives, then it does not.
        refused(host, &small(), &["5 used, 4 of them"]);
        let address = kit::in_kernel(&own[0]);
        die(&mut own, 0);
        let (_live, result) = host.pod(&small());
        assert_eq!(vec![kit::address(&result)], address);
        refused(host, &small(), &["5 used, 4 of them"]);
        // A DEL ends them, wherever it is called.
        for pod in &others {
            host.del(&go, pod).done();
        }
        for pod in &away {
            host.del(&small(), pod).done();
        }
        kit::pods(host, &small(), 4);
    });
}

/// Nobody waits for a full range: the operator's word is enough.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_tool_repairs_on_request() {
    on_host(|host| {
        let (_live, _) = host.pod(&small());
        let before = host.state();
        let (mut pods, addresses) = kit::pods(host, &small(), 2);
        die(&mut pods, 1);
        kit::assert_healthy();
        kit::age(Path::new(STORE), OLD);
        let abandoned = host.state();
        for arguments in [&["verify"][..], &["repair", "--dry-run"]] {
            let (status, text) = kit::tool(arguments);
            assert_eq!(status, 1, "{text}");
            assert!(
                addresses.iter().all(|ip| text.contains(&ip.to_string())),
                "{text}"
            );
            host.state().assert_same(&abandoned);
        }
        let (status, text) = kit::tool(&["repair"]);
        assert_eq!(status, 0, "{text}");
        host.state().assert_same(&before);
        kit::assert_healthy();
    });
}
