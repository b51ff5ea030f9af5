//! What is wrong with a JSON document, and where.

use std::fmt::{self, Display};

use serde::de::{self, Expected, Unexpected};

use super::Json;
use crate::{Code, Failure};

/// A key that the type decoded into does not know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownKey {
    /// `ipam.ranges[0][1].subnte`
    pub path: String,
    /// Its value as compact JSON.
    pub value: String,
}

/// A document, or a part of it, that is not what it has to be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}{problem}", place.as_ref().map(Place::to_string).unwrap_or_default())]
pub struct DecodeError {
    place: Option<Place>,
    kind: Kind,
    problem: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Not JSON, or of another JSON type.
    Type,
    /// Of the right type, but refused by the type it is for.
    Value,
    /// Not there.
    Missing,
}

/// Where the error is. An empty path is the document itself.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Place(String);

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str() {
            "" => f.write_str("cannot decode the document: "),
            path => write!(f, "cannot decode key \"{path}\": "),
        }
    }
}

impl DecodeError {
    pub(crate) fn syntax(error: &serde_json::Error) -> Self {
        Self {
            place: None,
            kind: Kind::Type,
            problem: format!("cannot decode JSON: {error}"),
        }
    }

    /// The value is refused for a reason that its type does not know.
    pub(crate) fn value(path: &str, problem: String) -> Self {
        Self {
            place: Some(Place(path.to_owned())),
            kind: Kind::Value,
            problem,
        }
    }

    pub(super) fn mismatch(expected: impl Display, found: &Json) -> Self {
        Self {
            place: None,
            kind: Kind::Type,
            problem: format!("expected {expected}, found {}", found.describe()),
        }
    }

    /// Says where it happened, unless somebody nearer has.
    pub(super) fn at(mut self, path: Path<'_>) -> Self {
        if self.place.is_none() {
            self.place = Some(Place(match self.kind {
                Kind::Missing => path.key(&self.problem).to_string(),
                Kind::Type | Kind::Value => path.to_string(),
            }));
            if self.kind == Kind::Missing {
                "it is missing".clone_into(&mut self.problem);
            }
        }
        self
    }

    /// Says which value was refused, unless the refusal quotes it.
    pub(super) fn quoting(mut self, found: &Json) -> Self {
        if self.kind == Kind::Value && self.place.is_none() {
            let quoted = match found {
                Json::String(text) => format!("{text:?}"),
                other => other.to_string(),
            };
            if !self.problem.contains(&quoted) {
                self.problem = format!("{}, found {}", self.problem, found.describe());
            }
        }
        self
    }
}

impl Failure for DecodeError {
    fn code(&self) -> Code {
        match self.kind {
            Kind::Type => Code::Decode,
            Kind::Value | Kind::Missing => Code::InvalidConfig,
        }
    }
}

impl de::Error for DecodeError {
    fn custom<T: Display>(message: T) -> Self {
        Self {
            place: None,
            kind: Kind::Value,
            problem: message.to_string(),
        }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self {
            place: None,
            kind: Kind::Type,
            problem: format!("expected {expected}, found {unexpected}"),
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let expected: Vec<_> = expected.iter().map(|name| format!("{name:?}")).collect();
        Self::custom(format_args!(
            "expected {}, found {variant:?}",
            expected.join(" or ")
        ))
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            place: None,
            kind: Kind::Missing,
            problem: field.to_owned(),
        }
    }
}

/// The way from the document to a value in it.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
