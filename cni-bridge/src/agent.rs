//! The file in which ip-masq-agent is told what not to masquerade (`ipMasqConfig`): finding
//! out what it says. What follows from that is a [`Policy`].
//!
//! It reads as the agent does, so that a node can leave the agent with its `ConfigMap` as it
//! is: what is not there has the agent's default, what cannot be used is refused as a whole.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use crate::{
    masquerade::{Family, Policy},
    yaml::{Piece, Pieces},
};

/// The longest file that is read, in bytes: some fifty thousand address ranges.
const LONGEST: usize = 1 << 20;
/// How much of a wrong value is shown, in characters.
const SHOWN: usize = 64;

const SPARED: &str = "nonMasqueradeCIDRs";
const MASQUERADED: &str = "masqueradeCIDRs";
const LINK_LOCAL: &str = "masqLinkLocal";
const LINK_LOCAL_IPV6: &str = "masqLinkLocalIPv6";
/// Of the agent: how often it reads the file again, and how long a list it takes.
const MEANINGLESS: [&str; 2] = ["resyncInterval", "cidrLimit"];

/// What is done with keys that nobody knows (`strict` of the configuration).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UnknownKeys {
    Ignored,
    Refused,
}

/// A file that cannot be used. One that is not there can be: it says what the agent's
/// defaults say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read the \"ipMasqConfig\" {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the \"ipMasqConfig\" {} is no regular file", .0.display())]
    NoFile(PathBuf),
    #[error("the \"ipMasqConfig\" {} has more than {LONGEST} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("the \"ipMasqConfig\" {} cannot be used: {rejected}", path.display())]
    Rejected { path: PathBuf, rejected: Rejected },
}

/// What is wrong with a file, and in which line.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Rejected {
    line: usize,
    fault: Fault,
}

#[derive(Debug, Eq, PartialEq)]
enum Fault {
    NotUtf8,
    /// The parser's own words.
    Syntax(String),
    NoKeys,
    NoList(&'static str),
    NoFlag(&'static str),
    NoRange(String),
    Unaligned {
        written: String,
        network: IpNet,
    },
    Reference,
    Unknown(String),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.fault {
            Fault::NotUtf8 => f.write_str("what stands there is not UTF-8"),
            Fault::Syntax(words) => f.write_str(words),
            Fault::NoKeys => write!(f, "expected keys like {SPARED}, and their values"),
            Fault::NoList(key) => {
                write!(f, "{key} needs a list of address ranges like 10.0.0.0/8")
            }
            Fault::NoFlag(key) => write!(f, "{key} needs true or false"),
            Fault::NoRange(written) => {
                write!(f, "'{written}' is no address range like 10.0.0.0/8")
            }
            Fault::Unaligned { written, network } => {
                write!(f, "{written} has bits behind its prefix: write {network}")
            }
            Fault::Reference => f.write_str("references (* and <<) are not followed"),
            Fault::Unknown(key) => {
                write!(f, "unknown key \"{key}\" (\"strict\": true refuses it)")
            }
        }
    }
}

/// What the file at `path` says.
pub(crate) fn read(path: &Path, unknown: UnknownKeys) -> Result<Policy, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    // A pipe that nobody writes to must not be waited for.
    let file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(defaults()),
        outcome => outcome.map_err(failed)?,
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::NoFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > LONGEST {
        return Err(Error::TooLong(path.to_owned()));
    }
    parse(&bytes, unknown).map_err(|rejected| Error::Rejected {
        path: path.to_owned(),
        rejected,
    })
}

/// What the agent does without a file.
fn defaults() -> Policy {
    Keys::default().policy()
}

/// What a file says: its first document, in YAML or in JSON, which is YAML too.
pub(crate) fn parse(bytes: &[u8], unknown: UnknownKeys) -> Result<Policy, Rejected> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        Rejected {
            line: before.split(|byte| *byte == b'\n').count(),
            fault: Fault::NotUtf8,
        }
    })?;
    let mut file = AgentFile(Pieces::of(text));
    let keys = file.document(unknown)?;
    // Something that belongs to no document, perhaps. A second one is nobody's business.
    file.next()?;
    Ok(keys.policy())
}

/// The keys of a file, as far as they are there.
#[derive(Debug, Default)]
struct Keys {
    spared: Option<Vec<IpNet>>,
    masqueraded: Vec<IpNet>,
    link_local: bool,
    link_local_ipv6: bool,
}

impl Keys {
    fn policy(self) -> Policy {
        let link_local = [
            (self.link_local, Family::V4),
            (self.link_local_ipv6, Family::V6),
        ];
        let link_local: Vec<Family> = link_local
            .into_iter()
            .filter_map(|(masqueraded, family)| masqueraded.then_some(family))
            .collect();
        Policy::of_agent(self.spared, self.masqueraded, &link_local)
    }
}

struct AgentFile<'a>(Pieces<'a>);

impl<'a> AgentFile<'a> {
    fn next(&mut self) -> Result<Option<Piece<'a>>, Rejected> {
        self.0.piece().map_err(|error| Rejected {
            line: error.line,
            fault: Fault::Syntax(error.to_string()),
        })
    }

    fn reject<T>(&self, fault: Fault) -> Result<T, Rejected> {
        Err(Rejected {
            line: self.0.line(),
            fault,
        })
    }

    /// The first document, up to its end. None, or an empty one: no key is there.
    fn document(&mut self, unknown: UnknownKeys) -> Result<Keys, Rejected> {
        let mut keys = Keys::default();
        loop {
            match self.next()? {
                None | Some(Piece::DocumentEnd) => return Ok(keys),
                Some(Piece::Plain(text)) if is_null(&text) => {}
                Some(Piece::Map) => self.mapping(&mut keys, unknown)?,
                Some(_) => return self.reject(Fault::NoKeys),
            }
        }
    }

    fn mapping(&mut self, keys: &mut Keys, unknown: UnknownKeys) -> Result<(), Rejected> {
        loop {
            match self.next()? {
                None | Some(Piece::MapEnd) => return Ok(()),
                Some(Piece::Plain(name) | Piece::Text(name)) => self.key(&name, keys, unknown)?,
                Some(_) if unknown == UnknownKeys::Refused => {
                    return self.reject(Fault::Unknown("?".to_owned()));
                }
                key => {
                    self.skip(key)?;
                    self.skip_next()?;
                }
            }
        }
    }

    /// One key with its value. The last of two counts, and case does not, as in the agent.
    fn key(&mut self, name: &str, keys: &mut Keys, unknown: UnknownKeys) -> Result<(), Rejected> {
        let is = |key: &str| name.eq_ignore_ascii_case(key);
        if is(SPARED) {
            keys.spared = Some(self.list(SPARED)?);
        } else if is(MASQUERADED) {
            keys.masqueraded = self.list(MASQUERADED)?;
        } else if is(LINK_LOCAL) {
            keys.link_local = self.flag(LINK_LOCAL)?.unwrap_or(keys.link_local);
        } else if is(LINK_LOCAL_IPV6) {
            let flag = self.flag(LINK_LOCAL_IPV6)?;
            keys.link_local_ipv6 = flag.unwrap_or(keys.link_local_ipv6);
        } else if name == "<<" {
            return self.reject(Fault::Reference);
        } else if unknown == UnknownKeys::Refused && !MEANINGLESS.into_iter().any(is) {
            return self.reject(Fault::Unknown(shown(name)));
        } else {
            self.skip_next()?;
        }
        Ok(())
    }

    /// A list of address ranges. None at all is an empty one: to Go, `null` is.
    fn list(&mut self, key: &'static str) -> Result<Vec<IpNet>, Rejected> {
        match self.next()? {
            Some(Piece::List) => {}
            Some(Piece::Plain(text)) if is_null(&text) => return Ok(Vec::new()),
            Some(Piece::Alias) => return self.reject(Fault::Reference),
            _ => return self.reject(Fault::NoList(key)),
        }
        let mut list = Vec::new();
        loop {
            match self.next()? {
                Some(Piece::ListEnd) => return Ok(list),
                Some(Piece::Plain(text) | Piece::Text(text)) => list.push(self.range(&text)?),
                Some(Piece::Alias) => return self.reject(Fault::Reference),
                _ => return self.reject(Fault::NoList(key)),
            }
        }
    }

    fn range(&self, text: &str) -> Result<IpNet, Rejected> {
        match text.parse::<IpNet>() {
            Ok(net) if net == net.trunc() => Ok(net),
            Ok(net) => self.reject(Fault::Unaligned {
                written: shown(text),
                network: net.trunc(),
            }),
            Err(_syntax) => self.reject(Fault::NoRange(shown(text))),
        }
    }

    /// `None` for null, which says nothing.
    fn flag(&mut self, key: &'static str) -> Result<Option<bool>, Rejected> {
        match self.next()? {
            Some(Piece::Plain(text)) => match boolean(&text) {
                None if !is_null(&text) => self.reject(Fault::NoFlag(key)),
                flag => Ok(flag),
            },
            Some(Piece::Alias) => self.reject(Fault::Reference),
            _ => self.reject(Fault::NoFlag(key)),
        }
    }

    fn skip_next(&mut self) -> Result<(), Rejected> {
        let first = self.next()?;
        self.skip(first)
    }

    /// What belongs to a key or a value that began with `piece`.
    fn skip(&mut self, mut piece: Option<Piece<'a>>) -> Result<(), Rejected> {
        let mut depth = 0_usize;
        loop {
            match piece {
                None => return Ok(()),
                Some(Piece::List | Piece::Map) => depth += 1,
                Some(Piece::ListEnd | Piece::MapEnd) => depth = depth.saturating_sub(1),
                Some(_) => {}
            }
            if depth == 0 {
                return Ok(());
            }
            piece = self.next()?;
        }
    }
}

/// The agent's YAML is of version 1.1, which has more words for the two.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => {
            Some(true)
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off" | "OFF" => {
            Some(false)
        }
        _ => None,
    }
}

fn is_null(text: &str) -> bool {
    ["", "~", "null", "Null", "NULL"].contains(&text)
}

/// As much of a text as a message has room for.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn parsed(text: &str) -> Policy {
        parse(text.as_bytes(), UnknownKeys::Ignored).unwrap()
    }

    fn rejected(text: &str) -> String {
        let rejected = parse(text.as_bytes(), UnknownKeys::Ignored).unwrap_err();
        rejected.to_string()
    }

    /// From the agent's repository (agent-config/config).
    const EXAMPLE: &str = "\
nonMasqueradeCIDRs:
  - 10.0.0.0/8
  - 172.16.0.0/12
  - 192.168.0.0/16
cidrLimit: 64
masqLinkLocal: false
masqLinkLocalIPv6: false
resyncInterval: 60s
";

    #[test]
    fn the_agents_own_example_says_what_its_defaults_are() {
        assert_eq!(parsed(EXAMPLE), defaults());
    }

    #[test]
    fn what_is_not_there_has_the_agents_default() {
        for text in [
            "",
            "---\n",
            "# nothing\n",
            "null\n",
            "{}",
            "resyncInterval: 5m\n",
        ] {
            assert_eq!(parsed(text), defaults(), "{text:?}");
        }
        let policy = Policy::of_agent(None, vec![], &[Family::V4]);
        assert_eq!(parsed("masqLinkLocal: true\n"), policy);
    }

    /// The cases of the agent's own test, `syncConfigTests`.
    #[test]
    fn yaml_and_json_say_the_same() {
        let all = nets(&["172.16.0.0/12", "10.0.0.0/8", "fc00::/7"]);
        let policy = Policy::of_agent(Some(all), vec![], &[Family::V4]);
        for text in [
            "\nnonMasqueradeCIDRs:\n  - 172.16.0.0/12\n  - 10.0.0.0/8\n  - fc00::/7\nmasqLinkLocal: true\nresyncInterval: 5s\n",
            "nonMasqueradeCIDRs: [172.16.0.0/12, 10.0.0.0/8, fc00::/7]\r\nmasqLinkLocal: yes\r\n",
            "\n\t\t{\n\t\t  \"nonMasqueradeCIDRs\": [\"172.16.0.0/12\", \"10.0.0.0/8\", \"fc00::/7\"],\n\t\t  \"masqLinkLocal\": true,\n\t\t  \"resyncInterval\": \"\\u0035\\u006d\"\n\t\t}\n\t\t",
            "{\"NONMASQUERADECIDRS\":[],\"nonMasqueradeCIDRs\":[\"172.16.0.0/12\",\"10.0.0.0/8\",\"fc00::/7\"],\"masqLinkLocal\":true,\"x\":{\"y\":[1]}}",
        ] {
            assert_eq!(parsed(text), policy, "{text}");
        }
    }

    #[test]
    fn all_keys() {
        let text =
            "{masqueradeCIDRs: [10.9.0.0/16], nonMasqueradeCIDRs: [], masqLinkLocalIPv6: on}";
        let policy = Policy::of_agent(Some(vec![]), nets(&["10.9.0.0/16"]), &[Family::V6]);
        assert_eq!(parsed(text), policy);
    }

    /// `json.Unmarshal` makes an empty list of it.
    #[test]
    fn a_list_without_a_value_spares_nothing() {
        let nothing = Policy::of_agent(Some(vec![]), vec![], &[]);
        for text in [
            "nonMasqueradeCIDRs:\n",
            "nonMasqueradeCIDRs: null\n",
            "nonMasqueradeCIDRs: []",
        ] {
            assert_eq!(parsed(text), nothing, "{text}");
        }
    }

    #[test]
    fn a_second_document_is_not_looked_at() {
        assert_eq!(
            parsed("---\nmasqLinkLocal: false\n---\nmasqLinkLocal: [\n"),
            defaults()
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_its_line() {
        for (text, words) in [
            (
                "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 10.256.0.0/16\n",
                "line 3: '10.256.0.0/16' is no address range like 10.0.0.0/8",
            ),
            (
                "nonMasqueradeCIDRs:\n  - 10.0.0.1/8\n",
                "line 2: 10.0.0.1/8 has bits behind its prefix: write 10.0.0.0/8",
            ),
            (
                "nonMasqueradeCIDRs:\n  -\n",
                "line 2: '' is no address range like 10.0.0.0/8",
            ),
            (
                "\nnonMasqueradeCIDRs: 10.0.0.0/8\n",
                "line 2: nonMasqueradeCIDRs needs a list of address ranges like 10.0.0.0/8",
            ),
            (
                "masqueradeCIDRs:\n  - [10.0.0.0/8]\n",
                "line 2: masqueradeCIDRs needs a list of address ranges like 10.0.0.0/8",
            ),
            (
                "masqLinkLocal: \"true\"\n",
                "line 1: masqLinkLocal needs true or false",
            ),
            (
                "a: &a [10.0.0.0/8]\nnonMasqueradeCIDRs: *a\n",
                "line 2: references (* and <<) are not followed",
            ),
            (
                "<<: {masqLinkLocal: true}\n",
                "line 1: references (* and <<) are not followed",
            ),
            (
                "- nonMasqueradeCIDRs\n",
                "line 1: expected keys like nonMasqueradeCIDRs, and their values",
            ),
            (
                "*",
                "line 1: while scanning an anchor or alias, did not find expected alphabetic or numeric character",
            ),
            (
                "nonMasqueradeCIDRs:\n\t- 10.0.0.0/8\n",
                "line 2: tabs disallowed within this context (block indentation)",
            ),
            (
                "masqueradeCIDRs: [",
                "line 1: while parsing a node, did not find expected node content",
            ),
            (
                "{\"masqLinkLocal\": true} {}",
                "line 1: did not find expected <document start>",
            ),
        ] {
            assert_eq!(rejected(text), words, "{text:?}");
        }
        let binary = parse(b"masqLinkLocal: true\n# \xff\n", UnknownKeys::Ignored).unwrap_err();
        assert_eq!(binary.to_string(), "line 2: what stands there is not UTF-8");
    }

    #[test]
    fn a_long_value_is_shown_in_part() {
        let words = rejected(&format!("masqueradeCIDRs: [{}]", "é".repeat(1000)));
        assert_eq!(words.chars().filter(|c| *c == 'é').count(), SHOWN);
    }

    #[test]
    fn unknown_keys_are_refused_where_the_configuration_is_strict() {
        let strictly = |text: &str| {
            let outcome = parse(text.as_bytes(), UnknownKeys::Refused);
            outcome.map_err(|rejected| rejected.to_string())
        };
        assert_eq!(strictly(EXAMPLE), Ok(defaults()));
        let words = "line 2: unknown key \"nonMasqueradeCIDR\" (\"strict\": true refuses it)";
        assert_eq!(
            strictly("cidrLimit: 1\nnonMasqueradeCIDR: []\n"),
            Err(words.to_owned())
        );
        let words = "line 1: unknown key \"?\" (\"strict\": true refuses it)";
        assert_eq!(strictly("? [a]\n: b\n"), Err(words.to_owned()));
        assert_eq!(
            parsed("? [a]\n: {b: [c]}\nx: &y [&z {}]\nw: *y\n"),
            defaults()
        );
    }

    #[test]
    fn little_is_never_made_into_much() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..40 {
            let list = vec![format!("*a{}", n - 1); 8].join(", ");
            writeln!(text, "a{n}: &a{n} [{list}]").unwrap();
        }
        let deep = format!("a: {}", "[".repeat(100_000));
        let started = std::time::Instant::now();
        assert_eq!(parsed(&text), defaults());
        assert_eq!(rejected(&deep), "line 1: recursion limit exceeded");
        assert!(started.elapsed().as_secs() < 2);
    }

    #[test]
    fn only_a_file_is_read_and_only_so_much_of_it() {
        let dir = std::env::temp_dir().join(format!("ip-masq-agent-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("config");
        let says = || {
            let outcome = read(&path, UnknownKeys::Ignored);
            outcome.map_err(|error| error.to_string().replace(&*path.to_string_lossy(), "PATH"))
        };
        assert_eq!(says(), Ok(defaults()));
        let filled = |length: usize| {
            let mut text = "masqLinkLocal: false\n".to_owned();
            text.extend(std::iter::repeat_n('#', length - text.len()));
            std::fs::write(&path, text).unwrap();
        };
        filled(LONGEST);
        assert_eq!(says(), Ok(defaults()));
        filled(LONGEST + 1);
        let words = "the \"ipMasqConfig\" PATH has more than 1048576 bytes";
        assert_eq!(says(), Err(words.to_owned()));
        std::fs::write(&path, "\nmasqLinkLocal: 1").unwrap();
        let words =
            "the \"ipMasqConfig\" PATH cannot be used: line 2: masqLinkLocal needs true or false";
        assert_eq!(says(), Err(words.to_owned()));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let words = "the \"ipMasqConfig\" PATH is no regular file";
        assert_eq!(says(), Err(words.to_owned()));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
