//! The environment variables in which a runtime says what to do and to whom.
//!
//! The only reader of the environment. Values are bytes until they are checked; an empty
//! value is the same as none, because runtimes set what does not apply to "".

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
};

use crate::{
    Args, Code, ContainerId, Failure, InterfaceName, InvalidArgs, InvalidContainerId,
    InvalidInterfaceName, Version,
};

/// What a plugin can be asked to do.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    /// The value of `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The version of the specification that brought the command; `None`: it was always there.
    pub(crate) const fn introduced(self) -> Option<Version> {
        match self {
            Self::Add | Self::Del | Self::Version => None,
            Self::Check => Some(Version::V0_4_0),
            Self::Gc | Self::Status => Some(Version::V1_1_0),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `CNI_PATH`: where executables of other plugins are, first match first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PluginPath(Vec<PathBuf>);

impl PluginPath {
    /// Splits at `:`. An empty element would be the current directory, and is skipped.
    pub fn new(text: &OsStr) -> Self {
        let dirs = env::split_paths(text).filter(|dir| !dir.as_os_str().is_empty());
        Self(dirs.collect())
    }

    /// The directories, in the order of search.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.0
    }
}

/// The container that ADD, CHECK and DEL are about.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) interface: InterfaceName,
}

/// What to do, with what the environment has to say for it.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Call {
    Add(Container, PathBuf),
    Check(Container, PathBuf),
    Del(Container, Option<PathBuf>),
    Gc,
    Status,
    Version,
    /// A verb that this crate does not know.
    Unknown(OsString),
    /// No verb at all: a person has started the plugin.
    About,
}

/// What is wrong with the environment.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidEnvironment {
    #[error("required env variables [{}] missing", .0.join(","))]
    Missing(Vec<&'static str>),
    #[error("CNI_CONTAINERID: {0}")]
    ContainerId(InvalidContainerId),
    #[error("CNI_IFNAME: {0}")]
    InterfaceName(InvalidInterfaceName),
    #[error("{variable}: {value:?} is not valid UTF-8")]
    NotUtf8 {
        variable: &'static str,
        value: OsString,
    },
    #[error("unknown CNI_COMMAND: {}", .0.display())]
    UnknownCommand(OsString),
}

impl Failure for InvalidEnvironment {
    fn code(&self) -> Code {
        match self {
            Self::Missing(_)
            | Self::ContainerId(_)
            | Self::InterfaceName(_)
            | Self::NotUtf8 { .. }
            | Self::UnknownCommand(_) => Code::InvalidEnvironment,
        }
    }
}

/// The variables of the specification as they are; `None` for empty ones.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    command: Option<OsString>,
    container_id: Option<OsString>,
    netns: Option<OsString>,
    interface: Option<OsString>,
    args: Option<OsString>,
    path: Option<OsString>,
    netns_override: Option<OsString>,
    /// Of this project: where calls are written down, and which.
    pub(crate) log_file: Option<OsString>,
    pub(crate) log_level: Option<OsString>,
}

impl Environment {
    /// What this process was started with.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    pub(crate) fn of_process() -> Self {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            interface: variable("CNI_IFNAME"),
            args: variable("CNI_ARGS"),
            path: variable("CNI_PATH"),
            netns_override: variable("CNI_NETNS_OVERRIDE"),
            log_file: variable("CNI_LOG_FILE"),
            log_level: variable("CNI_LOG_LEVEL"),
        }
    }

    /// What to do. All that the verb needs is there and well-formed.
    pub(crate) fn call(&self) -> Result<Call, InvalidEnvironment> {
        let Some(command) = &self.command else {
            return Ok(Call::About);
        };
        Ok(match command.to_str() {
            Some("ADD") => {
                let (container, netns) = self.container_with_netns()?;
                Call::Add(container, netns)
            }
            Some("CHECK") => {
                let (container, netns) = self.container_with_netns()?;
                Call::Check(container, netns)
            }
            Some("DEL") => {
                let mut missing = Vec::new();
                let container = self.container(&mut missing, NetnsNeed::Optional)?;
                let container = container.ok_or(InvalidEnvironment::Missing(missing))?;
                Call::Del(container, self.netns.clone().map(PathBuf::from))
            }
            Some("GC") => Call::Gc,
            Some("STATUS") => Call::Status,
            Some("VERSION") => Call::Version,
            _ => Call::Unknown(command.clone()),
        })
    }

    /// `CNI_ARGS`, refusing what is not understood.
    pub(crate) fn args(&self) -> Result<Args, InvalidArgs> {
        Args::parse(self.args.as_deref().unwrap_or_default())
    }

    /// `CNI_ARGS`, as far as it is understood.
    pub(crate) fn args_tolerantly(&self) -> Args {
        Args::parse_tolerantly(self.args.as_deref().unwrap_or_default())
    }

    pub(crate) fn plugin_path(&self) -> PluginPath {
        PluginPath::new(self.path.as_deref().unwrap_or_default())
    }

    /// May `CNI_NETNS` be the plugin's own?
    pub(crate) fn netns_override(&self) -> bool {
        self.netns_override
            .as_ref()
            .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }

    fn container_with_netns(&self) -> Result<(Container, PathBuf), InvalidEnvironment> {
        let mut missing = Vec::new();
        let container = self.container(&mut missing, NetnsNeed::Required)?;
        match (container, &self.netns) {
            (Some(container), Some(netns)) => Ok((container, PathBuf::from(netns))),
            _ => Err(InvalidEnvironment::Missing(missing)),
        }
    }

    /// The container, or `None` with what is `missing`, in the order of the specification.
    ///
    /// A value that is there and invalid is said first, whatever else is missing.
    fn container(
        &self,
        missing: &mut Vec<&'static str>,
        need: NetnsNeed,
    ) -> Result<Option<Container>, InvalidEnvironment> {
        let id = match text("CNI_CONTAINERID", self.container_id.as_ref(), missing)? {
            Some(id) => Some(id.parse().map_err(InvalidEnvironment::ContainerId)?),
            None => None,
        };
        if need == NetnsNeed::Required && self.netns.is_none() {
            missing.push("CNI_NETNS");
        }
        let interface = match text("CNI_IFNAME", self.interface.as_ref(), missing)? {
            Some(name) => Some(name.parse().map_err(InvalidEnvironment::InterfaceName)?),
            None => None,
        };
        Ok(id
            .zip(interface)
            .map(|(id, interface)| Container { id, interface }))
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum NetnsNeed {
    Required,
    Optional,
}

/// The value as text. One that is not there is noted in `missing`.
fn text<'a>(
    variable: &'static str,
    value: Option<&'a OsString>,
    missing: &mut Vec<&'static str>,
) -> Result<Option<&'a str>, InvalidEnvironment> {
    let Some(value) = value else {
        missing.push(variable);
        return Ok(None);
    };
    match value.to_str() {
        Some(text) => Ok(Some(text)),
        None => Err(InvalidEnvironment::NotUtf8 {
            variable,
            value: value.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::ffi::OsStringExt, path::Path};

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(|name| {
            let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(value))
        })
    }

    fn refused(variables: &[(&str, &str)]) -> String {
        environment(variables).call().unwrap_err().to_string()
    }

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        assert_eq!(
            refused(&[("CNI_COMMAND", "ADD")]),
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"
        );
        assert_eq!(
            refused(&[("CNI_COMMAND", "CHECK"), ("CNI_CONTAINERID", "c")]),
            "required env variables [CNI_NETNS,CNI_IFNAME] missing"
        );
        assert_eq!(
            refused(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "")]),
            "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing"
        );
        assert_eq!(
            refused(&[
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", "c"),
                ("CNI_IFNAME", "eth0"),
            ]),
            "required env variables [CNI_NETNS] missing"
        );
    }

    #[test]
    fn an_invalid_value_wins_over_missing_ones() {
        assert_eq!(
            refused(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a/b")]),
            "CNI_CONTAINERID: invalid characters in containerID \"a/b\""
        );
        assert_eq!(
            refused(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "e/th")]),
            "CNI_IFNAME: interface name contains / or : or whitespace characters: \"e/th\""
        );
        assert_eq!(
            refused(&[
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", "_"),
                ("CNI_IFNAME", "eth%d"),
            ]),
            "CNI_CONTAINERID: invalid characters in containerID \"_\""
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_by_name() {
        let environment = Environment {
            command: Some("ADD".into()),
            container_id: Some("c".into()),
            interface: Some(OsString::from_vec(vec![0xff])),
            ..Environment::default()
        };
        let error = environment.call().unwrap_err();
        assert_eq!(
            error.to_string(),
            "CNI_IFNAME: \"\\xFF\" is not valid UTF-8"
        );
        assert_eq!(error.code(), Code::InvalidEnvironment);
    }

    #[test]
    fn a_netns_need_not_be_text() {
        let bytes = OsString::from_vec(b"/run/netns/\xff".to_vec());
        let environment = Environment {
            command: Some("DEL".into()),
            container_id: Some("c".into()),
            interface: Some("eth0".into()),
            netns: Some(bytes.clone()),
            ..Environment::default()
        };
        let Ok(Call::Del(_, netns)) = environment.call() else {
            panic!("DEL expected");
        };
        assert_eq!(netns, Some(PathBuf::from(bytes)));
    }

    #[test]
    fn verbs_without_a_container_need_no_variables() {
        for (command, call) in [
            ("GC", Call::Gc),
            ("STATUS", Call::Status),
            ("VERSION", Call::Version),
            ("", Call::About),
            ("add", Call::Unknown("add".into())),
        ] {
            assert_eq!(environment(&[("CNI_COMMAND", command)]).call(), Ok(call));
        }
        assert_eq!(environment(&[]).call(), Ok(Call::About));
    }

    #[test]
    fn del_takes_an_empty_netns_as_none() {
        let call = environment(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", ""),
        ])
        .call();
        let container = Container {
            id: "c".parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        };
        assert_eq!(call, Ok(Call::Del(container, None)));
    }

    #[test]
    fn the_path_has_no_empty_elements() {
        let path = PluginPath::new(OsStr::new(":/opt/cni/bin::/usr/lib/cni:"));
        assert_eq!(
            path.dirs(),
            [Path::new("/opt/cni/bin"), Path::new("/usr/lib/cni")]
        );
        assert_eq!(PluginPath::new(OsStr::new("")).dirs(), [] as [&Path; 0]);
    }

    #[test]
    fn the_override_is_1_or_true() {
        for (value, expected) in [("1", true), ("TRUE", true), ("true", true), ("0", false)] {
            let environment = environment(&[("CNI_NETNS_OVERRIDE", value)]);
            assert_eq!(environment.netns_override(), expected, "{value}");
        }
        assert!(!environment(&[]).netns_override());
    }
}
