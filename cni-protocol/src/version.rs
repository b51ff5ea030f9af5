//! The versions of the specification, and which verb came with which.

use std::{fmt, str::FromStr};

use crate::{Code, Command, Failure};

/// A version of the specification that this crate speaks. Later ones are greater.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest one.
    pub const LATEST: Self = Self::V1_1_0;

    /// What a configuration without `cniVersion` is written in.
    pub const UNSTATED: Self = Self::V0_1_0;

    /// The version as configurations and results write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version with this text; empty text is [`Version::UNSTATED`].
    pub(crate) fn from_config(text: &str) -> Result<Self, IncompatibleVersion> {
        if text.is_empty() {
            return Ok(Self::UNSTATED);
        }
        text.parse()
    }

    /// The version to serve `command` in, when the configuration says `text`.
    pub(crate) fn for_command(command: Command, text: &str) -> Result<Self, VersionRefused> {
        let Some(introduced) = command.introduced() else {
            return Ok(Self::from_config(text)?);
        };
        let text = if text.is_empty() {
            Self::UNSTATED.as_str()
        } else {
            text
        };
        let asked = numbers(text).ok_or_else(|| VersionRefused::Unreadable(text.to_owned()))?;
        if Some(asked) < numbers(introduced.as_str()) {
            let text = text.to_owned();
            return Err(VersionRefused::TooOld { command, text });
        }
        Ok(Self::from_config(text)?)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = IncompatibleVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| IncompatibleVersion(text.to_owned()))
    }
}

/// The numbers of `1`, `1.2` or `1.2.3`.
fn numbers(text: &str) -> Option<[u32; 3]> {
    let mut numbers = [0; 3];
    let mut places = numbers.iter_mut();
    for part in text.split('.') {
        *places.next()? = part.parse().ok()?;
    }
    Some(numbers)
}

/// A `cniVersion` that is none of [`Version::ALL`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("incompatible CNI versions: config is {0:?}, plugin supports {supported:?}", supported = Version::ALL.map(Version::as_str))]
pub struct IncompatibleVersion(String);

/// A `cniVersion` in which a verb cannot be served.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum VersionRefused {
    #[error("cannot decode cniVersion {0:?} of the network configuration")]
    Unreadable(String),
    #[error("config version does not allow {command}: cniVersion is {text}, {command} came with {since}", since = command.introduced().unwrap_or(Version::UNSTATED))]
    TooOld { command: Command, text: String },
    #[error(transparent)]
    Incompatible(#[from] IncompatibleVersion),
}

impl Failure for VersionRefused {
    fn code(&self) -> Code {
        match self {
            Self::Unreadable(_) => Code::Decode,
            Self::TooOld { .. } | Self::Incompatible(_) => Code::IncompatibleVersion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back_what_it_writes() {
        for version in Version::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
        }
        assert!(Version::ALL.is_sorted());
    }

    #[test]
    fn only_exact_text_is_a_version() {
        for text in ["1.0", "1.2.0", "9.9.9", "abc", " 1.0.0", "v1.0.0", "1.0.0 "] {
            let refused = Version::for_command(Command::Add, text).unwrap_err();
            assert_eq!(refused.code(), Code::IncompatibleVersion, "{text}");
        }
    }

    #[test]
    fn no_version_is_the_oldest() {
        assert_eq!(Version::for_command(Command::Add, ""), Ok(Version::V0_1_0));
    }

    #[test]
    fn a_verb_needs_the_version_it_came_with() {
        let message = |command, text| match Version::for_command(command, text) {
            Ok(version) => version.to_string(),
            Err(refused) => format!("{} {refused}", refused.code().number()),
        };
        assert_eq!(message(Command::Check, "0.4.0"), "0.4.0");
        assert_eq!(message(Command::Gc, "1.1.0"), "1.1.0");
        assert_eq!(message(Command::Status, "1.1.0"), "1.1.0");
        assert_eq!(
            message(Command::Check, "0.3.1"),
            "1 config version does not allow CHECK: cniVersion is 0.3.1, CHECK came with 0.4.0"
        );
        assert_eq!(
            message(Command::Check, ""),
            "1 config version does not allow CHECK: cniVersion is 0.1.0, CHECK came with 0.4.0"
        );
        assert_eq!(
            message(Command::Gc, "1.0.0"),
            "1 config version does not allow GC: cniVersion is 1.0.0, GC came with 1.1.0"
        );
        assert_eq!(
            message(Command::Check, "abc"),
            "6 cannot decode cniVersion \"abc\" of the network configuration"
        );
        assert_eq!(
            message(Command::Check, "9.9.9"),
            "1 incompatible CNI versions: config is \"9.9.9\", plugin supports \
             [\"0.1.0\", \"0.2.0\", \"0.3.0\", \"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\"]"
        );
    }
}
