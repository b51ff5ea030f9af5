//! What a runtime sees of a plugin: its exit status, its standard output and error.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Write},
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const NETWORK: &str = r#"{"cniVersion":"1.1.0","name":"n"}"#;

/// What ADD is called with.
const ADD: [(&str, &str); 4] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/x"),
    ("CNI_IFNAME", "eth0"),
];

/// The plugin `examples/stub.rs`, which cargo has built beside this test.
fn stub() -> Command {
    let test = std::env::current_exe().unwrap();
    let executable = test.ancestors().nth(2).unwrap().join("examples/stub");
    assert!(
        executable.exists(),
        "{} is not there: run `cargo test`",
        executable.display()
    );
    let mut command = Command::new(executable);
    command.env_clear();
    command
}

/// The exit status, standard output and the lines of standard error, as one reads them.
fn call<V: AsRef<OsStr>>(variables: &[(&str, V)], stdin: &str) -> String {
    let mut command = stub();
    for (name, value) in variables {
        command.env(name, value);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A plugin that refuses its environment does not read.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    let output = child.wait_with_output().unwrap();
    transcript(&output)
}

fn transcript(output: &std::process::Output) -> String {
    let mut transcript = format!("{}\n", output.status.code().unwrap());
    for (prefix, stream) in [("", &output.stdout), ("stderr: ", &output.stderr)] {
        for line in String::from_utf8(stream.clone()).unwrap().lines() {
            transcript.push_str(prefix);
            transcript.push_str(line);
            transcript.push('\n');
        }
    }
    transcript
}

/// ADD with one variable more, or another value of one.
fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut variables = ADD.to_vec();
    variables.push((name, value));
    variables
}

#[test]
fn add_prints_its_result_and_nothing_else() {
    assert_eq!(
        call(&ADD, NETWORK),
        "\
0
{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.0.0.5/24\"}]}
stderr: stub: added n/c1/eth0
"
    );
}

#[test]
fn the_result_is_in_the_version_of_the_configuration() {
    assert_eq!(
        call(&ADD, r#"{"name":"n"}"#),
        "\
0
{\"cniVersion\":\"0.1.0\",\"ip4\":{\"ip\":\"10.0.0.5/24\"},\"dns\":{}}
stderr: stub: added n/c1/eth0
"
    );
}

#[test]
fn all_other_verbs_print_nothing() {
    for verb in ["DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(call(&with("CNI_COMMAND", verb), NETWORK), "0\n", "{verb}");
    }
}

#[test]
fn an_error_is_a_document_on_standard_output() {
    let config = r#"{"cniVersion":"0.4.0","name":"n","behave":"fail"}"#;
    assert_eq!(
        call(&ADD, config),
        "\
1
{\"cniVersion\":\"0.4.0\",\"code\":11,\"msg\":\"cannot do what was asked\",\"details\":\"an error occurred when formatting an argument\"}
"
    );
}

#[test]
fn what_is_missing_is_said_before_standard_input_is_read() {
    assert_eq!(
        call(&[("CNI_COMMAND", "ADD")], "{"),
        "\
1
{\"cniVersion\":\"1.1.0\",\"code\":4,\"msg\":\"required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing\"}
"
    );
}

#[test]
fn an_unknown_verb_is_only_refused_with_a_good_configuration() {
    assert_eq!(
        call(&[("CNI_COMMAND", "FOO")], NETWORK),
        "\
1
{\"cniVersion\":\"1.1.0\",\"code\":4,\"msg\":\"unknown CNI_COMMAND: FOO\"}
"
    );
    assert_eq!(
        call(&[("CNI_COMMAND", "add")], "{"),
        "\
1
{\"cniVersion\":\"1.1.0\",\"code\":6,\"msg\":\"cannot read the network configuration\",\"details\":\"cannot decode JSON: EOF while parsing an object at line 1 column 1\"}
"
    );
    assert_eq!(
        call(
            &[("CNI_COMMAND", "FOO")],
            r#"{"cniVersion":"9.9.9","name":"n"}"#
        ),
        "\
1
{\"cniVersion\":\"1.1.0\",\"code\":4,\"msg\":\"unknown CNI_COMMAND: FOO\"}
"
    );
}

#[test]
fn a_verb_that_its_version_does_not_have_is_refused() {
    assert_eq!(
        call(
            &with("CNI_COMMAND", "CHECK"),
            r#"{"cniVersion":"0.3.1","name":"n"}"#
        ),
        "\
1
{\"cniVersion\":\"0.3.1\",\"code\":1,\"msg\":\"config version does not allow CHECK: cniVersion is 0.3.1, CHECK came with 0.4.0\"}
"
    );
}

#[test]
fn unknown_args_stop_only_add() {
    let config = r#"{"cniVersion":"1.0.0","name":"n"}"#;
    assert_eq!(
        call(&with("CNI_ARGS", "FOO=bar"), config),
        "\
1
{\"cniVersion\":\"1.0.0\",\"code\":4,\"msg\":\"CNI_ARGS: unknown args [\\\"FOO=bar\\\"], and IgnoreUnknown=1 is not among them\"}
"
    );
    let mut del = with("CNI_ARGS", "FOO=bar;x");
    del.push(("CNI_COMMAND", "DEL"));
    assert_eq!(call(&del, config), "0\n");
}

#[test]
fn an_interface_name_that_is_no_text_is_refused() {
    let mut variables: Vec<_> = ADD
        .map(|(name, value)| (name, OsString::from(value)))
        .into();
    variables.push(("CNI_IFNAME", OsString::from_vec(vec![0xff])));
    assert_eq!(
        call(&variables, NETWORK),
        "\
1
{\"cniVersion\":\"1.1.0\",\"code\":4,\"msg\":\"CNI_IFNAME: \\\"\\\\xFF\\\" is not valid UTF-8\"}
"
    );
}

#[test]
fn a_person_is_told_what_it_is() {
    for command in [&[][..], &[("CNI_COMMAND", "")]] {
        assert_eq!(
            call(command, ""),
            "\
0
stderr: CNI stub plugin v0.0.1
stderr: CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0
"
        );
    }
}

/// The answer to VERSION in a version.
fn supported(version: &str) -> String {
    format!(
        "\
0
{{\"cniVersion\":\"{version}\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}}
"
    )
}

#[test]
fn version_answers_whatever_it_is_given() {
    let version = [("CNI_COMMAND", "VERSION")];
    for stdin in ["", "garbage", "{", r#"{"cniVersion":"9.9.9"}"#, "[]", "{}"] {
        assert_eq!(call(&version, stdin), supported("1.1.0"), "{stdin}");
    }
    for stdin in [
        r#"{"cniVersion":"0.4.0"}"#,
        "{ \"CNIVersion\" : \"0.4.0\" }\n",
    ] {
        assert_eq!(call(&version, stdin), supported("0.4.0"), "{stdin}");
    }
}

#[test]
fn version_does_not_wait_for_a_runtime_that_never_closes() {
    for (written, version) in [("", "1.1.0"), (r#"{"cniVersion":"0.4.0"}"#, "0.4.0")] {
        let started = Instant::now();
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(written.as_bytes()).unwrap();
        let output = stub()
            .env("CNI_COMMAND", "VERSION")
            .stdin(reader)
            .output()
            .unwrap();
        assert_eq!(transcript(&output), supported(version));
        assert!(started.elapsed() < Duration::from_secs(5));
        drop(writer);
    }
}

#[test]
fn a_panic_is_one_document() {
    for behave in ["panic", "panic in a thread"] {
        let config = format!(r#"{{"cniVersion":"1.0.0","name":"n","behave":"{behave}"}}"#);
        let mut lines = call(&ADD, &config);
        let place = lines.find("stub.rs:").unwrap();
        let end = place + lines[place..].find(": the").unwrap();
        lines.replace_range(place..end, "stub.rs:LINE");
        let stdout: Vec<_> = lines
            .lines()
            .filter(|line| !line.starts_with("stderr: "))
            .collect();
        assert_eq!(
            stdout,
            [
                "1",
                "{\"cniVersion\":\"1.0.0\",\"code\":999,\
                 \"msg\":\"bug in stub 0.0.1 at cni-protocol/examples/stub.rs:LINE: the table has no 3 legs\",\
                 \"details\":\"please report it with this text; the DEL that follows cleans up\"}",
            ],
            "{behave}"
        );
    }
}

#[test]
fn a_reader_that_is_gone_is_no_bug() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = stub()
        .envs(ADD)
        .stdin(file_with(NETWORK))
        .stdout(writer)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let output = stub()
        .envs(ADD)
        .stdin(file_with(NETWORK))
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(
        transcript(&output),
        "\
1
stderr: stub: added n/c1/eth0
stderr: stub: cannot write to standard output: No space left on device (os error 28)
"
    );
}

#[test]
fn a_configuration_has_a_limit() {
    let output = stub()
        .envs(ADD)
        .stdin(File::open("/dev/zero").unwrap())
        .output()
        .unwrap();
    assert_eq!(
        transcript(&output),
        "\
1
{\"cniVersion\":\"1.1.0\",\"code\":6,\"msg\":\"the network configuration is larger than 16 MiB\"}
"
    );
}

#[test]
fn standard_input_that_cannot_be_read_is_an_io_error() {
    let output = stub()
        .envs(ADD)
        .stdin(File::open("/").unwrap())
        .output()
        .unwrap();
    assert_eq!(
        transcript(&output),
        "\
1
{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"error reading from stdin\",\"details\":\"Is a directory (os error 21)\"}
"
    );
}

#[test]
fn what_a_delegate_says_on_standard_error_is_passed_on() {
    let plugins = tempfile::tempdir().unwrap();
    script(
        &plugins.path().join("fake"),
        "echo no luck >&2; echo '{\"code\":11,\"msg\":\"busy\"}'; exit 1",
    );
    assert_eq!(
        call(
            &with("CNI_PATH", plugins.path().to_str().unwrap()),
            r#"{"cniVersion":"1.0.0","name":"n","behave":"delegate","ipam":{"type":"fake"}}"#
        ),
        "\
1
{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"busy\"}
stderr: no luck
"
    );
}

#[test]
fn a_delegate_does_not_outlive_a_plugin_that_is_killed() {
    let plugins = tempfile::tempdir().unwrap();
    let pid = plugins.path().join("pid");
    script(
        &plugins.path().join("fake"),
        &format!(
            "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
            pid.display()
        ),
    );
    let mut plugin = stub()
        .env("PATH", "/usr/bin:/bin")
        .envs(with("CNI_PATH", plugins.path().to_str().unwrap()))
        .stdin(file_with(
            r#"{"cniVersion":"1.0.0","name":"n","behave":"delegate","ipam":{"type":"fake"}}"#,
        ))
        .spawn()
        .unwrap();
    wait_until(|| pid.exists());
    plugin.kill().unwrap();
    plugin.wait().unwrap();
    let delegate = fs::read_to_string(&pid).unwrap();
    let delegate = PathBuf::from(format!("/proc/{}/stat", delegate.trim()));
    // Nobody may be there to wait for it: a zombie is as good as gone.
    wait_until(|| fs::read_to_string(&delegate).map_or(true, |stat| stat.contains(") Z ")));
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn file_with(text: &str) -> Stdio {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader.into()
}

fn wait_until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "it never came true"
        );
        thread::sleep(Duration::from_millis(5));
    }
}
