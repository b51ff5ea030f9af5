//! The manifests that we ship, and those of the tests, are what Kubernetes understands: every
//! key is one of its schemas.

use std::{fs, path::Path, process::Command};

use harness::{cannot_run, cluster};
use tempfile::TempDir;

/// The newest schemas that are in kubectl-validate.
const VERSION: &str = "1.30";

/// Whether the file is valid, and what was said of it. None where the program is missing.
fn validate(test: &str, file: &Path) -> Option<(bool, String)> {
    let program = cluster::program("kubectl-validate");
    if !program.is_file() {
        let program = program.display();
        cannot_run(
            test,
            &format!("{program} is missing: scripts/setup says why"),
        );
        return None;
    }
    let mut command = Command::new(program);
    // Not what some cluster says.
    command.env("KUBECONFIG", "/dev/null");
    let output = command
        .args(["--version", VERSION])
        .arg(file)
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[test]
#[ignore = "needs kubectl-validate: run scripts/test"]
fn every_manifest_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = cluster::manifests();
    assert!(ours.len() >= 2, "{ours:?}");
    for file in ours
        .into_iter()
        .chain([root.join("tests/kubernetes/web.yaml")])
    {
        let Some((valid, said)) = validate("manifests::every_manifest_is_valid", &file) else {
            return;
        };
        assert!(valid, "{}: {said}", file.display());
    }
}

/// A key that is misspelt, a value of another type, a kind that is not there; and what is said.
const MISTAKES: [(&str, &str, &str); 4] = [
    (
        "hostNetwork:",
        "hostNetworks:",
        "hostNetworks: Invalid value: value provided for unknown field",
    ),
    (
        "- name: ",
        "- nam: ",
        "nam: Invalid value: value provided for unknown field",
    ),
    ("type: RollingUpdate", "type: 5", "must be of type string"),
    (
        "kind: DaemonSet",
        "kind: DaemonSets",
        "kind DaemonSets not found",
    ),
];

#[test]
#[ignore = "needs kubectl-validate: run scripts/test"]
fn a_manifest_with_a_mistake_is_not() {
    let dir = TempDir::new().expect("a directory");
    let copy = dir.path().join("broken.yaml");
    for file in cluster::manifests() {
        let text = fs::read_to_string(&file).expect("a manifest");
        for (right, wrong, words) in MISTAKES {
            let broken = text.replace(right, wrong);
            assert_ne!(broken, text, "{right} is not in {}", file.display());
            fs::write(&copy, broken).expect("a copy");
            let name = "manifests::a_manifest_with_a_mistake_is_not";
            let Some((valid, said)) = validate(name, &copy) else {
                return;
            };
            assert!(!valid && said.contains(words), "{wrong}: {said}");
        }
    }
}
