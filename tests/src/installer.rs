//! `cni-install` as a person calls it, with directories of the test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{Request, plugin};

/// Where it installs to.
#[derive(Clone, Debug)]
pub struct Installer {
    /// The plugin directory.
    pub bin_dir: PathBuf,
    /// The configuration directory.
    pub conf_dir: PathBuf,
}

/// What it said, on both streams, and its exit status.
#[derive(Debug)]
pub struct Said {
    /// -1 when a signal ended it.
    pub status: i32,
    /// Standard output, then standard error.
    pub text: String,
}

impl Installer {
    /// Directories in the node's own /run, which are not there yet.
    pub fn new() -> Self {
        Self {
            bin_dir: "/run/node-opt/cni/bin".into(),
            conf_dir: "/run/node-etc/cni/net.d".into(),
        }
    }

    /// Those of a runtime.
    pub fn of_the_node() -> Self {
        Self {
            bin_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/net.d".into(),
        }
    }

    /// The call, not made yet.
    pub fn request(&self, words: &[&str]) -> Request {
        let dirs = [&self.bin_dir, &self.conf_dir].map(|dir| dir.display().to_string());
        Request::bare("cni-bridge")
            .executable(&Self::path())
            .arguments(words)
            .arguments(&["--bin-dir", &dirs[0], "--conf-dir", &dirs[1]])
    }

    /// The built executable.
    pub fn path() -> PathBuf {
        plugin::plugins_dir().join("cni-install")
    }

    /// Makes the call.
    pub fn call(&self, words: &[&str]) -> Said {
        let request = self.request(words);
        let output = Command::new(request.path())
            .args(request.words())
            .env_clear()
            .output();
        Said::new(output.expect("cannot run cni-install"))
    }

    /// Makes a call that has to succeed; what it said.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let said = self.call(words);
        assert_eq!(said.status, 0, "{words:?}: {}", said.text);
        said.text
    }

    /// Makes a call that has to fail, with these words in one line.
    #[track_caller]
    pub fn refuses(&self, words: &[&str], reason: &str) {
        let said = self.call(words);
        assert_eq!(said.status, 1, "{words:?}: {}", said.text);
        let line = said.text.trim_end();
        assert!(
            line.contains(reason) && !line.contains('\n'),
            "{words:?} should be refused with {reason:?}: {line}"
        );
    }

    /// Every file and link of both directories: name, mode, contents in short.
    pub fn files(&self) -> Vec<String> {
        let mut all = Vec::new();
        for dir in [&self.bin_dir, &self.conf_dir] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                all.push(described(&entry.path()));
            }
        }
        all.sort();
        all
    }
}

impl Default for Installer {
    fn default() -> Self {
        Self::new()
    }
}

fn described(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    let Ok(found) = fs::symlink_metadata(path) else {
        return format!("{shown} is gone");
    };
    if let Ok(target) = fs::read_link(path) {
        return format!("{shown} -> {}", target.display());
    }
    let mode = found.mode() & 0o7777;
    let contents = fs::read(path).unwrap_or_default();
    let sum = contents.iter().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add((*byte).into())
    });
    format!("{shown} {mode:o} {} {sum:x}", found.len())
}

impl Said {
    fn new(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self {
            status: output.status.code().unwrap_or(-1),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}
