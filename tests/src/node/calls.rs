//! What containerd calls the plugins with: a recorder stands in front of each.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;

use super::{Node, script};

impl Node {
    /// Puts the recorder in front of every plugin.
    pub fn record_calls(&self) {
        fs::rename("/opt/cni/bin", "/opt/cni/recorded").unwrap();
        fs::create_dir("/opt/cni/bin").unwrap();
        for plugin in fs::read_dir("/opt/cni/recorded").unwrap().flatten() {
            let wrapper = Path::new("/opt/cni/bin").join(plugin.file_name());
            symlink(script("recorder.sh"), wrapper).unwrap();
        }
    }

    /// Every CNI call so far, in the order of their starts.
    pub fn calls(&self) -> Vec<Call> {
        let log = fs::read_to_string("/run/node/calls/log").unwrap_or_default();
        log.lines().map(Call::parse).collect()
    }

    /// The calls that are made while `work` runs.
    pub fn calls_during<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Call>) {
        let before = self.calls().len();
        let outcome = work();
        (outcome, self.calls().split_off(before))
    }

    /// The verbs of the calls that a plugin is working on.
    pub fn running(&self, plugin: &str) -> Vec<String> {
        // Some processes are gone before they are looked at.
        let verbs = self.sh(&format!(
            "for process in /proc/[0-9]*; do
                 if [ \"$(readlink $process/exe)\" = /opt/cni/recorded/{plugin} ]; then
                     tr '\\0' '\\n' <$process/environ | sed -n 's/^CNI_COMMAND=//p' || true
                 fi
             done 2>/dev/null"
        ));
        verbs.lines().map(str::to_owned).collect()
    }
}

/// One call of a plugin by containerd.
#[derive(Clone, Debug)]
pub struct Call {
    /// The file name of the plugin.
    pub plugin: String,
    /// `CNI_COMMAND`.
    pub verb: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// Standard input.
    pub conf: Value,
}

impl Call {
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let [plugin, verb, container, interface, netns, args, input] = *fields.as_slice() else {
            panic!("not a recorded call: {line}");
        };
        let input = fs::read(input).unwrap();
        Self {
            plugin: plugin.to_owned(),
            verb: verb.to_owned(),
            container: container.to_owned(),
            interface: interface.to_owned(),
            netns: netns.to_owned(),
            args: args.to_owned(),
            conf: serde_json::from_slice(&input).expect("no JSON on standard input"),
        }
    }
}
