//! Measures the store of leases beside host-local's: what a lease and a release take with
//! more and more leases in it, in memory and on a disk.

mod filled;

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Outcome,
    figures::{percentile, spread_of, spread_of_rounds},
    progress, say,
};
use filled::{Contender, Filled, InProcess, copy, settle};

/// Leases in the store. The ratios are to the first.
const LEVELS: [usize; 4] = [0, 250, 1000, 65_000];
/// From here on, host-local takes long.
const LARGE: usize = 65_000;

const OPERATIONS: [&str; 2] = ["lease", "release"];
const COMMANDS: [&str; 2] = ["ADD", "DEL"];

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    rounds: usize,
    /// Leases and releases in a round, in this process.
    calls: usize,
    /// Processes are started in the large store in one of so many rounds.
    large_every: usize,
}

pub(crate) const FULL: Plan = Plan {
    rounds: 25,
    calls: 50,
    large_every: 5,
};
pub(crate) const QUICK: Plan = Plan {
    rounds: 5,
    calls: 20,
    large_every: 5,
};

/// Where the stores are. The directory goes with it.
struct Place {
    name: &'static str,
    dir: TempDir,
}

/// What is measured: the place, the leases in the store, and what is done.
type Key = (&'static str, usize, String);

/// For each of them, the rounds, and the values of each.
type Samples = BTreeMap<Key, Vec<Vec<f64>>>;

/// `disk`: a directory that is not in memory, if there is one.
pub(crate) fn bench(plan: &Plan, ours: &Path, go: &Path, disk: Option<&Path>) -> Outcome {
    let mut places = vec![Place {
        name: "tmpfs",
        dir: TempDir::new_in("/run")?,
    }];
    if let Some(disk) = disk {
        places.push(Place {
            name: "disk",
            dir: TempDir::new_in(disk)?,
        });
    }
    say(&format!(
        "\nthe store: cni-ipam beside host-local, {} rounds at {LEVELS:?} leases; records of 64 character ids in a /16",
        plan.rounds
    ))?;
    if disk.is_none() {
        say("not measured on a disk: there is no directory for it outside memory")?;
    }
    let samples = in_process(plan, &places)?;
    say(&operations_table(&places, &samples))?;
    let contenders = [
        contender("cni-ipam", ours.join("cni-ipam")),
        contender("host-local", go.join("host-local")),
    ];
    let samples = processes(plan, &places, &contenders)?;
    say(&commands_table(&places, &samples, &contenders))
}

fn contender(name: &'static str, executable: PathBuf) -> Contender {
    Contender { name, executable }
}

/// Times of the library's functions, in microseconds. It leaves the stores filled.
fn in_process(plan: &Plan, places: &[Place]) -> Outcome<Samples> {
    let mut stores = Vec::new();
    for (index, place) in places.iter().enumerate() {
        progress(&format!("stores of cni-ipam: {}", place.name));
        if let (1.., Some(first)) = (index, places.first()) {
            copy(first.dir.path(), place.dir.path())?;
        }
        for leases in LEVELS {
            let mut store = InProcess::new(place.dir.path(), leases)?;
            if index == 0 {
                store.fill()?;
            }
            store.lease_and_release()?; // the first one makes what later ones find
            stores.push((place, store));
        }
    }
    progress("lease and release");
    let mut samples = Samples::new();
    for round in 0..plan.rounds {
        // The first of them another one each time.
        let shift = round % stores.len();
        stores.rotate_left(shift);
        for (place, store) in &mut stores {
            let mut times = [const { Vec::new() }; 2];
            for _ in 0..plan.calls {
                for (times, time) in times.iter_mut().zip(store.lease_and_release()?) {
                    times.push(time.as_secs_f64() * 1e6);
                }
            }
            for (operation, times) in OPERATIONS.into_iter().zip(times) {
                let key = (place.name, store.leases, operation.to_owned());
                samples.entry(key).or_default().push(times);
            }
        }
        stores.rotate_right(shift);
    }
    Ok(samples)
}

fn operations_table(places: &[Place], samples: &Samples) -> String {
    let mut text = String::from(
        "\nwithin one process: microseconds, median (p10-p90), to open, lock, work and close; on a disk a lease is synced\n\
         times empty: to the same in the empty store, median of the rounds (lowest-highest)\n",
    );
    write!(text, "{:<6}{:>7}", "", "leases").ok();
    for operation in OPERATIONS {
        write!(text, "{operation:>25}{:>17}", "times empty").ok();
    }
    text.push('\n');
    for place in places {
        let mut largest = f64::NAN;
        for leases in LEVELS {
            write!(text, "{:<6}{leases:>7}", place.name).ok();
            for operation in OPERATIONS {
                let rounds = |leases| rounds_of(samples, (place.name, leases, operation));
                let ratios = ratios(rounds(leases), rounds(LEVELS[0]));
                if leases != LEVELS[0] {
                    largest = largest.max(percentile(ratios.clone(), 50));
                }
                let times = spread_of(&rounds(leases).concat());
                write!(text, "{times:>25}{:>17}", spread_of_rounds(&ratios)).ok();
            }
            text.push('\n');
        }
        let name = place.name;
        writeln!(text, "{name}: at most {largest:.2} times the empty store").ok();
    }
    text
}

/// Times of whole processes, in milliseconds.
fn processes(plan: &Plan, places: &[Place], contenders: &[Contender; 2]) -> Outcome<Samples> {
    let mut stores = Vec::new();
    for place in places {
        progress(&format!("records of host-local: {}", place.name));
        for leases in LEVELS {
            let pair = contenders
                .each_ref()
                .map(|contender| Filled::new(contender.name, place.dir.path(), leases));
            let [_, host_local] = &pair;
            host_local.fill_as_host_local()?;
            stores.push((place, pair));
        }
        settle(place.dir.path())?;
    }
    let mut samples = Samples::new();
    for round in 0..plan.rounds {
        progress(&format!("ADD and DEL, round {} of {}", round + 1, plan.rounds));
        for (place, pair) in &mut stores {
            for (store, contender) in in_turn(pair, round).into_iter().zip(in_turn(contenders, round)) {
                if store.leases == LARGE && round % plan.large_every != 0 {
                    continue;
                }
                let id = store.next_container();
                for command in COMMANDS {
                    let time = store.call(contender, command, &id)?.wall();
                    let key = (place.name, store.leases, key_of(contender, command));
                    let milliseconds = time.as_secs_f64() * 1e3;
                    samples.entry(key).or_default().push(vec![milliseconds]);
                }
            }
        }
    }
    Ok(samples)
}
