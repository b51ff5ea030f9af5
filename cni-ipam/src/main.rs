//! `cni-ipam`: hands out addresses of the node's own CIDR, and shows an operator which.
//!
//! Run by a runtime or a main plugin, with `CNI_COMMAND` in the environment, it is a CNI IPAM
//! plugin: [`plugin`]. Run by a person, with a subcommand, it is the operator's tool:
//! [`tool`].

mod netns;
mod plugin;
mod tool;

use std::process::ExitCode;

fn main() -> ExitCode {
    if tool::is_wanted() {
        tool::run()
    } else {
        cni_protocol::run(&plugin::Ipam)
    }
}
