//! Our plugins under real container runtimes: containerd and runc, driven through the CRI as
//! the kubelet drives them. `scripts/test` runs these tests.
//!
//! Each test runs under the distribution's containerd and under a current one, on a node of
//! its own, and with the configuration that we ship unless it says otherwise. There is no
//! pass against the Go plugins.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test reports by panicking"
)]

/// Makes two tests of each function: one for each containerd.
macro_rules! for_each_containerd {
    ($($name:ident),+ $(,)?) => {
        mod distribution {
            $(
                #[test]
                #[ignore = "needs namespaces: run scripts/test"]
                fn $name() {
                    super::$name(harness::Containerd::Distribution);
                }
            )+
        }

        mod current {
            $(
                #[test]
                #[ignore = "needs namespaces: run scripts/test"]
                fn $name() {
                    super::$name(harness::Containerd::Current);
                }
            )+
        }
    };
}

mod crowd;
mod failure;
mod installation;
mod life;
mod moving;
mod package;
mod reboot;
mod restart;
mod status;
mod template;
