//! Giving an attachment its addresses: one of each set, all or none.

use std::{fmt::Write, hash::Hasher, net::IpAddr};

use cni_protocol::{Attachment, Code, Failure};
use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use crate::{
    config::{Config, DEFAULT_DATA_DIR},
    error::{Error, Exhausted},
    import, names,
    range::RangeSet,
    reclaim,
    store::{
        Absent, Fault, Held, Here, Locked, Store,
        block::{Block, Reading},
        boot::now,
        dir::Dir,
        line::{Line, Made, Owner, State},
        snapshot::Snapshot,
    },
};

/// Who leases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maker {
    /// cni-bridge: the lease ends by itself when its owner's link is gone.
    Bridge {
        /// The inode of the network namespace that the link is in.
        host_netns: u64,
    },
    /// Another main plugin: nobody but DEL, GC or an operator ends the lease.
    Other,
}

/// An address that is leased.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// With the prefix of its subnet.
    pub address: IpNet,
    pub gateway: IpAddr,
}

/// What an attachment got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leased {
    /// One of each set, in the order of the sets.
    pub leases: Vec<Lease>,
    /// False: the attachment had them already, from an ADD that was not followed by a DEL.
    pub fresh: bool,
}

/// Leases one address of each set for an attachment, in one round of the lock.
///
/// An attachment that has fitting addresses already gets the same ones. `pod` is
/// `namespace/name`, for people.
pub fn lease(
    config: &Config,
    attachment: &Attachment,
    maker: Maker,
    pod: Option<&str>,
) -> Result<Leased, Error> {
    let store = Store::new(config.data_dir(), &attachment.network, &Here)?;
    let wish = Wish {
        config,
        attachment,
        owner: owner_of(attachment),
        maker,
        pod,
    };
    lease_in(&store, &wish)
}

/// What is wanted, for whom.
pub(crate) struct Wish<'a> {
    pub(crate) config: &'a Config,
    pub(crate) attachment: &'a Attachment,
    pub(crate) owner: Owner,
    pub(crate) maker: Maker,
    pub(crate) pod: Option<&'a str>,
}

pub(crate) fn owner_of(attachment: &Attachment) -> Owner {
    Owner {
        key: names::id_key(&attachment.container_id),
        interface: attachment.interface.to_string(),
    }
}

/// How a round in the lock ended.
enum Answer {
    Leased(Leased),
    /// The set of this number has no free address.
    Exhausted(usize),
    /// The records of host-local have to be read first, without the lock.
    NeedsImport,
}

pub(crate) fn lease_in(store: &Store<'_>, wish: &Wish<'_>) -> Result<Leased, Error> {
    let mut import = None;
    let mut reclaimed = false;
    loop {
        let answer = store.transact(Absent::Create, |locked| {
            if !locked.is_imported() {
                match &import {
                    None => return Ok(Answer::NeedsImport),
                    Some(import) => import::merge(locked, import)?,
                }
            }
            wish.grant(locked)
        })?;
        match answer {
            Some(Answer::Leased(leased)) => return Ok(leased),
            Some(Answer::NeedsImport) => {
                let from = wish.config.data_dir().import_from();
                import = Some(import::prepare(store, from)?);
            }
            Some(Answer::Exhausted(_)) if !reclaimed => {
                reclaimed = true;
                reclaim::reclaim(store, reclaim::Mode::Real)?;
            }
            Some(Answer::Exhausted(n)) => return Err(wish.exhausted(store, n)),
            // `Absent::Create` always has a store.
            None => {}
        }
    }
}

impl Wish<'_> {
    fn grant(&self, locked: &mut Locked) -> Result<Answer, Fault> {
        locked.make_durable();
        let (hash, pools) = pools(self.config);
        locked.publish_pools(hash, &pools)?;
        let held = locked.held_by(&self.owner)?;
        let sets = self.config.sets();
        if let Some(held) = fitting(&held, sets) {
            self.refuse_other_requests(&held)?;
            return self.keep(locked, held).map(Answer::Leased);
        }
        for old in &held {
            locked.free(old, Some(&self.owner))?;
        }
        let mut leases = Vec::with_capacity(sets.len());
        let mut granted = Vec::with_capacity(sets.len());
        for (n, (set, requested)) in sets.iter().zip(self.config.requested()).enumerate() {
            let address = match requested {
                Some(address) => self.claim(locked, *address, set)?,
                None => match locked.choose(set.usable())? {
                    Some(address) => address,
                    None => return Ok(Answer::Exhausted(n)),
                },
            };
            leases.extend(lease_of(set, address));
            granted.push(address);
        }
        for address in granted {
            let line = self.line(address, locked)?;
            locked.grant(line)?;
        }
        let fresh = true;
        Ok(Answer::Leased(Leased { leases, fresh }))
    }

    /// The requested address, if it is free.
    fn claim(&self, locked: &mut Locked, at: IpAddr, set: &RangeSet) -> Result<IpAddr, Fault> {
        if locked.is_free(at)? {
            return Ok(at);
        }
        let owner = match locked.find(at)? {
            Some(Reading::Line(Line {
                owner: Some(owner), ..
            })) => format!("container {} {}", owner.key, owner.interface),
            _ => "nobody knows who".to_owned(),
        };
        Err(Fault::Refused(Error::Requested {
            address: at,
            set: set.to_string(),
            owner,
        }))
    }

    /// An attachment that has its addresses cannot ask for others.
    fn refuse_other_requests(&self, held: &[Line]) -> Result<(), Fault> {
        let has = |address: &IpAddr| held.iter().any(|line| line.address == *address);
        let mut requested = self.config.requested().iter().flatten();
        match requested.find(|address| !has(address)) {
            None => Ok(()),
            Some(requested) => Err(Fault::Refused(Error::Holds {
                attachment: Box::new(self.attachment.clone()),
                held: texts(held.iter().map(|line| line.address)),
                requested: *requested,
            })),
        }
    }

    /// Gives an attachment what it has, as of this call.
    fn keep(&self, locked: &mut Locked, held: Vec<Line>) -> Result<Leased, Fault> {
        let mut leases = Vec::with_capacity(held.len());
        for (line, set) in held.into_iter().zip(self.config.sets()) {
            leases.extend(lease_of(set, line.address));
            let line = self.line(line.address, locked)?;
            locked.rewrite(line)?;
        }
        let fresh = false;
        Ok(Leased { leases, fresh })
    }

    fn line(&self, address: IpAddr, locked: &mut Locked) -> Result<Line, Fault> {
        let (made, netns) = match self.maker {
            Maker::Bridge { host_netns } => (Made::ByBridge, host_netns),
            Maker::Other => (Made::ByOther, 0),
        };
        Ok(Line {
            state: State::Active,
            address,
            owner: Some(self.owner.clone()),
            made,
            netns,
            boot: Some(locked.boot()),
            time: now(),
            sequence: locked.next_sequence()?,
            pod: self.pod.map(str::to_owned),
        })
    }

    /// Says who has all the addresses of a set.
    fn exhausted(&self, store: &Store<'_>, n: usize) -> Error {
        let Some(set) = self.config.sets().get(n) else {
            return Error::NoneFree(String::new());
        };
        let snapshot = Snapshot::read(&store.path, store.boot).ok().flatten();
        let netns = store.host.netns().unwrap_or(0);
        let snapshot = snapshot.as_ref();
        let used: Vec<&Line> = snapshot
            .into_iter()
            .flat_map(Snapshot::taken)
            .filter(|line| set.may_give(line.address))
            .collect();
        let lost = snapshot.into_iter().flat_map(Snapshot::lost);
        let data_dir = self.config.data_dir().path();
        Error::Exhausted(Box::new(Exhausted {
            network: store.network.to_string(),
            set: set.to_string(),
            used: used.len(),
            quarantined: lost.filter(|address| set.may_give(*address)).count(),
            without_proof: used
                .iter()
                .filter(|line| !reclaim::can_be_proved(line, netns))
                .count(),
            data_dir: (data_dir != DEFAULT_DATA_DIR).then(|| data_dir.to_owned()),
        }))
    }
}

/// The lines that an owner has, in the order of the sets, if they are exactly one of each.
fn fitting(held: &[Held], sets: &[RangeSet]) -> Option<Vec<Line>> {
    if held.len() != sets.len() {
        return None;
    }
    sets.iter()
        .map(|set| {
            let mut fit = held.iter().filter(|held| set.may_give(held.address));
            fit.next()?.line.clone().filter(|_| fit.next().is_none())
        })
        .collect()
}

fn lease_of(set: &RangeSet, address: IpAddr) -> Option<Lease> {
    let range = set.range_of(address)?;
    let prefix = range.subnet().prefix_len();
    Some(Lease {
        address: IpNet::new(address, prefix).ok()?,
        gateway: range.gateway(),
    })
}

/// What the operator's tool has to know of the configuration, and its hash.
fn pools(config: &Config) -> (u64, String) {
    let sets = match config.static_sets() {
        [] => config.sets(),
        sets => sets,
    };
    let mut text = "# What may be given of each set: number, subnet, first, last\n".to_owned();
    for (n, set) in sets.iter().enumerate() {
        for part in set.usable() {
            let first = part.family.address(part.first);
            let last = part.family.address(part.last);
            let subnet = set.range_of(first).map(|range| range.subnet().to_string());
            let subnet = subnet.unwrap_or_default();
            // Writing to a string cannot fail.
            drop(writeln!(text, "{n} {subnet} {first} {last}"));
        }
    }
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    (hasher.finish().max(1), text)
}

/// Makes sure that the leases are still the attachment's: called when its link is there,
/// and before the link gets the addresses.
///
/// A reclaimer that looked for the link before it was made may have condemned the lease.
/// Whoever of the two takes the lock first wins: the lease is the attachment's again, or
/// it is gone and this fails.
pub fn confirm(config: &Config, attachment: &Attachment, leases: &[Lease]) -> Result<(), Error> {
    let store = Store::new(config.data_dir(), &attachment.network, &Here)?;
    confirm_in(&store, attachment, leases)
}

pub(crate) fn confirm_in(
    store: &Store<'_>,
    attachment: &Attachment,
    leases: &[Lease],
) -> Result<(), Error> {
    let owner = owner_of(attachment);
    if stands(store, &owner, leases).unwrap_or(false) {
        return Ok(());
    }
    let taken_back = |address: IpAddr| Error::TakenBack {
        address,
        attachment: Box::new(attachment.clone()),
    };
    let confirmed = store.transact(Absent::Leave, |locked| {
        for lease in leases {
            let address = lease.address.addr();
            let line = match locked.find(address)? {
                Some(Reading::Line(line)) if line.belongs_to(&owner, locked.boot()) => line,
                _ => return Err(Fault::Refused(taken_back(address))),
            };
            if line.state == State::Condemned {
                let sequence = locked.next_sequence()?;
                locked.rewrite(Line {
                    state: State::Active,
                    time: now(),
                    sequence,
                    ..line
                })?;
            }
        }
        Ok(())
    })?;
    let first = leases.first().map(|lease| lease.address.addr());
    match (confirmed, first) {
        (None, Some(address)) => Err(taken_back(address)),
        _ => Ok(()),
    }
}

/// Whether all leases are the owner's and not condemned: a look without the lock.
///
/// That is enough. A reclaimer that condemns a lease after this look looks for the link
/// after that, and finds it, because it was there before this look.
fn stands(store: &Store<'_>, owner: &Owner, leases: &[Lease]) -> std::io::Result<bool> {
    let Some(dir) = Dir::open(&store.path)? else {
        return Ok(false);
    };
    for lease in leases {
        let address = lease.address.addr();
        let Some(block) = Block::open_to_read(&dir, address)? else {
            return Ok(false);
        };
        match block.read(address)? {
            Reading::Line(line)
                if line.belongs_to(owner, store.boot) && line.state == State::Active => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Texts of addresses, one after the other.
pub(crate) fn texts(addresses: impl Iterator<Item = IpAddr>) -> String {
    let texts: Vec<String> = addresses.map(|address| address.to_string()).collect();
    texts.join(", ")
}

impl Error {
    /// Whether the lock was not to be had in time.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        self.code() == Code::TryAgain
    }
}
