//! One container's connection to one network, and the three names it is known by.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest network name in bytes: it names a directory, with room for a suffix.
const MAX_NETWORK_NAME: usize = 200;

/// The longest interface name in bytes, without the terminating NUL (`IFNAMSIZ - 1`).
const MAX_INTERFACE_NAME: usize = 15;

/// What the runtime calls a container, well-formed by construction.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The name of a network, which can also name a directory.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

/// The name of a network interface, well-formed by construction.
///
/// Every string that reaches the kernel, a path or a rule as an interface name is one of
/// these, so none of those places checks again.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

/// One container's connection to one network, from its ADD to its DEL.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Attachment {
    pub network: NetworkName,
    pub container_id: ContainerId,
    /// The name that the interface has inside the container.
    pub interface: InterfaceName,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.network, self.container_id, self.interface
        )
    }
}

/// A container id outside the specification's `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid characters in containerID {0:?}")]
pub struct InvalidContainerId(pub(crate) String);

/// Why a string cannot be the name of a network.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidNetworkName {
    #[error("invalid characters found in network name {0:?}")]
    Characters(String),
    #[error("network name {0:?} is longer than {MAX_NETWORK_NAME} bytes")]
    TooLong(String),
}

/// Why a string cannot be the name of an interface.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidInterfaceName {
    #[error("interface name is empty")]
    Empty,
    #[error("interface name is too long: {0:?} should be less than 16 characters")]
    TooLong(String),
    #[error("interface name is . or ..")]
    Reserved(String),
    #[error("interface name contains / or : or whitespace characters: {0:?}")]
    Forbidden(String),
    #[error("interface name contains %, which the kernel would replace by a number: {0:?}")]
    Pattern(String),
}

/// Does `text` match `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`?
fn is_identifier(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(allowed)
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidContainerId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        if is_identifier(&id) {
            Ok(Self(id))
        } else {
            Err(InvalidContainerId(id))
        }
    }
}

impl TryFrom<String> for NetworkName {
    type Error = InvalidNetworkName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        if !is_identifier(&name) {
            return Err(InvalidNetworkName::Characters(name));
        }
        if name.len() > MAX_NETWORK_NAME {
            return Err(InvalidNetworkName::TooLong(name));
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = InvalidInterfaceName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        use InvalidInterfaceName::{Empty, Forbidden, Pattern, Reserved, TooLong};

        // The tests of dev_valid_name() in net/core/dev.c, in its order. It judges
        // whitespace by byte, we by character, so outside ASCII the two can differ.
        if name.is_empty() {
            return Err(Empty);
        }
        if name.len() > MAX_INTERFACE_NAME {
            return Err(TooLong(name));
        }
        if name == "." || name == ".." {
            return Err(Reserved(name));
        }
        if name.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace()) {
            return Err(Forbidden(name));
        }
        // dev_alloc_name(): "eth%d" becomes "eth0", which DEL would not find by its name.
        if name.contains('%') {
            return Err(Pattern(name));
        }
        Ok(Self(name))
    }
}

/// What the three names have in common.
macro_rules! checked_text {
    ($name:ident, $error:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

checked_text!(ContainerId, InvalidContainerId);
checked_text!(NetworkName, InvalidNetworkName);
checked_text!(InterfaceName, InvalidInterfaceName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_those_of_the_specification() {
        for id in ["a", "A.b-c_d", "0", &"a".repeat(300)] {
            assert_eq!(id.parse(), Ok(ContainerId(id.to_owned())));
        }
        for id in ["", "-a", "_a", ".a", "a b", "a\n", "a/b", "a\u{e9}"] {
            assert_eq!(
                id.parse::<ContainerId>(),
                Err(InvalidContainerId(id.to_owned()))
            );
        }
    }

    #[test]
    fn a_network_name_can_name_a_directory() {
        assert_eq!("cbr0".parse(), Ok(NetworkName("cbr0".to_owned())));
        let longest = "n".repeat(200);
        assert_eq!(longest.parse(), Ok(NetworkName(longest.clone())));
        let longer = "n".repeat(201);
        assert_eq!(
            longer.parse::<NetworkName>(),
            Err(InvalidNetworkName::TooLong(longer))
        );
        for name in ["-x", "a/b", "..", "a b", ""] {
            assert_eq!(
                name.parse::<NetworkName>(),
                Err(InvalidNetworkName::Characters(name.to_owned()))
            );
        }
    }

    #[test]
    fn interface_names_are_those_that_the_kernel_takes_as_they_are() {
        use InvalidInterfaceName::{Empty, Forbidden, Pattern, Reserved, TooLong};

        for name in ["eth0", "e", "fifteen-bytes-x", "\u{e9}th0", "..."] {
            assert_eq!(name.parse(), Ok(InterfaceName(name.to_owned())));
        }
        let refused = |name: &str| name.parse::<InterfaceName>().unwrap_err();
        assert_eq!(refused(""), Empty);
        for name in [
            "sixteen-bytes-xx",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(refused(name), TooLong(name.to_owned()));
        }
        for name in [".", ".."] {
            assert_eq!(refused(name), Reserved(name.to_owned()));
        }
        for name in ["e:0", "e 0", "e\t0", "e\u{a0}0", "e\u{85}0", "e/th", "e\n"] {
            assert_eq!(refused(name), Forbidden(name.to_owned()));
        }
        assert_eq!(refused("eth%d"), Pattern("eth%d".to_owned()));
    }
}
