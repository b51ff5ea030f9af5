//! From [`Json`] to any type that serde can make, with errors that name the key.
//!
//! Keys of a `struct` are matched without regard to case. Types that make serde buffer
//! (`flatten`, `untagged`, internally tagged) lose this: serde asks for their keys as data.

use std::{cell::RefCell, fmt::Display, iter, slice, vec};

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor,
        value::{BorrowedStrDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use super::{
    Json,
    error::{DecodeError, Path, UnknownKey},
};

/// Decodes a document.
pub(crate) fn decode<T: DeserializeOwned>(json: &Json) -> Result<T, DecodeError> {
    T::deserialize(Decoder::new(json, Path::Root))
}

/// Decodes the value that stands at `key` of a document; the document if `key` is empty.
pub(crate) fn decode_key<T: DeserializeOwned>(json: &Json, key: &str) -> Result<T, DecodeError> {
    let path = match key {
        "" => Path::Root,
        key => Path::Root.key(key),
    };
    T::deserialize(Decoder::new(json, path))
}

/// Decodes a document, and lists the keys that no `struct` asked for.
pub(crate) fn decode_listing_unknown<T: DeserializeOwned>(
    json: &Json,
) -> Result<(T, Vec<UnknownKey>), DecodeError> {
    let unknown = RefCell::new(Vec::new());
    let decoded = T::deserialize(Decoder {
        unknown: Some(&unknown),
        ..Decoder::new(json, Path::Root)
    })?;
    Ok((decoded, unknown.into_inner()))
}

/// A value and where it stands.
#[derive(Clone, Copy)]
struct Decoder<'de, 'p> {
    json: &'de Json,
    path: Path<'p>,
    unknown: Option<&'p RefCell<Vec<UnknownKey>>>,
}

impl<'de, 'p> Decoder<'de, 'p> {
    fn new(json: &'de Json, path: Path<'p>) -> Self {
        Self {
            json,
            path,
            unknown: None,
        }
    }

    fn mismatch(self, expected: impl Display) -> DecodeError {
        DecodeError::mismatch(expected, self.json).at(self.path)
    }

    /// An integer from 0 to `max`.
    fn unsigned(self, max: u64) -> Result<u64, DecodeError> {
        let expected = || match max {
            u64::MAX => "an unsigned integer".to_owned(),
            max => format!("an unsigned integer up to {max}"),
        };
        match self.json {
            Json::Number(number) => number.as_u64().filter(|value| *value <= max),
            _ => return Err(self.mismatch("an unsigned integer")),
        }
        .ok_or_else(|| self.mismatch(expected()))
    }

    /// An integer from `min` to `max`.
    fn signed(self, min: i64, max: i64) -> Result<i64, DecodeError> {
        match self.json {
            Json::Number(number) => number.as_i64().filter(|n| (min..=max).contains(n)),
            _ => return Err(self.mismatch("an integer")),
        }
        .ok_or_else(|| self.mismatch(format_args!("an integer from {min} to {max}")))
    }

    fn float(self) -> Result<f64, DecodeError> {
        match self.json {
            Json::Number(number) => number.as_f64(),
            _ => None,
        }
        .ok_or_else(|| self.mismatch("a number"))
    }

    /// Completes an error that the visitor of a single value has made.
    fn finish<T>(self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|error| error.quoting(self.json).at(self.path))
    }

    fn visit_sequence<V: Visitor<'de>>(
        self,
        items: &'de [Json],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let items = items.iter().enumerate();
        visitor
            .visit_seq(Items { of: self, items })
            .map_err(|error| error.at(self.path))
    }

    fn visit_entries<V: Visitor<'de>>(
        self,
        entries: Vec<Entry<'de>>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let entries = Entries {
            of: self,
            rest: entries.into_iter(),
            value: None,
        };
        visitor
            .visit_map(entries)
            .map_err(|error| error.at(self.path))
    }

    /// The entries that are fields of a `struct`, under the names of those fields.
    ///
    /// Equal keys: the last one. `null`: as if it were not there.
    fn fields(self, entries: &'de [(String, Json)], names: &[&'static str]) -> Vec<Entry<'de>> {
        let field = |key: &str| names.iter().find(|name| name.eq_ignore_ascii_case(key));
        let present = || {
            let entries = entries.iter();
            entries.filter(|(_, value)| !matches!(value, Json::Null))
        };
        let mut fields: Vec<Entry<'de>> = Vec::new();
        for (key, value) in present().rev() {
            if let Some(name) = field(key)
                && fields.iter().all(|earlier| earlier.name != *name)
            {
                fields.push(Entry { name, key, value });
            }
        }
        if let Some(unknown) = self.unknown {
            let keys = present().filter(|(key, _)| field(key).is_none());
            unknown
                .borrow_mut()
                .extend(keys.map(|(key, value)| UnknownKey {
                    path: self.path.key(key).to_string(),
                    value: value.to_string(),
                }));
        }
        fields.reverse();
        fields
    }
}

/// Integers: the range is checked here, so that the error is one for people.
macro_rules! integers {
    ($($method:ident $visit:ident $wide:ident ($($limit:expr),+);)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let value = self.$wide($($limit.into()),+)?;
            self.finish(visitor.$visit(value))
        }
    )+};
}

impl<'de> Deserializer<'de> for Decoder<'de, '_> {
    type Error = DecodeError;

    integers! {
        deserialize_u8 visit_u64 unsigned (u8::MAX);
        deserialize_u16 visit_u64 unsigned (u16::MAX);
        deserialize_u32 visit_u64 unsigned (u32::MAX);
        deserialize_u64 visit_u64 unsigned (u64::MAX);
        deserialize_i8 visit_i64 signed (i8::MIN, i8::MAX);
        deserialize_i16 visit_i64 signed (i16::MIN, i16::MAX);
        deserialize_i32 visit_i64 signed (i32::MIN, i32::MAX);
        deserialize_i64 visit_i64 signed (i64::MIN, i64::MAX);
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let value = match self.json {
            Json::Null => visitor.visit_unit(),
            Json::Bool(value) => visitor.visit_bool(*value),
            Json::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (None, Some(value)) => visitor.visit_i64(value),
                (None, None) => visitor.visit_f64(self.float()?),
            },
            Json::String(text) => visitor.visit_borrowed_str(text),
            Json::Array(items) => return self.visit_sequence(items, visitor),
            Json::Object(entries) => {
                let entries = entries.iter().map(Entry::of).collect();
                return self.visit_entries(entries, visitor);
            }
        };
        self.finish(value)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.json {
            Json::Bool(value) => self.finish(visitor.visit_bool(*value)),
            _ => Err(self.mismatch("true or false")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let value = self.float()?;
        self.finish(visitor.visit_f64(value))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.json {
            Json::String(text) => self.finish(visitor.visit_borrowed_str(text)),
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.json {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|error: DecodeError| error.at(self.path))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|error: DecodeError| error.quoting(self.json).at(self.path))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.json {
            Json::Array(items) => self.visit_sequence(items, visitor),
            Json::Null => self.visit_sequence(&[], visitor),
            _ => Err(self.mismatch("an array")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.json {
            Json::Object(entries) => {
                self.visit_entries(entries.iter().map(Entry::of).collect(), visitor)
            }
            Json::Null => self.visit_entries(Vec::new(), visitor),
            _ => Err(self.mismatch("an object")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.json {
            Json::Object(entries) => self.visit_entries(self.fields(entries, fields), visitor),
            Json::Null => self.visit_entries(Vec::new(), visitor),
            _ => Err(self.mismatch("an object")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.json {
            Json::String(text) => {
                let variant: StrDeserializer<'_, DecodeError> =
                    de::IntoDeserializer::into_deserializer(text.as_str());
                self.finish(visitor.visit_enum(variant))
            }
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct }
}

/// A key with its value, under the name that the type decoded into has for it.
struct Entry<'de> {
    name: &'de str,
    /// The key as it is written, for errors.
    key: &'de str,
    value: &'de Json,
}

impl<'de> Entry<'de> {
    fn of((key, value): &'de (String, Json)) -> Self {
        Self {
            name: key,
            key,
            value,
        }
    }
}

struct Entries<'de, 'p> {
    of: Decoder<'de, 'p>,
    rest: vec::IntoIter<Entry<'de>>,
    /// The entry whose name has been asked for, and whose value comes next.
    value: Option<Entry<'de>>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        self.value = self.rest.next();
        let Some(entry) = &self.value else {
            return Ok(None);
        };
        let name = BorrowedStrDeserializer::new(entry.name);
        seed.deserialize(name)
            .map(Some)
            .map_err(|error: DecodeError| error.at(self.of.path.key(entry.key)))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        let Some(entry) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = self.of.path.key(entry.key);
        seed.deserialize(Decoder {
            json: entry.value,
            path,
            unknown: self.of.unknown,
        })
        .map_err(|error| error.at(path))
    }
}

struct Items<'de, 'p> {
    of: Decoder<'de, 'p>,
    items: iter::Enumerate<slice::Iter<'de, Json>>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some((index, json)) = self.items.next() else {
            return Ok(None);
        };
        let path = Path::Index(&self.of.path, index);
        seed.deserialize(Decoder {
            json,
            path,
            unknown: self.of.unknown,
        })
        .map(Some)
        .map_err(|error| error.at(path))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr};

    use ipnet::IpNet;
    use serde::Deserialize;

    use super::*;
    use crate::{Failure, InterfaceName};

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, rename_all = "camelCase")]
    struct Config {
        bridge: Option<InterfaceName>,
        mtu: Option<u16>,
        vlan: Option<u64>,
        offset: Option<i8>,
        ratio: Option<f64>,
        is_gateway: bool,
        backend: Backend,
        labels: BTreeMap<String, Option<String>>,
        ipam: Option<Ipam>,
        pair: Option<(u8, String)>,
        anything: Option<serde_json::Value>,
        gateway: Option<IpAddr>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Backend {
        #[default]
        Nftables,
        Iptables,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Ipam {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        ranges: Vec<Vec<Range>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Range {
        subnet: IpNet,
        range_start: Option<String>,
    }

    fn config(text: &str) -> Result<Config, DecodeError> {
        decode(&Json::parse(text.as_bytes()).unwrap())
    }

    fn refused(text: &str) -> String {
        let error = config(text).unwrap_err();
        format!("{} {error}", error.code().number())
    }

    #[test]
    fn keys_of_structs_are_matched_in_any_case() {
        let expected = config(
            r#"{"mtu":1460,"isGateway":true,"ipam":{"type":"x","ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9"}]]}}"#,
        );
        assert_eq!(expected.as_ref().unwrap().mtu, Some(1460));
        assert_eq!(
            config(
                r#"{"MTU":1460,"ISGATEWAY":true,"IPAM":{"Type":"x","Ranges":[[{"Subnet":"10.0.0.0/24","RangeStart":"10.0.0.9"}]]}}"#
            ),
            expected
        );
    }

    #[test]
    fn the_last_of_equal_keys_wins_also_over_an_exact_one() {
        let mtu = |text| config(text).unwrap().mtu;
        assert_eq!(mtu(r#"{"mtu":1,"MTU":2}"#), Some(2));
        assert_eq!(mtu(r#"{"MTU":2,"mtu":1}"#), Some(1));
        assert_eq!(mtu(r#"{"mtu":"wrong","mtu":3}"#), Some(3));
    }

    #[test]
    fn null_is_absent_everywhere() {
        let all_null = r#"{"bridge":null,"mtu":null,"isGateway":null,"backend":null,"labels":null,"ipam":null}"#;
        assert_eq!(config(all_null), Ok(Config::default()));
        assert_eq!(config(r#"{"mtu":5,"mtu":null}"#).unwrap().mtu, Some(5));
        let nested = config(r#"{"ipam":{"type":"x","ranges":[null]}}"#).unwrap();
        assert_eq!(nested.ipam.unwrap().ranges, [vec![]]);
    }

    #[test]
    fn maps_keep_their_keys() {
        let labels = config(r#"{"labels":{"Zone":"a","zone":"b","none":null}}"#)
            .unwrap()
            .labels;
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        assert_eq!(
            labels,
            [("Zone", Some("a")), ("none", None), ("zone", Some("b"))]
        );
    }

    #[test]
    fn numbers_keep_their_value() {
        let config =
            config(r#"{"vlan":18446744073709551615,"offset":-128,"ratio":0.5,"pair":[7,"x"]}"#)
                .unwrap();
        assert_eq!(config.vlan, Some(u64::MAX));
        assert_eq!(config.offset, Some(-128));
        assert_eq!(config.ratio, Some(0.5));
        assert_eq!(config.pair, Some((7, "x".to_owned())));
    }

    #[test]
    fn any_value_can_be_taken_as_it_is() {
        let config = config(r#"{"anything":{"Key":[1,-1,1.5,"s",true,null]}}"#).unwrap();
        assert_eq!(
            config.anything,
            Some(serde_json::json!({"Key": [1, -1, 1.5, "s", true, null]}))
        );
    }

    #[test]
    fn an_error_names_the_key_and_what_was_found() {
        assert_eq!(
            refused(r#"{"mtu":"1500"}"#),
            "6 cannot decode key \"mtu\": expected an unsigned integer, found the string \"1500\""
        );
        assert_eq!(
            refused(r#"{"MTU":70000}"#),
            "6 cannot decode key \"MTU\": expected an unsigned integer up to 65535, found the number 70000"
        );
        assert_eq!(
            refused(r#"{"vlan":-1}"#),
            "6 cannot decode key \"vlan\": expected an unsigned integer, found the number -1"
        );
        assert_eq!(
            refused(r#"{"mtu":1500.0}"#),
            "6 cannot decode key \"mtu\": expected an unsigned integer up to 65535, found the number 1500.0"
        );
        assert_eq!(
            refused(r#"{"offset":200}"#),
            "6 cannot decode key \"offset\": expected an integer from -128 to 127, found the number 200"
        );
        assert_eq!(
            refused(r#"{"isGateway":"true"}"#),
            "6 cannot decode key \"isGateway\": expected true or false, found the string \"true\""
        );
        assert_eq!(
            refused(r#"{"ipam":[]}"#),
            "6 cannot decode key \"ipam\": expected an object, found an array"
        );
        assert_eq!(
            refused(r#"{"ipam":{"type":7}}"#),
            "6 cannot decode key \"ipam.type\": expected a string, found the number 7"
        );
        assert_eq!(
            refused(
                r#"{"ipam":{"type":"x","ranges":[[],[{"subnet":"10.0.0.0/24"},{"subnet":[]}]]}}"#
            ),
            "6 cannot decode key \"ipam.ranges[1][1].subnet\": expected a string, found an array"
        );
        assert_eq!(
            refused(r#"{"ratio":{}}"#),
            "6 cannot decode key \"ratio\": expected a number, found an object"
        );
        assert_eq!(
            refused("[]"),
            "6 cannot decode the document: expected an object, found an array"
        );
    }

    #[test]
    fn a_refused_value_is_an_error_of_the_configuration() {
        assert_eq!(
            refused(r#"{"ipam":{"type":"x","ranges":[[{"subnet":"10.0.0.0/33"}]]}}"#),
            "7 cannot decode key \"ipam.ranges[0][0].subnet\": invalid IP address syntax, found the string \"10.0.0.0/33\""
        );
        assert_eq!(
            refused(r#"{"bridge":"much-too-long-for-a-link"}"#),
            "7 cannot decode key \"bridge\": interface name is too long: \"much-too-long-for-a-link\" should be less than 16 characters"
        );
        assert_eq!(
            refused(r#"{"backend":"ebtables"}"#),
            "7 cannot decode key \"backend\": expected \"nftables\" or \"iptables\", found \"ebtables\""
        );
        assert_eq!(
            refused(r#"{"gateway":""}"#),
            "7 cannot decode key \"gateway\": invalid IP address syntax, found the string \"\""
        );
    }

    #[test]
    fn a_missing_key_is_named_with_its_path() {
        assert_eq!(
            refused(r#"{"ipam":{"ranges":[]}}"#),
            "7 cannot decode key \"ipam.type\": it is missing"
        );
        assert_eq!(
            refused(r#"{"ipam":{"type":null}}"#),
            "7 cannot decode key \"ipam.type\": it is missing"
        );
    }

    #[test]
    fn unknown_keys_are_ignored_and_can_be_listed() {
        let text = r#"{"addIf":"eth0","mtu":1,"ipam":{"type":"x","Subnte":{"a":[1]},"ranges":[[{"subnet":"10.0.0.0/24","x":1}]]},"none":null,"labels":{"free":"to choose"},"anything":{"b":1}}"#;
        let json = Json::parse(text.as_bytes()).unwrap();
        let (config, unknown) = decode_listing_unknown::<Config>(&json).unwrap();
        assert_eq!(config.mtu, Some(1));
        let unknown: Vec<_> = unknown
            .iter()
            .map(|key| format!("{} = {}", key.path, key.value))
            .collect();
        assert_eq!(
            unknown,
            [
                r#"addIf = "eth0""#,
                r#"ipam.Subnte = {"a":[1]}"#,
                "ipam.ranges[0][0].x = 1",
            ]
        );
    }
}
