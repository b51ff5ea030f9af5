//! Lines for people, on standard error.

use std::fmt::Display;

use crate::{journal, stdio};

/// Writes one line on standard error. Never fails, never panics.
pub fn log(message: &dyn Display) {
    let mut line = stdio::plugin_name().to_owned();
    if !line.is_empty() {
        line.push_str(": ");
    }
    line.extend(message.to_string().trim_end().chars().map(|c| match c {
        '\n' | '\r' => ' ',
        other => other,
    }));
    journal::note(&line);
    line.push('\n');
    stdio::write_error(line.as_bytes());
}
