//! For unit tests: a node with a store in a directory of its own, and links that are said.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind},
    net::IpAddr,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Mutex,
    time::Duration,
};

use cni_protocol::{Args, Attachment, InterfaceName, NetworkConfig, NetworkName};
use tempfile::TempDir;

use crate::{
    alias::Alias,
    allocate::BlockId,
    config::{Config, DataDir},
    error::Error,
    lease::{Leased, Maker, Wish, lease_in, owner_of},
    names,
    release::release_in,
    store::{
        Host, Store, block,
        boot::Boot,
        line::{LINE, Line},
        snapshot::Snapshot,
    },
};

pub(crate) const NETNS: u64 = 4_026_531_840;

/// Links as a test says they are.
#[derive(Default)]
pub(crate) struct Links {
    pub(crate) there: Mutex<BTreeMap<String, Option<Alias>>>,
    /// Called before each look for a link.
    pub(crate) on_look: Mutex<Option<Box<dyn FnMut() + Send>>>,
    pub(crate) broken: Mutex<bool>,
}

impl Host for Links {
    fn aliases(&self) -> io::Result<Vec<(String, Alias)>> {
        let links = self.there.lock().unwrap();
        let aliases = links
            .iter()
            .filter_map(|(n, a)| Some((n.clone(), a.clone()?)));
        Ok(aliases.collect())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.there.lock().unwrap().keys().cloned().collect())
    }

    fn exists(&self, link: &InterfaceName) -> io::Result<bool> {
        if let Some(look) = self.on_look.lock().unwrap().as_mut() {
            look();
        }
        if *self.broken.lock().unwrap() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(self.there.lock().unwrap().contains_key(link.as_str()))
    }

    fn netns(&self) -> io::Result<u64> {
        Ok(NETNS)
    }
}

/// A node with one network, `cbr0`.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) network: NetworkName,
    pub(crate) links: Links,
    pub(crate) boot: Boot,
    pub(crate) config: Config,
}

impl Node {
    /// A node whose `ipam` section is this text without its braces.
    pub(crate) fn new(ipam: &str) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        Self {
            config: config(ipam, &dir.path().join("data")),
            dir,
            network: "cbr0".parse().unwrap(),
            links: Links::default(),
            boot: Boot::parse("0a1b2c3d").unwrap(),
        }
    }

    /// Another configuration for the same node.
    pub(crate) fn configure(&mut self, ipam: &str) {
        self.config = config(ipam, &self.dir.path().join("data"));
    }

    pub(crate) fn store(&self) -> Store<'_> {
        Store {
            path: self.path(),
            network: &self.network,
            boot: self.boot,
            patience: Duration::from_secs(5),
            host: &self.links,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("data/cbr0")
    }

    pub(crate) fn data_dir(&self) -> DataDir {
        self.config.data_dir().clone()
    }

    pub(crate) fn lease(&self, id: &str) -> Result<Leased, Error> {
        self.lease_by(id, Maker::Bridge { host_netns: NETNS })
    }

    pub(crate) fn lease_by(&self, id: &str, maker: Maker) -> Result<Leased, Error> {
        let attachment = attachment(id);
        let wish = Wish {
            config: &self.config,
            attachment: &attachment,
            owner: owner_of(&attachment),
            maker,
            pod: Some("default/web-0"),
        };
        lease_in(&self.store(), &wish)
    }

    /// The addresses of a new lease, as text.
    pub(crate) fn add(&self, id: &str) -> String {
        texts(&self.lease(id).unwrap())
    }

    /// A lease with the link that cni-bridge would make.
    pub(crate) fn add_pod(&self, id: &str) -> String {
        let leased = self.lease(id).unwrap();
        let addresses = leased.leases.iter().map(|lease| lease.address.addr());
        let alias = Alias::new(&attachment(id), addresses.collect(), None);
        let name = names::host_link(&attachment(id)).to_string();
        self.links.there.lock().unwrap().insert(name, Some(alias));
        texts(&leased)
    }

    pub(crate) fn remove_link(&self, id: &str) {
        let name = names::host_link(&attachment(id)).to_string();
        self.links.there.lock().unwrap().remove(&name);
    }

    pub(crate) fn del(&self, id: &str) {
        self.try_del(id).unwrap();
    }

    pub(crate) fn try_del(&self, id: &str) -> Result<(), Error> {
        release_in(&self.store(), &self.data_dir(), &attachment(id))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::read(&self.path(), self.boot).unwrap().unwrap()
    }

    /// Who has what: `10.64.1.2 c1 eth0`.
    pub(crate) fn taken(&self) -> Vec<String> {
        let show = |line: &Line| {
            let owner = line.owner.as_ref().unwrap();
            format!("{} {} {}", line.address, owner.key, owner.interface)
        };
        match Snapshot::read(&self.path(), self.boot).unwrap() {
            Some(snapshot) => snapshot.taken().map(show).collect(),
            None => Vec::new(),
        }
    }

    /// How many addresses are in quarantine.
    pub(crate) fn lost(&self) -> usize {
        self.snapshot().lost().count()
    }

    pub(crate) fn file(&self, name: &str) -> File {
        let path = self.path().join(name);
        File::options().read(true).write(true).open(path).unwrap()
    }

    /// Changes one byte of the line of an address.
    pub(crate) fn damage(&self, address: &str, byte: usize) {
        let address: IpAddr = address.parse().unwrap();
        let file = self.file(&block::file_name(BlockId::of(address)));
        let slot = u64::from(crate::allocate::slot_of(address));
        let at = slot * LINE as u64 + byte as u64;
        let mut old = [0];
        file.read_exact_at(&mut old, at).unwrap();
        file.write_all_at(&[old[0] ^ 0x01], at).unwrap();
    }

    /// Makes all leases older than they are.
    pub(crate) fn age(&self, seconds: u64) {
        for line in self.snapshot().taken() {
            let file = self.file(&block::file_name(BlockId::of(line.address)));
            let slot = u64::from(crate::allocate::slot_of(line.address));
            let older = Line {
                time: line.time - seconds,
                ..line.clone()
            };
            file.write_all_at(&older.to_bytes(), slot * LINE as u64)
                .unwrap();
        }
    }

    pub(crate) fn remove_store(&self) {
        fs::remove_dir_all(self.path()).unwrap();
    }
}

pub(crate) fn config(ipam: &str, data_dir: &std::path::Path) -> Config {
    parse_config(&format!(
        r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"x","ipam":{{"type":"cni-ipam","importFrom":"none","dataDir":{data_dir:?},{ipam}}}}}"#
    ))
}

pub(crate) fn parse_config(text: &str) -> Config {
    let network = NetworkConfig::parse(text.as_bytes().to_vec()).unwrap();
    Config::parse(&network, &Args::default()).unwrap()
}

pub(crate) fn attachment(id: &str) -> Attachment {
    Attachment {
        network: "cbr0".parse().unwrap(),
        container_id: id.parse().unwrap(),
        interface: "eth0".parse().unwrap(),
    }
}

pub(crate) fn texts(leased: &Leased) -> String {
    crate::lease::texts(leased.leases.iter().map(|lease| lease.address.addr()))
}
