//! What can go wrong, in the words that `kubectl describe pod` shows.

use std::{fmt, io, net::IpAddr, path::PathBuf, time::Duration};

use cni_protocol::{Attachment, Code, Failure};

use crate::{cause::Cause, config::ConfigError, store::Holder};

/// One variant for each thing that a reader of the message would do differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),

    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: Cause,
    },

    #[error("cannot ask the kernel for its links")]
    Links(#[source] Cause),

    /// The lock was not to be had in time.
    #[error(
        "the lease store {} is locked by {} since more than {} s; if that process is stopped, let it go on or end it",
        path.display(), HolderOrUnknown(holder.as_ref()), waited.as_secs()
    )]
    Busy {
        path: PathBuf,
        holder: Option<Holder>,
        waited: Duration,
    },

    #[error("{0}")]
    Exhausted(Box<Exhausted>),

    /// The address that was asked for is not free.
    #[error("requested IP address {address} is not available in range set {set}: {owner} has it")]
    Requested {
        address: IpAddr,
        set: String,
        owner: String,
    },

    /// The attachment has an address already, and another one is asked for.
    #[error(
        "{attachment} has {held} already and cannot get {requested} instead: it has to be deleted first"
    )]
    Holds {
        attachment: Box<Attachment>,
        held: String,
        requested: IpAddr,
    },

    /// Between the lease and its use, the lease was given to somebody else or dropped.
    #[error("the lease of {address} for {attachment} was taken back, try again")]
    TakenBack {
        address: IpAddr,
        attachment: Box<Attachment>,
    },

    /// CHECK: the store does not say what the result of ADD said.
    #[error("{attachment} should have {expected}, but the lease store {} {found}", path.display())]
    Differs {
        attachment: Box<Attachment>,
        expected: String,
        found: String,
        path: PathBuf,
    },

    /// STATUS: the place for the leases is of no use.
    #[error("cannot keep leases in {}", path.display())]
    Unusable { path: PathBuf, source: Cause },

    /// STATUS, where it was asked to say so.
    #[error("no IP addresses available in range set: {0}")]
    NoneFree(String),

    /// The leases cannot be handed over to host-local: whose some are is not known.
    #[error(
        "the lease store {} has damaged records ({addresses}): see `cni-ipam repair`",
        path.display()
    )]
    Damaged { path: PathBuf, addresses: String },

    /// The leases cannot be handed over to host-local: it has some that are not ours.
    #[error(
        "host-local has records in {} that are not in the lease store: move it away first",
        path.display()
    )]
    HostLocalHasRecords { path: PathBuf },

    /// The leases cannot be handed over to host-local: our plugin goes on giving addresses.
    #[error(
        "pods get addresses from the lease store {}: give the runtime its new configuration first",
        path.display()
    )]
    InUse { path: PathBuf },

    /// Built anew, and still contradicting itself: a bug, or a disk that lies.
    #[error("the lease store {} contradicts itself; see `cni-ipam verify`", path.display())]
    Contradiction { path: PathBuf },
}

/// Why a set of ranges has no address to give.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exhausted {
    pub network: String,
    /// `first-last` of each range.
    pub set: String,
    pub used: usize,
    pub quarantined: usize,
    /// Of the used ones, those that nothing but DEL, GC or an operator can end: nobody can
    /// prove that their owners are gone.
    pub without_proof: usize,
    /// The directory that holds the stores of all networks, if it is not the usual one.
    pub data_dir: Option<PathBuf>,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, set, .. } = self;
        write!(
            f,
            "no IP addresses available in range set: {set} ({} used, {} of them by leases that \
             end only with a DEL, GC or an operator's word, {} quarantined); see `cni-ipam list \
             --network {network}",
            self.used, self.without_proof, self.quarantined
        )?;
        let place = match &self.data_dir {
            Some(dir) => format!(" --data-dir {}", dir.display()),
            None => String::new(),
        };
        write!(
            f,
            "{place}`, then `cni-ipam repair --network {network}{place}`"
        )
    }
}

struct HolderOrUnknown<'a>(Option<&'a Holder>);

impl fmt::Display for HolderOrUnknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(holder) => holder.fmt(f),
            None => f.write_str("a process that /proc/locks does not show"),
        }
    }
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.into(),
            source: error.into(),
        }
    }

    /// Whether the lock was not to be had in time.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        self.code() == Code::TryAgain
    }
}

impl Failure for Error {
    fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Io { .. }
            | Self::Links(_)
            | Self::Differs { .. }
            | Self::Damaged { .. }
            | Self::HostLocalHasRecords { .. }
            | Self::Contradiction { .. } => Code::Io,
            Self::Holds { .. } => Code::InvalidConfig,
            // The next pod that is deleted changes the answer.
            Self::Busy { .. }
            | Self::InUse { .. }
            | Self::Exhausted(_)
            | Self::Requested { .. }
            | Self::TakenBack { .. } => Code::TryAgain,
            Self::NoneFree(_) | Self::Unusable { .. } => Code::Unavailable,
        }
    }
}
