//! Matches and targets of iptables, which its nft variant leaves in their own binary form
//! within nftables' rules (`linux/netfilter/xt_*.h`).
//!
//! Only what common rule sets have in the way of pods; everything else is "maybe".

use super::{
    Step,
    packet::{Packet, STATE_NEW, STATUS_OFF},
    value::Truth,
    walk::Verdict,
};

/// Where `xt_conntrack_mtinfo1` to `3` have their flags, and what behind them.
const FLAGS: usize = 146;
const INVERTED: usize = 148;
const STATES: usize = 150;
/// `XT_CONNTRACK_*`.
const STATE: u16 = 1;
const STATUS: u16 = 1 << 6;
const DIRECTION: u16 = 1 << 12;
const STATE_ALIAS: u16 = 1 << 13;
/// `XT_ADDRTYPE_LOCAL`, `XT_ADDRTYPE_INVERT_DEST`.
const LOCAL: u16 = 1 << 2;
const INVERT_DESTINATION: u32 = 2;

/// A match, with its parameters as the kernel has them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Match {
    pub(crate) name: String,
    pub(crate) revision: u32,
    pub(crate) info: Vec<u8>,
}

impl Match {
    pub(super) fn holds(&self, packet: &Packet<'_>) -> Truth {
        match (self.name.as_str(), self.revision) {
            ("comment", _) => Truth::Yes,
            ("conntrack", 1..=3) => self.conntrack(packet).unwrap_or(Truth::Maybe),
            ("state", 0) => self.state(packet).unwrap_or(Truth::Maybe),
            ("mark", 1) => self.mark(packet).unwrap_or(Truth::Maybe),
            ("addrtype", 1) => self.address_type().unwrap_or(Truth::Maybe),
            _ => Truth::Maybe,
        }
    }

    /// Whether the packet's mark is asked for.
    pub(super) fn reads_mark(&self) -> bool {
        matches!(self.name.as_str(), "mark" | "connmark")
    }

    /// `conntrack_mt()`, for the first packet of a connection.
    fn conntrack(&self, packet: &Packet<'_>) -> Option<Truth> {
        let (flags, inverted) = (self.short(FLAGS)?, self.short(INVERTED)?);
        let (asked, status) = match self.revision {
            1 => (
                u16::from(*self.info.get(STATES)?),
                u16::from(*self.info.get(STATES + 1)?),
            ),
            _ => (self.short(STATES)?, self.short(STATES + 2)?),
        };
        let known = STATE | STATUS | DIRECTION | STATE_ALIAS;
        let mut truth = if flags & !known == 0 {
            Truth::Yes
        } else {
            Truth::Maybe
        };
        let mut ask = |flag: u16, answer: Truth| {
            if flags & flag != 0 {
                truth = truth.and(answer.inverted(inverted & flag != 0));
            }
        };
        ask(STATE, new(asked.into(), packet));
        ask(DIRECTION, Truth::Yes);
        let off = u32::from(status) & !STATUS_OFF == 0;
        ask(STATUS, if off { Truth::No } else { Truth::Maybe });
        Some(truth)
    }

    fn state(&self, packet: &Packet<'_>) -> Option<Truth> {
        Some(new(self.word(0)?, packet))
    }

    fn mark(&self, packet: &Packet<'_>) -> Option<Truth> {
        let (wanted, mask) = (self.word(0)?, self.word(4)?);
        let inverted = *self.info.get(8)? != 0;
        let truth = if packet.unmarked || wanted & !mask != 0 {
            Truth::from(wanted == 0)
        } else {
            Truth::Maybe
        };
        Some(truth.inverted(inverted))
    }

    /// What is forwarded is for nobody on this node.
    fn address_type(&self) -> Option<Truth> {
        let (source, destination) = (self.short(0)?, self.short(2)?);
        let inverted = self.word(4)? & INVERT_DESTINATION != 0;
        Some(match (source, destination) {
            (0, LOCAL) => Truth::No.inverted(inverted),
            _ => Truth::Maybe,
        })
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = self.info.get(at..)?.first_chunk()?;
        Some(u16::from_ne_bytes(*bytes))
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.info.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }
}

/// Whether a new connection is in one of these states.
fn new(states: u32, packet: &Packet<'_>) -> Truth {
    if packet.tracked {
        Truth::from(states & u32::from(STATE_NEW) != 0)
    } else {
        Truth::Maybe
    }
}

/// What a target does with the packet.
pub(crate) fn target(name: &str) -> Step {
    match name {
        "REJECT" => Step::Decide(Verdict::Drop),
        "MARK" | "CONNMARK" => Step::SetMark,
        "CT" | "NOTRACK" => Step::Untrack,
        "LOG" | "NFLOG" | "ULOG" | "TRACE" | "AUDIT" | "CHECKSUM" | "CLASSIFY" | "DSCP" | "TOS"
        | "TCPMSS" | "TCPOPTSTRIP" | "TTL" | "HL" | "RATEEST" | "SET" | "TEE" | "LED"
        | "CONNSECMARK" | "SECMARK" | "IDLETIMER" => Step::Nothing,
        _ => Step::Decide(Verdict::Unknown),
    }
}
