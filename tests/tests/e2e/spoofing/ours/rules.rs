//! The check's rules and elements: what they look like, and that they come and go as they
//! should.

use harness::{Answer, Container, Host, Running, conf, on_host};
use serde_json::{Value, json};

use super::super::of_interface;

fn checked() -> Value {
    conf::with(&conf::dual_stack(), &json!({ "ipspoofchk": true }))
}

fn mac_only() -> Value {
    conf::with(&conf::dual_stack(), &json!({ "macspoofchk": true }))
}

/// The table of the check, as nft(8) prints it.
fn table() -> String {
    harness::sh("nft --stateless list table bridge cni-bridge")
}

/// The rules, each behind its chain's name. Newer versions of nft(8) have words for more.
fn rules() -> Vec<String> {
    let mut chain = String::new();
    let mut rules = Vec::new();
    for line in table().lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            name.trim_end_matches(" {").clone_into(&mut chain);
        } else if line.contains(" comment \"") || line.starts_with("drop") {
            let rule = line.replace("icmpv6 taddr", "@th,64,128");
            rules.push(format!("{chain}: {rule}"));
        }
    }
    rules
}

/// The elements, each behind its set's name.
fn elements() -> Vec<String> {
    let mut set = String::new();
    let mut elements = Vec::new();
    for line in table().lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("set ") {
            name.trim_end_matches(" {").clone_into(&mut set);
        } else if line.contains('"') && !line.contains(" comment ") {
            let list = line
                .trim_start_matches("elements = {")
                .trim_end_matches('}');
            let list = list
                .split(',')
                .map(|element| element.trim().replace('"', ""));
            let list = list.filter(|element| !element.is_empty());
            elements.extend(list.map(|element| format!("{set}: {element}")));
        }
    }
    elements.sort();
    elements
}

fn port(result: &Value) -> &str {
    of_interface(result, 1, "name")
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn rules_that_a_person_can_read() {
    on_host(|host| {
        let (_pod, result) = host.pod(&checked());
        let shown = rules().join("\n");
        let shown = shown
            .lines()
            .map(|line| line.split(" comment ").next().unwrap_or(line));
        let shown: Vec<&str> = shown.collect();
        assert_eq!(
            shown,
            [
                "prerouting: iifname @ports jump checked",
                "checked: ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop",
                "checked: iifname . ether saddr != @senders drop",
                "checked: iifname @addressed goto addresses",
                "addresses: iifname . ip saddr @addresses4 accept",
                "addresses: ether type ip6 goto ipv6_sources",
                "addresses: arp htype 1 arp ptype ip arp hlen 6 arp plen 4 goto arp_claims",
                "addresses: drop",
                "arp_claims: iifname . arp saddr ether != @senders drop",
                "arp_claims: iifname . arp saddr ip @addresses4 accept",
                "arp_claims: arp operation request arp saddr ip 0.0.0.0 iifname . arp daddr ip @addresses4 accept",
                "arp_claims: drop",
                "ipv6_sources: iifname . ip6 saddr @addresses6 goto ipv6_claims",
                "ipv6_sources: ip6 saddr :: goto ipv6_unspecified",
                "ipv6_sources: drop",
                "ipv6_claims: meta l4proto != ipv6-icmp accept",
                "ipv6_claims: frag frag-off != 0 accept",
                "ipv6_claims: icmpv6 type < nd-router-advert accept",
                "ipv6_claims: icmpv6 type > nd-redirect accept",
                "ipv6_claims: icmpv6 type nd-neighbor-solicit accept",
                "ipv6_claims: icmpv6 type nd-neighbor-advert iifname . @th,64,128 @addresses6 accept",
                "ipv6_claims: drop",
                "ipv6_unspecified: icmpv6 type mld-listener-report accept",
                "ipv6_unspecified: icmpv6 type mld-listener-done accept",
                "ipv6_unspecified: icmpv6 type mld2-listener-report accept",
                "ipv6_unspecified: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @addresses6 accept",
                "ipv6_unspecified: drop",
            ]
        );
        let port = port(&result);
        assert_eq!(
            elements(),
            [
                format!("addressed: {port}"),
                format!("addresses4: {port} . 10.64.1.2"),
                format!("addresses6: {port} . fd00:64:1::2"),
                format!("addresses6: {port} . fe80::858:aff:fe40:102"),
                format!("ports: {port}"),
                format!("senders: {port} . 0a:58:0a:40:01:02"),
            ]
        );
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn elements_go_with_their_pod_however_it_goes() {
    let with_netns = |host: &Host, pod: Container| host.del(&checked(), &pod).done();
    let dead_and_edited = |host: &Host, mut pod: Container| {
        pod.die();
        pod.path = "".into();
        let edited = conf::with(&conf::smallest(), &json!({}));
        host.del(&edited, &pod).done();
    };
    let by_gc = |host: &Host, mut pod: Container| {
        pod.die();
        host.gc(&checked(), &[]).done();
    };
    let link_gone_before = |host: &Host, pod: Container| {
        pod.sh("ip link delete eth0");
        host.del(&conf::smallest(), &pod).done();
    };
    let link_gone_before_gc = |host: &Host, pod: Container| {
        pod.sh("ip link delete eth0");
        host.gc(&checked(), &[]).done();
    };
    let ways: [fn(&Host, Container); 5] = [
        with_netns,
        dead_and_edited,
        by_gc,
        link_gone_before,
        link_gone_before_gc,
    ];
    for (number, go) in ways.into_iter().enumerate() {
        on_host(|host| {
            // GC without valid attachments takes all of the network: the neighbour is of
            // another one.
            let other = json!({ "name": "other", "bridge": "other0",
                "ipam": { "ranges": [[{ "subnet": "10.65.1.0/24" }]] } });
            let (_neighbour, _) = host.pod(&conf::with(&checked(), &other));
            let before = (table(), elements());
            let (pod, result) = host.pod(&checked());
            assert_eq!(elements().len(), before.1.len() + 6);
            go(host, pod);
            assert_eq!(elements(), before.1, "way {number} of {}", port(&result));
            assert_eq!(table(), before.0);
        });
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_add_that_fails_leaves_no_elements() {
    on_host(|host| {
        let (_neighbour, _) = host.pod(&checked());
        let before = host.state();
        // It cannot be reached, which the kernel says after the check has begun.
        let routes = json!([{ "dst": "10.9.0.0/16", "gw": "192.0.2.1" }]);
        let conf = conf::with(&checked(), &json!({ "ipam": { "routes": routes } }));
        host.add(&conf, &host.container()).refused(5, "10.9.0.0/16");
        host.state().assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn what_an_earlier_pod_left_under_the_name_goes() {
    on_host(|host| {
        let (_neighbour, _) = host.pod(&checked());
        let (pod, result) = host.pod(&checked());
        let expected = elements();
        host.del(&checked(), &pod).done();
        let port = port(&result);
        harness::sh(&format!(
            "nft -f - <<'END'
add element bridge cni-bridge ports {{ {port} }}
add element bridge cni-bridge addressed {{ {port} }}
add element bridge cni-bridge senders {{ {port} . 02:00:00:00:00:99 }}
add element bridge cni-bridge addresses4 {{ {port} . 10.64.1.99 }}
add element bridge cni-bridge addresses6 {{ {port} . fd00:64:1::99 }}
END"
        ));
        // Its addresses come last again; the ones before are asked for.
        let ips = json!({ "runtimeConfig": { "ips": ["10.64.1.3/24", "fd00:64:1::3/64"] } });
        host.add(&conf::with(&checked(), &ips), &pod).result();
        assert_eq!(elements(), expected);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_pod_whose_check_of_addresses_was_switched_off_has_none_left() {
    on_host(|host| {
        let (pod, result) = host.pod(&checked());
        host.del(&checked(), &pod).done();
        let again = host.add(&mac_only(), &pod).result();
        assert_eq!(port(&again), port(&result));
        let port = port(&again);
        let mac = of_interface(&again, 2, "mac");
        assert_eq!(
            elements(),
            [format!("ports: {port}"), format!("senders: {port} . {mac}")]
        );
    });
}

/// The handle of each rule, with its chain.
fn handles() -> Vec<(String, String)> {
    let mut chain = String::new();
    let mut handles = Vec::new();
    for line in harness::sh("nft -a list table bridge cni-bridge").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["chain", name, ..] => (*name).clone_into(&mut chain),
            [.., "#", "handle", number] if line.contains(" comment \"") => {
                handles.push((chain.clone(), (*number).to_owned()));
            }
            _ => {}
        }
    }
    handles
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn check_names_each_rule_that_is_missing_and_the_next_add_restores_it() {
    on_host(|host| {
        let (pod, result) = host.pod(&checked());
        let rules = rules();
        assert_eq!(handles().len(), rules.len());
        for (number, rule) in rules.iter().enumerate() {
            host.check(&checked(), &pod, &result).done();
            let (chain, handle) = &handles()[number];
            harness::sh(&format!(
                "nft delete rule bridge cni-bridge {chain} handle {handle}"
            ));
            let comment = rule.split('"').nth(1).expect("a comment");
            let port = port(&result);
            host.check(&checked(), &pod, &result).refused(
                999,
                &format!(
                    "what bridge port {port} sends is not checked: rule \"{comment}\" is missing in chain {chain} of nftables table bridge cni-bridge"
                ),
            );
            // Either key restores all.
            let conf = if number % 2 == 0 {
                checked()
            } else {
                mac_only()
            };
            host.keep(host.pod(&conf).0);
            assert_eq!(self::rules(), rules);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn check_names_each_element_that_is_missing_or_too_much() {
    on_host(|host| {
        let (_neighbour, _) = host.pod(&checked());
        let (pod, result) = host.pod(&checked());
        let port = port(&result);
        let all = elements();
        let own: Vec<&String> = all
            .iter()
            .filter(|element| element.contains(port))
            .collect();
        assert_eq!(own.len(), 6);
        let change = |verb: &str, set: &str, element: &str| {
            harness::sh(&format!(
                "nft {verb} element bridge cni-bridge {set} '{{ {element} }}'"
            ))
        };
        let refused = |text: &str| {
            let whole = format!("what bridge port {port} sends is not checked: {text}");
            host.check(&checked(), &pod, &result).refused(999, &whole);
        };
        for element in own {
            let (set, element) = element.split_once(": ").expect("a set");
            change("delete", set, element);
            refused(&format!(
                "element {element} is missing in set {set} of nftables table bridge cni-bridge"
            ));
            change("add", set, element);
            host.check(&checked(), &pod, &result).done();
        }
        for (set, value) in [
            ("senders", "02:00:00:00:00:99"),
            ("addresses4", "10.64.1.99"),
            ("addresses6", "fd00:64:1::99"),
        ] {
            let element = format!("{port} . {value}");
            change("add", set, &element);
            refused(&format!(
                "element {element} should not be in set {set} of nftables table bridge cni-bridge"
            ));
            change("delete", set, &element);
        }
        harness::sh(&format!(
            "ip link set {port} type bridge_slave group_fwd_mask 0"
        ));
        let whole = format!("(group_fwd_mask) of bridge port {port} is off, it should be on");
        host.check(&checked(), &pod, &result).refused(999, &whole);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn check_names_chains_sets_and_the_table() {
    on_host(|host| {
        let (pod, result) = host.pod(&checked());
        let refused = |text: &str| host.check(&checked(), &pod, &result).refused(999, text);
        harness::sh(
            "nft flush table bridge cni-bridge
             nft delete chain bridge cni-bridge ipv6_claims
             nft delete set bridge cni-bridge senders",
        );
        refused("chain ipv6_claims is missing in nftables table bridge cni-bridge");
        refused("set senders is missing in nftables table bridge cni-bridge");
        refused("rule \"own MAC address #2\" is missing in chain checked");
        harness::sh("nft delete table bridge cni-bridge");
        let port = port(&result);
        refused(&format!(
            "what bridge port {port} sends is not checked: nftables table bridge cni-bridge is missing"
        ));
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn what_others_flush_comes_back_with_the_next_add() {
    for ruin in [
        "nft flush table bridge cni-bridge",
        "nft delete table bridge cni-bridge",
        "nft flush ruleset",
        "nft flush chain bridge cni-bridge addresses",
        "nft flush chain bridge cni-bridge prerouting; nft delete chain bridge cni-bridge prerouting",
    ] {
        on_host(|host| {
            let (_first, _) = host.pod(&checked());
            // A chain that is made again comes last.
            let sorted = || {
                let mut rules = rules();
                rules.sort();
                rules
            };
            let expected = sorted();
            harness::sh(ruin);
            let (pod, result) = host.pod(&checked());
            assert_eq!(sorted(), expected, "{ruin}");
            host.check(&checked(), &pod, &result).done();
        });
    }
}

/// A pod may run already when it gets an interface, and may be quick with it.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_port_is_up_only_when_it_is_checked() {
    on_host(|host| {
        let (_first, result) = host.pod(&checked());
        let (pod, before) = (host.container(), elements().len());
        // Name and flags of the other port, once it is there.
        let other = || {
            let ports = harness::sh("ip -o -d link show master cbr0");
            let mut others = ports.lines().filter(|line| !line.contains(port(&result)));
            others.next().map(str::to_owned)
        };
        let mut down = 0;
        for nth in 1.. {
            host.request_for("ADD", &checked(), &pod).killed_after(nth);
            if let Some(port) = other() {
                let is_up = port.contains(",UP") || port.contains("<UP");
                if is_up {
                    assert!(port.contains("group_fwd_mask 0xfffd "), "{port}");
                    assert_eq!(elements().len(), before + 6, "after system call {nth}");
                    break;
                }
                down += 1;
            }
            // The next one makes the same system calls.
            host.del(&checked(), &pod).done();
        }
        assert!(down > 3, "{down}");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn many_pods_at_once_are_all_checked() {
    on_host(|host| {
        let (_first, _) = host.pod(&checked());
        // With so many others a set does not fit one message: while it is read, it changes.
        harness::sh(
            "for n in $(seq 1000); do
                 echo \"add element bridge cni-bridge ports { other$n }\"
                 echo \"add element bridge cni-bridge addresses6 { other$n . fd00::$n }\"
             done | nft -f -",
        );
        let before = elements().len();
        let pods: Vec<Container> = (0..32).map(|_| host.container()).collect();
        let all_at_once = |verb: &str| {
            let start = |pod| host.request_for(verb, &checked(), pod).start();
            let running: Vec<Running> = pods.iter().map(start).collect();
            running.into_iter().map(Running::wait).collect::<Vec<_>>()
        };
        let results = all_at_once("ADD").into_iter().map(Answer::result);
        let results: Vec<Value> = results.collect();
        assert_eq!(elements().len(), before + 6 * pods.len());
        for (pod, result) in pods.iter().zip(&results).step_by(8) {
            host.check(&checked(), pod, result).done();
        }
        all_at_once("DEL").into_iter().for_each(Answer::done);
        assert_eq!(elements().len(), before);
    });
}

/// As the first version with `macspoofchk` left it, and with a rule that somebody added.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn rules_of_an_earlier_version_are_replaced_with_their_pods_checked_all_the_time() {
    on_host(|host| {
        let (pod, _) = host.pod(&mac_only());
        let (fresh, of_pod) = (rules(), elements());
        host.del(&mac_only(), &pod).done();
        harness::sh("nft delete table bridge cni-bridge");
        harness::sh(
            "nft -f - <<'END'
table bridge cni-bridge {
    set ports { type ifname; elements = { \"veth0\" } }
    set senders { type ifname . ether_addr; elements = { \"veth0\" . 02:00:00:00:00:07 } }
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        ether type 0x88b5 accept comment \"of somebody else\"
        iifname @ports iifname . ether saddr != @senders drop comment \"pods send with their own MAC address only #1\"
    }
}
END",
        );
        let ips = json!({ "runtimeConfig": { "ips": ["10.64.1.2/24", "fd00:64:1::2/64"] } });
        host.add(&conf::with(&mac_only(), &ips), &pod).result();
        let foreign =
            "prerouting: ether type 0x88b5 accept comment \"of somebody else\"".to_owned();
        assert_eq!(rules(), [vec![foreign], fresh].concat());
        let old = ["ports: veth0", "senders: veth0 . 02:00:00:00:00:07"].map(str::to_owned);
        let mut expected = [&old[..], &of_pod].concat();
        expected.sort();
        assert_eq!(elements(), expected);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn what_cannot_be_checked_is_refused_before_anything_is_touched() {
    on_host(|host| {
        let before = host.state();
        for (changes, words) in [
            (json!({ "ipam": null }), "\"ipspoofchk\" needs an \"ipam\""),
            (
                json!({ "ipam": null, "disableContainerInterface": true }),
                "\"ipspoofchk\" and \"disableContainerInterface\" exclude each other",
            ),
            (
                json!({ "vlanTrunk": [{ "id": 7 }] }),
                "\"ipspoofchk\" and \"vlanTrunk\" exclude each other",
            ),
        ] {
            let none = json!({ "isGateway": null, "isDefaultGateway": null, "hairpinMode": null });
            let conf = conf::with(&conf::with(&checked(), &none), &changes);
            host.add(&conf, &host.container()).refused(7, words);
            host.state().assert_same(&before);
        }
    });
}
