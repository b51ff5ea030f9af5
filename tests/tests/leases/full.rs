//! A disk that is full, or that cannot be written to.

use std::fs;

use harness::{Host, on_host, sh};
use serde_json::{Value, json};

use crate::kit;

const DISK: &str = "/run/disk";
const DATA: &str = "/run/disk/leases";

/// The store needs fewer pages than that.
const MOST_PAGES: u32 = 100;

fn conf() -> Value {
    kit::network(&json!({ "dataDir": DATA }))
}

/// A disk of this size that is empty.
fn mount(kilobytes: u32) {
    sh(&format!(
        "mkdir -p {DISK}; mount -t tmpfs -o size={kilobytes}k tmpfs {DISK}"
    ));
}

/// What is in use of the store, whoever wrote down the rest.
fn leases() -> String {
    sh(&format!(
        "grep -h '^A' {DATA}/cbr0/*.leases 2>/dev/null || true"
    ))
}

/// With 1, 2, 3, ... pages until it works: each write of the first ADD meets the end of the
/// disk once.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_add_on_a_full_disk_fails_wherever_it_is_full() {
    on_host(|host| {
        let mut refusals = 0;
        for pages in 1..MOST_PAGES {
            mount(pages * 4);
            let answer = kit::ipam(host, "ADD", &conf(), "pod").run();
            let done = answer.status == 0;
            if done {
                answer.result();
            } else {
                let words = kit::words(answer, 5);
                assert!(
                    words.contains(DATA) && words.contains("the file system is full"),
                    "{words}"
                );
                assert_eq!(leases(), "", "with {pages} pages");
                kit::ipam(host, "DEL", &conf(), "pod").run().done();
                refusals += 1;
                sh(&format!("mount -o remount,size=1m {DISK}"));
                kit::lease(host, &conf(), "pod");
            }
            kit::ipam(host, "DEL", &conf(), "pod").run().done();
            assert_eq!(leases(), "");
            sh(&format!("umount {DISK}"));
            if done {
                kit::figure(&format!("full disk: {refusals} sizes that are too small"));
                assert!(refusals > 10, "{refusals}");
                return;
            }
        }
        panic!("{MOST_PAGES} pages are not enough");
    });
}

/// Fills what is left.
fn fill() {
    sh(&format!("cat /dev/zero >{DISK}/fill 2>/dev/null || true"));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn pods_come_and_go_on_a_disk_that_became_full() {
    on_host(|host| {
        mount(1024);
        let conf = conf();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let (pods, _) = kit::pods(host, &conf, 5);
        let live = leases();
        fill();
        for pod in &pods {
            host.del(&conf, pod).done();
        }
        host.state().assert_same(&before);
        let (again, _) = kit::pods(host, &conf, 5);
        assert_eq!(leases().lines().count(), live.lines().count());
        for pod in &again {
            host.del(&conf, pod).done();
        }
        host.state().assert_same(&before);
    });
}

/// Index and block are damaged on a full disk: the DEL of a pod works all the same.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_del_works_on_a_full_disk_without_an_index() {
    on_host(|host| {
        mount(1024);
        let conf = conf();
        let (kept, _) = host.pod(&conf);
        let (pod, _) = host.pod(&conf);
        fs::remove_file(format!("{DATA}/cbr0/index")).unwrap();
        fill();
        host.del(&conf, &pod).done();
        assert_eq!(leases().lines().count(), 1);
        assert!(leases().contains(&kept.id), "{}", leases());
        sh(&format!("rm {DISK}/fill"));
        let (_, addresses) = kit::pods(host, &conf, 3);
        assert!(!addresses.contains(&kit::in_kernel(&kept)[0]));
    });
}

/// A second block of addresses is needed, and there is no room for it.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_range_that_grows_on_a_full_disk() {
    on_host(|host: &Host| {
        mount(1024);
        let from = |first: &str| {
            let ipam = json!({ "dataDir": DATA, "subnet": "10.64.0.0/16", "rangeStart": first });
            kit::network(&ipam)
        };
        let (_neighbour, _) = host.pod(&from("10.64.1.10"));
        fill();
        let wider = from("10.64.2.1");
        let pod = host.container();
        let (before, inside) = (host.state(), pod.state());
        let words = kit::words(host.add(&wider, &pod), 5);
        assert!(words.contains(DATA), "{words}");
        host.state().assert_same(&before);
        pod.state().assert_same(&inside);
        sh(&format!("rm {DISK}/fill"));
        assert_eq!(
            host.add(&wider, &pod).result()["ips"][0]["address"],
            "10.64.2.1/16"
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_disk_that_cannot_be_written_to() {
    on_host(|host| {
        mount(1024);
        let conf = conf();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let (old, _) = host.pod(&conf);
        let with_old = host.state();
        sh(&format!("mount -o remount,ro {DISK}"));

        let pod = host.container();
        let inside = pod.state();
        let words = kit::words(host.add(&conf, &pod), 5);
        assert!(
            words.contains(DATA) && words.contains("read-only"),
            "{words}"
        );
        host.state().assert_same(&with_old);
        pod.state().assert_same(&inside);
        let words = kit::words(host.status(&conf), 50);
        assert!(
            words.contains(DATA) && words.contains("read-only"),
            "{words}"
        );
        // It must be tried again: the lease stands.
        let words = kit::words(host.del(&conf, &old), 5);
        assert!(
            words.contains(DATA) && words.contains("read-only"),
            "{words}"
        );

        sh(&format!("mount -o remount,rw {DISK}"));
        host.del(&conf, &old).done();
        host.state().assert_same(&before);
        host.add(&conf, &pod).result();
    });
}
