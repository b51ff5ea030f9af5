//! Settings of the node that open doors, and that nothing here touches.

use std::collections::BTreeMap;

use harness::{
    Echo, conf,
    forge::{self, Wire},
    on_host,
};
use serde_json::{Value, json};

use super::super::{becomes, believe_every_source, ip, of_interface};

/// Every key that makes the node do more, but for those that exclude others.
fn everything() -> Value {
    conf::with(
        &conf::dual_stack(),
        &json!({
            "ipMasq": true, "masqLinkLocal": true, "forceAddress": true, "hairpinMode": true,
            "portIsolation": true, "macspoofchk": true, "ipspoofchk": true, "mtu": 1400,
            "enabledad": true, "dns": { "nameservers": ["10.0.0.10"] },
        }),
    )
}

/// A setting of every link of the node.
fn of_all_links(setting: &str) -> BTreeMap<String, String> {
    let directory = std::fs::read_dir("/proc/sys/net/ipv4/conf").expect("a directory");
    let value = |link: std::fs::DirEntry| {
        let value = std::fs::read_to_string(link.path().join(setting)).ok()?;
        Some((
            link.file_name().into_string().ok()?,
            value.trim().to_owned(),
        ))
    };
    directory.flatten().filter_map(value).collect()
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn no_key_opens_the_nodes_loopback_to_pods() {
    on_host(|host| {
        believe_every_source(&host.netns);
        let (pod, result) = host.pod(&everything());
        let closed = || {
            of_all_links("route_localnet")
                .into_values()
                .all(|value| value == "0")
        };
        assert!(closed(), "{:?}", of_all_links("route_localnet"));

        let echo = Echo::start(&host.netns, "127.0.0.1:7");
        let gateway = Echo::start(&host.netns, "10.64.1.1:7");
        let mac = |number| forge::mac(of_interface(&result, number, "mac"));
        let wire = Wire::on(&pod.netns, "eth0");
        let to = |address| {
            let packet = forge::udp(ip("10.64.1.2"), ip(address), 7, b"hello");
            wire.send(&forge::packet(mac(0), mac(2), &packet));
        };
        let count = |echo: &Echo| echo.seen().len();
        to("127.0.0.1");
        to("10.64.1.1");
        assert!(becomes(|| count(&gateway) > 0));
        assert_eq!(count(&echo), 0);
        // So it would be.
        harness::sh("echo 1 >/proc/sys/net/ipv4/conf/cbr0/route_localnet");
        to("127.0.0.1");
        assert!(becomes(|| count(&echo) > 0));
        harness::sh("echo 0 >/proc/sys/net/ipv4/conf/cbr0/route_localnet");

        host.del(&everything(), &pod).done();
        assert!(closed(), "{:?}", of_all_links("route_localnet"));
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn no_key_touches_the_check_of_ways_back() {
    // Which takes its time and touches nothing.
    let everything = || conf::with(&everything(), &json!({ "enabledad": false }));
    for value in ["0", "1", "2"] {
        on_host(|host| {
            harness::sh(&format!(
                "cd /proc/sys/net/ipv4/conf; for link in *; do echo {value} >$link/rp_filter; done"
            ));
            let (pod, _) = host.pod(&everything());
            let found = of_all_links("rp_filter");
            assert!(
                found.len() > 3 && found.values().all(|found| found == value),
                "{found:?}"
            );
            host.del(&everything(), &pod).done();
            let found = of_all_links("rp_filter");
            assert!(found.values().all(|found| found == value), "{found:?}");
        });
    }
}
