//! Stores with so many leases in them, of cni-ipam and of host-local, and what is done to
//! them.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use cni_ipam::{Config, FromHostLocal, Maker};
use cni_protocol::{Args, Attachment, NetworkConfig};
use nix::unistd::syncfs;
use serde_json::{Value, json};

use crate::{
    Outcome,
    call::{Call, run},
};

/// Room for all leases, and for those that come and go.
const SUBNET: &str = "10.64.0.0/16";
/// What comes before the first address that is given: those of the network and the gateway.
const FIRST: u32 = 0x0a40_0002;

/// The directories of the stores of a contender, one for each number of leases, all in one.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) executable: PathBuf,
}

/// The store of one network.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) leases: usize,
    config: Value,
    dir: PathBuf,
    /// The next container.
    next: usize,
}

/// A store of ours, called in this process.
#[derive(Debug)]
pub(super) struct InProcess {
    pub(super) leases: usize,
    network: NetworkConfig,
    config: Config,
    next: usize,
}

fn container_id(number: usize) -> String {
    format!("{number:064x}")
}

fn network_name(leases: usize) -> String {
    format!("pods-{leases}")
}

impl Filled {
    /// `ipam`: the type of the plugin, which is the name of its directory too.
    pub(super) fn new(ipam: &str, place: &Path, leases: usize) -> Self {
        let dir = place.join(ipam);
        let config = json!({
            "cniVersion": "1.0.0", "name": network_name(leases), "type": "cni-bridge",
            "ipam": { "type": ipam, "subnet": SUBNET, "dataDir": dir }
        });
        Self {
            leases,
            config,
            dir: dir.join(network_name(leases)),
            // Others than those that are there, and than those leased in this process.
            next: 2_000_000,
        }
    }

    /// The files of host-local, as it would have left them.
    pub(super) fn fill_as_host_local(&self) -> Outcome {
        fs::create_dir_all(&self.dir)?;
        let mut last = Ipv4Addr::from_bits(FIRST - 1);
        for number in 0..u32::try_from(self.leases)? {
            last = Ipv4Addr::from_bits(FIRST + number);
            let id = container_id(usize::try_from(number)?);
            fs::write(self.dir.join(last.to_string()), format!("{id}\r\neth0"))?;
        }
        Ok(fs::write(
            self.dir.join("last_reserved_ip.0"),
            last.to_string(),
        )?)
    }

    /// The container whose ADD and DEL come next.
    pub(super) fn next_container(&mut self) -> String {
        self.next += 1;
        container_id(self.next)
    }

    /// As a main plugin calls its IPAM plugin.
    pub(super) fn call(&self, by: &Contender, command: &str, id: &str) -> Outcome<Call> {
        let mut plugin = Command::new(&by.executable);
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", "/run/netns/pod")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/");
        let what = format!("{}: {command} at {} leases", by.name, self.leases);
        run(&what, &mut plugin, &serde_json::to_vec(&self.config)?)?.successful()
    }
}

impl InProcess {
    pub(super) fn new(place: &Path, leases: usize) -> Outcome<Self> {
        let filled = Filled::new("cni-ipam", place, leases);
        let network = NetworkConfig::parse(serde_json::to_vec(&filled.config)?)?;
        let config = Config::parse(&network, &Args::default())?;
        Ok(Self {
            leases,
            network,
            config,
            next: 1_000_000,
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
        self.next += 1;
        let attachment = self.attachment(self.next)?;
        let started = Instant::now();
        self.lease(&attachment)?;
        let leased = Instant::now();
        cni_ipam::release(
            self.config.data_dir(),
            &attachment,
            FromHostLocal::Release,
        )?;
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
