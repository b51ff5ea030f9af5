//! What arrives of it, with the check and without.

use std::time::Duration;

use harness::{
    Echo, conf,
    forge::{self, Mac, Wire},
    on_host,
};
use serde_json::json;

use super::{
    super::{PATIENCE, becomes, believe_every_source, ip, neighbours, of_interface, port_of, v6},
    cast::{ALL, Cast, Place},
    forgeries::forgeries,
};

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn without_ipspoofchk_a_malicious_pod_reaches_everybody() {
    on_host(|host| {
        let cast = Cast::on(host, &conf::dual_stack());
        for forgery in forgeries(&cast) {
            if let Some((place, address, _)) = forgery.deceives {
                // The truth first, whatever the forgery before has made of it.
                let (netns, link) = cast.netns(host, place);
                let truth = match address.to_string().rsplit(['.', ':']).next() {
                    Some("1") => cast.macs.2,
                    Some("2") => cast.macs.0,
                    _ => cast.macs.1,
                }
                .map(|byte| format!("{byte:02x}"))
                .join(":");
                netns.ip(&format!(
                    "neigh replace {address} lladdr {truth} dev {link} nud reachable"
                ));
            }
            cast.send(&forgery);
            let name = &forgery.name;
            for place in &forgery.reaches {
                let arrives = cast.tap(*place).saw(&forgery.mark, PATIENCE);
                assert!(arrives, "{name} does not arrive at {place:?}");
            }
            if let Some((place, address, mac)) = forgery.deceives {
                let netns = cast.netns(host, place).0;
                let deceived = || neighbours(netns).get(&address) == Some(&mac);
                let is_so = becomes(|| {
                    deceived() || {
                        cast.send(&forgery);
                        false
                    }
                });
                assert!(is_so, "{name}: {place:?} has {:?}", neighbours(netns));
            }
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn with_ipspoofchk_a_malicious_pod_reaches_nobody() {
    on_host(|host| {
        let conf = conf::with(&conf::dual_stack(), &json!({ "ipspoofchk": true }));
        let cast = Cast::on(host, &conf);
        let before = [neighbours(&host.netns), neighbours(&cast.victim.netns)];
        let state = (host.state(), cast.victim.state());

        let forgeries = forgeries(&cast);
        for forgery in &forgeries {
            cast.send(forgery);
        }
        cast.send_honestly();

        let arrived: Vec<(&str, Place)> = forgeries
            .iter()
            .flat_map(|forgery| ALL.map(|place| (forgery, place)))
            .filter(|(forgery, place)| cast.tap(*place).count(&forgery.mark) > 0)
            .map(|(forgery, place)| (forgery.name.as_str(), place))
            .collect();
        assert_eq!(arrived, []);
        for (before, netns) in before.iter().zip([&host.netns, &cast.victim.netns]) {
            let after = neighbours(netns);
            for (address, mac) in before {
                assert_eq!(after.get(address), Some(mac), "{address}");
            }
            let strangers = after.keys().filter(|address| !before.contains_key(address));
            assert_eq!(strangers.count(), 0, "{after:?}");
        }
        host.state().assert_same(&state.0);
        cast.victim.state().assert_same(&state.1);
    });
}

/// `01:80:c2:00:00:0X`: what bridges keep to themselves passes no rules on its way to the
/// bridge's memory and to the node's own IP.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_pods_ethernet_address_cannot_be_taken_from_it() {
    let reserved = |last| [1, 0x80, 0xc2, 0, 0, last];
    for (key, is_taken) in [
        ("promiscMode", true),
        ("macspoofchk", false),
        ("ipspoofchk", false),
    ] {
        on_host(|host| {
            // The first key is there to have one that does not matter.
            let conf = json!({ key: true, "hairpinMode": key != "promiscMode" });
            let conf = conf::with(&conf::dual_stack(), &conf);
            let (attacker, result) = host.pod(&conf);
            let (victim, of_victim) = host.pod(&conf);
            let mac = |result, number| forge::mac(of_interface(result, number, "mac"));
            let (stolen, gateway) = (mac(&of_victim, 2), mac(&result, 0));
            let wire = Wire::on(&attacker.netns, "eth0");
            let of_victim_itself = Wire::on(&victim.netns, "eth0");
            let node = Wire::on(&host.netns, "cbr0");
            let port = |result| Some(of_interface(result, 1, "name").to_owned());
            for to in [gateway, reserved(0), reserved(3), reserved(0xe)] {
                let honest = forge::frame(gateway, stolen, 0x0800, b"it is mine");
                becomes(|| {
                    of_victim_itself.send(&honest);
                    port_of(stolen) == port(&of_victim)
                });
                let frame = forge::frame(to, stolen, forge::LLDP, b"it is mine too");
                if is_taken {
                    let taken = becomes(|| {
                        wire.send(&frame);
                        port_of(stolen) == port(&result)
                    });
                    assert!(taken, "{to:02x?} does not take it");
                    continue;
                }
                wire.send(&frame);
                let own = mac(&result, 2);
                if to != gateway {
                    wire.send(&forge::frame(to, own, forge::LLDP, b"for bridges only"));
                }
                let last = forge::udp(ip("10.64.1.2"), ip("10.64.1.1"), 9, &[to[5]; 9]);
                wire.send(&forge::packet(gateway, own, &last));
                assert!(node.saw(&last, PATIENCE));
                assert_eq!(of_victim_itself.count(b"it is mine too"), 0);
                assert_eq!(of_victim_itself.count(b"for bridges only"), 0);
                assert_eq!(port_of(stolen), port(&of_victim), "{to:02x?}");
            }
        });
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_node_hears_no_false_source_on_the_port_itself() {
    for (check, arrives) in [(false, true), (true, false)] {
        on_host(|host| {
            believe_every_source(&host.netns);
            let conf = conf::with(&conf::dual_stack(), &json!({ "ipspoofchk": check }));
            let (attacker, result) = host.pod(&conf);
            let own = forge::mac(of_interface(&result, 2, "mac"));
            let gateway = forge::mac(of_interface(&result, 0, "mac"));
            let echo = Echo::start(&host.netns, "10.64.1.1:7");
            let wire = Wire::on(&attacker.netns, "eth0");
            let to_node = |source: &str, mac: Mac| {
                let packet = forge::udp(ip(source), ip("10.64.1.1"), 7, b"hello");
                wire.send(&forge::packet(mac, own, &packet));
            };
            let seen = |source: &str| echo.seen().iter().any(|from| from.ip() == ip(source));
            for last in [2, 3, 0xe, 0xf] {
                to_node(
                    &format!("10.64.1.{}", 70 + last),
                    [1, 0x80, 0xc2, 0, 0, last],
                );
            }
            to_node("10.64.1.2", gateway);
            assert!(becomes(|| seen("10.64.1.2")));
            for last in [2, 3, 0xe, 0xf] {
                let source = format!("10.64.1.{}", 70 + last);
                assert!(becomes(|| !arrives || seen(&source)));
                assert_eq!(seen(&source), arrives, "{source}");
            }
        });
    }
}

/// Says of an address that is being probed that it is taken.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_malicious_pod_keeps_nobody_from_his_new_address() {
    for (check, is_kept) in [(false, true), (true, false)] {
        on_host(|host| {
            let conf = conf::with(&conf::dual_stack(), &json!({ "ipspoofchk": check }));
            let (attacker, result) = host.pod(&conf);
            let own = forge::mac(of_interface(&result, 2, "mac"));
            let wire = Wire::on(&attacker.netns, "eth0");
            let all = v6("ff02::1");
            let claim = forge::advertisement(forge::link_local(own), all, v6("fd00:64:1::3"), own);
            let claim = forge::packet(forge::group(all), own, &claim);

            let newcomer = host.container();
            let conf = conf::with(&conf, &json!({ "enabledad": true }));
            let running = host.request_for("ADD", &conf, &newcomer).start();
            let answer = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| running.wait());
                while !waiting.is_finished() {
                    wire.send(&claim);
                    std::thread::sleep(Duration::from_millis(20));
                }
                waiting.join().expect("an answer")
            });
            if is_kept {
                answer.refused(999, "fd00:64:1::3 of eth0 is in use by another host");
            } else {
                answer.result();
            }
        });
    }
}
