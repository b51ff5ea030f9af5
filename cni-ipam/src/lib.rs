//! Addresses of a node's own CIDR: ranges, allocation, and the store of leases.
//!
//! The verbs are functions: [`lease`], [`confirm`], [`release`], [`check`], [`gc`] and
//! [`status`]. Nothing here reads the environment or writes to standard output, and nothing
//! changes a link; what the kernel's links are asked for is in [`links`].

mod address;
pub mod alias;
mod allocate;
mod cause;
mod check;
mod config;
mod error;
mod export;
mod import;
pub mod inspect;
mod lease;
pub mod links;
pub mod names;
mod range;
mod reclaim;
mod release;
pub mod repair;
mod resolv;
mod store;
#[cfg(test)]
mod testing;

pub use cause::Cause;
pub use check::{check, holds, status};
pub use config::{
    Config, ConfigError, DEFAULT_DATA_DIR, DataDir, HOST_LOCAL_DIR, data_dir, unknown_keys,
};
pub use error::{Error, Exhausted};
pub use export::{Exported, export, taken_over};
pub use lease::{Lease, Leased, Maker, confirm, lease};
pub use range::{Range, RangeSet};
pub use release::{GcReport, Holdings, gc, holdings, release, stale_predecessors};
pub use store::Holder;
