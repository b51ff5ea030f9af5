//! 64 processes at once that lease and release, in a range that is too small for all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Request, on_host};
use serde_json::json;

use crate::kit;

const CALLERS: usize = 64;

/// How many leases each caller wants at once: together more than there are addresses.
const EACH: usize = 4;

#[derive(Default)]
struct Counts {
    leased: AtomicU64,
    exhausted: AtomicU64,
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_crowd_gets_no_address_twice_and_no_error_but_exhaustion() {
    on_host(|host| {
        let ipam = json!({ "rangeStart": "10.64.1.10", "rangeEnd": "10.64.1.109" });
        let conf = kit::network(&ipam);
        kit::lease(host, &conf, "first");
        kit::ipam(host, "DEL", &conf, "first").run().done();
        let before = host.state();
        let seconds = kit::number("CNI_E2E_SECONDS", 5);
        let end = Instant::now() + Duration::from_secs(seconds);
        let (live, counts) = (Mutex::default(), Counts::default());
        let calls = |id: &str| ["ADD", "DEL"].map(|verb| kit::ipam(host, verb, &conf, id));
        let callers: Vec<Vec<[Request; 2]>> = (0..CALLERS)
            .map(|n| (0..EACH).map(|m| calls(&format!("c{n}-{m}"))).collect())
            .collect();
        thread::scope(|scope| {
            for requests in &callers {
                let (live, counts) = (&live, &counts);
                scope.spawn(move || {
                    while Instant::now() < end {
                        in_turn(requests, live, counts);
                    }
                });
            }
        });
        host.state().assert_same(&before);
        kit::assert_healthy();
        let [leased, full] = [&counts.leased, &counts.exhausted].map(|n| n.load(Ordering::Relaxed));
        kit::figure(&format!(
            "crowd: {CALLERS} processes for {seconds} s leased {leased} times, {full} times \
             there was no address; none twice"
        ));
        assert!(leased > 100 && full > 0, "{leased} {full}");
    });
}

/// Leases one after the other, then releases them.
fn in_turn(requests: &[[Request; 2]], live: &Mutex<HashMap<IpAddr, String>>, counts: &Counts) {
    let mut held = Vec::new();
    for [add, del] in requests {
        let answer = add.run();
        if answer.status == 0 {
            let address = kit::address(&answer.result());
            let other = live.lock().unwrap().insert(address, add.to_string());
            assert_eq!(other, None, "{address} is given twice");
            counts.leased.fetch_add(1, Ordering::Relaxed);
            held.push((address, del));
        } else {
            assert_exhausted(answer);
            counts.exhausted.fetch_add(1, Ordering::Relaxed);
        }
    }
    for (address, del) in held {
        live.lock().unwrap().remove(&address);
        del.run().done();
    }
}

fn assert_exhausted(answer: Answer) {
    answer.refused(11, "no IP addresses available in range set");
}
