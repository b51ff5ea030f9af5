//! What ADD made and somebody else undid: CHECK names it, and the next ADD or
//! `cni-bridge reconcile` puts it right, for the pods that are there.

mod ours {
    use std::{fs, process::Command};

    use harness::{Container, Host, Netns, Request, State, World, conf, on_host, packet};
    use serde_json::{Value, json};

    /// Who puts it right.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum By {
        /// The next ADD, of any pod; `reconcile` too.
        Add,
        /// `cni-bridge reconcile`: it is about one pod, and an ADD looks at no other.
        Reconcile,
        /// Nobody: what is inside a pod, or known by nobody else, is named and left.
        Nobody,
    }

    /// Where a fault is made.
    enum Where {
        Node(&'static str),
        Pod(&'static str),
    }

    /// One kernel object or switch of an ADD, how to take it away, and what CHECK says then.
    struct Fault {
        made: Where,
        said: &'static str,
        by: By,
    }

    const fn fault(made: Where, said: &'static str, by: By) -> Fault {
        Fault { made, said, by }
    }

    /// Removes the rules of a chain of ours that have these words, each by its number.
    const RULES: &str = "rules() { nft -a list chain inet cni-bridge $1 | grep -- \"$2\" | grep -o 'handle [0-9]*$' | \
                         while read -r _ number; do nft delete rule inet cni-bridge $1 handle $number; done; }; ";

    /// Everything that an ADD makes. `VETH` stands for the pod's link on the node.
    const FAULTS: &[Fault] = &[
        fault(
            Where::Node("ip link delete cbr0"),
            "bridge cbr0 is missing",
            By::Add,
        ),
        fault(
            Where::Node("ip link set cbr0 down"),
            "bridge cbr0 is down",
            By::Add,
        ),
        fault(
            Where::Node("ip addr del 10.64.1.1/24 dev cbr0"),
            "gateway address 10.64.1.1/24 is missing on bridge cbr0",
            By::Add,
        ),
        fault(
            Where::Node("ip addr del fd00:64:1::1/64 dev cbr0"),
            "gateway address fd00:64:1::1/64 is missing on bridge cbr0",
            By::Add,
        ),
        fault(
            Where::Node("ip link set cbr0 type bridge nf_call_iptables 0"),
            "bridge cbr0 does not hand its packets to iptables",
            By::Add,
        ),
        fault(
            Where::Node("ip link set cbr0 type bridge nf_call_ip6tables 0"),
            "bridge cbr0 does not hand its packets to iptables",
            By::Add,
        ),
        fault(
            Where::Node("echo 0 >/proc/sys/net/ipv4/ip_forward"),
            "net/ipv4/ip_forward is not 1",
            By::Add,
        ),
        fault(
            Where::Node("echo 0 >/proc/sys/net/ipv6/conf/all/forwarding"),
            "net/ipv6/conf/all/forwarding is not 1",
            By::Add,
        ),
        fault(
            Where::Node("nft flush ruleset"),
            "the masquerade rule is missing",
            By::Add,
        ),
        fault(
            Where::Node("nft delete table inet cni-bridge"),
            "the masquerade rule is missing",
            By::Add,
        ),
        fault(
            Where::Node("rules postrouting 'ip saddr'"),
            "the masquerade rule is missing in nftables table inet cni-bridge: ip saddr { 10.64.1.0/24 }",
            By::Add,
        ),
        fault(
            Where::Node("rules postrouting 'ip6 saddr'"),
            "the masquerade rule is missing in nftables table inet cni-bridge: ip6 saddr { fd00:64:1::/64 }",
            By::Add,
        ),
        fault(
            Where::Node("rules forward 'ip saddr'"),
            "the rule that no packet leaves without being masqueraded is missing in nftables table inet cni-bridge: ct state invalid ip saddr",
            By::Add,
        ),
        fault(
            Where::Node("rules forward 'ip6 saddr'"),
            "the rule that no packet leaves without being masqueraded is missing in nftables table inet cni-bridge: ct state invalid ip6 saddr",
            By::Add,
        ),
        fault(
            Where::Node("echo 1 >/proc/sys/net/ipv6/conf/cbr0/accept_ra"),
            "net/ipv6/conf/cbr0/accept_ra is not 0",
            By::Reconcile,
        ),
        fault(
            Where::Node("ip link set VETH down"),
            "link VETH on the node is down",
            By::Reconcile,
        ),
        fault(
            Where::Node("ip link set VETH nomaster"),
            "link VETH is no port of bridge cbr0",
            By::Reconcile,
        ),
        fault(
            Where::Node("bridge link set dev VETH hairpin off"),
            "hairpin of bridge port VETH is off, it should be on",
            By::Reconcile,
        ),
        fault(
            Where::Node("bridge link set dev VETH isolated on"),
            "isolation of bridge port VETH is on, it should be off",
            By::Reconcile,
        ),
        fault(
            Where::Node("ip link set VETH alias ''"),
            "the alias of link VETH is missing",
            By::Nobody,
        ),
        fault(
            Where::Node("ip link set VETH mtu 1300"),
            "link VETH on the node has MTU 1300, eth0 in the pod has 1500",
            By::Nobody,
        ),
        fault(
            Where::Node("ip link delete VETH"),
            "interface eth0 is missing in the pod",
            By::Nobody,
        ),
        fault(
            Where::Pod("ip link delete eth0"),
            "interface eth0 is missing in the pod",
            By::Nobody,
        ),
        fault(
            Where::Pod("ip link set eth0 down"),
            "interface eth0 in the pod is down",
            By::Nobody,
        ),
        fault(
            Where::Pod("ip link set eth0 address 02:00:00:00:00:99"),
            "has MAC address 02:00:00:00:00:99",
            By::Nobody,
        ),
        fault(
            Where::Pod("ip addr del 10.64.1.2/24 dev eth0"),
            "address 10.64.1.2/24 is missing on eth0",
            By::Nobody,
        ),
        fault(
            Where::Pod("ip addr del fd00:64:1::2/64 dev eth0"),
            "address fd00:64:1::2/64 is missing on eth0",
            By::Nobody,
        ),
        fault(
            Where::Pod("ip route del default"),
            "route 0.0.0.0/0 via 10.64.1.1 is missing on eth0",
            By::Nobody,
        ),
        fault(
            Where::Pod("ip -6 route del default"),
            "route ::/0 via fd00:64:1::1 is missing on eth0",
            By::Nobody,
        ),
    ];

    /// A node with all defaults, dual-stack.
    fn network() -> Value {
        let ranges = json!([[{ "subnet": "10.64.1.0/24" }], [{ "subnet": "fd00:64:1::/64" }]]);
        conf::with(
            &conf::smallest(),
            &json!({ "ipam": { "subnet": null, "ranges": ranges } }),
        )
    }

    fn link(result: &Value) -> &str {
        result["interfaces"][1]["name"].as_str().expect("a name")
    }

    /// Makes the fault, sees CHECK name it, and answers what it says.
    fn break_it(host: &Host, conf: &Value, fault: &Fault, pod: &Container, result: &Value) {
        host.check(conf, pod, result).done();
        match fault.made {
            Where::Node(script) => {
                harness::sh(&[RULES, script].concat().replace("VETH", link(result)));
            }
            Where::Pod(script) => drop(pod.sh(script)),
        }
        let refusal = host.check(conf, pod, result).refusal();
        let said = format!("{}; {}", refusal.msg, refusal.details);
        let expected = fault.said.replace("VETH", link(result));
        assert!(said.contains(&expected), "{expected} is not in {said}");
    }

    /// What `cni-bridge reconcile` answers for a configuration directory with this network.
    fn reconcile(conf: &Value, options: &[&str]) -> (Option<i32>, String) {
        let dir = "/run/net.d";
        fs::create_dir_all(dir).expect(dir);
        let list = json!({ "cniVersion": "1.0.0", "name": conf["name"], "plugins": [conf] });
        fs::write(format!("{dir}/10-cbr0.conflist"), list.to_string()).expect("a file");
        reconcile_of(dir, options)
    }

    fn reconcile_of(path: &str, options: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(Request::bare("cni-bridge").path())
            .arg("reconcile")
            .args(options)
            .arg(path)
            .env_clear()
            .output()
            .expect("cni-bridge");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// The network still does what it is for: between these two pods, and to the outside.
    fn works(one: &Container, two: &Container, world: &World) {
        for (netns, target, source) in [
            (&two.netns, "10.64.1.3:80", "10.64.1.2"),
            (&two.netns, "[fd00:64:1::3]:80", "fd00:64:1::2"),
            (&world.outside, "203.0.113.10:80", "10.200.0.2"),
            (&world.outside, "[2001:db8:113::10]:80", "2001:db8:200::2"),
        ] {
            assert_eq!(asked(one, netns, target), source, "{target}");
        }
    }

    fn asked(from: &Container, netns: &Netns, target: &str) -> String {
        let _echo = harness::Echo::start(netns, target);
        packet::ask(&from.netns, target).expect(target).to_string()
    }

    /// The node without what a further pod's life changes. In which order two rules stand that
    /// are about different packets makes no difference.
    fn state(host: &Host) -> State {
        let state = host.state().without(&["lease"]);
        let mut lines: Vec<&str> = state.text().lines().collect();
        lines.sort_unstable();
        State::from_text(&lines.join("\n"))
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn check_names_every_object_that_is_gone_and_the_next_add_restores_what_pods_share() {
        for fault in FAULTS {
            on_host(|host| {
                let world = World::around(host);
                let conf = network();
                let (one, result) = host.pod(&conf);
                let (two, other) = host.pod(&conf);
                let before = state(host);
                break_it(host, &conf, fault, &one, &result);
                if fault.by != By::Add {
                    return;
                }
                let (three, _) = host.pod(&conf);
                host.check(&conf, &one, &result).done();
                host.check(&conf, &two, &other).done();
                works(&one, &two, &world);
                host.del(&conf, &three).done();
                state(host).assert_same(&before);
            });
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn reconcile_restores_what_pods_share_and_their_ports_and_says_each() {
        for fault in FAULTS {
            on_host(|host| {
                let world = World::around(host);
                let conf = network();
                let (one, result) = host.pod(&conf);
                let (two, _) = host.pod(&conf);
                let before = state(host);
                break_it(host, &conf, fault, &one, &result);
                let said = fault.said.replace("VETH", link(&result));
                if fault.by == By::Nobody {
                    let broken = host.state();
                    reconcile(&conf, &[]);
                    host.state().assert_same(&broken);
                    return;
                }

                let broken = host.state();
                let (code, text) = reconcile(&conf, &["--dry-run"]);
                assert_eq!(code, Some(1), "{text}");
                assert!(text.contains("wrong: ") && text.contains(&said), "{text}");
                host.state().assert_same(&broken);

                let (code, text) = reconcile(&conf, &[]);
                assert_eq!(code, Some(0), "{text}");
                assert!(
                    text.contains("restored: ") && text.contains(&said),
                    "{text}"
                );
                host.check(&conf, &one, &result).done();
                works(&one, &two, &world);
                state(host).assert_same(&before);

                let (code, text) = reconcile(&conf, &[]);
                assert_eq!(code, Some(0), "{text}");
                assert!(text.contains("2 pods, all as it should be"), "{text}");
                state(host).assert_same(&before);
            });
        }
    }

    /// A bridge that is made anew gets back the ports of pods that were there before, and
    /// none that belongs to another network.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_add_that_makes_the_bridge_anew_connects_the_pods_of_before() {
        on_host(|host| {
            let conf = network();
            let pods: Vec<_> = (0..5).map(|_| host.pod(&conf)).collect();
            let other = conf::with(
                &conf::smallest(),
                &json!({ "name": "other", "bridge": "cbr1", "ipam": { "subnet": "10.65.1.0/24" } }),
            );
            let (_foreign, _) = host.pod(&other);
            let before = state(host);
            harness::sh(
                "ip link delete cbr0; ip link add foreign0 type veth peer foreign1; ip link set foreign0 up",
            );
            let (new, _) = host.pod(&conf);
            for (pod, result) in &pods {
                host.check(&conf, pod, result).done();
            }
            assert_eq!(asked(&pods[4].0, &new.netns, "10.64.1.7:80"), "10.64.1.6");
            host.del(&conf, &new).done();
            harness::sh("ip link delete foreign0");
            state(host).assert_same(&before);
        });
    }

    /// A firewall that is loaded anew has forgotten what `forwardAccept` put into it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn reconcile_accepts_pods_again_in_a_firewall_that_was_loaded_anew() {
        on_host(|host| {
            let world = World::around(host);
            let load = "nft -f - <<'END'
                table inet site { }
                delete table inet site
                table inet site { chain forward { type filter hook forward priority 0; policy drop; }; }
END";
            harness::sh(load);
            let conf = conf::with(&network(), &json!({ "forwardAccept": true }));
            let (one, result) = host.pod(&conf);
            let (two, _) = host.pod(&conf);
            let before = state(host);
            works(&one, &two, &world);
            harness::sh(load);
            let refusal = host.check(&conf, &one, &result).refusal();
            let said = format!("{}; {}", refusal.msg, refusal.details);
            assert!(said.contains("forwardAccept"), "{said}");
            let (code, text) = reconcile(&conf, &[]);
            assert_eq!(code, Some(0), "{text}");
            assert!(
                text.contains("restored: the rules of \"forwardAccept\""),
                "{text}"
            );
            works(&one, &two, &world);
            host.check(&conf, &one, &result).done();
            state(host).assert_same(&before);
        });
    }

    /// What is checked of the pods' packets is about each of them: after a flush by somebody
    /// else it comes back for all, also for one with a MAC address of its own.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_check_of_what_pods_send_comes_back_for_all_of_them() {
        on_host(|host| {
            let conf = conf::with(&network(), &json!({ "ipspoofchk": true }));
            let asked = json!({ "runtimeConfig": { "mac": "02:00:00:00:00:99" } });
            let (_one, _) = host.pod(&conf);
            let (_two, _) = host.pod(&conf::with(&conf, &asked));
            let before = state(host);
            for flush in ["nft flush ruleset", "nft delete table bridge cni-bridge"] {
                harness::sh(flush);
                let (next, _) = host.pod(&conf);
                host.del(&conf, &next).done();
                state(host).assert_same(&before);
                harness::sh(flush);
                let (code, text) = reconcile(&conf, &[]);
                assert_eq!(code, Some(0), "{text}");
                assert!(
                    text.contains("restored: what pods send is not checked"),
                    "{text}"
                );
                state(host).assert_same(&before);
            }
        });
    }

    /// A network without addresses has nothing but the bridge and its ports.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn without_addresses_too_and_only_the_pods_of_its_own_network() {
        on_host(|host| {
            let bare = |name: &str, bridge: &str| {
                let keys = json!({ "name": name, "bridge": bridge, "ipam": null });
                conf::with(&conf::smallest(), &keys)
            };
            let (pod, result) = host.pod(&bare("one", "cbr1"));
            let (_foreign, other) = host.pod(&bare("two", "cbr2"));
            harness::sh("ip link delete cbr1; ip link delete cbr2");
            host.pod(&bare("one", "cbr1"));
            host.check(&bare("one", "cbr1"), &pod, &result).done();
            let link = harness::sh(&format!("ip -o link show {}", link(&other)));
            assert!(!link.contains("master"), "{link}");
        });
    }

    /// A port that was given to another bridge stays there: CHECK and reconcile say it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_port_of_another_bridge_is_not_taken_away_from_it() {
        on_host(|host| {
            let conf = network();
            let (pod, result) = host.pod(&conf);
            let script = format!(
                "ip link add br7 type bridge; ip link set {} master br7",
                link(&result)
            );
            harness::sh(&script);
            let broken = host.state();
            let (code, text) = reconcile(&conf, &[]);
            assert_eq!(code, Some(1), "{text}");
            assert!(
                text.contains("wrong: link") && text.contains("is no port of bridge cbr0"),
                "{text}"
            );
            host.state().assert_same(&broken);
            host.keep(pod);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_pod_with_an_address_of_an_earlier_pod_cidr_is_left_alone() {
        on_host(|host| {
            let (pod, result) = host.pod(&network());
            let moved = conf::with(
                &conf::smallest(),
                &json!({ "ipam": { "subnet": "10.64.9.0/24" } }),
            );
            let before = host.state().only(&["address", "link", "lease"]);
            let (code, text) = reconcile(&moved, &[]);
            assert_eq!(code, Some(0), "{text}");
            host.state()
                .only(&["address", "link", "lease"])
                .assert_same(&before);
            host.check(&network(), &pod, &result).done();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_node_without_pods_or_without_a_network_is_left_as_it_is() {
        on_host(|host| {
            let before = host.state();
            let (code, text) = reconcile(&network(), &[]);
            assert_eq!(code, Some(0), "{text}");
            assert!(
                text.contains("0 pods") && text.contains("no pod has been here yet"),
                "{text}"
            );
            fs::create_dir_all("/run/empty").expect("a directory");
            let (code, text) = reconcile_of("/run/empty", &[]);
            assert_eq!(code, Some(0), "{text}");
            assert!(
                text.contains("no network of this plugin in /run/empty"),
                "{text}"
            );
            let (code, text) = reconcile_of("/run/none", &[]);
            assert_eq!(code, Some(1), "{text}");
            assert!(
                text.contains("cannot read /run/none: No such file"),
                "{text}"
            );
            host.state().assert_same(&before);
        });
    }

    /// One broken file keeps no other network from being restored.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_file_that_cannot_be_read_is_named_and_the_others_are_served() {
        on_host(|host| {
            let conf = network();
            let (pod, result) = host.pod(&conf);
            harness::sh(
                "mkdir -p /run/net.d; echo '{' >/run/net.d/05-torn.conflist; ip link set cbr0 down",
            );
            let (code, text) = reconcile(&conf, &[]);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains("05-torn.conflist: EOF"), "{text}");
            assert!(text.contains("restored: bridge cbr0 is down"), "{text}");
            host.check(&conf, &pod, &result).done();
        });
    }

    /// Pods come and go while it works, and another one works beside it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn reconcile_disturbs_no_pod_that_comes_or_goes() {
        on_host(|host| {
            let conf = network();
            let (stays, result) = host.pod(&conf);
            for _ in 0..3 {
                harness::sh("ip link delete cbr0; nft flush ruleset");
                std::thread::scope(|scope| {
                    for _ in 0..2 {
                        scope.spawn(|| {
                            for _ in 0..5 {
                                reconcile(&conf, &[]);
                            }
                        });
                    }
                    for _ in 0..6 {
                        let (pod, result) = host.pod(&conf);
                        host.check(&conf, &pod, &result).done();
                        host.del(&conf, &pod).done();
                    }
                });
                host.check(&conf, &stays, &result).done();
                let (code, text) = reconcile(&conf, &[]);
                assert_eq!(code, Some(0), "{text}");
                assert!(text.contains("1 pod, all as it should be"), "{text}");
            }
        });
    }
}
