//! The IPAM plugin, under any main plugin.

use std::net::IpAddr;

use cni_ipam::{Config, ConfigError, Lease, Maker, data_dir};
use cni_protocol::{
    AddRequest, AddResult, Attachment, CheckRequest, Code, DecodeError, DelRequest, Failure,
    GcRequest, IpConfig, Plugin, StatusRequest, step,
};

use crate::netns;

pub(crate) struct Ipam;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Ipam(#[from] cni_ipam::Error),
    #[error("cannot read the result of ADD in prevResult")]
    PrevResult(#[from] DecodeError),
    #[error("CHECK needs a prevResult")]
    MissingPrevResult,
    /// The text is host-local's.
    #[error(
        "{address} has been allocated to {}, duplicate allocation is not allowed",
        attachment.container_id
    )]
    Duplicate {
        address: IpAddr,
        attachment: Box<Attachment>,
    },
}

impl Failure for Error {
    fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Ipam(error) => error.code(),
            Self::PrevResult(error) => error.code(),
            Self::MissingPrevResult | Self::Duplicate { .. } => Code::InvalidConfig,
        }
    }
}

impl Plugin for Ipam {
    type Error = Error;

    const NAME: &'static str = "cni-ipam";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn add(&self, request: &AddRequest) -> Result<AddResult, Error> {
        let config = Config::parse(&request.config, &request.args)?;
        step("lease");
        let pod = request.args.pod();
        let leased = cni_ipam::lease(&config, &request.attachment, Maker::Other, pod.as_deref())?;
        if !leased.fresh {
            refuse_live_duplicate(request, &leased.leases)?;
        }
        Ok(AddResult {
            ips: leased.leases.iter().map(ip_config).collect(),
            routes: config.routes().to_vec(),
            dns: config.dns().clone(),
            ..AddResult::default()
        })
    }

    fn del(&self, request: &DelRequest) -> Result<(), Error> {
        step("lease");
        let data_dir = data_dir(&request.config);
        Ok(cni_ipam::release(&data_dir, &request.attachment)?)
    }

    fn check(&self, request: &CheckRequest) -> Result<(), Error> {
        let config = Config::parse(&request.config, &request.args)?;
        let result = request
            .config
            .prev_result()?
            .ok_or(Error::MissingPrevResult)?;
        // Another plugin of the chain may have added addresses that are not ours.
        let ours = |address: &IpAddr| config.sets().iter().any(|set| set.contains(*address));
        let expected: Vec<IpAddr> = result
            .ips
            .iter()
            .map(|ip| ip.address.addr())
            .filter(ours)
            .collect();
        step("lease");
        let data_dir = data_dir(&request.config);
        Ok(cni_ipam::check(&data_dir, &request.attachment, &expected)?)
    }

    fn gc(&self, request: &GcRequest) -> Result<(), Error> {
        step("lease");
        let data_dir = data_dir(&request.config);
        let valid = request.valid.as_deref();
        let report = cni_ipam::gc(&data_dir, request.config.name(), valid)?;
        if report.only_proven {
            cni_protocol::log(&format_args!(
                "GC without cni.dev/valid-attachments: only leases whose owners are provably \
                 gone are ended ({})",
                report.released.len()
            ));
        }
        Ok(())
    }

    fn status(&self, request: &StatusRequest) -> Result<(), Error> {
        let config = Config::parse(&request.config, &cni_protocol::Args::default())?;
        step("lease");
        Ok(cni_ipam::status(&config, request.config.name())?)
    }
}

/// An attachment that has addresses gets them again when the ADD before did not come to its
/// end, that is when its interface is not there.
fn refuse_live_duplicate(request: &AddRequest, leases: &[Lease]) -> Result<(), Error> {
    let interface = &request.attachment.interface;
    let is_live = netns::has_interface(&request.netns, interface).unwrap_or(false);
    match leases.first().filter(|_| is_live) {
        None => Ok(()),
        Some(lease) => Err(Error::Duplicate {
            address: lease.address.addr(),
            attachment: Box::new(request.attachment.clone()),
        }),
    }
}

fn ip_config(lease: &Lease) -> IpConfig {
    IpConfig {
        interface: None,
        address: lease.address,
        gateway: Some(lease.gateway),
    }
}
