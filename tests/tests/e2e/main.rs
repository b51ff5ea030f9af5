//! The end-to-end tests. `scripts/test` runs them; a bare `cargo test` leaves them out,
//! because they need to make namespaces.
//!
//! Tests in modules named `ours` hold promises that only we make. All others express
//! rules of the CNI specification or the behaviour that runtimes rely on; they pass
//! against the Go plugins too, but for the list in `harness::reference`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test reports by panicking"
)]

mod add;
mod args;
mod check;
mod cnitool;
mod crossing;
mod del;
mod delegate;
mod forward;
mod gc;
mod healing;
mod installation;
mod interop;
mod keys;
mod killed;
mod limits;
mod logs;
mod masquerade;
mod packets;
mod parallel;
mod parents;
mod protocol;
mod reuse;
mod services;
mod spoofing;
mod status;
mod store;
mod storms;
mod systemd;
mod topology;
mod undo;
