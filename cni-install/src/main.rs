//! `cni-install`: puts the plugins and their network onto a node, and takes them off again.
//!
//! `scripts/install`, the package and the `DaemonSet` are this program. Deciding ([`install`],
//! [`uninstall`]) changes nothing; a step ([`place`]) is one file.

mod cidrs;
mod conflist;
mod error;
mod install;
mod node;
mod options;
mod place;
mod plugin;
mod pods;
mod stay;
mod survey;
mod uninstall;

use std::{
    fmt::Display,
    fs,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use lexopt::Parser;

use crate::{
    error::Error,
    install::{EXECUTABLES, Plan},
    options::{HELP, Settings, Source, Task},
    place::Lock,
    stay::Ending,
};

/// How often a pod that stays looks whether everything is in place.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// What could not be done is tried again sooner: a new node's pod CIDR and proxy come late.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// It failed; or, where nothing is to be changed, something is not as it should be.
const NOT_SO: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let outcome = match options::parse(Parser::from_env()) {
        Ok((task, settings)) => run(&task, &settings),
        Err(error) => {
            complain(&format_args!("{error}; try `cni-install --help`"));
            return ExitCode::from(USAGE);
        }
    };
    outcome.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(NOT_SO)
    })
}

fn run(task: &Task, settings: &Settings) -> Result<ExitCode, Error> {
    match task {
        Task::Help => say(&HELP.trim_end()),
        Task::Version => say(&concat!("cni-install ", env!("CARGO_PKG_VERSION"))),
        Task::Status => return status(settings),
        Task::Install(network) => {
            return match network.source {
                Source::Node(_) if !settings.dry_run => {
                    keep_doing("everything is in place", || {
                        // They are needed by the pods that are there, whatever the network is like.
                        done(settings, || install::executables(settings))?;
                        done(settings, || install::configuration(settings, network))
                    })
                }
                _ => once(settings, || install::plan(settings, network)),
            };
        }
        Task::Uninstall { stay } => {
            let plan = || uninstall::plan(settings);
            return match stay {
                true if !settings.dry_run => keep_doing("nothing is left", || done(settings, plan)),
                _ => once(settings, plan),
            };
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn once(settings: &Settings, plan: impl Fn() -> Result<Plan, Error>) -> Result<ExitCode, Error> {
    if settings.dry_run {
        let plan = plan()?;
        for step in &plan.steps {
            say(&format_args!("would {step}"));
        }
        note(&plan.notes);
        if plan.steps.is_empty() {
            say(&"everything is as it should be");
            return Ok(ExitCode::SUCCESS);
        }
        return Ok(ExitCode::from(NOT_SO));
    }
    let done = done(settings, &plan)?;
    note(&done.notes);
    if done.steps.is_empty() {
        say(&"everything is as it should be");
    }
    Ok(ExitCode::SUCCESS)
}

/// Plans, and does what was planned, alone.
fn done(settings: &Settings, plan: impl Fn() -> Result<Plan, Error>) -> Result<Plan, Error> {
    let _lock = Lock::take(&settings.bin_dir)?;
    let plan = plan()?;
    for step in &plan.steps {
        step.apply()?;
        say(&step.done());
    }
    Ok(plan)
}

/// The life of a pod of the `DaemonSet`: what it is for is done, and done again whenever
/// somebody undid it. What fails is said, once, and tried again.
fn keep_doing(when_done: &str, work: impl Fn() -> Result<Plan, Error>) -> Result<ExitCode, Error> {
    let ending = Ending::expect()?;
    let mut last = None;
    loop {
        let (said, pause) = match work() {
            Ok(plan) => {
                let mut said = plan.notes;
                said.push(when_done.to_owned());
                (said, LOOK_AGAIN)
            }
            Err(error) => (vec![error.to_string()], TRY_AGAIN),
        };
        if last.as_ref() != Some(&said) {
            note(&said);
            last = Some(said);
        }
        if ending.within(pause)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Says what is installed, and which configuration is in use.
fn status(settings: &Settings) -> Result<ExitCode, Error> {
    let from = install::sources(settings)?;
    let mut right = true;
    for name in EXECUTABLES {
        let path = settings.bin_dir.join(name);
        let installed = fs::read(&path).ok();
        let wanted = from.as_ref().map(|dir| fs::read(dir.join(name)));
        let state = match (&installed, wanted) {
            (None, _) => "missing",
            (Some(installed), Some(Ok(wanted))) if *installed != wanted => "another version",
            (Some(_), _) => "installed",
        };
        right &= state == "installed";
        say(&format_args!("{state}: {}", path.display()));
    }
    let configurations = survey::configurations(&settings.conf_dir)?;
    if configurations.is_empty() {
        right = false;
        say(&format_args!(
            "no configuration in {}",
            settings.conf_dir.display()
        ));
    }
    for (number, found) in configurations.iter().enumerate() {
        let kind = match found.for_us {
            Some(true) => "for cni-bridge",
            Some(false) => "for other plugins",
            None => "not readable as a configuration",
        };
        let state = if number == 0 { "in use" } else { "not used" };
        right &= number > 0 || found.for_us == Some(true);
        say(&format_args!("{state}: {} ({kind})", found.path.display()));
    }
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_SO)
    })
}

fn note(lines: &[String]) {
    for line in lines {
        say(line);
    }
}

/// A reader that went away is no failure.
fn say(line: &dyn Display) {
    writeln!(io::stdout(), "{line}").ok();
}

fn complain(line: &dyn Display) {
    writeln!(io::stderr(), "cni-install: {line}").ok();
}
