//! Addresses for an attachment: from the store in this process, or from another plugin.
//!
//! It knows who gives addresses; what is done with them is the plan's business.

use cni_ipam::{Holdings, Maker};
use cni_protocol::{
    AddRequest, Attachment, Command, NetworkConfig, PluginPath, delegate::Delegate,
};
use ipnet::IpNet;

use crate::{
    config::{self, Config, Ipam},
    error::Error,
    netns::Identity,
    plan::{Allocated, Allocation},
    undo::{Undo, UndoLog},
};

/// Takes addresses for the attachment; what has to be given back after a failure is recorded.
///
/// A lease that the attachment had already (an ADD that was killed, tried again) is not
/// given back: it was there before.
pub(crate) fn lease(
    request: &AddRequest,
    config: &Config,
    home: Identity,
    undo: &mut UndoLog,
) -> Result<Allocation, Error> {
    match &config.ipam {
        Ipam::None => Ok(Allocation::default()),
        Ipam::BuiltIn(ipam) => {
            let maker = Maker::Bridge {
                host_netns: home.inode,
            };
            let pod = request.args.pod();
            let leased = cni_ipam::lease(ipam, &request.attachment, maker, pod.as_deref())?;
            if leased.fresh {
                undo.record(Undo::ReleaseLeases);
            }
            Ok(Allocation {
                addresses: leased
                    .leases
                    .iter()
                    .map(|lease| Allocated {
                        address: lease.address,
                        gateway: Some(lease.gateway),
                    })
                    .collect(),
                routes: ipam.routes().to_vec(),
                dns: ipam.dns().clone(),
                pods: pod_networks(ipam),
            })
        }
        Ipam::Delegated(name) => {
            let delegate = Delegate::find(name, &request.plugin_path)?;
            // Whatever comes of it, also a kill on the way: the plugin may hold an address.
            undo.record(Undo::ReleaseLeases);
            let result = delegate.add(&request.config)?;
            if result.ips.is_empty() {
                return Err(Error::NoAddresses(name.clone()));
            }
            Ok(Allocation {
                pods: result.ips.iter().map(|ip| ip.address.trunc()).collect(),
                addresses: result
                    .ips
                    .iter()
                    .map(|ip| Allocated {
                        address: ip.address,
                        gateway: ip.gateway,
                    })
                    .collect(),
                routes: result.routes,
                dns: result.dns,
            })
        }
    }
}

/// Every network that a pod of this configuration can have an address in.
pub(crate) fn pod_networks(ipam: &cni_ipam::Config) -> Vec<IpNet> {
    ipam.sets()
        .iter()
        .flat_map(cni_ipam::RangeSet::ranges)
        .map(cni_ipam::Range::subnet)
        .collect()
}

/// Looks again, now that the link can be seen, whether the leases are still ours.
///
/// A lease without a link may be taken back by a pod that finds the range exhausted; from
/// here on the link protects it.
pub(crate) fn confirm(
    request: &AddRequest,
    config: &Config,
    allocation: &Allocation,
) -> Result<(), Error> {
    let Ipam::BuiltIn(ipam) = &config.ipam else {
        return Ok(());
    };
    let leases: Vec<cni_ipam::Lease> = allocation
        .addresses
        .iter()
        .filter_map(|allocated| {
            Some(cni_ipam::Lease {
                address: allocated.address,
                gateway: allocated.gateway?,
            })
        })
        .collect();
    Ok(cni_ipam::confirm(ipam, &request.attachment, &leases)?)
}

/// Gives back what [`lease`] took, after an ADD that failed.
pub(crate) fn release_after_failure(request: &AddRequest) -> Result<(), Error> {
    release(&request.config, &request.attachment, &request.plugin_path)
}

/// What the attachment has in the store of this process. Of another IPAM nothing is known.
pub(crate) fn holdings(
    network: &NetworkConfig,
    attachment: &Attachment,
) -> Result<Holdings, Error> {
    if !config::ipam_type(network).is_some_and(config::is_built_in) {
        return Ok(Holdings::default());
    }
    Ok(cni_ipam::holdings(
        &cni_ipam::data_dir(network),
        attachment,
    )?)
}

/// Releases what the attachment holds. Nothing held, nothing known: fine.
///
/// Needs of the configuration only which IPAM it is, and its directory.
pub(crate) fn release(
    network: &NetworkConfig,
    attachment: &Attachment,
    path: &PluginPath,
) -> Result<(), Error> {
    match config::ipam_type(network) {
        None => Ok(()),
        Some(name) if config::is_built_in(name) => {
            Ok(cni_ipam::release(&cni_ipam::data_dir(network), attachment)?)
        }
        Some(name) => Ok(Delegate::find(name, path)?.call(Command::Del, network)?),
    }
}
