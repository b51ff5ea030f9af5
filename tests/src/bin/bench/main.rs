//! Measures `cni-bridge` against the Go `bridge` + `host-local`, side by side: whole
//! processes, called as a runtime calls them; and the store of leases against host-local's.
//! `scripts/bench` starts it, in namespaces.
//!
//! The contenders take turns in short rounds, so that what else the machine does hits all
//! of them alike. Trust the ratios rather than the milliseconds.

mod call;
mod figures;
mod floor;
mod once;
mod stage;
mod store;

use std::{
    error::Error,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    thread,
    time::Duration,
};

use crate::{
    call::{Call, crowd},
    figures::{Row, Table},
    stage::{Pod, Side, Stage},
};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str =
    "usage: bench OURS_DIR GO_DIR DISK_DIR [--store] [--quick]; DISK_DIR: \"\" if there is none";

const NOTHING: &str = "DEL of nothing";
const EMPTY: &str = "an empty program";
const FLOOR: &str = "kernel's floor";

/// What a kernel does after a removal (`cleanup_net()`, RCU) must not be charged to the next side.
const SETTLE: Duration = Duration::from_millis(60);

/// How much is measured.
#[derive(Debug)]
struct Plan {
    /// Pods on the bridge while it is measured.
    levels: &'static [usize],
    rounds: usize,
    /// Calls in a round.
    calls: usize,
    callers: &'static [usize],
    crowd_rounds: usize,
}

const FULL: Plan = Plan {
    levels: &[0, 100, 250],
    rounds: 7,
    calls: 10,
    callers: &[16, 64],
    crowd_rounds: 3,
};
const QUICK: Plan = Plan {
    levels: &[0, 100],
    rounds: 3,
    calls: 5,
    callers: &[64],
    crowd_rounds: 1,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [once::PEAK_MEMORY, file, program] => once::report_peak_memory(file, program),
        [ours, go, disk, options @ ..] => measure([ours, go, disk].map(Path::new), options),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "bench: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn measure([ours, go, disk]: [&Path; 3], options: &[&str]) -> Outcome {
    if let Some(option) = options.iter().find(|o| !["--store", "--quick"].contains(o)) {
        return Err(format!("unknown option {option}; {USAGE}").into());
    }
    let (pods, leases) = if options.contains(&"--quick") {
        (&QUICK, &store::QUICK)
    } else {
        (&FULL, &store::FULL)
    };
    if !options.contains(&"--store") {
        bench(pods, ours, go)?;
    }
    let disk = Some(disk).filter(|disk| !disk.as_os_str().is_empty());
    store::bench(leases, ours, go, disk)
}

/// Prints a line of the report.
fn say(line: &str) -> Outcome {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Tells on stderr what is under way: the tables come at the end.
fn progress(what: &str) {
    writeln!(io::stderr(), "bench: {what} ...").ok();
}

fn bench(plan: &Plan, ours: &Path, go: &Path) -> Outcome {
    let most = plan
        .callers
        .iter()
        .copied()
        .max()
        .unwrap_or(1)
        .max(plan.calls);
    let mut stage = Stage::new(ours, go, most)?;
    introduce(plan, &stage)?;

    let mut table = Table::default();
    let mut crowds = Table::default();
    for &level in plan.levels {
        progress(&format!("{level} pods"));
        stage.fill(level)?;
        one_caller(plan, &stage, level, &mut table)?;
        // In between, it says nothing that the ends do not say.
        if plan.levels.first() == Some(&level) || plan.levels.last() == Some(&level) {
            many_callers(plan, &stage, level, &mut crowds)?;
        }
    }
    say("\none caller: milliseconds, median (p10-p90)")?;
    say(&table.milliseconds(&stage.names()))?;
    let longer = table.times_longer(NOTHING, EMPTY, "1.5 at most");
    say(&(longer + &table.times_longer("ADD", FLOOR, "1.8 at most")))?;
    say("many callers: calls per second, median of the rounds (lowest-highest)")?;
    say(&crowds.per_second(&stage.names()))?;
    for call in table.failures().chain(crowds.failures()) {
        say(&format!("failed: {call}"))?;
    }
    once::costs(&stage)
}

fn introduce(plan: &Plan, stage: &Stage) -> Outcome {
    say(&format!(
        "contenders: {}; each in a network namespace of its own, state on tmpfs, pods' namespaces made beforehand",
        stage.names().join(", ")
    ))?;
    say(&format!(
        "one caller: {} rounds of {} ADDs, {} DELs, ... for each contender in turn, at {:?} pods",
        plan.rounds, plan.calls, plan.calls, plan.levels
    ))?;
    say(&format!(
        "many callers: {} rounds at {:?} callers",
        plan.crowd_rounds, plan.callers
    ))
}

/// One round for each side in turn, the first of them another one each time.
fn turns(sides: &[Side], round: usize) -> impl Iterator<Item = (usize, &Side)> {
    let shift = round % sides.len().max(1);
    let indexed = sides.iter().enumerate();
    indexed.clone().skip(shift).chain(indexed.take(shift))
}

fn one_caller(plan: &Plan, stage: &Stage, level: usize, table: &mut Table) -> Outcome {
    let pods = stage.spare.get(..plan.calls).unwrap_or(&stage.spare);
    for round in 0..plan.rounds {
        for (index, side) in turns(&stage.sides, round) {
            let timed = side.inside(|| one_turn(side, pods))??;
            thread::sleep(SETTLE);
            // It is the same for all; on our bridge, for this is about us.
            let floors = if index == 0 {
                floor::adds(side, pods)?
            } else {
                Vec::new()
            };
            let floors = floors.into_iter().map(|call| (FLOOR, call, ""));
            for (what, call, target) in timed.into_iter().chain(floors) {
                let row = Row {
                    what,
                    level,
                    callers: 1,
                    target,
                };
                table.record(row, index, round, call);
            }
        }
    }
    Ok(())
}

/// Everything that is measured with one caller, as (what, call, target).
type Timed = Vec<(&'static str, Call, &'static str)>;

fn one_turn(side: &Side, pods: &[Pod]) -> Outcome<Timed> {
    let mut timed = Timed::new();
    let mut results = Vec::new();
    for pod in pods {
        let add = side.add(pod)?.successful()?;
        results.push(add.stdout.clone());
        timed.push(("ADD", add, "20x (0 pods), 22x (250)"));
    }
    for (pod, result) in pods.iter().zip(&results) {
        timed.push(("DEL", side.del(pod, result)?.successful()?, "5x"));
    }
    thread::sleep(SETTLE);
    for pod in pods {
        timed.push((NOTHING, side.del_nothing(pod)?.successful()?, ""));
        timed.push(("VERSION", side.version(pod)?.successful()?, ""));
        timed.push((EMPTY, side.empty()?, ""));
    }
    Ok(timed)
}

fn many_callers(plan: &Plan, stage: &Stage, level: usize, table: &mut Table) -> Outcome {
    for &callers in plan.callers {
        for round in 0..plan.crowd_rounds {
            for (index, side) in turns(&stage.sides, round) {
                let (adds, dels) = crowd(side, &stage.spare, callers)?;
                thread::sleep(SETTLE);
                for (what, calls, target) in [("ADD", adds, "16x"), ("DEL", dels, "")] {
                    let row = Row {
                        what,
                        level,
                        callers,
                        target,
                    };
                    for call in calls {
                        table.record(row, index, round, call);
                    }
                }
            }
        }
    }
    Ok(())
}
