//! Every file of the corpus, through its target.

use std::{fs, panic, path::Path};

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let files = fs::read_dir(&corpus).expect("the corpus is kept beside the sources");
    let mut count = 0;
    for file in files {
        let path = file.expect("a file").path();
        let bytes = fs::read(&path).expect("a file");
        let outcome = panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{} does not pass", path.display());
        count += 1;
    }
    assert!(count > 0, "{} is empty", corpus.display());
}

#[test]
fn agent_file() {
    replay("agent_file", crate::agent_file::check);
}

#[test]
fn bridge_stdin() {
    replay("bridge_stdin", crate::bridge_stdin::check);
}

#[test]
fn ipam_stdin() {
    replay("ipam_stdin", crate::ipam_stdin::check);
}

#[test]
fn cni_args() {
    replay("cni_args", crate::cni_args::check);
}

#[test]
fn prev_result() {
    replay("prev_result", crate::prev_result::check);
}
