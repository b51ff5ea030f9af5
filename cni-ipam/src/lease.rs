//! Giving an attachment its addresses: one of each set, all or none.

use std::{
    hash::Hasher,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use cni_protocol::Attachment;
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

/// How long an ADD that finds no free address goes on to repair, while others do so too: as
/// long as it takes to know that one of them died over it.
const REPAIR: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(2);
/// How often an ADD takes over what host-local has, which exports may hand back as often.
const IMPORTS: usize = 8;

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
    /// What host-local keeps has to be taken over first.
    NeedsImport,
}

pub(crate) fn lease_in(store: &Store<'_>, wish: &Wish<'_>) -> Result<Leased, Error> {
    let from = wish.config.data_dir().import_from();
    let mut imports = 0;
    let mut exhausted_at = None;
    let mut hopeless = false;
    loop {
        let answer = store.transact(Absent::Create, |locked| {
            if !locked.is_imported() {
                // Under the lock, and each time: an export may have come between.
                if imports < IMPORTS && import::is_needed(store, from)? {
                    return Ok(Answer::NeedsImport);
                }
                locked.set_imported()?;
            }
            wish.grant(locked)
        })?;
        match answer {
            Some(Answer::Leased(leased)) => return Ok(leased),
            Some(Answer::NeedsImport) => {
                import::import(store, from)?;
                imports += 1;
            }
            Some(Answer::Exhausted(n)) => {
                let since = *exhausted_at.get_or_insert_with(Instant::now);
                if hopeless || since.elapsed() >= REPAIR {
                    return Err(wish.exhausted(store, n));
                }
                let report = reclaim::reclaim(store, reclaim::Mode::Real)?;
                // Another look even so: somebody else may have been quicker with all of it.
                hopeless = report.reclaimed.is_empty() && !report.others_at_it;
                if report.others_at_it && report.reclaimed.is_empty() {
                    thread::sleep(POLL);
                }
            }
            // `Absent::Create` always has a store.
            None => {}
        }
    }
}

impl Wish<'_> {
    fn grant(&self, locked: &mut Locked) -> Result<Answer, Fault> {
        locked.make_durable();
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
                Some(address) => claim(locked, *address, set)?,
                None => match locked.choose(set.usable())? {
                    Some(address) => address,
                    None => return Ok(Answer::Exhausted(n)),
                },
            };
            locked.probe(address)?;
            leases.extend(lease_of(set, address));
            granted.push(address);
        }
        for address in granted {
            let line = self.line(address, locked)?;
            locked.grant(line)?;
        }
        let (hash, pools) = pools(self.config);
        locked.publish_pools(hash, &pools)?;
        let fresh = true;
        Ok(Answer::Leased(Leased { leases, fresh }))
    }

    /// An attachment that has its addresses cannot ask for others.
    fn refuse_other_requests(&self, held: &[IpAddr]) -> Result<(), Fault> {
        let has = |address: &IpAddr| held.contains(address);
        let mut requested = self.config.requested().iter().flatten();
        match requested.find(|address| !has(address)) {
            None => Ok(()),
            Some(requested) => Err(Fault::Refused(Error::Holds {
                attachment: Box::new(self.attachment.clone()),
                held: texts(held.iter().copied()),
                requested: *requested,
            })),
        }
    }

    /// Gives an attachment what it has, as of this call.
    fn keep(&self, locked: &mut Locked, held: Vec<IpAddr>) -> Result<Leased, Fault> {
        let mut leases = Vec::with_capacity(held.len());
        for (address, set) in held.into_iter().zip(self.config.sets()) {
            leases.extend(lease_of(set, address));
            let line = self.line(address, locked)?;
            locked.restore(line)?;
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

/// The requested address, if it is free.
fn claim(locked: &mut Locked, at: IpAddr, set: &RangeSet) -> Result<IpAddr, Fault> {
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

/// The addresses that an owner has, in the order of the sets, if they are exactly one of each.
fn fitting(held: &[Held], sets: &[RangeSet]) -> Option<Vec<IpAddr>> {
    if held.len() != sets.len() {
        return None;
    }
    sets.iter()
        .map(|set| {
            let addresses = held.iter().map(|held| held.address);
            let mut fit = addresses.filter(|address| set.may_give(*address));
            fit.next().filter(|_| fit.next().is_none())
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
            text.extend([format!("{n} {subnet} {first} {last}\n")]);
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

#[cfg(test)]
mod tests {
    use cni_protocol::{Code, Failure};

    use super::*;
    use crate::testing::{NETNS, Node, attachment, config, texts};

    const SMALL: &str = r#""subnet":"10.64.1.0/29""#;

    #[test]
    fn addresses_come_in_order_and_never_the_gateway() {
        let node = Node::new(SMALL);
        let got: Vec<String> = (2..7).map(|n| node.add(&format!("c{n}"))).collect();
        assert_eq!(
            got,
            [
                "10.64.1.2",
                "10.64.1.3",
                "10.64.1.4",
                "10.64.1.5",
                "10.64.1.6"
            ]
        );
    }

    #[test]
    fn a_lease_has_the_prefix_and_the_gateway_of_its_subnet() {
        let node = Node::new(SMALL);
        let leased = node.lease("c1").unwrap();
        assert!(leased.fresh);
        assert_eq!(
            leased.leases,
            [Lease {
                address: "10.64.1.2/29".parse().unwrap(),
                gateway: "10.64.1.1".parse().unwrap(),
            }]
        );
    }

    #[test]
    fn a_retry_gets_what_it_has() {
        let node = Node::new(SMALL);
        node.add("c1");
        node.add("c2");
        let again = node.lease("c1").unwrap();
        assert!(!again.fresh);
        assert_eq!(texts(&again), "10.64.1.2");
        assert_eq!(node.taken().len(), 2);
    }

    #[test]
    fn the_address_that_was_free_longest_comes_next() {
        let node = Node::new(SMALL);
        for id in ["c2", "c3", "c4", "c5", "c6"] {
            node.add(id);
        }
        for id in ["c4", "c2", "c6"] {
            node.del(id);
        }
        let got: Vec<String> = ["d1", "d2", "d3"].map(|id| node.add(id)).into();
        assert_eq!(got, ["10.64.1.4", "10.64.1.2", "10.64.1.6"]);
    }

    #[test]
    fn one_pod_that_comes_and_goes_walks_through_the_whole_range() {
        let node = Node::new(r#""subnet":"10.64.1.0/24""#);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..253 {
            assert!(seen.insert(node.add(&format!("c{n}"))), "{n}");
            node.del(&format!("c{n}"));
        }
        assert_eq!(node.add("again"), "10.64.1.2");
    }

    #[test]
    fn a_full_range_says_what_it_is_full_of() {
        let node = Node::new(SMALL);
        for n in 2..7 {
            let maker = if n == 2 {
                Maker::Other
            } else {
                Maker::Bridge { host_netns: NETNS }
            };
            node.lease_by(&format!("c{n}"), maker).unwrap();
        }
        let error = node.lease("c7").unwrap_err();
        let data = node.dir.path().join("data");
        assert_eq!(
            error.to_string(),
            format!(
                "no IP addresses available in range set: 10.64.1.1-10.64.1.6 (5 used, 1 of them \
                 by leases that end only with a DEL, GC or an operator's word, 0 quarantined); \
                 see `cni-ipam list --network cbr0 --data-dir {0}`, then `cni-ipam repair \
                 --network cbr0 --data-dir {0}`",
                data.display()
            )
        );
        assert_eq!(error.code(), Code::TryAgain);
        assert_eq!(node.taken().len(), 5);
        node.del("c4");
        assert_eq!(node.add("c7"), "10.64.1.4");
    }

    #[test]
    fn each_set_gives_one_address_or_none_does() {
        let node = Node::new(
            r#""ranges":[[{"subnet":"10.64.1.0/24"}],[{"subnet":"fd00::/126","rangeStart":"fd00::2"}]]"#,
        );
        assert_eq!(node.add("c1"), "10.64.1.2, fd00::2");
        assert_eq!(node.add("c2"), "10.64.1.3, fd00::3");
        let error = node.lease("c3").unwrap_err();
        assert!(
            error.to_string().contains("range set: fd00::2-fd00::3"),
            "{error}"
        );
        assert_eq!(node.taken().len(), 4);
        node.del("c1");
        assert_eq!(node.taken(), ["10.64.1.3 c2 eth0", "fd00::3 c2 eth0"]);
    }

    #[test]
    fn another_configuration_lets_old_addresses_go() {
        let mut node = Node::new(r#""subnet":"10.64.1.0/24""#);
        node.add("c1");
        node.configure(r#""subnet":"10.64.2.0/24""#);
        assert_eq!(node.add("c1"), "10.64.2.2");
        assert_eq!(node.taken(), ["10.64.2.2 c1 eth0"]);
    }

    #[test]
    fn a_range_that_grew_does_not_give_an_address_twice() {
        let mut node = Node::new(r#""subnet":"10.64.1.0/25","rangeStart":"10.64.1.10""#);
        assert_eq!(node.add("c1"), "10.64.1.10");
        node.configure(r#""subnet":"10.64.0.0/16","rangeStart":"10.64.1.9""#);
        assert_eq!(node.add("c2"), "10.64.1.9");
        assert_eq!(node.add("c3"), "10.64.1.11");
    }

    fn requesting(node: &mut Node, address: &str) {
        let data = node.dir.path().join("data");
        node.config = crate::testing::parse_config(&format!(
            r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"x","ipam":{{"subnet":"10.64.1.0/24","dataDir":{data:?}}},"runtimeConfig":{{"ips":["{address}"]}}}}"#
        ));
    }

    #[test]
    fn a_requested_address_is_given_or_refused_by_name() {
        let mut node = Node::new(SMALL);
        requesting(&mut node, "10.64.1.77/8");
        assert_eq!(node.add("c1"), "10.64.1.77");
        assert_eq!(node.add("c1"), "10.64.1.77");

        let error = node.lease("c2").unwrap_err();
        assert_eq!(
            error.to_string(),
            "requested IP address 10.64.1.77 is not available in range set \
             10.64.1.1-10.64.1.254: container c1 eth0 has it"
        );

        requesting(&mut node, "10.64.1.78");
        let error = node.lease("c1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cbr0/c1/eth0 has 10.64.1.77 already and cannot get 10.64.1.78 instead: it has to \
             be deleted first"
        );
        assert_eq!(error.code(), Code::InvalidConfig);
        assert_eq!(node.taken(), ["10.64.1.77 c1 eth0"]);
    }

    #[test]
    fn any_address_of_an_ipv6_range_can_be_asked_for() {
        let mut node = Node::new(SMALL);
        let data = node.dir.path().join("data");
        node.config = crate::testing::parse_config(&format!(
            r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"x","ipam":{{"subnet":"fd00::/64","dataDir":{data:?},"importFrom":"none"}},"runtimeConfig":{{"ips":["fd00::dead:beef"]}}}}"#
        ));
        assert_eq!(node.add("c1"), "fd00::dead:beef");
        assert!(!node.lease("c1").unwrap().fresh);
        assert_eq!(node.taken(), ["fd00::dead:beef c1 eth0"]);
        node.del("c1");
        assert_eq!(node.taken(), [""; 0]);
    }

    #[test]
    fn a_lease_that_stands_is_confirmed_without_the_lock() {
        let node = Node::new(SMALL);
        let leased = node.lease("c1").unwrap();
        let held = std::fs::File::open(node.path()).unwrap();
        held.lock().unwrap();
        confirm_in(&node.store(), &attachment("c1"), &leased.leases).unwrap();
    }

    #[test]
    fn a_lease_that_is_gone_is_not_confirmed() {
        let node = Node::new(SMALL);
        let leased = node.lease("c1").unwrap();
        node.del("c1");
        let error = confirm_in(&node.store(), &attachment("c1"), &leased.leases).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the lease of 10.64.1.2 for cbr0/c1/eth0 was taken back, try again"
        );
        assert!(error.is_temporary());
        node.remove_store();
        let error = confirm_in(&node.store(), &attachment("c1"), &leased.leases).unwrap_err();
        assert!(error.is_temporary());
        assert!(!node.path().exists());
    }

    #[test]
    fn leases_of_another_boot_are_void() {
        let mut node = Node::new(SMALL);
        for n in 2..7 {
            node.add(&format!("c{n}"));
        }
        for boot in 0..1000 {
            node.boot = crate::store::boot::Boot::parse(&format!("{boot:08x}")).unwrap();
            let got: std::collections::BTreeSet<String> =
                (2..7).map(|n| node.add(&format!("b{boot}-{n}"))).collect();
            assert_eq!(got.len(), 5);
        }
    }

    #[test]
    fn the_pools_are_written_for_the_tool() {
        let mut node = Node::new(r#""subnet":"10.64.1.0/24","exclude":["10.64.1.9"]"#);
        node.add("c1");
        let pools = || std::fs::read_to_string(node.path().join("pools")).unwrap();
        let lines: Vec<String> = pools().lines().skip(1).map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "0 10.64.1.0/24 10.64.1.2 10.64.1.8",
                "0 10.64.1.0/24 10.64.1.10 10.64.1.254"
            ]
        );
        node.config = config(SMALL, &node.dir.path().join("data"));
        node.add("c2");
        let text = std::fs::read_to_string(node.path().join("pools")).unwrap();
        assert!(
            text.ends_with("0 10.64.1.0/29 10.64.1.2 10.64.1.6\n"),
            "{text}"
        );
    }
}
