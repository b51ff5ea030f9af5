//! What must hold for any bytes that a runtime may send.
//!
//! Each target is a module with one function, `check`, which panics when something does not
//! hold. `cargo fuzz` looks for bytes that make it panic; `cargo test` replays the corpus.

pub mod agent_file;
pub mod bridge_stdin;
pub mod cni_args;
pub mod ipam_stdin;
pub mod prev_result;
mod refusal;
#[cfg(test)]
mod replay;

// `cni-bridge` is an executable, which no other crate can use. Those of its files that
// decide are compiled here once more, at the place where they expect themselves to be.
macro_rules! files_of_cni_bridge {
    ($($name:ident $path:literal)+) => {$(
        #[allow(dead_code, reason = "only what decides is called here, not what does")]
        #[path = $path]
        mod $name;
    )+};
}

files_of_cni_bridge! {
    agent "../../cni-bridge/src/agent.rs"
    config "../../cni-bridge/src/config.rs"
    error "../../cni-bridge/src/error.rs"
    guard "../../cni-bridge/src/guard.rs"
    mac "../../cni-bridge/src/mac.rs"
    masquerade "../../cni-bridge/src/masquerade.rs"
    netlink "../../cni-bridge/src/netlink.rs"
    netns "../../cni-bridge/src/netns.rs"
    overlap "../../cni-bridge/src/overlap.rs"
    plan "../../cni-bridge/src/plan.rs"
    sysctl "../../cni-bridge/src/sysctl.rs"
    vlan "../../cni-bridge/src/vlan.rs"
    yaml "../../cni-bridge/src/yaml.rs"
}
