//! The operator's tool: what the store says, whether it is healthy, how to mend it, and the
//! way back to host-local.
//!
//! It reads without the lock, and takes the lock only to change something.

mod export;
mod help;
mod list;
mod output;
mod repair;
mod show;
mod table;

use std::{ffi::OsString, net::IpAddr, path::PathBuf, process::ExitCode};

use cni_ipam::{
    DEFAULT_DATA_DIR, DataDir, HOST_LOCAL_DIR,
    inspect::{self, View},
};
use cni_protocol::NetworkName;
use lexopt::{Arg, Parser, ValueExt};

use output::Output;
pub(crate) use output::is_wanted;

/// What a monitor makes of the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Health {
    Good,
    Problems,
}

/// Where to look, and how to show it.
#[derive(Debug)]
struct Options {
    data_dir: DataDir,
    network: Option<NetworkName>,
    json: bool,
}

#[derive(Debug, Eq, PartialEq)]
enum Verb {
    List,
    Show { what: Option<String>, map: bool },
    Verify,
    Repair { dry_run: bool },
    Release { address: IpAddr, force: bool },
    Export { to: PathBuf },
    Help,
}

/// What a person typed wrong, or what went wrong.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Ipam(#[from] cni_ipam::Error),
    /// It was done, and the answer is no.
    #[error("{0}")]
    Refused(String),
}

/// Serves the command line.
pub(crate) fn run() -> ExitCode {
    let mut output = Output::new();
    let done =
        parse(Parser::from_env()).and_then(|(verb, options)| serve(&verb, &options, &mut output));
    output.print();
    match done {
        Ok(Health::Good) => ExitCode::SUCCESS,
        Ok(Health::Problems) => ExitCode::from(1),
        Err(Failed::Usage(what)) => {
            cni_protocol::log(&format_args!("cni-ipam: {what}; try `cni-ipam --help`"));
            ExitCode::from(2)
        }
        Err(failed) => {
            cni_protocol::log(&format_args!("cni-ipam: {}", with_causes(&failed)));
            ExitCode::from(1)
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn serve(verb: &Verb, options: &Options, output: &mut Output) -> Result<Health, Failed> {
    match verb {
        Verb::Help => {
            output.text(help::TEXT);
            Ok(Health::Good)
        }
        Verb::List => list::list(options, output),
        Verb::Show { what: None, .. } => show::map(options, output),
        Verb::Show {
            what: Some(what), ..
        } => show::show(what, options, output),
        Verb::Verify => repair::verify(options, output),
        Verb::Repair { dry_run } => repair::repair(*dry_run, options, output),
        Verb::Release { address, force } => repair::release(*address, *force, options, output),
        Verb::Export { to } => export::export(to, options, output),
    }
}

/// Words that came with the options in any order.
#[derive(Debug, Default)]
struct Words {
    positional: Vec<String>,
    data_dir: Option<OsString>,
    network: Option<String>,
    to: Option<OsString>,
    /// Options without a value.
    switches: Vec<&'static str>,
}

impl Words {
    fn has(&self, switch: &str) -> bool {
        self.switches.contains(&switch)
    }
}

fn parse(parser: Parser) -> Result<(Verb, Options), Failed> {
    let words = words(parser).map_err(|error| Failed::Usage(error.to_string()))?;
    let network = words.network.clone().map(NetworkName::try_from).transpose();
    let options = Options {
        data_dir: DataDir::new(words.data_dir.clone().unwrap_or(DEFAULT_DATA_DIR.into())),
        network: network.map_err(|error| Failed::Usage(error.to_string()))?,
        json: words.has("json"),
    };
    Ok((verb(&words)?, options))
}

fn words(mut parser: Parser) -> Result<Words, lexopt::Error> {
    let mut words = Words::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("data-dir") | Arg::Short('d') => words.data_dir = Some(parser.value()?),
            Arg::Long("network") | Arg::Short('n') => {
                words.network = Some(parser.value()?.string()?);
            }
            Arg::Long("to") => words.to = Some(parser.value()?),
            Arg::Long("json") => words.switches.push("json"),
            Arg::Long("map") => words.switches.push("map"),
            Arg::Long("dry-run") => words.switches.push("dry-run"),
            Arg::Long("force") => words.switches.push("force"),
            Arg::Long("help") | Arg::Short('h') => words.switches.push("help"),
            Arg::Value(word) => words.positional.push(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(words)
}

fn verb(words: &Words) -> Result<Verb, Failed> {
    let usage = |text: &str| Err(Failed::Usage(text.to_owned()));
    if words.has("help") {
        return Ok(Verb::Help);
    }
    let positional: Vec<&str> = words.positional.iter().map(String::as_str).collect();
    let verb = match positional.as_slice() {
        ["help", ..] => Verb::Help,
        ["list"] => Verb::List,
        ["show"] if words.has("map") => Verb::Show {
            what: None,
            map: true,
        },
        ["show"] => return usage("show needs an address, a container id or --map"),
        ["show", what] if !words.has("map") => Verb::Show {
            what: Some((*what).to_owned()),
            map: false,
        },
        ["verify"] => Verb::Verify,
        ["repair"] => Verb::Repair {
            dry_run: words.has("dry-run"),
        },
        ["release", address] => match address.parse() {
            Ok(address) => Verb::Release {
                address,
                force: words.has("force"),
            },
            Err(_) => return usage("release needs an IP address"),
        },
        ["release"] => return usage("release needs an IP address"),
        ["export"] => Verb::Export {
            to: words.to.clone().unwrap_or(HOST_LOCAL_DIR.into()).into(),
        },
        [] => return usage("a subcommand is missing"),
        [other, ..] => return usage(&format!("unknown command line at {other:?}")),
    };
    let is_repair = matches!(verb, Verb::Repair { .. });
    let is_release = matches!(verb, Verb::Release { .. });
    let is_show = matches!(verb, Verb::Show { .. });
    let misplaced = (words.has("dry-run") && !is_repair) || (words.has("force") && !is_release);
    if misplaced || (words.has("map") && !is_show) {
        return usage("--dry-run goes with repair, --force with release, --map with show");
    }
    if words.to.is_some() && !matches!(verb, Verb::Export { .. }) {
        return usage("--to goes with export");
    }
    Ok(verb)
}

impl Options {
    /// The networks to look at: the one that was named, or all that have a store.
    fn networks(&self) -> Result<Vec<NetworkName>, Failed> {
        match &self.network {
            Some(network) => Ok(vec![network.clone()]),
            None => Ok(inspect::networks(self.data_dir.path())?),
        }
    }

    /// Their stores. A network that was named has to have one.
    fn views(&self) -> Result<Vec<View>, Failed> {
        let mut views = Vec::new();
        for network in self.networks()? {
            match inspect::view(&self.data_dir, &network)? {
                Some(view) => views.push(view),
                None => self.complain_if_named()?,
            }
        }
        Ok(views)
    }

    fn complain_if_named(&self) -> Result<(), Failed> {
        match &self.network {
            None => Ok(()),
            Some(network) => Err(Failed::Refused(format!(
                "network {network} has no lease store in {}",
                self.data_dir.path().display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Verb, String> {
        let words: Vec<&str> = std::iter::once("cni-ipam")
            .chain(line.split_whitespace())
            .collect();
        parse(Parser::from_iter(words))
            .map(|(verb, _)| verb)
            .map_err(|failed| failed.to_string())
    }

    #[test]
    fn options_may_stand_anywhere() {
        let show = Verb::Show {
            what: Some("10.64.1.7".to_owned()),
            map: false,
        };
        assert_eq!(parsed("--json show -n cbr0 10.64.1.7"), Ok(show));
        assert_eq!(
            parsed("repair --dry-run"),
            Ok(Verb::Repair { dry_run: true })
        );
        assert_eq!(parsed("list --help"), Ok(Verb::Help));
        let export = |to: &str| Ok(Verb::Export { to: to.into() });
        assert_eq!(parsed("export"), export("/var/lib/cni/networks"));
        assert_eq!(parsed("export --to /srv/cni"), export("/srv/cni"));
    }

    #[test]
    fn what_is_typed_wrong_is_named() {
        assert_eq!(
            parsed("lsit").unwrap_err(),
            r#"unknown command line at "lsit""#
        );
        assert_eq!(
            parsed("release cbr0").unwrap_err(),
            "release needs an IP address"
        );
        assert_eq!(
            parsed("list --jsno").unwrap_err(),
            "invalid option '--jsno'"
        );
        assert_eq!(
            parsed("list --force").unwrap_err(),
            "--dry-run goes with repair, --force with release, --map with show"
        );
        assert_eq!(parsed("list --to x").unwrap_err(), "--to goes with export");
    }
}
