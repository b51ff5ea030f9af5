//! The masquerade rules that the Go `bridge` plugin makes for each pod, so that pods which it
//! connected leave nothing behind when this plugin removes them.
//!
//! Knows the Go plugin's names (`pkg/ip/ipmasq_*.go` and `pkg/utils` of its version 1.9.1) and
//! removes only what carries them. Rules of iptables-legacy are beyond nftables.

use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage},
};
use sha2::{Digest, Sha512};

use super::{Batch, Found, Nft, envelope};
use crate::netlink::{Answer, Error, Request};
use cni_protocol::Attachment;

/// Where iptables keeps its nat rules.
const IPTABLES_TABLE: &str = "nat";
const IPTABLES_CHAIN: &str = "POSTROUTING";
/// An iptables chain of the Go plugins is named so, up to 28 characters.
const CHAIN_PREFIX: &str = "CNI-";
const CHAIN_LENGTH: usize = 28;
/// Where the Go plugin keeps its nftables rules.
const NFTABLES_TABLE: &str = "cni_plugins_masquerade";
const NFTABLES_CHAIN: &str = "masq_checks";
const HASH_LENGTH: usize = 16;

/// Removes the rules of one attachment, of either backend. None there: fine.
pub(crate) fn remove(nft: &mut Nft, attachment: &Attachment) -> Result<(), Error> {
    let chain = chain_name(attachment);
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        if nft.has_chain(family, IPTABLES_TABLE, &chain)? {
            nft.transact(|nft, batch| remove_chain(nft, batch, family, &chain))?;
        }
    }
    let tag = comment_tag(attachment);
    nft.transact(|nft, batch| {
        let family = NetfilterProtoFamily::Inet;
        let rules = nft.rules_of(family, NFTABLES_TABLE, NFTABLES_CHAIN)?;
        for rule in rules.iter().filter(|rule| rule.comment.starts_with(&tag)) {
            batch.remove_rules(family, NFTABLES_TABLE, NFTABLES_CHAIN, Some(rule.handle));
        }
        Ok(())
    })
}

/// The jumps to the chain, what is in it, and itself.
fn remove_chain(
    nft: &mut Nft,
    batch: &mut Batch,
    family: NetfilterProtoFamily,
    chain: &str,
) -> Result<(), Error> {
    for handle in nft.rules_naming(family, IPTABLES_TABLE, IPTABLES_CHAIN, chain)? {
        batch.remove_rules(family, IPTABLES_TABLE, IPTABLES_CHAIN, Some(handle));
    }
    batch.remove_rules(family, IPTABLES_TABLE, chain, None);
    let message = ChainMessage {
        attributes: vec![
            ChainAttribute::Table(IPTABLES_TABLE.to_owned()),
            ChainAttribute::Name(chain.to_owned()),
        ],
    };
    let operation = format!("remove chain {chain} of an earlier plugin");
    batch.push(
        operation,
        0,
        envelope(family, NfTablesMessage::DeleteChain(message)),
    );
    Ok(())
}

/// `FormatChainName(network, containerID)`.
fn chain_name(attachment: &Attachment) -> String {
    let mut name = CHAIN_PREFIX.to_owned()
        + &hash(&format!(
            "{}{}",
            attachment.network, attachment.container_id
        ));
    name.truncate(CHAIN_LENGTH);
    name
}

/// `hashForInstance(network, ifname, containerID)`, with which the rule's comment begins.
fn comment_tag(attachment: &Attachment) -> String {
    let short = |text: &str| {
        let mut hash = hash(text);
        hash.truncate(HASH_LENGTH);
        hash
    };
    let instance = format!("{}:{}", attachment.interface, attachment.container_id);
    format!(
        "{}-{}",
        short(attachment.network.as_str()),
        short(&instance)
    )
}

fn hash(text: &str) -> String {
    let digest = Sha512::digest(text.as_bytes());
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

impl Nft {
    fn has_chain(
        &mut self,
        family: NetfilterProtoFamily,
        table: &str,
        chain: &str,
    ) -> Result<bool, Error> {
        let message = NfTablesMessage::GetChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(table.to_owned()),
                ChainAttribute::Name(chain.to_owned()),
            ],
        });
        let operation = format!("look up chain {chain} in nftables table {table}");
        let request = Request {
            message: envelope(family, message),
            flags: 0,
            answer: Answer::One,
            operation,
        };
        match self.socket.execute(vec![request], |_reply| {}) {
            Err(error) if error.is_absent() => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    fn rules_of(
        &mut self,
        family: NetfilterProtoFamily,
        table: &str,
        chain: &str,
    ) -> Result<Vec<Found>, Error> {
        let mut rules = Vec::new();
        self.list_rules(family, table, chain, |payload| {
            rules.extend(super::found(payload));
        })?;
        Ok(rules)
    }

    /// The rules in which a name occurs: that of the chain they jump to.
    fn rules_naming(
        &mut self,
        family: NetfilterProtoFamily,
        table: &str,
        chain: &str,
        name: &str,
    ) -> Result<Vec<u64>, Error> {
        let mut handles = Vec::new();
        let occurs = |payload: &[u8]| {
            payload
                .windows(name.len())
                .any(|part| part == name.as_bytes())
        };
        self.list_rules(family, table, chain, |payload| {
            handles.extend(super::handle(payload).filter(|_| occurs(payload)));
        })?;
        Ok(handles)
    }
}

impl Batch {
    /// Removes one rule, or all of a chain.
    fn remove_rules(
        &mut self,
        family: NetfilterProtoFamily,
        table: &str,
        chain: &str,
        handle: Option<u64>,
    ) {
        let mut attributes = vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
        ];
        attributes.extend(handle.map(RuleAttribute::Handle));
        let operation = format!("remove rules of an earlier plugin from chain {chain}");
        self.push(
            operation,
            0,
            envelope(
                family,
                NfTablesMessage::DeleteRule(RuleMessage { attributes }),
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What the Go plugins 1.9.1 make of the same names.
    #[test]
    fn names_are_those_of_the_go_plugin() {
        let attachment = Attachment {
            network: "cbr0".parse().unwrap(),
            container_id: "pod1".parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        };
        assert_eq!(chain_name(&attachment), GO_CHAIN);
        assert_eq!(comment_tag(&attachment), GO_TAG);
    }

    const GO_CHAIN: &str = "CNI-1acd23a563d6b73ddfb74ccf";
    const GO_TAG: &str = "cb6e746fae1a4d6c-6355d90ba0c2d0cc";
}
