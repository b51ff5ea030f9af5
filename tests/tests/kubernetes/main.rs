//! Our plugins under a real Kubernetes, on a cluster that kubeadm makes of two machines, and
//! the manifests that we ship. `scripts/test` runs these tests.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test reports by panicking"
)]

mod kit;
mod life;
mod manifests;
mod packets;
