//! Environment, standard input and versions: what the specification says of every plugin,
//! asked of both executables.

use harness::{Answer, Request, conf, on_host};
use serde_json::{Value, json};

const PLUGINS: [&str; 2] = ["cni-bridge", "cni-ipam"];

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A call for a container that does not exist; with DEL it succeeds.
fn call(plugin: &str, command: &str) -> Request {
    Request::bare(plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/run/netns/nope")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", Request::search_path())
        .stdin(conf::mapped(&conf::ipv4()).to_string())
}

/// Asks both executables.
fn both(command: &str, change: impl Fn(Request) -> Request, check: impl Fn(Answer)) {
    for plugin in PLUGINS {
        check(change(call(plugin, command)).run());
    }
}

/// A configuration that has this member, written as JSON; empty: none.
fn with_version(version: &str) -> String {
    let mut conf = conf::mapped(&conf::ipv4());
    if let Some(members) = conf.as_object_mut() {
        members.remove("cniVersion");
    }
    let member = if version.is_empty() {
        String::new()
    } else {
        format!("\"cniVersion\":{version},")
    };
    conf.to_string().replacen('{', &format!("{{{member}"), 1)
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn missing_variables_are_reported_together() {
    on_host(|_| {
        for plugin in PLUGINS {
            let bare = Request::bare(plugin).env("CNI_COMMAND", "ADD");
            let stdin = r#"{"cniVersion":"1.1.0","name":"n"}"#;
            let refusal = bare.stdin(stdin).run().refusal();
            assert_eq!(refusal.code, 4, "{refusal:?}");
            let names = "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME";
            assert!(refusal.msg.contains(names), "{refusal:?}");
            assert!(
                refusal.msg.starts_with("required env variables ["),
                "{refusal:?}"
            );
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_empty_variable_is_a_missing_one() {
    on_host(|_| {
        for (variable, command) in [
            ("CNI_CONTAINERID", "ADD"),
            ("CNI_CONTAINERID", "DEL"),
            ("CNI_CONTAINERID", "CHECK"),
            ("CNI_IFNAME", "ADD"),
            ("CNI_IFNAME", "DEL"),
            ("CNI_NETNS", "ADD"),
            ("CNI_NETNS", "CHECK"),
        ] {
            both(
                command,
                |call| call.env(variable, ""),
                |answer| answer.refused(4, &format!("required env variables [{variable}] missing")),
            );
        }
        both("DEL", |call| call.env("CNI_NETNS", ""), Answer::done);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_invalid_variable_wins_over_a_missing_one() {
    on_host(|_| {
        both(
            "ADD",
            |call| call.env("CNI_CONTAINERID", "a/b").without("CNI_NETNS"),
            |answer| answer.refused(4, "invalid characters in containerID"),
        );
        both(
            "ADD",
            |call| call.without("CNI_CONTAINERID").env("CNI_IFNAME", "e/th"),
            |answer| answer.refused(4, "interface name contains / or : or whitespace characters"),
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn container_ids() {
    on_host(|_| {
        let long = "a".repeat(300);
        for id in ["a", "A.b-c_d", "0", &long] {
            both("DEL", |call| call.env("CNI_CONTAINERID", id), Answer::done);
        }
        for id in ["-a", "_a", ".a", "a b", "a\n", "a/b", "a:b", "ä"] {
            both(
                "DEL",
                |call| call.env("CNI_CONTAINERID", id),
                |answer| answer.refused(4, "invalid characters in containerID"),
            );
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn interface_names() {
    on_host(|_| {
        for name in ["e", "fifteen-bytes-x", "eth0.1", "\u{e4}"] {
            both("DEL", |call| call.env("CNI_IFNAME", name), Answer::done);
        }
        for (name, words) in [
            ("sixteen-bytes-xx", "interface name is too long"),
            (".", "interface name is . or .."),
            ("..", "interface name is . or .."),
            ("e/0", "interface name contains / or : or whitespace"),
            ("e:0", "interface name contains / or : or whitespace"),
            ("e 0", "interface name contains / or : or whitespace"),
            ("e\t0", "interface name contains / or : or whitespace"),
            ("e\u{a0}0", "interface name contains / or : or whitespace"),
            ("e\u{85}0", "interface name contains / or : or whitespace"),
        ] {
            let refused = |answer: Answer| answer.refused(4, words);
            both("DEL", |call| call.env("CNI_IFNAME", name), refused);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn verbs_that_do_not_exist() {
    on_host(|_| {
        for verb in ["add", "FOO", "ADD "] {
            let words = format!("unknown CNI_COMMAND: {verb}");
            both(verb, |call| call, |answer| answer.refused(4, &words));
        }
        // Known only after the configuration is read.
        both(
            "FOO",
            |call| call.stdin("{"),
            |answer| {
                assert_eq!(answer.refusal().code, 6);
            },
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn without_a_verb_a_plugin_says_what_it_is() {
    on_host(|_| {
        for plugin in PLUGINS {
            for request in [
                Request::bare(plugin),
                Request::bare(plugin).env("CNI_COMMAND", ""),
            ] {
                let answer = request.run();
                assert_eq!((answer.status, &answer.stdout), (0, &None), "{answer:?}");
                let lines: Vec<&str> = answer.stderr.lines().collect();
                assert_eq!(lines.len(), 2, "{lines:?}");
                assert!(lines[0].starts_with("CNI "), "{lines:?}");
                let versions = format!("CNI protocol versions supported: {}", VERSIONS.join(", "));
                assert_eq!(lines[1], versions);
            }
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn standard_input_that_is_no_configuration() {
    on_host(|_| {
        let junk = format!("{} trailing", with_version("\"1.1.0\""));
        for (stdin, code) in [
            ("", 6),
            ("[]", 6),
            ("\"text\"", 6),
            ("{", 6),
            (&junk, 6),
            ("null", 7),
            ("{}", 7),
            (r#"{"cniVersion":"1.1.0"}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":""}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":"-x"}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":"a/b"}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":"../../etc"}"#, 7),
        ] {
            for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
                both(
                    command,
                    |call| call.stdin(stdin),
                    |answer| {
                        let refusal = answer.refusal();
                        assert_eq!(refusal.code, code, "{command} {stdin}: {refusal:?}");
                    },
                );
            }
        }
        both(
            "DEL",
            |call| call.stdin("{}"),
            |answer| answer.refused(7, "missing network name"),
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn versions_that_are_not_supported() {
    on_host(|_| {
        for (command, version, code) in [
            ("ADD", "\"9.9.9\"", 1),
            ("ADD", "\"1.2.0\"", 1),
            ("ADD", "\"1.0\"", 1),
            ("ADD", "\"abc\"", 1),
            ("DEL", "\"9.9.9\"", 1),
            ("ADD", "1", 6),
            ("DEL", "1", 6),
            ("CHECK", "", 1),
            ("CHECK", "\"\"", 1),
            ("CHECK", "\"0.3.1\"", 1),
            ("CHECK", "\"abc\"", 6),
            ("CHECK", "\"9.9.9\"", 1),
            ("GC", "\"1.0.0\"", 1),
            ("GC", "\"abc\"", 6),
            ("STATUS", "\"1.0.0\"", 1),
            ("STATUS", "\"0.4.0\"", 1),
            ("STATUS", "\"9.9.9\"", 1),
        ] {
            both(
                command,
                |call| call.stdin(with_version(version)),
                |answer| {
                    let refusal = answer.refusal();
                    assert_eq!(refusal.code, code, "{command} {version}: {refusal:?}");
                },
            );
        }
        both(
            "ADD",
            |call| call.stdin(with_version("\"9.9.9\"")),
            |answer| {
                let refusal = answer.refusal();
                assert!(
                    refusal.msg.starts_with("incompatible CNI versions"),
                    "{refusal:?}"
                );
                let said = format!("{}; {}", refusal.msg, refusal.details);
                assert!(said.contains("config is \"9.9.9\""), "{refusal:?}");
                for version in VERSIONS {
                    assert!(said.contains(version), "{refusal:?}");
                }
            },
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn version_tells_what_is_supported() {
    on_host(|_| {
        for plugin in PLUGINS {
            let call = Request::bare(plugin).env("CNI_COMMAND", "VERSION");
            let with_dummies = call
                .clone()
                .env("CNI_NETNS", "dummy")
                .env("CNI_IFNAME", "dummy");
            let answers = [
                call.run_without_stdin(),
                call.run(),
                call.clone().stdin("garbage").run(),
                call.clone().stdin("{}").run(),
                with_dummies.stdin(r#"{"cniVersion":"1.1.0"}"#).run(),
            ];
            for answer in answers {
                let expected = json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS });
                harness::assert_json(&answer.result(), &expected);
            }
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn keys_are_read_as_go_reads_them() {
    on_host(|host| {
        // Without regard to case; null is absent; what nobody knows does not matter.
        let odd = json!({
            "CNIVERSION": "1.1.0",
            "Name": "cbr0",
            "TYPE": "cni-bridge",
            "type": "cni-bridge",
            "BRIDGE": "odd0",
            "ISGATEWAY": true,
            "mtu": null,
            "vlan": null,
            "prevResult": null,
            "addIf": "eth0",
            "capabilities": { "portMappings": true },
            "args": { "cni": { "labels": [{ "key": "a", "value": 1 }] }, "other": [] },
            "cni.dev/attachments": null,
            "IPAM": {
                "Type": "cni-ipam",
                "type": "cni-ipam",
                "RANGES": [[{ "SUBNET": "10.64.1.0/24", "RangeEnd": "", "Gateway": "" }]],
                "unknown": { "deep": [1, 2] },
            },
        });
        let (_pod, result) = host.pod(&odd);
        assert_eq!(result["interfaces"][0]["name"], "odd0");
        assert_eq!(result["ips"][0]["gateway"], "10.64.1.1");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn of_a_key_that_stands_there_twice_the_last_one_counts() {
    on_host(|host| {
        let text = conf::mapped(&conf::ipv4()).to_string();
        let twice = text.replacen(
            '{',
            r#"{"name":"first","bridge":"first0","Bridge":"second0","#,
            1,
        );
        let pod = host.container();
        let request = host.request_for("ADD", &conf::ipv4(), &pod);
        let result = request.stdin(twice).run().result();
        // "bridge" of the configuration itself comes later.
        assert_eq!(result["interfaces"][0]["name"], "cbr0");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn unknown_variables_and_bytes_are_no_matter() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    on_host(|_| {
        let odd = OsStr::from_bytes(b"\xff\xfe");
        both(
            "DEL",
            |call| call.env("SOMETHING", odd).env("CNI_OTHER", odd),
            Answer::done,
        );
    });
}

mod results {
    use super::*;

    /// What each version's result looks like for the same pod.
    fn expected(version: &str) -> Value {
        let ip = |address: &str, gateway: &str| {
            let ip_version = if address.contains(':') { "6" } else { "4" };
            let mut ip = json!({ "interface": 2, "address": address, "gateway": gateway });
            if version.starts_with("0.") {
                ip["version"] = ip_version.into();
            }
            ip
        };
        let mut result = json!({
            "cniVersion": version,
            "interfaces": [
                { "name": "cbr0" },
                { "name": "veth*" },
                { "name": "eth0", "sandbox": "<netns>" },
            ],
            "ips": [
                ip("10.64.1.2/24", "10.64.1.1"),
                ip("fd00:64:1::2/64", "fd00:64:1::1"),
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.64.1.1" },
                { "dst": "::/0", "gw": "fd00:64:1::1" },
            ],
        });
        if version.starts_with("0.") {
            result["dns"] = json!({});
        }
        result
    }

    /// 0.1.0 and 0.2.0: one address of each family.
    fn expected_of_old(version: &str) -> Value {
        let family = |address: &str, gateway: &str, dst: &str| {
            let routes = [json!({ "dst": dst, "gw": gateway })];
            json!({ "ip": address, "gateway": gateway, "routes": routes })
        };
        json!({
            "cniVersion": version,
            "ip4": family("10.64.1.2/24", "10.64.1.1", "0.0.0.0/0"),
            "ip6": family("fd00:64:1::2/64", "fd00:64:1::1", "::/0"),
            "dns": {},
        })
    }

    fn of_version(version: &str, expected: &Value) {
        on_host(|host| {
            let conf = conf::with(&conf::dual_stack(), &json!({ "cniVersion": version }));
            let (_pod, result) = host.pod(&conf);
            harness::assert_json(&harness::shape(&result), expected);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_every_version_have_its_shape() {
        for (version, said) in [("", "0.1.0"), ("0.1.0", "0.1.0"), ("0.2.0", "0.2.0")] {
            of_version(version, &expected_of_old(said));
        }
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            of_version(version, &expected(version));
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_ipam_have_no_interfaces() {
        on_host(|host| {
            for version in ["0.3.1", "1.0.0", "1.1.0"] {
                let routes = json!({ "cniVersion": version, "ipam": { "routes": [{ "dst": "10.1.0.0/16" }] } });
                let conf = conf::with(&conf::ipv4(), &routes);
                let pod = host.container();
                let request = |command| host.request_for(command, &conf, &pod).plugin("cni-ipam");
                let result = request("ADD").run().result();
                request("DEL").run().done();
                assert_eq!(result["cniVersion"], version);
                assert_eq!(result.get("interfaces"), None, "{result:#}");
                let ip = &result["ips"][0];
                assert_eq!(ip["gateway"], "10.64.1.1");
                assert_eq!(ip.get("interface"), None, "{result:#}");
                assert_eq!(
                    ip.get("version").is_some(),
                    version == "0.3.1",
                    "{result:#}"
                );
                assert_eq!(result["routes"][0]["dst"], "10.1.0.0/16");
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_old_versions_cannot_hold_two_addresses_of_a_family() {
        on_host(|host| {
            let two = conf::ipam(&["10.64.1.0/24", "10.65.1.0/24"]);
            let two = json!({ "cniVersion": "0.2.0", "ipam": two });
            let conf = conf::with(&conf::ipv4(), &two);
            let pod = host.container();
            let before = host.state();
            let request = host.request_for("ADD", &conf, &pod).plugin("cni-ipam");
            let refusal = request.run().refusal();
            let words = "CNI version 0.2.0 does not support more than 1 address per family";
            assert!(format!("{refusal:?}").contains(words), "{refusal:?}");
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_a_network_without_addresses() {
        on_host(|host| {
            let layer_2 = json!({ "isGateway": null, "isDefaultGateway": null, "ipam": null });
            let conf = conf::with(&conf::ipv4(), &layer_2);
            let (pod, result) = host.pod(&conf);
            let expected = json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    { "name": "cbr0" },
                    { "name": "veth*" },
                    { "name": "eth0", "sandbox": "<netns>" },
                ],
            });
            harness::assert_json(&harness::shape(&result), &expected);
            assert!(pod.sh("ip -o link show eth0").contains(",UP"));
        });
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_message_names_the_variable() {
    on_host(|_| {
        for (variable, value) in [("CNI_CONTAINERID", "a b"), ("CNI_IFNAME", "a b")] {
            both(
                "DEL",
                |call| call.env(variable, value),
                |answer| {
                    let refusal = answer.refusal();
                    assert!(refusal.msg.contains(variable), "{refusal:?}");
                },
            );
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn version_echoes_what_it_was_asked() {
    on_host(|_| {
        for plugin in PLUGINS {
            let call = Request::bare(plugin).env("CNI_COMMAND", "VERSION");
            for (asked, said) in [("0.3.1", "0.3.1"), ("1.0.0", "1.0.0"), ("9.9.9", "1.1.0")] {
                let stdin = json!({ "cniVersion": asked }).to_string();
                let result = call.clone().stdin(stdin).run().result();
                assert_eq!(result["cniVersion"], said);
            }
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn every_error_has_a_version() {
    on_host(|_| {
        for (stdin, said) in [("{", "1.1.0"), (&*with_version("\"0.3.1\""), "0.3.1")] {
            both(
                "FOO",
                |call| call.stdin(stdin),
                |answer| {
                    let document = answer.stdout.clone().expect("an error");
                    assert_eq!(document["cniVersion"], said, "{document}");
                    assert_ne!(answer.status, 0);
                },
            );
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_previous_result_of_an_add_is_kept_and_extended() {
    on_host(|host| {
        let previous = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "first0", "mac": "02:00:00:00:00:01" }],
            "ips": [{ "interface": 0, "address": "192.0.2.5/32" }],
        });
        let conf = conf::with(&conf::ipv4(), &json!({ "prevResult": previous }));
        let (_pod, result) = host.pod(&conf);
        assert_eq!(
            result["interfaces"][0], previous["interfaces"][0],
            "{result:#}"
        );
        assert_eq!(result["interfaces"][3]["name"], "eth0", "{result:#}");
        assert_eq!(result["ips"][0], previous["ips"][0], "{result:#}");
        assert_eq!(result["ips"][1]["interface"], 3, "{result:#}");
    });
}

mod ours {
    use super::*;

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_interface_name_with_a_pattern_is_refused() {
        on_host(|_| {
            for name in ["eth%d", "%s", "100%"] {
                for command in ["ADD", "DEL"] {
                    both(
                        command,
                        |call| call.env("CNI_IFNAME", name),
                        |answer| answer.refused(4, "CNI_IFNAME"),
                    );
                }
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn names_that_are_no_text_are_refused_without_a_crash() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        on_host(|_| {
            let odd = OsStr::from_bytes(b"\xff");
            for variable in ["CNI_CONTAINERID", "CNI_IFNAME"] {
                both(
                    "DEL",
                    |call| call.env(variable, odd),
                    |answer| answer.refused(4, variable),
                );
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn cni_path_is_not_needed_for_our_own_ipam() {
        on_host(|host| {
            let pod = host.container();
            let request = |verb| {
                host.request_for(verb, &conf::smallest(), &pod)
                    .without("CNI_PATH")
            };
            request("ADD").run().result();
            request("DEL").run().done();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn only_results_of_1_0_and_newer_tell_the_mtu() {
        on_host(|host| {
            for version in ["0.3.1", "0.4.0"] {
                let conf = conf::with(&conf::smallest(), &json!({ "cniVersion": version }));
                let (_pod, result) = host.pod(&conf);
                assert!(!result.to_string().contains("mtu"), "{result:#}");
            }
        });
    }

    /// What 0.2.0 cannot say must not be half done.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_network_without_addresses_fails_cleanly_in_old_versions() {
        on_host(|host| {
            let layer_2 = json!({ "cniVersion": "0.2.0", "ipam": null });
            let conf = conf::with(&conf::smallest(), &layer_2);
            let pod = host.container();
            let (before, inside) = (host.state(), pod.state());
            let refusal = host.add(&conf, &pod).refusal();
            assert!(refusal.msg.contains("0.2.0"), "{refusal:?}");
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn strict_refuses_what_nobody_knows() {
        on_host(|host| {
            let changes = json!({ "strict": true, "mtuu": 1400 });
            let conf = conf::with(&conf::smallest(), &changes);
            let refusal = host.add(&conf, &host.container()).refusal();
            assert_eq!(refusal.code, 2, "{refusal:?}");
            assert!(
                refusal.msg.contains("mtuu") && refusal.msg.contains("1400"),
                "{refusal:?}"
            );
            let strict = conf::with(&conf::smallest(), &json!({ "strict": true }));
            let (_pod, _) = host.pod(&strict);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn called_as_loopback_it_is_the_loopback_plugin() {
        on_host(|host| {
            let pod = host.container();
            pod.sh("ip link set lo down");
            let conf =
                json!({ "cniVersion": "0.3.1", "name": "cni-loopback", "type": "cni-bridge" });
            let request = |command: &str| {
                let request = host
                    .request_for(command, &conf, &pod)
                    .env("CNI_IFNAME", "lo");
                let link = std::path::Path::new("/run/loopback");
                std::os::unix::fs::symlink(request.path(), link).ok();
                request.executable(link)
            };
            let result = request("ADD").run().result();
            let expected = json!({
                "cniVersion": "0.3.1",
                "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "<netns>" }],
                "ips": [
                    { "version": "4", "interface": 0, "address": "127.0.0.1/8" },
                    { "version": "6", "interface": 0, "address": "::1/128" },
                ],
                "dns": {},
            });
            harness::assert_json(&harness::masked(&result), &expected);
            assert!(pod.sh("ip -o link show lo").contains(",UP"));
            request("DEL").run().done();
        });
    }
}
