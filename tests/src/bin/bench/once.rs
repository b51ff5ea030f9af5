//! What one warm ADD costs: processes, system calls, CPU, memory; and the executable's size.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use nix::sys::{
    resource::{Usage, UsageWho, getrusage},
    time::TimeValLike,
};

use crate::{
    Outcome,
    call::run,
    figures::percentile,
    say,
    stage::{Pod, Side, Stage},
};

/// The first argument of the small process that measures the memory of its child: the
/// kernel counts what the parent had in memory for the child too, until its exec.
pub(crate) const PEAK_MEMORY: &str = "--peak-memory";

const FILE: &str = "/run/bench/once";
const REPEATS: usize = 20;

/// Prints the costs of each side.
pub(crate) fn costs(stage: &Stage) -> Outcome {
    let pod = stage.spare.first().ok_or("no pod")?;
    say("one warm ADD, everything it starts included")?;
    say(&format!(
        "{:<17}{:>10}{:>14}{:>12}{:>17}{:>17}",
        "", "processes", "system calls", "CPU, ms", "peak memory, MB", "executable, MB"
    ))?;
    for side in &stage.sides {
        let (processes, calls) = traced(side, pod)?;
        let cpu = side.inside(|| cpu(side, pod))??;
        let memory = side.inside(|| peak_memory(side, pod, &side.plugin))??;
        let size = megabytes(fs::metadata(&side.plugin)?.len());
        say(&format!(
            "{:<17}{processes:>10}{calls:>14}{cpu:>12.1}{memory:>17.1}{size:>17.1}",
            side.name
        ))?;
    }
    if let Some(side) = stage.sides.first() {
        let memory = side.inside(|| peak_memory(side, pod, &side.empty))??;
        say(&format!("{:<53}{memory:>17.1}", "an empty program"))?;
    }
    say("targets: 1 process, 2 ms, 4 MB (with what the measuring process has), 3 MB static")
}

/// Bytes to megabytes, one digit being shown.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// User and system time of an ADD, in milliseconds: the median of some.
fn cpu(side: &Side, pod: &Pod) -> Outcome<f64> {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let before = children_cpu(&getrusage(UsageWho::RUSAGE_CHILDREN)?);
        let add = side.add(pod)?.successful()?;
        let after = children_cpu(&getrusage(UsageWho::RUSAGE_CHILDREN)?);
        times.push(after - before);
        side.del(pod, &add.stdout)?.successful()?;
    }
    Ok(percentile(times, 50))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a short run")]
fn children_cpu(usage: &Usage) -> f64 {
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    microseconds as f64 / 1000.0
}

/// The largest process of an ADD, in megabytes, measured by a small process of our own.
fn peak_memory(side: &Side, pod: &Pod, program: &Path) -> Outcome<f64> {
    let mut measurer = Command::new(env::current_exe()?);
    side.environment(&mut measurer, ("ADD", pod, &pod.netns));
    measurer.args([Path::new(PEAK_MEMORY), Path::new(FILE), program]);
    let add = run(side.name, &mut measurer, &serde_json::to_vec(&side.config)?)?.successful()?;
    if !add.stdout.is_empty() {
        side.del(pod, &add.stdout)?.successful()?;
    }
    let kilobytes: u64 = fs::read_to_string(FILE)?.trim().parse()?;
    Ok(megabytes(kilobytes * 1024))
}

/// The other end of [`peak_memory`].
pub(crate) fn report_peak_memory(file: &str, program: &str) -> Outcome {
    let status = Command::new(program).stdin(Stdio::inherit()).status()?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    fs::write(file, usage.max_rss().to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {status}").into())
    }
}

/// Processes and system calls of an ADD, as strace counts them; "?" without strace.
fn traced(side: &Side, pod: &Pod) -> Outcome<(String, String)> {
    let unknown = || ("?".to_owned(), "?".to_owned());
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return Ok(unknown());
    }
    side.inside(|| {
        let mut strace = Command::new("strace");
        side.environment(&mut strace, ("ADD", pod, &pod.netns));
        strace.args(["-f", "-c", "-o", FILE]).arg(&side.plugin);
        let add = run("strace", &mut strace, &serde_json::to_vec(&side.config)?)?;
        if add.failure.is_some() {
            return Ok(unknown()); // ptrace is not allowed everywhere
        }
        side.del(pod, &add.stdout)?.successful()?;
        let summary = fs::read_to_string(FILE)?;
        let (execs, failed) = counted(&summary, "execve");
        let (calls, _) = counted(&summary, "total");
        Ok(((execs - failed).to_string(), calls.to_string()))
    })?
}

/// Calls and errors in the line of a system call: "% time, seconds, usecs/call, calls,
/// errors (empty if none), name".
fn counted(summary: &str, name: &str) -> (u64, u64) {
    let lines = summary
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let number = |text: &str| text.parse().unwrap_or(0);
    for words in lines {
        match words.as_slice() {
            [_, _, _, calls, found] if *found == name => return (number(calls), 0),
            [_, _, _, calls, errors, found] if *found == name => {
                return (number(calls), number(errors));
            }
            _ => {}
        }
    }
    (0, 0)
}
