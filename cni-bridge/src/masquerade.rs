//! Which traffic of pods leaves under the node's address: deciding, and the rule as text.
//!
//! Pure: a function of the configuration. `object/masquerade.rs` brings it into the kernel.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use cni_protocol::NetworkName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Changes whenever the same words come to mean another rule.
const FORMAT: u8 = 2;

/// An IP version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The configured exceptions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Policy {
    /// Destinations that see the pod's own address.
    spared: Vec<IpNet>,
    /// Destinations inside those that see the node's after all.
    masqueraded: Vec<IpNet>,
}

/// The two rules that [`Rule`] is in the kernel: both or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// Gives connections the node's address.
    Masquerade,
    /// Drops what belongs to no connection, and would leave with the pod's address: there,
    /// nothing is translated.
    Guard,
}

/// What happens to the traffic of the pods of one network, in one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rule {
    pub(crate) network: NetworkName,
    pub(crate) family: Family,
    /// The pods: disjoint, in order.
    pub(crate) sources: Vec<Interval>,
    /// What is not masqueraded: disjoint, in order.
    pub(crate) spared: Vec<Interval>,
}

/// Addresses from the first to the last, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Interval {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Inside a family of addresses the node counts as home what is home by its design:
    /// 10.0.0.0/8 as in kubenet and GKE, unique local addresses in IPv6.
    fn default_spared(self) -> Vec<IpNet> {
        match self {
            Self::V4 => vec![v4([10, 0, 0, 0], 8)],
            Self::V6 => vec![IpNet::V6(unique_local())],
        }
    }

    /// The default of ip-masq-agent (`NewMasqConfig()`): all that RFC 1918 reserves.
    fn spared_by_agent(self) -> Vec<IpNet> {
        match self {
            Self::V4 => vec![
                v4([10, 0, 0, 0], 8),
                v4([172, 16, 0, 0], 12),
                v4([192, 168, 0, 0], 16),
            ],
            Self::V6 => self.default_spared(),
        }
    }

    fn multicast(self) -> IpNet {
        match self {
            Self::V4 => v4([224, 0, 0, 0], 4),
            Self::V6 => IpNet::V6(Ipv6Net::new_assert(
                Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
                8,
            )),
        }
    }

    fn link_local(self) -> IpNet {
        match self {
            Self::V4 => v4([169, 254, 0, 0], 16),
            Self::V6 => IpNet::V6(Ipv6Net::new_assert(
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
                10,
            )),
        }
    }
}

const fn v4(address: [u8; 4], prefix: u8) -> IpNet {
    let [a, b, c, d] = address;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

/// Addresses of private networks (RFC 4193): `fc00::/7`.
fn unique_local() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)
}

/// All of IPv6.
pub(crate) fn everything() -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
}

impl Policy {
    /// `spared` as configured; a family that it does not mention has its default, unless it
    /// is empty, which spares nothing. `link_local`: those destinations are masqueraded too.
    pub(crate) fn new(
        spared: Option<Vec<IpNet>>,
        masqueraded: Vec<IpNet>,
        link_local: bool,
    ) -> Self {
        let link_local: &[Family] = if link_local { &Family::BOTH } else { &[] };
        Self::with(spared, Family::default_spared, masqueraded, link_local)
    }

    /// The same with the defaults of ip-masq-agent, which tells the families apart in
    /// `link_local`.
    pub(crate) fn of_agent(
        spared: Option<Vec<IpNet>>,
        masqueraded: Vec<IpNet>,
        link_local: &[Family],
    ) -> Self {
        Self::with(spared, Family::spared_by_agent, masqueraded, link_local)
    }

    fn with(
        spared: Option<Vec<IpNet>>,
        default: fn(Family) -> Vec<IpNet>,
        masqueraded: Vec<IpNet>,
        link_local: &[Family],
    ) -> Self {
        let has_defaults = spared.as_ref().is_none_or(|list| !list.is_empty());
        let mut spared = spared.unwrap_or_default();
        for family in Family::BOTH {
            if has_defaults && !spared.iter().any(|net| Family::of(net) == family) {
                spared.extend(default(family));
            }
        }
        let kept = |family: &Family| !link_local.contains(family);
        spared.extend(
            Family::BOTH
                .into_iter()
                .filter(kept)
                .map(Family::link_local),
        );
        Self {
            spared,
            masqueraded,
        }
    }

    /// The rules for pods with addresses in `pods`: one for each family that has any.
    ///
    /// IPv6 addresses that are valid outside keep their own: only unique local ones are
    /// masqueraded, unless the configuration names all destinations (`::/0`) itself.
    pub(crate) fn rules(&self, network: &NetworkName, pods: &[IpNet]) -> Vec<Rule> {
        let any_source = self.masqueraded.contains(&everything());
        Family::BOTH
            .into_iter()
            .filter_map(|family| {
                let inside = |net: &&IpNet| match net {
                    IpNet::V4(_) => family == Family::V4,
                    IpNet::V6(net) => {
                        family == Family::V6 && (any_source || unique_local().contains(net))
                    }
                };
                let pods: Vec<IpNet> = pods.iter().filter(inside).map(IpNet::trunc).collect();
                (!pods.is_empty()).then(|| Rule {
                    network: network.clone(),
                    family,
                    spared: self.spared(family, &pods),
                    sources: merge(pods.iter().map(Span::of).collect())
                        .iter()
                        .map(|span| span.interval(family))
                        .collect(),
                })
            })
            .collect()
    }

    /// The longest prefix decides, as in a routing table; the pods themselves and multicast
    /// are never masqueraded.
    fn spared(&self, family: Family, pods: &[IpNet]) -> Vec<Interval> {
        let spared = self.spared.iter().map(|net| (*net, true));
        let masqueraded = self.masqueraded.iter().map(|net| (*net, false));
        let mut marks: Vec<(IpNet, bool)> = spared
            .chain(masqueraded)
            .filter(|(net, _)| Family::of(net) == family)
            .collect();
        let mut spans = resolve(&mut marks);
        let always = pods.iter().copied().chain([family.multicast()]);
        spans.extend(always.map(|net| Span::of(&net)));
        merge(spans)
            .iter()
            .map(|span| span.interval(family))
            .collect()
    }
}

/// An interval as numbers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Span {
    first: u128,
    last: u128,
}

impl Span {
    fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self {
                first: u32::from(net.network()).into(),
                last: u32::from(net.broadcast()).into(),
            },
            IpNet::V6(net) => Self {
                first: net.network().into(),
                last: net.broadcast().into(),
            },
        }
    }

    fn interval(self, family: Family) -> Interval {
        let address = |number: u128| match family {
            // Spans of IPv4 come from IPv4 networks: they fit.
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        };
        Interval {
            first: address(self.first),
            last: address(self.last),
        }
    }
}

/// The parts of marked networks where the longest prefix says to spare.
///
/// Two networks are apart or one contains the other, so one walk in order with the open ones
/// on a stack is enough, however many there are.
fn resolve(marks: &mut [(IpNet, bool)]) -> Vec<Span> {
    // The outer one first; of two equal ones, sparing wins.
    marks.sort_by_key(|(net, spare)| (Span::of(net).first, net.prefix_len(), *spare));
    let mut spared = Vec::new();
    let mut open: Vec<(Span, bool)> = Vec::new();
    // Where the part begins that is decided next; `None` behind the last address of all.
    let mut at = Some(0);
    for (net, spare) in marks.iter() {
        let span = Span::of(net);
        close(&mut open, &mut at, &mut spared, |last| last < span.first);
        if let (Some(&(_, true)), Some(first)) = (open.last(), at)
            && first < span.first
        {
            spared.push(Span {
                first,
                last: span.first - 1,
            });
        }
        at = Some(span.first);
        open.push((span, *spare));
    }
    close(&mut open, &mut at, &mut spared, |_last| true);
    spared
}

/// Ends the innermost networks, as long as `ends` says so of their last address.
fn close(
    open: &mut Vec<(Span, bool)>,
    at: &mut Option<u128>,
    spared: &mut Vec<Span>,
    ends: impl Fn(u128) -> bool,
) {
    while let Some((span, spare)) = open.pop_if(|(span, _)| ends(span.last)) {
        if let (true, Some(first)) = (spare, *at)
            && first <= span.last
        {
            spared.push(Span {
                first,
                last: span.last,
            });
        }
        // A network inside that ended with this one has decided everything before.
        let next = span.last.checked_add(1);
        *at = next.map(|next| at.map_or(next, |at| at.max(next)));
    }
}

/// In order, and what overlaps or touches as one.
fn merge(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(span.last);
            }
            _ => merged.push(span),
        }
    }
    merged
}

impl Rule {
    /// The mark that a rule carries in the kernel, visible as its comment: whose it is,
    /// for which pods, and of which content. Two rules with one tag are the same rule.
    pub(crate) fn tag(&self) -> Tag {
        let hash = |text: String| siphasher::sip::SipHasher13::new().hash(text.as_bytes());
        Tag {
            network: hash(self.network.to_string()),
            pods: hash(Set(&self.sources).to_string()),
            content: hash(format!("{FORMAT} {self}")),
        }
    }
}

/// Identifies a rule among those of the table; `Display` and `parse` are its comment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tag {
    network: u64,
    pods: u64,
    content: u64,
}

impl Tag {
    /// An older wording of the rule that this tag stands for.
    pub(crate) fn supersedes(self, other: Self) -> bool {
        self.is_for_the_pods_of(other) && self.content != other.content
    }

    /// Both are for the same pods, whatever else they say.
    pub(crate) fn is_for_the_pods_of(self, other: Self) -> bool {
        self.network == other.network && self.pods == other.pods
    }

    /// Both belong to one network.
    pub(crate) fn is_of(self, network: &NetworkName) -> bool {
        self.network == siphasher::sip::SipHasher13::new().hash(network.as_str().as_bytes())
    }

    /// Reads the mark behind a rule's comment. `None` for rules of other people.
    pub(crate) fn parse(comment: &str) -> Option<Self> {
        let mut numbers = comment
            .rsplit_once('#')?
            .1
            .split('.')
            .map(|part| u64::from_str_radix(part, 16).ok());
        let tag = Self {
            network: numbers.next()??,
            pods: numbers.next()??,
            content: numbers.next()??,
        };
        numbers.next().is_none().then_some(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{:016x}.{:016x}.{:016x}",
            self.network, self.pods, self.content
        )
    }
}

/// The masquerade rule in nft's syntax.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.part(Part::Masquerade).fmt(f)
    }
}

impl Rule {
    /// One of the two rules, in nft's syntax.
    pub(crate) fn part(&self, part: Part) -> impl fmt::Display {
        Written { rule: self, part }
    }
}

struct Written<'a> {
    rule: &'a Rule,
    part: Part,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.rule.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let (sources, spared) = (Set(&self.rule.sources), Set(&self.rule.spared));
        // The guard sees every packet: what is cheap and rare comes first.
        if self.part == Part::Guard {
            f.write_str("ct state invalid ")?;
        }
        write!(f, "{family} saddr {sources} {family} daddr != {spared} ")?;
        f.write_str(match self.part {
            Part::Masquerade => "fib daddr type != local masquerade fully-random",
            Part::Guard => "drop",
        })
    }
}

struct Set<'a>(&'a [Interval]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ ")?;
        for (number, interval) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{interval}")?;
        }
        f.write_str(" }")
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Some(net) => write!(f, "{net}"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Interval {
    fn prefix(&self) -> Option<IpNet> {
        let shared = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                (u32::from(first) ^ u32::from(last)).leading_zeros()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                (u128::from(first) ^ u128::from(last)).leading_zeros()
            }
            _ => return None,
        };
        let net = IpNet::new(self.first, u8::try_from(shared).ok()?).ok()?;
        (net.network() == self.first && net.broadcast() == self.last).then_some(net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn rules(policy: &Policy, pods: &[&str]) -> Vec<String> {
        let network: NetworkName = "cbr0".parse().unwrap();
        policy
            .rules(&network, &nets(pods))
            .iter()
            .map(Rule::to_string)
            .collect()
    }

    #[test]
    fn a_node_inside_10_spares_10_and_multicast() {
        let rule = "ip saddr { 10.64.1.0/24 } ip daddr != { 10.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4 } \
                    fib daddr type != local masquerade fully-random";
        assert_eq!(
            rules(&Policy::new(None, vec![], false), &["10.64.1.0/24"]),
            [rule]
        );
    }

    #[test]
    fn the_guard_is_about_the_same_traffic() {
        let policy = Policy::new(Some(vec![]), vec![], true);
        let network: NetworkName = "cbr0".parse().unwrap();
        let rule = policy.rules(&network, &nets(&["fd00:1::/64"])).remove(0);
        assert_eq!(
            rule.part(Part::Guard).to_string(),
            "ct state invalid ip6 saddr { fd00:1::/64 } ip6 daddr != { fd00:1::/64, ff00::/8 } drop"
        );
    }

    #[test]
    fn the_agent_has_defaults_of_its_own() {
        let policy = Policy::of_agent(None, vec![], &[]);
        assert_eq!(
            rules(&policy, &["10.64.1.0/24", "fd00:1::/64"]),
            [
                "ip saddr { 10.64.1.0/24 } ip daddr != \
                 { 10.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/4 } \
                 fib daddr type != local masquerade fully-random",
                "ip6 saddr { fd00:1::/64 } ip6 daddr != { fc00::/7, fe80::/10, ff00::/8 } \
                 fib daddr type != local masquerade fully-random",
            ]
        );
    }

    #[test]
    fn the_agent_tells_the_link_local_addresses_of_the_families_apart() {
        let policy = Policy::of_agent(Some(vec![]), vec![], &[Family::V4]);
        assert_eq!(
            rules(&policy, &["10.64.1.0/24", "fd00:1::/64"]),
            [
                "ip saddr { 10.64.1.0/24 } ip daddr != { 10.64.1.0/24, 224.0.0.0/4 } \
                 fib daddr type != local masquerade fully-random",
                "ip6 saddr { fd00:1::/64 } ip6 daddr != { fd00:1::/64, fe80::/10, ff00::/8 } \
                 fib daddr type != local masquerade fully-random",
            ]
        );
    }

    #[test]
    fn pods_outside_10_are_spared_too() {
        let rule = "ip saddr { 192.168.7.0/24 } ip daddr != { 10.0.0.0/8, 192.168.7.0/24, 224.0.0.0/4 } \
                    fib daddr type != local masquerade fully-random";
        assert_eq!(
            rules(&Policy::new(None, vec![], true), &["192.168.7.0/24"]),
            [rule]
        );
    }

    #[test]
    fn only_unique_local_ipv6_is_masqueraded() {
        let rule = "ip6 saddr { fd00:1::/64 } ip6 daddr != { fc00::/7, fe80::/10, ff00::/8 } \
                    fib daddr type != local masquerade fully-random";
        assert_eq!(
            rules(
                &Policy::new(None, vec![], false),
                &["fd00:1::/64", "2001:db8::/64"]
            ),
            [rule]
        );
    }

    #[test]
    fn other_ipv6_is_masqueraded_where_all_destinations_are_named() {
        let rule = "ip6 saddr { 2001:db8::/64 } ip6 daddr != { 2001:db8::/64, ff00::/8 } \
                    fib daddr type != local masquerade fully-random";
        let policy = Policy::new(Some(vec![]), nets(&["::/0"]), true);
        assert_eq!(rules(&policy, &["2001:db8::/64"]), [rule]);
    }

    #[test]
    fn the_longest_prefix_decides() {
        let policy = Policy::new(
            Some(nets(&["10.0.0.0/8", "10.9.9.9/32"])),
            nets(&["10.9.0.0/16"]),
            true,
        );
        let rule = "ip saddr { 10.64.1.0/24 } ip daddr != \
                    { 10.0.0.0-10.8.255.255, 10.9.9.9, 10.10.0.0-10.255.255.255, 224.0.0.0/4 } \
                    fib daddr type != local masquerade fully-random";
        assert_eq!(rules(&policy, &["10.64.1.0/24"]), [rule]);
    }

    #[test]
    fn networks_that_begin_or_end_together_are_told_apart() {
        let spared = nets(&[
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.255.255.0/24",
            "255.255.255.255/32",
        ]);
        let policy = Policy::new(
            Some(spared),
            nets(&["10.0.0.0/16", "10.255.0.0/16", "0.0.0.0/0"]),
            true,
        );
        let rule = "ip saddr { 10.64.1.0/24 } ip daddr != \
                    { 10.0.0.0/24, 10.1.0.0-10.254.255.255, 10.255.255.0/24, 224.0.0.0/4, 255.255.255.255 } \
                    fib daddr type != local masquerade fully-random";
        assert_eq!(rules(&policy, &["10.64.1.0/24"]), [rule]);
    }

    #[test]
    fn ten_thousand_networks_are_no_burden() {
        let spared: Vec<IpNet> = (0..10_000_u32)
            .map(|n| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x1400_0000 + 2 * n))))
            .collect();
        let started = std::time::Instant::now();
        let rules = Policy::new(Some(spared), vec![], false)
            .rules(&"cbr0".parse().unwrap(), &nets(&["10.64.1.0/24"]));
        assert_eq!(rules[0].spared.len(), 10_003);
        assert!(started.elapsed().as_secs() < 2);
    }

    #[test]
    fn an_empty_list_spares_nothing_but_the_pods() {
        let policy = Policy::new(Some(vec![]), vec![], true);
        let rule = "ip saddr { 10.64.0.0/23 } ip daddr != { 10.64.0.0/23, 224.0.0.0/4 } \
                    fib daddr type != local masquerade fully-random";
        assert_eq!(rules(&policy, &["10.64.1.0/24", "10.64.0.0/24"]), [rule]);
    }

    #[test]
    fn everything_can_be_spared() {
        let policy = Policy::new(Some(nets(&["0.0.0.0/0"])), vec![], false);
        let rule = "ip saddr { 10.64.1.0/24 } ip daddr != { 0.0.0.0/0 } fib daddr type != local masquerade fully-random";
        assert_eq!(rules(&policy, &["10.64.1.0/24"]), [rule]);
    }

    #[test]
    fn a_tag_survives_the_way_through_a_comment_and_tells_a_change() {
        let network: NetworkName = "cbr0".parse().unwrap();
        let tag = |spared| {
            Policy::new(spared, vec![], false).rules(&network, &nets(&["10.64.1.0/24"]))[0].tag()
        };
        let (old, new) = (tag(None), tag(Some(vec![])));
        assert_eq!(Tag::parse(&format!("cbr0: pods {old}")), Some(old));
        assert!(new.supersedes(old) && !new.supersedes(new));
        assert!(old.is_of(&network));
        for foreign in ["", "a comment", "#1.2", "#1.2.3.4", "#x.y.z"] {
            assert_eq!(Tag::parse(foreign), None);
        }
    }
}
