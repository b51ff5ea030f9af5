//! Where the Go plugins v1.9.1 break a rule that the tests express, and why.
//!
//! Tests of modules `ours` express promises that only we make; they are not run against
//! the Go plugins and do not stand here.

/// The test, and how the Go plugins fail it.
pub const FAILS: &[(&str, &str)] = &[];

/// How the Go plugins fail this test, if they do.
pub fn failure(test: &str) -> Option<&'static str> {
    let (_, why) = FAILS.iter().find(|(name, _)| *name == test)?;
    Some(why)
}
