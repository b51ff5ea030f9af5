//! `cni-install` on a node, and `cni-bridge remove`: everything is whole, or not there, and a
//! node from which the plugins were taken is as it was before.

mod ours {
    use std::{
        fs,
        os::unix::fs::MetadataExt,
        path::{Path, PathBuf},
        thread,
        time::{Duration, Instant},
    };

    use harness::{
        Cnitool, Echo, Host, Installer, Request, State, World, conf, on_host, packet, sh,
    };
    use serde_json::{Value, json};

    const CIDR: &str = "10.64.1.0/24";
    const CONFLIST: &str = "10-cbr0.conflist";
    /// What an installation has to say when there is nothing to do.
    const NOTHING: &str = "everything is as it should be\n";
    const POLL: Duration = Duration::from_millis(5);
    /// What a runtime on a busy node may need to see that a file is gone.
    const NOTICE: Duration = Duration::from_secs(4);
    /// With more, something goes round in circles.
    const MOST_CALLS: usize = 400;
    /// With fewer, nothing was killed in the middle of anything.
    const FEWEST_CALLS: usize = 20;

    fn install(installer: &Installer) -> String {
        installer.run(&["--pod-cidr", CIDR])
    }

    fn conflist(installer: &Installer) -> PathBuf {
        installer.conf_dir.join(CONFLIST)
    }

    fn wait_for_the_end_of(file: &Path) {
        while file.exists() {
            thread::sleep(POLL);
        }
    }

    /// But that the node goes on to forward packets, and the store tells which addresses rest.
    #[track_caller]
    fn is_as_before(host: &Host, before: &State) {
        let but = ["sysctl net/ipv4/ip_forward", "lease"];
        host.state()
            .without(&but)
            .assert_same(&before.without(&but));
    }

    fn built(name: &str) -> Vec<u8> {
        fs::read(Request::bare("cni-bridge").path().with_file_name(name)).expect(name)
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_node_is_installed_once_and_used() {
        harness::tool("cnitool");
        on_host(|host| {
            let installer = Installer::new();
            let said = installer.run(&[]);
            assert!(said.contains("--pod-cidr writes one"), "{said}");
            assert!(!installer.conf_dir.exists());
            let status = installer.call(&["--status"]);
            assert!(
                status.status == 1 && status.text.contains("no configuration in"),
                "{status:?}"
            );
            let said = install(&installer);
            assert!(!said.contains("--pod-cidr"), "{said}");
            for name in ["cni-bridge", "cni-ipam"] {
                let path = installer.bin_dir.join(name);
                assert_eq!(fs::read(&path).expect(name), built(name), "{name}");
                let found = fs::metadata(&path).expect(name);
                assert_eq!((found.mode() & 0o7777, found.uid()), (0o755, 0), "{name}");
            }
            let loopback = fs::read_link(installer.bin_dir.join("loopback")).expect("a link");
            assert_eq!(loopback, PathBuf::from("cni-bridge"));
            assert_eq!(
                fs::metadata(conflist(&installer)).expect("a file").mode() & 0o7777,
                0o644
            );
            // The configuration is what makes a runtime use the rest: it is the last.
            assert!(said.trim_end().ends_with(CONFLIST), "{said}");
            assert_eq!(fs::read_dir(&installer.bin_dir).expect("files").count(), 3);
            assert_eq!(fs::read_dir(&installer.conf_dir).expect("files").count(), 1);

            let inode = || {
                fs::metadata(installer.bin_dir.join("cni-bridge"))
                    .expect("a file")
                    .ino()
            };
            let before = inode();
            assert_eq!(install(&installer), NOTHING);
            assert_eq!(inode(), before, "written although it is right");
            let status = installer.run(&["--status"]);
            assert!(
                status.contains(&format!("in use: {}", conflist(&installer).display())),
                "{status}"
            );

            let pod = host.container();
            let tool = Cnitool::new(&installer.conf_dir, "cbr0");
            let result = tool.run("add", &pod).expect("a result");
            assert_eq!(result["ips"][0]["address"], "10.64.1.2/24");
            tool.run("del", &pod);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_nodes_cidrs_are_the_networks() {
        on_host(|host| {
            let installer = Installer::new();
            installer.run(&["--pod-cidr", "10.64.7.0/24,fd00:64:7::/64"]);
            let list = fs::read_to_string(conflist(&installer)).expect("a file");
            let list: Value = serde_json::from_str(&list).expect("JSON");
            let plugin = conf::with(
                &list["plugins"][0],
                &json!({ "cniVersion": "1.0.0", "name": list["name"] }),
            );
            let (pod, result) = host.pod(&plugin);
            assert_eq!(result["ips"][0]["address"], "10.64.7.2/24");
            assert_eq!(result["ips"][1]["address"], "fd00:64:7::2/64");
            host.del(&plugin, &pod).done();

            // Another CIDR for the node is no small change.
            let files = installer.files();
            installer.refuses(&["--pod-cidr", CIDR], "is there and different");
            assert_eq!(installer.files(), files);
            installer.run(&["--pod-cidr", CIDR, "--force"]);
            assert_ne!(installer.files(), files);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_dry_run_says_everything_and_does_nothing() {
        on_host(|_host| {
            let installer = Installer::new();
            let said = installer.call(&["--pod-cidr", CIDR, "--dry-run"]);
            assert_eq!(said.status, 1);
            let lines: Vec<&str> = said.text.lines().collect();
            let bin = installer.bin_dir.display();
            assert_eq!(
                lines,
                [
                    format!("would install {bin}/cni-bridge"),
                    format!("would install {bin}/cni-ipam"),
                    format!("would link {bin}/loopback to cni-bridge"),
                    format!("would install {}", conflist(&installer).display()),
                ]
            );
            assert!(!installer.bin_dir.exists() && !installer.conf_dir.exists());
            install(&installer);
            let files = installer.files();
            assert_eq!(installer.run(&["--pod-cidr", CIDR, "--dry-run"]), NOTHING);
            let said = installer.call(&["--uninstall", "--dry-run"]);
            assert!(
                said.status == 1 && said.text.starts_with("would remove"),
                "{said:?}"
            );
            assert_eq!(installer.files(), files);
        });
    }

    /// Everything that would fail each pod is found before a runtime can see it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_configuration_that_cannot_work_is_not_installed() {
        on_host(|_host| {
            let installer = Installer::new();
            let own = "/run/own.conflist";
            let list = |plugin: Value, more: Value| {
                let plugins = [vec![plugin], more.as_array().cloned().unwrap_or_default()].concat();
                json!({ "cniVersion": "1.0.0", "name": "own", "plugins": plugins }).to_string()
            };
            let ipam = json!({ "type": "cni-ipam" });
            let plain = json!({ "type": "cni-bridge", "ipam": ipam });
            let cases = [
                ("{".to_owned(), "own.conflist: it is no JSON"),
                (json!({ "name": "own" }).to_string(), "no list of plugins"),
                (
                    list(json!({ "type": "ptp" }), json!([])),
                    "another plugin's",
                ),
                (
                    list(conf::with(&plain, &json!({ "vlan": 5000 })), json!([])),
                    "cni-bridge refuses the configuration: \"vlan\" is 5000",
                ),
                (
                    list(conf::with(&plain, &json!({ "mtu": "1500" })), json!([])),
                    "mtu",
                ),
                (
                    list(
                        conf::with(&plain, &json!({ "strict": true, "mut": 1500 })),
                        json!([]),
                    ),
                    "mut",
                ),
                (
                    list(plain.clone(), json!([{ "type": "portmap" }])),
                    "needs the plugin portmap, which is not in",
                ),
                (list(plain.clone(), json!([plain])), "exactly one"),
            ];
            for (text, reason) in cases {
                fs::write(own, text).expect("a file");
                installer.refuses(&["--conf", own, "--pod-cidr", CIDR], reason);
                // But for the directory in which the lock is.
                assert_eq!(installer.files(), [""; 0], "{reason}");
            }
            installer.refuses(&["--pod-cidr", "10.64.1.0/31"], "too small");
            for (words, reason) in [
                ("10.64.1.9/24", "is 10.64.1.0/24 meant?"),
                ("10.64.1.0/24,10.64.2.0/24", "of one family"),
            ] {
                let said = installer.call(&["--pod-cidr", words]);
                assert!(said.status == 2 && said.text.contains(reason), "{said:?}");
            }
            installer.refuses(&["--from", "/run"], "there is no cni-bridge in /run");
            assert_eq!(installer.files(), [""; 0]);

            // With the plugin there, or on somebody's word.
            let text = list(plain, json!([{ "type": "portmap" }]));
            fs::write(own, text).expect("a file");
            fs::write(installer.bin_dir.join("portmap"), "").expect("a file");
            installer.run(&["--conf", own, "--pod-cidr", CIDR]);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn other_networks_in_the_directory_are_named() {
        on_host(|_host| {
            let installer = Installer::new();
            fs::create_dir_all(&installer.conf_dir).expect("a directory");
            let others = json!({ "name": "old", "plugins": [{ "type": "bridge" }] }).to_string();
            let (first, second) = ("05-old.conflist", "10-containerd-net.conflist");
            for name in [first, second] {
                fs::write(installer.conf_dir.join(name), &others).expect("a file");
            }
            let said = install(&installer);
            let line = |name| said.lines().find(|line| line.contains(name)).expect(name);
            assert!(
                line(first).contains("is what the runtime uses: take it away"),
                "{said}"
            );
            assert!(line(second).contains("is not used any more"), "{said}");
            let status = installer.call(&["--status"]);
            assert_eq!(status.status, 1, "{status:?}");
            let place = |name: &str| status.text.find(name).expect(name);
            assert!(
                place(first) < place(CONFLIST) && place(CONFLIST) < place(second),
                "{status:?}"
            );
            sh(&format!(
                "cd {}; mv {first} {first}.off",
                installer.conf_dir.display()
            ));
            installer.run(&["--status"]);
        });
    }

    /// The last step cannot be done: what a runtime would use is not there.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn without_its_executables_a_configuration_is_not_installed() {
        on_host(|_host| {
            let installer = Installer::new();
            fs::create_dir_all(installer.bin_dir.join("cni-ipam/below")).expect("a directory");
            let said = installer.call(&["--pod-cidr", CIDR]);
            assert_eq!(said.status, 1, "{said:?}");
            assert!(said.text.contains("cni-ipam: "), "{said:?}");
            assert!(!installer.conf_dir.exists(), "{:?}", installer.files());
        });
    }

    /// SIGKILL after every system call that changes something. What is there under its name is
    /// whole, and the next call finishes the work.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_installation_that_is_killed_has_torn_nothing() {
        on_host(|_host| {
            let installer = Installer::new();
            // Small ones; the first one is asked about the configuration.
            sh("mkdir /run/small; cd /run/small
                { echo '#!/bin/sh'; echo 'cat >/dev/null'; } | tee cni-bridge >cni-ipam
                chmod +x *");
            let words = ["--pod-cidr", CIDR, "--from", "/run/small"];
            installer.run(&words);
            let whole = installer.files();
            let whole_or_hidden = |file: &String| whole.contains(file) || file.contains("/.");
            for nth in 1..MOST_CALLS {
                sh(&format!(
                    "rm -rf {} {}",
                    installer.bin_dir.display(),
                    installer.conf_dir.display()
                ));
                let killed = installer.request(&words).killed_after(nth);
                let files = installer.files();
                assert!(
                    files.iter().all(whole_or_hidden),
                    "after call {nth}: {files:?}"
                );
                if conflist(&installer).exists() {
                    let executables = ["cni-bridge", "cni-ipam", "loopback"];
                    let there = |name| installer.bin_dir.join(name).exists();
                    assert!(
                        executables.into_iter().all(there),
                        "after call {nth}: {files:?}"
                    );
                }
                installer.run(&words);
                assert_eq!(installer.files(), whole, "after call {nth}");
                if !killed {
                    assert!(nth > FEWEST_CALLS, "it made only {nth} system calls");
                    return;
                }
            }
            panic!("it makes more than {MOST_CALLS} system calls");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_node_is_as_it_was_before_when_all_is_removed() {
        on_host(|host| {
            let installer = Installer::new();
            let before = host.state();
            install(&installer);
            let network = conf::with(&conf::smallest(), &json!({ "macspoofchk": true }));
            let (pod, _) = host.pod(&network);
            let files = installer.files();
            let state = host.state();
            installer.refuses(&["--uninstall"], "network cbr0 still connects 1 pod (pod1)");
            assert_eq!(installer.files(), files);
            host.state().assert_same(&state);
            host.del(&network, &pod).done();
            let other = installer.conf_dir.join("20-other.conflist");
            fs::write(&other, r#"{"name":"o","plugins":[{"type":"cni-bridge"}]}"#).expect("a file");
            installer.refuses(&["--uninstall"], "20-other.conflist uses the plugins");
            assert!(files.iter().all(|file| installer.files().contains(file)));
            fs::remove_file(&other).expect("removed");

            let said = installer.run(&["--uninstall"]);
            assert_eq!(installer.files(), [""; 0]);
            let first = said.lines().next().unwrap_or_default();
            assert_eq!(first, format!("removed {}", conflist(&installer).display()));
            is_as_before(host, &before);
            assert_eq!(installer.run(&["--uninstall"]), NOTHING);
        });
    }

    /// It may just have read the configuration that is gone: what it names is there a while.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_runtime_has_time_to_notice_a_removal() {
        on_host(|_host| {
            let installer = Installer::new();
            install(&installer);
            thread::scope(|scope| {
                let removal = scope.spawn(|| installer.run(&["--uninstall"]));
                wait_for_the_end_of(&conflist(&installer));
                let gone = Instant::now();
                let executable = installer.bin_dir.join("cni-bridge");
                while executable.exists() {
                    assert!(!removal.is_finished(), "it is still there");
                    thread::sleep(POLL);
                }
                assert!(gone.elapsed() > NOTICE, "{:?}", gone.elapsed());
            });
            assert_eq!(installer.files(), [""; 0]);
        });
    }

    /// By force the pods that are there keep their network as long as they live.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn by_force_pods_lose_nothing() {
        on_host(|host| {
            let installer = Installer::new();
            install(&installer);
            let (_pod, _) = host.pod(&conf::smallest());
            let state = host.state();
            installer.run(&["--uninstall", "--force"]);
            assert_eq!(installer.files(), [""; 0]);
            host.state().assert_same(&state);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_is_not_ours_is_not_removed() {
        on_host(|_host| {
            let installer = Installer::new();
            install(&installer);
            let others = r#"{"name":"x","plugins":[{"type":"bridge"}]}"#;
            fs::write(conflist(&installer), others).expect("a file");
            fs::remove_file(installer.bin_dir.join("loopback")).expect("removed");
            fs::write(installer.bin_dir.join("loopback"), "another one").expect("a file");
            let said = installer.run(&["--uninstall"]);
            assert!(said.contains("is not for cni-bridge, and stays"), "{said}");
            let left = installer.files();
            let has = |name: &str| left.iter().any(|file| file.contains(name));
            assert!(
                left.len() == 2 && has("/loopback ") && has(CONFLIST),
                "{left:?}"
            );
        });
    }

    /// Runs `cni-bridge remove` for configurations; its exit status and words.
    fn remove(networks: &[&Value]) -> (i32, String) {
        let dir = tempfile::tempdir().expect("a directory");
        for (number, network) in networks.iter().enumerate() {
            let file = dir.path().join(format!("{number}.conf"));
            fs::write(file, network.to_string()).expect("a file");
        }
        let output = std::process::Command::new(Request::bare("cni-bridge").path())
            .arg("remove")
            .arg(dir.path())
            .output()
            .expect("cni-bridge");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_pods_shared_is_removed_network_by_network() {
        on_host(|host| {
            let world = World::around(host);
            let before = host.state();
            let one = conf::smallest();
            let two = conf::with(
                &conf::smallest(),
                &json!({ "name": "two", "bridge": "cbr2", "ipspoofchk": true,
                         "ipam": { "subnet": "10.64.2.0/24" } }),
            );
            let (first, _) = host.pod(&one);
            let (second, _) = host.pod(&two);
            let state = host.state();
            let (status, said) = remove(&[&one, &two]);
            assert_eq!(status, 1, "{said}");
            assert_eq!(said.matches("still connects 1 pod:").count(), 2, "{said}");
            host.state().assert_same(&state);

            host.del(&one, &first).done();
            let (status, said) = remove(&[&one]);
            assert_eq!(status, 0, "{said}");
            assert!(said.contains("removed: bridge cbr0"), "{said}");
            let of_one = ["10.64.1.", "cbr0"];
            let has_one = |line: &&str| of_one.iter().any(|word| line.contains(word));
            let after = host.state().without(&["lease"]);
            let left: Vec<&str> = after.text().lines().filter(has_one).collect();
            assert_eq!(left, [""; 0]);
            // Its pod goes on, to the node and, masqueraded, to the outside.
            for (netns, target, sender) in [
                (&host.netns, "10.64.2.1:7", "10.64.2.2"),
                (&world.outside, "203.0.113.10:7", "10.200.0.2"),
            ] {
                let _echo = Echo::start(netns, target);
                let seen = packet::ask(&second.netns, target).expect(target);
                assert_eq!(seen.to_string(), sender);
            }
            assert!(after.text().contains("cbr2"), "the other network stays");

            host.del(&two, &second).done();
            let (status, said) = remove(&[&two]);
            assert_eq!(status, 0, "{said}");
            for table in ["inet", "bridge"] {
                let line = format!("removed: nftables table {table} cni-bridge");
                assert!(said.contains(&line), "{said}");
            }
            is_as_before(host, &before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_somebody_else_uses_stays() {
        on_host(|host| {
            let (pod, _) = host.pod(&conf::smallest());
            host.del(&conf::smallest(), &pod).done();
            sh(
                "ip link add guest type veth peer name guest-peer; ip link set guest master cbr0
                nft add rule inet cni-bridge forward counter",
            );
            let (status, said) = remove(&[&conf::smallest()]);
            assert_eq!(status, 0, "{said}");
            assert!(said.contains("stays: bridge cbr0: it has ports"), "{said}");
            let ruleset = sh("nft list ruleset");
            assert!(
                ruleset.contains("counter packets") && !ruleset.contains("masquerade"),
                "{ruleset}"
            );

            sh(
                "ip link del guest; ip link del cbr0; ip link add cbr0 type bridge; nft flush ruleset",
            );
            let state = host.state();
            let (status, said) = remove(&[&conf::smallest()]);
            assert!(
                status == 0 && said.contains("somebody else made it"),
                "{said}"
            );
            host.state()
                .without(&["table"])
                .assert_same(&state.without(&["table"]));
        });
    }

    /// The link of a pod is gone, and its DEL never came: that keeps nobody from removing the rest.
    /// The lease may be one of an ADD under way, and is for the store itself to end.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_lease_without_a_pod_is_in_nobodys_way() {
        on_host(|host| {
            let (mut pod, _) = host.pod(&conf::smallest());
            pod.die();
            let links = || sh("ip -o link show master cbr0");
            while !links().is_empty() {
                thread::sleep(POLL);
            }
            let (status, said) = remove(&[&conf::smallest()]);
            assert!(
                status == 0 && said.contains("removed: bridge cbr0"),
                "{said}"
            );
            let leases = host.state().only(&["lease"]);
            assert!(leases.text().contains("pod1"), "{leases:?}");
        });
    }

    /// Pods of the Go plugins that were taken over have a lease, and no alias.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn pods_that_were_taken_over_are_connected() {
        harness::tool("bridge");
        on_host(|host| {
            let go = conf::with(
                &conf::ipv4(),
                &json!({ "type": "bridge", "ipam": { "type": "host-local" } }),
            );
            let (_old, _) = host.pod(&go);
            let (pod, _) = host.pod(&conf::ipv4());
            host.del(&conf::ipv4(), &pod).done();
            let installer = Installer::new();
            install(&installer);
            let state = host.state();
            let (status, said) = remove(&[&conf::ipv4()]);
            assert!(
                status == 1 && said.contains("still connects 1 pod:"),
                "{said}"
            );
            installer.refuses(&["--uninstall"], "network cbr0 still connects 1 pod (pod1)");
            host.state().assert_same(&state);
        });
    }

    /// Whatever is or is not in the directory of configurations, and wherever their leases are.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn pods_of_every_network_keep_the_executables() {
        on_host(|host| {
            let installer = Installer::new();
            install(&installer);
            for data_dir in [json!(null), json!("/run/elsewhere")] {
                let ipam = json!({ "subnet": "10.64.2.0/24", "dataDir": data_dir });
                let other = json!({ "name": "other", "bridge": "cbr2", "ipam": ipam });
                let other = conf::with(&conf::smallest(), &other);
                let (pod, _) = host.pod(&other);
                let words = format!("network other still connects 1 pod ({})", pod.id);
                installer.refuses(&["--uninstall"], &words);
                fs::remove_file(conflist(&installer)).expect("removed");
                installer.refuses(&["--uninstall"], &words);
                host.del(&other, &pod).done();
                install(&installer);
            }
            installer.run(&["--uninstall"]);
            assert_eq!(installer.files(), [""; 0]);
        });
    }

    /// A pod that was begun with the old configuration comes while the runtime is waited for.
    /// Nothing is lost: when it is gone, the next call goes on.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_removal_that_is_interrupted_goes_on() {
        on_host(|host| {
            let installer = Installer::new();
            let before = host.state();
            install(&installer);
            let network = conf::smallest();
            let pod = host.container();
            thread::scope(|scope| {
                let removal = scope.spawn(|| installer.call(&["--uninstall"]));
                wait_for_the_end_of(&conflist(&installer));
                host.add(&network, &pod).result();
                let said = removal.join().expect("an answer");
                assert!(
                    said.status == 1 && said.text.contains("still connects 1 pod"),
                    "{said:?}"
                );
            });
            assert!(installer.bin_dir.join("cni-bridge").exists());
            installer.refuses(&["--uninstall"], "network cbr0 still connects 1 pod (pod1)");
            host.del(&network, &pod).done();
            let said = installer.run(&["--uninstall"]);
            assert!(said.contains("removed the bridge and the rules"), "{said}");
            assert_eq!(installer.files(), [""; 0]);
            is_as_before(host, &before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_loopback_that_leads_nowhere_is_replaced() {
        on_host(|_host| {
            let installer = Installer::new();
            fs::create_dir_all(&installer.bin_dir).expect("a directory");
            let loopback = installer.bin_dir.join("loopback");
            std::os::unix::fs::symlink("gone", &loopback).expect("a link");
            install(&installer);
            assert_eq!(
                fs::read_link(&loopback).expect("a link"),
                PathBuf::from("cni-bridge")
            );
        });
    }
}
