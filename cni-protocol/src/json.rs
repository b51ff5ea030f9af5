//! JSON as Go's `encoding/json` sees it, because runtimes and configurations rely on it:
//! keys without regard to case, the last of equal keys wins, `null` is the same as absent.

mod decode;
mod error;

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::Number;

pub(crate) use decode::{decode, decode_key, decode_listing_unknown};
pub use error::{DecodeError, UnknownKey};

/// The longest string that an error shows.
const SHOWN: usize = 80;

/// A JSON value that keeps the order of its keys, and all of equal ones.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses exactly one document.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(bytes).map_err(|error| DecodeError::syntax(&error))
    }

    /// The value of a key of an object, in any case. `null` is `None`.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries(key).find(|value| !matches!(value, Self::Null))
    }

    /// The value at the end of a path of keys. `null` is `None`.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |json, key| json.get(key))
    }

    /// Is the key there, be it with `null`?
    pub fn has_key(&self, key: &str) -> bool {
        self.entries(key).next().is_some()
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, as an error says it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => format!("the number {number}"),
            Self::String(text) if text.chars().count() > SHOWN => {
                let start: String = text.chars().take(SHOWN).collect();
                format!("a string that starts with {start:?}")
            }
            Self::String(text) => format!("the string {text:?}"),
            Self::Array(_) => "an array".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }

    /// The values of all keys that are equal but for case, the last first.
    fn entries(&self, key: &str) -> impl Iterator<Item = &Self> {
        let object: &[_] = match self {
            Self::Object(entries) => entries,
            _ => &[],
        };
        object
            .iter()
            .rev()
            .filter(move |(name, _)| name.eq_ignore_ascii_case(key))
            .map(|(_, value)| value)
    }
}

/// Compact JSON.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A tree of strings and numbers always serialises.
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_none<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        // JSON has no infinities, so there always is a number.
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Json::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_document_is_kept_as_it_is_written() {
        let text =
            r#"{"b":[1,-2,3.5,18446744073709551615],"a":null,"A":{"x":true,"x":"\u00e9\n"}}"#;
        assert_eq!(json(text).to_string(), text.replace("\\u00e9", "\u{e9}"));
    }

    #[test]
    fn keys_are_found_in_any_case_and_the_last_one_wins() {
        let document = json(r#"{"Name":"a","NAME":"b","ipam":{"DataDir":"/x"},"name":null}"#);
        assert_eq!(document.get("name"), Some(&Json::String("b".to_owned())));
        assert_eq!(
            document.at(&["IPAM", "datadir"]).and_then(Json::as_str),
            Some("/x")
        );
        assert_eq!(document.at(&["ipam", "dataDir", "deeper"]), None);
    }

    #[test]
    fn null_is_absent_but_its_key_is_there() {
        let document = json(r#"{"a":null}"#);
        assert_eq!(document.get("a"), None);
        assert!(document.has_key("A"));
        assert!(!document.has_key("b"));
    }

    #[test]
    fn what_is_not_one_document_is_refused() {
        let refused = |text: &str| Json::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            refused("{} x"),
            "cannot decode JSON: trailing characters at line 1 column 4"
        );
        assert_eq!(
            refused("{"),
            "cannot decode JSON: EOF while parsing an object at line 1 column 1"
        );
        assert_eq!(
            refused("{\"a\":\"\u{1}\"}"),
            "cannot decode JSON: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 7"
        );
        assert_eq!(
            Json::parse(b"{\"a\":\"\xff\"}").unwrap_err().to_string(),
            "cannot decode JSON: invalid unicode code point at line 1 column 7"
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_the_end_of_the_stack() {
        let text = "[".repeat(100_000);
        assert_eq!(
            Json::parse(text.as_bytes()).unwrap_err().to_string(),
            "cannot decode JSON: recursion limit exceeded at line 1 column 128"
        );
    }

    /// Any tree, of a few levels.
    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i64>().prop_map(|n| Json::Number(n.into())),
            any::<u64>().prop_map(|n| Json::Number(n.into())),
            any::<String>().prop_map(Json::String),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
                prop::collection::vec((any::<String>(), inner), 0..4).prop_map(Json::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_tree_reads_back_what_it_writes(tree in any_json()) {
            prop_assert_eq!(Json::parse(tree.to_string().as_bytes()), Ok(tree));
        }

        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            if let Ok(tree) = Json::parse(&bytes) {
                prop_assert_eq!(Json::parse(tree.to_string().as_bytes()), Ok(tree));
            }
        }
    }
}
