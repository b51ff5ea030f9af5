//! Leases under force: kills, faults, crowds, full ranges, and a node that moves over from
//! the Go plugins. Whatever happens, no address is given to two attachments, and none stays
//! taken without one. `scripts/test` runs these tests.
//!
//! All of this is promised by us alone; there is no pass against the Go plugins. Longer
//! runs, and what they found:
//!
//! - `CNI_E2E_KILLS`: how many random kills (600);
//! - `CNI_E2E_SECONDS`: how long the crowd works (5);
//! - `CNI_E2E_BOOTS`: how many boots (1000);
//! - `CNI_E2E_SEED`: another sequence of random numbers;
//! - `CNI_E2E_FIGURES`: a file to which each count is appended.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test reports by panicking"
)]

mod boots;
mod crio;
mod crowd;
mod damage;
mod exhaustion;
mod full;
mod kit;
mod migration;
mod node_of_go;
mod owners;
mod random;
mod stopped;
mod tracer;
mod way_back;
