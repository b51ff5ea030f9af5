//! Where the Go plugins v1.9.1 break a rule that the tests express, and why.
//!
//! Tests of modules `ours` express promises that only we make; they are not run against
//! the Go plugins and do not stand here.

/// The test, and how the Go plugins fail it.
pub const FAILS: &[(&str, &str)] = &[
    (
        "check::is_content_with_a_network_without_addresses",
        "CHECK asks an IPAM plugin that the configuration does not have: no plugin name provided",
    ),
    (
        "delegate::an_ipam_that_failed_is_told_to_release",
        "after an ADD that failed, the IPAM plugin gets no DEL",
    ),
    (
        "delegate::gc_reaches_the_ipam",
        "bridge has no GC: it succeeds, does nothing and forwards nothing",
    ),
    (
        "gc::frees_the_addresses_of_pods_that_are_not_listed",
        "neither bridge nor host-local has a GC",
    ),
    (
        "protocol::a_previous_result_of_an_add_is_kept_and_extended",
        "bridge drops the interfaces and addresses of a previous result",
    ),
    (
        "protocol::every_error_has_a_version",
        "errors have no cniVersion",
    ),
    (
        "protocol::the_message_names_the_variable",
        "\"invalid characters in containerID\" does not name CNI_CONTAINERID",
    ),
    (
        "protocol::version_echoes_what_it_was_asked",
        "VERSION answers 1.1.0 whatever it was asked",
    ),
];

/// How the Go plugins fail this test, if they do.
pub fn failure(test: &str) -> Option<&'static str> {
    let (_, why) = FAILS.iter().find(|(name, _)| *name == test)?;
    Some(why)
}
