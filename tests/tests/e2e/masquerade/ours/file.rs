//! `ipMasqConfig`: the exceptions stand in a file of ip-masq-agent.

use std::{fs, os::unix::fs::symlink};

use harness::{Container, Host, Stub, World, conf, on_host};
use serde_json::{Value, json};

use super::{NODE, OUTSIDE, POD, also_outside, dual_stack, rules, seen, smallest};

const FILE: &str = "/run/ip-masq-agent";

/// As it stands in the agent's repository (agent-config/config), which is what it does
/// without a file, too.
const EXAMPLE: &str = "\
nonMasqueradeCIDRs:
  - 10.0.0.0/8
  - 172.16.0.0/12
  - 192.168.0.0/16
cidrLimit: 64
masqLinkLocal: false
masqLinkLocalIPv6: false
resyncInterval: 60s
";

/// The rules that follow from it for the smallest network.
const EXAMPLES_RULES: [&str; 2] = [
    "ip saddr { 10.64.1.0/24 } ip daddr != { 10.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/4 } fib daddr type != local masquerade fully-random",
    "ct state invalid ip saddr { 10.64.1.0/24 } ip daddr != { 10.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/4 } drop",
];

/// A file that the agent would not take either, and what is wrong with it.
const BROKEN: &str = "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 172.16.0.0/33\n";
const WHY: &str = "the \"ipMasqConfig\" /run/ip-masq-agent cannot be used: \
                   line 3: '172.16.0.0/33' is no address range like 10.0.0.0/8";

fn write(text: &str) {
    fs::write(FILE, text).expect("a file");
}

/// The smallest configuration, with the file.
fn filed() -> Value {
    smallest(&json!({ "ipMasqConfig": FILE }))
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn says_in_yaml_and_in_json_what_is_not_masqueraded() {
    let json = r#"
{
	"nonMasqueradeCIDRs": ["172.16.0.0/12", "10.0.0.0/8", "fc00::/7"],
	"masqLinkLocal": true,
	"resyncInterval": "5s"
}
"#;
    for (text, link_local) in [(EXAMPLE, POD), (json, NODE)] {
        on_host(|host| {
            let world = World::around(host);
            also_outside(&world, "172.16.5.5");
            also_outside(&world, "169.254.169.254");
            write(text);
            let (pod, _) = host.pod(&filed());
            for (netns, target, source) in [
                (&world.outside, "172.16.5.5:80", POD),
                (&world.lan, "10.250.0.10:80", POD),
                (&world.outside, OUTSIDE, NODE),
                (&world.outside, "169.254.169.254:80", link_local),
            ] {
                assert_eq!(seen(&pod, netns, target), source, "{text}: {target}");
            }
        });
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn has_our_key_for_exceptions_from_exceptions() {
    on_host(|host| {
        let world = World::around(host);
        write("masqueradeCIDRs: [10.250.0.0/16]");
        let (pod, _) = host.pod(&filed());
        assert_eq!(seen(&pod, &world.lan, "10.250.0.10:80"), NODE);
        assert_eq!(seen(&pod, &world.other_node, "10.64.2.7:80"), POD);
    });
}

/// The `ConfigMap` is optional, and so are its keys.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn has_the_agents_defaults_where_it_says_nothing() {
    for text in [
        None,
        Some(""),
        Some("# nothing yet\n"),
        Some("resyncInterval: 5m\n"),
    ] {
        on_host(|host| {
            if let Some(text) = text {
                write(text);
            }
            let (pod, result) = host.pod(&filed());
            assert_eq!(rules(), EXAMPLES_RULES, "{text:?}");
            host.check(&filed(), &pod, &result).done();
            let status = host.status(&filed());
            assert_eq!(status.stderr, "");
            status.done();
        });
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn has_our_default_for_ipv6_where_it_says_nothing_of_it() {
    on_host(|host| {
        write(EXAMPLE);
        let (_pod, _) = host.pod(&dual_stack(&json!({ "ipMasqConfig": FILE })));
        let ipv6 = "ip6 saddr { fd00:64:1::/64 } ip6 daddr != { fc00::/7, fe80::/10, ff00::/8 } fib daddr type != local masquerade fully-random";
        let rules = rules();
        assert!(rules.iter().any(|rule| rule == ipv6), "{rules:?}");
        assert_eq!(rules.len(), 4);
    });
}

/// By a rename of a link, as the kubelet brings a `ConfigMap` up to date.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn is_read_again_by_each_add_and_holds_for_older_pods_too() {
    on_host(|host| {
        let world = World::around(host);
        also_outside(&world, "172.16.5.5");
        fs::create_dir_all("/run/config").expect("a directory");
        let publish = |version: &str, text: &str| {
            let dir = format!("/run/config/..{version}");
            fs::create_dir(&dir).expect("a directory");
            fs::write(format!("{dir}/ip-masq-agent"), text).expect("a file");
            symlink(format!("..{version}"), "/run/config/..data_tmp").expect("a link");
            fs::rename("/run/config/..data_tmp", "/run/config/..data").expect("a rename");
        };
        symlink("..data/ip-masq-agent", "/run/config/ip-masq-agent").expect("a link");
        let conf = smallest(&json!({ "ipMasqConfig": "/run/config/ip-masq-agent" }));

        publish("1", "nonMasqueradeCIDRs: [10.0.0.0/8]");
        let (first, result) = host.pod(&conf);
        assert_eq!(seen(&first, &world.outside, "172.16.5.5:80"), NODE);

        publish("2", EXAMPLE);
        let refusal = host.check(&conf, &first, &result).refusal();
        assert!(refusal.msg.contains("172.16.0.0/12"), "{refusal:?}");
        let (second, _) = host.pod(&conf);
        assert_eq!(rules(), EXAMPLES_RULES);
        host.check(&conf, &first, &result).done();
        for (pod, source) in [(&first, POD), (&second, "10.64.1.3")] {
            assert_eq!(seen(pod, &world.outside, "172.16.5.5:81"), source);
            assert_eq!(seen(pod, &world.outside, OUTSIDE), NODE);
        }
    });
}

/// Pods that are there, with the rules of [`EXAMPLE`], and a file that is broken since.
fn broken_later(host: &Host, break_it: fn()) -> (Container, Value) {
    write(EXAMPLE);
    let pod = host.pod(&filed());
    break_it();
    pod
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn that_breaks_leaves_the_rules_as_they_are() {
    on_host(|host| {
        let world = World::around(host);
        also_outside(&world, "172.16.5.5");
        let (first, result) = broken_later(host, || write(BROKEN));
        let before = host.state().only(&["nft"]);

        let second = host.container();
        let answer = host.add(&filed(), &second);
        let note = format!("{WHY}: the masquerade rules of network cbr0 stay as they are");
        assert!(answer.stderr.contains(&note), "{answer:?}");
        answer.result();
        host.state().only(&["nft"]).assert_same(&before);
        assert_eq!(seen(&second, &world.outside, OUTSIDE), NODE);
        assert_eq!(seen(&second, &world.outside, "172.16.5.5:80"), "10.64.1.3");

        let difference = format!("the masquerade rules cannot be compared: {WHY}");
        host.check(&filed(), &first, &result)
            .refused(999, &difference);
        let status = host.status(&filed());
        assert!(status.stderr.contains(&note), "{status:?}");
        status.done();
        host.del(&filed(), &first).done();

        write("nonMasqueradeCIDRs: [10.0.0.0/8]");
        let (_third, _) = host.pod(&filed());
        assert_eq!(seen(&second, &world.outside, "172.16.5.5:81"), NODE);
    });
}

/// Also rules for IPv6 of any kind, which only the file asked for.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn that_breaks_leaves_rules_for_all_of_ipv6_as_they_are() {
    on_host(|host| {
        let ranges =
            json!([[{ "subnet": "fd00:64:1::/64" }], [{ "subnet": "2001:db8:64:1::/64" }]]);
        let ipam = json!({ "ipam": { "subnet": null, "ranges": ranges } });
        let conf = conf::with(&filed(), &ipam);
        write("masqueradeCIDRs: ['::/0']");
        let (_first, _) = host.pod(&conf);
        let before = host.state().only(&["nft"]);
        assert!(before.text().contains("2001:db8:64:1::/64"), "{before:?}");

        write(BROKEN);
        let second = host.container();
        host.add(&conf, &second).result();
        host.state().only(&["nft"]).assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn that_breaks_is_no_reason_for_gc_to_remove_rules() {
    on_host(|host| {
        let (pod, _) = broken_later(host, || write(BROKEN));
        let before = host.state();
        let with_pod = before.only(&["nft"]);
        let answer = host.gc(&filed(), &[&pod]);
        assert_eq!(answer.stderr, "", "rules are looked at when no pod is left");
        answer.done();
        host.state().assert_same(&before);
        let answer = host.gc(&filed(), &[]);
        assert!(answer.stderr.contains(WHY), "{answer:?}");
        answer.done();
        host.state().only(&["nft"]).assert_same(&with_pod);
        assert_eq!(host.state().only(&["lease"]).text(), "");
        // One that can be used again has the last word.
        write("nonMasqueradeCIDRs: [10.0.0.0/8]");
        host.gc(&filed(), &[]).done();
        assert_eq!(rules(), Vec::<String>::new());
    });
}

/// What is wrong with a file, and the words for it.
const FAULTS: [(fn(), &str); 7] = [
    (|| write(BROKEN), WHY),
    (|| write("nonMasqueradeCIDRs: ["), "line 1: "),
    (
        || write("nonMasqueradeCIDRs:\n  - 10.0.0.1/8\n"),
        "line 2: 10.0.0.1/8 has bits behind its prefix: write 10.0.0.0/8",
    ),
    (
        || write(&"#\n".repeat(600_000)),
        "the \"ipMasqConfig\" /run/ip-masq-agent has more than 1048576 bytes",
    ),
    (
        || fs::create_dir(FILE).expect("a directory"),
        "the \"ipMasqConfig\" /run/ip-masq-agent is no regular file",
    ),
    (
        || drop(harness::sh(&format!("mkfifo {FILE}"))),
        "the \"ipMasqConfig\" /run/ip-masq-agent is no regular file",
    ),
    (
        || symlink("ip-masq-agent", FILE).expect("a link"),
        "cannot read the \"ipMasqConfig\" /run/ip-masq-agent",
    ),
];

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn that_cannot_be_used_and_no_rules_fail_the_add_and_change_nothing() {
    for (break_it, words) in FAULTS {
        on_host(|host| {
            break_it();
            let pod = host.container();
            let (before, inside) = (host.state(), pod.state());
            host.add(&filed(), &pod).refused(7, words);
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
            host.status(&filed()).refused(50, words);
            host.del(&filed(), &pod).done();
            host.gc(&filed(), &[]).done();
            host.state().assert_same(&before);
        });
    }
}

/// The same with rules, but not for these pods: of another network, and of other addresses.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn that_cannot_be_used_and_rules_of_others_fail_the_add_and_change_nothing() {
    on_host(|host| {
        let (_pod, _) = broken_later(host, || write(BROKEN));
        for changes in [
            json!({ "name": "other", "bridge": "cbr9", "ipam": { "subnet": "10.64.9.0/24" } }),
            json!({ "bridge": "cbr9", "ipam": { "subnet": "10.64.9.0/24" } }),
        ] {
            let conf = conf::with(&filed(), &changes);
            let pod = host.container();
            let before = host.state();
            host.add(&conf, &pod).refused(7, WHY);
            host.state().assert_same(&before);
            host.status(&conf).refused(50, WHY);
        }
    });
}

/// Which pods these are, another IPAM says only when it has given an address: that goes back.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn that_cannot_be_used_gives_back_what_another_ipam_gave() {
    on_host(|host| {
        let stub = Stub::new("ok");
        let conf = conf::with(&filed(), &json!({ "ipam": { "type": "stub" } }));
        let add = |pod: &Container| stub.in_path_of(host.request_for("ADD", &conf, pod)).run();
        let status = || stub.in_path_of(host.request("STATUS", &conf)).run();
        write(BROKEN);
        let pod = host.container();
        let before = host.state();
        add(&pod).refused(7, WHY);
        assert_eq!(stub.calls(), ["ADD", "DEL"]);
        host.state().assert_same(&before);
        status().refused(50, WHY);

        write(EXAMPLE);
        add(&pod).result();
        write(BROKEN);
        let answer = status();
        assert!(answer.stderr.contains(WHY), "{answer:?}");
        answer.done();
        add(&host.container()).result();
    });
}

/// The file system says when a file was read.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn is_never_read_by_del() {
    on_host(|host| {
        harness::sh("mkdir /run/agent; mount -t tmpfs -o strictatime tmpfs /run/agent");
        fs::write("/run/agent/config", EXAMPLE).expect("a file");
        let conf = smallest(&json!({ "ipMasqConfig": "/run/agent/config" }));
        let accessed = || {
            let metadata = fs::metadata("/run/agent/config").expect("the file");
            metadata.accessed().expect("a time")
        };
        let written = accessed();
        let (pod, _) = host.pod(&conf);
        let read = accessed();
        assert!(read > written, "{read:?} {written:?}");
        host.del(&conf, &pod).done();
        host.del(&conf, &pod).done();
        assert_eq!(accessed(), read);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn and_exceptions_in_the_configuration_exclude_each_other() {
    on_host(|host| {
        write(EXAMPLE);
        let before = host.state();
        for (key, value) in [
            ("nonMasqueradeCIDRs", json!([])),
            ("masqueradeCIDRs", json!(["10.9.0.0/16"])),
            ("masqLinkLocal", json!(false)),
        ] {
            let conf = conf::with(&filed(), &json!({ key: value }));
            let words = format!("\"ipMasqConfig\" and \"{key}\" exclude each other");
            host.add(&conf, &host.container()).refused(7, &words);
            host.status(&conf).refused(7, &words);
        }
        let relative = smallest(&json!({ "ipMasqConfig": "run/ip-masq-agent" }));
        let words = "\"ipMasqConfig\" is \"run/ip-masq-agent\": expected the absolute path";
        host.add(&relative, &host.container()).refused(7, words);
        host.state().assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn has_unknown_keys_refused_where_the_configuration_is_strict() {
    on_host(|host| {
        write("nonMasqueradeCIDR: [172.16.0.0/12]\n");
        let strict = conf::with(&filed(), &json!({ "strict": true }));
        let words = "line 1: unknown key \"nonMasqueradeCIDR\"";
        host.add(&strict, &host.container()).refused(7, words);
        let (_pod, _) = host.pod(&filed());
        assert_eq!(rules(), EXAMPLES_RULES);
    });
}

/// The agent takes 64.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn may_have_ten_thousand_ranges() {
    on_host(|host| {
        let world = World::around(host);
        for address in ["198.51.100.1", "198.51.100.2"] {
            also_outside(&world, address);
        }
        // Every other address, so that no two ranges are one.
        let range = |n: u32| format!("  - {}/32\n", std::net::Ipv4Addr::from(0xC633_6400 + 2 * n));
        let list: String = (0..10_000).map(range).collect();
        write(&format!("nonMasqueradeCIDRs:\n{list}"));
        let (pod, _) = host.pod(&filed());
        for (target, source) in [("198.51.100.1:80", NODE), ("198.51.100.2:80", POD)] {
            assert_eq!(seen(&pod, &world.outside, target), source, "{target}");
        }
        let before = host.state().only(&["nft"]);
        let (_second, _) = host.pod(&filed());
        host.state().only(&["nft"]).assert_same(&before);
    });
}
