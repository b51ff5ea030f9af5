//! Comparing JSON with what a test has written down, without what is chance.

use serde_json::Value;

use crate::State;

/// Panics with the lines that differ, if any do.
#[track_caller]
pub fn assert_json(found: &Value, expected: &Value) {
    let text = |json| State::from_text(&serde_json::to_string_pretty(json).unwrap());
    text(found).assert_same(&text(expected));
}

/// A result with what only this run can know replaced: the path of the namespace and the
/// name of the node's end of the veth pair.
pub fn masked(result: &Value) -> Value {
    masking(result, &|key, value| match key {
        "sandbox" => Some("<netns>".into()),
        "name" if is_host_link(value) => Some("veth*".into()),
        _ => None,
    })
}

/// As [`masked`], and without the hardware addresses and MTUs: what every bridge plugin
/// has to say alike.
pub fn shape(result: &Value) -> Value {
    let mut shape = masked(result);
    let interfaces = shape.get_mut("interfaces").and_then(Value::as_array_mut);
    for interface in interfaces.into_iter().flatten() {
        if let Some(members) = interface.as_object_mut() {
            members.remove("mac");
            members.remove("mtu");
        }
    }
    shape
}

fn is_host_link(name: &Value) -> bool {
    let digits = name.as_str().and_then(|name| name.strip_prefix("veth"));
    digits.is_some_and(|digits| digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn masking(json: &Value, mask: &dyn Fn(&str, &Value) -> Option<Value>) -> Value {
    match json {
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| {
                let masked = mask(key, value).unwrap_or_else(|| masking(value, mask));
                (key.clone(), masked)
            })
            .collect(),
        Value::Array(values) => values.iter().map(|value| masking(value, mask)).collect(),
        other => other.clone(),
    }
}
