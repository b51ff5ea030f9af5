//! cni-bridge as the caller of another IPAM plugin.

use std::{
    fs,
    time::{Duration, Instant},
};

use harness::{Host, Refusal, Stub, conf, on_host};
use serde_json::{Value, json};

fn network() -> Value {
    let ipam = json!({ "type": "stub", "something": ["of", "its", "own"] });
    conf::with(
        &conf::network(&ipam),
        &json!({ "unknown": { "to": "the bridge" } }),
    )
}

/// An ADD with the stub that fails: the IPAM plugin is told to release, and nothing is
/// left.
fn fails(host: &Host, behaviour: &str, conf: &Value) -> Refusal {
    let stub = Stub::new(behaviour);
    let pod = host.container();
    let (before, inside) = (host.state(), pod.state());
    let request = stub.in_path_of(host.request_for("ADD", conf, &pod));
    let answer = request.run();
    let log = answer.stderr.clone();
    let refusal = answer.refusal();
    assert_eq!(stub.calls(), ["ADD", "DEL"], "{behaviour}: {refusal:?}");
    assert!(
        log.contains("stub: ADD"),
        "{behaviour}: the log is lost: {log}"
    );
    host.state().assert_same(&before);
    pod.state().assert_same(&inside);
    refusal
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_answer_of_the_ipam_becomes_part_of_the_result() {
    on_host(|host| {
        for behaviour in ["ok", "no-version", "old", "interfaces"] {
            let stub = Stub::new(behaviour);
            let pod = host.container();
            let request = stub.in_path_of(host.request_for("ADD", &network(), &pod));
            let result = request.run().result();
            let expected =
                json!([{ "interface": 2, "address": "10.64.1.80/24", "gateway": "10.64.1.1" }]);
            assert_eq!(result["ips"], expected, "{behaviour}: {result:#}");
            assert_eq!(
                result["interfaces"].as_array().map(Vec::len),
                Some(3),
                "{result:#}"
            );
            if behaviour == "ok" {
                assert_eq!(result["dns"], json!({ "nameservers": ["10.0.0.10"] }));
                assert_eq!(result["routes"][0]["dst"], "10.1.0.0/16");
            }
            let del = stub.in_path_of(host.request_for("DEL", &network(), &pod));
            del.run().done();
            assert_eq!(stub.calls(), ["ADD", "DEL"]);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_ipam_gets_the_same_environment_and_the_same_bytes() {
    on_host(|host| {
        let stub = Stub::new("ok");
        let pod = host.container();
        let stdin = format!(
            "  {}\n",
            serde_json::to_string_pretty(&conf::mapped(&network())).expect("JSON")
        );
        for verb in ["ADD", "DEL"] {
            let request = host
                .request_for(verb, &network(), &pod)
                .stdin(stdin.clone());
            let request = request
                .env("TRACEPARENT", "00-1-2-3")
                .env("CNI_ARGS", "IgnoreUnknown=1;A=b");
            let answer = stub.in_path_of(request).run();
            assert_eq!(answer.status, 0, "{answer:?}");
            assert!(
                answer.stderr.contains(&format!("stub: {verb}")),
                "{answer:?}"
            );
            assert_eq!(String::from_utf8_lossy(&stub.stdin_of(verb)), stdin);
            let env = stub.env_of(verb);
            for line in [
                format!("CNI_COMMAND={verb}"),
                "CNI_CONTAINERID=pod1".to_owned(),
                format!("CNI_NETNS={}", pod.path.display()),
                "CNI_IFNAME=eth0".to_owned(),
                "CNI_ARGS=IgnoreUnknown=1;A=b".to_owned(),
                "TRACEPARENT=00-1-2-3".to_owned(),
            ] {
                assert!(env.lines().any(|it| it == line), "{line} is not in\n{env}");
            }
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn del_reaches_the_ipam_whatever_is_left_of_the_container() {
    on_host(|host| {
        for path in ["", "/run/netns/gone"] {
            let stub = Stub::new("ok");
            let mut pod = host.container();
            pod.path = path.into();
            stub.in_path_of(host.request_for("DEL", &network(), &pod))
                .run()
                .done();
            assert_eq!(stub.calls(), ["DEL"]);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_error_of_the_ipam_keeps_its_code_and_words() {
    on_host(|host| {
        let expected = Refusal {
            code: 11,
            msg: "stub is busy".to_owned(),
            details: "with other things".to_owned(),
        };
        let (_neighbour, _) = host.pod(&conf::ipv4());
        for verb in ["ADD", "DEL", "CHECK", "STATUS"] {
            let stub = Stub::new(&format!("{verb}-fails"));
            let pod = host.container();
            let mut conf = network();
            if verb == "CHECK" {
                let add = stub.in_path_of(host.request_for("ADD", &conf, &pod));
                conf["prevResult"] = add.run().result();
            }
            let request = stub.in_path_of(host.request_for(verb, &conf, &pod));
            assert_eq!(request.run().refusal(), expected, "{verb}");
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn status_asks_the_ipam() {
    on_host(|host| {
        let stub = Stub::new("ok");
        stub.in_path_of(host.request("STATUS", &network()))
            .run()
            .done();
        assert_eq!(stub.calls(), ["STATUS"]);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_ipam_that_cannot_be_found_is_an_error() {
    on_host(|host| {
        let conf = conf::network(&json!({ "type": "nowhere" }));
        for verb in ["ADD", "DEL", "STATUS"] {
            let pod = host.container();
            let refusal = host.request_for(verb, &conf, &pod).run().refusal();
            assert!(
                refusal
                    .msg
                    .contains("failed to find plugin \"nowhere\" in path ["),
                "{refusal:?}"
            );
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn gc_reaches_the_ipam() {
    on_host(|host| {
        let stub = Stub::new("ok");
        let gc = json!({ "cni.dev/valid-attachments": [] });
        let conf = conf::with(&network(), &gc);
        stub.in_path_of(host.request("GC", &conf)).run().done();
        assert_eq!(stub.calls(), ["GC"]);
        let stdin: Value = serde_json::from_slice(&stub.stdin_of("GC")).expect("JSON");
        assert_eq!(stdin["cni.dev/valid-attachments"], json!([]));
    });
}

/// "If the IPAM plugin fails, the main plugin must call it with DEL."
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_ipam_that_failed_is_told_to_release() {
    on_host(|host| {
        let (_neighbour, _) = host.pod(&conf::ipv4());
        for behaviour in ["error", "stderr-error", "junk", "no-ips"] {
            let refusal = fails(host, behaviour, &network());
            assert_ne!(refusal.code, 0, "{behaviour}: {refusal:?}");
        }
    });
}

mod ours {
    use super::*;

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn after_an_ipam_that_failed_nothing_is_left() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::ipv4());
            for (behaviour, code, words) in [
                ("error", 11, "stub is busy; with other things"),
                ("silent-error", 999, "stub"),
                ("stderr-error", 999, "my disk is gone"),
                ("junk-error", 999, "my disk is gone"),
                ("junk", 6, "stub"),
                ("empty", 6, "stub"),
                ("bad-version", 6, "9.9.9"),
                ("null", 999, "missing IP config"),
                ("no-ips", 999, "missing IP config"),
                ("slash32", 7, "10.64.1.80/32"),
            ] {
                let refusal = fails(host, behaviour, &network());
                let said = format!("{}; {}", refusal.msg, refusal.details);
                assert!(
                    said.contains(words) && refusal.code == code,
                    "{behaviour} should be {code} with {words:?}: {refusal:?}"
                );
            }
        });
    }

    /// What comes after the IPAM fails: it is told to release just the same.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn after_any_later_failure_the_ipam_is_told_too() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::ipv4());
            let refusal = fails(host, "taken", &network());
            assert!(refusal.msg.contains("10.99.0.1"), "{refusal:?}");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_type_with_a_slash_is_not_a_path() {
        on_host(|host| {
            let conf = conf::network(&json!({ "type": "../../bin/sh" }));
            let pod = host.container();
            host.add(&conf, &pod)
                .refused(7, "invalid plugin name: ../../bin/sh");
        });
    }

    /// A plugin that is killed takes its child with it: an orphan would go on to allocate
    /// after the runtime's DEL.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_ipam_that_hangs_dies_with_its_caller() {
        on_host(|host| {
            let stub = Stub::new("hangs");
            let pod = host.container();
            let before = host.state();
            let running = stub
                .in_path_of(host.request_for("ADD", &network(), &pod))
                .start();
            let child = wait_for("the child's pid", || {
                stub.calls().first().map(|_| stub.pid_of("ADD"))
            });
            running.kill();
            assert_eq!(running.wait().status, -9);
            wait_for("the child's death", || (!is_alive(child)).then_some(()));
            host.del(
                &conf::with(&network(), &json!({ "ipam": { "type": "cni-ipam" } })),
                &pod,
            )
            .done();
            host.state()
                .only(&["link veth", "lease"])
                .assert_same(&before.only(&["link veth", "lease"]));
        });
    }

    fn is_alive(pid: u32) -> bool {
        // A zombie that nobody has collected has no command line.
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
    }

    fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "waited too long for {what}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The executable of the IPAM is being replaced: for a moment it cannot be run.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_ipam_whose_executable_is_being_written_is_tried_again() {
        on_host(|host| {
            let dir = tempfile::tempdir().expect("a directory");
            let busy = dir.path().join("busy");
            fs::copy(harness::Request::bare("cni-ipam").path(), &busy).expect("a copy");
            let ipam = conf::with(&conf::ipam(&["10.64.1.0/24"]), &json!({ "type": "busy" }));
            let conf = conf::network(&ipam);
            let pod = host.container();
            let writer = fs::OpenOptions::new()
                .write(true)
                .open(&busy)
                .expect("the copy");
            let request = host
                .request_for("ADD", &conf, &pod)
                .env("CNI_PATH", dir.path());
            let running = request.start();
            std::thread::sleep(Duration::from_millis(50));
            drop(writer);
            let result = running.wait().result();
            assert_eq!(result["ips"][0]["address"], "10.64.1.2/24");
        });
    }
}
