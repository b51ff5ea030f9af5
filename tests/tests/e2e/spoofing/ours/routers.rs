//! Pods are no routers: whatever one advertises, neither node nor pods believe it, with the
//! check or without (CVE-2020-10749).

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use harness::{
    Host, Netns, conf,
    forge::{self, Mac, Wire},
    on_host,
};
use serde_json::{Value, json};

use super::super::{PATIENCE, becomes, ip, of_interface, v6};

/// The advertisements of one pod, by every way to the node and to other pods.
fn advertisements(result: &Value) -> Vec<Vec<u8>> {
    let mac = |number| forge::mac(of_interface(result, number, "mac"));
    let (gateway, port, own) = (mac(0), mac(1), mac(2));
    let all = v6("ff02::1");
    let packet = forge::router_advertisement(forge::link_local(own), all);
    let reserved = (0..16).map(|last| [1, 0x80, 0xc2, 0, 0, last]);
    let ways: Vec<Mac> = [forge::group(all), forge::BROADCAST, gateway, port]
        .into_iter()
        .chain(reserved)
        .collect();
    let plain = ways.iter().map(|to| forge::packet(*to, own, &packet));
    plain
        .flat_map(|frame| {
            let with_priority = forge::tagged(&frame, forge::VLAN, 0);
            [frame, with_priority]
        })
        .collect()
}

/// What a namespace has of the advertised network: addresses, and routes.
fn believed(netns: &Netns) -> String {
    let what = netns.sh("ip -6 -o addr show; ip -6 route show table all");
    let of_it = |line: &&str| line.contains("2001:db8:bad:") || line.contains("proto ra");
    what.lines().filter(of_it).collect::<Vec<_>>().join("\n")
}

/// A port that the plugin did not make, behind which somebody believes in routers.
fn believer(host: &Host) -> Netns {
    let netns = Netns::new();
    harness::sh(&format!(
        "ip link add believer type veth peer name eth0 netns {}
         ip link set believer master cbr0 up",
        netns.path().display()
    ));
    netns.sh("echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra; ip link set eth0 up");
    assert_eq!(believed(&netns), "", "{host:?}");
    netns
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_pods_advertisements_are_believed_by_nobody() {
    for check in [false, true] {
        // The first node routes no IPv6: it would look for routers.
        for conf in [conf::ipv4(), conf::dual_stack()] {
            on_host(|host| {
                harness::sh("cd /proc/sys/net/ipv6/conf; echo 1 >default/accept_ra");
                let conf = conf::with(&conf, &json!({ "ipspoofchk": check }));
                let (attacker, result) = host.pod(&conf);
                let (victim, of_victim) = host.pod(&conf);
                let believer = believer(host);
                let frames = advertisements(&result);
                let wire = Wire::on(&attacker.netns, "eth0");
                let node = Wire::on(&host.netns, "cbr0");
                let before = (host.state(), victim.state());

                // They are good: who looks for routers takes them, unless they are stopped.
                if !check {
                    let taken = becomes(|| {
                        for frame in &frames {
                            wire.send(frame);
                        }
                        !believed(&believer).is_empty()
                    });
                    assert!(taken, "{}", believer.sh("ip -6 addr; ip -6 route"));
                }
                for frame in &frames {
                    wire.send(frame);
                }
                let mac = |number| forge::mac(of_interface(&result, number, "mac"));
                let last = forge::udp(ip("10.64.1.2"), ip("10.64.1.1"), 9, b"the last");
                wire.send(&forge::packet(mac(0), mac(2), &last));
                assert!(node.saw(b"the last", PATIENCE));

                assert_eq!(believed(&host.netns), "", "on the node");
                for pod in [&attacker, &victim] {
                    assert_eq!(believed(&pod.netns), "", "in {}", pod.id);
                }
                assert_eq!(believed(&believer).is_empty(), check);
                host.state().assert_same(&before.0);
                victim.state().assert_same(&before.1);
                assert_listens_to_no_router(host, &of_victim);
                let inside = victim.state().only(&["sysctl eth0"]);
                assert!(
                    inside.text().contains("accept_ra 0 autoconf 0"),
                    "{inside:?}"
                );
            });
        }
    }
}

fn assert_listens_to_no_router(host: &Host, result: &Value) {
    for number in [0, 1] {
        let link = of_interface(result, number, "name");
        let settings = host.state().only(&[&format!("sysctl {link}:")]);
        assert!(settings.text().contains(" accept_ra 0 "), "{settings:?}");
    }
}

/// The switches are off before anything can be received.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_new_pod_believes_nothing_from_its_first_moment_on() {
    on_host(|host| {
        let (attacker, result) = host.pod(&conf::dual_stack());
        let frames = advertisements(&result);
        let wire = Wire::on(&attacker.netns, "eth0");
        let over = AtomicBool::new(false);
        let pods = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    send_all(&wire, &frames);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let pods: Vec<_> = (0..5).map(|_| host.pod(&conf::dual_stack()).0).collect();
            // With carrier and all.
            std::thread::sleep(Duration::from_millis(50));
            over.store(true, Ordering::Relaxed);
            pods
        });
        for pod in pods {
            assert_eq!(believed(&pod.netns), "", "in {}", pod.id);
        }
        assert_eq!(believed(&host.netns), "");
    });
}

fn send_all(wire: &Wire, frames: &[Vec<u8>]) {
    for frame in frames {
        wire.send(frame);
    }
}
