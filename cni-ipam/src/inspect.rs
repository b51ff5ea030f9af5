//! What an operator sees of a store. Reads without the lock and changes nothing, so that it
//! works while a process that holds the lock is stopped.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, fs,
    io::{self, ErrorKind},
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use cni_protocol::NetworkName;
use ipnet::IpNet;

use crate::{
    address::Interval,
    alias::Alias,
    allocate::{BlockId, Occupancy, TAKEN},
    cause::Cause,
    config::DataDir,
    error::Error,
    reclaim,
    store::{
        Here, Store,
        block::{self, Reading},
        boot::now,
        dir::Dir,
        index::{Index, Opened},
        line::{Line, Made, State},
        snapshot::Snapshot,
    },
};

/// How long a DEL may need between its link and its lease.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// One network's store at this moment.
#[derive(Clone, Debug)]
pub struct View {
    pub network: NetworkName,
    /// The directory of the store.
    pub directory: PathBuf,
    /// In the order of their addresses.
    pub records: Vec<Record>,
    pub pools: Vec<Pool>,
}

/// What the store says of an address that was given at some time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    pub address: IpAddr,
    pub state: Occupation,
    /// The container id, or what stands for a very long one.
    pub container: Option<String>,
    pub interface: Option<String>,
    /// `namespace/name`, or the beginning of it.
    pub pod: Option<String>,
    /// When it was leased, in seconds since 1970.
    pub since: u64,
    /// Which plugin leased it.
    pub made_by: &'static str,
    /// Its host link, where one follows from the owner.
    pub link: Option<String>,
    /// `None`: not to be known from here.
    pub link_is_present: Option<bool>,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Occupation {
    Used,
    /// Used, and somebody is finding out whether its owner still lives.
    Condemned,
    /// Nobody's. The record tells the last owner.
    Free,
    /// The record is damaged, so that nobody knows.
    Quarantined,
}

/// What is configured, as of the last ADD, and what is left of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Which address of an attachment comes from here: the first, the second, ...
    pub set: usize,
    pub subnet: IpNet,
    /// The parts from which addresses are given.
    pub parts: Vec<(IpAddr, IpAddr)>,
    pub total: u128,
    pub used: u128,
    pub quarantined: u128,
}

impl Pool {
    pub fn free(&self) -> u128 {
        self.total.saturating_sub(self.used + self.quarantined)
    }

    fn intervals(&self) -> impl Iterator<Item = Interval> {
        let parts = self.parts.iter();
        parts.filter_map(|(first, last)| Interval::new(*first, *last))
    }

    /// Whether an address may be given from this pool.
    pub fn gives(&self, address: IpAddr) -> bool {
        self.intervals().any(|part| part.contains(address))
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Problem {
    /// The record of an address is not readable.
    Quarantined(IpAddr),
    /// A file is shorter than it was made.
    Short { file: String, missing: usize },
    /// A lease of cni-bridge, older than an ADD takes, has no link.
    Abandoned { address: IpAddr, container: String },
    /// A pod has an address that the store does not know to be its.
    Unrecorded {
        address: IpAddr,
        link: String,
        container: String,
    },
    /// The index contradicts a record. It is built anew by the first who stumbles on it.
    Index(IpAddr),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quarantined(address) => write!(
                f,
                "{address}: its record is damaged, it is not given until that is repaired"
            ),
            Self::Short { file, missing } => {
                write!(f, "{file}: the last {missing} bytes are missing")
            }
            Self::Abandoned { address, container } => {
                write!(f, "{address}: container {container} has it, but no link")
            }
            Self::Unrecorded {
                address,
                link,
                container,
            } => write!(
                f,
                "{address}: link {link} of container {container} has it, but no lease"
            ),
            Self::Index(address) => {
                write!(f, "{address}: the index does not agree with the record")
            }
        }
    }
}

/// The networks that have a store.
pub fn networks(data_dir: &Path) -> Result<Vec<NetworkName>, Error> {
    let failed = |error| Error::io("read", data_dir, error);
    let entries = match fs::read_dir(data_dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut networks = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if !entry.file_type().map_err(failed)?.is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().ok();
        networks.extend(name.and_then(|name| NetworkName::try_from(name).ok()));
    }
    networks.sort_unstable();
    Ok(networks)
}

/// Everything about a network. `None` when it has no store.
pub fn view(data_dir: &DataDir, network: &NetworkName) -> Result<Option<View>, Error> {
    let store = Store::new(data_dir, network, &Here)?;
    let snapshot = read(&store)?;
    let links = Links::ask(&store)?;
    Ok(snapshot.map(|snapshot| {
        let records: Vec<Record> = snapshot
            .lines()
            .filter_map(|(address, reading)| record(address, reading, &store, &links))
            .collect();
        View {
            network: network.clone(),
            pools: pools(&store.path, &records),
            directory: store.path.clone(),
            records,
        }
    }))
}

/// The leases whose pod lives, or may live: all that are taken, but for those whose link is
/// known to be gone.
pub fn in_use(data_dir: &DataDir, network: &NetworkName) -> Result<Vec<Record>, Error> {
    let records = view(data_dir, network)?.map_or_else(Vec::new, |view| view.records);
    let is_used = |record: &Record| {
        matches!(record.state, Occupation::Used | Occupation::Condemned)
            && record.link_is_present != Some(false)
    };
    Ok(records.into_iter().filter(is_used).collect())
}

fn read(store: &Store<'_>) -> Result<Option<Snapshot>, Error> {
    Snapshot::read(&store.path, store.boot).map_err(|error| store.failed("read", error))
}

/// The links of the namespace that the operator is in.
struct Links {
    names: HashSet<String>,
    aliases: Vec<(String, Alias)>,
    netns: u64,
}

impl Links {
    fn ask(store: &Store<'_>) -> Result<Self, Error> {
        let ask = || -> io::Result<Self> {
            Ok(Self {
                names: store.host.names()?.into_iter().collect(),
                aliases: store.host.aliases()?,
                netns: store.host.netns()?,
            })
        };
        ask().map_err(|error| Error::Links(Cause::from(error)))
    }
}

/// `None` for an address that was never given.
fn record(address: IpAddr, reading: &Reading, store: &Store<'_>, links: &Links) -> Option<Record> {
    let quarantined = Record {
        address,
        state: Occupation::Quarantined,
        container: None,
        interface: None,
        pod: None,
        since: 0,
        made_by: "-",
        link: None,
        link_is_present: None,
    };
    let line = match reading {
        Reading::Line(line) if !line.is_quarantined(store.boot) => line,
        Reading::Line(_) | Reading::Damaged => return Some(quarantined),
    };
    let owner = line.owner.as_ref()?;
    let host_link = reclaim::link_of(line, store.network.as_str())
        .filter(|_| line.made == Made::ByBridge)
        .map(|name| name.to_string());
    let is_present = host_link.as_ref().map(|name| links.names.contains(name));
    Some(Record {
        state: match line.state {
            State::Active if line.is_taken(store.boot) => Occupation::Used,
            State::Condemned if line.is_taken(store.boot) => Occupation::Condemned,
            _ => Occupation::Free,
        },
        container: Some(owner.key.clone()),
        interface: Some(owner.interface.clone()),
        pod: line.pod.clone(),
        since: line.time,
        made_by: match line.made {
            Made::ByBridge => "cni-bridge",
            Made::ByOther => "other",
            Made::ByImport => "host-local",
            Made::Never => "-",
        },
        link: host_link,
        link_is_present: is_present.filter(|_| reclaim::can_be_proved(line, links.netns)),
        ..quarantined
    })
}

/// Reads what the last ADD wrote about its configuration; what is not readable is left out.
pub(crate) fn pools(directory: &Path, records: &[Record]) -> Vec<Pool> {
    let text = fs::read_to_string(directory.join("pools")).unwrap_or_default();
    let mut pools: BTreeMap<(usize, IpNet), Pool> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [set, subnet, first, last] = words.as_slice() else {
            continue;
        };
        let (Ok(set), Ok(subnet)) = (set.parse(), subnet.parse::<IpNet>()) else {
            continue;
        };
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else {
            continue;
        };
        let pool = pools.entry((set, subnet)).or_insert_with(|| Pool {
            set,
            subnet,
            parts: Vec::new(),
            total: 0,
            used: 0,
            quarantined: 0,
        });
        pool.total += Interval::new(first, last).map_or(0, |part| part.len());
        pool.parts.push((first, last));
    }
    let mut pools: Vec<Pool> = pools.into_values().collect();
    for record in records {
        let Some(pool) = pools.iter_mut().find(|pool| pool.gives(record.address)) else {
            continue;
        };
        match record.state {
            Occupation::Used | Occupation::Condemned => pool.used += 1,
            Occupation::Quarantined => pool.quarantined += 1,
            Occupation::Free => {}
        }
    }
    pools
}

/// Compares the files with each other and with the kernel. `None` when there is no store.
pub fn verify(data_dir: &DataDir, network: &NetworkName) -> Result<Option<Vec<Problem>>, Error> {
    verify_in(&Store::new(data_dir, network, &Here)?)
}

/// A pod that comes or goes during the look is no problem: what counts is what is still
/// wrong at a second look.
pub(crate) fn verify_in(store: &Store<'_>) -> Result<Option<Vec<Problem>>, Error> {
    let mut problems = look(store)?;
    if let Some(problems) = problems.as_mut().filter(|problems| !problems.is_empty()) {
        thread::sleep(SECOND_LOOK);
        let again = look(store)?.unwrap_or_default();
        problems.retain(|problem| again.contains(problem));
    }
    Ok(problems)
}

fn look(store: &Store<'_>) -> Result<Option<Vec<Problem>>, Error> {
    let before = index(store)?;
    let Some(snapshot) = read(store)? else {
        return Ok(None);
    };
    let links = Links::ask(store)?;
    let mut problems: Vec<Problem> = Vec::new();
    for shown in snapshot.blocks.iter().filter(|shown| shown.missing > 0) {
        problems.push(Problem::Short {
            file: block::file_name(shown.id),
            missing: shown.missing,
        });
    }
    problems.extend(snapshot.lost().map(Problem::Quarantined));
    problems.extend(abandoned(&snapshot, store, &links));
    problems.extend(unrecorded(&snapshot, store, &links));
    if let (Some(mut before), Some(after)) = (before, index(store)?)
        && before.sequence() == after.sequence()
    {
        // Nobody changed anything meanwhile, so the two can be compared.
        let contradictions = contradictions(&snapshot, &mut before);
        problems.extend(contradictions.map_err(|error| store.failed("read", error))?);
    }
    Ok(Some(problems))
}

/// The index, if it can be trusted at this moment.
fn index(store: &Store<'_>) -> Result<Option<Index>, Error> {
    let open = || -> io::Result<Option<Index>> {
        let Some(dir) = Dir::open(&store.path)? else {
            return Ok(None);
        };
        match Index::open_to_read(&dir, store.boot)? {
            Opened::Good(index) => Ok(Some(index)),
            Opened::EarlierBoot(_) | Opened::Dirty(_) | Opened::Lost => Ok(None),
        }
    };
    open().map_err(|error| store.failed("read", error))
}

fn abandoned(snapshot: &Snapshot, store: &Store<'_>, links: &Links) -> Vec<Problem> {
    let now = now();
    let problem = |line: &Line| {
        let link = reclaim::link_of(line, store.network.as_str())?;
        let is_abandoned = reclaim::can_be_proved(line, links.netns)
            && reclaim::is_old(line, now)
            && !links.names.contains(link.as_str());
        is_abandoned.then(|| Problem::Abandoned {
            address: line.address,
            container: line
                .owner
                .as_ref()
                .map_or("", |owner| &owner.key)
                .to_owned(),
        })
    };
    snapshot.taken().filter_map(problem).collect()
}

fn unrecorded(snapshot: &Snapshot, store: &Store<'_>, links: &Links) -> Vec<Problem> {
    let mut problems = Vec::new();
    let ours = links
        .aliases
        .iter()
        .filter(|(_, alias)| alias.network == *store.network);
    for (link, alias) in ours {
        for address in &alias.addresses {
            let is_recorded = snapshot.taken().any(|line| {
                let owner = line.owner.as_ref();
                line.address == *address
                    && owner.is_some_and(|owner| owner.key == alias.container_key)
            });
            if !is_recorded {
                problems.push(Problem::Unrecorded {
                    address: *address,
                    link: link.clone(),
                    container: alias.container_key.clone(),
                });
            }
        }
    }
    problems
}

fn contradictions(snapshot: &Snapshot, index: &mut Index) -> io::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (address, reading) in snapshot.lines() {
        // Damage is told elsewhere.
        let Reading::Line(line) = reading else {
            continue;
        };
        let since = index.free_since(address)?;
        let is_taken = since.is_some_and(|since| since >= TAKEN);
        let is_owned = match line.owner.as_ref().filter(|_| is_taken) {
            Some(owner) => index.addresses_of(owner.hash())?.contains(&address),
            None => true,
        };
        let should_be = line.is_taken(snapshot.boot) || line.is_quarantined(snapshot.boot);
        if is_taken != should_be || !is_owned {
            problems.push(Problem::Index(address));
        }
    }
    Ok(problems)
}

/// What a repair has to go by.
pub(crate) struct Healing {
    index: Option<Index>,
    /// The addresses that links speak for.
    spoken_for: HashSet<IpAddr>,
}

impl Healing {
    pub(crate) fn new(store: &Store<'_>) -> Result<Self, Error> {
        let links = Links::ask(store)?;
        let ours = links
            .aliases
            .into_iter()
            .filter(|(_, alias)| alias.network == *store.network);
        Ok(Self {
            index: index(store)?,
            spoken_for: ours.flat_map(|(_, alias)| alias.addresses).collect(),
        })
    }

    /// Whether a repair could do something about a problem.
    pub(crate) fn may_heal(&mut self, problem: &Problem) -> bool {
        let Problem::Quarantined(address) = problem else {
            return true;
        };
        let since = self.index.as_mut().map(|index| index.free_since(*address));
        let was_free = matches!(since, Some(Ok(Some(since))) if since < TAKEN);
        was_free || self.spoken_for.contains(address)
    }
}

/// One cell of the picture of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cell {
    /// In no pool: the gateway, excluded, or outside the range.
    NotGiven,
    Never,
    Free,
    Used,
    Condemned,
    Quarantined,
}

/// The blocks of 256 addresses in which a pool has been used, one cell an address, with the
/// first address of each. A small pool is shown whole.
pub fn map(view: &View, pool: &Pool) -> Vec<(IpAddr, Vec<Cell>)> {
    let mut blocks: Vec<BlockId> = Vec::new();
    let used = view.records.iter().map(|record| record.address);
    blocks.extend(used.filter(|at| pool.gives(*at)).map(BlockId::of));
    blocks.extend(pool.parts.first().map(|(first, _)| BlockId::of(*first)));
    blocks.sort_unstable();
    blocks.dedup();
    let records = view.records.iter();
    let states: HashMap<IpAddr, Occupation> = records
        .map(|record| (record.address, record.state))
        .collect();
    let cell = |address: IpAddr| match states.get(&address) {
        _ if !pool.gives(address) => Cell::NotGiven,
        None => Cell::Never,
        Some(Occupation::Free) => Cell::Free,
        Some(Occupation::Used) => Cell::Used,
        Some(Occupation::Condemned) => Cell::Condemned,
        Some(Occupation::Quarantined) => Cell::Quarantined,
    };
    let within = |address: &IpAddr| pool.subnet.contains(address);
    let rows = blocks.into_iter().filter_map(|block| {
        let addresses: Vec<IpAddr> = (0..=u8::MAX)
            .map(|slot| block.address(slot))
            .filter(within)
            .collect();
        let first = *addresses.first()?;
        Some((first, addresses.into_iter().map(cell).collect()))
    });
    rows.collect()
}
