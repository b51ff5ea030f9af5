//! The node of one test: a network and mount namespace that the test's own thread is in.

use std::{
    any,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Write,
    panic,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::{
    mount::{self, MsFlags},
    sched::CloneFlags,
};
use serde_json::Value;

use crate::{Answer, Container, Netns, Request, State, namespace, plugin, reference, shell};

/// The node.
#[derive(Debug)]
pub struct Host {
    /// Its network namespace, for what has to get there from another thread.
    pub netns: Netns,
    name: String,
    containers: AtomicU32,
    kept: Mutex<Vec<Container>>,
}

/// Runs a test on a node of its own.
///
/// Against the Go plugins, tests of a module `ours` are reported as not run, and tests
/// that [`reference::FAILS`] lists have to fail.
pub fn on_host<F: FnOnce(&Host) + Send>(test: F) {
    let name = test_name(thread::current().name(), any::type_name::<F>());
    let go = plugin::reference();
    if go && name.split("::").any(|part| part == "ours") {
        cannot_run(
            &name,
            "our own promise, of which the Go plugins know nothing",
        );
        return;
    }
    let outcome = thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.clone());
        let run = thread.spawn_scoped(scope, || test(&Host::enter(&name)));
        run.unwrap().join()
    });
    match (outcome, reference::failure(&name)) {
        (Ok(()), Some(why)) if go => {
            panic!("{name} passes with the Go plugins: take it out of the list ({why})")
        }
        (Ok(()), _) => {}
        (Err(_), Some(_)) if go => {}
        (Err(payload), _) => panic::resume_unwind(payload),
    }
}

/// Reports what this machine cannot run, by name and reason. The test script prints it
/// at its end: not run is not passed.
pub fn cannot_run(name: &str, reason: &str) {
    let line = format!("{name}\t{reason}\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
    if let Some(file) = shell::variable("CNI_E2E_NOT_RUN") {
        let file = OpenOptions::new().append(true).create(true).open(file);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Cargo names the threads of tests, but with --test-threads=1 there is only the main one:
/// then it is `add::taken_name` from `e2e::add::taken_name::{{closure}}`.
fn test_name(thread: Option<&str>, closure: &str) -> String {
    match thread {
        None | Some("main") => {
            let path = closure.trim_end_matches("::{{closure}}");
            path.split_once("::")
                .map_or(path, |(_, rest)| rest)
                .to_owned()
        }
        Some(thread) => thread.to_owned(),
    }
}

impl Host {
    pub(crate) fn enter(name: &str) -> Self {
        namespace::enter_new(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS);
        private_mounts();
        let netns = Netns::current();
        shell::sh("ip link set lo up");
        Self {
            netns,
            name: name.to_owned(),
            containers: AtomicU32::new(0),
            kept: Mutex::default(),
        }
    }

    /// A new container, named "pod1", "pod2", ... in the order they are made.
    pub fn container(&self) -> Container {
        let before = self.containers.fetch_add(1, Ordering::Relaxed);
        Container::new(&format!("pod{}", before + 1))
    }

    /// Reports that this machine cannot run this test, which then has to return.
    pub fn cannot_run(&self, reason: &str) {
        cannot_run(&self.name, reason);
    }

    /// Keeps a container alive to the end of the test.
    pub fn keep(&self, container: Container) {
        self.kept.lock().unwrap().push(container);
    }

    /// Everything on this node that a plugin may touch, as text.
    pub fn state(&self) -> State {
        State::of_host()
    }

    /// A call as a runtime makes it, to be changed before it is run.
    pub fn request(&self, command: &str, conf: &Value) -> Request {
        Request::new(command, conf)
    }

    /// A call for one container.
    pub fn request_for(&self, command: &str, conf: &Value, container: &Container) -> Request {
        self.request(command, conf)
            .env("CNI_CONTAINERID", &container.id)
            .env("CNI_NETNS", &container.path)
            .env("CNI_IFNAME", &container.interface)
    }

    /// ADD.
    pub fn add(&self, conf: &Value, container: &Container) -> Answer {
        self.request_for("ADD", conf, container).run()
    }

    /// DEL.
    pub fn del(&self, conf: &Value, container: &Container) -> Answer {
        self.request_for("DEL", conf, container).run()
    }

    /// CHECK, with the result of the ADD.
    pub fn check(&self, conf: &Value, container: &Container, result: &Value) -> Answer {
        let conf = crate::conf::with(conf, &serde_json::json!({ "prevResult": result }));
        self.request_for("CHECK", &conf, container).run()
    }

    /// GC. `valid` are the attachments that still exist.
    pub fn gc(&self, conf: &Value, valid: &[&Container]) -> Answer {
        let valid: Vec<Value> = valid
            .iter()
            .map(|pod| serde_json::json!({ "containerID": pod.id, "ifname": pod.interface }))
            .collect();
        let valid = serde_json::json!({ "cni.dev/valid-attachments": valid });
        self.request("GC", &crate::conf::with(conf, &valid)).run()
    }

    /// STATUS.
    pub fn status(&self, conf: &Value) -> Answer {
        self.request("STATUS", conf).run()
    }

    /// Makes a container and gives it its network.
    pub fn pod(&self, conf: &Value) -> (Container, Value) {
        let container = self.container();
        let result = self.add(conf, &container).result();
        (container, result)
    }
}

/// State of our own where plugins keep theirs, and a view of our links in /sys.
fn private_mounts() {
    let none = None::<&str>;
    mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .expect("cannot make the mounts private");
    tmpfs("/run");
    if Path::new("/var/lib/cni").is_dir() {
        tmpfs("/var/lib/cni");
    } else {
        tmpfs_with_the_same_entries(Path::new("/var/lib"));
        fs::create_dir_all("/var/lib/cni").unwrap();
    }
    // Not allowed where parts of the old one are covered, as in some containers.
    mount::mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).ok();
}

fn tmpfs(target: &str) {
    mount::mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .unwrap_or_else(|error| panic!("cannot mount a tmpfs on {target}: {error}"));
}

/// A directory that can be written to although the machine's own is not touched.
fn tmpfs_with_the_same_entries(dir: &Path) {
    let entries: Vec<(OsString, PathBuf)> = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.file_name(), entry.path()))
        .collect();
    let aside = Path::new("/run/aside");
    fs::create_dir(aside).unwrap();
    let none = None::<&str>;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount::mount(Some(dir), aside, none, bind, none).unwrap();
    tmpfs(&dir.to_string_lossy());
    for (name, target) in entries {
        fs::create_dir(&target).unwrap();
        mount::mount(Some(&aside.join(name)), &target, none, bind, none).unwrap();
    }
    mount::umount2(aside, mount::MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir(aside).unwrap();
}

#[test]
fn a_test_is_named_as_cargo_names_it() {
    let closure = "e2e::add::ours::a_taken_name::{{closure}}";
    assert_eq!(test_name(Some("main"), closure), "add::ours::a_taken_name");
    assert_eq!(test_name(Some("del::x"), closure), "del::x");
}
