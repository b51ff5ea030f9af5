//! `cni-bridge`: connects pods to a Linux bridge.
//!
//! One process serves one CNI operation and ends. To read one, start at [`add::add`];
//! ARCHITECTURE.md has the map.

mod add;
mod agent;
mod check;
mod config;
mod ctnetlink;
mod del;
mod error;
mod firewall;
mod gc;
mod guard;
mod heal;
mod ipam;
mod kernel;
mod loopback;
mod mac;
mod masquerade;
mod netconf;
mod netlink;
mod netns;
mod nft;
mod object;
mod overlap;
mod plan;
mod reconcile;
mod remove;
mod rtnl;
mod status;
mod sysctl;
mod tool;
mod undo;
mod vlan;
mod yaml;

use std::{path::Path, process::ExitCode};

use cni_protocol::{
    AddRequest, AddResult, CheckRequest, DelRequest, GcRequest, Plugin, StatusRequest,
};

use crate::{error::Error, loopback::Loopback};

struct Bridge;

impl Plugin for Bridge {
    type Error = Error;
    const NAME: &'static str = "cni-bridge";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn add(&self, request: &AddRequest) -> Result<AddResult, Error> {
        add::add(request)
    }

    fn del(&self, request: &DelRequest) -> Result<(), Error> {
        del::del(request)
    }

    fn check(&self, request: &CheckRequest) -> Result<(), Error> {
        check::check(request)
    }

    fn gc(&self, request: &GcRequest) -> Result<(), Error> {
        gc::gc(request)
    }

    fn status(&self, request: &StatusRequest) -> Result<(), Error> {
        status::status(request)
    }
}

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called)
        .file_name()
        .is_some_and(|name| name == loopback::NAME)
    {
        return cni_protocol::run(&Loopback);
    }
    if tool::is_wanted() {
        return tool::run();
    }
    cni_protocol::run(&Bridge)
}
