//! DEL in every state that a container can be in, any number of times.

use std::fs;

use harness::{Container, conf, on_host};
use serde_json::{Value, json};

/// Three DELs of a pod, after `fault` has happened to its namespace, leave the node as it
/// was before the ADD.
fn leaves_nothing(conf: &Value, fault: fn(&mut Container)) {
    on_host(|host| {
        let (_neighbour, _) = host.pod(conf);
        let before = host.state();
        let (mut pod, _) = host.pod(conf);
        fault(&mut pod);
        for _ in 0..3 {
            host.del(conf, &pod).done();
            host.state().assert_same(&before);
        }
    });
}

/// The same for the outcome alone, where a plugin may need the namespace for more.
fn frees_the_address(fault: fn(&mut Container)) {
    leaves_nothing(&conf::dual_stack(), fault);
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_namespace_is_there() {
    frees_the_address(|_| {});
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_namespace_is_deleted() {
    frees_the_address(|pod| {
        pod.mount();
        pod.die();
        wait_until_links_are_gone();
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_namespace_is_not_given() {
    frees_the_address(|pod| {
        pod.die();
        pod.path = "".into();
        wait_until_links_are_gone();
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_namespace_is_a_process_that_is_gone() {
    frees_the_address(|pod| {
        pod.die();
        pod.path = "/proc/999999/ns/net".into();
        wait_until_links_are_gone();
    });
}

/// The kernel deletes the links of a dead namespace some time later. One neighbour stays.
fn wait_until_links_are_gone() {
    for _ in 0..400 {
        let ports = harness::sh("ip -o link show master cbr0");
        if ports.lines().count() == 1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("the links of a dead namespace are still there after two seconds");
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_container_that_never_had_an_interface() {
    on_host(|host| {
        let conf = conf::dual_stack();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let mut stranger = host.container();
        host.del(&conf, &stranger).done();
        stranger.path = "/run/netns/never".into();
        host.del(&conf, &stranger).done();
        stranger.path = "".into();
        host.del(&conf, &stranger).done();
        host.state().assert_same(&before);
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_interface_is_deleted_already() {
    frees_the_address(|pod| {
        pod.sh("ip link delete eth0");
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_del_with_the_previous_result_of_the_add() {
    on_host(|host| {
        let conf = conf::dual_stack();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let (pod, result) = host.pod(&conf);
        let mut with_result = conf.clone();
        with_result["prevResult"] = result;
        for _ in 0..3 {
            host.del(&with_result, &pod).done();
            host.state().assert_same(&before);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_del_in_an_older_version_than_the_add() {
    on_host(|host| {
        let (_neighbour, _) = host.pod(&conf::dual_stack());
        let before = host.state();
        for version in ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            // Versions up to 0.2.0 have one address for each family, as here.
            let conf = conf::with(&conf::dual_stack(), &json!({ "cniVersion": version }));
            let (pod, _) = host.pod(&conf::dual_stack());
            host.del(&conf, &pod).done();
            host.state().assert_same(&before);
        }
    });
}

/// A DEL of a pod that is long gone comes late, when its address is another pod's.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_late_del_touches_nothing_of_the_next_pod() {
    on_host(|host| {
        let conf = conf::network(&conf::ipam(&["10.64.1.0/30"]));
        let (mut old, first) = host.pod(&conf);
        host.del(&conf, &old).done();
        old.die();
        let (new, second) = host.pod(&conf);
        assert_eq!(first["ips"], second["ips"]);
        let (before, inside) = (host.state(), new.state());
        for path in ["", "/run/netns/gone"] {
            old.path = path.into();
            host.del(&conf, &old).done();
            host.state().assert_same(&before);
            new.state().assert_same(&inside);
        }
    });
}

mod ours {
    use super::*;

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_path_is_a_plain_file() {
        frees_the_address(|pod| {
            pod.die();
            wait_until_links_are_gone();
            fs::write("/run/file", "").expect("a file");
            pod.path = "/run/file".into();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_path_is_a_directory() {
        frees_the_address(|pod| {
            pod.die();
            pod.path = "/run".into();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_path_is_on_procfs_but_no_namespace() {
        frees_the_address(|pod| {
            pod.die();
            pod.path = "/proc/self/status".into();
        });
    }

    /// The runtime lost the path, but the namespace and the link in it live on.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_namespace_is_alive_but_not_given() {
        frees_the_address(|pod| pod.path = "".into());
    }

    /// The path was used again for another pod's namespace: its interface has to stay.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_path_leads_to_another_pod() {
        on_host(|host| {
            let conf = conf::dual_stack();
            let (neighbour, _) = host.pod(&conf);
            let (before, inside) = (host.state(), neighbour.state());
            let (mut pod, _) = host.pod(&conf);
            pod.path = neighbour.path.clone();
            for _ in 0..3 {
                host.del(&conf, &pod).done();
                host.state().assert_same(&before);
                neighbour.state().assert_same(&inside);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_path_leads_to_the_node_itself() {
        on_host(|host| {
            harness::sh("ip link add eth0 type veth peer name eth0-peer; ip link set eth0 up");
            let conf = conf::dual_stack();
            let (_neighbour, _) = host.pod(&conf);
            let before = host.state();
            let (mut pod, _) = host.pod(&conf);
            pod.die();
            wait_until_links_are_gone();
            pod.path = host.netns.path();
            for _ in 0..3 {
                host.del(&conf, &pod).done();
                host.state().assert_same(&before);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_configuration_that_was_edited_to_nonsense() {
        on_host(|host| {
            let conf = conf::dual_stack();
            let (_neighbour, _) = host.pod(&conf);
            let before = host.state();
            for nonsense in [
                json!({ "ipam": { "ranges": [] } }),
                json!({ "ipam": { "ranges": null } }),
                json!({ "ipam": { "ranges": [[{ "subnet": "10.9.8.7/33" }]] } }),
                json!({ "vlan": 5000, "mtu": "large" }),
                json!({ "hairpinMode": true, "promiscMode": true }),
                json!({ "bridge": "another0" }),
                json!({ "bridge": 7 }),
                json!({ "prevResult": "text" }),
                json!({ "prevResult": [] }),
                json!({ "prevResult": { "cniVersion": "1.1.0", "ips": [{ "address": "junk" }] } }),
            ] {
                let (pod, _) = host.pod(&conf);
                host.del(&conf::with(&conf, &nonsense), &pod).done();
                host.state().assert_same(&before);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_node_where_nothing_ever_was_gets_nothing() {
        on_host(|host| {
            let before = host.state();
            let files = "find /run /var/lib/cni | sort";
            let files_before = harness::sh(files);
            host.del(&conf::smallest(), &host.container()).done();
            host.state().assert_same(&before);
            assert_eq!(harness::sh(files), files_before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn args_that_an_add_would_refuse() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            let before = host.state();
            for args in ["FOO=bar", "FOO", "FOO=a=b", ";;", "IgnoreUnknown=perhaps"] {
                let (pod, _) = host.pod(&conf::smallest());
                let request = host.request_for("DEL", &conf::smallest(), &pod);
                request.env("CNI_ARGS", args).run().done();
                host.state().assert_same(&before);
            }
        });
    }

    /// Every state of the namespace with every kind of previous result, three times each.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_whole_matrix_of_namespaces_and_previous_results() {
        let junk = json!({ "cniVersion": "1.1.0", "ips": [{ "address": "junk" }] });
        let others = [Value::Null, json!({}), junk, json!("text")];
        for path in [
            "ok",
            "",
            "/run/netns/gone",
            "/run/file",
            "/run",
            "/proc/999999/ns/net",
        ] {
            on_host(|host| {
                fs::write("/run/file", "").expect("a file");
                let (_neighbour, _) = host.pod(&conf::smallest());
                let before = host.state();
                for which in 0..=others.len() {
                    let (mut pod, result) = host.pod(&conf::smallest());
                    if path != "ok" {
                        pod.path = path.into();
                    }
                    let mut conf = conf::smallest();
                    conf["prevResult"] = others.get(which).unwrap_or(&result).clone();
                    for _ in 0..3 {
                        host.del(&conf, &pod).done();
                        host.state().assert_same(&before);
                    }
                }
            });
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn many_at_once_for_the_same_pod() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            let before = host.state();
            let (pod, _) = host.pod(&conf::smallest());
            let start = |_| host.request_for("DEL", &conf::smallest(), &pod).start();
            let running: Vec<_> = (0..16).map(start).collect();
            for run in running {
                run.wait().done();
            }
            host.state().assert_same(&before);
        });
    }

    /// All rules of the node are those of the first pod, whatever became of the second.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_pod_that_died_leaves_no_rules() {
        leaves_nothing(&conf::smallest(), |pod| {
            pod.mount();
            pod.die();
            wait_until_links_are_gone();
        });
    }

    /// containerd takes a DEL error with certain words for a success, and forgets the pod.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_error_never_sounds_like_nothing_to_delete() {
        on_host(|host| {
            let (pod, _) = host.pod(&conf::smallest());
            harness::sh(
                "echo >/run/file; mkdir -p /run/ro/cbr0 /run/damaged
                 cp -r /run/cni-ipam/cbr0/* /run/ro/cbr0; mount --bind /run/ro /run/ro
                 mount -o remount,bind,ro /run/ro; ln -s /run/nowhere /run/damaged/cbr0",
            );
            for changes in [
                json!({ "ipam": { "type": "nowhere" } }),
                json!({ "ipam": { "type": "../x" } }),
                json!({ "ipam": { "dataDir": "/run/file" } }),
                json!({ "ipam": { "dataDir": "/run/damaged" } }),
                json!({ "ipam": { "dataDir": "/run/ro" } }),
            ] {
                let answer = host.del(&conf::with(&conf::smallest(), &changes), &pod);
                let Some(error) = answer.stdout else {
                    continue;
                };
                let said = error.to_string().to_lowercase();
                for words in ["not found", "no such file or directory"] {
                    assert!(!said.contains(words), "{changes}: {said}");
                }
            }
        });
    }
}
