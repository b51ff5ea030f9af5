//! The corpus of the fuzz targets (`fuzz/corpus`) as a runtime would send it, to the built
//! executables: whatever comes in, the answer is nothing or one JSON document.
//!
//! Most tests can make nothing: the network namespace does not exist, the calls have no
//! privileges, and the only directory that they can write to is the test's own. One test
//! has a node and a pod, and calls with all rights over them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test reports by panicking"
)]

use std::{
    cell::RefCell,
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fmt,
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const EXECUTABLES: [&str; 3] = ["cni-bridge", "cni-ipam", "loopback"];
/// In an order in which what an ADD leases is given back.
const VERBS: [&str; 6] = ["STATUS", "ADD", "CHECK", "DEL", "GC", "VERSION"];
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];
/// The directory of leases in the corpus. Nobody but root could make it.
const CORPUS_DATA_DIR: &str = "/nonexistent/cni";
/// No call takes this long, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(60);
/// "nobody" everywhere.
const NOBODY: u32 = 65_534;
/// How many inputs are made from those of the corpus.
const MUTATIONS: usize = 150;
/// Texts that make containerd take a failed DEL for a success.
const TRAPS: [&str; 2] = ["not found", "no such file or directory"];

const NETWORK: &str = r#"{"cniVersion":"VERSION","name":"cbr0","type":"cni-bridge","ipam":{"type":"cni-ipam","dataDir":"/nonexistent/cni","importFrom":"none","ranges":[[{"subnet":"10.64.1.0/24"}],[{"subnet":"fd00:64:1::/64"}]]},"prevResult":RESULT}"#;

#[test]
#[ignore = "needs the built executables: run scripts/test"]
fn standard_input() {
    let Some(calls) = Calls::new("stdin") else {
        return;
    };
    let inputs = inputs(&["bridge_stdin", "ipam_stdin"]);
    calls.all_verbs(&inputs);
    calls.finish();
}

#[test]
#[ignore = "needs the built executables: run scripts/test"]
fn prev_result() {
    let Some(calls) = Calls::new("prev-result") else {
        return;
    };
    let results = inputs(&["prev_result"]);
    let versions = VERSIONS.iter().cycle();
    let inputs: Vec<Vec<u8>> = results
        .iter()
        .zip(versions)
        .flat_map(|(result, version)| ["1.1.0", version].map(|version| network(version, result)))
        .collect();
    calls.all_verbs(&inputs);
    calls.finish();
}

#[test]
#[ignore = "needs the built executables: run scripts/test"]
fn cni_args() {
    let Some(calls) = Calls::new("args") else {
        return;
    };
    let stdin = network("1.1.0", b"null");
    let mut texts = inputs(&["cni_args"]);
    texts.extend(mutations(&texts));
    // No environment has it.
    texts.retain(|args| !args.contains(&0));
    for args in &texts {
        for executable in EXECUTABLES {
            for verb in VERBS {
                calls.make(&Call {
                    executable,
                    verb,
                    args,
                    stdin: &stdin,
                });
            }
        }
    }
    calls.finish();
}

#[test]
#[ignore = "needs the built executables: run scripts/test"]
fn mutations_of_standard_input() {
    let Some(calls) = Calls::new("mutations") else {
        return;
    };
    let results = inputs(&["prev_result"]);
    let mut inputs = inputs(&["bridge_stdin", "ipam_stdin"]);
    inputs.extend(results.iter().map(|result| network("1.1.0", result)));
    calls.all_verbs(&mutations(&inputs));
    calls.finish();
}

/// With a pod to connect, and delegates that share standard output with their caller.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn with_all_rights_over_a_node() {
    let Some(mut calls) = Calls::new("node") else {
        return;
    };
    harness::on_host(|host| {
        let pod = host.container();
        calls.user = None;
        calls.netns.clone_from(&pod.path);
        // Those that people wrote: what was found by chance may name any directory.
        let mut inputs = named_inputs(&["bridge_stdin", "ipam_stdin"]);
        let results = named_inputs(&["prev_result"]);
        inputs.extend(results.iter().map(|result| network("1.1.0", result)));
        calls.all_verbs(&inputs);
        calls.finish();
    });
}

/// Would a plugin that misbehaves be noticed?
#[test]
fn an_answer_that_a_runtime_cannot_read_is_noticed() {
    let problem = |verb, status, stdout: &str, stderr: &str| {
        let call = Call {
            executable: "stub",
            verb,
            args: b"",
            stdin: b"",
        };
        let status = ExitStatus::from_raw(status);
        let problem = check(&call, status, stdout.as_bytes(), stderr.as_bytes()).err();
        problem
            .unwrap_or_default()
            .split(':')
            .next()
            .unwrap()
            .to_owned()
    };
    let (done, failed, killed) = (0, 1 << 8, 9);
    let result = r#"{"cniVersion":"1.1.0"}"#;
    let error = r#"{"cniVersion":"1.1.0","code":7,"msg":"m"}"#;
    assert_eq!(problem("ADD", done, result, ""), "");
    assert_eq!(problem("DEL", done, "", "stub: fine"), "");
    assert_eq!(problem("DEL", failed, error, ""), "");

    let two = "not exactly one JSON document";
    assert_eq!(problem("ADD", done, &result.repeat(2), ""), two);
    assert_eq!(problem("ADD", done, &format!("debug\n{result}"), ""), two);
    assert_eq!(problem("ADD", failed, "", ""), two);
    assert_eq!(problem("DEL", done, "\n", ""), "nothing is to be printed");
    assert_eq!(problem("ADD", done, error, ""), "an error with status 0");
    assert_eq!(
        problem("ADD", failed, result, ""),
        "an error without a code"
    );
    assert_eq!(problem("ADD", killed, "", ""), "neither 0 nor 1");
    assert_eq!(problem("ADD", 2 << 8, error, ""), "neither 0 nor 1");
    assert_eq!(
        problem("DEL", failed, error, "thread 'main' panicked at"),
        "a panic"
    );
    let trap = error.replace("\"m\"", "\"ipam: Not found\"");
    assert_eq!(
        problem("DEL", failed, &trap, ""),
        "containerd would forget the pod"
    );
    assert_eq!(problem("ADD", failed, &trap, ""), "");
}

/// The files of some targets, each content once.
fn inputs(targets: &[&str]) -> Vec<Vec<u8>> {
    select(targets, |_name| true)
}

/// Without those that the fuzzer found.
fn named_inputs(targets: &[&str]) -> Vec<Vec<u8>> {
    select(targets, |name| !name.starts_with("found-"))
}

fn select(targets: &[&str], choose: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut inputs = BTreeSet::new();
    for target in targets {
        for file in fs::read_dir(corpus.join(target)).unwrap() {
            let file = file.unwrap();
            if choose(&file.file_name().to_string_lossy()) {
                inputs.insert(fs::read(file.path()).unwrap());
            }
        }
    }
    assert!(inputs.len() > 10, "the corpus of {targets:?} is gone");
    inputs.into_iter().collect()
}

fn network(version: &str, prev_result: &[u8]) -> Vec<u8> {
    let network = NETWORK.replace("VERSION", version);
    replace(network.as_bytes(), b"RESULT", prev_result)
}

fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(old.len()).position(|part| part == old) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// The same ones in each run.
fn mutations(inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mutation = |_| {
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(3) {
            random.mutate(&mut input, inputs);
        }
        input
    };
    (0..MUTATIONS).map(mutation).collect()
}

/// Xorshift: any numbers will do, if they are always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).unwrap() % end.max(1)
    }

    fn mutate(&mut self, input: &mut Vec<u8>, others: &[Vec<u8>]) {
        const TOKENS: [&str; 10] = [
            "null", "\"", "{", "]", ",", "-1", "1e400", "\\ud800", "\u{0}", "\u{fc}",
        ];
        let at = self.below(input.len());
        let end = (at + 1 + self.below(8)).min(input.len());
        match self.below(6) {
            0 => input.truncate(at),
            1 => drop(input.drain(at.min(end)..end)),
            2 => {
                let token = TOKENS[self.below(TOKENS.len())].bytes();
                drop(input.splice(at..at, token));
            }
            3 => input.extend_from_within(at.min(end)..),
            4 => {
                let other = &others[self.below(others.len())];
                let from = self.below(other.len());
                drop(input.splice(at.., other[from..].iter().copied()));
            }
            _ => {
                let bit = 1 << self.below(8);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= bit;
                }
            }
        }
    }
}

/// One call of an executable.
struct Call<'a> {
    executable: &'a str,
    verb: &'a str,
    args: &'a [u8],
    stdin: &'a [u8],
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CNI_COMMAND={} CNI_ARGS='{}' {} <<< '{}'",
            self.verb,
            self.args.escape_ascii(),
            self.executable,
            self.stdin.escape_ascii()
        )
    }
}

/// Executables and directories for the calls of one test.
struct Calls {
    dir: PathBuf,
    user: Option<u32>,
    netns: PathBuf,
    problems: RefCell<Vec<String>>,
}

impl Calls {
    /// `None` while the Go plugins are tested, which promise nothing of the kind.
    fn new(name: &str) -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "the environment of the tests")]
        let go = env::var_os("CNI_E2E_PLUGINS").is_some_and(|dir| !dir.is_empty());
        if go {
            let name = format!("corpus: {name}");
            harness::cannot_run(
                &name,
                "our own promise, of which the Go plugins know nothing",
            );
            return None;
        }
        let dir = env::temp_dir().join(format!("cni-corpus-{}-{name}", process::id()));
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::create_dir(dir.join("data")).unwrap();
        let calls = Self {
            dir,
            user: unprivileged(),
            netns: PathBuf::from("/nonexistent/netns"),
            problems: RefCell::default(),
        };
        calls.allow("", 0o755);
        calls.allow("bin", 0o755);
        calls.allow("data", 0o777);
        // target/<triple>/<profile>/deps/corpus-<hash>
        let executable = env::current_exe().unwrap();
        let built = executable.ancestors().nth(2).unwrap();
        for name in ["cni-bridge", "cni-ipam"] {
            let bin = calls.dir.join("bin").join(name);
            fs::copy(built.join(name), &bin).unwrap_or_else(|error| {
                let built = built.display();
                panic!("{built} has no {name} ({error}): run `cargo build --workspace`")
            });
        }
        symlink("cni-bridge", calls.dir.join("bin/loopback")).unwrap();
        // Of another name, so that it is not served within cni-bridge.
        symlink("cni-ipam", calls.dir.join("bin/host-local")).unwrap();
        Some(calls)
    }

    fn allow(&self, path: &str, mode: u32) {
        fs::set_permissions(self.dir.join(path), Permissions::from_mode(mode)).unwrap();
    }

    fn all_verbs(&self, inputs: &[Vec<u8>]) {
        let data_dir = self.dir.join("data");
        for input in inputs {
            let stdin = replace(
                input,
                CORPUS_DATA_DIR.as_bytes(),
                data_dir.as_os_str().as_bytes(),
            );
            for executable in EXECUTABLES {
                for verb in VERBS {
                    self.make(&Call {
                        executable,
                        verb,
                        args: b"",
                        stdin: &stdin,
                    });
                }
            }
        }
    }

    /// Makes the call and checks its answer.
    fn make(&self, call: &Call<'_>) {
        let (stdout, stderr) = (self.dir.join("stdout"), self.dir.join("stderr"));
        let bin = self.dir.join("bin");
        let mut command = Command::new(bin.join(call.executable));
        command
            .env_clear()
            .env("CNI_COMMAND", call.verb)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", OsStr::from_bytes(call.args))
            .env("CNI_PATH", &bin)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let status = run(command, call);
        let stderr = fs::read(stderr).unwrap();
        if let Err(problem) = check(call, status, &fs::read(stdout).unwrap(), &stderr) {
            let problem = format!("{call}\n{problem}\n{}", stderr.escape_ascii());
            self.problems.borrow_mut().push(problem);
        }
    }

    /// All answers were good, or the test fails.
    fn finish(self) {
        let problems = self.problems.borrow();
        assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Whom to be, so that no call can change anything: root becomes nobody. Root of a user
/// namespace cannot, and is an ordinary user outside of it.
fn unprivileged() -> Option<u32> {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let users = fs::read_to_string("/proc/self/uid_map").unwrap();
    let numbers = |line: &str| -> Vec<u32> {
        let numbers = line.split_whitespace();
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    let has_nobody = users.lines().map(numbers).any(
        |range| matches!(range[..], [first, _, count] if first <= NOBODY && NOBODY - first < count),
    );
    (is_root && has_nobody).then_some(NOBODY)
}

fn run(mut command: Command, call: &Call<'_>) -> ExitStatus {
    let mut child = command.spawn().unwrap();
    // Who refuses the environment does not read.
    child.stdin.take().unwrap().write_all(call.stdin).ok();
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("{call}\nis not finished after {DEADLINE:?}");
        }
        thread::sleep(Duration::from_micros(300));
    }
}

/// What the specification and the runtimes want of any answer.
fn check(call: &Call<'_>, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<(), String> {
    let require = |condition: bool, what: &str| {
        let stdout = stdout.escape_ascii();
        let problem = || format!("{what}: {status}, standard output: {stdout}");
        condition.then_some(()).ok_or_else(problem)
    };
    let code = status.code();
    require(code == Some(0) || code == Some(1), "neither 0 nor 1")?;
    let panicked = stderr.windows(8).any(|part| part == b"panicked");
    require(!panicked, "a panic")?;
    let prints = code == Some(1) || matches!(call.verb, "ADD" | "VERSION");
    if !prints {
        return require(stdout.is_empty(), "nothing is to be printed");
    }
    let document: Option<Value> = serde_json::from_slice(stdout).ok();
    require(document.is_some(), "not exactly one JSON document")?;
    let document = document.unwrap_or_default();
    let text = |key| {
        document
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    require(VERSIONS.contains(&text("cniVersion")), "no cniVersion")?;
    if code == Some(0) {
        return require(document.get("code").is_none(), "an error with status 0");
    }
    let number = document.get("code").and_then(Value::as_u64);
    require(
        number.is_some_and(|code| code > 0),
        "an error without a code",
    )?;
    require(!text("msg").is_empty(), "an error without a msg")?;
    require(
        !text("msg").contains(char::is_control),
        "a msg of several lines",
    )?;
    require(!text("msg").starts_with("bug in"), "a bug")?;
    let told = format!("{}; {}", text("msg"), text("details")).to_lowercase();
    let trapped = TRAPS.iter().any(|trap| told.contains(trap));
    require(
        call.verb != "DEL" || !trapped,
        "containerd would forget the pod",
    )
}
