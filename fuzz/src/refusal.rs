//! The error document: what a runtime gets instead of a result.

use cni_protocol::{ErrorReply, Failure, Version};
use serde_json::Value;

/// Codes that a refused input can have: version, unsupported field, environment, decoding,
/// invalid configuration. 5 is for a `resolvConf` that cannot be read.
const CODES: [u32; 6] = [1, 2, 4, 5, 6, 7];

/// Checks the reply to an input that is refused, and returns it.
pub(crate) fn check(failure: &impl Failure) -> ErrorReply {
    let reply = failure.reply();
    let code = reply.code.number();
    assert!(CODES.contains(&code), "code {code}: {reply}");
    assert!(!reply.msg.is_empty(), "code {code} without a msg");
    // `kubectl describe pod` and the log of the runtime show it as one line.
    assert!(!reply.msg.contains(char::is_control), "{:?}", reply.msg);

    let text = reply.to_json(Version::LATEST);
    let document: Value = serde_json::from_str(&text).expect("one JSON document");
    assert_eq!(document["cniVersion"], Version::LATEST.as_str());
    assert_eq!(document["code"], code);
    assert_eq!(document["msg"], reply.msg.as_str());
    assert_eq!(
        document.get("details").and_then(Value::as_str),
        reply.details.as_deref()
    );
    reply
}
