//! What is said of a chain that drops the packets of pods, and what to do about it.

use std::fmt;

use ipnet::IpNet;

use super::{
    BaseChain, Family, Judgement, Manager,
    packet::{Direction, Link, Version},
    walk::{By, Drop},
};

/// Whose packets these are.
#[derive(Clone, Debug)]
pub(crate) struct Pods {
    pub(crate) bridge: Link,
    /// The link with the gateways' addresses, by which the node routes: the bridge, or what
    /// it has in a VLAN. `None` when pods do not leave through this node.
    pub(crate) gateway: Option<Link>,
    /// Packets from pod to pod come to the hooks of IP, too: of IPv4, of IPv6.
    pub(crate) bridged: (bool, bool),
    pub(crate) networks: Vec<IpNet>,
    /// The links towards the outside, in IPv4 and in IPv6. None: it may be any.
    pub(crate) uplinks: (Vec<Link>, Vec<Link>),
}

impl Pods {
    /// The links by which their packets come and go, once each.
    pub(crate) fn links(&self) -> Vec<&Link> {
        let gateway = self
            .gateway
            .iter()
            .filter(|link| link.name != self.bridge.name);
        std::iter::once(&self.bridge).chain(gateway).collect()
    }
}

/// A chain that drops packets of pods, or may.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    pub(crate) chain: BaseChain,
    /// All connections in these directions are dropped; else nobody can tell.
    pub(crate) certain: bool,
    /// A rule that drops them names them: somebody wants it so.
    pub(crate) meant: bool,
    directions: Vec<Direction>,
    /// The only one that it is about, where the chain sees others of the pods, too.
    version: Option<Version>,
    by: By,
}

impl Finding {
    /// What to do about it, besides `forwardAccept`.
    pub(crate) fn remedy(&self, pods: &Pods) -> String {
        let links: Vec<&str> = pods.links().iter().map(|link| link.name.as_str()).collect();
        let each = |command: &dyn Fn(&str) -> String| {
            let commands: Vec<String> = links.iter().map(|link| command(link)).collect();
            commands.join(" && ")
        };
        match self.chain.manager {
            Manager::Firewalld => self.firewalld(&links),
            Manager::Ufw => each(&|link| {
                format!("ufw route allow in on {link} && ufw route allow out on {link}")
            }),
            Manager::Docker | Manager::Iptables => {
                let program = match self.chain.table.family {
                    Family::Ip6 => "ip6tables",
                    _ => "iptables",
                };
                let chain = match self.chain.manager {
                    Manager::Docker => "DOCKER-USER",
                    _ => &self.chain.name,
                };
                each(&|link| {
                    format!(
                        "{program} -I {chain} -i {link} -j ACCEPT && {program} -I {chain} -o {link} -j ACCEPT"
                    )
                })
            }
            Manager::Unknown => {
                let (table, name) = (&self.chain.table, &self.chain.name);
                each(&|link| {
                    format!(
                        "nft insert rule {table} {name} iifname {link} accept && \
                         nft insert rule {table} {name} oifname {link} accept"
                    )
                })
            }
        }
    }

    /// A zone's target is for what comes from its links. What goes to them needs a policy.
    fn firewalld(&self, links: &[&str]) -> String {
        let permanent = |arguments: String| format!("firewall-cmd --permanent {arguments}");
        let mut commands: Vec<String> = links
            .iter()
            .map(|link| permanent(format!("--zone=trusted --add-interface={link}")))
            .collect();
        if self.directions.contains(&Direction::In) {
            commands.extend(
                [
                    "--new-policy=to-pods",
                    "--policy=to-pods --add-ingress-zone=ANY",
                    "--policy=to-pods --add-egress-zone=trusted",
                    "--policy=to-pods --set-target=ACCEPT",
                ]
                .map(|arguments| permanent(arguments.to_owned())),
            );
        }
        commands.push("firewall-cmd --reload".to_owned());
        commands.join(" && ")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directions: Vec<String> = self.directions.iter().map(Direction::to_string).collect();
        let version = match self.version {
            None => "",
            Some(Version::V4) => "IPv4 ",
            Some(Version::V6) => "IPv6 ",
        };
        let are = if self.certain { "are" } else { "may be" };
        write!(
            f,
            "{version}connections {} {are} dropped in chain {} of nftables table {} (",
            directions.join(", "),
            self.chain.name,
            self.chain.table
        )?;
        match &self.by {
            By::Policy => f.write_str("policy drop")?,
            By::Rule { chain, handle } if *chain == self.chain.name => {
                write!(f, "rule with handle {handle}")?;
            }
            By::Rule { chain, handle } => write!(f, "rule with handle {handle} in chain {chain}")?,
        }
        if !self.certain {
            f.write_str(", unless a rule before it accepts them")?;
        }
        f.write_str(")")
    }
}

/// What a chain does with one packet after the other.
pub(super) struct Collected {
    chain: BaseChain,
    judgements: Vec<(Kind, Judgement)>,
}

/// Of packets: what becomes of them is so for all networks and transports of a kind, or it
/// is not certain.
type Kind = (Direction, Version);

impl Collected {
    pub(super) fn new(chain: &BaseChain) -> Self {
        Self {
            chain: chain.clone(),
            judgements: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, kind: Kind, judgement: Judgement) {
        self.judgements.push((kind, judgement));
    }

    /// What is certain, or else what is possible.
    pub(super) fn settled(self) -> Option<Finding> {
        let (certain, possible): (Vec<Kind>, Vec<Kind>) = self
            .kinds()
            .into_iter()
            .filter(|kind| self.of(*kind).any(|judgement| judgement.drop().is_some()))
            .partition(|kind| {
                self.of(*kind)
                    .all(|judgement| matches!(judgement, Judgement::Drops(_)))
            });
        let is_certain = !certain.is_empty();
        let kinds = if is_certain { certain } else { possible };
        let drops = || {
            kinds
                .iter()
                .flat_map(|kind| self.of(*kind))
                .filter_map(Judgement::drop)
        };
        // A rule that nobody meant is what the message is about.
        let unmeant = drops().find(|drop| !drop.meant);
        let first = unmeant.or_else(|| drops().next())?;
        let mut directions: Vec<Direction> =
            kinds.iter().map(|(direction, _)| *direction).collect();
        directions.dedup();
        let one_version = |kinds: &[Kind]| match kinds {
            [(_, first), rest @ ..] => rest
                .iter()
                .all(|(_, other)| other == first)
                .then_some(*first),
            [] => None,
        };
        let all = one_version(&self.kinds());
        Some(Finding {
            certain: is_certain,
            meant: unmeant.is_none(),
            by: first.by.clone(),
            version: one_version(&kinds).filter(|_| all.is_none()),
            directions,
            chain: self.chain.clone(),
        })
    }

    /// Once each, by direction.
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.judgements.iter().map(|(kind, _)| *kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    fn of(&self, wanted: Kind) -> impl Iterator<Item = &Judgement> {
        let of = move |(kind, judgement)| (kind == wanted).then_some(judgement);
        self.judgements
            .iter()
            .map(|(kind, judgement)| (*kind, judgement))
            .filter_map(of)
    }
}

impl Judgement {
    fn drop(&self) -> Option<&Drop> {
        match self {
            Self::Passes => None,
            Self::MayDrop(drop) | Self::Drops(drop) => Some(drop),
        }
    }
}
