//! The command line of a person: what `cni-bridge` does when no runtime called it.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use lexopt::{Arg, Parser, ValueExt};

use crate::{
    reconcile::{self, CONF_DIR, Options, Report},
    remove,
};

const HELP: &str = "\
cni-bridge connects pods to a bridge. A container runtime calls it, with CNI_COMMAND in the
environment and a configuration on standard input. A person can call:

  cni-bridge reconcile [--dry-run] [PATH...]
      Puts right what somebody else undid: the bridge, its gateway addresses, its ports,
      forwarding, nftables rules. For every network of type cni-bridge in the files or
      directories PATH (default: /etc/cni/net.d). Pods keep running.
      --dry-run   only say what is wrong
      Exit status: 0 all is right now, 1 something is wrong still, 2 wrong usage.

  cni-bridge remove [PATH...]
      Removes what pods shared, when no pod is connected any more: leases that were never
      given back, nftables rules, the bridge. For who takes the plugin off a node.

  cni-bridge --help | --version
";

/// Whether a person called, with a command line, and not a runtime.
pub(crate) fn is_wanted() -> bool {
    !has_command() && env::args_os().len() > 1
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment of a person's shell, which is no request of a runtime"
)]
fn has_command() -> bool {
    env::var_os("CNI_COMMAND").is_some_and(|value| !value.is_empty())
}

#[derive(Debug, Eq, PartialEq)]
enum Verb {
    Help,
    Version,
    Reconcile(Options),
    Remove(Vec<PathBuf>),
}

/// Serves the command line.
pub(crate) fn run() -> ExitCode {
    match parse(Parser::from_env()) {
        Ok(Verb::Help) => print(HELP),
        Ok(Verb::Version) => print(concat!("cni-bridge ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Verb::Reconcile(options)) => told(&reconcile::reconcile(&options)),
        Ok(Verb::Remove(paths)) => told(&remove::remove(&paths)),
        Err(error) => {
            cni_protocol::log(&format_args!(
                "cni-bridge: {error}; try `cni-bridge --help`"
            ));
            ExitCode::from(2)
        }
    }
}

fn told(report: &Report) -> ExitCode {
    let printed = print(&report.text);
    if report.problems {
        return ExitCode::from(1);
    }
    printed
}

fn parse(mut parser: Parser) -> Result<Verb, lexopt::Error> {
    let mut words = Vec::new();
    let mut dry_run = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Verb::Help),
            Arg::Long("version") | Arg::Short('V') => return Ok(Verb::Version),
            Arg::Long("dry-run") => dry_run = true,
            Arg::Value(word) => words.push(word),
            other => return Err(other.unexpected()),
        }
    }
    let mut words = words.into_iter();
    let verb = words.next().unwrap_or_default().string()?;
    let mut paths: Vec<PathBuf> = words.map(PathBuf::from).collect();
    if paths.is_empty() {
        paths.push(CONF_DIR.into());
    }
    match verb.as_str() {
        "help" => Ok(Verb::Help),
        "reconcile" => Ok(Verb::Reconcile(Options { paths, dry_run })),
        "remove" if !dry_run => Ok(Verb::Remove(paths)),
        "remove" => Err("remove knows no --dry-run".into()),
        other => Err(format!("there is no '{other}'").into()),
    }
}

/// A reader that went away (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes());
    drop(written.and_then(|()| stdout.flush()));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Verb, String> {
        parse(Parser::from_iter(["cni-bridge"].iter().chain(words)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_path_the_runtimes_directory_is_read() {
        let options = |paths: &[&str], dry_run| {
            Ok(Verb::Reconcile(Options {
                paths: paths.iter().map(PathBuf::from).collect(),
                dry_run,
            }))
        };
        assert_eq!(parsed(&["reconcile"]), options(&[CONF_DIR], false));
        assert_eq!(
            parsed(&["reconcile", "--dry-run", "a", "b"]),
            options(&["a", "b"], true)
        );
        assert_eq!(parsed(&["remove"]), Ok(Verb::Remove(vec![CONF_DIR.into()])));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(parsed(&["--help"]), Ok(Verb::Help));
        assert_eq!(parsed(&["mend"]), Err("there is no 'mend'".to_owned()));
        parsed(&["reconcile", "--all"]).unwrap_err();
        parsed(&["remove", "--dry-run"]).unwrap_err();
    }
}
