//! The network configuration as it comes on standard input.

use serde::de::DeserializeOwned;

use crate::{
    AddResult, Code, DecodeError, Failure, IncompatibleVersion, InvalidNetworkName, NetworkName,
    UnknownKey, ValidAttachment, Version,
    json::{self, Json},
    stdio::MAX_INPUT,
};

/// Where GC finds the attachments that are still valid: the specification's name, and an
/// older one that runtimes send beside it. The first one that is there counts.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Keys that the specification gives to every configuration.
const KEYS_OF_THE_PROTOCOL: [&str; 8] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "capabilities",
    "disableCheck",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
];

/// Keys that a runtime fills in, with whatever it likes.
const KEYS_OF_THE_RUNTIME: [&str; 3] = ["args", "runtimeConfig", "prevResult"];

/// A network configuration: the bytes for other plugins, a view like Go's for this one.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    document: Document,
    version: Version,
}

impl NetworkConfig {
    /// Parses what a runtime sends.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, InvalidNetwork> {
        let document = Document::parse(bytes)?;
        let version = Version::from_config(document.version_text()?)?;
        Ok(document.in_version(version))
    }

    pub fn name(&self) -> &NetworkName {
        &self.document.name
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The configuration as it came, byte by byte.
    pub fn bytes(&self) -> &[u8] {
        &self.document.bytes
    }

    /// Decodes the keys that `T` knows and ignores all others.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        json::decode(&self.document.json)
    }

    /// Decodes the keys that `T` knows and lists the others, but for those that the
    /// protocol or the runtime may put into any configuration.
    pub fn decode_listing_unknown<T: DeserializeOwned>(
        &self,
    ) -> Result<(T, Vec<UnknownKey>), DecodeError> {
        let (decoded, mut unknown) = json::decode_listing_unknown(&self.document.json)?;
        unknown.retain(|key| !belongs_to_everyone(&key.path));
        Ok((decoded, unknown))
    }

    /// The string at a path of keys. Anything else, also on the way to it, is `None`.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.json(path).and_then(Json::as_str)
    }

    /// The value at a path of keys; `None` for `null`.
    pub fn json(&self, path: &[&str]) -> Option<&Json> {
        self.document.json.at(path)
    }

    /// Is there a value other than `null` at the path of keys?
    pub fn has(&self, path: &[&str]) -> bool {
        self.json(path).is_some()
    }

    /// The result of the plugins before, or of the ADD that this DEL or CHECK belongs to.
    pub fn prev_result(&self) -> Result<Option<AddResult>, DecodeError> {
        const KEY: &str = "prevResult";
        self.json(&[KEY])
            .map(|json| AddResult::from_json(json, self.version, KEY))
            .transpose()
    }

    /// What GC may not touch. `None`: the runtime does not say.
    pub fn valid_attachments(&self) -> Result<Option<Vec<ValidAttachment>>, DecodeError> {
        let json = &self.document.json;
        let Some(key) = VALID_ATTACHMENTS.into_iter().find(|key| json.has_key(key)) else {
            return Ok(None);
        };
        match json.get(key) {
            None => Ok(Some(Vec::new())),
            Some(list) => ValidAttachment::list(list, key).map(Some),
        }
    }
}

fn belongs_to_everyone(path: &str) -> bool {
    let top = path.split(['.', '[']).next().unwrap_or_default();
    KEYS_OF_THE_PROTOCOL
        .iter()
        .any(|key| path.eq_ignore_ascii_case(key))
        || KEYS_OF_THE_RUNTIME
            .iter()
            .any(|key| top.eq_ignore_ascii_case(key))
}

/// A configuration with a name, before it is settled in which version to serve it.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    bytes: Vec<u8>,
    json: Json,
    name: NetworkName,
}

impl Document {
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, InvalidNetwork> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(InvalidNetwork::Empty);
        }
        if bytes.len() > MAX_INPUT {
            return Err(InvalidNetwork::TooLarge);
        }
        let json = Json::parse(&bytes)?;
        if !matches!(json, Json::Object(_) | Json::Null) {
            return Err(InvalidNetwork::NotAnObject(json.describe()));
        }
        let name = match json.get("name") {
            Some(name) => json::decode_key::<String>(name, "name")?,
            None => String::new(),
        };
        if name.is_empty() {
            return Err(InvalidNetwork::MissingName);
        }
        let name = NetworkName::try_from(name)?;
        Ok(Self { bytes, json, name })
    }

    /// `cniVersion`, empty if there is none.
    pub(crate) fn version_text(&self) -> Result<&str, InvalidNetwork> {
        match self.json.get("cniVersion") {
            None => Ok(""),
            Some(Json::String(text)) => Ok(text),
            Some(other) => Err(InvalidNetwork::VersionType(other.describe())),
        }
    }

    pub(crate) fn in_version(self, version: Version) -> NetworkConfig {
        NetworkConfig {
            document: self,
            version,
        }
    }
}

/// Why what came on standard input is no network configuration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidNetwork {
    #[error("standard input is empty, expected a network configuration")]
    Empty,
    #[error("the network configuration is larger than {} MiB", MAX_INPUT >> 20)]
    TooLarge,
    #[error("cannot decode the network configuration: expected an object, found {0}")]
    NotAnObject(String),
    #[error("cannot read the network configuration")]
    Json(#[from] DecodeError),
    #[error("missing network name")]
    MissingName,
    #[error(transparent)]
    Name(#[from] InvalidNetworkName),
    #[error("decoding version from network config: expected a string, found {0}")]
    VersionType(String),
    #[error(transparent)]
    Version(#[from] IncompatibleVersion),
}

impl Failure for InvalidNetwork {
    fn code(&self) -> Code {
        match self {
            Self::Empty
            | Self::TooLarge
            | Self::NotAnObject(_)
            | Self::Json(_)
            | Self::VersionType(_) => Code::Decode,
            Self::MissingName | Self::Name(_) => Code::InvalidConfig,
            Self::Version(_) => Code::IncompatibleVersion,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    fn parse(text: &str) -> Result<NetworkConfig, InvalidNetwork> {
        NetworkConfig::parse(text.as_bytes().to_vec())
    }

    fn refused(text: &str) -> String {
        let reply = parse(text).unwrap_err().reply();
        format!("{} {reply}", reply.code.number())
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let empty = "6 standard input is empty, expected a network configuration";
        assert_eq!(refused(""), empty);
        assert_eq!(refused(" \n"), empty);
        assert_eq!(
            refused("[]"),
            "6 cannot decode the network configuration: expected an object, found an array"
        );
        assert_eq!(
            refused(r#"{"name":"n"} trailing"#),
            "6 cannot read the network configuration; \
             cannot decode JSON: trailing characters at line 1 column 14"
        );
        assert_eq!(
            refused(r#"{"name":7}"#),
            "6 cannot read the network configuration; \
             cannot decode key \"name\": expected a string, found the number 7"
        );
    }

    #[test]
    fn a_network_has_a_name() {
        for text in ["null", "{}", r#"{"name":null}"#, r#"{"name":""}"#] {
            assert_eq!(refused(text), "7 missing network name", "{text}");
        }
        assert_eq!(
            refused(r#"{"name":"a/b"}"#),
            "7 invalid characters found in network name \"a/b\""
        );
        assert_eq!(
            refused(r#"{"name":"-x"}"#),
            "7 invalid characters found in network name \"-x\""
        );
        let long = "n".repeat(201);
        assert_eq!(
            refused(&format!(r#"{{"name":"{long}"}}"#)),
            format!("7 network name {long:?} is longer than 200 bytes")
        );
        assert_eq!(parse(r#"{"NAME":"n"}"#).unwrap().name().as_str(), "n");
    }

    #[test]
    fn the_version_is_text_that_is_known() {
        let version = |text| parse(text).unwrap().version();
        assert_eq!(version(r#"{"name":"n"}"#), Version::V0_1_0);
        assert_eq!(version(r#"{"name":"n","cniVersion":""}"#), Version::V0_1_0);
        assert_eq!(
            version(r#"{"name":"n","cniVersion":null}"#),
            Version::V0_1_0
        );
        assert_eq!(
            version(r#"{"name":"n","CniVersion":"1.0.0"}"#),
            Version::V1_0_0
        );
        assert_eq!(
            refused(r#"{"name":"n","cniVersion":1}"#),
            "6 decoding version from network config: expected a string, found the number 1"
        );
        let error = parse(r#"{"name":"n","cniVersion":"1.2.0"}"#).unwrap_err();
        assert_eq!(error.code(), Code::IncompatibleVersion);
    }

    #[test]
    fn the_bytes_are_kept_for_other_plugins() {
        let text = "{ \"name\":\"n\",\n\"x\" : [1, 2] , \"X\":1.50}\n";
        assert_eq!(parse(text).unwrap().bytes(), text.as_bytes());
    }

    #[test]
    fn looking_up_a_string_never_fails() {
        let config =
            parse(r#"{"name":"n","ipam":{"dataDir":"/x","type":7,"none":null},"bridge":["a"]}"#)
                .unwrap();
        assert_eq!(config.text(&["ipam", "datadir"]), Some("/x"));
        for path in [
            ["ipam", "type"],
            ["ipam", "none"],
            ["ipam", "absent"],
            ["bridge", "a"],
            ["name", "n"],
        ] {
            assert_eq!(config.text(&path), None, "{path:?}");
        }
        assert!(config.has(&["ipam", "type"]));
        assert!(!config.has(&["ipam", "none"]));
    }

    #[test]
    fn what_the_protocol_puts_into_a_configuration_is_not_unknown() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Mine {
            mtu: u32,
            #[serde(rename = "runtimeConfig")]
            runtime: Runtime,
        }
        #[derive(Debug, Deserialize, PartialEq)]
        struct Runtime {
            mac: String,
        }
        let config = parse(
            r#"{"cniVersion":"1.1.0","name":"n","type":"t","mtu":9,"capabilities":{"mac":true},
                "runtimeConfig":{"mac":"m","portMappings":[{"HostPort":1}]},"args":{"a":1},
                "prevResult":{"x":1},"cni.dev/valid-attachments":[],"cni.dev/attachments":[],
                "adIf":"eth0"}"#,
        )
        .unwrap();
        let (mine, unknown) = config.decode_listing_unknown::<Mine>().unwrap();
        assert_eq!((mine.mtu, mine.runtime.mac.as_str()), (9, "m"));
        let path = "adIf".to_owned();
        let value = "\"eth0\"".to_owned();
        assert_eq!(unknown, [UnknownKey { path, value }]);
    }

    #[test]
    fn gc_knows_absent_from_empty() {
        let valid = |rest: &str| {
            let config = parse(&format!(r#"{{"name":"n"{rest}}}"#)).unwrap();
            match config.valid_attachments() {
                Ok(None) => "absent".to_owned(),
                Ok(Some(list)) => list
                    .iter()
                    .map(|valid| format!("{} {}", valid.container_id, valid.interface))
                    .collect::<Vec<_>>()
                    .join(", "),
                Err(error) => format!("{} {error}", error.code().number()),
            }
        };
        assert_eq!(valid(""), "absent");
        assert_eq!(valid(r#","cni.dev/valid-attachments":[]"#), "");
        assert_eq!(valid(r#","cni.dev/valid-attachments":null"#), "");
        let one = r#"[{"containerID":"c1","ifname":"eth0"}]"#;
        let other = r#"[{"ContainerID":"c2","IfName":"eth1","more":1}]"#;
        assert_eq!(
            valid(&format!(r#","cni.dev/attachments":{other}"#)),
            "c2 eth1"
        );
        assert_eq!(
            valid(&format!(
                r#","cni.dev/attachments":{other},"cni.dev/valid-attachments":{one}"#
            )),
            "c1 eth0"
        );
        assert_eq!(
            valid(&format!(
                r#","cni.dev/valid-attachments":null,"cni.dev/attachments":{one}"#
            )),
            ""
        );
    }

    #[test]
    fn gc_refuses_a_list_that_it_cannot_read() {
        let refused = |list: &str| {
            let text = format!(r#"{{"name":"n","cni.dev/valid-attachments":{list}}}"#);
            let error = parse(&text).unwrap().valid_attachments().unwrap_err();
            format!("{} {error}", error.code().number())
        };
        assert_eq!(
            refused("{}"),
            "6 cannot decode key \"cni.dev/valid-attachments\": expected an array, found an object"
        );
        assert_eq!(
            refused(r#"["c1"]"#),
            "6 cannot decode key \"cni.dev/valid-attachments[0]\": expected an object, found the string \"c1\""
        );
        assert_eq!(
            refused(r#"[{"containerID":"c1"}]"#),
            "7 cannot decode key \"cni.dev/valid-attachments[0].ifname\": it is missing"
        );
        assert_eq!(
            refused(r#"[{"containerID":"","ifname":"eth0"}]"#),
            "7 cannot decode key \"cni.dev/valid-attachments[0].containerID\": it is empty"
        );
    }

    proptest! {
        /// Pieces of JSON in any order, mostly wrong: an answer, and never a panic.
        #[test]
        fn no_configuration_is_too_odd(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "null", "true", "-1", "1e999", "\"name\":\"n\"",
                    "\"cniVersion\":", "\"1.0.0\"", "\"prevResult\":", "\"ips\"", "\"address\"",
                    "\"10.0.0.1/8\"", "\"cni.dev/attachments\":", "\"\\ud800\"", "\u{0}",
                ]),
                0..12,
            )
        ) {
            let text = format!("{{\"name\":\"n\",{}}}", pieces.concat());
            if let Ok(config) = parse(&text) {
                drop(config.prev_result());
                drop(config.valid_attachments());
                drop(config.decode_listing_unknown::<serde_json::Value>());
            }
        }
    }
}
