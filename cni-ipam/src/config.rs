//! The `ipam` section of a configuration, checked: what is here can be served.
//!
//! Everything that a person wrote wrong is refused here, with the key and the value.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cni_protocol::{
    Args, Code, DecodeError, Dns, Failure, NetworkConfig, Route, UnknownKey, Version, json::Json,
};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{
    address::{Family, Interval},
    range::{Range, RangeSet, Refused, Wanted, overlap},
    resolv,
};

/// Where the stores of all networks are, if the configuration does not say.
///
/// In memory: leases end with the boot, as the pods do.
pub const DEFAULT_DATA_DIR: &str = "/run/cni-ipam";
/// How much of a resolver's configuration is read, in bytes.
const MAX_RESOLV_CONF: u64 = 64 << 10;
/// Where host-local keeps the records of all networks, if it is not told otherwise.
pub const HOST_LOCAL_DIR: &str = "/var/lib/cni/networks";

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    data_dir: DataDir,
    sets: Vec<RangeSet>,
    /// How many sets at the beginning came with this request only.
    runtime_sets: usize,
    routes: Vec<Route>,
    dns: Dns,
    /// For each set, the address that is asked for.
    requested: Vec<Option<IpAddr>>,
    status_on_exhaustion: bool,
}

/// The directories of a configuration. Found even in a configuration that is wrong
/// otherwise, because DEL has to work with that too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataDir {
    path: PathBuf,
    import_from: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    ipam: Option<Section>,
    runtime_config: Option<RuntimeConfig>,
    status_on_exhaustion: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    ips: Option<Vec<String>>,
    ip_ranges: Option<Vec<Option<Vec<RawRange>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Section {
    // Read by the runtime, known here so that it is not listed as unknown.
    #[serde(rename = "type")]
    _type: Option<String>,
    subnet: Option<String>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
    ranges: Option<Vec<Option<Vec<RawRange>>>>,
    exclude: Option<Vec<String>>,
    routes: Option<Vec<Route>>,
    resolv_conf: Option<String>,
    data_dir: Option<String>,
    import_from: Option<String>,
    status_on_exhaustion: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRange {
    subnet: Option<String>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
    exclude: Option<Vec<String>>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot decode the network configuration")]
    Decode(#[from] DecodeError),
    #[error("{key} is missing: {hint}")]
    Missing { key: String, hint: &'static str },
    #[error("{key} {value:?}: {problem}")]
    Invalid {
        key: String,
        value: String,
        problem: String,
    },
    #[error("{one} and {other} have addresses in common")]
    Overlap { one: String, other: String },
    #[error("CNI version {version} does not support more than 1 address per family")]
    OnePerFamily { version: &'static str },
}

impl Failure for ConfigError {
    fn code(&self) -> Code {
        match self {
            Self::Decode(error) => error.code(),
            Self::Missing { .. }
            | Self::Invalid { .. }
            | Self::Overlap { .. }
            | Self::OnePerFamily { .. } => Code::InvalidConfig,
        }
    }
}

impl Config {
    /// Checks the `ipam` section and what the runtime asks for beside it.
    pub fn parse(config: &NetworkConfig, args: &Args) -> Result<Self, ConfigError> {
        let document: Document = config.decode()?;
        let section = document.ipam.ok_or_else(|| ConfigError::Missing {
            key: "ipam".to_owned(),
            hint: "it has to say at least which subnet the addresses are of",
        })?;
        let runtime = document.runtime_config.unwrap_or_default();
        let (ranges, runtime_sets) = all_ranges(&section, &runtime)?;
        let exclude = intervals(section.exclude.as_deref(), "ipam.exclude")?;
        let sets = sets(ranges, exclude)?;
        one_per_family(&sets, config.version())?;
        let requested = requested(&runtime, config, args)?;
        Ok(Self {
            data_dir: checked_data_dir(config)?,
            requested: assign(&requested, &sets)?,
            sets,
            runtime_sets,
            dns: resolv_conf(section.resolv_conf)?,
            routes: section.routes.unwrap_or_default(),
            status_on_exhaustion: section
                .status_on_exhaustion
                .or(document.status_on_exhaustion)
                .unwrap_or(false),
        })
    }

    /// One address is given of each set.
    pub fn sets(&self) -> &[RangeSet] {
        &self.sets
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    pub fn data_dir(&self) -> &DataDir {
        &self.data_dir
    }

    /// For each set, the address that has to be given, if the runtime asked for one.
    pub(crate) fn requested(&self) -> &[Option<IpAddr>] {
        &self.requested
    }

    pub(crate) fn status_on_exhaustion(&self) -> bool {
        self.status_on_exhaustion
    }

    /// The sets that stand in the configuration, without those of the runtime.
    pub(crate) fn static_sets(&self) -> &[RangeSet] {
        self.sets.get(self.runtime_sets..).unwrap_or_default()
    }
}

/// Where the configuration has its store. Looks at nothing but `ipam.dataDir` and
/// `ipam.importFrom`, and takes the default for what it does not understand.
pub fn data_dir(config: &NetworkConfig) -> DataDir {
    let absolute = |key| {
        let text = config.text(&["ipam", key])?;
        Some(PathBuf::from(text)).filter(|path| path.is_absolute())
    };
    let import_from = match config.text(&["ipam", "importFrom"]) {
        Some("none") => None,
        _ => Some(absolute("importFrom").unwrap_or_else(|| PathBuf::from(HOST_LOCAL_DIR))),
    };
    DataDir {
        path: absolute("dataDir").unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
        import_from,
    }
}

/// The keys of the `ipam` section that mean nothing, for those who want to refuse them.
pub fn unknown_keys(config: &NetworkConfig) -> Result<Vec<UnknownKey>, ConfigError> {
    let (_, mut unknown) = config.decode_listing_unknown::<Document>()?;
    unknown.retain(|key| key.path.to_ascii_lowercase().starts_with("ipam."));
    Ok(unknown)
}

impl DataDir {
    /// Stores in this directory, and nothing to take over.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            import_from: None,
        }
    }

    /// The same, with the directory of host-local from which records are taken over.
    #[must_use]
    pub fn with_import_from(mut self, directory: impl Into<PathBuf>) -> Self {
        self.import_from = Some(directory.into());
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn import_from(&self) -> Option<&Path> {
        self.import_from.as_deref()
    }
}

fn checked_data_dir(config: &NetworkConfig) -> Result<DataDir, ConfigError> {
    for (key, or) in [("dataDir", ""), ("importFrom", " (or \"none\")")] {
        let text = config.text(&["ipam", key]).unwrap_or_default();
        let is_fine = text.is_empty() || Path::new(text).is_absolute() || text == "none";
        if !is_fine || (key == "dataDir" && text == "none") {
            let problem = format!("it has to be an absolute path{or}");
            return Err(invalid(format!("ipam.{key}"), text, problem));
        }
    }
    Ok(data_dir(config))
}

fn invalid(
    key: impl Into<String>,
    value: impl Into<String>,
    problem: impl Into<String>,
) -> ConfigError {
    ConfigError::Invalid {
        key: key.into(),
        value: value.into(),
        problem: problem.into(),
    }
}

/// Ranges with the key under which each set stands, those of the runtime first.
type KeyedRanges = Vec<(String, Vec<Range>)>;

fn all_ranges(
    section: &Section,
    runtime: &RuntimeConfig,
) -> Result<(KeyedRanges, usize), ConfigError> {
    let mut ranges = keyed(runtime.ip_ranges.as_deref(), "runtimeConfig.ipRanges")?;
    let runtime_sets = ranges.len();
    let single = RawRange {
        subnet: section.subnet.clone(),
        range_start: section.range_start.clone(),
        range_end: section.range_end.clone(),
        gateway: section.gateway.clone(),
        exclude: None,
    };
    if is_set(single.subnet.as_ref()) {
        ranges.push(("ipam".to_owned(), vec![range(&single, "ipam")?]));
    }
    ranges.extend(keyed(section.ranges.as_deref(), "ipam.ranges")?);
    if ranges.is_empty() {
        return Err(ConfigError::Missing {
            key: "ipam.subnet or ipam.ranges".to_owned(),
            hint: "no IP ranges specified",
        });
    }
    Ok((ranges, runtime_sets))
}

fn keyed(sets: Option<&[Option<Vec<RawRange>>]>, key: &str) -> Result<KeyedRanges, ConfigError> {
    let mut keyed = Vec::new();
    for (n, set) in sets.unwrap_or_default().iter().enumerate() {
        let key = format!("{key}[{n}]");
        let set = set.as_deref().unwrap_or_default();
        if set.is_empty() {
            let hint = "a set needs at least one range";
            return Err(ConfigError::Missing { key, hint });
        }
        let ranges = set
            .iter()
            .enumerate()
            .map(|(n, raw)| range(raw, &format!("{key}[{n}]")))
            .collect::<Result<_, _>>()?;
        keyed.push((key, ranges));
    }
    Ok(keyed)
}

/// Go programs write unset strings as empty ones.
fn is_set(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn range(raw: &RawRange, key: &str) -> Result<Range, ConfigError> {
    let Some(subnet) = raw.subnet.as_ref().filter(|text| !text.is_empty()) else {
        return Err(ConfigError::Missing {
            key: format!("{key}.subnet"),
            hint: "a range needs a subnet, such as 10.64.1.0/24",
        });
    };
    let wanted = Wanted {
        subnet: subnet
            .parse::<IpNet>()
            .map_err(|error| invalid(format!("{key}.subnet"), subnet, error.to_string()))?,
        start: address(raw.range_start.as_ref(), &format!("{key}.rangeStart"))?,
        end: address(raw.range_end.as_ref(), &format!("{key}.rangeEnd"))?,
        gateway: address(raw.gateway.as_ref(), &format!("{key}.gateway"))?,
        exclude: intervals(raw.exclude.as_deref(), &format!("{key}.exclude"))?,
    };
    Range::new(wanted).map_err(|refused| {
        let Refused {
            key: inner,
            value,
            problem,
        } = refused;
        invalid(format!("{key}.{inner}"), value, problem)
    })
}

fn address(text: Option<&String>, key: &str) -> Result<Option<IpAddr>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text.parse();
    parsed
        .map(Some)
        .map_err(|error: std::net::AddrParseError| invalid(key, text, error.to_string()))
}

fn intervals(texts: Option<&[String]>, key: &str) -> Result<Vec<Interval>, ConfigError> {
    texts
        .unwrap_or_default()
        .iter()
        .enumerate()
        .filter(|(_, text)| !text.is_empty())
        .map(|(n, text)| {
            interval(text).ok_or_else(|| {
                let problem = "it has to be an address, a CIDR or first-last";
                invalid(format!("{key}[{n}]"), text, problem)
            })
        })
        .collect()
}

/// `10.0.0.1`, `10.0.0.0/28` or `10.0.0.1-10.0.0.9`.
fn interval(text: &str) -> Option<Interval> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Some(Interval::single(address));
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Interval::new(net.network(), net.broadcast());
    }
    let (first, last) = text.split_once('-')?;
    Interval::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
}

fn sets(keyed: KeyedRanges, exclude: Vec<Interval>) -> Result<Vec<RangeSet>, ConfigError> {
    let mut holes = exclude;
    for (_, ranges) in &keyed {
        holes.extend(ranges.iter().map(|range| Interval::single(range.gateway())));
    }
    let mut sets: Vec<RangeSet> = Vec::new();
    for (key, ranges) in keyed {
        same_family_apart(&ranges, &key)?;
        let set = RangeSet::new(ranges, &holes);
        if set.usable().is_empty() {
            let problem = "its gateway and exclusions leave no address to give";
            return Err(invalid(key, set.to_string(), problem));
        }
        if let Some((one, other)) = sets.iter().find_map(|before| before.overlap(&set)) {
            return Err(overlapping(one, other));
        }
        sets.push(set);
    }
    Ok(sets)
}

/// The ranges of a set are of one family and have no address in common.
fn same_family_apart(ranges: &[Range], key: &str) -> Result<(), ConfigError> {
    for (n, range) in ranges.iter().enumerate() {
        let before = ranges.get(..n).unwrap_or_default();
        if let Some((one, other)) = overlap(before, std::slice::from_ref(range)) {
            return Err(overlapping(one, other));
        }
        let first = before.first().unwrap_or(range);
        if Family::of(first.gateway()) != Family::of(range.gateway()) {
            let problem = "IPv4 and IPv6 are in one set; each needs a set of its own";
            let key = format!("{key}[{n}].subnet");
            return Err(invalid(key, range.subnet().to_string(), problem));
        }
    }
    Ok(())
}

fn overlapping(one: &Range, other: &Range) -> ConfigError {
    let name = |range: &Range| format!("range {range} of subnet {}", range.subnet());
    ConfigError::Overlap {
        one: name(one),
        other: name(other),
    }
}

/// Results up to 0.2.0 have room for one address of each family.
fn one_per_family(sets: &[RangeSet], version: Version) -> Result<(), ConfigError> {
    let count = |family| {
        sets.iter()
            .filter_map(|set| set.usable().first())
            .filter(|part| part.family == family)
            .count()
    };
    if version <= Version::V0_2_0 && (count(Family::V4) > 1 || count(Family::V6) > 1) {
        let version = version.as_str();
        return Err(ConfigError::OnePerFamily { version });
    }
    Ok(())
}

/// The addresses that are asked for, with the key that asks for them.
///
/// A newer way of asking replaces an older one (CONVENTIONS.md of the specification).
fn requested(
    runtime: &RuntimeConfig,
    config: &NetworkConfig,
    args: &Args,
) -> Result<Vec<(&'static str, IpAddr)>, ConfigError> {
    let ips = runtime.ips.as_deref();
    let from_runtime = parsed(ips.unwrap_or_default(), "runtimeConfig.ips")?;
    if !from_runtime.is_empty() {
        return Ok(from_runtime);
    }
    let texts: Vec<String> = match config.json(&["args", "cni", "ips"]) {
        Some(Json::Array(texts)) => texts
            .iter()
            .filter_map(Json::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    };
    let from_args = parsed(&texts, "args.cni.ips")?;
    if !from_args.is_empty() {
        return Ok(from_args);
    }
    parsed(args.ip.as_slice(), "CNI_ARGS IP")
}

fn parsed(texts: &[String], key: &'static str) -> Result<Vec<(&'static str, IpAddr)>, ConfigError> {
    let texts = texts.iter().filter(|text| !text.is_empty());
    let parse = |text: &String| {
        // The prefix is the subnet's, whatever stands here.
        let address = text.split('/').next().unwrap_or_default();
        match address.parse() {
            Ok(address) => Ok((key, address)),
            Err(_) => Err(invalid(key, text, "it is no IP address")),
        }
    };
    texts.map(parse).collect()
}

/// Gives each requested address to the set that it is in.
fn assign(
    requested: &[(&'static str, IpAddr)],
    sets: &[RangeSet],
) -> Result<Vec<Option<IpAddr>>, ConfigError> {
    let mut assigned = vec![None; sets.len()];
    for (key, address) in requested {
        let refuse = |why: String| {
            let problem = format!("failed to allocate all requested IPs: {why}");
            Err(invalid(*key, address.to_string(), problem))
        };
        let found = sets
            .iter()
            .zip(&mut assigned)
            .find(|(set, _)| set.range_of(*address).is_some());
        let Some((set, place)) = found else {
            return refuse("it is in none of the ranges".to_owned());
        };
        if !set.may_give(*address) {
            return refuse(format!(
                "in {set}, it is the gateway's, the network's, the broadcast address or excluded"
            ));
        }
        if let Some(other) = place.filter(|other| other != address) {
            return refuse(format!("{other} is asked for in {set} too"));
        }
        *place = Some(*address);
    }
    Ok(assigned)
}

fn resolv_conf(path: Option<String>) -> Result<Dns, ConfigError> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(Dns::default());
    };
    match read_file(&path) {
        Ok(text) => Ok(resolv::parse(&text)),
        Err(error) => {
            let why = crate::cause::Cause::from(io::Error::from(error.kind()));
            Err(invalid("ipam.resolvConf", path, why.to_string()))
        }
    }
}

/// The beginning of a file. What is no file (a pipe that nobody writes to, a device without
/// an end) is refused rather than waited for.
fn read_file(path: &str) -> io::Result<String> {
    let nonblocking = nix::libc::O_NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    file.take(MAX_RESOLV_CONF).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn try_parse(text: &str, args: &Args) -> Result<Config, ConfigError> {
        let network = NetworkConfig::parse(text.as_bytes().to_vec()).unwrap();
        Config::parse(&network, args)
    }

    fn ipam(section: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"x","ipam":{section}}}"#)
    }

    fn parse(section: &str) -> Config {
        try_parse(&ipam(section), &Args::default()).unwrap()
    }

    fn refused(section: &str) -> String {
        let error = try_parse(&ipam(section), &Args::default()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig, "{error}");
        error.to_string()
    }

    fn usable(config: &Config) -> Vec<String> {
        let parts = config.sets().iter().flat_map(RangeSet::usable);
        parts.map(ToString::to_string).collect()
    }

    #[test]
    fn a_subnet_is_enough() {
        let config = parse(r#"{"subnet":"10.64.1.0/24"}"#);
        assert_eq!(usable(&config), ["10.64.1.2-10.64.1.254"]);
        assert_eq!(config.data_dir().path(), Path::new("/run/cni-ipam"));
        let set = &config.sets()[0];
        assert_eq!(
            set.ranges()[0].gateway(),
            "10.64.1.1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(set.to_string(), "10.64.1.1-10.64.1.254");
    }

    #[test]
    fn the_smallest_and_the_largest_subnets_work() {
        for (subnet, expected) in [
            ("10.64.1.0/30", "10.64.1.2-10.64.1.2"),
            ("10.0.0.0/8", "10.0.0.2-10.255.255.254"),
            ("0.0.0.0/0", "0.0.0.2-255.255.255.254"),
            ("fd00::/126", "fd00::2-fd00::3"),
            ("fd00::/64", "fd00::2-fd00::10:1"),
            ("fd00::/8", "fd00::2-fd00::10:1"),
        ] {
            let config = parse(&format!(r#"{{"subnet":"{subnet}"}}"#));
            assert_eq!(usable(&config), [expected], "{subnet}");
        }
    }

    #[test]
    fn empty_strings_and_null_are_unset_and_keys_have_no_case() {
        let config = parse(
            r#"{"Subnet":"10.64.1.0/24","rangeStart":"","RANGEEND":"10.64.1.9","gateway":"",
                "routes":null,"exclude":null,"dataDir":"","resolvConf":"","ranges":null}"#,
        );
        assert_eq!(usable(&config), ["10.64.1.2-10.64.1.9"]);
        assert_eq!(config.data_dir().path(), Path::new(DEFAULT_DATA_DIR));
    }

    #[test]
    fn exclusions_may_be_addresses_networks_and_stretches() {
        let config = parse(
            r#"{"subnet":"10.64.1.0/24","exclude":["10.64.1.5","10.64.1.128/25","10.64.1.20 - 10.64.1.22",""],
                "ranges":[[{"subnet":"fd00::/64","rangeEnd":"fd00::9","exclude":["fd00::4"]}]]}"#,
        );
        assert_eq!(
            usable(&config),
            [
                "10.64.1.2-10.64.1.4",
                "10.64.1.6-10.64.1.19",
                "10.64.1.23-10.64.1.127",
                "fd00::2-fd00::3",
                "fd00::5-fd00::9"
            ]
        );
    }

    /// What is written, and what is said about it.
    const REFUSALS: &[(&str, &str)] = &[
        (
            r"{}",
            "ipam.subnet or ipam.ranges is missing: no IP ranges specified",
        ),
        (
            r#"{"subnet":"10.64.1.7/24"}"#,
            r#"ipam.subnet "10.64.1.7/24": Network has host bits set: is 10.64.1.0/24 meant?"#,
        ),
        (
            r#"{"subnet":"10.0.0.0/31"}"#,
            r#"ipam.subnet "10.0.0.0/31": Network 10.0.0.0/31 too small to allocate from"#,
        ),
        (
            r#"{"subnet":"fd00::/127"}"#,
            r#"ipam.subnet "fd00::/127": Network fd00::/127 too small to allocate from"#,
        ),
        (
            r#"{"subnet":"10.64.1.0"}"#,
            r#"ipam.subnet "10.64.1.0": invalid IP address syntax"#,
        ),
        (
            r#"{"ranges":[[{"subnet":"10.1.0.0/24"},{"subnet":"10.2.0.0/24","rangeStart":"10.3.0.1"}]]}"#,
            r#"ipam.ranges[0][1].rangeStart "10.3.0.1": it is not in subnet 10.2.0.0/24"#,
        ),
        (
            r#"{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9","rangeEnd":"10.1.0.8"}"#,
            r#"ipam.rangeEnd "10.1.0.8": it is before rangeStart 10.1.0.9"#,
        ),
        (
            r#"{"subnet":"10.1.0.0/24","gateway":"10.1.0.256"}"#,
            r#"ipam.gateway "10.1.0.256": invalid IP address syntax"#,
        ),
        (
            r#"{"subnet":"10.1.0.0/24","gateway":"fd00::1"}"#,
            r#"ipam.gateway "fd00::1": it is not of the family of subnet 10.1.0.0/24"#,
        ),
        (
            r#"{"subnet":"10.1.0.0/24","exclude":["10.1.0.9-10.1.0.1"]}"#,
            r#"ipam.exclude[0] "10.1.0.9-10.1.0.1": it has to be an address, a CIDR or first-last"#,
        ),
        (
            r#"{"subnet":"10.1.0.0/24","exclude":["10.1.0.0/24"]}"#,
            r#"ipam "10.1.0.1-10.1.0.254": its gateway and exclusions leave no address to give"#,
        ),
        (
            r#"{"ranges":[[]]}"#,
            "ipam.ranges[0] is missing: a set needs at least one range",
        ),
        (
            r#"{"ranges":[[{}]]}"#,
            "ipam.ranges[0][0].subnet is missing: a range needs a subnet, such as 10.64.1.0/24",
        ),
        (
            r#"{"ranges":[[{"subnet":"10.1.0.0/24"},{"subnet":"fd00::/64"}]]}"#,
            r#"ipam.ranges[0][1].subnet "fd00::/64": IPv4 and IPv6 are in one set; each needs a set of its own"#,
        ),
        (
            r#"{"subnet":"10.1.0.0/24","ranges":[[{"subnet":"10.1.0.0/16"}]]}"#,
            "range 10.1.0.1-10.1.0.254 of subnet 10.1.0.0/24 and range 10.1.0.1-10.1.255.254 \
             of subnet 10.1.0.0/16 have addresses in common",
        ),
        (
            r#"{"subnet":"10.1.0.0/24","dataDir":"run/cni"}"#,
            r#"ipam.dataDir "run/cni": it has to be an absolute path"#,
        ),
        (
            r#"{"subnet":"10.1.0.0/24","resolvConf":"/nowhere/resolv.conf"}"#,
            r#"ipam.resolvConf "/nowhere/resolv.conf": it is missing"#,
        ),
    ];

    #[test]
    fn every_refusal_names_the_key_and_the_value() {
        for (section, expected) in REFUSALS {
            assert_eq!(refused(section), *expected);
        }
    }

    #[test]
    fn a_missing_section_is_an_invalid_configuration() {
        let text = r#"{"cniVersion":"1.0.0","name":"cbr0","type":"x"}"#;
        let error = try_parse(text, &Args::default()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
    }

    #[test]
    fn a_wrong_type_is_a_decoding_error() {
        let error = try_parse(&ipam(r#"{"subnet":7}"#), &Args::default()).unwrap_err();
        assert_eq!(error.code(), Code::Decode);
    }

    #[test]
    fn a_gateway_of_one_range_is_given_by_no_other() {
        let config = parse(
            r#"{"ranges":[[{"subnet":"10.1.0.0/24","rangeEnd":"10.1.0.20","gateway":"10.1.0.130"},
                           {"subnet":"10.1.0.0/24","rangeStart":"10.1.0.129","rangeEnd":"10.1.0.140"}]]}"#,
        );
        assert_eq!(
            usable(&config),
            [
                "10.1.0.2-10.1.0.20",
                "10.1.0.129-10.1.0.129",
                "10.1.0.131-10.1.0.140"
            ]
        );
    }

    #[test]
    fn ranges_of_the_runtime_come_first() {
        let text = r#"{"cniVersion":"1.0.0","name":"cbr0","type":"x",
            "ipam":{"subnet":"10.1.0.0/24","ranges":[[{"subnet":"fd00::/64"}]]},
            "runtimeConfig":{"ipRanges":[[{"Subnet":"10.9.0.0/24","RangeStart":"10.9.0.5","RangeEnd":"","Gateway":""}]]}}"#;
        let config = try_parse(text, &Args::default()).unwrap();
        let sets: Vec<String> = config.sets().iter().map(ToString::to_string).collect();
        assert_eq!(sets[..2], ["10.9.0.5-10.9.0.254", "10.1.0.1-10.1.0.254"]);
        assert_eq!(config.static_sets().len(), 2);
    }

    #[test]
    fn old_results_have_room_for_one_address_of_a_family() {
        let text = |second| {
            format!(
                r#"{{"cniVersion":"0.2.0","name":"n","ipam":{{"ranges":[[{{"subnet":"10.1.0.0/24"}}],[{{"subnet":"{second}"}}]]}}}}"#
            )
        };
        assert_eq!(
            try_parse(&text("fd00::/64"), &Args::default())
                .unwrap()
                .sets()
                .len(),
            2
        );
        let error = try_parse(&text("10.2.0.0/24"), &Args::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CNI version 0.2.0 does not support more than 1 address per family"
        );
    }

    fn requesting(runtime: &str, args: &str, ip: Option<&str>) -> Result<Config, ConfigError> {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","ipam":{{"subnet":"10.1.0.0/24"}},"runtimeConfig":{{"ips":{runtime}}},"args":{{"cni":{{"ips":{args}}}}}}}"#
        );
        let ip = ip.map(str::to_owned);
        try_parse(
            &text,
            &Args {
                ip,
                ..Args::default()
            },
        )
    }

    #[test]
    fn the_newest_way_of_asking_for_an_address_wins() {
        let asked = |runtime, args, ip| {
            let config = requesting(runtime, args, ip).unwrap();
            config.requested()[0].map(|address| address.to_string())
        };
        let (two, three) = (r#"["10.1.0.2/24"]"#, r#"["10.1.0.3"]"#);
        assert_eq!(
            asked(two, three, Some("10.1.0.4")).as_deref(),
            Some("10.1.0.2")
        );
        assert_eq!(
            asked("null", three, Some("10.1.0.4")).as_deref(),
            Some("10.1.0.3")
        );
        assert_eq!(
            asked("[]", r#"[""]"#, Some("10.1.0.4")).as_deref(),
            Some("10.1.0.4")
        );
        assert_eq!(asked("[]", r#"{"odd":1}"#, Some("")), None);
    }

    #[test]
    fn a_request_that_cannot_be_met_is_refused() {
        for (ip, why) in [
            ("10.2.0.1", "it is in none of the ranges"),
            (
                "10.1.0.1",
                "in 10.1.0.1-10.1.0.254, it is the gateway's, the network's, the broadcast \
                 address or excluded",
            ),
        ] {
            let error = requesting("[]", "[]", Some(ip)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("CNI_ARGS IP {ip:?}: failed to allocate all requested IPs: {why}")
            );
        }
        let error = requesting(r#"["10.1.0.2","10.1.0.3"]"#, "[]", None).unwrap_err();
        assert!(
            error.to_string().contains("10.1.0.2 is asked for"),
            "{error}"
        );
        let error = requesting("[]", "[]", Some("web")).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"CNI_ARGS IP "web": it is no IP address"#
        );
    }

    #[test]
    fn the_directory_is_found_in_a_configuration_that_is_wrong() {
        let text = r#"{"cniVersion":"1.0.0","name":"n","ipam":{"subnet":7,"dataDir":"/x","importFrom":"/y"}}"#;
        let network = NetworkConfig::parse(text.as_bytes().to_vec()).unwrap();
        let found = data_dir(&network);
        assert_eq!(found, DataDir::new("/x").with_import_from("/y"));
    }

    #[test]
    fn keys_that_mean_nothing_are_listed() {
        let text = ipam(
            r#"{"type":"cni-ipam","subnet":"10.1.0.0/24","subnett":1,"ranges":[[{"gate":2}]]}"#,
        );
        let network = NetworkConfig::parse(text.into_bytes()).unwrap();
        let unknown = unknown_keys(&network).unwrap();
        let mut paths: Vec<String> = unknown.into_iter().map(|key| key.path).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["ipam.ranges[0][0].gate", "ipam.subnett"]);
    }
}
