//! `cargo fuzz run agent_file`; without `cargo fuzz` there is nothing to run here.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cni_fuzz::agent_file::check(bytes));

#[cfg(not(fuzzing))]
fn main() {}
