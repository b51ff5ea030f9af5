//! The plugins come onto a node that is in use, are replaced, and go again, while pods start
//! and stop. No pod fails, and nobody ever sees half a file.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use harness::{Containerd, Host, Installer, Node, State, node, on_host, sh, tool};
use serde_json::{Value, json};

for_each_containerd!(installed_replaced_and_removed_under_load);

const CALLERS: usize = 3;
/// So many pods have to come and go in each part.
const PODS: usize = 9;
const REPLACEMENTS: usize = 10;

const OURS: &str = "10.64.1.";
const THEIRS: &str = "10.88.";

/// The network that containerd's own script installs (`install-cni`), IPv4.
fn default_network() -> String {
    json!({
        "cniVersion": "1.0.0", "name": "containerd-net",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
            "ipam": {
                "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
    .to_string()
}

fn installed_replaced_and_removed_under_load(which: Containerd) {
    on_host(|host| {
        let Some(mut node) = Node::prepared(host, which, Path::new("/run/disk")) else {
            return;
        };
        sh("rm /opt/cni/bin/*");
        for plugin in ["bridge", "host-local", "loopback"] {
            node::install(&tool(plugin));
        }
        let theirs = "/etc/cni/net.d/10-containerd-net.conflist";
        fs::write(theirs, default_network()).expect("a file");
        node.start();
        let before = of_ours(host);
        let versions = two_versions();
        let done = AtomicBool::new(false);
        let load = Load::default();
        thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    scope.spawn({
                        let (node, load, done) = (&node, &load, &done);
                        move || load.run(node, caller, done)
                    })
                })
                .collect();
            let watcher = scope.spawn(|| watch(&versions, &done));
            let outcome = panic_safe(|| {
                operator(&load, &versions);
            });
            done.store(true, Ordering::Relaxed);
            for caller in callers {
                caller.join().expect("every pod starts and stops");
            }
            let looks = watcher.join().expect("every file is whole");
            outcome.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
            println!(
                "{which:?}: {} pods, {looks} looks at all files",
                load.pods()
            );
        });
        of_ours(host).assert_same(&before);
    });
}

/// What the operator does, part by part; in each, pods come and go.
fn operator(load: &Load, versions: &[String; 2]) {
    let installer = Installer::of_the_node();
    load.wait_for(THEIRS, "pods of the network that was there");
    let said = installer.run(&["--from", &versions[0], "--pod-cidr", "10.64.1.0/24"]);
    assert!(said.contains("is not used any more"), "{said}");
    load.wait_for(OURS, "pods of the new network");
    for number in 1..=REPLACEMENTS {
        let from = &versions[number % 2];
        let said = installer.run(&["--from", from, "--pod-cidr", "10.64.1.0/24"]);
        assert!(said.contains("installed /opt/cni/bin/cni-bridge"), "{said}");
    }
    load.wait_for(OURS, "pods after the replacements");

    // Back: their network is the first by name, then ours has no pods, then it goes.
    let said = installer.call(&["--uninstall"]);
    assert!(
        said.status == 1 && said.text.contains("drain the node"),
        "{said:?}"
    );
    sh("cd /etc/cni/net.d; mv 10-containerd-net.conflist 05-containerd-net.conflist");
    load.wait_for(THEIRS, "pods of the network that is back");
    node::wait_for("the removal", || {
        let said = installer.call(&["--uninstall"]);
        (said.status == 0).then_some(())
    });
    load.wait_for(THEIRS, "pods after the removal");
    sh("cd /etc/cni/net.d; mv 05-containerd-net.conflist 10-containerd-net.conflist");
    load.wait_for(THEIRS, "pods at the end");
}

fn panic_safe<T>(work: impl FnOnce() -> T) -> thread::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
}

/// What must not be there after the removal. Of a pod that began in one network and ended in
/// another, whose DEL never came to us, two things stay: what libcni noted, for which nobody
/// asks again, and its lease. That one may be of an ADD under way until it is a minute old; it
/// ends with the boot, or when the store repairs itself.
fn of_ours(host: &Host) -> State {
    let remembered = ["lease /var/lib/cni/results/", "lease /run/cni-ipam/"];
    let state = host.state().without(&remembered);
    let ours = |line: &&str| {
        ["cbr0", "cni-bridge"]
            .iter()
            .any(|word| line.contains(word))
    };
    let mut lines: Vec<String> = state
        .text()
        .lines()
        .filter(ours)
        .map(str::to_owned)
        .collect();
    lines.extend(Installer::of_the_node().files());
    State::from_text(&lines.join("\n"))
}

/// Two directories with executables that work the same and differ.
fn two_versions() -> [String; 2] {
    let built = Installer::path();
    let built = built.parent().expect("a directory").display().to_string();
    ["/run/one", "/run/two"].map(|dir| {
        sh(&format!(
            "mkdir {dir}; for name in cni-bridge cni-ipam; do
                 strip -o {dir}/$name {built}/$name; echo {dir} >>{dir}/$name
             done"
        ));
        dir.to_owned()
    })
}

/// Looks at every file that a runtime could use, again and again. Returns how often.
fn watch(versions: &[String; 2], done: &AtomicBool) -> usize {
    let whole = |name: &str| {
        versions
            .each_ref()
            .map(|dir| fs::read(format!("{dir}/{name}")).expect("a file"))
    };
    let executables =
        ["cni-bridge", "cni-ipam"].map(|name| (format!("/opt/cni/bin/{name}"), whole(name)));
    let mut looks = 0;
    while !done.load(Ordering::Relaxed) {
        for (path, versions) in &executables {
            if let Ok(found) = fs::read(path) {
                assert!(
                    versions.contains(&found),
                    "{path} is torn: {} bytes",
                    found.len()
                );
            }
        }
        for entry in fs::read_dir("/etc/cni/net.d")
            .expect("a directory")
            .flatten()
        {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "conflist")
                && let Ok(text) = fs::read_to_string(&path)
            {
                let list: Result<Value, _> = serde_json::from_str(&text);
                assert!(list.is_ok_and(|list| list["plugins"].is_array()), "{text}");
            }
        }
        looks += 1;
    }
    looks
}

/// Pods that come and go.
#[derive(Debug, Default)]
struct Load {
    /// The addresses of all so far.
    addresses: Mutex<Vec<String>>,
    started: AtomicUsize,
}

impl Load {
    fn run(&self, node: &Node, caller: usize, done: &AtomicBool) {
        let cri = node.cri();
        while !done.load(Ordering::Relaxed) {
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            let pod = node.pod(&cri, &format!("pod{number}-of-{caller}"));
            let address = pod.address(&cri);
            pod.remove(&cri);
            self.addresses
                .lock()
                .expect("no caller failed")
                .push(address);
        }
    }

    fn pods(&self) -> usize {
        self.addresses.lock().expect("no caller failed").len()
    }

    /// Waits until so many more have come and gone, the last of them in this network.
    fn wait_for(&self, network: &str, what: &str) {
        let from = self.pods();
        node::wait_for(what, || {
            let addresses = self.addresses.lock().expect("no caller failed");
            let new = addresses.get(from..).unwrap_or_default();
            let last: BTreeSet<&String> = new.iter().rev().take(CALLERS).collect();
            let all = last.iter().all(|address| address.starts_with(network));
            (new.len() >= PODS && all).then_some(())
        });
    }
}
