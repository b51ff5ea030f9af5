//! A cluster made by the real kubeadm on the two machines of a [`Lab`]: containerd, kubelets,
//! a control plane in pods, kube-proxy, `CoreDNS`. The router between the machines knows no way
//! to the pods until a test tells it.
//!
//! Each machine is a [`Node`]. There is no systemd: `tests/node/kubelet.sh` starts the kubelet.

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON, where what is not there is null"
)]

mod image;
mod release;
mod shown;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Containerd, Host, Lab, Netns, Node, Pod, lab, namespace, node, shell};

pub use image::Image;
pub use release::{Release, manifests};

/// Nothing here takes this long, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

const CONFIG: &str = include_str!("../node/kubeadm.yaml");

/// The programs that `scripts/setup` builds.
const PROGRAMS: [&str; 9] = [
    "kubeadm",
    "kubelet",
    "kubectl",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "etcd",
    "coredns",
];

/// Both machines. Dropping it is pulling their plugs.
#[derive(Debug)]
pub struct Cluster {
    // They end on their machines.
    one: Option<Node>,
    two: Option<Node>,
    lab: Lab,
}

impl Cluster {
    /// Two machines as kubeadm wants to find them, with the images that it asks for and these.
    /// There is no cluster yet, and no CNI plugin. None, and a report, where there can be no
    /// such machines.
    pub fn machines(host: &Host, images: &[&Image]) -> Option<Self> {
        let missing = PROGRAMS
            .map(shell::kubernetes_tool)
            .into_iter()
            .find(|program| !program.is_file())
            .map(|file| format!("{} is missing: scripts/setup says why", file.display()));
        if let Some(hindrance) = missing.or_else(|| node::hindrance(Containerd::Current)) {
            host.cannot_run(&hindrance);
            return None;
        }
        let lab = Lab::new();
        let dir = TempDir::new().unwrap();
        let kubernetes = image::of_kubernetes(dir.path());
        let all: Vec<&Image> = kubernetes.iter().chain(images.iter().copied()).collect();
        let archive = image::archive(&all, dir.path());
        let (one, two) = thread::scope(|scope| {
            let two = scope.spawn(|| machine(&lab.two, &archive));
            let one = machine(&lab.one, &archive);
            (one, namespace::joined(two.join()))
        });
        Some(Self {
            one: Some(one),
            two: Some(two),
            lab,
        })
    }

    /// `kubeadm init` on machine one, which becomes the node "one".
    pub fn init(&self) {
        self.on(1, |node| {
            fs::write("/run/node/kubeadm.yaml", CONFIG).unwrap();
            kubeadm(node, "init --config /run/node/kubeadm.yaml");
        });
    }

    /// `kubeadm join` on machine two, which becomes the node "two".
    pub fn join(&self) {
        let join = self.on(1, |node| {
            node.sh(&format!(
                "{ENVIRONMENT}; kubeadm token create --print-join-command"
            ))
        });
        let join = join.trim().trim_start_matches("kubeadm ");
        self.on(2, |node| kubeadm(node, &format!("{join} --node-name two")));
    }

    /// Runs `work` on a thread of machine one or two.
    pub fn on<T: Send>(&self, number: u8, work: impl FnOnce(&Node) -> T + Send) -> T {
        let (machine, node) = self.machine(number);
        machine.run(|_| work(node))
    }

    fn machine(&self, number: u8) -> (&lab::Node, &Node) {
        let (machine, node) = if number == 1 {
            (&self.lab.one, &self.one)
        } else {
            (&self.lab.two, &self.two)
        };
        (machine, node.as_ref().unwrap())
    }

    /// What a node has of the plugins: links, routes, rules, leases.
    pub fn state(&self, number: u8) -> crate::State {
        self.machine(number).0.run(Host::state)
    }

    /// The network of a machine.
    pub fn netns(&self, number: u8) -> &Netns {
        &self.machine(number).0.netns
    }

    /// The network of the router, which stands for that of a cloud.
    pub fn router(&self) -> &Netns {
        &self.lab.router
    }

    /// A host in the Internet.
    pub fn outside(&self) -> &Netns {
        &self.lab.outside
    }

    /// Runs kubectl, with arguments as a shell reads them, and returns what it printed. Panics
    /// when it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &str) -> String {
        self.on(1, |node| {
            node.sh(&format!("{ENVIRONMENT}; kubectl {arguments}"))
        })
    }

    /// `kubectl apply`, of a file in `conf/` or of any other text.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.fed("apply --filename", manifest)
    }

    /// Runs kubectl with a file that has this content as the last argument.
    #[track_caller]
    pub fn fed(&self, arguments: &str, manifest: &str) -> String {
        self.on(1, |node| {
            let file = "/run/node/manifest.yaml";
            fs::write(file, manifest).unwrap();
            node.sh(&format!("{ENVIRONMENT}; kubectl {arguments} {file}"))
        })
    }

    /// `kubectl get`, as JSON.
    #[track_caller]
    pub fn get(&self, what: &str) -> Value {
        let text = self.kubectl(&format!("get {what} --output json"));
        serde_json::from_str(&text).unwrap()
    }

    /// The condition Ready of a node: its status and the message.
    pub fn ready(&self, node: &str) -> (String, String) {
        let node = self.get(&format!("node {node}"));
        let conditions = node["status"]["conditions"].as_array().cloned();
        let ready = conditions
            .unwrap_or_default()
            .into_iter()
            .find(|condition| condition["type"] == "Ready")
            .unwrap_or_default();
        let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("message"))
    }

    /// The pod CIDR that the controller manager gave a node.
    pub fn pod_cidr(&self, number: u8) -> String {
        let name = if number == 1 { "one" } else { "two" };
        let node = self.get(&format!("node {name}"));
        node["spec"]["podCIDR"].as_str().unwrap().to_owned()
    }

    /// The pod CIDR that stands in the CNI configuration of a node.
    pub fn subnet(&self, number: u8) -> String {
        let file = "/etc/cni/net.d/10-cbr0.conflist";
        let text = self.on(number, |_| fs::read_to_string(file).unwrap());
        let list: Value = serde_json::from_str(&text).unwrap();
        let ipam = &list["plugins"][0]["ipam"];
        let subnet = [&ipam["subnet"], &ipam["ranges"][0][0]["subnet"]];
        let subnet = subnet.into_iter().find_map(Value::as_str);
        subnet
            .unwrap_or_else(|| panic!("no subnet: {text}"))
            .to_owned()
    }

    /// The network namespace of a pod, on the machine where it runs.
    pub fn netns_of(&self, pod: &str) -> Netns {
        let pod = self.get(&format!("pod {pod}"));
        let number = if pod["spec"]["nodeName"] == "one" {
            1
        } else {
            2
        };
        self.on(number, |node| {
            let cri = node.cri();
            let labels = json!({ "io.kubernetes.pod.uid": pod["metadata"]["uid"] });
            let filter = json!({ "filter": { "labelSelector": labels } });
            let list = cri.runtime("ListPodSandbox", &filter);
            let id = list["items"][0]["id"].as_str().unwrap().to_owned();
            let config = Value::Null;
            node.netns_of(&cri, &Pod { id, config })
        })
    }
}

/// One of the programs that `scripts/setup` builds.
pub fn program(name: &str) -> PathBuf {
    shell::kubernetes_tool(name)
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    node::wait_within(DEADLINE, POLL, what, ask)
}

/// What root has after `kubeadm init`, but below /run/node.
const ENVIRONMENT: &str = "export HOME=/run/node/home KUBECONFIG=/etc/kubernetes/admin.conf";

/// A machine with containerd, images, and a kubelet that waits for kubeadm.
fn machine(machine: &lab::Node, images: &Path) -> Node {
    machine.run(|host| {
        let prepared = Node::prepared(host, Containerd::Current, Path::new("/run/disk"));
        let mut node = prepared.expect("a node");
        shell::run(
            Command::new(node::script("cluster.sh")).arg(&node.cgroup),
            "",
        );
        // One of the things that kubeadm wants of a machine.
        shell::sh("sysctl --quiet -w net.ipv4.ip_forward=1");
        node.start();
        node.import(images);
        let address = if machine.number == 1 {
            lab::IPV4.one
        } else {
            lab::IPV4.two
        };
        // Not every root may lower its score, or raise the limit of open files.
        node.sh(&format!(
            "{} --node-ip={address} --cgroup-root=/{} --oom-score-adj=0 \
             --max-open-files=$(ulimit -Hn) >/run/node/log/kubelet.log 2>&1 </dev/null &",
            node::script("kubelet.sh").display(),
            node.cgroup,
        ));
        node
    })
}

fn kubeadm(node: &Node, arguments: &str) {
    node.sh(&format!(
        "{ENVIRONMENT}
         kubeadm {arguments} --ignore-preflight-errors=SystemVerification \
             >/run/node/log/kubeadm.log 2>&1 || {{ cat /run/node/log/kubeadm.log >&2; false; }}"
    ));
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show();
        }
        let nodes = [
            (&self.lab.one, self.one.take()),
            (&self.lab.two, self.two.take()),
        ];
        for (machine, node) in nodes {
            machine.run(|_| drop(node));
        }
    }
}
