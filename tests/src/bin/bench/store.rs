//! Measures the store of leases beside host-local's: what a lease and a release take with
//! more and more leases in it, in memory and on a disk.

mod filled;

use std::{collections::BTreeMap, fmt::Write, path::Path};

use tempfile::TempDir;

use crate::{
    Outcome,
    figures::{percentile, spread_of, spread_of_rounds},
    progress, say,
};
use filled::{Filled, InProcess, copy, settle};

/// Leases in the store. The ratios are to the first.
const LEVELS: [usize; 4] = [EMPTY, 250, 1000, LARGE];
const EMPTY: usize = 0;
/// From here on, host-local takes long.
const LARGE: usize = 65_000;

const PLUGINS: [&str; 2] = ["cni-ipam", "host-local"];
/// How the table names what the library does in this process.
const LIBRARY: &str = "library";
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

/// What is measured: the place, the leases in the store, who does what.
type Key = (&'static str, usize, &'static str, &'static str);

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
    let samples = processes(plan, &places, ours, go)?;
    say(&processes_table(&places, &samples))
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
    for _ in 0..plan.rounds {
        for (place, store) in &mut stores {
            let mut times = [const { Vec::new() }; 2];
            for _ in 0..plan.calls {
                for (times, time) in times.iter_mut().zip(store.lease_and_release()?) {
                    times.push(time.as_secs_f64() * 1e6);
                }
            }
            for (operation, times) in OPERATIONS.into_iter().zip(times) {
                let key = (place.name, store.leases, LIBRARY, operation);
                samples.entry(key).or_default().push(times);
            }
        }
        // Another one is the first in the next round.
        stores.rotate_left(1);
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
                let of = |leases| rounds(samples, (place.name, leases, LIBRARY, operation));
                let ratios = ratios(of(leases), of(EMPTY));
                if leases != EMPTY {
                    largest = largest.max(percentile(ratios.clone(), 50));
                }
                let times = spread_of(&of(leases).concat());
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
fn processes(plan: &Plan, places: &[Place], ours: &Path, go: &Path) -> Outcome<Samples> {
    let mut stores = Vec::new();
    for place in places {
        progress(&format!("records of host-local: {}", place.name));
        for leases in LEVELS {
            let dir = place.dir.path();
            let host_local = Filled::new(PLUGINS[1], go, dir, leases);
            host_local.fill_as_host_local()?;
            stores.push((
                place,
                [Filled::new(PLUGINS[0], ours, dir, leases), host_local],
            ));
        }
        settle(place.dir.path())?;
    }
    progress("ADD and DEL");
    let mut samples = Samples::new();
    for round in 0..plan.rounds {
        for (place, pair) in &mut stores {
            for store in pair.iter_mut() {
                if store.leases == LARGE && round % plan.large_every != 0 {
                    continue;
                }
                for (command, time) in COMMANDS.into_iter().zip(store.add_and_del()?) {
                    let key = (place.name, store.leases, store.plugin, command);
                    let milliseconds = time.as_secs_f64() * 1e3;
                    samples.entry(key).or_default().push(vec![milliseconds]);
                }
            }
            // The other one is the first in the next round.
            pair.rotate_left(1);
        }
    }
    Ok(samples)
}

fn processes_table(places: &[Place], samples: &Samples) -> String {
    let mut text = String::from(
        "whole processes: milliseconds, median (p10-p90); on a disk cni-ipam syncs a lease, host-local does not\n",
    );
    write!(text, "{:<6}{:>7}", "", "leases").ok();
    for command in COMMANDS {
        for plugin in PLUGINS {
            write!(text, "{:>25}", format!("{plugin} {command}")).ok();
        }
        write!(text, "{:>23}", "times better").ok();
    }
    text.push('\n');
    for place in places {
        for leases in LEVELS {
            write!(text, "{:<6}{leases:>7}", place.name).ok();
            for command in COMMANDS {
                let sides =
                    PLUGINS.map(|plugin| rounds(samples, (place.name, leases, plugin, command)));
                for side in &sides {
                    write!(text, "{:>25}", spread_of(&side.concat())).ok();
                }
                let [ours, theirs] = sides;
                write!(text, "{:>23}", spread_of_rounds(&ratios(theirs, ours))).ok();
            }
            text.push('\n');
        }
    }
    text
}

fn rounds(samples: &Samples, key: Key) -> &[Vec<f64>] {
    samples.get(&key).map(Vec::as_slice).unwrap_or_default()
}

/// How many times longer the first takes, round by round.
fn ratios(long: &[Vec<f64>], short: &[Vec<f64>]) -> Vec<f64> {
    let median = |round: &Vec<f64>| percentile(round.clone(), 50);
    let pairs = long.iter().zip(short);
    pairs
        .map(|(long, short)| median(long) / median(short))
        .collect()
}
