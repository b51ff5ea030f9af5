//! The check that a pod sends with its own MAC address only (`macspoofchk`).
//!
//! The rule is shared and stays; what names a port comes and goes with the attachment.

use cni_protocol::InterfaceName;

use crate::{
    error::Error,
    mac::Mac,
    nft::{Nft, spoof},
    rtnl::{Host, Rtnl},
    undo::{Undo, UndoLog},
};

/// Checks the port from here on.
pub(crate) fn create(port: &InterfaceName, mac: Mac, undo: &mut UndoLog) -> Result<(), Error> {
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    spoof::guard(&mut nft, port.as_str(), mac)?;
    undo.record(Undo::EndSpoofCheck(port.clone()));
    Ok(())
}

/// Ends the check of a port, if there is one.
pub(crate) fn remove(port: &InterfaceName) -> Result<(), Error> {
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    spoof::release(&mut nft, port.as_str())?;
    Ok(())
}

/// Says so when the port is not checked, or for another address.
pub(crate) fn check(port: &InterfaceName, mac: Mac) -> Result<Option<String>, Error> {
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    let guarded = spoof::senders(&mut nft)?
        .iter()
        .any(|sender| sender.port == port.as_str() && sender.mac == mac.0);
    Ok((!guarded)
        .then(|| format!("the check of source MAC addresses is missing for bridge port {port}")))
}

/// Ends the checks of ports that are no more: their namespace went without a DEL.
pub(crate) fn collect_garbage(host: &mut Rtnl<Host>) -> Result<(), Error> {
    let mut nft = Nft::open().map_err(Error::Nftables)?;
    for sender in spoof::senders(&mut nft)? {
        if let Ok(port) = sender.port.parse()
            && host.find_link(&port)?.is_none()
        {
            spoof::release(&mut nft, &sender.port)?;
        }
    }
    Ok(())
}
