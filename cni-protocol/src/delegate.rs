//! Another plugin's executable, called as the runtime has called us: the same environment
//! but for `CNI_COMMAND`, the same bytes on standard input.
//!
//! A delegate never outlives the call: it is killed at a deadline, and by the kernel if
//! this process is killed first. Otherwise it could allocate an address after the DEL.

mod process;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    AddResult, Code, Command, DecodeError, ErrorReply, Failure, NetworkConfig, PluginPath,
    json::{self, Json},
};
use process::{Broken, Finished};

/// How long a delegate may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long it may take for STATUS: containerd waits for it with its configuration locked,
/// and no pod starts or ends meanwhile.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// The largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// An executable found in `CNI_PATH`.
#[derive(Clone, Debug)]
pub struct Delegate {
    path: PathBuf,
    /// `None`: that of the verb.
    deadline: Option<Duration>,
}

/// Why a delegate did not do what it was called for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no plugin name provided")]
    NoName,
    #[error("invalid plugin name: {0}")]
    InvalidName(String),
    #[error("cannot find plugin {0:?}, no paths provided: CNI_PATH is empty")]
    NoPath(String),
    #[error("failed to find plugin {name:?} in path [{dirs}]")]
    Absent { name: String, dirs: String },
    #[error("cannot start plugin {}", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("cannot talk to plugin {}", path.display())]
    Talk { path: PathBuf, source: io::Error },
    #[error("plugin {} gave no answer to {command} within {limit:?} and was killed", path.display())]
    Deadline {
        path: PathBuf,
        command: Command,
        limit: Duration,
    },
    #[error("plugin {} answered {command} with more than {} MiB", path.display(), MAX_ANSWER >> 20)]
    TooLarge { path: PathBuf, command: Command },
    #[error("plugin {} answered {command} with nothing", path.display())]
    NoAnswer { path: PathBuf, command: Command },
    #[error("cannot read the answer of plugin {} to {command}", path.display())]
    Answer {
        path: PathBuf,
        command: Command,
        source: DecodeError,
    },
    /// The delegate's own words.
    #[error("{}", .0.msg)]
    Refused(ErrorReply),
    /// It failed without the words that the specification asks for.
    #[error("plugin {}: {problem}", path.display())]
    Failed { path: PathBuf, problem: String },
}

impl Failure for Error {
    fn code(&self) -> Code {
        match self {
            Self::NoName | Self::InvalidName(_) | Self::Absent { .. } => Code::InvalidConfig,
            Self::NoPath(_) => Code::InvalidEnvironment,
            Self::Start { .. } | Self::Talk { .. } => Code::Io,
            Self::Deadline { .. } => Code::TryAgain,
            Self::TooLarge { .. } | Self::NoAnswer { .. } | Self::Answer { .. } => Code::Decode,
            Self::Refused(reply) => reply.code,
            Self::Failed { .. } => Code::Internal,
        }
    }

    fn reply(&self) -> ErrorReply {
        if let Self::Refused(reply) = self {
            return reply.clone();
        }
        ErrorReply::of(self, self.code())
    }
}

impl Delegate {
    /// The first regular file of that name.
    pub fn find(plugin_type: &str, path: &PluginPath) -> Result<Self, Error> {
        if plugin_type.is_empty() {
            return Err(Error::NoName);
        }
        if plugin_type.contains('/') {
            return Err(Error::InvalidName(plugin_type.to_owned()));
        }
        if path.dirs().is_empty() {
            return Err(Error::NoPath(plugin_type.to_owned()));
        }
        let mut candidates = path.dirs().iter().map(|dir| dir.join(plugin_type));
        candidates
            .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file()))
            .map(|path| Self {
                path,
                deadline: None,
            })
            .ok_or_else(|| {
                let dirs = path.dirs().iter().map(|dir| dir.display().to_string());
                Error::Absent {
                    name: plugin_type.to_owned(),
                    dirs: dirs.collect::<Vec<_>>().join(" "),
                }
            })
    }

    /// Where the executable is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same delegate, with another time limit than a minute (STATUS: five seconds).
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }

    /// Calls ADD. The result may have no addresses: it is the caller who needs some.
    pub fn add(&self, config: &NetworkConfig) -> Result<AddResult, Error> {
        let answer = self.run(Command::Add, config)?;
        let unreadable = |source| Error::Answer {
            path: self.path.clone(),
            command: Command::Add,
            source,
        };
        if answer.trim_ascii().is_empty() {
            return Err(Error::NoAnswer {
                path: self.path.clone(),
                command: Command::Add,
            });
        }
        let json = Json::parse(&answer).map_err(unreadable)?;
        // Some report an error and leave with 0 all the same.
        if json
            .get("ips")
            .or(json.get("ip4"))
            .or(json.get("ip6"))
            .is_none()
            && let Some(reply) = error_reply(&json)
        {
            return Err(Error::Refused(reply));
        }
        AddResult::from_json(&json, config.version(), "").map_err(unreadable)
    }

    /// Calls a verb that has no result.
    pub fn call(&self, command: Command, config: &NetworkConfig) -> Result<(), Error> {
        self.run(command, config).map(drop)
    }

    /// Runs the executable to its end, and returns what a successful one printed.
    fn run(&self, command: Command, config: &NetworkConfig) -> Result<Vec<u8>, Error> {
        let path = self.path.clone();
        let child = process::start(&path, command).map_err(|source| Error::Start {
            path: path.clone(),
            source,
        })?;
        let limit = self.deadline.unwrap_or(match command {
            Command::Status => STATUS_DEADLINE,
            _ => DEADLINE,
        });
        match child.talk(config.bytes(), limit) {
            Ok(finished) if finished.status.success() => Ok(finished.stdout),
            Ok(finished) => Err(self.failure(&finished)),
            Err(Broken::TooLarge) => Err(Error::TooLarge { path, command }),
            Err(Broken::Io(source)) => Err(Error::Talk { path, source }),
            Err(Broken::Deadline) => Err(Error::Deadline {
                path,
                command,
                limit,
            }),
        }
    }

    /// What a delegate that has failed says about it.
    fn failure(&self, finished: &Finished) -> Error {
        let stdout = String::from_utf8_lossy(finished.stdout.trim_ascii());
        let stderr = String::from_utf8_lossy(finished.stderr.trim_ascii());
        let reply = Json::parse(&finished.stdout).ok();
        if let Some(reply) = reply.as_ref().and_then(error_reply) {
            return Error::Refused(reply);
        }
        let problem = if !stdout.is_empty() {
            let start: String = stdout.chars().take(1000).collect();
            format!("netplugin failed and its message is not an error document: {start:?}")
        } else if stderr.is_empty() {
            format!(
                "netplugin failed with no error message: {}",
                finished.status
            )
        } else {
            format!("netplugin failed: {stderr:?}")
        };
        Error::Failed {
            path: self.path.clone(),
            problem,
        }
    }
}

/// The error document, if it is one.
fn error_reply(json: &Json) -> Option<ErrorReply> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        code: u32,
        msg: String,
        details: Option<String>,
    }
    let wire: Wire = json::decode(json).ok()?;
    Some(ErrorReply {
        code: Code::from(wire.code),
        msg: wire.msg,
        details: wire.details.filter(|details| !details.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, os::unix::fs::PermissionsExt, time::Instant};

    use tempfile::TempDir;

    use super::*;
    use crate::Version;

    /// A directory of plugins made of shell scripts.
    struct Plugins(TempDir);

    impl Plugins {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PluginPath {
            PluginPath::new(self.0.path().as_os_str())
        }

        fn write(&self, name: &str, script: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }
    }

    fn config() -> NetworkConfig {
        NetworkConfig::parse(
            br#"{"cniVersion":"1.0.0","name":"n", "ipam":{"type":"fake"}}"#.to_vec(),
        )
        .unwrap()
    }

    /// What an ADD of `script` comes to, with the directory of the plugins left out.
    fn add(script: &str) -> String {
        add_with(script, &config())
    }

    fn add_with(script: &str, config: &NetworkConfig) -> String {
        let plugins = Plugins::new();
        plugins.write("fake", script);
        let delegate = Delegate::find("fake", &plugins.path()).unwrap();
        let answer = match delegate.add(config) {
            Ok(result) => result.to_text(Version::LATEST).unwrap(),
            Err(error) => {
                let reply = error.reply();
                format!("{} {reply}", reply.code.number())
            }
        };
        answer.replace(&format!("{}/", plugins.0.path().display()), "")
    }

    #[test]
    fn a_result_is_read_in_any_version() {
        assert_eq!(
            add(r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24"}]}'"#),
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.5/24"}]}"#
        );
        assert_eq!(
            add(r#"echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24"}}'"#),
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.5/24"}]}"#
        );
        // No version: that of the configuration.
        assert_eq!(
            add(r#"echo '{"ips":[{"address":"10.0.0.5/24"}]}'"#),
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.5/24"}]}"#
        );
        assert_eq!(add("echo null"), r#"{"cniVersion":"1.1.0"}"#);
    }

    #[test]
    fn the_delegate_sees_what_the_runtime_sent() {
        let plugins = Plugins::new();
        let seen = plugins.0.path().join("seen");
        let script = format!(
            "cat > {0}.stdin; echo \"$CNI_COMMAND\" > {0}.command; echo \"$0\" > {0}.argv0",
            seen.display()
        );
        let executable = plugins.write("fake", &script);
        let delegate = Delegate::find("fake", &plugins.path()).unwrap();
        delegate.call(Command::Gc, &config()).unwrap();
        let read = |end: &str| fs::read(seen.with_extension(end)).unwrap();
        assert_eq!(read("stdin"), config().bytes());
        assert_eq!(read("command"), b"GC\n");
        assert_eq!(
            read("argv0"),
            format!("{}\n", executable.display()).into_bytes()
        );
    }

    #[test]
    fn an_error_document_is_passed_on_unchanged() {
        assert_eq!(
            add(r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"lock"}'; exit 1"#),
            "11 busy; lock"
        );
        assert_eq!(
            add(r#"echo '{"code":4711,"msg":"own code"}'; exit 3"#),
            "4711 own code"
        );
        assert_eq!(
            add(r#"echo '{"code":0,"msg":"never zero"}'; exit 1"#),
            "999 never zero"
        );
    }

    #[test]
    fn a_failure_without_a_document_is_told_in_other_words() {
        assert_eq!(
            add("echo no disk >&2; exit 1"),
            "999 plugin fake: netplugin failed: \"no disk\""
        );
        assert_eq!(
            add("exit 7"),
            "999 plugin fake: netplugin failed with no error message: exit status: 7"
        );
        assert_eq!(
            add("kill -9 $$"),
            "999 plugin fake: netplugin failed with no error message: signal: 9 (SIGKILL)"
        );
        assert_eq!(
            add("echo oops; exit 1"),
            "999 plugin fake: netplugin failed and its message is not an error document: \"oops\""
        );
        assert_eq!(
            add("echo '{}'; exit 1"),
            "999 plugin fake: netplugin failed and its message is not an error document: \"{}\""
        );
    }

    #[test]
    fn a_success_without_a_result_is_none() {
        assert_eq!(add("true"), "6 plugin fake answered ADD with nothing");
        assert_eq!(
            add("echo junk"),
            "6 cannot read the answer of plugin fake to ADD; \
             cannot decode JSON: expected value at line 1 column 1"
        );
        assert_eq!(
            add(r#"echo '{"cniVersion":"9.9.9","ips":[]}'"#),
            "6 cannot read the answer of plugin fake to ADD; \
             cannot decode key \"cniVersion\": unsupported CNI result version \"9.9.9\", \
             known are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        );
        assert_eq!(
            add(r#"echo '{"ips":[{"address":"10.0.0.5"}]}'"#),
            "6 cannot read the answer of plugin fake to ADD; \
             cannot decode key \"ips[0].address\": invalid CIDR address \"10.0.0.5\""
        );
        assert_eq!(
            add(r#"echo '{"code":11,"msg":"an error, but 0"}'"#),
            "11 an error, but 0"
        );
    }

    #[test]
    fn verbs_without_a_result_may_print_anything() {
        let plugins = Plugins::new();
        plugins.write("fake", "echo junk");
        let delegate = Delegate::find("fake", &plugins.path()).unwrap();
        delegate.call(Command::Del, &config()).unwrap();
    }

    #[test]
    fn a_delegate_that_reads_nothing_or_all_is_fed_all_the_same() {
        let large = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","filler":"{}"}}"#,
            "x".repeat(2 << 20)
        );
        let config = NetworkConfig::parse(large.into_bytes()).unwrap();
        assert_eq!(add_with("echo '{}'", &config), r#"{"cniVersion":"1.1.0"}"#);
        // The whole document goes in while as much comes out, and on standard error.
        assert_eq!(
            add_with("cat; head -c 300000 /dev/zero | tr '\\0' '.' >&2", &config),
            r#"{"cniVersion":"1.1.0"}"#
        );
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        assert_eq!(
            add("cat /dev/zero"),
            "6 plugin fake answered ADD with more than 16 MiB"
        );
    }

    #[test]
    fn a_delegate_that_hangs_is_killed_at_the_deadline() {
        let plugins = Plugins::new();
        let pid = plugins.0.path().join("pid");
        let path = plugins.write(
            "fake",
            &format!("echo $$ > {}; exec sleep 1000", pid.display()),
        );
        let limit = Duration::from_millis(300);
        let delegate = Delegate::find("fake", &plugins.path())
            .unwrap()
            .with_deadline(limit);
        let started = Instant::now();
        let error = delegate.call(Command::Del, &config()).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(error.code(), Code::TryAgain);
        assert_eq!(
            error.to_string(),
            format!(
                "plugin {} gave no answer to DEL within 300ms and was killed",
                path.display()
            )
        );
        // Not even a zombie is left.
        let pid = fs::read_to_string(pid).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }

    #[test]
    fn a_process_left_behind_does_not_hold_us_up() {
        let started = Instant::now();
        assert_eq!(
            add(r#"sleep 20 & echo '{"ips":[]}'"#),
            r#"{"cniVersion":"1.1.0"}"#
        );
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_delegate_that_closes_its_streams_may_still_work() {
        assert_eq!(
            add("echo '{}'; exec >&- 2>&- <&-; sleep 0.1"),
            r#"{"cniVersion":"1.1.0"}"#
        );
    }

    #[test]
    fn an_executable_that_is_just_being_replaced_is_tried_again() {
        let plugins = Plugins::new();
        let path = plugins.write("fake", "echo '{}'");
        let delegate = Delegate::find("fake", &plugins.path()).unwrap();
        let mut writer = File::options().append(true).open(path).unwrap();
        let closing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            writer.write_all(b"exit 0\n").unwrap();
        });
        assert_eq!(delegate.add(&config()).unwrap(), AddResult::default());
        closing.join().unwrap();
    }

    #[test]
    fn the_first_regular_file_in_the_path_is_taken() {
        let (first, second, third) = (Plugins::new(), Plugins::new(), Plugins::new());
        fs::create_dir(first.0.path().join("fake")).unwrap();
        let target = third.write("fake", "true");
        std::os::unix::fs::symlink(&target, second.0.path().join("fake")).unwrap();
        let dirs = [&first, &second, &third].map(|plugins| plugins.0.path().to_owned());
        let path = PluginPath::new(&std::env::join_paths(dirs).unwrap());
        let delegate = Delegate::find("fake", &path).unwrap();
        assert_eq!(delegate.path(), second.0.path().join("fake"));
    }

    #[test]
    fn a_plugin_that_cannot_be_found_is_named() {
        let refused = |name: &str, path: &str| {
            let error = Delegate::find(name, &PluginPath::new(path.as_ref())).unwrap_err();
            format!("{} {error}", error.code().number())
        };
        assert_eq!(refused("", "/bin"), "7 no plugin name provided");
        assert_eq!(refused("../sh", "/bin"), "7 invalid plugin name: ../sh");
        assert_eq!(
            refused("fake", ""),
            "4 cannot find plugin \"fake\", no paths provided: CNI_PATH is empty"
        );
        assert_eq!(
            refused("fake", "/nowhere:/nor/here"),
            "7 failed to find plugin \"fake\" in path [/nowhere /nor/here]"
        );
    }

    #[test]
    fn a_file_that_is_no_program_is_an_error_of_its_own() {
        let plugins = Plugins::new();
        fs::write(plugins.0.path().join("fake"), "").unwrap();
        let delegate = Delegate::find("fake", &plugins.path()).unwrap();
        let error = delegate.call(Command::Add, &config()).unwrap_err();
        assert_eq!(error.code(), Code::Io);
        assert_eq!(
            error.reply().details.as_deref(),
            Some("Permission denied (os error 13)")
        );
    }
}
