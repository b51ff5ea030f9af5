//! The harness of the end-to-end tests: the built executables, called as a container
//! runtime calls them, in network namespaces that the test itself has made.
//!
//! A test starts with [`on_host`]: its thread enters a network and mount namespace of its
//! own, which is the node of that test. Children inherit it, tests run in parallel, and
//! nothing has to be cleaned up. No root is needed where user namespaces are allowed: the
//! test script runs everything under `unshare --user --map-root-user`.
//!
//! Environment of the tests (all optional, `scripts/test` sets them):
//!
//! - `CNI_E2E_PLUGINS`: a directory with the Go plugins, which are then tested instead of ours;
//! - `CNI_E2E_TOOLS`: where cnitool and the Go plugins are;
//! - `CNI_E2E_NOT_RUN`: a file to which each thing that could not be run is appended.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness reports by panicking"
)]

mod chain;
pub mod cluster;
mod cnitool;
pub mod conf;
mod container;
mod conversation;
mod cri;
mod document;
mod exchange;
pub mod forge;
mod golden;
mod host;
mod installer;
pub mod lab;
mod namespace;
pub mod node;
pub mod packet;
mod plugin;
pub mod reference;
mod shell;
mod state;
mod stub;
pub mod tap;
mod trace;
pub mod transfer;
mod watch;
mod wire;

pub use chain::Chain;
pub use cluster::Cluster;
pub use cnitool::Cnitool;
pub use container::Container;
pub use conversation::Conversation;
pub use cri::{Answered, Cri, CriError};
pub use document::{Document, Section};
pub use exchange::{Exchange, Port};
pub use golden::{assert_json, masked, shape};
pub use host::{Host, cannot_run, on_host};
pub use installer::{Installer, Said};
pub use lab::Lab;
pub use namespace::Netns;
pub use node::{Call, Containerd, Node, Pod};
pub use packet::Echo;
pub use plugin::{Answer, Refusal, Request, Running};
pub use shell::{sh, tool, tool_if_built};
pub use state::State;
pub use stub::Stub;
pub use tap::Tap;
pub use watch::{Entry, Stopped};
pub use wire::World;
