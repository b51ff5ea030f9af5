//! How a failure is told to the runtime: a code, a message of one line, details.

use std::{error::Error, fmt};

use serde::Serialize;

use crate::Version;

/// The numeric codes of the specification, and those that its library added.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Code {
    /// 1: the configuration has a `cniVersion` that the plugin does not speak.
    IncompatibleVersion,
    /// 2: the message has the key and the value.
    UnsupportedField,
    /// 3: "the runtime does not need to perform any cleanup"; only before anything was made.
    UnknownContainer,
    /// 4: the message names the variable.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: what came in is not what it should be: JSON, a version, a delegate's result.
    Decode,
    /// 7: the network configuration asks for something that cannot be.
    InvalidConfig,
    /// 8: the network namespace is the plugin's own.
    InvalidNetns,
    /// 11: the same request may work a little later.
    TryAgain,
    /// 50, STATUS: no ADD can be served.
    Unavailable,
    /// 51, STATUS: no ADD can be served, and containers that are there may have no network.
    LimitedConnectivity,
    /// 999: a bug.
    Internal,
    /// What a delegated plugin said.
    Other(u32),
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::InvalidNetns => 8,
            Self::TryAgain => 11,
            Self::Unavailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Internal => 999,
            Self::Other(number) => number,
        }
    }
}

impl From<u32> for Code {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::IncompatibleVersion,
            2 => Self::UnsupportedField,
            3 => Self::UnknownContainer,
            4 => Self::InvalidEnvironment,
            5 => Self::Io,
            6 => Self::Decode,
            7 => Self::InvalidConfig,
            8 => Self::InvalidNetns,
            11 => Self::TryAgain,
            50 => Self::Unavailable,
            51 => Self::LimitedConnectivity,
            // 0 is "no error" to some runtimes, and never what a failure should say.
            0 | 999 => Self::Internal,
            other => Self::Other(other),
        }
    }
}

/// What a runtime is told about a failure.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErrorReply {
    pub code: Code,
    /// One line that says enough by itself: it is what `kubectl describe pod` shows.
    pub msg: String,
    pub details: Option<String>,
}

impl ErrorReply {
    /// The error is the message, its causes are the details.
    pub fn of(error: &(impl Error + ?Sized), code: Code) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        Self {
            code,
            msg: one_line(&error.to_string()),
            details: (!causes.is_empty()).then(|| causes.join(": ")),
        }
    }

    /// The error document of the specification.
    pub fn to_json(&self, version: Version) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a str>,
        }
        let wire = Wire {
            cni_version: version.as_str(),
            code: self.code.number(),
            msg: &self.msg,
            details: self.details.as_deref(),
        };
        // Strings and numbers always serialise.
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        match &self.details {
            Some(details) => write!(f, "; {details}"),
            None => Ok(()),
        }
    }
}

/// Values from a configuration may have line breaks, which a message shows as `\n`.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_debug());
        } else {
            line.push(c);
        }
    }
    line
}

/// An error that a plugin can end with.
pub trait Failure: Error {
    /// The code that the runtime gets.
    fn code(&self) -> Code;

    /// The reply: the error is the message, its causes are the details.
    fn reply(&self) -> ErrorReply {
        ErrorReply::of(self, self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read /run/x")]
    struct Unreadable(#[source] io::Error);

    impl Failure for Unreadable {
        fn code(&self) -> Code {
            Code::Io
        }
    }

    #[test]
    fn the_causes_of_an_error_are_its_details() {
        let reply = Unreadable(io::Error::other("the disk is on fire")).reply();
        assert_eq!(
            reply.to_json(Version::V0_4_0),
            r#"{"cniVersion":"0.4.0","code":5,"msg":"cannot read /run/x","details":"the disk is on fire"}"#
        );
        assert_eq!(reply.to_string(), "cannot read /run/x; the disk is on fire");
    }

    #[test]
    fn a_message_is_one_line_whatever_it_quotes() {
        #[derive(Debug, thiserror::Error)]
        #[error("\"ipMasqBackend\" is \"{0}\"")]
        struct Quoting(&'static str);

        let reply = ErrorReply::of(&Quoting("a\nb\u{7f}\u{fc}\\\"c\""), Code::InvalidConfig);
        assert_eq!(reply.msg, r#""ipMasqBackend" is "a\nb\u{7f}ü\"c"""#);
    }

    #[test]
    fn a_code_survives_the_way_through_its_number() {
        for number in [1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51, 100, 999, 4711] {
            assert_eq!(Code::from(number).number(), number);
        }
    }

    #[test]
    fn zero_is_never_a_code() {
        assert_eq!(Code::from(0), Code::Internal);
    }
}
