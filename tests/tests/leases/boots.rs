//! A node that is switched off and on a thousand times without a single DEL.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use harness::{Host, on_host, sh};
use serde_json::{Value, json};

use crate::kit;

/// `10.64.1.2` to `10.64.1.6`.
const USABLE: usize = 5;

fn conf(data_dir: &Path) -> Value {
    kit::network(&json!({ "subnet": "10.64.1.0/29", "dataDir": data_dir }))
}

/// The machine starts again, as far as a plugin can tell.
fn boot(n: u64) {
    fs::write(
        "/run/boot_id",
        format!("{n:08x}-0000-4000-8000-000000000000\n"),
    )
    .unwrap();
}

/// Each boot fills a part of the range and ends without a DEL.
fn boots(host: &Host, conf: &Value) {
    boot(0);
    sh("mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
    let count = kit::number("CNI_E2E_BOOTS", 1000);
    let mut given = BTreeSet::new();
    for n in 1..=count {
        boot(n);
        given.insert(kit::lease(host, conf, &format!("pod-{n}")));
    }
    assert_eq!(
        given.len(),
        USABLE,
        "the address that was free longest comes next"
    );

    boot(count + 1);
    let all: BTreeSet<IpAddr> = (0..USABLE)
        .map(|n| kit::lease(host, conf, &format!("last-{n}")))
        .collect();
    assert_eq!(all.len(), USABLE, "{all:?}");
    let next = kit::ipam(host, "ADD", conf, "one-too-many").run();
    assert!(kit::words(next, 11).contains("no IP addresses available in range set"));
    kit::figure(&format!(
        "boots: {count}, and all {USABLE} addresses can be had"
    ));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn every_address_is_there_again_after_a_thousand_boots() {
    on_host(|host| boots(host, &conf(Path::new("/run/leases"))));
}

/// On a disk each lease is synced: what an earlier boot wrote is there, and void.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn every_address_is_there_again_after_a_thousand_boots_on_a_disk() {
    on_host(|host| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        if sh(&format!("stat -f -c %T {}", dir.path().display())).trim() == "tmpfs" {
            host.cannot_run("the build directory is on a tmpfs");
            return;
        }
        boots(host, &conf(&dir.path().join("leases")));
    });
}

/// Leases of this boot stand, whatever stands beside them from the boot before.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn leases_of_this_boot_are_not_given_again_after_a_boot_on_a_disk() {
    on_host(|host| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let conf = conf(&dir.path().join("leases"));
        boot(0);
        sh("mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
        for n in 0..USABLE {
            kit::lease(host, &conf, &format!("before-{n}"));
        }
        boot(1);
        let (first, second) = (kit::lease(host, &conf, "a"), kit::lease(host, &conf, "b"));
        assert_ne!(first, second);
        // A late DEL of a pod of the boot before.
        for n in 0..USABLE {
            kit::ipam(host, "DEL", &conf, &format!("before-{n}"))
                .run()
                .done();
        }
        let rest: BTreeSet<IpAddr> = (0..USABLE - 2)
            .map(|n| kit::lease(host, &conf, &format!("c{n}")))
            .collect();
        assert!(
            !rest.contains(&first) && !rest.contains(&second),
            "{rest:?}"
        );
        assert_eq!(rest.len(), USABLE - 2);
    });
}
