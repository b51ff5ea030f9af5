//! What the tests of this suite share.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Container, Host, Request, conf};
use nix::ifaddrs;
use serde_json::{Value, json};

/// Where the store of network cbr0 is.
pub(crate) const STORE: &str = "/run/cni-ipam/cbr0";

/// A lease store has lines of this width, one an address.
pub(crate) const LINE: usize = 256;

/// First byte and length of the columns that tests change.
const TIME: (usize, usize) = (177, 10);
const CHECKSUM: (usize, usize) = (247, 8);

/// A number from the environment: more of the same on demand.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    setting(variable).map_or(default, |text| text.parse().expect(variable))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is about the tests' environment, not the plugins'"
)]
fn setting(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Reports what was counted: with `--nocapture`, and in the file `CNI_E2E_FIGURES`.
#[expect(clippy::print_stderr, reason = "a test tells what it counted")]
pub(crate) fn figure(text: &str) {
    eprintln!("{text}");
    if let Some(path) = setting("CNI_E2E_FIGURES") {
        let file = fs::File::options().append(true).create(true).open(path);
        file.unwrap()
            .write_all(format!("{text}\n").as_bytes())
            .unwrap();
    }
}

/// Random numbers that are the same in every run (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(stream: u64) -> Self {
        let seed = number("CNI_E2E_SEED", 1);
        Self(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ (stream + 1).wrapping_mul(0xd134_2543_de82_ef95),
        )
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}

/// The smallest network with these keys of the IPAM section in addition.
pub(crate) fn network(ipam: &Value) -> Value {
    conf::with(&conf::smallest(), &json!({ "ipam": ipam }))
}

/// A call of `cni-ipam` as a main plugin makes it, for a container of this id.
pub(crate) fn ipam(host: &Host, verb: &str, conf: &Value, id: &str) -> Request {
    host.request(verb, conf)
        .plugin("cni-ipam")
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", "/run/netns/none")
        .env("CNI_IFNAME", "eth0")
}

/// A lease under a main plugin that is not ours.
pub(crate) fn lease(host: &Host, conf: &Value, id: &str) -> IpAddr {
    address(&ipam(host, "ADD", conf, id).run().result())
}

/// The first address of a result, without its prefix length.
pub(crate) fn address(result: &Value) -> IpAddr {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    let (address, _) = text.split_once('/').expect("a prefix length");
    address.parse().expect("an address")
}

/// Pods, with their addresses, which are all different.
pub(crate) fn pods(host: &Host, conf: &Value, count: usize) -> (Vec<Container>, BTreeSet<IpAddr>) {
    let pods = (0..count).map(|_| host.pod(conf));
    let (pods, addresses): (Vec<_>, BTreeSet<_>) =
        pods.map(|(pod, result)| (pod, address(&result))).unzip();
    assert_eq!(addresses.len(), count, "{addresses:?}");
    (pods, addresses)
}

/// The addresses that the kernel has on a pod's interface.
pub(crate) fn in_kernel(pod: &Container) -> Vec<IpAddr> {
    pod.netns.run(|| {
        let all = ifaddrs::getifaddrs().expect("the addresses");
        let own = all.filter(|entry| entry.interface_name == pod.interface);
        own.filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
            v4.or(v6.filter(|ip| !ip.to_string().starts_with("fe80:")))
        })
        .collect()
    })
}

/// The kernel takes the links of a namespace away some time after its last user is gone.
pub(crate) fn wait_for_links(count: usize) {
    let started = Instant::now();
    while harness::sh("ip -o link show type veth | grep -v 'uplink@' || true")
        .lines()
        .count()
        != count
    {
        assert!(started.elapsed() < Duration::from_secs(20), "links stay");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The Go plugin has the kernel look for duplicates of a bridge's IPv6 address, which is of
/// no use meanwhile.
pub(crate) fn wait_for_duplicates(bridge: &str) {
    let started = Instant::now();
    while !harness::sh(&format!("ip -6 address show dev {bridge} tentative")).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(20), "{bridge}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What the operator's tool says, and its exit status.
pub(crate) fn tool(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(Request::bare("cni-ipam").path())
        .env_clear()
        .args(arguments)
        .output()
        .expect("cni-ipam");
    let text = [output.stdout, output.stderr].concat();
    let status = output.status.code().expect("an exit status");
    (status, String::from_utf8_lossy(&text).into_owned())
}

/// Asserts that the store is whole, and that index, lines and links agree.
#[track_caller]
pub(crate) fn assert_healthy() {
    let (status, text) = tool(&["verify"]);
    assert_eq!(status, 0, "{text}");
    assert_eq!(damaged(Path::new(STORE)), Vec::<String>::new());
}

/// msg and details of an error with this code.
#[track_caller]
pub(crate) fn words(answer: Answer, code: u64) -> String {
    let refusal = answer.refusal();
    assert_eq!(refusal.code, code, "{refusal:?}");
    format!("{}; {}", refusal.msg, refusal.details)
}

/// The files of a store that hold its lines.
pub(crate) fn blocks(store: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(store) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "leases"))
        .collect()
}

/// The lines that are not what was written.
pub(crate) fn damaged(store: &Path) -> Vec<String> {
    let mut damaged = Vec::new();
    for block in blocks(store) {
        let bytes = fs::read(&block).unwrap();
        let lines = bytes.chunks(LINE).filter(|line| !is_whole(line));
        damaged.extend(lines.map(|line| String::from_utf8_lossy(line).into_owned()));
    }
    damaged
}

fn is_whole(line: &[u8]) -> bool {
    line.len() == LINE && line[CHECKSUM.0..LINE - 1] == *checksum(line).as_bytes()
}

fn checksum(line: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(&line[..CHECKSUM.0]))
}

/// Makes all leases of a store older than they are: nothing else tells their age.
pub(crate) fn age(store: &Path, seconds: u64) {
    for block in blocks(store) {
        let mut bytes = fs::read(&block).unwrap();
        for line in bytes
            .chunks_mut(LINE)
            .filter(|line| b"AC".contains(&line[0]))
        {
            let column = TIME.0..TIME.0 + TIME.1;
            let text = str::from_utf8(&line[column.clone()]).unwrap().trim_end();
            let older = text.parse::<u64>().unwrap() - seconds;
            line[column].copy_from_slice(format!("{older:<0$}", TIME.1).as_bytes());
            let sum = checksum(line);
            line[CHECKSUM.0..LINE - 1].copy_from_slice(sum.as_bytes());
        }
        fs::write(&block, bytes).unwrap();
    }
}
