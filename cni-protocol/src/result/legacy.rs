//! The result of CNI 0.1.0 and 0.2.0: at most one address of each family, no interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AddResult, Dns, IpConfig, NotRepresentable, Route, cidr, ip};
use crate::{
    DecodeError, Version,
    json::{self, Json},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<FamilyWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<FamilyWire>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct FamilyWire {
    ip: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteWire>,
}

#[derive(Serialize)]
struct RouteWire {
    dst: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
}

impl<'a> Wire<'a> {
    /// The first address of each family, with the routes of the family.
    pub(super) fn new(result: &'a AddResult, version: Version) -> Result<Self, NotRepresentable> {
        result.ensure_representable(version)?;
        let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
        Ok(Self {
            cni_version: version.as_str(),
            ip4: family(result, is_v4),
            ip6: family(result, |net| !is_v4(net)),
            dns: &result.dns,
        })
    }
}

fn family(result: &AddResult, is_member: impl Fn(&IpNet) -> bool) -> Option<FamilyWire> {
    let ip = result.ips.iter().find(|ip| is_member(&ip.address))?;
    let routes = result.routes.iter().filter(|route| is_member(&route.dst));
    Some(FamilyWire {
        ip: ip.address,
        gateway: ip.gateway,
        routes: routes
            .map(|route| RouteWire {
                dst: route.dst,
                gw: route.gw,
            })
            .collect(),
    })
}

/// Reads a result of either version.
pub(super) fn read(json: &Json, key: &str) -> Result<AddResult, DecodeError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Result {
        ip4: Option<FamilyRead>,
        ip6: Option<FamilyRead>,
        dns: Dns,
    }
    #[derive(Deserialize)]
    struct FamilyRead {
        #[serde(deserialize_with = "cidr")]
        ip: IpNet,
        #[serde(default, deserialize_with = "ip")]
        gateway: Option<IpAddr>,
        #[serde(default)]
        routes: Vec<Route>,
    }
    let read: Result = json::decode_key(json, key)?;
    let mut result = AddResult {
        dns: read.dns,
        ..AddResult::default()
    };
    for family in [read.ip4, read.ip6].into_iter().flatten() {
        result.ips.push(IpConfig {
            interface: None,
            address: family.ip,
            gateway: family.gateway,
        });
        result.routes.extend(family.routes);
    }
    Ok(result)
}
