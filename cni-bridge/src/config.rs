//! The configuration of a network, checked: what is refused is refused here, before
//! anything is touched.
//!
//! It knows the keys and their meaning, and nothing of the kernel.

use std::{path::Path, sync::Arc};

use cni_protocol::{
    Args, Code, DecodeError, Dns, Failure, InterfaceName, NetworkConfig, UnknownKey,
};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{
    agent::{self, UnknownKeys},
    mac::{InvalidMac, Mac},
    masquerade::Policy,
    vlan::{InvalidVlan, RawTrunk, Vlan},
};

const DEFAULT_BRIDGE: &str = "cbr0";
/// The `ipam.type` that is served in this process.
const BUILT_IN: &str = "cni-ipam";
/// The smallest datagram that IPv4 lets a link have (RFC 791), in bytes.
const MIN_MTU: u32 = 68;
/// `ETH_MAX_MTU`, in bytes.
const MAX_MTU: u32 = 65_535;

/// The keys of a configuration as they are written, before their meaning is settled.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the keys of the configuration"
)]
struct Raw {
    strict: bool,
    bridge: Option<String>,
    is_gateway: Option<bool>,
    is_default_gateway: Option<bool>,
    force_address: bool,
    ip_masq: Option<bool>,
    ip_masq_backend: Option<String>,
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<Vec<String>>,
    #[serde(rename = "masqueradeCIDRs")]
    masquerade_cidrs: Option<Vec<String>>,
    masq_link_local: Option<bool>,
    ip_masq_config: Option<String>,
    mtu: Option<RawMtu>,
    hairpin_mode: Option<bool>,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Option<Vec<RawTrunk>>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    ipspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    forward_accept: bool,
    ipam: Option<serde::de::IgnoredAny>,
    status_on_exhaustion: Option<serde::de::IgnoredAny>,
    log_file: Option<serde::de::IgnoredAny>,
    log_level: Option<serde::de::IgnoredAny>,
    dns: Option<Dns>,
    runtime_config: RawRuntimeConfig,
    args: RawArgs,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawMtu {
    Bytes(i64),
    Word(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRuntimeConfig {
    mac: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    cni: RawCniArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCniArgs {
    mac: Option<String>,
}

/// How the pods of a network are connected.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the configuration, used by its name"
)]
pub(crate) struct Config {
    pub(crate) bridge: InterfaceName,
    pub(crate) ipam: Ipam,
    /// The bridge has the gateways' addresses, and the node routes.
    pub(crate) gateway: bool,
    /// The pod's default route leads through the bridge.
    pub(crate) default_gateway: bool,
    pub(crate) conflict: AddressConflict,
    pub(crate) masquerade: Masquerade,
    pub(crate) mtu: Mtu,
    pub(crate) hairpin: bool,
    pub(crate) promiscuous: bool,
    pub(crate) vlan: Option<Vlan>,
    pub(crate) spoof_check: SpoofCheck,
    pub(crate) duplicate_address_detection: bool,
    pub(crate) pod_end: PodEnd,
    pub(crate) isolated: bool,
    /// Pods are accepted in forward chains of other people that drop what they do not know.
    pub(crate) forward_accept: bool,
    /// The address that the pod's end is to have instead of a derived one.
    pub(crate) mac: Option<Mac>,
    /// Replaces what the IPAM says, where it says anything.
    pub(crate) dns: Dns,
}

/// Who gives the addresses.
#[derive(Debug)]
pub(crate) enum Ipam {
    /// Nobody: the pod gets a port of the bridge and no address.
    None,
    /// This process, from the store of `cni-ipam`.
    BuiltIn(Box<cni_ipam::Config>),
    /// Another executable of this name.
    Delegated(String),
}

/// Which packets of pods get the node's address.
#[derive(Debug)]
pub(crate) enum Masquerade {
    Off,
    By(Policy),
    /// The file that says it cannot be used: what is there has to stay.
    Unknown(Arc<agent::Error>),
}

/// What to do about another address that the bridge has where a gateway's should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AddressConflict {
    Refuse,
    Replace,
}

/// The largest packet, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mtu {
    /// That of the link by which the node's default route leaves.
    Auto,
    Bytes(u32),
}

/// What is checked of what a pod sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SpoofCheck {
    Nothing,
    /// `macspoofchk`: its MAC address.
    Mac,
    /// `ipspoofchk`: its MAC and IP addresses, and what it claims to neighbours.
    Addresses,
}

/// Whether the pod's end is brought up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PodEnd {
    Up,
    /// `disableContainerInterface`: whoever gets the interface brings it up.
    Down,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("unknown key \"{}\" with value {} (\"strict\": true refuses it)", .0.path, .0.value)]
    Unknown(UnknownKey),
    #[error("invalid \"bridge\"")]
    Bridge(#[source] cni_protocol::InvalidInterfaceName),
    #[error("\"hairpinMode\" and \"promiscMode\" exclude each other: set one of them to false")]
    HairpinAndPromiscuous,
    #[error(
        "\"disableContainerInterface\" leaves no interface for the addresses of \"ipam\": remove one of them"
    )]
    IpamWithoutInterface,
    #[error(
        "\"ipspoofchk\" and \"disableContainerInterface\" exclude each other: nobody knows the addresses of a virtual machine behind the interface"
    )]
    AddressCheckWithoutInterface,
    #[error(
        "\"ipspoofchk\" needs an \"ipam\" that says which addresses a pod has: add one, or use \"macspoofchk\""
    )]
    AddressCheckWithoutIpam,
    #[error(
        "\"ipspoofchk\" and \"vlanTrunk\" exclude each other: where addresses are checked, tagged frames are dropped"
    )]
    AddressCheckAndTrunk,
    #[error("\"ipMasqBackend\" is \"{0}\": expected \"nftables\" or \"iptables\"")]
    Backend(String),
    #[error("\"mtu\" is {0}: expected \"auto\" or a number of bytes from {MIN_MTU} to {MAX_MTU}")]
    Mtu(i64),
    #[error("\"mtu\" is \"{0}\": expected \"auto\" or a number of bytes without quotes")]
    MtuWord(String),
    #[error("\"{key}\" has '{value}': expected an address range like 10.0.0.0/8")]
    Cidr { key: &'static str, value: String },
    #[error("\"ipMasqConfig\" is \"{0}\": expected the absolute path of a file")]
    FilePath(String),
    #[error(
        "\"ipMasqConfig\" and \"{0}\" exclude each other: what the file says is all that counts"
    )]
    FileAnd(&'static str),
    #[error(transparent)]
    Vlan(#[from] InvalidVlan),
    #[error("the MAC address requested by {origin} cannot be used")]
    Mac {
        origin: &'static str,
        #[source]
        source: InvalidMac,
    },
    #[error(transparent)]
    Ipam(#[from] cni_ipam::ConfigError),
}

impl Failure for Error {
    fn code(&self) -> Code {
        match self {
            Self::Decode(error) => error.code(),
            Self::Ipam(error) => error.code(),
            Self::Unknown(_) => Code::UnsupportedField,
            Self::MtuWord(_) => Code::Decode,
            Self::Bridge(_)
            | Self::HairpinAndPromiscuous
            | Self::IpamWithoutInterface
            | Self::AddressCheckWithoutInterface
            | Self::AddressCheckWithoutIpam
            | Self::AddressCheckAndTrunk
            | Self::Backend(_)
            | Self::Mtu(_)
            | Self::Cidr { .. }
            | Self::FilePath(_)
            | Self::FileAnd(_)
            | Self::Vlan(_)
            | Self::Mac { .. } => Code::InvalidConfig,
        }
    }
}

impl Config {
    /// Settles the meaning of a configuration, with what the runtime asks for one pod.
    pub(crate) fn parse(network: &NetworkConfig, args: &Args) -> Result<Self, Error> {
        let raw = decode(network)?;
        let layer3 = ipam_type(network).is_some();
        let is_gateway = raw.is_gateway.unwrap_or(layer3);
        // Written or not: without a gateway there is nothing to route by default to.
        let default_gateway = raw.is_default_gateway.unwrap_or(layer3 && is_gateway);
        let hairpin = raw.hairpin_mode.unwrap_or(layer3 && !raw.promisc_mode);
        if hairpin && raw.promisc_mode {
            return Err(Error::HairpinAndPromiscuous);
        }
        if layer3 && raw.disable_container_interface {
            return Err(Error::IpamWithoutInterface);
        }
        check_backend(raw.ip_masq_backend.as_deref())?;
        Ok(Self {
            bridge: bridge_name(raw.bridge.as_deref())?,
            gateway: is_gateway || default_gateway,
            default_gateway,
            conflict: if raw.force_address {
                AddressConflict::Replace
            } else {
                AddressConflict::Refuse
            },
            masquerade: masquerade(&raw, layer3 && raw.ip_masq.unwrap_or(true))?,
            mtu: mtu(raw.mtu.as_ref())?,
            hairpin,
            promiscuous: raw.promisc_mode,
            vlan: Vlan::parse(
                raw.vlan,
                raw.vlan_trunk.as_deref(),
                raw.preserve_default_vlan,
            )?,
            spoof_check: spoof_check(&raw, layer3)?,
            duplicate_address_detection: raw.enabledad,
            pod_end: if raw.disable_container_interface {
                PodEnd::Down
            } else {
                PodEnd::Up
            },
            isolated: raw.port_isolation,
            forward_accept: raw.forward_accept,
            mac: requested_mac(&raw, args)?,
            dns: raw.dns.unwrap_or_default(),
            ipam: ipam(network, args)?,
        })
    }
}

/// The bridge that a configuration names, however much else is wrong with it.
pub(crate) fn bridge_of(network: &NetworkConfig) -> Option<InterfaceName> {
    bridge_name(network.text(&["bridge"])).ok()
}

/// Who is to be told of a DEL or a GC, however much else is wrong with the configuration.
pub(crate) fn ipam_type(network: &NetworkConfig) -> Option<&str> {
    network
        .text(&["ipam", "type"])
        .filter(|name| !name.is_empty())
}

/// The built-in IPAM serves this type.
pub(crate) fn is_built_in(ipam_type: &str) -> bool {
    ipam_type == BUILT_IN
}

fn decode(network: &NetworkConfig) -> Result<Raw, Error> {
    let (raw, mut unknown): (Raw, Vec<UnknownKey>) = network.decode_listing_unknown()?;
    if raw.strict && ipam_type(network).is_some_and(is_built_in) {
        unknown.extend(cni_ipam::unknown_keys(network)?);
    }
    match unknown.into_iter().next() {
        Some(key) if raw.strict => Err(Error::Unknown(key)),
        _ => Ok(raw),
    }
}

fn ipam(network: &NetworkConfig, args: &Args) -> Result<Ipam, Error> {
    Ok(match ipam_type(network) {
        None => Ipam::None,
        Some(name) if is_built_in(name) => {
            Ipam::BuiltIn(Box::new(cni_ipam::Config::parse(network, args)?))
        }
        Some(name) => Ipam::Delegated(name.to_owned()),
    })
}

fn bridge_name(name: Option<&str>) -> Result<InterfaceName, Error> {
    let name = name
        .filter(|name| !name.is_empty())
        .unwrap_or(DEFAULT_BRIDGE);
    name.parse().map_err(Error::Bridge)
}

fn check_backend(backend: Option<&str>) -> Result<(), Error> {
    match backend {
        None | Some("" | "nftables") => Ok(()),
        Some("iptables") => {
            cni_protocol::log(
                &"\"ipMasqBackend\" is \"iptables\": the rule is written with nftables all the same",
            );
            Ok(())
        }
        Some(other) => Err(Error::Backend(other.to_owned())),
    }
}

fn spoof_check(raw: &Raw, layer3: bool) -> Result<SpoofCheck, Error> {
    match raw {
        Raw {
            ipspoofchk: false,
            macspoofchk,
            ..
        } => Ok(if *macspoofchk {
            SpoofCheck::Mac
        } else {
            SpoofCheck::Nothing
        }),
        raw if raw.disable_container_interface => Err(Error::AddressCheckWithoutInterface),
        _ if !layer3 => Err(Error::AddressCheckWithoutIpam),
        raw if raw
            .vlan_trunk
            .as_ref()
            .is_some_and(|trunk| !trunk.is_empty()) =>
        {
            Err(Error::AddressCheckAndTrunk)
        }
        _ => Ok(SpoofCheck::Addresses),
    }
}

fn mtu(raw: Option<&RawMtu>) -> Result<Mtu, Error> {
    match raw {
        None | Some(RawMtu::Bytes(0)) => Ok(Mtu::Auto),
        Some(RawMtu::Word(word)) if word == "auto" || word.is_empty() => Ok(Mtu::Auto),
        Some(RawMtu::Word(word)) => Err(Error::MtuWord(word.clone())),
        Some(RawMtu::Bytes(bytes)) => match u32::try_from(*bytes) {
            Ok(bytes) if (MIN_MTU..=MAX_MTU).contains(&bytes) => Ok(Mtu::Bytes(bytes)),
            _ => Err(Error::Mtu(*bytes)),
        },
    }
}

fn masquerade(raw: &Raw, on: bool) -> Result<Masquerade, Error> {
    let file = raw.ip_masq_config.as_deref();
    let Some(file) = file.filter(|path| !path.is_empty()) else {
        return if on {
            policy(raw).map(Masquerade::By)
        } else {
            Ok(Masquerade::Off)
        };
    };
    let path = Path::new(file);
    if !path.is_absolute() {
        return Err(Error::FilePath(file.to_owned()));
    }
    for (key, is_there) in [
        ("nonMasqueradeCIDRs", raw.non_masquerade_cidrs.is_some()),
        ("masqueradeCIDRs", raw.masquerade_cidrs.is_some()),
        ("masqLinkLocal", raw.masq_link_local.is_some()),
    ] {
        if is_there {
            return Err(Error::FileAnd(key));
        }
    }
    if !on {
        return Ok(Masquerade::Off);
    }
    let unknown = if raw.strict {
        UnknownKeys::Refused
    } else {
        UnknownKeys::Ignored
    };
    Ok(match agent::read(path, unknown) {
        Ok(policy) => Masquerade::By(policy),
        Err(error) => Masquerade::Unknown(Arc::new(error)),
    })
}

fn policy(raw: &Raw) -> Result<Policy, Error> {
    let spared = raw.non_masquerade_cidrs.as_deref();
    let spared = spared
        .map(|list| cidrs("nonMasqueradeCIDRs", list))
        .transpose()?;
    let masqueraded = cidrs(
        "masqueradeCIDRs",
        raw.masquerade_cidrs.as_deref().unwrap_or_default(),
    )?;
    let link_local = raw.masq_link_local.unwrap_or(false);
    Ok(Policy::new(spared, masqueraded, link_local))
}

fn cidrs(key: &'static str, list: &[String]) -> Result<Vec<IpNet>, Error> {
    list.iter()
        .map(|value| match value.trim().parse::<IpNet>() {
            Ok(cidr) => Ok(cidr.trunc()),
            Err(_syntax) => Err(Error::Cidr {
                key,
                value: value.clone(),
            }),
        })
        .collect()
}

/// The conventions' order: what the runtime was told beats what the pod's user asked for.
fn requested_mac(raw: &Raw, args: &Args) -> Result<Option<Mac>, Error> {
    let origins = [
        ("\"runtimeConfig.mac\"", raw.runtime_config.mac.as_deref()),
        ("\"args.cni.mac\"", raw.args.cni.mac.as_deref()),
        ("MAC in CNI_ARGS", args.mac.as_deref()),
    ];
    let requested = origins
        .into_iter()
        .find_map(|(origin, mac)| Some((origin, mac.filter(|mac| !mac.is_empty())?)));
    requested
        .map(|(origin, mac)| mac.parse().map_err(|source| Error::Mac { origin, source }))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(keys: &str) -> Result<Config, Error> {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"cni-bridge"{keys}}}"#);
        let network = NetworkConfig::parse(text.into_bytes()).unwrap();
        Config::parse(&network, &Args::default())
    }

    const IPAM: &str = r#","ipam":{"type":"cni-ipam","subnet":"10.64.1.0/24"}"#;

    fn refused(keys: &str) -> String {
        parse(keys).unwrap_err().to_string()
    }

    #[test]
    fn the_smallest_configuration_is_a_whole_node() {
        let config = parse(IPAM).unwrap();
        assert_eq!(config.bridge.as_str(), "cbr0");
        assert!(config.gateway && config.default_gateway && config.hairpin);
        assert!(
            matches!(&config.masquerade, Masquerade::By(policy) if *policy == Policy::new(None, vec![], false))
        );
        assert_eq!(config.mtu, Mtu::Auto);
    }

    #[test]
    fn without_an_ipam_nothing_of_layer_3_is_on() {
        let config = parse("").unwrap();
        assert!(!config.gateway && !config.default_gateway && !config.hairpin);
        assert!(matches!(config.masquerade, Masquerade::Off));
    }

    #[test]
    fn what_is_written_wins() {
        let config = parse(&format!(
            r#"{IPAM},"isGateway":false,"ipMasq":false,"HAIRPINMODE":false"#
        ))
        .unwrap();
        assert!(!config.gateway && !config.default_gateway && !config.hairpin);
        assert!(matches!(config.masquerade, Masquerade::Off));
    }

    #[test]
    fn a_default_gateway_is_a_gateway() {
        let config = parse(&format!(
            r#"{IPAM},"isGateway":false,"isDefaultGateway":true"#
        ))
        .unwrap();
        assert!(config.gateway && config.default_gateway);
    }

    #[test]
    fn promiscuous_turns_the_default_of_hairpin_off() {
        let config = parse(&format!(r#"{IPAM},"promiscMode":true"#)).unwrap();
        assert!(config.promiscuous && !config.hairpin);
        let refused = refused(&format!(r#"{IPAM},"promiscMode":true,"hairpinMode":true"#));
        assert_eq!(
            refused,
            "\"hairpinMode\" and \"promiscMode\" exclude each other: set one of them to false"
        );
    }

    #[test]
    fn refusals_name_key_and_value() {
        assert_eq!(
            refused(r#","mtu":10"#),
            "\"mtu\" is 10: expected \"auto\" or a number of bytes from 68 to 65535"
        );
        assert_eq!(
            refused(r#","ipMasqBackend":"ebtables""#),
            "\"ipMasqBackend\" is \"ebtables\": expected \"nftables\" or \"iptables\""
        );
        let cidr = refused(&format!(r#"{IPAM},"nonMasqueradeCIDRs":["10.0.0.0/33"]"#));
        assert_eq!(
            cidr,
            "\"nonMasqueradeCIDRs\" has '10.0.0.0/33': expected an address range like 10.0.0.0/8"
        );
        assert_eq!(
            refused(r#","vlan":5000"#),
            "\"vlan\" is 5000: expected a number from 0 to 4094"
        );
    }

    #[test]
    fn the_exceptions_stand_in_one_place() {
        for key in [
            r#""nonMasqueradeCIDRs":["10.0.0.0/8"]"#,
            r#""masqueradeCIDRs":[]"#,
            r#""masqLinkLocal":false"#,
        ] {
            let name = key.split('"').nth(1).unwrap();
            assert_eq!(
                refused(&format!(r#"{IPAM},"ipMasqConfig":"/nowhere/config",{key}"#)),
                format!(
                    "\"ipMasqConfig\" and \"{name}\" exclude each other: what the file says is all that counts"
                )
            );
        }
        assert_eq!(
            refused(&format!(r#"{IPAM},"ipMasqConfig":"etc/config""#)),
            "\"ipMasqConfig\" is \"etc/config\": expected the absolute path of a file"
        );
        let config = parse(&format!(r#"{IPAM},"ipMasqConfig":"","masqLinkLocal":true"#));
        assert!(matches!(config.unwrap().masquerade, Masquerade::By(_)));
        let config = parse(&format!(
            r#"{IPAM},"ipMasqConfig":"/dev/null","ipMasq":false"#
        ));
        assert!(matches!(config.unwrap().masquerade, Masquerade::Off));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_no_reason_to_refuse_the_configuration() {
        let config = parse(&format!(r#"{IPAM},"ipMasqConfig":"/dev/null""#)).unwrap();
        assert!(matches!(&config.masquerade, Masquerade::Unknown(error)
                if error.to_string() == "the \"ipMasqConfig\" /dev/null is no regular file"));
    }

    #[test]
    fn a_check_of_addresses_needs_to_know_them() {
        let check = |keys: &str| parse(keys).unwrap().spoof_check;
        assert_eq!(check(IPAM), SpoofCheck::Nothing);
        assert_eq!(
            check(&format!(r#"{IPAM},"macspoofchk":true"#)),
            SpoofCheck::Mac
        );
        for keys in [
            r#""ipspoofchk":true"#,
            r#""macspoofchk":false,"IPSPOOFCHK":true"#,
        ] {
            assert_eq!(check(&format!("{IPAM},{keys}")), SpoofCheck::Addresses);
        }
        for (keys, error) in [
            (String::new(), Error::AddressCheckWithoutIpam),
            (
                r#","disableContainerInterface":true"#.to_owned(),
                Error::AddressCheckWithoutInterface,
            ),
            (
                format!(r#"{IPAM},"vlanTrunk":[{{"id":7}}]"#),
                Error::AddressCheckAndTrunk,
            ),
        ] {
            let refused = parse(&format!(r#"{keys},"ipspoofchk":true"#)).unwrap_err();
            assert_eq!(refused.to_string(), error.to_string());
            assert_eq!(refused.code(), Code::InvalidConfig);
        }
        check(&format!(
            r#"{IPAM},"vlan":7,"vlanTrunk":[],"ipspoofchk":true"#
        ));
    }

    #[test]
    fn strict_refuses_what_it_does_not_know() {
        let error = parse(r#","strict":true,"addIf":"eth0""#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown key \"addIf\" with value \"eth0\" (\"strict\": true refuses it)"
        );
        assert_eq!(error.code(), Code::UnsupportedField);
        parse(r#","addIf":"eth0""#).unwrap();
        let ipam =
            r#","strict":true,"ipam":{"type":"cni-ipam","subnet":"10.64.1.0/24","subnets":[]}"#;
        assert_eq!(
            refused(ipam),
            "unknown key \"ipam.subnets\" with value [] (\"strict\": true refuses it)"
        );
    }

    #[test]
    fn the_runtimes_mac_beats_the_others() {
        let keys = r#","runtimeConfig":{"mac":"0a:00:00:00:00:01"},"args":{"cni":{"mac":"0a:00:00:00:00:02"}}"#;
        assert_eq!(
            parse(keys).unwrap().mac.unwrap().to_string(),
            "0a:00:00:00:00:01"
        );
        let error = parse(r#","args":{"cni":{"mac":"01:00:00:00:00:02"}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the MAC address requested by \"args.cni.mac\" cannot be used"
        );
    }
}
