//! The check of what a pod sends (`macspoofchk`, `ipspoofchk`).
//!
//! The rules are shared and stay; what names a port comes and goes with the attachment.

use std::slice;

use cni_protocol::InterfaceName;

use crate::{
    error::Error,
    guard::Guard,
    nft::{Nft, TABLE, spoof},
    rtnl::{Host, Rtnl},
    undo::{Undo, UndoLog},
};

/// Checks the port from here on. Answers whether what all ports share was missing.
pub(crate) fn create(guard: &Guard, undo: &mut UndoLog) -> Result<bool, Error> {
    let missing = spoof::guard(&mut open()?, guard)?;
    undo.record(Undo::EndSpoofCheck(guard.port.clone()));
    Ok(missing)
}

/// What is not as these guards say, in words.
pub(crate) fn check_all(guards: &[Guard]) -> Result<Vec<String>, Error> {
    if guards.is_empty() {
        return Ok(Vec::new());
    }
    let mut nft = open()?;
    let guards = spoof::not_less(&mut nft, guards)?;
    let differences = spoof::differences(&mut nft, &guards)?;
    let in_words = |difference| format!("what pods send is not checked: {difference}");
    Ok(differences.into_iter().map(in_words).collect())
}

/// Brings the check to what these guards say, for their ports.
pub(crate) fn restore(guards: &[Guard]) -> Result<(), Error> {
    if guards.is_empty() {
        return Ok(());
    }
    let mut nft = open()?;
    let guards = spoof::not_less(&mut nft, guards)?;
    spoof::restore(&mut nft, &guards)?;
    Ok(())
}

/// Ends the check of a port, if there is one.
pub(crate) fn remove(port: &InterfaceName) -> Result<(), Error> {
    spoof::release(&mut open()?, |name| Ok(name == port.as_str()))?;
    Ok(())
}

/// Ends the check of a port that is no more, if there is one.
///
/// That of a port which has come again meanwhile, for the same attachment, is that pod's.
pub(crate) fn remove_of_gone(host: &mut Rtnl<Host>, port: &InterfaceName) -> Result<(), Error> {
    let mut nft = open()?;
    if spoof::is_checked(&mut nft, port)? {
        spoof::release(&mut nft, |name| {
            Ok(name == port.as_str() && host.find_link(port)?.is_none())
        })?;
    }
    Ok(())
}

/// What is missing for the check of a port, each thing by its name, or too much.
pub(crate) fn check(guard: &Guard) -> Result<Vec<String>, Error> {
    let differences = spoof::differences(&mut open()?, slice::from_ref(guard))?;
    Ok(differences
        .into_iter()
        .map(|difference| {
            format!(
                "what bridge port {} sends is not checked: {difference}",
                guard.port
            )
        })
        .collect())
}

/// Ends the checks of ports that are no more: their namespace went without a DEL.
pub(crate) fn collect_garbage(host: &mut Rtnl<Host>) -> Result<(), Error> {
    spoof::release(&mut open()?, |name| {
        Ok(match name.parse() {
            Ok(port) => host.find_link(&port)?.is_none(),
            // What no link can be called is not of our making.
            Err(_) => false,
        })
    })?;
    Ok(())
}

/// Removes the table of the checks when no port is checked. Answers its name.
pub(crate) fn remove_table() -> Result<Option<String>, Error> {
    let removed = open()?.remove_table(spoof::FAMILY, spoof::is_unused)?;
    Ok(removed.then(|| format!("nftables table bridge {TABLE}")))
}

fn open() -> Result<Nft, Error> {
    Nft::open().map_err(Error::Nftables)
}
