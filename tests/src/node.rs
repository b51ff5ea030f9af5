//! A node with a real container runtime: containerd and runc in process, mount, host name
//! and IPC namespaces of their own, in the network of a [`Host`].
//!
//! The node's files under /run, /etc, /opt and /var/lib/cni are its own, and the test sees
//! them. What the node mounts, the namespaces of its pods, only the node sees.

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON, where what is not there is null"
)]

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{sched::CloneFlags, sys::signal::Signal};
use serde_json::{Value, json};

use crate::{Cri, CriError, Host, Netns, conf, namespace, plugin, shell};

/// The only image there is, for the pods' own process and for containers in them.
pub const IMAGE: &str = "cni.test/busybox:1";

/// No start and no end takes this long, however busy the machine is.
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// How many nodes this process has had.
static NODES: AtomicU32 = AtomicU32::new(0);

const SOCKET: &str = "/run/containerd/containerd.sock";

/// Which containerd.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Containerd {
    /// That of the distribution: 1.6 in Debian 12, which knows no STATUS.
    Distribution,
    /// The version that `scripts/setup` builds.
    Current,
}

impl Containerd {
    fn dir(self) -> PathBuf {
        shell::containerd_tool(match self {
            Self::Distribution => "distribution",
            Self::Current => "current",
        })
    }

    /// Where the node's programs are: runc is always the distribution's.
    fn search_path(self) -> String {
        let dirs = [self.dir(), Self::Distribution.dir()];
        let dirs = dirs.map(|dir| dir.display().to_string());
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dirs.join(":"))
    }

    /// The configuration, in the form that this version documents.
    fn config(self) -> &'static str {
        match self {
            Self::Distribution => include_str!("../node/distribution.toml"),
            Self::Current => include_str!("../node/current.toml"),
        }
    }

    /// Version 2 unpacks for the CRI only with --local.
    fn import(self) -> &'static str {
        match self {
            Self::Distribution => "ctr --namespace k8s.io images import",
            Self::Current => "ctr --namespace k8s.io images import --local",
        }
    }
}

/// Why no node can be made here.
fn hindrance(which: Containerd) -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Some("containerd needs root outside of a user namespace".to_owned());
    }
    let runc = Containerd::Distribution.dir().join("runc");
    let needed = [
        which.dir().join("containerd"),
        runc,
        shell::containerd_tool("cri"),
    ];
    let missing = needed.iter().find(|file| !file.is_file())?;
    Some(format!(
        "{} is missing: scripts/setup says why",
        missing.display()
    ))
}

/// One node. Dropping it is pulling its plug.
#[derive(Debug)]
pub struct Node {
    which: Containerd,
    init: Option<Child>,
    containerd: Mutex<Option<Child>>,
    cgroup: String,
}

impl Node {
    /// A running node with what `scripts/install --conf` installs, whose CNI calls are
    /// recorded. None, and a report, where there can be no such node.
    pub fn boot(host: &Host, which: Containerd) -> Option<Self> {
        Self::booted_with(host, which, &shipped("10-cbr0.conflist"))
    }

    /// The same with another network.
    pub fn booted_with(host: &Host, which: Containerd, conflist: &str) -> Option<Self> {
        let mut node = Self::prepared(host, which, Path::new("/run/disk"))?;
        node.record_calls();
        node.configure(conflist);
        node.start();
        Some(node)
    }

    /// A node with our executables that is not running yet. What containerd and libcni keep
    /// on the disk is in this directory.
    pub fn prepared(host: &Host, which: Containerd, disk: &Path) -> Option<Self> {
        if let Some(hindrance) = hindrance(which) {
            host.cannot_run(&hindrance);
            return None;
        }
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        shell::run(Command::new(script("prepare.sh")).arg(disk), "");
        for name in ["cni-bridge", "cni-ipam"] {
            install(&plugin::plugins_dir().join(name));
        }
        symlink("cni-bridge", "/opt/cni/bin/loopback").unwrap();
        fs::write(
            "/etc/containerd/containerd-cni-template.conf",
            shipped("containerd-cni-template.conf"),
        )
        .unwrap();
        fs::write("/etc/containerd/config.toml", which.config()).unwrap();
        Some(Self {
            which,
            init: None,
            containerd: Mutex::default(),
            cgroup: format!("cni-bridge-test-{}-{number}", process::id()),
        })
    }

    /// Puts the recorder in front of every plugin.
    pub fn record_calls(&self) {
        fs::rename("/opt/cni/bin", "/opt/cni/recorded").unwrap();
        fs::create_dir("/opt/cni/bin").unwrap();
        for plugin in fs::read_dir("/opt/cni/recorded").unwrap().flatten() {
            let wrapper = Path::new("/opt/cni/bin").join(plugin.file_name());
            symlink(script("recorder.sh"), wrapper).unwrap();
        }
    }

    /// Gives the node this network, as an installer should: the file is whole when it gets
    /// its name, and gets it by a rename in the directory, which containerd notices.
    pub fn configure(&self, conflist: &str) {
        fs::write("/etc/cni/net.d/.new", conflist).unwrap();
        fs::rename("/etc/cni/net.d/.new", "/etc/cni/net.d/10-cbr0.conflist").unwrap();
    }

    /// Starts the node: its first process, containerd, the image.
    pub fn start(&mut self) {
        let init = thread::scope(|scope| {
            let forked = scope.spawn(|| {
                namespace::enter_new(
                    CloneFlags::CLONE_NEWNS
                        | CloneFlags::CLONE_NEWPID
                        | CloneFlags::CLONE_NEWUTS
                        | CloneFlags::CLONE_NEWIPC,
                );
                let mut init = Command::new(script("init.sh"));
                // It ends with its input, that is, at the latest with this process.
                init.stdin(Stdio::piped()).spawn()
            });
            namespace::joined(forked.join())
        });
        self.init = Some(init.expect("cannot start the node's init"));
        wait_for("the node's init", || {
            Path::new("/run/node/up").exists().then_some(())
        });
        self.start_containerd();
        self.import_image();
    }

    fn import_image(&self) {
        let cri = self.cri();
        let present = || {
            let request = json!({ "image": { "image": IMAGE } });
            let answer = cri.call("ImageService/ImageStatus", &request, DEADLINE);
            answer.outcome.unwrap().get("image").map(drop)
        };
        if present().is_some() {
            return;
        }
        let busybox = Containerd::Distribution.dir().join("busybox");
        let mut image = Command::new(script("image.sh"));
        shell::run(image.arg(busybox).args(["/run/node", IMAGE]), "");
        self.sh(&format!("{} /run/node/image.tar", self.which.import()));
        wait_for("the image", present);
    }

    /// Starts containerd and waits until it serves the CRI.
    pub fn start_containerd(&self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open("/run/node/log/containerd.log")
            .unwrap();
        let mut command = self.inside();
        command
            .args(["sh", "-c", "echo $$ >/run/node/pid; exec containerd"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command.spawn().expect("cannot run nsenter");
        *self.containerd.lock().unwrap() = Some(child);
        let status = || self.cri().try_runtime("Status", &json!({})).ok().map(drop);
        wait_for("containerd", status);
    }

    /// Ends containerd, and nothing else, with a signal.
    pub fn end_containerd(&self, signal: Signal) {
        let number = signal as i32;
        self.sh(&format!("kill -{number} $(cat /run/node/pid)"));
        let child = self.containerd.lock().unwrap().take();
        child.unwrap().wait().unwrap();
    }

    /// A connection to containerd.
    pub fn cri(&self) -> Cri {
        Cri::connect(Path::new(SOCKET))
    }

    /// Runs a shell script on the node and returns its output. Panics when it fails.
    pub fn sh(&self, script: &str) -> String {
        shell::run(self.inside().args(["sh", "-euc", script]), "")
    }

    /// A command that runs another one in the node's namespaces.
    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid()))
            .args(["--mount", "--pid", "--uts", "--ipc", "--"])
            .env("PATH", self.which.search_path());
        command
    }

    fn pid(&self) -> u32 {
        let init = self.init.as_ref().expect("the node is not running");
        init.id()
    }

    /// The configuration of a pod sandbox as the kubelet makes it.
    pub fn pod_config(&self, name: &str) -> Value {
        json!({
            "metadata": { "name": name, "uid": format!("uid-of-{name}"), "namespace": "default" },
            "hostname": name,
            "logDirectory": format!("/run/node/log/{name}"),
            "linux": { "cgroupParent": format!("/{}", self.cgroup) },
        })
    }

    /// A network namespace on the node, by its path there.
    pub fn netns(&self, path: &str) -> Netns {
        // /var/run is a link, and an absolute one would lead out of the node.
        let path = path.trim_start_matches("/var");
        Netns::open(&PathBuf::from(format!("/proc/{}/root{path}", self.pid())))
    }

    /// Makes a pod that has to come up.
    #[track_caller]
    pub fn pod(&self, cri: &Cri, name: &str) -> Pod {
        let pod = self.try_pod(cri, name);
        pod.unwrap_or_else(|error| panic!("pod {name}: {error}"))
    }

    /// Makes a pod.
    pub fn try_pod(&self, cri: &Cri, name: &str) -> Result<Pod, CriError> {
        let config = self.pod_config(name);
        let id = cri.run_pod_sandbox(&config)?;
        Ok(Pod { id, config })
    }

    /// What the kubelet does with sandboxes that are not ready: a DEL for each, at least.
    /// Returns how many there were.
    #[track_caller]
    pub fn remove_what_is_not_ready(&self) -> usize {
        let cri = self.cri();
        let mut sandboxes = cri.pod_sandboxes();
        sandboxes.retain(|(_, state)| state == "not ready");
        for (id, _) in &sandboxes {
            let (id, config) = (id.clone(), Value::Null);
            Pod { id, config }.remove(&cri);
        }
        sandboxes.len()
    }

    /// The network namespace of a pod.
    pub fn netns_of(&self, cri: &Cri, pod: &Pod) -> Netns {
        self.netns(&pod.netns_path(cri))
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

    /// How many processes run this plugin.
    pub fn running(&self, plugin: &str) -> usize {
        let path = format!("/opt/cni/recorded/{plugin}");
        let executables = self.sh("readlink /proc/[0-9]*/exe || true");
        executables.lines().filter(|line| **line == path).count()
    }

    /// What containerd has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string("/run/node/log/containerd.log").unwrap_or_default()
    }

    /// What containerd complained about, and the last that it said.
    fn show_log(&self) {
        let log = self.log();
        let last = log.lines().count().saturating_sub(10);
        let shown = log.lines().enumerate().filter(|(number, line)| {
            *number >= last || line.contains("level=error") || line.contains("level=fatal")
        });
        let mut text = String::from("containerd's log, in part:\n");
        for (_, line) in shown {
            text.extend(line.chars().take(400));
            text.push('\n');
        }
        io::stderr().write_all(text.as_bytes()).ok();
    }

    /// Pulls the plug: every process of the node is gone when this returns.
    pub fn power_off(&mut self) {
        if let Some(mut init) = self.init.take() {
            init.kill().ok();
            init.wait().ok();
        }
        let containerd = self
            .containerd
            .lock()
            .ok()
            .and_then(|mut child| child.take());
        if let Some(mut containerd) = containerd {
            containerd.wait().ok();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() && self.init.is_some() {
            self.show_log();
        }
        self.power_off();
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_cgroup(&hierarchy.path().join(&self.cgroup));
        }
    }
}

/// A pod sandbox.
#[derive(Debug)]
pub struct Pod {
    /// The id, which is also `CNI_CONTAINERID`.
    pub id: String,
    /// What it was made from.
    pub config: Value,
}

impl Pod {
    /// All addresses, the first one first. They stand in the status.
    pub fn addresses(&self, cri: &Cri) -> Vec<String> {
        let network = &cri.pod_sandbox_status(&self.id)["status"]["network"];
        let further = network["additionalIps"].as_array().into_iter().flatten();
        let all = [&network["ip"]]
            .into_iter()
            .chain(further.map(|address| &address["ip"]));
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The only address.
    #[track_caller]
    pub fn address(&self, cri: &Cri) -> String {
        let mut addresses = self.addresses(cri);
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        addresses.remove(0)
    }

    /// Where the node has its network namespace.
    pub fn netns_path(&self, cri: &Cri) -> String {
        let status = cri.pod_sandbox_status(&self.id);
        let namespaces = &status["info"]["runtimeSpec"]["linux"]["namespaces"];
        let network = namespaces
            .as_array()
            .into_iter()
            .flatten()
            .find(|namespace| namespace["type"] == "network")
            .unwrap_or_else(|| panic!("no network namespace: {status}"));
        network["path"].as_str().unwrap().to_owned()
    }

    /// Starts a container in it that sleeps; its id.
    pub fn container(&self, cri: &Cri) -> String {
        let config = json!({
            "metadata": { "name": "main" },
            "image": { "image": IMAGE },
            "logPath": "main.log",
        });
        cri.start_container(&self.id, &self.config, &config)
    }

    /// Stops and removes it, as the kubelet does.
    #[track_caller]
    pub fn remove(&self, cri: &Cri) {
        cri.stop_pod_sandbox(&self.id)
            .unwrap_or_else(|error| panic!("StopPodSandbox: {error}"));
        cri.remove_pod_sandbox(&self.id)
            .unwrap_or_else(|error| panic!("RemovePodSandbox: {error}"));
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

/// A file of `conf/`, as it is.
pub fn shipped(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = root.join("conf").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The conflist that we ship with changes of the plugin's configuration.
pub fn conflist(changes: &Value) -> String {
    let mut list: Value = serde_json::from_str(&shipped("10-cbr0.conflist")).unwrap();
    let plugin = &mut list["plugins"][0];
    *plugin = conf::with(plugin, changes);
    list.to_string()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("node")
        .join(name)
}

fn install(executable: &Path) {
    let target = Path::new("/opt/cni/bin").join(executable.file_name().unwrap());
    fs::copy(executable, &target)
        .unwrap_or_else(|error| panic!("{}: {error}", executable.display()));
}

/// Asks again and again until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        thread::sleep(POLL);
    }
}

/// The innermost first. What a process has just left may be busy for a moment.
fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let started = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && started.elapsed() < DEADLINE =>
            {
                thread::sleep(POLL);
            }
            _ => return,
        }
    }
}
