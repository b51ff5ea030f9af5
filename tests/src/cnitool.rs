//! cnitool with a directory of configurations.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::{Container, plugin, shell};

/// libcni on the command line.
#[derive(Debug)]
pub struct Cnitool {
    executable: PathBuf,
    conf_dir: PathBuf,
    network: String,
}

impl Cnitool {
    /// For one network, whose configuration is in that directory.
    pub fn new(conf_dir: &Path, network: &str) -> Self {
        Self {
            executable: shell::tool("cnitool"),
            conf_dir: conf_dir.to_owned(),
            network: network.to_owned(),
        }
    }

    /// Runs a verb that succeeds; the result if there is one.
    pub fn run(&self, verb: &str, container: &Container) -> Option<Value> {
        let output = self.output(verb, container);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "cnitool {verb} failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = text.trim();
        (!text.is_empty()).then(|| serde_json::from_str(text).expect("one JSON document"))
    }

    /// Runs a verb that fails; what it says.
    pub fn refused(&self, verb: &str, container: &Container) -> String {
        let output = self.output(verb, container);
        assert!(!output.status.success(), "cnitool {verb} should fail");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    }

    fn output(&self, verb: &str, container: &Container) -> Output {
        let dirs = [plugin::plugins_dir(), shell::tools_dir()];
        Command::new(&self.executable)
            .args([verb, &self.network])
            .arg(&container.path)
            .env("NETCONFPATH", &self.conf_dir)
            .env("CNI_PATH", env::join_paths(dirs).unwrap())
            .env("CNI_IFNAME", &container.interface)
            .output()
            .expect("cannot run cnitool")
    }
}
