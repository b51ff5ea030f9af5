//! The way back of a failed ADD, as data: what was done, newest last.

use std::fmt;

use cni_protocol::{AddRequest, InterfaceName};

use crate::{
    error::Error,
    ipam,
    kernel::Kernel,
    object::{spoof, veth},
};

/// How to reverse one step. Only what belongs to this attachment alone is ever reversed:
/// the bridge, its address, the switches and the rule are shared, and stay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Undo {
    /// The addresses go back to who gave them.
    ReleaseLeases,
    /// The port is no longer checked.
    EndSpoofCheck(InterfaceName),
    /// Both ends of the pair go.
    RemoveHostLink(InterfaceName),
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReleaseLeases => f.write_str("release the leases"),
            Self::EndSpoofCheck(name) => {
                write!(f, "end the check of what {name} sends")
            }
            Self::RemoveHostLink(name) => write!(f, "remove link {name}"),
        }
    }
}

/// The steps of one ADD that would have to be reversed.
#[derive(Debug, Default)]
pub(crate) struct UndoLog {
    steps: Vec<Undo>,
}

impl UndoLog {
    /// To be called right after the step succeeded, with nothing that can fail in between.
    pub(crate) fn record(&mut self, step: Undo) {
        self.steps.push(step);
    }

    /// Reverses all steps, newest first and checks last, and goes on past those that fail.
    ///
    /// Leases stay when a link could not be removed: an address must not be handed out while
    /// an interface may have it. The DEL that the runtime sends next tries both again.
    pub(crate) fn unwind(self, request: &AddRequest, kernel: &mut Kernel) -> Vec<(Undo, Error)> {
        let mut failures = Vec::new();
        // What a port sends is checked as long as there is the port.
        let is_check = |step: &Undo| matches!(step, Undo::EndSpoofCheck(_));
        let (checks, others): (Vec<_>, Vec<_>) = self.steps.into_iter().rev().partition(is_check);
        for step in others.into_iter().chain(checks) {
            let outcome = match &step {
                Undo::ReleaseLeases if !failures.is_empty() => Ok(()),
                Undo::ReleaseLeases => ipam::release_after_failure(request),
                Undo::EndSpoofCheck(name) => spoof::remove(name),
                Undo::RemoveHostLink(name) => {
                    veth::remove(&mut kernel.host, name).map(|_was_there| ())
                }
            };
            if let Err(error) = outcome {
                failures.push((step, error));
            }
        }
        failures
    }
}
