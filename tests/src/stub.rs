//! An IPAM plugin that does what a test tells it: `tests/stub/ipam.sh`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{Request, plugin, shell};

/// The plugin under the name "stub", and the record of its calls.
#[derive(Debug)]
pub struct Stub {
    dir: TempDir,
    behaviour: String,
}

impl Stub {
    /// One that behaves as `tests/stub/ipam.sh` says under this word.
    pub fn new(behaviour: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("stub/ipam.sh");
        symlink(script, dir.path().join("stub")).unwrap();
        Self {
            dir,
            behaviour: behaviour.to_owned(),
        }
    }

    /// The call with this plugin in its `CNI_PATH`.
    pub fn in_path_of(&self, request: Request) -> Request {
        let dirs = [
            self.dir.path().to_owned(),
            plugin::plugins_dir(),
            shell::tools_dir(),
        ];
        request
            .env("CNI_PATH", std::env::join_paths(dirs).unwrap())
            .env("STUB_BEHAVIOUR", &self.behaviour)
            .env("STUB_DIR", self.dir.path())
    }

    /// The verbs of the calls so far.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What a call with this verb got: its standard input, byte for byte.
    pub fn stdin_of(&self, verb: &str) -> Vec<u8> {
        self.record(verb, "stdin")
    }

    /// The environment of a call with this verb, one variable a line.
    pub fn env_of(&self, verb: &str) -> String {
        String::from_utf8_lossy(&self.record(verb, "env")).into_owned()
    }

    /// The process of a call with this verb.
    pub fn pid_of(&self, verb: &str) -> u32 {
        let text = String::from_utf8_lossy(&self.record(verb, "pid")).into_owned();
        text.trim().parse().unwrap()
    }

    fn record(&self, verb: &str, what: &str) -> Vec<u8> {
        let path: PathBuf = self.dir.path().join(format!("{verb}.{what}"));
        fs::read(&path).unwrap_or_else(|_| panic!("the stub was not called with {verb}"))
    }
}
