//! The command line, and what it asks for.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use lexopt::{Arg, Parser, ValueExt};

use crate::cidrs::PodCidrs;

pub(crate) const HELP: &str = "\
cni-install puts cni-bridge and cni-ipam onto a node, and takes them off again. Each file
appears whole, by a rename in its directory: first the executables, then the configuration.
A node that is in use goes on undisturbed.

  cni-install [--pod-cidr CIDR[,CIDR] | --follow-node NAME] [OPTION...]
      The executables into the plugin directory, with a link `loopback` where there is no
      such plugin, and 10-cbr0.conflist into the configuration directory if the pod CIDRs
      are given.
      --pod-cidr CIDR[,CIDR]  the node's own pod CIDRs: IPv4, IPv6, or one of each
      --follow-node NAME      in a pod: ask the Kubernetes API for the pod CIDRs of this
                              node, and keep everything in place until told to end
      --conf FILE             this configuration instead of the built-in one; the pod CIDRs,
                              where given, become the ranges of its `ipam`
      --force                 replace a 10-cbr0.conflist that is there and different

  cni-install --uninstall [--stay] [--force]
      Removes 10-cbr0.conflist, waits until the runtime has noticed, and removes the
      executables. Refuses while pods are connected, or another configuration needs them.
      --stay                  in a pod: try until it is done, then wait to be told to end
      --force                 do it nevertheless

  cni-install --status
      What is installed, and which configuration the runtime uses.
      Exit status: 0 these executables are in place, and their network is the one in use.

Options of all:
  --bin-dir DIR    the runtime's plugin directory (default: /opt/cni/bin)
  --conf-dir DIR   the runtime's configuration directory (default: /etc/cni/net.d)
  --from DIR       where the executables are (default: the directory of cni-install)
  --dry-run        only say what would be done. Exit status: 0 nothing, 1 something
";

/// The plugin directory of containerd and CRI-O.
const BIN_DIR: &str = "/opt/cni/bin";
/// The configuration directory of containerd and CRI-O.
const CONF_DIR: &str = "/etc/cni/net.d";

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Task {
    Help,
    Version,
    Status,
    Install(Network),
    Uninstall { stay: bool },
}

/// Which network the node gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Network {
    /// A file instead of the built-in configuration.
    pub(crate) conf: Option<PathBuf>,
    pub(crate) source: Source,
}

/// Where the pod CIDRs come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Nobody says: the configuration, if there is one, is taken as it is.
    None,
    Given(PodCidrs),
    /// The Kubernetes API has them, in the node of this name.
    Node(String),
}

/// The directories, and how to go about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Settings {
    pub(crate) bin_dir: PathBuf,
    pub(crate) conf_dir: PathBuf,
    /// `None`: beside this executable.
    pub(crate) from: Option<PathBuf>,
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
}

/// The words as they stood there.
#[derive(Default)]
struct Words {
    pod_cidr: Option<PodCidrs>,
    follow_node: Option<String>,
    conf: Option<PathBuf>,
    uninstall: bool,
    status: bool,
    stay: bool,
}

/// Reads the command line.
pub(crate) fn parse(mut parser: Parser) -> Result<(Task, Settings), lexopt::Error> {
    let mut settings = Settings {
        bin_dir: BIN_DIR.into(),
        conf_dir: CONF_DIR.into(),
        from: None,
        force: false,
        dry_run: false,
    };
    let mut words = Words::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok((Task::Help, settings)),
            Arg::Long("version") | Arg::Short('V') => return Ok((Task::Version, settings)),
            Arg::Long("bin-dir") => settings.bin_dir = absolute(&parser.value()?)?,
            Arg::Long("conf-dir") => settings.conf_dir = absolute(&parser.value()?)?,
            Arg::Long("from") => settings.from = Some(absolute(&parser.value()?)?),
            Arg::Long("conf") => words.conf = Some(absolute(&parser.value()?)?),
            Arg::Long("pod-cidr") => words.pod_cidr = Some(parser.value()?.parse()?),
            Arg::Long("follow-node") => words.follow_node = Some(parser.value()?.string()?),
            Arg::Long("uninstall") => words.uninstall = true,
            Arg::Long("status") => words.status = true,
            Arg::Long("stay") => words.stay = true,
            Arg::Long("force") => settings.force = true,
            Arg::Long("dry-run") => settings.dry_run = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok((task(words, &settings)?, settings))
}

/// Relative to where the caller stands, which may be removed while this runs.
fn absolute(path: &OsStr) -> Result<PathBuf, lexopt::Error> {
    std::path::absolute(path)
        .map_err(|error| format!("{}: {error}", Path::new(path).display()).into())
}

fn task(words: Words, settings: &Settings) -> Result<Task, lexopt::Error> {
    let refuse = |text: &str| Err(text.into());
    let network = words.pod_cidr.is_some() || words.follow_node.is_some() || words.conf.is_some();
    if words.status {
        if network || words.uninstall || words.stay || settings.dry_run {
            return refuse("--status only looks, and goes with no other task");
        }
        return Ok(Task::Status);
    }
    if words.uninstall {
        if network {
            return refuse("--uninstall goes with no configuration");
        }
        return Ok(Task::Uninstall { stay: words.stay });
    }
    if words.stay {
        return refuse("--stay goes with --uninstall; --follow-node stays by itself");
    }
    let source = match (words.pod_cidr, words.follow_node) {
        (Some(_), Some(_)) => return refuse("--pod-cidr or --follow-node, but not both"),
        (Some(cidrs), None) => Source::Given(cidrs),
        (None, Some(name)) => Source::Node(name),
        (None, None) => Source::None,
    };
    Ok(Task::Install(Network {
        conf: words.conf,
        source,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<(Task, Settings), String> {
        parse(Parser::from_iter(["cni-install"].iter().chain(words)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_the_executables_go_where_runtimes_look() {
        let (task, settings) = parsed(&[]).unwrap();
        let network = Network {
            conf: None,
            source: Source::None,
        };
        assert_eq!(task, Task::Install(network));
        assert_eq!(settings.bin_dir, PathBuf::from("/opt/cni/bin"));
        assert_eq!(settings.conf_dir, PathBuf::from("/etc/cni/net.d"));
        assert!(!settings.dry_run && !settings.force && settings.from.is_none());
    }

    #[test]
    fn pod_cidrs_are_checked_at_the_door() {
        let (task, _) = parsed(&["--pod-cidr", "10.64.1.0/24,fd00:1::/64"]).unwrap();
        let cidrs = "10.64.1.0/24,fd00:1::/64".parse().unwrap();
        let network = Network {
            conf: None,
            source: Source::Given(cidrs),
        };
        assert_eq!(task, Task::Install(network));
        let refusal = parsed(&["--pod-cidr", "10.64.1.0"]).unwrap_err();
        assert!(refusal.contains("10.64.1.0"), "{refusal}");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for words in [
            &["--pod-cidr", "10.64.1.0/24", "--follow-node", "a"][..],
            &["--uninstall", "--pod-cidr", "10.64.1.0/24"],
            &["--uninstall", "--conf", "x"],
            &["--status", "--uninstall"],
            &["--status", "--dry-run"],
            &["--stay"],
            &["--remove"],
            &["/opt/cni/bin"],
        ] {
            parsed(words).unwrap_err();
        }
    }

    #[test]
    fn a_relative_directory_is_where_the_caller_stands() {
        let (_, settings) = parsed(&["--bin-dir", "plugins"]).unwrap();
        assert!(settings.bin_dir.is_absolute() && settings.bin_dir.ends_with("plugins"));
    }
}
