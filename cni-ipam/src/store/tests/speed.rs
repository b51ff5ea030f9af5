//! How long a lease and a release take, lock included, at several fills of the store.
//!
//! Prints, and fails only when something is grossly wrong: run it with
//! `cargo test --release -p cni-ipam speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use crate::store::{block, dir::Dir};
use crate::{allocate::BlockId, testing::Node};

const ROUNDS: usize = 400;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
#[expect(clippy::print_stdout, reason = "a measurement, for people")]
#[ignore = "measures: run by hand with --release --nocapture"]
fn lease_and_release_take_the_same_time_at_any_fill() {
    let node = Node::new(r#""subnet":"10.64.0.0/16""#);
    let id = |n: usize| format!("{n:064x}");
    let mut there = 0;
    println!("leases   lease us   release us   nothing to release us");
    for fill in [0, 250, 1000, 65_000] {
        while there < fill {
            node.add(&id(there));
            there += 1;
        }
        let mut times = [const { Vec::new() }; 3];
        for n in 0..ROUNDS {
            let id = id(100_000 + n);
            let started = Instant::now();
            node.lease(&id).unwrap();
            times[0].push(started.elapsed());
            let started = Instant::now();
            node.del(&id);
            times[1].push(started.elapsed());
            let started = Instant::now();
            node.del(&id);
            times[2].push(started.elapsed());
        }
        let [lease, release, nothing] = times.map(median);
        println!(
            "{fill:6} {:10.1} {:12.1} {:12.1}",
            lease.as_secs_f64() * 1e6,
            release.as_secs_f64() * 1e6,
            nothing.as_secs_f64() * 1e6
        );
        assert!(lease < Duration::from_millis(5));
    }
    let births = (0..50).map(|_| {
        let started = Instant::now();
        let bytes = block::unused(BlockId::of("10.99.0.0".parse().unwrap()));
        let dir = Dir::open(&node.path()).unwrap().unwrap();
        dir.write_whole("birth", &bytes).unwrap();
        started.elapsed()
    });
    let birth = median(births.collect());
    println!(
        "a block of 256 addresses is born in {:.1} us",
        birth.as_secs_f64() * 1e6
    );
}
