//! The whole state of a network namespace and of the plugins' files, as text that a
//! person can read and compare.
//!
//! Volatile things are left out: indexes, counters, timers, and what the kernel adds and
//! removes by itself some time later (link-local IPv6, carrier).

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::Path,
    process::Command,
};

use serde_json::Value;

use crate::shell;

/// A lease store has lines of this width, one an address.
const LEASE_LINE: usize = 256;

/// Where the plugins keep what has to outlive them.
const STORES: [&str; 3] = ["/run/cni-ipam", "/var/lib/cni", "/run/cni"];

/// Some state, one fact a line.
#[derive(Clone, Eq, PartialEq)]
pub struct State(String);

impl State {
    /// The state of the node that the calling thread is in.
    pub(crate) fn of_host() -> Self {
        let mut lines = network();
        lines.extend(sysctls(&[
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv6/conf/default/accept_ra",
        ]));
        for store in STORES {
            files(Path::new(store), &mut lines);
        }
        lines.sort();
        lines.extend(ruleset());
        Self(lines.join("\n"))
    }

    /// The state of the container that the calling thread is in.
    pub(crate) fn of_container() -> Self {
        let mut lines = network();
        lines.sort();
        lines.extend(ruleset());
        Self(lines.join("\n"))
    }

    /// State that a test has written down.
    pub fn from_text(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Self(lines.join("\n").trim().to_owned())
    }

    /// The lines that start with one of these words.
    #[must_use]
    pub fn only(&self, words: &[&str]) -> Self {
        let wanted = |line: &&str| words.iter().any(|word| line.starts_with(word));
        Self(self.0.lines().filter(wanted).collect::<Vec<_>>().join("\n"))
    }

    /// All but the lines that start with one of these words.
    #[must_use]
    pub fn without(&self, words: &[&str]) -> Self {
        let wanted = |line: &&str| !words.iter().any(|word| line.starts_with(word));
        Self(self.0.lines().filter(wanted).collect::<Vec<_>>().join("\n"))
    }

    /// With the fingerprints in the comments of rules as `#*`.
    #[must_use]
    pub fn without_tags(&self) -> Self {
        let line = |line: &str| match (line.find(" #"), line.rfind('"')) {
            (Some(start), Some(end)) if start < end => {
                let (kept, rest) = line.split_at(start);
                format!("{kept} #*{}", rest.split_at(end - start).1)
            }
            _ => line.to_owned(),
        };
        Self(self.0.lines().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Panics with the lines that differ, if any do.
    #[track_caller]
    pub fn assert_same(&self, before: &Self) {
        assert!(
            self == before,
            "the state is not as it should be (- expected, + found):\n{}",
            difference(&before.0, &self.0)
        );
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn network() -> Vec<String> {
    let mut lines = Vec::new();
    for link in ip(&["-d", "addr"]) {
        lines.push(link_line(&link));
        lines.push(link_sysctls(text(&link, "ifname")));
        lines.extend(addresses(&link));
    }
    for family in ["-4", "-6"] {
        let routes = ip(&[family, "route", "show", "table", "all"]);
        lines.extend(routes.iter().filter_map(route_line));
        let rules = ip(&[family, "rule"]);
        lines.extend(
            rules
                .iter()
                .map(|rule| format!("rule {family} {}", members(rule, &[]))),
        );
    }
    let neighbours = ip(&["neigh", "show", "nud", "permanent"]);
    lines.extend(
        neighbours
            .iter()
            .map(|entry| format!("neighbour {}", members(entry, &[]))),
    );
    lines
}

/// What `ip -json` says.
fn ip(arguments: &[&str]) -> Vec<Value> {
    let json = shell::run(Command::new("ip").arg("-json").args(arguments), "");
    let rows: Vec<Value> = serde_json::from_str(json.trim()).unwrap_or_default();
    // `ip -6 rule` and the like print {} where there is nothing.
    rows.into_iter()
        .filter(|row| row.as_object().is_some_and(|row| !row.is_empty()))
        .collect()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// "link cbr0 bridge 0a:58:0a:40:01:01 mtu 1500 UP ..."
fn link_line(link: &Value) -> String {
    let info = |pointer: &str| link.pointer(pointer).cloned().unwrap_or_default();
    let kind = info("/linkinfo/info_kind");
    let name = text(link, "ifname");
    let mut shown = format!(
        "link {name} {} {}",
        kind.as_str().unwrap_or("-"),
        text(link, "address")
    );
    write!(shown, " mtu {}", info("/mtu")).unwrap();
    for flag in ["UP", "PROMISC", "ALLMULTI"] {
        if info("/flags")
            .as_array()
            .is_some_and(|flags| flags.iter().any(|f| f == flag))
        {
            write!(shown, " {flag}").unwrap();
        }
    }
    for (label, pointer) in [
        ("master", "/master"),
        ("hairpin", "/linkinfo/info_slave_data/hairpin"),
        ("isolated", "/linkinfo/info_slave_data/isolated"),
        ("vlan_filtering", "/linkinfo/info_data/vlan_filtering"),
        ("nf_call_iptables", "/linkinfo/info_data/nf_call_iptables"),
        ("nf_call_ip6tables", "/linkinfo/info_data/nf_call_ip6tables"),
        ("alias", "/ifalias"),
    ] {
        if let Some(value) = link.pointer(pointer) {
            write!(
                shown,
                " {label} {}",
                value.to_string().replace("\\u0000", "")
            )
            .unwrap();
        }
    }
    if ["tbf", "htb", "fq_codel"].contains(&text(link, "qdisc")) {
        write!(shown, " qdisc {}", text(link, "qdisc")).unwrap();
    }
    shown
}

fn addresses(link: &Value) -> Vec<String> {
    let name = text(link, "ifname");
    let list = link.get("addr_info").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|address| text(address, "scope") != "link" || text(address, "family") == "inet")
        .map(|address| {
            let length = address.get("prefixlen").cloned().unwrap_or_default();
            let nodad = if address.get("nodad").is_some() {
                " nodad"
            } else {
                ""
            };
            format!(
                "address {}/{length} on {name}{nodad}",
                text(address, "local")
            )
        })
        .collect()
}

/// None for what the kernel derives from the addresses.
fn route_line(route: &Value) -> Option<String> {
    let derived =
        text(route, "table") == "local" || ["fe80::/64", "ff00::/8"].contains(&text(route, "dst"));
    (!derived).then(|| format!("route {}", members(route, &["flags", "pref"])))
}

/// "dst 10.64.1.0/24, dev cbr0": the members of an object, but for some.
fn members(object: &Value, except: &[&str]) -> String {
    let members = object.as_object().into_iter().flatten();
    let shown: Vec<String> = members
        .filter(|(key, _)| !except.contains(&key.as_str()))
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key} {text}"),
            other => format!("{key} {other}"),
        })
        .collect();
    shown.join(", ")
}

/// The settings of one link that plugins touch.
fn link_sysctls(link: &str) -> String {
    let keys = [
        ("ipv4", "rp_filter"),
        ("ipv4", "route_localnet"),
        ("ipv6", "accept_ra"),
        ("ipv6", "autoconf"),
        ("ipv6", "disable_ipv6"),
    ];
    let mut shown = format!("sysctl {link}:");
    for (family, key) in keys {
        let value = fs::read_to_string(format!("/proc/sys/net/{family}/conf/{link}/{key}"));
        write!(shown, " {key} {}", value.as_deref().unwrap_or("-").trim()).unwrap();
    }
    shown
}

fn sysctls(keys: &[&str]) -> Vec<String> {
    let read = |key: &&str| fs::read_to_string(Path::new("/proc/sys").join(key));
    keys.iter()
        .map(|key| {
            format!(
                "sysctl {key} = {}",
                read(key).as_deref().unwrap_or("-").trim()
            )
        })
        .collect()
}

/// nftables, which also shows the rules of iptables' nft variant.
fn ruleset() -> Vec<String> {
    let rules = shell::sh(
        "nft --stateless list ruleset 2>/dev/null; \
         if [ -s /proc/thread-self/net/ip_tables_names ]; then iptables-legacy-save; fi; \
         if [ -s /proc/thread-self/net/ip6_tables_names ]; then ip6tables-legacy-save; fi",
    );
    rules
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| format!("nft {}", line.trim()))
        .collect()
}

/// Files below a directory with what they say. Directories that hold nothing are left
/// out: they bind nothing.
fn files(dir: &Path, lines: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, lines);
        } else {
            file(&path, lines).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}

fn file(path: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // What a store notes about itself: it binds no address.
    let notes = ["lock", "index", "pools"];
    if notes.contains(&&*name) || name.starts_with("last_reserved_ip") {
        return Ok(());
    }
    let bytes = fs::read(path)?;
    let shown = path.display();
    if bytes.len() >= LEASE_LINE && bytes.chunks(LEASE_LINE).all(|line| line.ends_with(b"\n")) {
        let leases = bytes.chunks(LEASE_LINE).filter_map(lease);
        lines.extend(leases.map(|lease| format!("lease {shown}: {lease}")));
    } else {
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", " ");
        lines.push(format!("lease {shown}: {}", text.trim()));
    }
    Ok(())
}

/// A line of the store that is in use: state, address, container, interface, maker and pod.
/// Between maker and pod stand namespace, boot, time and sequence, at the end a checksum:
/// those change from run to run.
fn lease(line: &[u8]) -> Option<String> {
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    let (facts, rest) = words.split_at_checked(5)?;
    let pod = rest.get(4).filter(|_| rest.len() > 5);
    (facts.first() != Some(&"F")).then(|| {
        facts
            .iter()
            .chain(pod)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    })
}

/// The lines that differ, in the order of the texts.
fn difference(before: &str, after: &str) -> String {
    let old: Vec<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().collect();
    let common = common_lengths(&old, &new);
    let length = |i: usize, j: usize| {
        common
            .get(i)
            .and_then(|row| row.get(j))
            .copied()
            .unwrap_or(0)
    };
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => (i, j) = (i + 1, j + 1),
            (Some(a), b) if b.is_none() || length(i + 1, j) >= length(i, j + 1) => {
                writeln!(text, "- {a}").unwrap();
                i += 1;
            }
            (_, Some(b)) => {
                writeln!(text, "+ {b}").unwrap();
                j += 1;
            }
            (_, None) => return text,
        }
    }
}

/// `[i][j]` is the length of the longest common subsequence of `old[i..]` and `new[j..]`.
fn common_lengths(old: &[&str], new: &[&str]) -> Vec<Vec<usize>> {
    let mut rows = vec![vec![0; new.len() + 1]];
    for a in old.iter().rev() {
        let below = rows.last().unwrap();
        let mut row = vec![0; new.len() + 1];
        for (j, b) in new.iter().enumerate().rev() {
            let (diagonal, down, right) = (below.get(j + 1), below.get(j), row.get(j + 1));
            let best = if a == b {
                diagonal.map(|n| n + 1)
            } else {
                down.max(right).copied()
            };
            if let Some(cell) = row.get_mut(j) {
                *cell = best.unwrap_or(0);
            }
        }
        rows.push(row);
    }
    rows.reverse();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_only_the_lines_that_differ() {
        let text = difference("a\nb\nc\nd", "a\nc\nx\nd\ny");
        assert_eq!(text, "- b\n+ x\n+ y\n");
    }

    #[test]
    fn a_lease_is_shown_without_what_changes_from_run_to_run() {
        let line = b"A 10.64.1.2 pod1 eth0 b 4026 7f 1763 42 default/web-0 9a8b7c6d\n";
        assert_eq!(
            lease(line).as_deref(),
            Some("A 10.64.1.2 pod1 eth0 b default/web-0")
        );
        assert_eq!(
            lease(b"F 10.64.1.2 pod1 eth0 b 4026 7f 1763 42 - 9a8b7c6d\n"),
            None
        );
    }

    #[test]
    fn equal_texts_have_no_difference() {
        assert_eq!(difference("a\nb", "a\nb"), "");
    }
}
