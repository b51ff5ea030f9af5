//! Everything that can keep an attachment from being made, checked or removed.

use std::{fmt, io, net::IpAddr, path::PathBuf, sync::Arc};

use cni_protocol::{
    Attachment, Code, DecodeError, ErrorReply, Failure, InterfaceName, NetworkName,
    NotRepresentable,
};
use ipnet::IpNet;

use crate::{agent, config, netlink, netns, overlap::Occupant, sysctl};

/// One variant for each thing that a reader of the message would do differently.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error("plugin's netns and netns from CNI_NETNS should not be the same: {} is the node's own network namespace", .0.display())]
    OwnNetns(PathBuf),
    #[error("cannot open a netlink socket")]
    Connect(#[source] io::Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    #[error(transparent)]
    Ipam(#[from] cni_ipam::Error),
    #[error(transparent)]
    Delegate(#[from] cni_protocol::delegate::Error),
    #[error("IPAM plugin returned missing IP config: {0} answered without an address")]
    NoAddresses(String),
    #[error(
        "{0} has no room for a gateway address, and the IPAM plugin named none: set \"isGateway\" and \"isDefaultGateway\" to false or have the IPAM name one"
    )]
    NoGateway(IpNet),
    #[error("link {name} exists and is no bridge: remove it, or set \"bridge\" to another name")]
    NotABridge { name: InterfaceName },
    #[error(
        "the gateway's link in the VLAN cannot have the name {name}: set \"bridge\" to a shorter one"
    )]
    GatewayLinkName {
        name: String,
        #[source]
        source: cni_protocol::InvalidInterfaceName,
    },
    #[error("bridge {bridge} vanished while it was set up")]
    BridgeVanished { bridge: InterfaceName },
    #[error(
        "bridge {bridge} already has the IP address {found}, which differs from {wanted}, and {ports} ports are on it: {}",
        Way { bridge, found, drain: *ports > 0 && *ours }
    )]
    OtherAddress {
        bridge: InterfaceName,
        found: IpNet,
        wanted: IpNet,
        /// How many ports the bridge has.
        ports: usize,
        /// The bridge is of our making: without ports the address would be replaced.
        ours: bool,
    },
    #[error(
        "the pods' network {pods} is not free: {by}. What is sent there would go to the pods: give the pods another \"subnet\", or the node another address"
    )]
    Overlap { pods: IpNet, by: Occupant },
    #[error(
        "bridge {bridge} has no free port: the kernel allows 1023, so no more than 1023 pods fit on this node"
    )]
    BridgeFull {
        bridge: InterfaceName,
        #[source]
        source: netlink::Error,
    },
    #[error(
        "the attachment {attachment} exists already, with link {link}: a DEL has to come before another ADD"
    )]
    AttachmentExists {
        attachment: Box<Attachment>,
        link: InterfaceName,
    },
    #[error(
        "link {0} vanished while its pod was connected: a DEL of the same attachment came in between"
    )]
    LinkVanished(String),
    #[error("the attachment {0} is made again and again while it is removed")]
    ComesBack(Box<Attachment>),
    #[error("interface {interface} already exists in network namespace {}", netns.display())]
    InterfaceExists {
        interface: InterfaceName,
        netns: PathBuf,
    },
    #[error(
        "address {address} of {interface} is in use by another host on the link (duplicate address detection)"
    )]
    DuplicateAddress {
        interface: InterfaceName,
        address: IpAddr,
    },
    #[error("cannot use prevResult")]
    PrevResult(#[source] DecodeError),
    #[error("Required prevResult missing: CHECK compares with the result of the ADD")]
    NoPrevResult,
    #[error("prevResult has no interface {0} in a sandbox")]
    NotInPrevResult(InterfaceName),
    /// What CHECK found.
    #[error("the attachment is not as ADD left it: {}", .0.join("; "))]
    Differences(Vec<String>),
    /// What several steps of a GC could not do.
    #[error("{} of the steps of GC failed: {}", .0.len(), .0.join("; "))]
    Garbage(Vec<String>),
    /// What keeps an ADD from working, told to a STATUS.
    #[error("no pod can be connected: {0}")]
    NotReady(String),
    #[error(
        "network {network} still connects {pods} {}: nothing is removed (`cni-ipam list` shows them)",
        if *pods == 1 { "pod" } else { "pods" }
    )]
    PodsConnected { network: NetworkName, pods: usize },
    /// And there are no rules that could stay.
    #[error(transparent)]
    MasqueradeFile(Arc<agent::Error>),
    #[error("cannot talk to nftables: the kernel may lack it (CONFIG_NF_TABLES)")]
    Nftables(#[source] io::Error),
    #[error(transparent)]
    NotRepresentable(#[from] NotRepresentable),
}

/// The way out, where another address stands in a gateway's way.
struct Way<'a> {
    bridge: &'a InterfaceName,
    found: &'a IpNet,
    drain: bool,
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bridge,
            found,
            drain,
        } = self;
        if *drain {
            let pods = found.trunc();
            write!(
                f,
                "drain the node, and the next pod will replace it; or, at the cost of the pods of {pods}, "
            )?;
        }
        write!(
            f,
            "remove it (ip address del {found} dev {bridge}), or set \"forceAddress\""
        )
    }
}

impl Failure for Error {
    // No `_` arm: a new variant has to choose its code.
    fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Ipam(error) => error.code(),
            Self::Delegate(error) => error.code(),
            Self::PrevResult(error) => error.code(),
            // "The runtime does not need to perform any cleanup": nothing was touched.
            Self::Netns(netns::Error::Gone { .. }) => Code::UnknownContainer,
            Self::OwnNetns(_) => Code::InvalidNetns,
            Self::Netns(_)
            | Self::Connect(_)
            | Self::Netlink(_)
            | Self::Sysctl(_)
            | Self::Nftables(_) => Code::Io,
            Self::NoGateway(_)
            | Self::NotABridge { .. }
            | Self::GatewayLinkName { .. }
            | Self::OtherAddress { .. }
            | Self::Overlap { .. }
            | Self::MasqueradeFile(_)
            | Self::NotRepresentable(_)
            | Self::NoPrevResult
            | Self::NotInPrevResult(_) => Code::InvalidConfig,
            // CNI_CONTAINERID and CNI_IFNAME name something that is there.
            Self::AttachmentExists { .. } | Self::InterfaceExists { .. } => {
                Code::InvalidEnvironment
            }
            Self::NotReady(_) => Code::Unavailable,
            // A port is free again when a pod goes.
            Self::BridgeVanished { .. }
            | Self::BridgeFull { .. }
            | Self::LinkVanished(_)
            | Self::ComesBack(_)
            | Self::PodsConnected { .. } => Code::TryAgain,
            Self::NoAddresses(_)
            | Self::DuplicateAddress { .. }
            | Self::Differences(_)
            | Self::Garbage(_) => Code::Internal,
        }
    }

    fn reply(&self) -> ErrorReply {
        match self {
            // The delegate's own words, with its own details, are what the runtime is to see.
            Self::Delegate(error) => error.reply(),
            _ => ErrorReply::of(self, self.code()),
        }
    }
}
