//! `nonMasqueradeCIDRs`, `masqueradeCIDRs` and `masqLinkLocal`, as packets see them.

use harness::{World, on_host};
use serde_json::json;

use super::{NODE, OUTSIDE, POD, also_outside, dual_stack, seen, smallest};

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_longest_prefix_decides() {
    on_host(|host| {
        let world = World::around(host);
        world.lan.ip("addr add 10.250.0.20/24 dev uplink");
        let (pod, _) = host.pod(&smallest(&json!({
            "nonMasqueradeCIDRs": ["10.0.0.0/8", "10.250.0.20/32"],
            "masqueradeCIDRs": ["10.250.0.0/16"],
        })));
        for (netns, target, source) in [
            (&world.other_node, "10.64.2.7:80", POD),
            (&world.lan, "10.250.0.10:80", NODE),
            (&world.lan, "10.250.0.20:80", POD),
            (&world.outside, OUTSIDE, NODE),
        ] {
            assert_eq!(seen(&pod, netns, target), source, "{target}");
        }
    });
}

/// The wish of people who have one network that does not know the pods.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn nothing_but_some_destinations_is_masqueraded() {
    on_host(|host| {
        let world = World::around(host);
        also_outside(&world, "198.51.100.10");
        let (pod, _) = host.pod(&smallest(&json!({
            "nonMasqueradeCIDRs": ["0.0.0.0/0"],
            "masqueradeCIDRs": ["203.0.113.0/24"],
        })));
        for (netns, target, source) in [
            (&world.outside, OUTSIDE, NODE),
            (&world.outside, "198.51.100.10:80", POD),
            (&world.lan, "10.250.0.10:80", POD),
        ] {
            assert_eq!(seen(&pod, netns, target), source, "{target}");
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_longest_prefix_decides_in_ipv6_too() {
    on_host(|host| {
        let world = World::around(host);
        world.lan.ip("addr add fd00:250::20/64 dev uplink nodad");
        let (pod, _) = host.pod(&dual_stack(&json!({
            "nonMasqueradeCIDRs": ["fc00::/7", "fd00:250::20/128"],
            "masqueradeCIDRs": ["fd00:250::/64"],
        })));
        for (netns, target, source) in [
            (&world.other_node, "[fd00:64:2::7]:80", "fd00:64:1::2"),
            (&world.lan, "[fd00:250::20]:80", "fd00:64:1::2"),
            (&world.outside, "[2001:db8:113::10]:80", "2001:db8:200::2"),
        ] {
            assert_eq!(seen(&pod, netns, target), source, "{target}");
        }
        // Which of the node's addresses that is, is the kernel's choice.
        let masqueraded = seen(&pod, &world.lan, "[fd00:250::10]:80");
        assert!(
            ["fd00:200::2", "2001:db8:200::2"].contains(&&*masqueraded),
            "{masqueraded}"
        );
    });
}

/// A cloud's metadata server is one.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn link_local_destinations_see_the_pod_unless_asked_otherwise() {
    for (changes, source) in [
        (json!({}), POD),
        (json!({ "masqLinkLocal": false }), POD),
        (json!({ "masqLinkLocal": true }), NODE),
        // The exception of an exception is longer than 169.254.0.0/16.
        (json!({ "masqueradeCIDRs": ["169.254.169.0/24"] }), NODE),
        (
            json!({ "masqLinkLocal": true, "nonMasqueradeCIDRs": ["169.254.0.0/16"] }),
            POD,
        ),
    ] {
        on_host(|host| {
            let world = World::around(host);
            also_outside(&world, "169.254.169.254");
            let (pod, _) = host.pod(&smallest(&changes));
            let target = "169.254.169.254:80";
            assert_eq!(seen(&pod, &world.outside, target), source, "{changes}");
            assert_eq!(seen(&pod, &world.outside, OUTSIDE), NODE);
        });
    }
}
