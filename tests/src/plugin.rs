//! Calling a plugin as a runtime does, and what it answers.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io::Write as _,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;

use crate::shell;

/// No call takes this long, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// Our plugins, and what the Go project calls theirs.
const GO_NAMES: [(&str, &str); 2] = [("cni-bridge", "bridge"), ("cni-ipam", "host-local")];

/// Whether the Go plugins are tested instead of ours.
pub(crate) fn reference() -> bool {
    shell::variable("CNI_E2E_PLUGINS").is_some()
}

/// Where the plugins under test are: beside the test executable, or in `CNI_E2E_PLUGINS`.
pub(crate) fn plugins_dir() -> PathBuf {
    if let Some(dir) = shell::variable("CNI_E2E_PLUGINS") {
        return PathBuf::from(dir);
    }
    // target/<triple>/<profile>/deps/e2e-<hash>, or for a program without the deps/
    let executable = env::current_exe().unwrap();
    let mut dirs = executable.ancestors().skip(1);
    let profile = dirs.find(|dir| !dir.ends_with("deps"));
    profile.unwrap().to_owned()
}

/// The executable of a plugin, by its type.
fn executable(plugin: &str) -> PathBuf {
    let mut dirs = vec![plugins_dir()];
    if !is_under_test(plugin) {
        dirs.push(shell::tools_dir());
    }
    let paths: Vec<PathBuf> = dirs.iter().map(|dir| dir.join(plugin)).collect();
    let found = paths.iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no plugin {plugin} in {dirs:?}: ours are built by `cargo build --workspace`, \
             others by scripts/setup"
        )
    });
    found.clone()
}

/// Whether this is what the tests are about, and not only what they use beside it.
fn is_under_test(plugin: &str) -> bool {
    let named = |(ours, go): &(&str, &str)| plugin == if reference() { *go } else { *ours };
    GO_NAMES.iter().any(named)
}

/// The name under which a plugin of ours is found in the plugins under test.
pub(crate) fn mapped(plugin: &str) -> &str {
    let go = GO_NAMES.iter().find(|(ours, _)| *ours == plugin);
    match go {
        Some((_, go)) if reference() => go,
        _ => plugin,
    }
}

/// Puts the names of the plugins under test wherever a "type" names one of ours.
pub(crate) fn map_types(conf: &mut Value) {
    match conf {
        Value::Object(members) => {
            for (key, value) in members {
                if let (true, Value::String(plugin)) = (key == "type", &mut *value) {
                    *plugin = mapped(plugin).to_owned();
                } else {
                    map_types(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(map_types),
        _ => {}
    }
}

/// One call that is not made yet.
#[derive(Clone, Debug)]
pub struct Request {
    executable: PathBuf,
    arguments: Vec<String>,
    env: BTreeMap<String, OsString>,
    stdin: Vec<u8>,
}

impl Request {
    /// The call of a runtime that has nothing to say about a container: what does not
    /// apply is set, but empty.
    pub(crate) fn new(command: &str, conf: &Value) -> Self {
        let mut conf = conf.clone();
        map_types(&mut conf);
        let plugin = conf.get("type").and_then(Value::as_str);
        let executable = executable(plugin.expect("the configuration has no type"));
        let request = Self {
            executable,
            arguments: Vec::new(),
            env: BTreeMap::new(),
            stdin: conf.to_string().into_bytes(),
        };
        ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]
            .iter()
            .fold(request, |request, name| request.env(name, ""))
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", Self::search_path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// The `CNI_PATH` of the tests: the plugins under test, then those of the Go project.
    pub fn search_path() -> OsString {
        env::join_paths([plugins_dir(), shell::tools_dir()]).unwrap()
    }

    /// A call of an executable with nothing in its environment.
    pub fn bare(plugin: &str) -> Self {
        Self {
            executable: executable(mapped(plugin)),
            arguments: Vec::new(),
            env: BTreeMap::new(),
            stdin: Vec::new(),
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Another standard input.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Calls another plugin with the same configuration, as a main plugin calls its IPAM.
    #[must_use]
    pub fn plugin(self, plugin: &str) -> Self {
        let path = executable(mapped(plugin));
        self.executable(&path)
    }

    /// Starts with another executable, for example a symbolic link to the plugin.
    #[must_use]
    pub fn executable(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.executable);
        self
    }

    /// Adds words to the command line, as a person does who calls a tool.
    #[must_use]
    pub fn arguments(mut self, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned());
        self.arguments.extend(words);
        self
    }

    pub(crate) fn words(&self) -> &[String] {
        &self.arguments
    }

    pub(crate) fn variables(&self) -> &BTreeMap<String, OsString> {
        &self.env
    }

    pub(crate) fn input(&self) -> &[u8] {
        &self.stdin
    }

    /// The path of the plugin's executable.
    pub fn path(&self) -> &Path {
        &self.executable
    }

    /// Makes the call and waits for its end.
    pub fn run(&self) -> Answer {
        self.start().wait()
    }

    /// Makes the call.
    pub fn start(&self) -> Running {
        self.start_as(Command::new(&self.executable))
    }

    /// Makes the call with standard input closed.
    pub fn run_without_stdin(&self) -> Answer {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec \"$0\" <&-"])
            .arg(&self.executable);
        self.start_as(command).wait()
    }

    fn start_as(&self, mut command: Command) -> Running {
        command
            .args(&self.arguments)
            .env_clear()
            .envs(&self.env)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn();
        let mut child = child
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.executable.display()));
        // A plugin that does not read its input closes the pipe: no matter.
        child.stdin.take().unwrap().write_all(&self.stdin).ok();
        Running {
            child,
            call: self.to_string(),
        }
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = String::new();
        for (name, value) in &self.env {
            if !name.ends_with("PATH") {
                write!(line, "{name}={} ", value.to_string_lossy())?;
            }
        }
        let executable = self.executable.display();
        write!(
            f,
            "{line}{executable} <<< {}",
            String::from_utf8_lossy(&self.stdin)
        )
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    call: String,
}

impl Running {
    /// The process that runs.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Kills it, as a runtime does that waits no longer.
    pub fn kill(&self) {
        signal::kill(self.pid(), Signal::SIGKILL).unwrap();
    }

    /// Waits for its end.
    pub fn wait(self) -> Answer {
        let pid = self.pid();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(self.child.wait_with_output()));
        let Ok(output) = receiver.recv_timeout(DEADLINE) else {
            signal::kill(pid, Signal::SIGKILL).ok();
            panic!("{} is not finished after {DEADLINE:?}", self.call);
        };
        Answer::new(self.call, &output.unwrap())
    }
}

/// What a plugin answered. Standard output was empty or one JSON document: anything else
/// has panicked already.
#[derive(Debug)]
pub struct Answer {
    /// The exit status; -9 for a process killed by signal 9.
    pub status: i32,
    /// The document.
    pub stdout: Option<Value>,
    /// The log.
    pub stderr: String,
    call: String,
}

/// An error in the form that the specification gives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The numeric code.
    pub code: u64,
    /// What could not be done.
    pub msg: String,
    /// Why; empty when absent.
    pub details: String,
}

impl Answer {
    pub(crate) fn new(call: String, output: &Output) -> Self {
        let status = output.status.code();
        let status = status.unwrap_or_else(|| -output.status.signal().unwrap_or_default());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = if output.stdout.is_empty() {
            None
        } else {
            let document = serde_json::from_slice(&output.stdout);
            Some(document.unwrap_or_else(|error| {
                let text = String::from_utf8_lossy(&output.stdout);
                panic!("{call}\nprinted no single JSON document ({error}):\n{text}\n{stderr}")
            }))
        };
        Self {
            status,
            stdout,
            stderr,
            call,
        }
    }

    /// The result of a successful ADD.
    pub fn result(self) -> Value {
        self.assert_success();
        let call = self.call;
        self.stdout
            .unwrap_or_else(|| panic!("{call}\nprinted no result"))
    }

    /// Asserts success and silence, which is what everything but ADD and VERSION owes.
    pub fn done(self) {
        self.assert_success();
        assert_eq!(self.stdout, None, "{}\nhas nothing to print", self.call);
    }

    /// The error of a call that failed in the way the specification wants.
    pub fn refusal(self) -> Refusal {
        let Some(document) = &self.stdout else {
            panic!("{}\nprinted no error; {}", self.call, self.outcome());
        };
        assert_eq!(self.status, 1, "{}\n{}", self.call, self.outcome());
        let text = |key| {
            document
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let code = document.get("code").and_then(Value::as_u64);
        Refusal {
            code: code.unwrap_or_else(|| panic!("{}\nno code: {document}", self.call)),
            msg: text("msg").to_owned(),
            details: text("details").to_owned(),
        }
    }

    /// Asserts an error with this code and this text in its msg or details.
    #[track_caller]
    pub fn refused(self, code: u64, text: &str) {
        let call = self.call.clone();
        let refusal = self.refusal();
        let whole = format!("{}; {}", refusal.msg, refusal.details);
        assert!(
            refusal.code == code && whole.contains(text),
            "{call}\nshould be refused with code {code} and \"{text}\", but was with {refusal:?}"
        );
    }

    fn assert_success(&self) {
        assert_eq!(self.status, 0, "{}\n{}", self.call, self.outcome());
    }

    fn outcome(&self) -> String {
        let document = self.stdout.as_ref().map(Value::to_string);
        format!(
            "status {}, standard output: {}, standard error: {}",
            self.status,
            document.unwrap_or_else(|| "empty".to_owned()),
            self.stderr
        )
    }
}
