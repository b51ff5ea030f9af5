//! A node with pods of ours, and of the Go plugins before them, goes back to the Go plugins:
//! `cni-ipam export`. No pod is restarted, and no address is given twice.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use harness::{Container, Echo, Host, Request, World, conf, on_host, packet};
use serde_json::{Value, json};

use crate::kit;

/// Where host-local keeps the addresses of the network.
const THERE: &str = "/var/lib/cni/networks/cbr0";

/// An export makes fewer system calls that change something.
const MOST_CALLS: usize = 200;

fn ours() -> Value {
    conf::with(&conf::ipv4(), &json!({ "ipMasq": true }))
}

fn go() -> Value {
    let changes = json!({
        "type": "bridge", "ipMasqBackend": "nftables", "ipam": { "type": "host-local" },
    });
    conf::with(&ours(), &changes)
}

fn export() -> Request {
    Request::bare("cni-ipam").arguments(&["export"])
}

fn exported() -> String {
    let (status, said) = kit::tool(&["export"]);
    assert_eq!(status, 0, "{said}");
    said
}

/// The addresses of which host-local has a record.
fn recorded() -> BTreeSet<IpAddr> {
    let entries = fs::read_dir(THERE).expect("a directory of host-local");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect()
}

fn in_kernel<'a>(pods: impl IntoIterator<Item = &'a Container>) -> BTreeSet<IpAddr> {
    pods.into_iter().flat_map(kit::in_kernel).collect()
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn pods_of_both_go_on_and_are_deleted_by_the_go_plugins() {
    harness::tool("bridge");
    on_host(|host| {
        let world = World::around(host);
        let _outside = Echo::start(&world.outside, "203.0.113.10:7");
        let (imported, _) = kit::pods(host, &go(), 5);
        let (mine, _) = kit::pods(host, &ours(), 5);
        // A hole, which host-local may fill.
        host.del(&ours(), &mine[2]).done();

        // The configuration first: new pods have to wait.
        let early = host.container();
        let refusal = host.add(&go(), &early).refusal();
        let said = format!("{}; {}", refusal.msg, refusal.details);
        assert!(said.contains(THERE), "{refusal:?}");
        host.del(&go(), &early);
        assert_eq!(
            exported(),
            format!("cbr0: 9 addresses are host-local's now, in {THERE}\n")
        );
        let mut old: Vec<Container> = imported.into_iter().chain(mine).collect();
        assert_eq!(recorded(), in_kernel(&old));
        assert_eq!(host.state().only(&["lease /run/cni-ipam"]).text(), "");
        let (new, new_addresses) = kit::pods(host, &go(), 20);
        assert!(new_addresses.is_disjoint(&in_kernel(&old)));
        for pod in old
            .iter()
            .chain(&new)
            .filter(|pod| !kit::in_kernel(pod).is_empty())
        {
            let seen = packet::ask(&pod.netns, "203.0.113.10:7").expect("the outside");
            assert_eq!(seen.to_string(), "10.200.0.2");
        }

        for (n, pod) in old.iter_mut().enumerate() {
            let mut request = host.request_for("DEL", &go(), pod);
            if n % 2 == 1 {
                pod.die();
                request = request.env("CNI_NETNS", "");
            }
            request.run().done();
        }
        assert_eq!(recorded(), new_addresses);
        kit::wait_for_links(new.len());
    });
}

/// `dataDir` says where host-local has its records, and our store is in the same directory.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_data_dir_that_was_host_locals_is_so_again() {
    harness::tool("bridge");
    on_host(|host| {
        let dir = "/var/lib/cni/pods";
        let in_dir = |conf: &Value| conf::with(conf, &json!({ "ipam": { "dataDir": dir } }));
        let (ours, go) = (in_dir(&ours()), in_dir(&go()));
        let (old, _) = host.pod(&go);
        let (new, _) = host.pod(&ours);
        let early = host.container();
        let refusal = host.add(&go, &early).refusal();
        host.del(&go, &early);
        let (status, said) = kit::tool(&["export", "--data-dir", dir, "--to", dir]);
        assert_eq!(
            (status, &*said),
            (
                0,
                "cbr0: 2 addresses are host-local's now, in /var/lib/cni/pods/cbr0\n"
            ),
            "{refusal:?}"
        );
        let (last, _) = host.pod(&go);
        assert_eq!(in_kernel([&old, &new, &last]).len(), 3);
        for pod in [&old, &new, &last] {
            host.del(&go, pod).done();
        }
        let left = host.state().only(&["lease "]);
        assert_eq!(left.text(), "");
    });
}

/// The note is on a disk, our store was in memory, and no pod has come since.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn after_a_boot_host_local_is_let_in_again() {
    harness::tool("bridge");
    on_host(|host| {
        let (pod, _) = host.pod(&go());
        host.del(&go(), &pod).done();
        let (pod, _) = host.pod(&ours());
        host.del(&ours(), &pod).done();
        fs::remove_dir_all("/run/cni-ipam").expect("the store");
        let refusal = host.add(&go(), &pod).refusal();
        assert!(
            refusal.details.contains(THERE) || refusal.msg.contains(THERE),
            "{refusal:?}"
        );
        host.del(&go(), &pod);

        let (status, said) = kit::tool(&["export", "--json"]);
        assert_eq!(status, 0, "{said}");
        let said: Value = serde_json::from_str(&said).expect("JSON");
        let network = json!({
            "network": "cbr0", "directory": THERE, "addresses": 0, "withoutWholeId": [],
        });
        assert_eq!(said, json!({ "networks": [network] }));
        host.add(&go(), &pod).result();
        assert_eq!(recorded(), in_kernel([&pod]));
        let (status, said) = kit::tool(&["export"]);
        assert_eq!(
            (status, &*said),
            (
                0,
                "no network has leases in /run/cni-ipam, and none was taken over from /var/lib/cni/networks\n"
            )
        );
    });
}

/// An export that is killed after each system call that changes something: whichever plugin
/// goes on, the pods have what they had.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_export_that_is_killed_loses_nothing() {
    harness::tool("bridge");
    on_host(|host| {
        let (imported, _) = kit::pods(host, &go(), 2);
        let (mine, _) = kit::pods(host, &ours(), 2);
        let pods: Vec<&Container> = imported.iter().chain(&mine).collect();
        let live = in_kernel(pods.iter().copied());
        for nth in 1..MOST_CALLS {
            let killed = export().killed_after(nth);
            if nth % 2 == 0 {
                kit::tool(&["export"]);
                assert_eq!(recorded(), live, "killed after call {nth}");
                let (next, address) = host.pod(&go());
                assert!(!live.contains(&kit::address(&address)), "after call {nth}");
                host.del(&go(), &next).done();
            }
            let (next, address) = host.pod(&ours());
            assert!(!live.contains(&kit::address(&address)), "after call {nth}");
            host.del(&ours(), &next).done();
            let leases = host.state().only(&["lease /run/cni-ipam/cbr0/"]);
            assert_eq!(
                leases.text().lines().count(),
                4,
                "after call {nth}: {leases:?}"
            );
            kit::assert_healthy();
            if !killed {
                kit::figure(&format!("an export was killed {} times", nth - 1));
                assert!(nth > 10, "an export makes only {nth} system calls");
                return;
            }
        }
        panic!("an export makes more than {MOST_CALLS} system calls that change something");
    });
}

/// An ADD that an export came between is undone, and tried again as runtimes do.
fn added(host: &Host, pod: &Container) {
    for _ in 0..200 {
        let answer = host.add(&ours(), pod);
        if answer.status == 0 {
            return;
        }
        answer.refused(11, "was taken back, try again");
    }
    panic!("{} does not get an address", pod.id);
}

/// Exports, again and again, while pods of ours come: each takes everything back.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn exports_among_adds_give_no_address_twice() {
    harness::tool("bridge");
    on_host(|host| {
        let (imported, _) = kit::pods(host, &go(), 3);
        let done = AtomicBool::new(false);
        let pods: Vec<Container> = (0..60).map(|_| host.container()).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let (status, said) = kit::tool(&["export"]);
                    assert!(status == 0 || said.contains("give the runtime"), "{said}");
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let callers: Vec<_> = pods
                .chunks(20)
                .map(|pods| {
                    scope.spawn(move || {
                        for pod in pods {
                            added(host, pod);
                        }
                    })
                })
                .collect();
            let ended: Vec<_> = callers.into_iter().map(ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            for outcome in ended {
                outcome.expect("no ADD fails");
            }
        });
        let all = in_kernel(imported.iter().chain(&pods));
        assert_eq!(all.len(), 63);
        kit::tool(&["export"]);
        assert_eq!(recorded(), all);
        let (_next, addresses) = kit::pods(host, &go(), 20);
        assert!(addresses.is_disjoint(&all));
    });
}
