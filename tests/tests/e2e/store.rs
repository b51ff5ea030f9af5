//! The lease store under a bridge: what happens to it does not happen to the pods.

mod ours {
    use std::{
        collections::BTreeSet,
        fs::{self, File},
        os::unix::fs::FileExt,
    };

    use harness::{Container, Host, conf, on_host};
    use serde_json::{Value, json};

    fn address(result: &Value) -> String {
        result["ips"][0]["address"]
            .as_str()
            .expect("an address")
            .to_owned()
    }

    fn pods(host: &Host, count: usize) -> (Vec<Container>, BTreeSet<String>) {
        let pods = (0..count).map(|_| host.pod(&conf::smallest()));
        pods.map(|(pod, result)| (pod, address(&result))).unzip()
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn deleted_with_live_pods_it_comes_back_from_their_links() {
        on_host(|host| {
            let (old, taken) = pods(host, 5);
            let before = host.state();
            fs::remove_dir_all("/run/cni-ipam").expect("the store");
            let (new, addresses) = pods(host, 5);
            assert_eq!(addresses.len(), 5);
            assert!(taken.is_disjoint(&addresses), "{taken:?} {addresses:?}");
            for pod in &new {
                host.del(&conf::smallest(), pod).done();
            }
            // All is as it was, but for who made the leases: that is read from the links.
            host.state().assert_same(&before);
            for pod in &old {
                host.del(&conf::smallest(), pod).done();
            }
            assert_eq!(host.state().only(&["lease", "link veth"]).text(), "");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_damaged_line_concerns_one_address_alone() {
        on_host(|host| {
            let (old, taken) = pods(host, 3);
            let path = "/run/cni-ipam/cbr0/10.64.1.leases";
            let file = File::options().write(true).open(path).expect("the store");
            // 10.64.1.3 is the second pod's; a line has 256 bytes.
            file.write_all_at(b"junk", 3 * 256 + 20).expect("damage");
            let (new, addresses) = pods(host, 3);
            assert_eq!(addresses.len(), 3);
            assert!(taken.is_disjoint(&addresses), "{taken:?} {addresses:?}");
            for pod in old.iter().chain(&new) {
                host.del(&conf::smallest(), pod).done();
            }
            assert_eq!(host.state().only(&["link veth"]).text(), "");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn files_that_are_cut_short_lose_nothing_that_the_links_know() {
        on_host(|host| {
            let (_old, taken) = pods(host, 3);
            for file in ["10.64.1.leases", "index", "pools"] {
                for length in [0, 1, 100, 300, 4096] {
                    let path = format!("/run/cni-ipam/cbr0/{file}");
                    let file = File::options().write(true).open(&path).expect("the store");
                    file.set_len(length).expect("damage");
                    let (new, addresses) = pods(host, 1);
                    assert!(
                        taken.is_disjoint(&addresses),
                        "{path} {length}: {addresses:?}"
                    );
                    host.del(&conf::smallest(), &new[0]).done();
                }
            }
        });
    }

    /// Somebody holds the lock and does not let go: the runtime shall try again later.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_lock_that_is_held_is_named() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            let before = host.state();
            let store = File::open("/run/cni-ipam/cbr0").expect("the store");
            store.lock().expect("the lock of the store");
            let pod = host.container();
            let refusal = host.add(&conf::smallest(), &pod).refusal();
            let said = format!("{}; {}", refusal.msg, refusal.details);
            let holder = std::process::id().to_string();
            assert!(refusal.code == 11 && said.contains(&holder), "{refusal:?}");
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn on_a_full_disk_an_add_fails_and_leaves_nothing() {
        on_host(|host| {
            harness::sh("mkdir /run/small; mount -t tmpfs -o size=64k tmpfs /run/small");
            let conf = conf::with(
                &conf::smallest(),
                &json!({ "ipam": { "dataDir": "/run/small/store" } }),
            );
            harness::sh("dd if=/dev/zero of=/run/small/fill bs=1k count=60 2>/dev/null");
            let pod = host.container();
            let (before, inside) = (host.state(), pod.state());
            let refusal = host.add(&conf, &pod).refusal();
            let said = format!("{}; {}", refusal.msg, refusal.details);
            assert!(
                refusal.code == 5 && said.contains("/run/small/store"),
                "{refusal:?}"
            );
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
            harness::sh("rm /run/small/fill; mount -o remount,size=1m /run/small");
            host.add(&conf, &pod).result();
        });
    }
}
