//! STATUS: could an ADD work? Without side effects and without waiting.
//!
//! containerd asks every few seconds, and makes the node `NotReady` when the answer is no.

use cni_protocol::{Args, Code, Command, Failure, StatusRequest, delegate::Delegate};

use crate::{
    config::{Config, Ipam},
    error::Error,
    kernel,
    nft::{Nft, masquerade::installed},
    object::bridge,
};

/// Looks at what every ADD needs: a valid configuration, the IPAM, a bridge or a free name
/// for one, and nftables where rules are wanted.
pub(crate) fn status(request: &StatusRequest) -> Result<(), Error> {
    let config = Config::parse(&request.config, &Args::default())?;
    match &config.ipam {
        Ipam::None => {}
        Ipam::BuiltIn(ipam) => cni_ipam::status(ipam, request.config.name())
            .map_err(|error| not_ready(error.into()))?,
        Ipam::Delegated(name) => {
            Delegate::find(name, &request.plugin_path)?.call(Command::Status, &request.config)?;
        }
    }
    let mut host = kernel::open_host().map_err(not_ready)?;
    bridge::find(&mut host, &config.bridge).map_err(not_ready)?;
    if config.masquerade.is_some() {
        let probed = Nft::open()
            .map_err(Error::Nftables)
            .and_then(|mut nft| Ok(installed(&mut nft)?));
        probed.map_err(not_ready)?;
    }
    bridge::note_missing_netfilter();
    Ok(())
}

/// What an ADD would fail with is what STATUS fails with, in a code of its own.
fn not_ready(error: Error) -> Error {
    if matches!(error.code(), Code::Unavailable | Code::LimitedConnectivity) {
        return error;
    }
    Error::NotReady(error.reply().to_string())
}
