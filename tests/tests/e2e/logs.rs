//! The log of calls: what stands in it, and that no call depends on it.

mod ours {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread};

    use harness::{conf, on_host};
    use serde_json::{Value, json};

    const LOG: &str = "/run/cni.log";

    fn network() -> Value {
        conf::with(&conf::smallest(), &json!({ "logFile": LOG }))
    }

    fn lines() -> Vec<Value> {
        let text = fs::read_to_string(LOG).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line}")))
            .collect()
    }

    /// The steps that a line has, in the order of the alphabet; they make up the whole call.
    fn steps(line: &Value) -> String {
        let steps = line["steps_us"].as_object().expect("steps");
        let sum: u64 = steps.values().filter_map(Value::as_u64).sum();
        let all = line["duration_us"].as_u64().expect("a number");
        // Each step is rounded down to a microsecond.
        assert!((sum..=sum + 20).contains(&all), "{sum} of {all}");
        let mut names: Vec<_> = steps.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(" ")
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn every_call_is_a_line_with_what_it_did_and_how_long_each_step_took() {
        on_host(|host| {
            let conf = network();
            let pod = host.container();
            let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
            let add = host.request_for("ADD", &conf, &pod).env("CNI_ARGS", args);
            let result = add.run().result();
            host.check(&conf, &pod, &result).done();
            host.status(&conf).done();
            host.del(&conf, &pod).done();
            host.pod(&conf);
            host.gc(&conf, &[]).done();

            let lines = lines();
            let verbs: Vec<_> = lines.iter().map(|line| line["verb"].clone()).collect();
            assert_eq!(verbs, ["ADD", "CHECK", "DEL", "ADD", "GC"]);
            let add = &lines[0];
            let facts = json!({
                "level": "info", "plugin": "cni-bridge", "verb": "ADD", "network": "cbr0",
                "pod": "default/web-0", "container": "pod1", "interface": "eth0",
                "netns": pod.path.display().to_string(), "addresses": ["10.64.1.2/24"],
            });
            for (key, value) in facts.as_object().expect("an object") {
                assert_eq!(&add[key], value, "{key}");
            }
            assert_eq!(
                steps(add),
                "answer bridge carrier firewall lease masquerade open pod read veth"
            );
            assert_eq!(
                steps(&lines[1]),
                "bridge firewall lease masquerade open pod read veth"
            );
            assert_eq!(steps(&lines[2]), "conntrack lease open read spoof veth");
            assert_eq!(
                steps(&lines[4]),
                "conntrack firewall lease masquerade open read spoof veth"
            );
            assert!(add["time"].as_str().expect("a time").ends_with('Z'));
            assert_eq!(lines[2].get("addresses"), None);
            let mode = fs::metadata(LOG).expect(LOG).permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_failure_is_written_with_code_and_words_also_when_only_errors_are_wanted() {
        on_host(|host| {
            let conf = conf::with(
                &network(),
                &json!({ "logLevel": "error", "ipam": { "subnet": "10.64.1.0/30" } }),
            );
            let (_pod, _) = host.pod(&conf);
            assert_eq!(lines(), Vec::<Value>::new());
            let second = host.container();
            let refusal = host.add(&conf, &second).refusal();
            let lines = lines();
            assert_eq!(lines.len(), 1);
            assert_eq!(lines[0]["code"], refusal.code);
            assert_eq!(lines[0]["level"], "error");
            let error = lines[0]["error"].as_str().expect("words");
            assert!(error.contains("no IP addresses available"), "{error}");
            assert!(lines[0]["steps_us"].get("undo").is_some(), "{}", lines[0]);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_environment_names_a_file_where_the_configuration_does_not() {
        on_host(|host| {
            let pod = host.container();
            let add = |conf: &Value| {
                host.request_for("ADD", conf, &pod)
                    .env("CNI_LOG_FILE", LOG)
                    .env("CNI_LOG_LEVEL", "debug")
            };
            add(&conf::smallest()).run().result();
            host.request("STATUS", &conf::smallest())
                .env("CNI_LOG_FILE", LOG)
                .env("CNI_LOG_LEVEL", "debug")
                .run()
                .done();
            assert_eq!(lines().len(), 2);
            assert_eq!(lines()[1]["verb"], "STATUS");
            assert_eq!(
                steps(&lines()[1]),
                "bridge firewall lease masquerade open read"
            );
            // Before there is a configuration, only the environment can say where.
            host.request("DEL", &conf::smallest())
                .env("CNI_LOG_FILE", LOG)
                .run()
                .refusal();
            let lines = lines();
            assert_eq!(lines.len(), 3);
            assert_eq!(lines[2]["code"], 4);
            // The configuration's own wins, and `off` is off.
            let quiet = conf::with(&conf::smallest(), &json!({ "logLevel": "off" }));
            host.request_for("DEL", &quiet, &pod)
                .env("CNI_LOG_FILE", LOG)
                .run()
                .done();
            assert_eq!(self::lines().len(), 3);
        });
    }

    /// What is wrong with the log is said on standard error, and nowhere else.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_log_that_cannot_be_written_fails_no_call() {
        on_host(|host| {
            harness::sh(
                "mkdir -p /run/d /run/small; mkfifo /run/fifo; ln -s /run/target /run/link
                 mount -t tmpfs -o size=4k none /run/small
                 head -c 4096 /dev/zero >/run/small/full || true
                 mkdir /run/ro; mount -t tmpfs -o ro none /run/ro",
            );
            for file in [
                "/run/none/log",
                "/run/d",
                "/run/fifo",
                "/run/link",
                "/dev/full",
                "/dev/null",
                "/run/small/full",
                "/run/ro/log",
                "relative/log",
                "/run/\u{0}nul",
            ] {
                let conf = conf::with(&conf::smallest(), &json!({ "logFile": file }));
                let pod = host.container();
                let answer = host.add(&conf, &pod);
                assert!(
                    answer.stderr.contains("cannot write the log"),
                    "{file}: {}",
                    answer.stderr
                );
                answer.result();
                host.del(&conf, &pod).done();
            }
            assert!(!Path::new("/run/target").exists());
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn lines_of_calls_at_once_stay_whole_and_a_rotated_file_is_made_anew() {
        on_host(|host| {
            let conf = network();
            let pods: Vec<_> = (0..16).map(|_| host.container()).collect();
            let requests: Vec<_> = pods
                .iter()
                .map(|pod| {
                    (
                        host.request_for("ADD", &conf, pod),
                        host.request_for("DEL", &conf, pod),
                    )
                })
                .collect();
            thread::scope(|scope| {
                for (add, del) in &requests {
                    scope.spawn(move || {
                        for _ in 0..3 {
                            add.run().result();
                            del.run().done();
                        }
                    });
                }
            });
            assert_eq!(lines().len(), 16 * 3 * 2);
            fs::rename(LOG, "/run/cni.log.1").expect("a rename");
            host.pod(&conf);
            assert_eq!(lines().len(), 1);
        });
    }

    /// What another plugin that runs on our behalf says is in the notes.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn notes_for_standard_error_stand_in_the_log() {
        on_host(|host| {
            let conf = conf::with(&network(), &json!({ "ipMasqBackend": "iptables" }));
            let answer = host.add(&conf, &host.container());
            let said = answer.stderr.clone();
            answer.result();
            let notes = lines()[0]["notes"].clone();
            let note = notes[0].as_str().expect("a note");
            assert!(
                note.contains("ipMasqBackend") && said.contains(note),
                "{notes}"
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn cni_ipam_under_another_main_plugin_writes_its_own_lines() {
        on_host(|host| {
            let conf = network();
            let pod = host.container();
            host.request_for("ADD", &conf, &pod)
                .plugin("cni-ipam")
                .run()
                .result();
            let line = &lines()[0];
            assert_eq!(line["plugin"], "cni-ipam");
            assert_eq!(line["addresses"], json!(["10.64.1.2/24"]));
            assert_eq!(steps(line), "answer lease read");
        });
    }
}
