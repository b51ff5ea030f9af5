//! The executable `cni-bridge`, asked before something is changed, and called for what only it
//! knows how to remove.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::error::Error;

/// The codes of the CNI specification for a configuration that makes no sense.
const CONFIGURATION: [u64; 4] = [1, 2, 6, 7];

/// Has the plugin judge a configuration, by STATUS. Whether the node is ready for it is no
/// matter here.
pub(crate) fn vet(executable: &Path, config: &Value, bin_dir: &Path) -> Result<(), Error> {
    let mut command = Command::new(executable);
    command
        .env_clear()
        .env("CNI_COMMAND", "STATUS")
        .env("CNI_PATH", bin_dir);
    let output = run(&mut command, config.to_string().as_bytes())
        .map_err(|error| Error::Run(executable.to_owned(), error))?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let code = answer.get("code").and_then(Value::as_u64);
    if !code.is_some_and(|code| CONFIGURATION.contains(&code)) {
        return Ok(());
    }
    let text = |key| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    let message = match text("details") {
        "" => text("msg").to_owned(),
        details => format!("{}: {details}", text("msg")),
    };
    Err(Error::Refused(message))
}

/// Removes what the pods of a configuration shared: bridge, rules, stores.
pub(crate) fn remove_shared(executable: &Path, conflist: &[u8]) -> Result<(), Error> {
    let mut command = Command::new(executable);
    command.args(["remove", "/dev/stdin"]).env_clear();
    let output =
        run(&mut command, conflist).map_err(|error| Error::Run(executable.to_owned(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    Err(Error::Shared(executable.to_owned(), said))
}

fn run(command: &mut Command, input: &[u8]) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Small enough for the pipe; who does not read it says why.
        stdin.write_all(input).ok();
    }
    child.wait_with_output()
}
