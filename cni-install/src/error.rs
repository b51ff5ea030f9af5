//! Everything that can be in the way, in one line each: the object, what could not be done, why,
//! and what to do.

use std::{io, path::PathBuf};

use crate::{cidrs::InvalidPodCidrs, conflist::InvalidConflist, node};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    #[error("cannot write {}: {}", .0.display(), .1)]
    Write(PathBuf, io::Error),
    #[error("cannot remove {}: {}", .0.display(), .1)]
    Remove(PathBuf, io::Error),
    #[error("there is no {name} in {}: --from names the directory where it is", .dir.display())]
    NoExecutable { name: &'static str, dir: PathBuf },
    #[error("{}: {source}{}", .file.display(), because(.source))]
    Conflist {
        file: PathBuf,
        source: InvalidConflist,
    },
    #[error("{} is there and different: compare the two, then use --force", .0.display())]
    Different(PathBuf),
    #[error(
        "the configuration needs the plugin {plugin}, which is not in {}: without it every pod fails. \
         Install it, take it out of the configuration, or use --force", .dir.display()
    )]
    MissingPlugin { plugin: String, dir: PathBuf },
    #[error("cni-bridge refuses the configuration: {0}")]
    Refused(String),
    #[error("cannot run {}: {}", .0.display(), .1)]
    Run(PathBuf, io::Error),
    #[error("{}: {}", .0.display(), .1)]
    Shared(PathBuf, String),
    #[error(
        "network {network} still connects {} ({examples}): drain the node first (`cni-ipam list` \
         shows them), or use --force and recreate them", pods(*.count)
    )]
    Pods {
        network: String,
        count: usize,
        examples: String,
    },
    #[error("{} uses the plugins: remove it first, or use --force", .0.display())]
    InUse(PathBuf),
    #[error("cannot tell which pods are connected: {0}")]
    Leases(String),
    #[error(transparent)]
    Node(#[from] node::Error),
    #[error("node {name}: {source}")]
    NodeCidrs {
        name: String,
        source: InvalidPodCidrs,
    },
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

fn pods(count: usize) -> String {
    match count {
        1 => "1 pod".to_owned(),
        _ => format!("{count} pods"),
    }
}

/// The place in a text that is no JSON.
fn because(error: &InvalidConflist) -> String {
    match error {
        InvalidConflist::Json(source) => format!(": {source}"),
        _ => String::new(),
    }
}
