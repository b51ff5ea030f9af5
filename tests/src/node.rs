//! A node with a real container runtime: containerd and runc in process, mount, host name
//! and IPC namespaces of their own, in the network of a [`Host`].
//!
//! The node's files under /run, /etc, /opt and /var/lib/cni are its own, and the test sees
//! them. What the node mounts, the namespaces of its pods, only the node sees.

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON, where what is not there is null"
)]

mod calls;
mod crowd;
mod pod;

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

use crate::{Cri, Host, Netns, conf, namespace, plugin, shell};

pub use calls::Call;
pub use pod::Pod;

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
    pub(crate) fn dir(self) -> PathBuf {
        shell::containerd_tool(match self {
            Self::Distribution => "distribution",
            Self::Current => "current",
        })
    }

    /// Where the node's programs are: runc is always the distribution's.
    fn search_path(self) -> String {
        let dirs = [
            self.dir(),
            Self::Distribution.dir(),
            shell::kubernetes_tool(""),
        ];
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
pub(crate) fn hindrance(which: Containerd) -> Option<String> {
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
    /// The name of its cgroups, below the root of every hierarchy.
    pub(crate) cgroup: String,
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
        install_ours();
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

    /// Gives the node this network, as an installer should: the file is whole when it gets
    /// its name, and gets it by a rename in the directory, which containerd notices.
    pub fn configure(&self, conflist: &str) {
        self.configure_as("10-cbr0.conflist", conflist);
    }

    /// The same, in a file of this name.
    pub fn configure_as(&self, name: &str, conflist: &str) {
        let dir = Path::new("/etc/cni/net.d");
        fs::write(dir.join(".new"), conflist).unwrap();
        fs::rename(dir.join(".new"), dir.join(name)).unwrap();
    }

    /// Takes our plugins away and puts those of the Go project in their place.
    pub fn with_go_plugins(&self) {
        for ours in ["cni-bridge", "cni-ipam", "loopback"] {
            fs::remove_file(Path::new("/opt/cni/bin").join(ours)).unwrap();
        }
        for go in ["bridge", "host-local", "loopback", "portmap"] {
            install(&shell::tool(go));
        }
    }

    /// Puts our plugins beside those of the Go project.
    pub fn with_our_plugins(&self) {
        install_ours();
    }

    /// Runs what an operator types in a directory with our executables.
    pub fn type_in(&self, script: &str) -> String {
        let dir = plugin::plugins_dir();
        self.sh(&format!("cd {}\n{script}", dir.display()))
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
                init.arg(&self.cgroup);
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
        self.import(Path::new("/run/node/image.tar"));
        wait_for("the image", present);
    }

    /// Gives containerd the images of an archive.
    pub fn import(&self, archive: &Path) {
        self.sh(&format!("{} {}", self.which.import(), archive.display()));
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

    /// A network namespace on the node, by its path there.
    pub fn netns(&self, path: &str) -> Netns {
        // /var/run is a link, and an absolute one would lead out of the node.
        let path = path.trim_start_matches("/var");
        Netns::open(&PathBuf::from(format!("/proc/{}/root{path}", self.pid())))
    }

    /// What this containerd calls itself: "1.6.20~ds1", "v2.4.2".
    pub fn version(&self) -> String {
        let version = self.cri().runtime("Version", &json!({}));
        version["runtimeVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
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

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("node")
        .join(name)
}

fn install_ours() {
    for name in ["cni-bridge", "cni-ipam"] {
        install(&plugin::plugins_dir().join(name));
    }
}

/// Puts a plugin into the directory of the node that the calling thread is preparing.
pub fn install(executable: &Path) {
    let target = Path::new("/opt/cni/bin").join(executable.file_name().unwrap());
    // It may be a link.
    fs::remove_file(&target).ok();
    fs::copy(executable, &target)
        .unwrap_or_else(|error| panic!("{}: {error}", executable.display()));
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_within(DEADLINE, POLL, what, ask)
}

/// The same with another end, and another pause between the questions.
#[track_caller]
pub(crate) fn wait_within<T>(
    limit: Duration,
    pause: Duration,
    what: &str,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(pause);
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
