//! The result of CNI 0.3.0 and later: lists of interfaces, addresses and routes.
//!
//! 0.3.0 to 0.4.0 say the family of each address and always have `dns`. 1.1.0 added what
//! is more than a name about interfaces, and more than a way about routes.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AddResult, Dns, Interface, IpConfig, Route, cidr, ip, non_empty};
use crate::{
    DecodeError, Version,
    json::{self, Json},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<InterfaceWire<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpWire>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a Dns>,
}

impl<'a> Wire<'a> {
    pub(super) fn new(result: &'a AddResult, version: Version) -> Self {
        let interfaces = result.interfaces.iter();
        let ips = result.ips.iter();
        let routes = result.routes.iter();
        let with_dns = version < Version::V1_0_0 || !result.dns.is_empty();
        Self {
            cni_version: version.as_str(),
            interfaces: interfaces.map(|i| InterfaceWire::new(i, version)).collect(),
            ips: ips
                .map(|ip| IpWire::new(ip, version, result.interfaces.len()))
                .collect(),
            routes: routes.map(|route| RouteWire::new(route, version)).collect(),
            dns: with_dns.then_some(&result.dns),
        }
    }
}

#[derive(Serialize)]
struct InterfaceWire<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
    #[serde(rename = "socketPath", skip_serializing_if = "Option::is_none")]
    socket_path: Option<&'a str>,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pci_id: Option<&'a str>,
}

impl<'a> InterfaceWire<'a> {
    fn new(interface: &'a Interface, version: Version) -> Self {
        let all = version >= Version::V1_1_0;
        Self {
            name: &interface.name,
            mac: interface.mac.as_deref(),
            mtu: interface.mtu.filter(|mtu| all && *mtu != 0),
            sandbox: interface.sandbox.as_deref(),
            socket_path: interface.socket_path.as_deref().filter(|_| all),
            pci_id: interface.pci_id.as_deref().filter(|_| all),
        }
    }
}

#[derive(Serialize)]
struct IpWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

impl IpWire {
    /// An index that leads to none of the interfaces is left out: containerd dies of it.
    fn new(ip: &IpConfig, version: Version, interfaces: usize) -> Self {
        let family = match ip.address {
            IpNet::V4(_) => "4",
            IpNet::V6(_) => "6",
        };
        Self {
            version: (version < Version::V1_0_0).then_some(family),
            interface: ip.interface.filter(|index| *index < interfaces),
            address: ip.address,
            gateway: ip.gateway,
        }
    }
}

#[derive(Serialize)]
pub(super) struct RouteWire {
    dst: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<u8>,
}

impl RouteWire {
    pub(super) fn new(route: &Route, version: Version) -> Self {
        let all = version >= Version::V1_1_0;
        Self {
            dst: route.dst,
            gw: route.gw,
            mtu: route.mtu.filter(|mtu| all && *mtu != 0),
            advmss: route.advmss.filter(|advmss| all && *advmss != 0),
            priority: route.priority.filter(|priority| all && *priority != 0),
            table: route.table.filter(|_| all),
            scope: route.scope.filter(|_| all),
        }
    }
}

/// Reads a result of any of these versions.
pub(super) fn read(json: &Json, key: &str) -> Result<AddResult, DecodeError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Result {
        interfaces: Vec<InterfaceRead>,
        ips: Vec<IpRead>,
        routes: Vec<Route>,
        dns: Dns,
    }
    let result: Result = json::decode_key(json, key)?;
    Ok(AddResult {
        interfaces: result.interfaces.into_iter().map(Into::into).collect(),
        ips: result.ips.into_iter().map(Into::into).collect(),
        routes: result.routes,
        dns: result.dns,
    })
}

#[derive(Deserialize)]
struct InterfaceRead {
    name: String,
    #[serde(default, deserialize_with = "non_empty")]
    mac: Option<String>,
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default, deserialize_with = "non_empty")]
    sandbox: Option<String>,
    #[serde(default, rename = "socketPath", deserialize_with = "non_empty")]
    socket_path: Option<String>,
    #[serde(default, rename = "pciID", deserialize_with = "non_empty")]
    pci_id: Option<String>,
}

impl From<InterfaceRead> for Interface {
    fn from(read: InterfaceRead) -> Self {
        Self {
            name: read.name,
            mac: read.mac,
            mtu: read.mtu.filter(|mtu| *mtu != 0),
            sandbox: read.sandbox,
            socket_path: read.socket_path,
            pci_id: read.pci_id,
        }
    }
}

#[derive(Deserialize)]
struct IpRead {
    /// Old IPAM plugins write -1 for none.
    #[serde(default)]
    interface: Option<i64>,
    #[serde(deserialize_with = "cidr")]
    address: IpNet,
    #[serde(default, deserialize_with = "ip")]
    gateway: Option<IpAddr>,
}

impl From<IpRead> for IpConfig {
    fn from(read: IpRead) -> Self {
        Self {
            interface: read.interface.and_then(|index| index.try_into().ok()),
            address: read.address,
            gateway: read.gateway,
        }
    }
}
