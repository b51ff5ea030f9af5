//! What an ADD made, in one type for all versions of the specification.
//!
//! `result/` has the shapes that the versions give it on the wire.

mod current;
mod legacy;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::{
    Code, DecodeError, Failure, Version,
    json::{self, Json},
};

/// The result of ADD.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddResult {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<IpConfig>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

/// A network interface that the plugin made or used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    pub name: String,
    pub mac: Option<String>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// The path of the network namespace; `None` for an interface of the host.
    pub sandbox: Option<String>,
    pub socket_path: Option<String>,
    pub pci_id: Option<String>,
}

/// An address of the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IpConfig {
    /// Which of the result's interfaces has it.
    pub interface: Option<usize>,
    /// The address itself, with the length of its subnet's prefix.
    pub address: IpNet,
    pub gateway: Option<IpAddr>,
}

/// A route in the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// A network: without host bits.
    pub dst: IpNet,
    /// `None`: the gateway of the address' family.
    pub gw: Option<IpAddr>,
    /// In bytes.
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    pub priority: Option<u32>,
    pub table: Option<u32>,
    pub scope: Option<u8>,
}

/// The name servers of the container.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(
        deserialize_with = "non_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub domain: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A result that a version of the specification has no words for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot convert the result to CNI version {version}: no valid IP addresses")]
pub struct NotRepresentable {
    version: Version,
}

impl Failure for NotRepresentable {
    fn code(&self) -> Code {
        Code::InvalidConfig
    }
}

impl AddResult {
    /// The result in the exact shape of a version.
    pub fn to_json(&self, version: Version) -> Result<Value, NotRepresentable> {
        let value = match version {
            Version::V0_1_0 | Version::V0_2_0 => {
                serde_json::to_value(legacy::Wire::new(self, version)?)
            }
            _ => serde_json::to_value(current::Wire::new(self, version)),
        };
        // Text, numbers and lists always serialise.
        Ok(value.unwrap_or_default())
    }

    /// As [`AddResult::to_json`], in the order of keys that people expect.
    pub fn to_text(&self, version: Version) -> Result<String, NotRepresentable> {
        let text = match version {
            Version::V0_1_0 | Version::V0_2_0 => {
                serde_json::to_string(&legacy::Wire::new(self, version)?)
            }
            _ => serde_json::to_string(&current::Wire::new(self, version)),
        };
        Ok(text.unwrap_or_default())
    }

    /// Can `version` express the result? Asked before anything is made.
    pub fn ensure_representable(&self, version: Version) -> Result<(), NotRepresentable> {
        if version <= Version::V0_2_0 && self.ips.is_empty() {
            return Err(NotRepresentable { version });
        }
        Ok(())
    }

    /// Reads a result of any version, which stands at `key` of its document; the document
    /// itself if `key` is empty. A result that states no version is of version `unstated`.
    pub(crate) fn from_json(
        json: &Json,
        unstated: Version,
        key: &str,
    ) -> Result<Self, DecodeError> {
        let version = match json.get("cniVersion") {
            None => unstated,
            Some(version) => {
                let path = if key.is_empty() {
                    "cniVersion".to_owned()
                } else {
                    format!("{key}.cniVersion")
                };
                match json::decode_key::<String>(version, &path)?.as_str() {
                    "" => unstated,
                    text => text
                        .parse()
                        .map_err(|_unknown| DecodeError::value(&path, unsupported(text)))?,
                }
            }
        };
        match version {
            Version::V0_1_0 | Version::V0_2_0 => legacy::read(json, key),
            _ => current::read(json, key),
        }
    }
}

fn unsupported(version: &str) -> String {
    let known = Version::ALL.map(Version::as_str).join(", ");
    format!("unsupported CNI result version {version:?}, known are {known}")
}

/// An address of a host and the length of its prefix, as text.
fn cidr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|_syntax| D::Error::custom(format_args!("invalid CIDR address {text:?}")))
}

/// Empty text is no text.
fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// Empty text is no address.
fn ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    non_empty(deserializer)?
        .map(|text| {
            text.parse()
                .map_err(|_syntax| D::Error::custom(format_args!("invalid IP address {text:?}")))
        })
        .transpose()
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(deserialize_with = "cidr")]
            dst: IpNet,
            #[serde(default, deserialize_with = "ip")]
            gw: Option<IpAddr>,
            #[serde(default)]
            mtu: Option<u32>,
            #[serde(default)]
            advmss: Option<u32>,
            #[serde(default)]
            priority: Option<u32>,
            #[serde(default)]
            table: Option<u32>,
            #[serde(default)]
            scope: Option<u8>,
        }
        let wire = Wire::deserialize(deserializer)?;
        Ok(Self {
            dst: wire.dst.trunc(),
            gw: wire.gw,
            mtu: wire.mtu.filter(|mtu| *mtu != 0),
            advmss: wire.advmss.filter(|advmss| *advmss != 0),
            priority: wire.priority.filter(|priority| *priority != 0),
            table: wire.table,
            scope: wire.scope,
        })
    }
}

/// In the shape of the newest version.
impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        current::RouteWire::new(self, Version::LATEST).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a bridge plugin answers for a pod with two addresses.
    fn dual_stack() -> AddResult {
        let route = |dst: &str| Route {
            dst: dst.parse().unwrap(),
            gw: None,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        };
        let interface = |name: &str, sandbox: Option<&str>| Interface {
            name: name.to_owned(),
            mac: Some("0a:58:0a:40:01:07".to_owned()),
            mtu: Some(1500),
            sandbox: sandbox.map(str::to_owned),
            ..Interface::default()
        };
        AddResult {
            interfaces: vec![
                interface("cbr0", None),
                interface("eth0", Some("/run/netns/pod")),
            ],
            ips: vec![
                IpConfig {
                    interface: Some(1),
                    address: "10.64.1.7/24".parse().unwrap(),
                    gateway: Some("10.64.1.1".parse().unwrap()),
                },
                IpConfig {
                    interface: Some(1),
                    address: "fd00::7/64".parse().unwrap(),
                    gateway: None,
                },
            ],
            routes: vec![
                Route {
                    gw: Some("10.64.1.1".parse().unwrap()),
                    mtu: Some(1400),
                    table: Some(0),
                    ..route("0.0.0.0/0")
                },
                route("fd01::/64"),
            ],
            dns: Dns::default(),
        }
    }

    fn read(text: &str) -> Result<AddResult, String> {
        let json = Json::parse(text.as_bytes()).unwrap();
        AddResult::from_json(&json, Version::V1_0_0, "").map_err(|error| error.to_string())
    }

    #[test]
    fn versions_0_1_and_0_2_have_one_address_of_each_family() {
        for version in [Version::V0_1_0, Version::V0_2_0] {
            assert_eq!(
                dual_stack().to_text(version).unwrap(),
                [
                    r#"{"cniVersion":"VERSION","#,
                    r#""ip4":{"ip":"10.64.1.7/24","gateway":"10.64.1.1","routes":[{"dst":"0.0.0.0/0","gw":"10.64.1.1"}]},"#,
                    r#""ip6":{"ip":"fd00::7/64","routes":[{"dst":"fd01::/64"}]},"#,
                    r#""dns":{}}"#,
                ]
                .concat()
                .replace("VERSION", version.as_str())
            );
        }
    }

    #[test]
    fn versions_0_3_and_0_4_say_the_family() {
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            assert_eq!(
                dual_stack().to_text(version).unwrap(),
                [
                    r#"{"cniVersion":"VERSION","#,
                    r#""interfaces":[{"name":"cbr0","mac":"0a:58:0a:40:01:07"},"#,
                    r#"{"name":"eth0","mac":"0a:58:0a:40:01:07","sandbox":"/run/netns/pod"}],"#,
                    r#""ips":[{"version":"4","interface":1,"address":"10.64.1.7/24","gateway":"10.64.1.1"},"#,
                    r#"{"version":"6","interface":1,"address":"fd00::7/64"}],"#,
                    r#""routes":[{"dst":"0.0.0.0/0","gw":"10.64.1.1"},{"dst":"fd01::/64"}],"#,
                    r#""dns":{}}"#,
                ]
                .concat()
                .replace("VERSION", version.as_str())
            );
        }
    }

    #[test]
    fn version_1_0_has_neither_families_nor_empty_dns() {
        assert_eq!(
            dual_stack().to_text(Version::V1_0_0).unwrap(),
            [
                r#"{"cniVersion":"1.0.0","#,
                r#""interfaces":[{"name":"cbr0","mac":"0a:58:0a:40:01:07"},"#,
                r#"{"name":"eth0","mac":"0a:58:0a:40:01:07","sandbox":"/run/netns/pod"}],"#,
                r#""ips":[{"interface":1,"address":"10.64.1.7/24","gateway":"10.64.1.1"},"#,
                r#"{"interface":1,"address":"fd00::7/64"}],"#,
                r#""routes":[{"dst":"0.0.0.0/0","gw":"10.64.1.1"},{"dst":"fd01::/64"}]}"#,
            ]
            .concat()
        );
    }

    #[test]
    fn version_1_1_has_mtus_and_all_of_a_route() {
        assert_eq!(
            dual_stack().to_text(Version::V1_1_0).unwrap(),
            [
                r#"{"cniVersion":"1.1.0","#,
                r#""interfaces":[{"name":"cbr0","mac":"0a:58:0a:40:01:07","mtu":1500},"#,
                r#"{"name":"eth0","mac":"0a:58:0a:40:01:07","mtu":1500,"sandbox":"/run/netns/pod"}],"#,
                r#""ips":[{"interface":1,"address":"10.64.1.7/24","gateway":"10.64.1.1"},"#,
                r#"{"interface":1,"address":"fd00::7/64"}],"#,
                r#""routes":[{"dst":"0.0.0.0/0","gw":"10.64.1.1","mtu":1400,"table":0},{"dst":"fd01::/64"}]}"#,
            ]
            .concat()
        );
    }

    #[test]
    fn an_empty_result_is_as_short_as_its_version_allows() {
        let text = |version| AddResult::default().to_text(version);
        assert_eq!(
            text(Version::V0_4_0).unwrap(),
            r#"{"cniVersion":"0.4.0","dns":{}}"#
        );
        assert_eq!(text(Version::V1_1_0).unwrap(), r#"{"cniVersion":"1.1.0"}"#);
        let error = text(Version::V0_2_0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot convert the result to CNI version 0.2.0: no valid IP addresses"
        );
        assert_eq!(error.code(), Code::InvalidConfig);
        assert_eq!(
            AddResult::default().ensure_representable(Version::V0_2_0),
            Err(error)
        );
        assert_eq!(
            AddResult::default().ensure_representable(Version::V0_3_0),
            Ok(())
        );
    }

    #[test]
    fn an_index_that_leads_nowhere_is_not_told() {
        let result = read(
            r#"{"interfaces":[{"name":"eth0"}],"ips":[{"interface":1,"address":"10.0.0.5/24"},{"interface":0,"address":"fd00::5/64"}]}"#,
        )
        .unwrap();
        assert_eq!(
            result.to_text(Version::V1_0_0).unwrap(),
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.5/24"},{"interface":0,"address":"fd00::5/64"}]}"#
        );
    }

    #[test]
    fn the_value_and_the_text_are_the_same_document() {
        for version in Version::ALL {
            let text = dual_stack().to_text(version).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(dual_stack().to_json(version), Ok(value));
        }
    }

    #[test]
    fn routes_of_a_family_without_an_address_are_dropped_in_0_2() {
        let mut result = dual_stack();
        result.ips.remove(1);
        assert_eq!(
            result.to_text(Version::V0_2_0).unwrap(),
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.64.1.7/24","gateway":"10.64.1.1","routes":[{"dst":"0.0.0.0/0","gw":"10.64.1.1"}]},"dns":{}}"#
        );
    }

    #[test]
    fn each_version_reads_what_it_writes() {
        for version in Version::ALL {
            let text = dual_stack().to_text(version).unwrap();
            let read = read(&text).unwrap();
            assert_eq!(read.to_text(version).unwrap(), text);
        }
    }

    #[test]
    fn the_newest_version_keeps_everything() {
        let mut result = dual_stack();
        result.dns.nameservers.push("10.0.0.10".to_owned());
        result.interfaces[1].socket_path = Some("/run/s".to_owned());
        result.interfaces[1].pci_id = Some("0000:00:1f.6".to_owned());
        result.routes[0].scope = Some(0);
        result.routes[1].priority = Some(100);
        let text = result.to_text(Version::V1_1_0).unwrap();
        assert_eq!(read(&text).unwrap(), result);
    }

    #[test]
    fn an_old_result_becomes_a_new_one() {
        let old = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::5/64"},"dns":{"nameservers":["1.1.1.1"]}}"#;
        assert_eq!(
            read(old).unwrap().to_text(Version::V1_0_0).unwrap(),
            r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1"},{"address":"fd00::5/64"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["1.1.1.1"]}}"#
        );
    }

    #[test]
    fn what_other_plugins_write_is_read() {
        let result = read(
            r#"{"CNIVersion":"0.3.1","Interfaces":[{"Name":"eth0","mac":"","sandbox":"","mtu":0}],
                "ips":[{"version":"4","interface":-1,"address":"10.0.0.5/24","gateway":""}],
                "routes":[{"dst":"10.1.2.3/8","gw":"","mtu":0,"priority":0}],"dns":null,"x":1}"#,
        )
        .unwrap();
        assert_eq!(
            result.to_text(Version::V1_1_0).unwrap(),
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.5/24"}],"routes":[{"dst":"10.0.0.0/8"}]}"#
        );
    }

    #[test]
    fn no_version_is_that_of_the_configuration() {
        let json = Json::parse(br#"{"ip4":{"ip":"10.0.0.5/24"}}"#).unwrap();
        let read = |unstated| AddResult::from_json(&json, unstated, "").unwrap();
        assert_eq!(read(Version::V0_2_0).ips.len(), 1);
        assert_eq!(read(Version::V1_0_0).ips.len(), 0);
        assert_eq!(
            AddResult::from_json(&Json::Null, Version::V1_0_0, ""),
            Ok(AddResult::default())
        );
    }

    #[test]
    fn a_result_that_cannot_be_read_says_where() {
        assert_eq!(
            read(r#"{"cniVersion":"9.9.9"}"#).unwrap_err(),
            "cannot decode key \"cniVersion\": unsupported CNI result version \"9.9.9\", \
             known are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        );
        assert_eq!(
            read(r#"{"ips":[{"address":"10.0.0.5"}]}"#).unwrap_err(),
            "cannot decode key \"ips[0].address\": invalid CIDR address \"10.0.0.5\""
        );
        assert_eq!(
            read(r#"{"ips":[{"gateway":"10.0.0.1"}]}"#).unwrap_err(),
            "cannot decode key \"ips[0].address\": it is missing"
        );
        assert_eq!(
            read("[]").unwrap_err(),
            "cannot decode the document: expected an object, found an array"
        );
    }

    #[test]
    fn prev_result_errors_name_the_whole_path() {
        let config = crate::NetworkConfig::parse(
            br#"{"cniVersion":"1.0.0","name":"n","prevResult":{"ips":[{"address":5}]}}"#.to_vec(),
        )
        .unwrap();
        assert_eq!(
            config.prev_result().unwrap_err().to_string(),
            "cannot decode key \"prevResult.ips[0].address\": expected a string, found the number 5"
        );
    }

    #[test]
    fn prev_result_may_be_of_another_version_or_not_there() {
        let prev_result = |text: &str| {
            crate::NetworkConfig::parse(text.as_bytes().to_vec())
                .unwrap()
                .prev_result()
        };
        let old = prev_result(
            r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24"}}}"#,
        );
        assert_eq!(old.unwrap().unwrap().ips.len(), 1);
        assert_eq!(prev_result(r#"{"name":"n","prevResult":null}"#), Ok(None));
        assert_eq!(
            prev_result(r#"{"cniVersion":"1.0.0","name":"n","prevResult":{}}"#),
            Ok(Some(AddResult::default()))
        );
    }
}
