//! The node's own firewall where it is in the way of pods: what it does with them, and with
//! `forwardAccept` the rules that let them pass.
//!
//! Those rules stand in chains of other people, are shared by all pods of a network and come
//! back with the next ADD, so DEL leaves them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use cni_protocol::{InterfaceName, NetworkName};
use ipnet::IpNet;

use crate::{
    error::Error,
    firewall::{self, BaseChain, Finding, Link, Pods, Version},
    nft::{
        MAX_COMMENT, Nft, TABLE,
        firewall::{Accept, End, Kernel, base_chains, has, insert, remove, rules},
    },
    object::uplink,
    plan::Plan,
    rtnl::{self, Host, Rtnl},
};

/// How often the chains are looked at again that changed meanwhile.
const ATTEMPTS: usize = 4;

/// Whose packets are to pass.
#[derive(Clone, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) network: &'a NetworkName,
    pub(crate) bridge: &'a InterfaceName,
    /// The link with the gateways' addresses. `None` when this node does not route for pods.
    pub(crate) gateway: Option<&'a InterfaceName>,
    /// Every network that pods have addresses in.
    pub(crate) pods: &'a [IpNet],
    /// `forwardAccept`.
    pub(crate) accept: bool,
}

/// Sees to it that pods are accepted in every forward chain that drops what it does not know.
/// Answers in words what was put in.
///
/// Reads only, when the rules are there. A chain that this process may not change is no
/// failure: stderr says what to do.
pub(crate) fn ensure(host: &mut Rtnl<Host>, scope: &Scope<'_>) -> Result<Vec<String>, Error> {
    let mut inserted = Vec::new();
    if !scope.accept || scope.pods.is_empty() {
        return Ok(inserted);
    }
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    let chains = base_chains(&mut nft)?;
    let wanted = scope.accepts();
    let mut open = Vec::new();
    for chain in chains.iter().filter(|chain| scope.comes_by(chain)) {
        let there = rules(&mut nft, &chain.table, &chain.name)?;
        if !wanted.iter().all(|accept| has(&there, accept)) {
            open.push(chain);
        }
    }
    if !open.is_empty() {
        let pods = scope.look(host)?;
        let findings = firewall::examine(&mut Kernel::new(&mut nft), &open, &chains, &pods)?;
        // Who names the pods in a rule wants it as it is.
        for finding in findings.iter().filter(|finding| !finding.meant) {
            let chain = &finding.chain;
            if chain.owned {
                cni_protocol::log(&format_args!(
                    "cannot accept pods in the firewall, for another process has nftables table {} for itself: \
                     {finding}: {}",
                    chain.table,
                    finding.remedy(&pods)
                ));
            } else if insert(&mut nft, chain, &wanted)? {
                inserted.push(format!(
                    "rules that accept pods in chain {} of nftables table {}",
                    chain.name, chain.table
                ));
            }
        }
    }
    for program in legacy(scope.pods) {
        cni_protocol::log(&format_args!(
            "{program} is in force, where pods cannot be accepted from here: if {program} -S FORWARD shows that they are \
             dropped, run: {program} -I FORWARD -i {bridge} -j ACCEPT && {program} -I FORWARD -o {bridge} -j ACCEPT",
            bridge = scope.bridge
        ));
    }
    Ok(inserted)
}

/// What is in the way of pods for certain, and the accepting rules that are missing. A rule
/// that names the pods is no difference: somebody wants it so.
pub(crate) fn check(host: &mut Rtnl<Host>, scope: &Scope<'_>) -> Result<Vec<String>, Error> {
    let (findings, pods) = findings(host, scope)?;
    let differences = findings.iter().filter_map(|(finding, state)| match state {
        Rules::Missing => Some(format!(
            "the rules of \"forwardAccept\" are missing, so {finding}: the next ADD puts them in"
        )),
        _ if finding.certain && !finding.meant => {
            Some(format!("{finding}: {}", fix(scope, finding, &pods)))
        }
        _ => None,
    });
    Ok(differences.collect())
}

/// Says on stderr what is in the way of pods, or may be.
pub(crate) fn note(host: &mut Rtnl<Host>, scope: &Scope<'_>) -> Result<(), Error> {
    let (findings, pods) = findings(host, scope)?;
    for (finding, _) in &findings {
        if finding.meant {
            cni_protocol::log(&format_args!("{finding}, by a rule that names them"));
        } else {
            cni_protocol::log(&format_args!("{finding}: {}", fix(scope, finding, &pods)));
        }
    }
    for program in legacy(scope.pods) {
        cni_protocol::log(&format_args!(
            "{program} is in force, whose rules cannot be read from here: {program} -S FORWARD shows whether they \
             drop the packets of pods"
        ));
    }
    Ok(())
}

fn fix(scope: &Scope<'_>, finding: &Finding, pods: &Pods) -> String {
    let remedy = finding.remedy(pods);
    match (scope.accept, finding.chain.owned) {
        (_, true) => format!("another process has the table for itself, so run: {remedy}"),
        (false, false) => format!("set \"forwardAccept\": true, or run: {remedy}"),
        (true, false) => format!("the next ADD accepts them; or run: {remedy}"),
    }
}

/// Whether the rules of `forwardAccept` are in a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rules {
    NotWanted,
    There,
    Missing,
}

/// What is found in one state of the rules: a firewall that is just being loaded again drops
/// more than it will.
fn findings(
    host: &mut Rtnl<Host>,
    scope: &Scope<'_>,
) -> Result<(Vec<(Finding, Rules)>, Pods), Error> {
    let mut pods = scope.look(host)?;
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    let mut everywhere = false;
    for _attempt in 0..ATTEMPTS {
        let before = nft.generation()?;
        let found = scope.findings(&mut nft, &pods)?;
        if !everywhere && found.iter().any(|(finding, _)| finding.certain) {
            // Certain is what is so on every way out, not only on that of the default route.
            everywhere = true;
            pods = scope.on_every_link(host, pods)?;
        } else if nft.generation()? == before {
            return Ok((found, pods));
        }
    }
    Ok((Vec::new(), pods))
}

/// Removes the accepting rules of a network but for those from and to these links.
pub(crate) fn collect_garbage(network: &NetworkName, kept: &[&InterfaceName]) -> Result<(), Error> {
    let kept: Vec<Accept> = kept
        .iter()
        .flat_map(|link| accepts(network, link.as_str()))
        .collect();
    let is_stale = |comment: &str| {
        is_of(comment, network) && !kept.iter().any(|accept| accept.comment == comment)
    };
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    for chain in base_chains(&mut nft)? {
        if chain.hook == firewall::Hook::Forward {
            remove(&mut nft, &chain, is_stale)?;
        }
    }
    Ok(())
}

impl<'a> Scope<'a> {
    /// That of an attachment.
    pub(crate) fn of(plan: &'a Plan) -> Self {
        let bridge = &plan.bridge;
        Self {
            network: &plan.veth.attachment.network,
            bridge: &bridge.name,
            gateway: (!bridge.gateways.is_empty()).then(|| bridge.gateway_holder()),
            pods: &plan.pods,
            accept: plan.forward_accept,
        }
    }

    /// Chains of ours accept by themselves.
    fn comes_by(&self, chain: &BaseChain) -> bool {
        chain.table.name != TABLE && chain.sees(self.pods)
    }

    fn links(&self) -> Vec<&InterfaceName> {
        let gateway = self.gateway.filter(|gateway| *gateway != self.bridge);
        std::iter::once(self.bridge).chain(gateway).collect()
    }

    fn accepts(&self) -> Vec<Accept> {
        let links = self.links();
        let accepts = |link: &&InterfaceName| accepts(self.network, link.as_str());
        links.iter().flat_map(accepts).collect()
    }

    fn findings(&self, nft: &mut Nft, pods: &Pods) -> Result<Vec<(Finding, Rules)>, Error> {
        let chains = base_chains(nft)?;
        let forward: Vec<&BaseChain> = chains.iter().filter(|chain| self.comes_by(chain)).collect();
        let mut findings = Vec::new();
        for finding in firewall::examine(&mut Kernel::new(nft), &forward, &chains, pods)? {
            let state = self.state(nft, &finding)?;
            findings.push((finding, state));
        }
        Ok(findings)
    }

    fn state(&self, nft: &mut Nft, finding: &Finding) -> Result<Rules, Error> {
        let chain = &finding.chain;
        if !self.accept || chain.owned || finding.meant {
            return Ok(Rules::NotWanted);
        }
        let there = rules(nft, &chain.table, &chain.name)?;
        let complete = self.accepts().iter().all(|accept| has(&there, accept));
        Ok(if complete {
            Rules::There
        } else {
            Rules::Missing
        })
    }

    /// The links, as they are. One that is not there has a name.
    fn look(&self, host: &mut Rtnl<Host>) -> Result<Pods, Error> {
        let mut named = |name: &InterfaceName| -> Result<(Link, Option<(bool, bool)>), Error> {
            let found = host.find_link(name)?;
            let link = Link {
                name: name.to_string(),
                index: found.as_ref().map(|link| link.index.number),
            };
            Ok((link, found.and_then(|link| link.netfilter_calls)))
        };
        let (bridge, calls) = named(self.bridge)?;
        let gateway = match self.gateway {
            Some(gateway) => Some(named(gateway)?.0),
            None => None,
        };
        let mut towards = |version: Version, outside: IpAddr| -> Result<Vec<Link>, Error> {
            if !self.pods.iter().any(|net| Version::of(net) == version) {
                return Ok(Vec::new());
            }
            Ok(uplink::find(host, outside)?.iter().map(as_named).collect())
        };
        Ok(Pods {
            bridge,
            gateway,
            bridged: calls.unwrap_or((true, true)),
            networks: self.pods.to_vec(),
            uplinks: (
                towards(Version::V4, Ipv4Addr::UNSPECIFIED.into())?,
                towards(Version::V6, Ipv6Addr::UNSPECIFIED.into())?,
            ),
        })
    }

    /// With every link that leads out, besides those of the default routes.
    fn on_every_link(&self, host: &mut Rtnl<Host>, mut pods: Pods) -> Result<Pods, Error> {
        let links = self.links();
        let is_own = |link: &Link| links.iter().any(|own| own.as_str() == link.name);
        for link in uplink::all(host)?.iter().map(as_named) {
            for uplinks in [&mut pods.uplinks.0, &mut pods.uplinks.1] {
                if !is_own(&link) && !uplinks.contains(&link) {
                    uplinks.push(link.clone());
                }
            }
        }
        Ok(pods)
    }
}

fn as_named(link: &rtnl::Link<Host>) -> Link {
    Link {
        name: link.name.clone(),
        index: Some(link.index.number),
    }
}

/// The two rules for a link.
fn accepts(network: &NetworkName, link: &str) -> [Accept; 2] {
    [(End::From, "from"), (End::To, "to")].map(|(end, word)| {
        let tag = tag(network);
        let room = MAX_COMMENT - 1 - format!("{word} {link}: pods of  {tag}").len();
        let name: String = network.as_str().chars().take(room).collect();
        Accept {
            link: link.to_owned(),
            end,
            comment: format!("{word} {link}: pods of {name} {tag}"),
        }
    })
}

/// A network's name may be longer than a comment.
fn tag(network: &NetworkName) -> String {
    let hash = siphasher::sip::SipHasher13::new().hash(network.as_str().as_bytes());
    format!("#f{hash:016x}")
}

/// Whether a rule with this comment is one of a network's.
fn is_of(comment: &str, network: &NetworkName) -> bool {
    comment.ends_with(&tag(network))
}

/// The programs of iptables-legacy whose filter table is in force, in the namespace of the
/// calling thread. The kernel makes a table when somebody first asks for it.
fn legacy(pods: &[IpNet]) -> Vec<&'static str> {
    let programs = [
        (Version::V4, "ip_tables_names", "iptables-legacy"),
        (Version::V6, "ip6_tables_names", "ip6tables-legacy"),
    ];
    programs
        .into_iter()
        .filter(|(version, file, _)| {
            let tables = fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            pods.iter().any(|net| Version::of(net) == *version)
                && tables.is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
        })
        .map(|(_, _, program)| program)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_network_are_known_by_their_comments() {
        let long = "n".repeat(200);
        for network in ["cbr0", "another.net_work", &long] {
            let network: NetworkName = network.parse().unwrap();
            let [from, to] = accepts(&network, "fifteen-letters");
            assert_ne!(from.comment, to.comment);
            for accept in [from, to] {
                assert!(accept.comment.len() < MAX_COMMENT, "{}", accept.comment);
                assert!(is_of(&accept.comment, &network));
                assert!(!is_of(&accept.comment, &"cbr1".parse().unwrap()));
            }
        }
    }

    #[test]
    fn comments_say_whose_rules_they_are() {
        let [from, to] = accepts(&"cbr0".parse().unwrap(), "cbr0");
        assert_eq!(from.comment, "from cbr0: pods of cbr0 #f2f0c1ebc8edeaae5");
        assert_eq!(to.comment, "to cbr0: pods of cbr0 #f2f0c1ebc8edeaae5");
    }
}
