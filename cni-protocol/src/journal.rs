//! The log of calls: one line of JSON a call in a file, for whoever asks at three in the
//! morning what happened at two.
//!
//! The configuration names the file (`logFile`) or the environment does (`CNI_LOG_FILE`).
//! Nothing of it reaches standard output, and no failure of it fails a call: it is said on
//! standard error. A line is one write to the end of the file, so that the lines of processes
//! that run at once stay whole, and a file that was renamed away is made anew.

use std::{
    ffi::OsStr,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use nix::{
    fcntl::OFlag,
    sys::stat::{self, SFlag},
};
use serde::Serialize;

use crate::{AddResult, Args, ContainerId, ErrorReply, InterfaceName, NetworkConfig, log, stdio};

/// The keys in the configuration.
const FILE: &str = "logFile";
const LEVEL: &str = "logLevel";
/// The most lines for standard error that are kept for the log.
const MAX_NOTES: usize = 50;

/// The call of this process.
static CALL: Mutex<Option<Call>> = Mutex::new(None);

/// Which calls are written down.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Level {
    /// None.
    Off,
    /// Those that failed.
    Error,
    /// Those that changed or compared something, too.
    #[default]
    Info,
    /// STATUS too, which comes every few seconds.
    Debug,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "off" | "none" => Self::Off,
            "error" => Self::Error,
            "info" => Self::Info,
            "debug" => Self::Debug,
            _ => return None,
        })
    }
}

/// What is known of the call by now.
#[derive(Debug)]
struct Call {
    started: Instant,
    at: SystemTime,
    file: Option<PathBuf>,
    level: Level,
    verb: &'static str,
    container: Option<String>,
    interface: Option<String>,
    network: Option<String>,
    netns: Option<String>,
    pod: Option<String>,
    addresses: Vec<String>,
    steps: Vec<(&'static str, Instant)>,
    notes: Vec<String>,
}

/// The line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'static str,
    plugin: &'static str,
    pid: u32,
    verb: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// In microseconds.
    duration_us: u128,
    steps_us: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
}

fn with(change: impl FnOnce(&mut Call)) {
    let mut call = CALL.lock().unwrap_or_else(PoisonError::into_inner);
    call.as_mut().map(change).unwrap_or_default();
}

/// A step of the call begins here, and the one before ends. Its name and how long it took
/// stand in the log.
pub fn step(name: &'static str) {
    with(|call| call.steps.push((name, Instant::now())));
}

/// Begins the call: from here on there is something to write down. `file` and `level` are
/// those of the environment.
pub(crate) fn begin(file: Option<&OsStr>, level: Option<&OsStr>) {
    let now = Instant::now();
    let call = Call {
        started: now,
        at: SystemTime::now(),
        file: file.map(PathBuf::from),
        level: Level::default(),
        verb: "",
        container: None,
        interface: None,
        network: None,
        netns: None,
        pod: None,
        addresses: Vec::new(),
        steps: vec![("read", now)],
        notes: Vec::new(),
    };
    *CALL.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    set_level(level.and_then(OsStr::to_str));
}

fn set_level(text: Option<&str>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return;
    };
    match Level::parse(text) {
        Some(level) => with(|call| call.level = level),
        None => log(&format_args!(
            "\"{LEVEL}\" is \"{text}\": expected off, error, info or debug"
        )),
    }
}

/// What the configuration says: its own file goes before that of the environment.
pub(crate) fn configure(config: &NetworkConfig) {
    let file = config.text(&[FILE]).filter(|file| !file.is_empty());
    with(|call| {
        call.network = Some(config.name().to_string());
        call.file = file.map(PathBuf::from).or_else(|| call.file.take());
    });
    set_level(config.text(&[LEVEL]));
}

/// What is done.
pub(crate) fn verb(verb: &'static str) {
    with(|call| call.verb = verb);
}

/// To whom it is done.
pub(crate) fn container(
    id: &ContainerId,
    interface: &InterfaceName,
    netns: Option<&Path>,
    args: &Args,
) {
    with(|call| {
        call.container = Some(id.to_string());
        call.interface = Some(interface.to_string());
        call.netns = netns.map(|netns| netns.display().to_string());
        call.pod = args.pod();
    });
}

/// What the container got.
pub(crate) fn result(result: &AddResult) {
    with(|call| {
        let addresses = result.ips.iter();
        call.addresses = addresses.map(|ip| ip.address.to_string()).collect();
    });
}

/// What was said on standard error.
pub(crate) fn note(text: &str) {
    with(|call| {
        if call.notes.len() < MAX_NOTES {
            call.notes.push(text.to_owned());
        }
    });
}

/// Writes the call down, if it is to be. Called once, at its end.
pub(crate) fn end(failure: Option<&ErrorReply>) {
    let call = CALL.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(call) = call else {
        return;
    };
    let needed = match (failure, call.verb) {
        (Some(_), _) => Level::Error,
        // VERSION has no verb here: it is answered before anything is looked at.
        (None, "STATUS" | "") => Level::Debug,
        (None, _) => Level::Info,
    };
    let Some(file) = call.file.as_deref().filter(|_| needed <= call.level) else {
        return;
    };
    if let Err(error) = write(file, &call.line(failure)) {
        log(&format_args!(
            "cannot write the log {}: {error}",
            file.display()
        ));
    }
}

impl Call {
    fn line(&self, failure: Option<&ErrorReply>) -> String {
        let ended = Instant::now();
        let line = Line {
            time: humantime::format_rfc3339_micros(self.at).to_string(),
            level: if failure.is_some() { "error" } else { "info" },
            plugin: stdio::plugin_name(),
            pid: std::process::id(),
            verb: self.verb,
            network: self.network.as_deref(),
            pod: self.pod.as_deref(),
            container: self.container.as_deref(),
            interface: self.interface.as_deref(),
            netns: self.netns.as_deref(),
            addresses: self.addresses.iter().map(String::as_str).collect(),
            code: failure.map(|reply| reply.code.number()),
            error: failure.map(ToString::to_string),
            duration_us: ended.duration_since(self.started).as_micros(),
            steps_us: self.steps(ended),
            notes: &self.notes,
        };
        // Texts and numbers always serialise.
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
        text
    }

    /// How long each step took, in microseconds; those of one name together.
    fn steps(&self, ended: Instant) -> serde_json::Map<String, serde_json::Value> {
        let ends = self.steps.iter().skip(1).map(|(_, begun)| *begun);
        let mut steps = serde_json::Map::new();
        for ((name, begun), end) in self.steps.iter().zip(ends.chain([ended])) {
            let took = end.duration_since(*begun).as_micros();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            let before = steps.get(*name).and_then(serde_json::Value::as_u64);
            steps.insert(
                (*name).to_owned(),
                (before.unwrap_or_default() + took).into(),
            );
        }
        steps
    }
}

/// Appends a line with one write.
fn write(path: &Path, line: &str) -> io::Result<()> {
    if !path.is_absolute() {
        return Err(io::Error::other("it has to be an absolute path"));
    }
    // Whatever is there: neither is a link followed nor waited for somebody to read a pipe.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits())
        .open(path)?;
    let kind = SFlag::from_bits_truncate(stat::fstat(&file)?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFREG {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(stdio::write_all(&file, line.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::Code;

    fn call() -> Call {
        let started = Instant::now();
        let later = |ms| started + Duration::from_millis(ms);
        Call {
            started,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_731_800),
            file: None,
            level: Level::Info,
            verb: "ADD",
            container: None,
            interface: None,
            network: Some("cbr0".to_owned()),
            netns: None,
            pod: Some("default/web-0".to_owned()),
            addresses: vec!["10.64.1.2/24".to_owned()],
            steps: vec![("read", started), ("lease", later(2)), ("read", later(3))],
            notes: vec![],
        }
    }

    #[test]
    fn a_step_ends_where_the_next_begins_and_equal_names_are_added_up() {
        let call = call();
        let steps = call.steps(call.started + Duration::from_millis(7));
        assert_eq!(
            serde_json::Value::Object(steps),
            serde_json::json!({ "read": 6000, "lease": 1000 })
        );
    }

    #[test]
    fn a_line_is_one_document_whatever_an_error_says() {
        let reply = ErrorReply {
            code: Code::TryAgain,
            msg: "first\nsecond \"quoted\"".to_owned(),
            details: Some("because".to_owned()),
        };
        let line = call().line(Some(&reply));
        assert_eq!(line.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["time"], "2025-11-21T13:30:00.000000Z");
        assert_eq!(
            (&json["level"], &json["code"]),
            (&"error".into(), &11.into())
        );
        assert_eq!(json["addresses"], serde_json::json!(["10.64.1.2/24"]));
        assert!(json["error"].as_str().unwrap().contains("because"));
    }

    #[test]
    fn only_regular_files_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        write(&file, "one\n").unwrap();
        write(&file, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for wrong in [
            link.as_path(),
            dir.path(),
            Path::new("/dev/null"),
            Path::new("log"),
        ] {
            write(wrong, "x").unwrap_err();
        }
    }
}
