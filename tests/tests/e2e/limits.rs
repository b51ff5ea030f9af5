//! Where a node ends: a full bridge, a bridge of somebody else's, another CIDR than before, a
//! pods' network that the node has already. Clear words, and nothing half done.

mod ours {
    use harness::{Answer, Echo, Host, conf, on_host, packet};
    use serde_json::{Value, json};

    /// `10.64.N.0/24`.
    fn subnet(n: u8) -> Value {
        let subnet = format!("10.64.{n}.0/24");
        conf::with(&conf::smallest(), &json!({ "ipam": { "subnet": subnet } }))
    }

    fn addresses(host: &Host) -> String {
        let lines = host.state().only(&["address"]);
        let of_bridge = lines.text().lines().filter(|line| line.contains("cbr0"));
        of_bridge.collect::<Vec<_>>().join("\n")
    }

    fn mac_of_bridge() -> String {
        let mac = harness::sh("cat /sys/class/net/cbr0/address");
        mac.trim().to_owned()
    }

    /// ADD and STATUS are refused with these words, and change nothing.
    fn refused(host: &Host, conf: &Value, words: &[&str]) {
        let pod = host.container();
        let (before, inside) = (host.state(), pod.state());
        says(host.add(conf, &pod), &[7], words);
        host.state().assert_same(&before);
        pod.state().assert_same(&inside);
        says(host.status(conf), &[50], words);
        host.state().assert_same(&before);
    }

    fn says(answer: Answer, codes: &[u64], words: &[&str]) {
        let refusal = answer.refusal();
        let said = format!("{}; {}", refusal.msg, refusal.details);
        assert!(codes.contains(&refusal.code), "{refusal:?}");
        for words in words {
            assert!(said.contains(words), "{words} is not in {said}");
        }
        assert!(!refusal.msg.contains('\n'), "{refusal:?}");
    }

    /// ADD succeeds. Answers what it had to say beside the result.
    fn notes_of_add(host: &Host, conf: &Value) -> String {
        let pod = host.container();
        let answer = host.add(conf, &pod);
        let notes = answer.stderr.clone();
        answer.result();
        host.keep(pod);
        notes
    }

    /// A pair of links that stands for an uplink, and an address on it.
    fn uplink(address: &str) {
        harness::sh(&format!(
            "ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up
             ip addr add {address} dev up0"
        ));
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_full_bridge_is_announced_and_takes_a_pod_again_when_one_has_gone() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            let fill = |from: u32, to: u32| {
                let pair = |n| {
                    format!(
                        "link add a{n} type veth peer name b{n}\n\
                         link set a{n} master cbr0\nlink set b{n} master cbr0\n"
                    )
                };
                host.netns.ip(&(from..to).map(pair).collect::<String>());
            };
            // 971 ports, and then 973.
            fill(0, 485);
            let quiet = host.status(&conf::smallest());
            assert!(!quiet.stderr.contains("ports"), "{quiet:?}");
            quiet.done();
            fill(485, 486);
            let warned = host.status(&conf::smallest());
            assert!(
                warned.stderr.contains("bridge cbr0 has 973 ports"),
                "{warned:?}"
            );
            assert!(warned.stderr.contains("1023"), "{warned:?}");
            warned.done();

            fill(486, 511);
            let conf = conf::with(&conf::smallest(), &json!({ "macspoofchk": true }));
            let pod = host.container();
            let (before, inside) = (host.state(), pod.state());
            says(
                host.add(&conf, &pod),
                &[11],
                &["bridge cbr0 has no free port", "1023"],
            );
            host.state().assert_same(&before);
            pod.state().assert_same(&inside);
            harness::sh("ip link delete a0");
            host.add(&conf, &pod).result();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_bridge_with_an_uplink_is_changed_with_a_note() {
        on_host(|host| {
            harness::sh(
                "ip link add br9 type bridge; ip link add enp1s0 type veth peer name cable
                 ip link set enp1s0 master br9; ip link set enp1s0 up; ip link set cable up
                 ip link set br9 up",
            );
            let mac = || harness::sh("cat /sys/class/net/br9/address");
            let before = mac();
            let conf = conf::with(&conf::smallest(), &json!({ "bridge": "br9", "mtu": 1400 }));
            let notes = notes_of_add(host, &conf);
            for words in [
                "bridge br9 was made by somebody else",
                "(enp1s0)",
                "fix the address of bridge br9",
                "set the MTU of bridge br9 to 1400",
                "hand the packets of bridge br9 to iptables",
            ] {
                assert!(notes.contains(words), "{words} is not in {notes}");
            }
            assert_eq!(mac(), before, "pinned, not changed");
            // Once: there is nothing more to change, and the bridge keeps its address.
            assert_eq!(notes_of_add(host, &conf), "");
            harness::sh(
                "ip link add low address 00:00:00:00:00:01 type veth peer name lower
                 ip link set low master br9; ip link set low up",
            );
            assert_eq!(mac(), before, "whatever port comes");
        });
    }

    /// Nobody has to be told of an empty bridge, or of one with pods only.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_bridge_without_ports_of_others_is_changed_without_a_note() {
        on_host(|host| {
            harness::sh("ip link add br9 type bridge");
            let conf = conf::with(&conf::smallest(), &json!({ "bridge": "br9" }));
            assert_eq!(notes_of_add(host, &conf), "");
            harness::sh("ip link set br9 type bridge nf_call_iptables 0");
            assert_eq!(notes_of_add(host, &conf), "");
            let line = host.state().only(&["link br9 "]);
            assert!(line.text().contains("nf_call_iptables 1"), "{line:?}");
        });
    }

    /// Docker's, with an address of its own and a container.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_bridge_with_another_address_and_ports_stays_as_it_is() {
        on_host(|host| {
            harness::sh(
                "ip link add docker0 address 02:42:11:22:33:44 type bridge
                 ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
                 ip link add vethc type veth peer name inside; ip link set vethc master docker0",
            );
            let conf = conf::with(&conf::smallest(), &json!({ "bridge": "docker0" }));
            let words = [
                "docker0",
                "172.17.0.1/16",
                "10.64.1.1/24",
                "1 ports",
                "ip address del 172.17.0.1/16 dev docker0",
                "forceAddress",
            ];
            refused(host, &conf, &words);
            let refusal = host.add(&conf, &host.container()).refusal();
            assert!(!refusal.msg.contains("drain"), "{refusal:?}");
        });
    }

    /// The node got another CIDR, twice, while it had no pods.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn another_cidr_replaces_the_gateway_of_pods_that_are_gone() {
        on_host(|host| {
            let dual = |n: u8| {
                let [v4, v6] = [format!("10.64.{n}.0/24"), format!("fd00:64:{n}::/64")];
                conf::network(&conf::ipam(&[&v4, &v6]))
            };
            let (pod, _) = host.pod(&dual(1));
            host.del(&dual(1), &pod).done();
            for n in [2, 3] {
                host.status(&dual(n)).done();
                let (pod, result) = host.pod(&dual(n));
                let expected = format!(
                    "address 10.64.{n}.1/24 on cbr0\naddress fd00:64:{n}::1/64 on cbr0 nodad"
                );
                assert_eq!(addresses(host), expected);
                assert_eq!(mac_of_bridge(), "0a:58:0a:40:01:01", "it never changes");
                let _echo = Echo::start(&host.netns, "[::]:7");
                let gateway = format!("10.64.{n}.1:7");
                packet::ask(&pod.netns, &gateway).expect(&gateway);
                host.check(&dual(n), &pod, &result).done();
                host.del(&dual(n), &pod).done();
            }
            // From IPv4 and IPv6 to IPv4 alone.
            let (_pod, _) = host.pod(&subnet(4));
            assert_eq!(addresses(host), "address 10.64.4.1/24 on cbr0");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn another_cidr_is_refused_while_there_are_pods_of_the_old() {
        on_host(|host| {
            let (old, result) = host.pod(&subnet(1));
            let (other, _) = host.pod(&subnet(1));
            let words = [
                "cbr0",
                "10.64.1.1/24",
                "10.64.2.1/24",
                "2 ports",
                "drain the node",
                "pods of 10.64.1.0/24",
                "forceAddress",
            ];
            refused(host, &subnet(2), &words);
            let _echo = Echo::start(&host.netns, "[::]:7");
            packet::ask(&old.netns, "10.64.1.1:7").expect("the gateway of the old pods");
            host.check(&subnet(1), &old, &result).done();
            for pod in [&old, &other] {
                host.del(&subnet(1), pod).done();
            }
            assert!(notes_of_add(host, &subnet(2)).contains("10.64.1.1/24"));
            assert_eq!(addresses(host), "address 10.64.2.1/24 on cbr0");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn force_address_replaces_the_gateway_of_pods_and_check_says_so() {
        on_host(|host| {
            let (old, old_result) = host.pod(&subnet(1));
            let forced = conf::with(&subnet(2), &json!({ "forceAddress": true }));
            let (new, new_result) = host.pod(&forced);
            assert_eq!(addresses(host), "address 10.64.2.1/24 on cbr0");
            assert_eq!(mac_of_bridge(), "0a:58:0a:40:01:01");
            host.check(&forced, &new, &new_result).done();
            let words = "gateway address 10.64.1.1/24 is missing on bridge cbr0";
            host.check(&subnet(1), &old, &old_result)
                .refused(999, words);
            host.del(&subnet(1), &old).done();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_network_that_the_node_has_already_is_refused() {
        let v4 = conf::smallest();
        let v6 = conf::with(&v4, &json!({ "ipam": { "subnet": "fd00:64:1::/64" } }));
        for (conf, address, words) in [
            // The very network, a part of it, one address of it.
            (
                &v4,
                "10.64.1.77/24",
                ["10.64.1.0/24", "link up0 has the address 10.64.1.77/24"],
            ),
            (
                &v4,
                "10.64.1.77/28",
                ["10.64.1.0/24", "link up0 has the address 10.64.1.77/28"],
            ),
            (
                &v4,
                "10.64.1.77/32",
                ["10.64.1.0/24", "link up0 has the address 10.64.1.77/32"],
            ),
            // The node's address would be given to a pod.
            (
                &v4,
                "10.64.1.77/16",
                ["10.64.1.0/24", "link up0 has the address 10.64.1.77/16"],
            ),
            (
                &v6,
                "fd00:64:1::77/64",
                [
                    "fd00:64:1::/64",
                    "link up0 has the address fd00:64:1::77/64",
                ],
            ),
        ] {
            on_host(|host| {
                uplink(address);
                refused(host, conf, &words);
            });
        }
    }

    /// As on clouds where the node has a /32 and its gateway is on no network.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_network_with_the_nodes_default_gateway_is_refused() {
        on_host(|host| {
            uplink("10.0.0.4/32");
            harness::sh("ip route add default via 10.64.1.254 dev up0 onlink");
            refused(
                host,
                &conf::smallest(),
                &[
                    "10.64.1.0/24",
                    "default gateway is 10.64.1.254, by link up0",
                ],
            );
        });
        on_host(|host| {
            uplink("fd00::4/128");
            harness::sh("ip -6 route add default via fd00:64:1::fe dev up0 onlink");
            let subnet = json!({ "ipam": { "subnet": "fd00:64:1::/64" } });
            let conf = conf::with(&conf::smallest(), &subnet);
            refused(
                host,
                &conf,
                &[
                    "fd00:64:1::/64",
                    "default gateway is fd00:64:1::fe, by link up0",
                ],
            );
        });
    }

    /// The bridge of the plugin that was here before, with its pods.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_network_of_another_bridge_is_refused() {
        on_host(|host| {
            let (_pod, _) = host.pod(&conf::with(&conf::smallest(), &json!({ "bridge": "cni0" })));
            let conf = conf::with(&conf::smallest(), &json!({ "name": "other" }));
            refused(
                host,
                &conf,
                &["10.64.1.0/24", "link cni0 has the address 10.64.1.1/24"],
            );
        });
    }

    /// The longer prefix leads to the pods: it works, and may not be meant.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_part_of_a_network_of_the_nodes_is_used_with_a_note() {
        on_host(|host| {
            uplink("10.64.0.4/16");
            let words = "10.64.1.0/24 is a part of 10.64.0.0/16, the network of link up0";
            let status = host.status(&conf::smallest());
            assert!(status.stderr.contains(words), "{status:?}");
            status.done();
            let notes = notes_of_add(host, &conf::smallest());
            assert_eq!(notes.matches(words).count(), 1, "{notes}");
            assert_eq!(notes_of_add(host, &conf::smallest()), "", "once");
        });
    }

    /// Nobody is in the way: not link-local addresses, nor an address that comes when the
    /// pods are there.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_does_no_harm_is_not_mentioned() {
        on_host(|host| {
            uplink("169.254.7.7/16");
            // The last is as of flannel's tunnel.
            harness::sh(
                "ip addr add 10.65.0.4/16 dev up0; ip addr add fe80::77/64 dev up0
                 ip addr add 10.64.1.0/32 dev up0",
            );
            assert_eq!(notes_of_add(host, &conf::smallest()), "");
            harness::sh("ip addr add 10.64.1.77/32 dev up0");
            assert_eq!(notes_of_add(host, &conf::smallest()), "");
            host.status(&conf::smallest()).done();
        });
    }
}
