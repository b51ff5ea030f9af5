//! What a malicious pod reaches: with raw sockets it sends whatever it likes, under any name.
//!
//! Each thing that a check keeps from arriving is shown to arrive without it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use harness::{
    Echo, Netns, World, conf,
    forge::{self, Mac, Wire},
    on_host, packet,
};
use serde_json::{Value, json};

/// How long a frame that comes may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an IPv4 address")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A member of a result's interfaces: 0 is the bridge, 1 the port, 2 the pod's end.
fn of_interface<'a>(result: &'a Value, number: usize, key: &str) -> &'a str {
    result["interfaces"][number][key].as_str().expect(key)
}

/// What a namespace believes of its neighbours.
fn neighbours(netns: &Netns) -> BTreeMap<IpAddr, Mac> {
    let json = netns.sh("ip -json neigh show");
    let rows: Vec<Value> = serde_json::from_str(json.trim()).expect("JSON");
    let entry = |row: &Value| {
        let address = row["dst"].as_str()?.parse().ok()?;
        Some((address, forge::mac(row["lladdr"].as_str()?)))
    };
    rows.iter().filter_map(entry).collect()
}

/// Whatever the machine's own defaults are, nobody looks whether a source can be right.
fn believe_every_source(netns: &Netns) {
    netns.sh("for all in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$all; done");
}

/// The port behind which the bridge believes an Ethernet address to be.
fn port_of(mac: Mac) -> Option<String> {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let table = harness::sh("bridge fdb show br cbr0");
    let line = table.lines().find(|line| line.starts_with(&mac))?;
    line.split(' ').nth(2).map(str::to_owned)
}

/// Tries again until it is so, or until it is too late.
fn becomes(mut is_so: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() >= PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn isolated_pods_reach_all_but_each_other() {
    for (isolated, others_too) in [(false, false), (true, false), (true, true)] {
        on_host(|host| {
            let world = World::around(host);
            let isolation = |on| conf::with(&conf::dual_stack(), &json!({ "portIsolation": on }));
            let (first, result) = host.pod(&isolation(isolated));
            let (second, _) = host.pod(&isolation(others_too));
            let apart = isolated && others_too;

            let wire = Wire::on(&first.netns, "eth0");
            let tap = Wire::on(&second.netns, "eth0");
            let own = forge::mac(of_interface(&result, 2, "mac"));
            let question = forge::arp(
                forge::REQUEST,
                (own, v4("10.64.1.2")),
                ([0; 6], v4("10.64.1.3")),
            );
            wire.send(&forge::frame(forge::BROADCAST, own, forge::ARP, &question));
            let group = forge::udp(ip("10.64.1.2"), ip("239.1.2.3"), 5353, b"to a group");
            wire.send(&forge::packet([1, 0, 0x5e, 1, 2, 3], own, &group));
            let _echo = Echo::start(&second.netns, "[::]:7");
            let targets = ["10.64.1.3:7", "[fd00:64:1::3]:7"];
            if apart {
                assert!(targets.iter().all(|to| packet::is_silent(&first.netns, to)));
                assert_eq!((tap.count(&question), tap.count(b"to a group")), (0, 0));
            } else {
                for target in targets {
                    packet::ask(&first.netns, target).expect(target);
                }
                assert!(tap.saw(&question, PATIENCE) && tap.saw(b"to a group", PATIENCE));
            }

            for (netns, target) in [
                (&host.netns, "10.64.1.1:7"),
                (&host.netns, "[fd00:64:1::1]:7"),
                (&host.netns, "10.200.0.2:7"),
                (&world.outside, "203.0.113.10:7"),
                (&world.outside, "[2001:db8:113::10]:7"),
            ] {
                // The Go plugin's gateway is being tested for a second: until then it is none.
                let listens = if target == "[fd00:64:1::1]:7" {
                    "[::]:7"
                } else {
                    target
                };
                let _echo = Echo::start(netns, listens);
                for pod in [&first, &second] {
                    packet::ask(&pod.netns, target).expect(target);
                }
            }
        });
    }
}

mod ours {
    mod attacks;
    mod cast;
    mod forgeries;
    mod honest;
    mod node;
    mod routers;
    mod rules;
}
