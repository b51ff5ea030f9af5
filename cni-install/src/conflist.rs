//! The configuration that the node gets. Pure: text in, text out.

use cni_protocol::Version;
use serde_json::{Map, Value, json};

use crate::cidrs::PodCidrs;

/// The name under which it is installed. Before those that runtimes bring (10-containerd-net,
/// 10-crio-bridge) in the order of names.
pub(crate) const FILE_NAME: &str = "10-cbr0.conflist";

/// What is installed when nobody brings a configuration: the shipped one.
const BUILT_IN: &str = include_str!("../../conf/10-cbr0.conflist");

/// The types of the two plugins.
pub(crate) const MAIN: &str = "cni-bridge";
pub(crate) const IPAM: &str = "cni-ipam";

/// Keys of an `ipam` that say which addresses there are. `PodCidrs` say it instead.
const RANGES: [&str; 5] = ["subnet", "rangeStart", "rangeEnd", "gateway", "ranges"];

/// A list of plugins that can be installed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Conflist {
    /// What stands in the file.
    pub(crate) text: String,
    name: String,
    plugins: Vec<Map<String, Value>>,
}

/// Why a text is no configuration for a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidConflist {
    #[error("it is no JSON")]
    Json(#[source] serde_json::Error),
    #[error("it is no list of plugins with a name: \"name\" or \"plugins\" is missing")]
    NoList,
    #[error("\"cniVersion\" is {0}: the plugins speak 0.1.0 to 1.1.0")]
    Version(String),
    #[error("one of its plugins has no \"type\"")]
    NoType,
    #[error(
        "none of its plugins is of type {MAIN}, or has an \"ipam\" of type {IPAM}: it is another plugin's"
    )]
    NotOurs,
    #[error(
        "{0} of its plugins have an \"ipam\" of type {IPAM}, and the pod CIDRs are for exactly one"
    )]
    WhereTo(usize),
}

impl Conflist {
    /// The shipped configuration with these pod CIDRs.
    pub(crate) fn built_in(cidrs: &PodCidrs) -> Result<Self, InvalidConflist> {
        Self::new(BUILT_IN, Some(cidrs))
    }

    /// A configuration as it was written, byte by byte, or with the pod CIDRs in it.
    pub(crate) fn new(text: &str, cidrs: Option<&PodCidrs>) -> Result<Self, InvalidConflist> {
        let mut list: Value = serde_json::from_str(text).map_err(InvalidConflist::Json)?;
        if !plugins(&list)?.into_iter().any(is_ours) {
            return Err(InvalidConflist::NotOurs);
        }
        let version = list.get("cniVersion").filter(|version| !speaks(version));
        if let Some(version) = version {
            return Err(InvalidConflist::Version(version.to_string()));
        }
        let name = list.get("name").and_then(Value::as_str);
        let name = name.ok_or(InvalidConflist::NoList)?.to_owned();
        let text = match cidrs {
            Some(cidrs) => {
                fill_in(&mut list, cidrs)?;
                format!("{list:#}\n")
            }
            None => text.to_owned(),
        };
        Ok(Self {
            text,
            name,
            plugins: plugins(&list)?.into_iter().cloned().collect(),
        })
    }

    /// What is installed already, whatever it is. `None` when it cannot be understood.
    pub(crate) fn is_for_us(text: &str) -> Option<bool> {
        let document: Value = serde_json::from_str(text).ok()?;
        let list = document.get("plugins").and_then(Value::as_array);
        let plugins: Vec<_> = match list {
            Some(plugins) => plugins.iter().filter_map(Value::as_object).collect(),
            None => document.as_object().into_iter().collect(),
        };
        Some(plugins.into_iter().any(is_ours))
    }

    /// The types of all plugins that the runtime has to find, without those that
    /// `cni-bridge` serves itself.
    pub(crate) fn executables(&self) -> Vec<&str> {
        let mut types: Vec<&str> = Vec::new();
        for plugin in &self.plugins {
            let main = main_type(plugin);
            let ipam = ipam_type(plugin).filter(|ipam| *ipam != IPAM || main != Some(MAIN));
            for kind in main.into_iter().chain(ipam) {
                if !types.contains(&kind) {
                    types.push(kind);
                }
            }
        }
        types
    }

    /// The configurations of `cni-bridge` as a runtime would send them with STATUS.
    pub(crate) fn for_status(&self) -> impl Iterator<Item = Value> {
        let mains = self
            .plugins
            .iter()
            .filter(|plugin| main_type(plugin) == Some(MAIN));
        mains.map(|plugin| {
            let mut plugin = plugin.clone();
            plugin.insert("name".to_owned(), json!(self.name));
            plugin.insert("cniVersion".to_owned(), json!("1.1.0"));
            Value::Object(plugin)
        })
    }
}

fn plugins(list: &Value) -> Result<Vec<&Map<String, Value>>, InvalidConflist> {
    let plugins = list.get("plugins").and_then(Value::as_array);
    let plugins = plugins.ok_or(InvalidConflist::NoList)?;
    let objects: Option<Vec<_>> = plugins.iter().map(Value::as_object).collect();
    let objects = objects.ok_or(InvalidConflist::NoType)?;
    if objects.iter().any(|plugin| main_type(plugin).is_none()) {
        return Err(InvalidConflist::NoType);
    }
    Ok(objects)
}

fn speaks(version: &Value) -> bool {
    let text = version.as_str();
    text.is_some_and(|text| text.is_empty() || text.parse::<Version>().is_ok())
}

/// A member by its key, without regard to case: runtimes read plugins so.
pub(crate) fn member<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let named = |name: &String| name.eq_ignore_ascii_case(key);
    object
        .iter()
        .find(|(name, _)| named(name))
        .map(|(_, value)| value)
}

fn main_type(plugin: &Map<String, Value>) -> Option<&str> {
    member(plugin, "type")?.as_str()
}

fn is_ours(plugin: &Map<String, Value>) -> bool {
    main_type(plugin) == Some(MAIN) || ipam_type(plugin) == Some(IPAM)
}

fn ipam_type(plugin: &Map<String, Value>) -> Option<&str> {
    member(member(plugin, "ipam")?.as_object()?, "type")?.as_str()
}

/// Puts one set of addresses for each CIDR into the one `ipam` that is ours.
fn fill_in(list: &mut Value, cidrs: &PodCidrs) -> Result<(), InvalidConflist> {
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    let mut sections: Vec<_> = plugins
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .filter(|plugin| ipam_type(plugin) == Some(IPAM))
        .filter_map(|plugin| {
            let ipam = |(key, _): &(&String, &mut Value)| key.eq_ignore_ascii_case("ipam");
            plugin.iter_mut().find(ipam)?.1.as_object_mut()
        })
        .collect();
    let found = sections.len();
    let [ipam] = sections.as_mut_slice() else {
        return Err(InvalidConflist::WhereTo(found));
    };
    // Without regard to case, as the plugin reads them.
    ipam.retain(|key, _| !RANGES.iter().any(|range| range.eq_ignore_ascii_case(key)));
    let sets = cidrs
        .iter()
        .map(|cidr| json!([{ "subnet": cidr.to_string() }]));
    ipam.insert("ranges".to_owned(), sets.collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(text: &str) -> PodCidrs {
        text.parse().unwrap()
    }

    #[test]
    fn the_shipped_list_gets_the_nodes_cidrs() {
        let list = Conflist::built_in(&cidrs("10.64.7.0/24,fd00:7::/64")).unwrap();
        assert_eq!(
            list.text,
            r#"{
  "cniVersion": "1.0.0",
  "cniVersions": [
    "0.4.0",
    "1.0.0",
    "1.1.0"
  ],
  "name": "cbr0",
  "plugins": [
    {
      "ipam": {
        "ranges": [
          [
            {
              "subnet": "10.64.7.0/24"
            }
          ],
          [
            {
              "subnet": "fd00:7::/64"
            }
          ]
        ],
        "type": "cni-ipam"
      },
      "type": "cni-bridge"
    }
  ]
}
"#
        );
    }

    #[test]
    fn what_else_stands_in_a_list_stays() {
        let own = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[
            {"type":"cni-bridge","mtu":1400,"ipam":{"type":"cni-ipam","SUBNET":"10.0.0.0/24",
             "rangeStart":"10.0.0.9","exclude":["10.64.7.9"],"routes":[{"dst":"0.0.0.0/0"}]}},
            {"type":"portmap","capabilities":{"portMappings":true}}]}"#;
        let list = Conflist::new(own, Some(&cidrs("10.64.7.0/24"))).unwrap();
        let value: Value = serde_json::from_str(&list.text).unwrap();
        assert_eq!(
            value["plugins"][0],
            json!({"type": "cni-bridge", "mtu": 1400, "ipam": {
                "type": "cni-ipam", "ranges": [[{"subnet": "10.64.7.0/24"}]],
                "exclude": ["10.64.7.9"], "routes": [{"dst": "0.0.0.0/0"}]}})
        );
        assert_eq!(value["plugins"][1]["type"], "portmap");
        assert_eq!(list.executables(), ["cni-bridge", "portmap"]);
        let asked: Vec<Value> = list.for_status().collect();
        assert_eq!(asked.len(), 1);
        assert_eq!(
            (&asked[0]["name"], &asked[0]["cniVersion"]),
            (&json!("pods"), &json!("1.1.0"))
        );
    }

    #[test]
    fn without_cidrs_no_byte_is_changed() {
        let own = "{ \"name\" : \"x\",\n\"plugins\":[{\"type\":\"bridge\",\"ipam\":{\"type\":\"cni-ipam\"}}] }";
        let list = Conflist::new(own, None).unwrap();
        assert_eq!(list.text, own);
        assert_eq!(list.executables(), ["bridge", "cni-ipam"]);
    }

    #[test]
    fn what_is_no_list_of_ours_is_refused() {
        for (text, words) in [
            ("{", "no JSON"),
            (r#"{"name":"a","type":"cni-bridge"}"#, "no list"),
            (
                r#"{"name":"a","plugins":[{"type":"ptp"}]}"#,
                "another plugin's",
            ),
            (
                r#"{"name":"a","plugins":[7,{"type":"cni-bridge"}]}"#,
                "no \"type\"",
            ),
            (
                r#"{"name":"a","plugins":[{"type":"cni-bridge"},{}]}"#,
                "no \"type\"",
            ),
            (
                r#"{"name":"a","cniVersion":"9.9.9","plugins":[{"type":"cni-bridge"}]}"#,
                "9.9.9",
            ),
            (
                r#"{"name":"a","cniVersion":1,"plugins":[{"type":"cni-bridge"}]}"#,
                "is 1:",
            ),
        ] {
            let refusal = Conflist::new(text, None).unwrap_err().to_string();
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
        let static_addresses =
            r#"{"name":"a","plugins":[{"type":"cni-bridge","ipam":{"type":"static"}}]}"#;
        let refusal = Conflist::new(static_addresses, Some(&cidrs("10.64.7.0/24"))).unwrap_err();
        assert!(
            refusal.to_string().starts_with("0 of its plugins"),
            "{refusal}"
        );
    }

    #[test]
    fn whose_a_file_is() {
        let of = Conflist::is_for_us;
        assert_eq!(of(BUILT_IN), Some(true));
        assert_eq!(of(r#"{"type":"cni-bridge"}"#), Some(true));
        assert_eq!(of(r#"{"plugins":[{"Type":"cni-bridge"}]}"#), Some(true));
        assert_eq!(
            of(r#"{"plugins":[{"TYPE":"x","IPAM":{"Type":"cni-ipam"}}]}"#),
            Some(true)
        );
        assert_eq!(
            of(r#"{"plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#),
            Some(false)
        );
        assert_eq!(of("{"), None);
    }
}
