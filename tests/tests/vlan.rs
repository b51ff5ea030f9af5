//! The keys `vlan`, `vlanTrunk` and `preserveDefaultVlan`, on a kernel with bridge VLAN
//! filtering. `scripts/test-vlan` runs them, on a kernel of its own where it has to.
//!
//! As in `e2e`, modules named `ours` hold promises that only we make.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test reports by panicking"
)]

use std::thread;

use harness::{Container, Echo, Host, cannot_run, conf, on_host, packet, sh};
use serde_json::{Value, json};

/// Whether the kernel can do what the tests are about; says so where it cannot.
fn can_filter() -> bool {
    let kernel = sh("ip link add probe0 type bridge vlan_filtering 1 2>/dev/null || echo cannot");
    if kernel.is_empty() {
        sh("ip link delete probe0");
        return true;
    }
    let name = thread::current().name().unwrap_or("vlan").to_owned();
    cannot_run(
        &name,
        "this kernel has no bridge VLAN filtering: scripts/test-vlan brings one that has",
    );
    false
}

/// A network that the node itself is not in.
fn network(changes: &Value) -> Value {
    let bare = json!({ "isGateway": false, "isDefaultGateway": false, "mtu": 1500 });
    conf::with(&conf::with(&conf::ipv4(), &bare), changes)
}

/// One that the node is in, too.
fn routed(changes: &Value) -> Value {
    conf::with(&conf::with(&conf::ipv4(), &json!({ "mtu": 1500 })), changes)
}

/// The name of the node's end of a pod's pair.
fn port(result: &Value) -> &str {
    result["interfaces"][1]["name"].as_str().expect("a name")
}

/// The address of a pod, and a port to go with it.
fn socket(result: &Value) -> String {
    let address = result["ips"][0]["address"].as_str().expect("an address");
    let address = address.split('/').next().unwrap_or_default();
    format!("{address}:9000")
}

/// The VLANs of a bridge port, in the words of bridge(8): `["100 PVID, Egress Untagged"]`.
fn vlans(port: &str) -> Vec<String> {
    let answer = sh(&format!("bridge -json vlan show dev {port}"));
    let answer: Value = serde_json::from_str(&answer).expect("bridge prints JSON");
    let rows = answer[0]["vlans"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .map(|row| {
            let flags = row["flags"].as_array().cloned().unwrap_or_default();
            let flags: Vec<&str> = flags.iter().filter_map(Value::as_str).collect();
            let shown = format!("{} {}", row["vlan"], flags.join(", "));
            shown.trim_end().to_owned()
        })
        .collect()
}

/// The other end of the link, which is a bridge port.
fn other_end(link: &str) -> String {
    let name = sh(&format!(
        "ip -oneline link show dev {link} | sed 's/^[0-9]*: [^@]*@\\([^:]*\\):.*/\\1/'"
    ));
    name.trim().to_owned()
}

fn is_filtering(bridge: &str) -> bool {
    sh(&format!(
        "ip -details link show dev {bridge} | grep -o 'vlan_filtering [01]'"
    ))
    .ends_with("1\n")
}

/// Asserts which VLANs the pods of a configuration are in.
fn assert_vlans(host: &Host, changes: &Value, expected: &[&str]) {
    let (pod, result) = host.pod(&network(changes));
    assert_eq!(vlans(port(&result)), expected, "with {changes}");
    assert!(is_filtering("cbr0"), "with {changes}");
    host.del(&network(changes), &pod).done();
    sh("ip link delete cbr0");
}

#[test]
#[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
fn a_pod_is_in_the_vlans_that_the_configuration_names() {
    on_host(|host| {
        if !can_filter() {
            return;
        }
        let only = json!({ "vlan": 100 });
        assert_vlans(host, &only, &["100 PVID, Egress Untagged"]);
        let kept = json!({ "vlan": 100, "preserveDefaultVlan": true });
        let expected = ["1 Egress Untagged", "100 PVID, Egress Untagged"];
        assert_vlans(host, &kept, &expected);
        let first = json!({ "vlan": 1 });
        assert_vlans(host, &first, &["1 PVID, Egress Untagged"]);
    });
}

#[test]
#[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
fn a_trunk_has_numbers_and_ranges() {
    on_host(|host| {
        if !can_filter() {
            return;
        }
        let trunk = json!([
            { "id": 4094 },
            { "minID": 200, "maxID": 202 },
            { "minID": 300, "maxID": 300, "id": 7 },
        ]);
        let tagged = ["200", "201", "202", "300", "4094"];
        let with_native = json!({ "vlan": 100, "vlanTrunk": trunk });
        let expected = [&["7", "100 PVID, Egress Untagged"][..], &tagged].concat();
        assert_vlans(host, &with_native, &expected);
        let alone = json!({ "vlanTrunk": trunk });
        let expected = [&["1 PVID, Egress Untagged", "7"][..], &tagged].concat();
        assert_vlans(host, &alone, &expected);
        assert_vlans(host, &json!({ "vlanTrunk": [] }), &expected[..1]);
    });
}

#[test]
#[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
fn pods_reach_those_of_their_own_vlan_only() {
    on_host(|host| {
        if !can_filter() {
            return;
        }
        let (red, blue) = (json!({ "vlan": 100 }), json!({ "vlan": 200 }));
        let (server, there) = host.pod(&network(&red));
        let (friend, _) = host.pod(&network(&red));
        let (stranger, elsewhere) = host.pod(&network(&blue));
        let (strangers_friend, _) = host.pod(&network(&blue));
        let _server = Echo::start(&server.netns, &socket(&there));
        let _stranger = Echo::start(&stranger.netns, &socket(&elsewhere));

        packet::ask(&friend.netns, &socket(&there)).expect("one VLAN");
        packet::ask(&strangers_friend.netns, &socket(&elsewhere)).expect("one VLAN");
        packet::ask(&stranger.netns, &socket(&there)).expect_err("VLAN 200 to 100");
    });
}

#[test]
#[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
fn a_trunk_carries_tagged_packets_of_its_vlans_only() {
    on_host(|host| {
        if !can_filter() {
            return;
        }
        let (server, there) = host.pod(&network(&json!({ "vlan": 200 })));
        let trunk = json!({ "vlan": 100, "vlanTrunk": [{ "minID": 200, "maxID": 210 }] });
        let (router, _) = host.pod(&network(&trunk));
        let _server = Echo::start(&server.netns, &socket(&there));
        let tagged = |id: u16| {
            router.netns.ip(&format!(
                "link add link eth0 name tagged type vlan id {id}
                 address add 10.64.1.77/24 dev tagged
                 link set tagged up
                 route replace {} dev tagged src 10.64.1.77",
                there["ips"][0]["address"].as_str().map_or("", address_of)
            ));
            let answer = packet::ask(&router.netns, &socket(&there));
            router.netns.ip("link delete tagged");
            answer
        };

        tagged(200).expect("VLAN 200 is in the trunk");
        tagged(211).expect_err("VLAN 211 is not");
    });
}

fn address_of(net: &str) -> &str {
    net.split('/').next().unwrap_or_default()
}

#[test]
#[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
fn the_node_is_in_the_vlan_by_a_link_of_its_own() {
    on_host(|host| {
        if !can_filter() {
            return;
        }
        let dual = conf::with(&conf::dual_stack(), &json!({ "mtu": 1500, "vlan": 100 }));
        let (pod, result) = host.pod(&dual);

        let interfaces = result["interfaces"].as_array().expect("interfaces");
        assert_eq!(interfaces.len(), 4, "{result}");
        assert_eq!(interfaces[3]["name"], "cbr0.100");
        assert_eq!(interfaces[3].get("sandbox"), None);
        let addresses = host.state().only(&["address 10.", "address fd"]);
        assert_eq!(
            addresses.text().replace(" nodad", ""),
            "address 10.64.1.1/24 on cbr0.100\naddress fd00:64:1::1/64 on cbr0.100"
        );
        let only = ["100 PVID, Egress Untagged"];
        assert_eq!(vlans(&other_end("cbr0.100")), only);
        assert_eq!(vlans(port(&result)), only);
        let _node = Echo::start(&host.netns, "10.64.1.1:9000");
        packet::ask(&pod.netns, "10.64.1.1:9000").expect("the pod reaches its gateway");
    });
}

#[test]
#[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
fn the_link_of_the_node_is_made_once_and_a_del_leaves_nothing_else() {
    on_host(|host| {
        if !can_filter() {
            return;
        }
        let conf = routed(&json!({ "vlan": 100, "vlanTrunk": [{ "id": 200 }] }));
        let (first, result) = host.pod(&conf);
        let links = || host.state().only(&["link ", "address "]);
        let index = || sh("cat /sys/class/net/cbr0.100/ifindex");
        let (before, made) = (links(), index());

        let (second, _) = host.pod(&conf);
        assert_eq!(index(), made);
        host.del(&conf, &second).done();
        links().assert_same(&before);

        host.del(&conf, &first).done();
        let left = links().text().replace('\n', " ");
        assert!(!left.contains(&format!(" {} ", port(&result))), "{left}");
        assert_eq!(sh("bridge vlan show vid 200 | grep -c veth || true"), "0\n");
    });
}

#[test]
#[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
fn without_the_keys_a_bridge_does_not_filter() {
    on_host(|host| {
        if !can_filter() {
            return;
        }
        host.keep(host.pod(&network(&json!({}))).0);
        assert!(!is_filtering("cbr0"));
    });
}

mod ours {
    use super::{
        Container, Echo, Host, Value, can_filter, is_filtering, json, network, on_host, other_end,
        packet, port, routed, sh, vlans,
    };

    #[test]
    #[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
    fn a_trunk_around_it_leaves_the_vlan_of_untagged_packets_alone() {
        on_host(|host| {
            if !can_filter() {
                return;
            }
            let trunk = json!([{ "minID": 14, "maxID": 16 }, { "id": 15 }]);
            let conf = network(&json!({ "vlan": 15, "vlanTrunk": trunk }));
            let (_pod, result) = host.pod(&conf);
            let expected = ["14", "15 PVID, Egress Untagged", "16"];
            assert_eq!(vlans(port(&result)), expected);
        });
    }

    #[test]
    #[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
    fn a_bridge_that_is_there_gets_filtering_and_its_own_default_vlan_is_left() {
        on_host(|host| {
            if !can_filter() {
                return;
            }
            sh("ip link add cbr0 type bridge vlan_default_pvid 5");
            let conf = network(&json!({ "vlanTrunk": [{ "id": 10 }] }));
            let (_pod, result) = host.pod(&conf);
            assert!(is_filtering("cbr0"));
            assert_eq!(vlans(port(&result)), ["1 PVID, Egress Untagged", "10"]);

            let (_pod, result) = host.pod(&network(&json!({ "vlanTrunk": [] })));
            assert_eq!(vlans(port(&result)), ["5 PVID, Egress Untagged"]);
        });
    }

    #[test]
    #[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
    fn impossible_numbers_are_refused_before_anything_is_made() {
        on_host(|host| {
            if !can_filter() {
                return;
            }
            let before = host.state();
            let pod = host.container();
            for (changes, words) in [
                (json!({ "vlan": 4095 }), "\"vlan\" is 4095"),
                (json!({ "vlan": -1 }), "\"vlan\" is -1"),
                (json!({ "vlanTrunk": [{ "id": 0 }] }), "id 0"),
                (json!({ "vlanTrunk": [{ "minID": 5 }] }), "without maxID"),
                (
                    json!({ "vlanTrunk": [{ "minID": 6, "maxID": 5 }] }),
                    "minID 6 above maxID 5",
                ),
                (
                    json!({ "vlanTrunk": [{ "minID": 5, "maxID": 4095 }] }),
                    "maxID 4095",
                ),
                (
                    json!({ "vlan": 100, "bridge": "fifteen-minus-3" }),
                    "fifteen-minus-3.100",
                ),
            ] {
                host.add(&routed(&changes), &pod).refused(7, words);
            }
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
    fn a_link_of_the_node_that_was_left_half_done_is_completed() {
        on_host(|host| {
            if !can_filter() {
                return;
            }
            let conf = routed(&json!({ "vlan": 100 }));
            let (pod, _) = host.pod(&conf);
            let gateway_port = other_end("cbr0.100");
            sh(&format!(
                "ip link set cbr0.100 down
                 bridge vlan delete vid 100 dev {gateway_port}
                 bridge vlan add vid 1 pvid untagged dev {gateway_port}"
            ));
            host.pod(&conf);
            assert_eq!(vlans(&gateway_port), ["100 PVID, Egress Untagged"]);
            let _node = Echo::start(&host.netns, "10.64.1.1:9000");
            packet::ask(&pod.netns, "10.64.1.1:9000").expect("the pod reaches its gateway");
        });
    }

    #[test]
    #[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
    fn the_node_believes_no_router_advertisements_of_a_vlan() {
        on_host(|host| {
            if !can_filter() {
                return;
            }
            host.keep(host.pod(&routed(&json!({ "vlan": 100 }))).0);
            assert_eq!(sh("cat /proc/sys/net/ipv6/conf/cbr0.100/accept_ra"), "0\n");
        });
    }

    #[test]
    #[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
    fn check_is_content_with_every_add() {
        on_host(|host| {
            if !can_filter() {
                return;
            }
            for changes in [
                json!({ "vlan": 100 }),
                json!({ "vlan": 100, "preserveDefaultVlan": true }),
                json!({ "vlan": 15, "vlanTrunk": [{ "minID": 1, "maxID": 4094 }] }),
                json!({ "vlan": 100, "vlanTrunk": [{ "id": 1 }], "preserveDefaultVlan": true }),
                json!({ "vlanTrunk": [{ "id": 200 }] }),
                json!({ "vlanTrunk": [] }),
            ] {
                let conf = network(&changes);
                let (pod, result) = host.pod(&conf);
                host.check(&conf, &pod, &result).done();
                host.del(&conf, &pod).done();
            }
            let conf = routed(&json!({ "vlan": 100 }));
            let (pod, result) = host.pod(&conf);
            host.check(&conf, &pod, &result).done();
        });
    }

    type Fault = (&'static str, &'static str, &'static str);

    /// What is broken, how it is repaired, and what CHECK says in between. `PORT` is the
    /// pod's port, `GATE` the gateway's.
    const FAULTS: [Fault; 7] = [
        (
            "ip link set cbr0 type bridge vlan_filtering 0",
            "ip link set cbr0 type bridge vlan_filtering 1",
            "VLAN filtering of bridge cbr0 is off",
        ),
        (
            "bridge vlan delete vid 201-202 dev PORT",
            "bridge vlan add vid 201-202 dev PORT",
            "VLAN 201-202 of bridge port PORT is missing",
        ),
        (
            "bridge vlan add vid 1 dev PORT",
            "bridge vlan delete vid 1 dev PORT",
            "VLAN 1 of bridge port PORT should not be there",
        ),
        (
            "bridge vlan add vid 100 dev PORT",
            "bridge vlan add vid 100 pvid untagged dev PORT",
            "VLAN 100 of bridge port PORT is tagged, it should be pvid untagged",
        ),
        (
            "bridge vlan delete vid 100 dev GATE",
            "bridge vlan add vid 100 pvid untagged dev GATE",
            "VLAN 100 of bridge port GATE is missing",
        ),
        (
            "ip link set cbr0.100 down",
            "ip link set cbr0.100 up",
            "link cbr0.100 is down",
        ),
        (
            "ip link set GATE nomaster",
            "true",
            "the other end of link cbr0.100 is no port of bridge cbr0",
        ),
    ];

    #[test]
    #[ignore = "needs bridge VLAN filtering: run scripts/test-vlan"]
    fn check_names_what_is_not_as_it_was_made() {
        on_host(|host| {
            if !can_filter() {
                return;
            }
            let trunk = json!([{ "minID": 200, "maxID": 203 }]);
            let conf = routed(&json!({ "vlan": 100, "vlanTrunk": trunk }));
            let (pod, result) = host.pod(&conf);
            let gate = other_end("cbr0.100");
            let named = |text: &str| text.replace("PORT", port(&result)).replace("GATE", &gate);
            for (fault, repair, words) in FAULTS {
                sh(&named(fault));
                let details = said(host, &conf, &pod, &result);
                assert!(details.contains(&named(words)), "{fault}: {details}");
                sh(&named(repair));
            }
        });
    }

    fn said(host: &Host, conf: &Value, pod: &Container, result: &Value) -> String {
        let refusal = host.check(conf, pod, result).refusal();
        format!("{}; {}", refusal.msg, refusal.details)
    }
}
