//! Programs that a test uses to arrange and to look at things: `ip`, `nft`, `cnitool`.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Runs a shell script in the namespaces of the calling thread and returns its output.
///
/// Panics when it fails: a test cannot go on from a situation that it did not make.
pub fn sh(script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]), "")
}

/// Runs a program that has to succeed, and returns its output.
pub(crate) fn run(command: &mut Command, input: &str) -> String {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).ok();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}{input}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The value of an environment variable; empty counts as unset.
#[expect(
    clippy::disallowed_methods,
    reason = "this is about the tests' environment, not the plugins'"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where `scripts/setup` puts cnitool and the Go plugins.
pub(crate) fn tools_dir() -> PathBuf {
    if let Some(dir) = variable("CNI_E2E_TOOLS") {
        return PathBuf::from(dir);
    }
    let cache = variable("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(variable("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    cache.join("cni-bridge-tests/bin")
}

/// Where `scripts/setup` puts what the tests with containerd need.
pub(crate) fn containerd_tool(name: &str) -> PathBuf {
    tools_dir().with_file_name("containerd").join(name)
}

/// The path of a program of another project, where `scripts/setup` could build it.
pub fn tool_if_built(name: &str) -> Option<PathBuf> {
    let path = tools_dir().join(name);
    path.is_file().then_some(path)
}

/// Where `scripts/setup` puts what the tests with Kubernetes need.
pub(crate) fn kubernetes_tool(name: &str) -> PathBuf {
    tools_dir().with_file_name("kubernetes").join(name)
}

/// The path of a program of another project, which `scripts/setup` builds.
pub fn tool(name: &str) -> PathBuf {
    tool_if_built(name).unwrap_or_else(|| {
        panic!(
            "{} is missing: scripts/setup builds it, then scripts/test runs all tests",
            tools_dir().join(name).display()
        )
    })
}
