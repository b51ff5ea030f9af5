//! Whether a node's firewall lets the packets of pods pass: deciding.
//!
//! Docker and firewalld drop what they do not know, and an accepting rule of somebody else
//! does not help: each base chain at the forward hook has to let a packet pass. What is said
//! here of a chain is certain or says that it is not: it holds for every packet that begins a
//! connection of a pod, whatever its ports and the address at the other end.
//!
//! Pure: rules come from a [`Rulesets`], which reads them where they are.

mod finding;
mod packet;
mod value;
mod walk;
mod xtables;

use std::fmt;

use ipnet::IpNet;

use self::{
    finding::Collected,
    packet::{Packet, Transport},
    walk::{By, Drop, Flow, Notes, Walk},
};
pub(crate) use self::{
    finding::{Finding, Pods},
    packet::{Direction, Link, Version},
    walk::{Element, Key, Operator, Rule, Ruleset, Set, Step, Verdict},
    xtables::{Match, target},
};

/// A table of nftables. iptables' nft variant keeps its own in tables of these, too.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: String,
}

/// The families of tables through which IP packets come.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Family {
    Ip,
    Ip6,
    Inet,
    Bridge,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A chain that the kernel calls by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BaseChain {
    pub(crate) table: Table,
    pub(crate) name: String,
    pub(crate) hook: Hook,
    /// `filter`, `nat` or `route`.
    pub(crate) kind: String,
    pub(crate) drops_by_policy: bool,
    /// Another process has the table for itself (`flags owner`).
    pub(crate) owned: bool,
    /// The names of its table's chains by which managers of firewalls are known.
    pub(crate) manager: Manager,
}

/// When the kernel calls a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hook {
    Prerouting,
    Forward,
}

/// Who looks after a chain, and so how one has it changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manager {
    Docker,
    Firewalld,
    Iptables,
    Ufw,
    Unknown,
}

impl BaseChain {
    fn serves(&self, version: Version) -> bool {
        match self.table.family {
            Family::Ip => version == Version::V4,
            Family::Ip6 => version == Version::V6,
            Family::Inet | Family::Bridge => true,
        }
    }

    /// Packets from and to these networks come through it on their way.
    pub(crate) fn sees(&self, networks: &[IpNet]) -> bool {
        self.hook == Hook::Forward
            && self.table.family != Family::Bridge
            && networks.iter().any(|net| self.serves(Version::of(net)))
    }
}

/// The rules of all tables.
pub(crate) trait Rulesets {
    type Error;
    type Table: Ruleset<Error = Self::Error>;

    fn table(&mut self, table: &Table) -> &mut Self::Table;
}

/// What a base chain does with all packets of one kind.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Judgement {
    /// None is dropped but for a reason of its own: a port, an address.
    Passes,
    /// Those that nothing accepts are dropped, and nobody can tell whether something does.
    MayDrop(Drop),
    Drops(Drop),
}

impl Judgement {
    fn of(mut flow: Flow, drops_by_policy: bool) -> Self {
        if flow.falls {
            if drops_by_policy {
                flow.drop_at(Drop {
                    by: By::Policy,
                    by_default: true,
                    meant: false,
                });
            } else {
                flow.accepts = true;
            }
        }
        // The one behind which nothing comes says best why.
        flow.drops.sort_by_key(|drop| !drop.by_default);
        match flow.drops.into_iter().next() {
            Some(drop) if !flow.accepts => Self::Drops(drop),
            Some(drop) if drop.by_default => Self::MayDrop(drop),
            _ => Self::Passes,
        }
    }
}

/// Looks at what `chains` do with the pods' connections; the prerouting chains among `all`
/// tell which marks packets can have.
pub(crate) fn examine<R: Rulesets>(
    rulesets: &mut R,
    chains: &[&BaseChain],
    all: &[BaseChain],
    pods: &Pods,
) -> Result<Vec<Finding>, R::Error> {
    let mut findings: Vec<Finding> = Vec::new();
    for chain in chains {
        let mut finding = Collected::new(chain);
        for packet in packets(pods) {
            if chain.serves(packet.version) {
                let kind = (packet.direction, packet.version);
                finding.add(kind, judge(rulesets, chain, all, packet)?);
            }
        }
        findings.extend(finding.settled());
    }
    Ok(findings)
}

/// One for each direction, network, link towards the outside, and transport.
fn packets(pods: &Pods) -> Vec<Packet<'_>> {
    let mut packets = Vec::new();
    for network in &pods.networks {
        let version = Version::of(network);
        let (links, bridged) = match version {
            Version::V4 => (&pods.uplinks.0, pods.bridged.0),
            Version::V6 => (&pods.uplinks.1, pods.bridged.1),
        };
        let mut uplinks: Vec<Option<&Link>> = links.iter().map(Some).collect();
        if uplinks.is_empty() {
            uplinks.push(None);
        }
        let mut ways = Vec::new();
        if let Some(gateway) = &pods.gateway {
            for uplink in uplinks {
                ways.push((Direction::Out, gateway, uplink));
                ways.push((Direction::In, gateway, uplink));
            }
        }
        if bridged {
            ways.push((Direction::Across, &pods.bridge, None));
        }
        for (direction, pods_link, uplink) in ways {
            packets.extend([Transport::Tcp, Transport::Udp].map(|transport| Packet {
                direction,
                transport,
                version,
                pods_link,
                uplink,
                network: *network,
                networks: &pods.networks,
                unmarked: true,
                tracked: true,
            }));
        }
    }
    packets
}

/// What becomes of a packet in one base chain.
fn judge<R: Rulesets>(
    rulesets: &mut R,
    chain: &BaseChain,
    all: &[BaseChain],
    mut packet: Packet<'_>,
) -> Result<Judgement, R::Error> {
    let table = rulesets.table(&chain.table);
    let flow = Walk::new(table, packet.clone()).chain(&chain.name)?;
    let asks = flow.asks;
    let judgement = Judgement::of(flow, chain.drops_by_policy);
    if !matches!(judgement, Judgement::Drops(_)) || asks == Notes::default() {
        return Ok(judgement);
    }
    let changed = before(rulesets, all, &packet)?;
    packet.unmarked = !changed.mark;
    packet.tracked = !changed.state;
    let table = rulesets.table(&chain.table);
    let flow = Walk::new(table, packet).chain(&chain.name)?;
    Ok(Judgement::of(flow, chain.drops_by_policy))
}

/// What rules before the routing decision may change of the packet. Those for addresses (nat) do not come to a packet that nobody
/// redirects, which is what this is about.
fn before<R: Rulesets>(
    rulesets: &mut R,
    all: &[BaseChain],
    packet: &Packet<'_>,
) -> Result<Notes, R::Error> {
    let mut changed = Notes::default();
    let early = Packet {
        // Nobody knows yet where it leaves, and on a bridge the port is where it came in.
        uplink: None,
        ..packet.clone()
    };
    for chain in all {
        if chain.hook == Hook::Prerouting && chain.kind == "filter" && chain.serves(packet.version)
        {
            let table = rulesets.table(&chain.table);
            let flow = Walk::new(table, early.clone()).chain(&chain.name)?;
            changed |= flow.changes;
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests;
