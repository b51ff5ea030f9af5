//! What the specification of the Container Network Interface defines, as types: the
//! environment, requests, results, errors and delegation of CNI 0.1.0 to 1.1.0.
//!
//! A plugin implements [`Plugin`] and hands itself to [`run`]. Nothing here knows what a
//! plugin does: no links, no addresses to allocate, no firewall.

mod args;
mod attachment;
pub mod delegate;
mod environment;
mod error;
mod journal;
pub mod json;
mod log;
mod network;
mod request;
mod result;
mod run;
mod stdio;
mod version;

pub use args::{Args, InvalidArgs};
pub use attachment::{
    Attachment, ContainerId, InterfaceName, InvalidContainerId, InvalidInterfaceName,
    InvalidNetworkName, NetworkName,
};
pub use environment::{Command, PluginPath};
pub use error::{Code, ErrorReply, Failure};
pub use journal::step;
pub use json::{DecodeError, UnknownKey};
pub use log::log;
pub use network::{InvalidNetwork, NetworkConfig};
pub use request::{
    AddRequest, CheckRequest, DelRequest, GcRequest, StatusRequest, ValidAttachment,
};
pub use result::{AddResult, Dns, Interface, IpConfig, NotRepresentable, Route};
pub use run::{Plugin, run};
pub use version::{IncompatibleVersion, Version};
