//! Stores with so many leases in them, of cni-ipam and of host-local, and what is done to
//! them.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use cni_ipam::{Config, Maker};
use cni_protocol::{Args, Attachment, NetworkConfig};
use nix::unistd::syncfs;
use serde_json::{Value, json};

use crate::{Outcome, call::run};

/// Room for all leases, and for those that come and go.
const SUBNET: &str = "10.64.0.0/16";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// The store of one network, and the plugin that is called for it.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) plugin: &'static str,
    pub(super) leases: usize,
    executable: PathBuf,
    config: Value,
    dir: PathBuf,
    /// The container of the last ADD.
    last: usize,
}

/// A store of cni-ipam, used by this process itself.
#[derive(Debug)]
pub(super) struct InProcess {
    pub(super) leases: usize,
    network: NetworkConfig,
    config: Config,
    /// The container of the last lease.
    last: usize,
}

fn container_id(number: usize) -> String {
    format!("{number:064x}")
}

/// Each number of leases has a network, and so a store, of its own.
fn network_name(leases: usize) -> String {
    format!("pods-{leases}")
}

fn config(plugin: &str, place: &Path, leases: usize) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": network_name(leases), "type": "cni-bridge",
        "ipam": { "type": plugin, "subnet": SUBNET, "dataDir": place.join(plugin),
                  "importFrom": "none" }
    })
}

impl Filled {
    /// `plugin`: also the name of the directory of its stores.
    pub(super) fn new(plugin: &'static str, from: &Path, place: &Path, leases: usize) -> Self {
        Self {
            plugin,
            leases,
            executable: from.join(plugin),
            config: config(plugin, place, leases),
            dir: place.join(plugin).join(network_name(leases)),
            // Others than those that are there, and than those leased by this process.
            last: 2_000_000,
        }
    }

    /// The files of host-local, as it would have left them.
    pub(super) fn fill_as_host_local(&self) -> Outcome {
        fs::create_dir_all(&self.dir)?;
        let mut last = GATEWAY;
        for number in 0..self.leases {
            last = Ipv4Addr::from_bits(last.to_bits() + 1);
            let record = format!("{}\r\neth0", container_id(number));
            fs::write(self.dir.join(last.to_string()), record)?;
        }
        fs::write(self.dir.join("last_reserved_ip.0"), last.to_string())?;
        Ok(())
    }

    /// ADD and DEL of one more container, as a main plugin calls its IPAM plugin.
    pub(super) fn add_and_del(&mut self) -> Outcome<[Duration; 2]> {
        self.last += 1;
        let id = container_id(self.last);
        Ok([self.call("ADD", &id)?, self.call("DEL", &id)?])
    }

    fn call(&self, command: &str, id: &str) -> Outcome<Duration> {
        let mut plugin = Command::new(&self.executable);
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", "/run/netns/pod")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/");
        let what = format!("{}: {command} at {} leases", self.plugin, self.leases);
        let call = run(&what, &mut plugin, &serde_json::to_vec(&self.config)?)?;
        Ok(call.successful()?.wall())
    }
}

impl InProcess {
    pub(super) fn new(place: &Path, leases: usize) -> Outcome<Self> {
        let config = config("cni-ipam", place, leases);
        let network = NetworkConfig::parse(serde_json::to_vec(&config)?)?;
        let config = Config::parse(&network, &Args::default())?;
        Ok(Self {
            leases,
            network,
            config,
            last: 1_000_000,
        })
    }

    pub(super) fn fill(&self) -> Outcome {
        for number in 0..self.leases {
            self.lease(&self.attachment(number)?)?;
        }
        Ok(())
    }

    /// Times of a lease and of its release, with what opens, locks and closes the store.
    pub(super) fn lease_and_release(&mut self) -> Outcome<[Duration; 2]> {
        self.last += 1;
        let attachment = self.attachment(self.last)?;
        let started = Instant::now();
        self.lease(&attachment)?;
        let leased = Instant::now();
        cni_ipam::release(self.config.data_dir(), &attachment)?;
        Ok([leased - started, leased.elapsed()])
    }

    fn lease(&self, attachment: &Attachment) -> Outcome {
        cni_ipam::lease(&self.config, attachment, Maker::Other, None)?;
        Ok(())
    }

    fn attachment(&self, number: usize) -> Outcome<Attachment> {
        Ok(Attachment {
            network: self.network.name().clone(),
            container_id: container_id(number).parse()?,
            interface: "eth0".parse()?,
        })
    }
}

/// The stores of ours of one place in another: many times faster than so many leases, each
/// of which is synced on a disk.
pub(super) fn copy(from: &Path, to: &Path) -> Outcome {
    for network in fs::read_dir(from.join("cni-ipam"))? {
        let network = network?;
        let copied = to.join("cni-ipam").join(network.file_name());
        fs::create_dir_all(&copied)?;
        for file in fs::read_dir(network.path())? {
            let file = file?;
            fs::copy(file.path(), copied.join(file.file_name()))?;
        }
    }
    settle(to)
}

/// Nothing is left to be written that somebody else would have to wait for.
pub(super) fn settle(place: &Path) -> Outcome {
    Ok(syncfs(File::open(place)?)?)
}
