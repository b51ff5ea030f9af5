//! A process that stands still while it holds the lock of the store.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Host, on_host};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::{kit, tracer::Wrapped};

/// How long a process waits for the lock, and what a busy machine may add.
const PATIENCE: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(8);

/// ADD and DEL of others give up in time and say for whom they waited.
fn assert_busy(host: &Host, holder: Pid, verb: &str) {
    let conf = harness::conf::smallest();
    let (pod, old) = (host.container(), host.container());
    let (before, inside) = (host.state(), pod.state());
    let started = Instant::now();
    let running = [
        host.request_for("ADD", &conf, &pod).start(),
        host.request_for("DEL", &conf, &old).start(),
        kit::ipam(host, "ADD", &conf, "other").start(),
    ];
    // Who only looks, does not wait.
    host.status(&conf).done();
    let (status, text) = kit::tool(&["list"]);
    assert_eq!(status, 0, "{text}");
    assert!(
        started.elapsed() < PATIENCE,
        "STATUS and the tool waited for the lock"
    );
    for run in running {
        let words = kit::words(run.wait(), 11);
        let who = format!("{holder} ");
        assert!(
            words.contains(&who) && words.contains(verb),
            "{who}: {words}"
        );
        assert!(words.contains(kit::STORE), "{words}");
    }
    let waited = started.elapsed();
    assert!(waited < PATIENCE + SLACK, "{waited:?}");
    host.state().assert_same(&before);
    pod.state().assert_same(&inside);
}

/// A call of cni-bridge is stopped while it holds the lock; after SIGCONT all is well.
fn holder_of(verb: &str) {
    on_host(|host| {
        let conf = harness::conf::smallest();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let pod = host.container();
        if verb == "DEL" {
            host.add(&conf, &pod).result();
        }
        let bridge = Wrapped::new("cni-bridge");
        let (running, traced) = bridge.start(&host.request_for(verb, &conf, &pod));
        let holder = traced.pid();
        traced.stop_in_the_lock();
        assert_busy(host, holder, &format!("CNI_COMMAND={verb}"));

        signal::kill(holder, Signal::SIGCONT).unwrap();
        let answer = running.wait();
        if verb == "ADD" {
            answer.result();
            let (others, _) = kit::pods(host, &conf, 3);
            for pod in others.iter().chain([&pod]) {
                host.del(&conf, pod).done();
            }
        } else {
            answer.done();
        }
        host.state().assert_same(&before);
        kit::assert_healthy();
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_add_that_is_stopped_in_the_lock_is_named() {
    holder_of("ADD");
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_del_that_is_stopped_in_the_lock_is_named() {
    holder_of("DEL");
}

/// It is killed instead of continued: the kernel lets the lock go.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_holder_that_dies_lets_the_others_go_on() {
    on_host(|host| {
        let conf = harness::conf::smallest();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let dead = host.container();
        let bridge = Wrapped::new("cni-bridge");
        let (running, traced) = bridge.start(&host.request_for("ADD", &conf, &dead));
        let holder = traced.pid();
        traced.stop_in_the_lock();
        let pod = host.container();
        let waiting = host.request_for("ADD", &conf, &pod).start();
        thread::sleep(Duration::from_millis(200));
        signal::kill(holder, Signal::SIGKILL).unwrap();
        let started = Instant::now();
        waiting.wait().result();
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        assert_eq!(running.wait().status, -9);
        for pod in [&pod, &dead] {
            host.del(&conf, pod).done();
        }
        host.state().assert_same(&before);
        kit::assert_healthy();
    });
}
