//! Where it is measured: for each contender a network namespace that is its "host", and
//! pods' network namespaces, all made by this process and gone with it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use serde_json::{Value, json};

use crate::Outcome;

const DIR: &str = "/run/bench";
/// Room for all pods; within 10.0.0.0/8, as a node's pod CIDR.
const SUBNET: &str = "10.64.0.0/22";

/// One contender and its host.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) plugin: PathBuf,
    /// `CNI_PATH`.
    pub(crate) plugins: PathBuf,
    pub(crate) config: Value,
    /// The program that does nothing.
    pub(crate) empty: PathBuf,
    host: File,
    /// Pods that stay while others come and go.
    residents: Vec<Pod>,
}

/// A pod without a container: its network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) netns: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) sides: Vec<Side>,
    /// Pods to add and delete; the sides use them one after the other.
    pub(crate) spare: Vec<Pod>,
}

impl Stage {
    /// `spare`: how many pods come and go at the same time.
    pub(crate) fn new(ours: &Path, go: &Path, spare: usize) -> Outcome<Self> {
        fs::create_dir_all(DIR)?;
        let empty = ours.join("empty");
        let side = |name, plugin: PathBuf, plugins: &Path, config| -> Outcome<Side> {
            Ok(Side {
                name,
                plugin,
                plugins: plugins.to_owned(),
                config,
                empty: empty.clone(),
                host: make_host(name)?,
                residents: Vec::new(),
            })
        };
        let sides = vec![
            side("cni-bridge", ours.join("cni-bridge"), ours, our_config())?,
            side(
                "Go + iptables",
                go.join("bridge"),
                go,
                go_config("iptables"),
            )?,
            side(
                "Go + nftables",
                go.join("bridge"),
                go,
                go_config("nftables"),
            )?,
        ];
        let spare = (0..spare).map(|n| Pod::new(&format!("spare-{n}")));
        Ok(Self {
            sides,
            spare: spare.collect::<Outcome<_>>()?,
        })
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.sides.iter().map(|side| side.name).collect()
    }

    /// Adds pods that stay, until each side has so many.
    pub(crate) fn fill(&mut self, level: usize) -> Outcome {
        for (index, side) in self.sides.iter_mut().enumerate() {
            for number in side.residents.len()..level {
                side.residents
                    .push(Pod::new(&format!("resident-{index}-{number}"))?);
                let pod = side.residents.last().ok_or("no pod")?;
                side.inside(|| side.add(pod)?.successful().map(drop))??;
            }
        }
        // A first call of anything reads files that later ones find in memory.
        let pod = self.spare.first().ok_or("no pod")?;
        for side in &self.sides {
            side.inside(|| {
                let add = side.add(pod)?.successful()?;
                side.del(pod, &add.stdout)?.successful().map(drop)
            })??;
        }
        Ok(())
    }
}

impl Side {
    /// Runs something in the host's network namespace: what it starts inherits that.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Outcome<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            worker.join().map_err(|_panic| "a worker panicked")?
        })
    }

    /// Puts the calling thread into the host's network namespace, for good.
    #[expect(clippy::disallowed_methods, reason = "a thread made for that")]
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.host, CloneFlags::CLONE_NEWNET)?)
    }
}

impl Pod {
    fn new(id: &str) -> Outcome<Self> {
        let netns = Path::new(DIR).join(id);
        make_netns(&netns)?;
        Ok(Self {
            id: id.to_owned(),
            netns,
        })
    }
}

fn our_config() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "cbr0", "type": "cni-bridge",
            "ipam": { "type": "cni-ipam", "subnet": SUBNET } })
}

/// The same job as ours by default.
fn go_config(backend: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": format!("go-{backend}"), "type": "bridge",
            "bridge": "cbr0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
            "ipMasq": true, "ipMasqBackend": backend,
            "ipam": { "type": "host-local", "subnet": SUBNET, "dataDir": format!("{DIR}/host-local") } })
}

/// Makes a network namespace that lives as long as the mount at `path`.
#[expect(clippy::disallowed_methods, reason = "the thread ends with it")]
fn make_netns(path: &Path) -> Outcome {
    File::create(path)?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Outcome {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            Ok(mount(
                Some(own),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?)
        });
        worker.join().map_err(|_panic| "a worker panicked")?
    })
}

/// A host as nodes are: with an uplink and a default route.
fn make_host(name: &str) -> Outcome<File> {
    let path = PathBuf::from(format!("{DIR}/host-{}", name.replace(' ', "")));
    make_netns(&path)?;
    let steps = [
        "link set lo up",
        "link add eth0 type veth peer name uplink",
        "address add 10.0.0.11/24 dev eth0",
        "link set uplink up",
        "link set eth0 up",
        "route add default via 10.0.0.1",
    ];
    for step in steps {
        let netns = format!("--net={}", path.display());
        let status = Command::new("nsenter")
            .args([&netns, "--", "ip"])
            .args(step.split(' '))
            .status()?;
        if !status.success() {
            return Err(format!("cannot make the host of {name}: ip {step}").into());
        }
    }
    Ok(File::open(&path)?)
}
