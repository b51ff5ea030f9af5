//! What a failed test shows of its cluster.

use std::io::{self, Write as _};

use super::{Cluster, ENVIRONMENT};

/// Each with as many of its last lines as help.
const COMMANDS: [&str; 5] = [
    "kubectl get nodes,pods --all-namespaces --output wide --request-timeout 5s",
    "kubectl get events --all-namespaces --request-timeout 5s | tail -n 30",
    "kubectl logs --namespace kube-system daemonset/cni-bridge --tail 20 --request-timeout 5s",
    "tail -n 20 /run/node/log/kubeadm.log",
    "grep '^[EF]' /run/node/log/kubelet.log | cut -c 1-400 | tail -n 20",
];

impl Cluster {
    /// To stderr, from both machines.
    pub(super) fn show(&self) {
        for command in COMMANDS {
            self.show_of(1, command);
        }
        self.show_of(2, COMMANDS[3]);
        self.show_of(2, COMMANDS[4]);
    }

    fn show_of(&self, number: u8, command: &str) {
        let script = format!("{ENVIRONMENT}; {{ {command}; }} 2>&1 || true");
        let said = self.on(number, |node| node.sh(&script));
        let text = format!("machine {number}: {command}\n{said}\n");
        io::stderr().write_all(text.as_bytes()).ok();
    }
}
