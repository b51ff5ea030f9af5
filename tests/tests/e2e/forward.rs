//! The node's own firewall in the way of pods: found, named with the fix, and overcome with
//! `forwardAccept`.
//!
//! The rule sets under `fixtures/forward` are recorded ones; their heads say how.

use std::path::Path;

use harness::{Container, Echo, Host, Netns, World, conf, on_host, packet};
use serde_json::{Value, json};

/// Loads a recorded rule set by the program that its name says.
fn load(fixture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/forward")
        .join(fixture);
    let program = match path.extension().and_then(|ending| ending.to_str()) {
        Some("iptables") => "iptables-nft-restore <",
        Some("ip6tables") => "ip6tables-nft-restore <",
        _ => "nft -f",
    };
    harness::sh(&format!("{program} {}", path.display()));
}

/// Feeds a ruleset to nft.
fn nft(ruleset: &str) {
    harness::sh(&format!("nft -f - <<'END'\n{ruleset}\nEND"));
}

/// A forward chain of nobody's with policy drop.
fn closed(family: &str, rules: &str) {
    nft(&format!(
        "table {family} wall {{\nchain wall {{\ntype filter hook forward priority 0; policy drop;\n{rules}\n}}\n}}"
    ));
}

/// A chain that FORWARD calls, and in which nothing is.
fn calls(chain: &str) {
    harness::sh(&format!(
        "iptables-nft -N {chain}; iptables-nft -A FORWARD -j {chain}"
    ));
}

fn v4() -> Value {
    conf::smallest()
}

fn v6() -> Value {
    conf::with(
        &conf::smallest(),
        &json!({ "ipam": { "subnet": "fd00:64:1::/64" } }),
    )
}

fn accepting(conf: &Value) -> Value {
    conf::with(conf, &json!({ "forwardAccept": true }))
}

/// Two pods of a node in its world, and a net beside them that is nothing to pods.
struct Scene {
    world: World,
    first: Container,
    second: Container,
    /// The second pod's result.
    result: Value,
    ends: &'static Ends,
    /// Outside, in the lan, in the first pod, beside the pods.
    servers: [Echo; 4],
    _stranger: Netns,
}

/// Addresses that see each other through the node.
struct Ends {
    outside: &'static str,
    lan: &'static str,
    pod: &'static str,
    stranger: &'static str,
}

const V4: Ends = Ends {
    outside: "203.0.113.10:80",
    lan: "10.250.0.10:80",
    pod: "10.64.1.2:80",
    stranger: "172.20.0.2:80",
};

const V6: Ends = Ends {
    outside: "[2001:db8:113::10]:80",
    lan: "[fd00:250::10]:80",
    pod: "[fd00:64:1::2]:80",
    stranger: "[fd00:172::2]:80",
};

/// From where to whom.
struct Way<'a> {
    name: &'static str,
    from: &'a Netns,
    to: &'a Echo,
    target: &'static str,
}

impl Way<'_> {
    /// By UDP and TCP.
    #[track_caller]
    fn assert_open(&self) {
        let Self { name, target, .. } = self;
        packet::ask(self.from, target)
            .unwrap_or_else(|error| panic!("{name}: no UDP to {target}: {error}"));
        packet::connect(self.from, target)
            .unwrap_or_else(|error| panic!("{name}: no TCP to {target}: {error}"));
    }

    #[track_caller]
    fn assert_closed(&self) {
        let Self { name, target, .. } = self;
        let before = self.to.seen().len();
        let silent = packet::is_silent(self.from, target);
        assert!(silent, "{name}: {target} answers");
        let arrived = self.to.seen().len() - before;
        assert_eq!(arrived, 0, "{name}: packets arrive at {target}");
    }
}

impl Scene {
    /// Everybody reaches everybody.
    fn new(host: &Host, conf: &Value) -> Self {
        let ends = if conf["ipam"]["subnet"] == "fd00:64:1::/64" {
            &V6
        } else {
            &V4
        };
        let world = World::around(host);
        let (first, _) = host.pod(conf);
        let (second, result) = host.pod(conf);
        let stranger = stranger(host, &world);
        let scene = Self {
            servers: [
                Echo::start(&world.outside, ends.outside),
                Echo::start(&world.lan, ends.lan),
                Echo::start(&first.netns, ends.pod),
                Echo::start(&stranger, ends.stranger),
            ],
            ends,
            world,
            first,
            second,
            result,
            _stranger: stranger,
        };
        scene.assert_open();
        scene.stranger().assert_open();
        scene
    }

    fn ways(&self) -> [Way<'_>; 4] {
        let [outside, lan, pod, _] = &self.servers;
        let (first, second) = (&self.first.netns, &self.second.netns);
        let way = |name, from, to, target| Way {
            name,
            from,
            to,
            target,
        };
        [
            way("out", first, outside, self.ends.outside),
            way("to the lan", first, lan, self.ends.lan),
            way("in", &self.world.lan, pod, self.ends.pod),
            way("across", second, pod, self.ends.pod),
        ]
    }

    /// Nothing of pods: what else the node forwards.
    fn stranger(&self) -> Way<'_> {
        let [.., to] = &self.servers;
        Way {
            name: "stranger",
            from: &self.world.lan,
            to,
            target: self.ends.stranger,
        }
    }

    /// Pods reach and are reached.
    #[track_caller]
    fn assert_open(&self) {
        for way in self.ways() {
            way.assert_open();
        }
    }

    /// Only these ways are open.
    #[track_caller]
    fn assert_open_only(&self, open: &[&str]) {
        let (open, closed): (Vec<Way>, Vec<Way>) = self
            .ways()
            .into_iter()
            .partition(|way| open.contains(&way.name));
        for way in open {
            way.assert_open();
        }
        // Each takes its time.
        std::thread::scope(|scope| {
            for way in closed {
                scope.spawn(move || way.assert_closed());
            }
        });
    }

    /// What CHECK of the second pod says; nothing when it is content.
    fn check(&self, host: &Host, conf: &Value) -> String {
        let answer = host.check(conf, &self.second, &self.result);
        if answer.status == 0 {
            return String::new();
        }
        answer.refusal().msg
    }
}

/// A net on another link of the node, to which the world knows the way.
fn stranger(host: &Host, world: &World) -> Netns {
    let netns = Netns::new();
    let path = netns.path();
    host.netns.ip(&format!(
        "link add strange type veth peer name eth0 netns {}
         addr add 172.20.0.1/24 dev strange
         addr add fd00:172::1/64 dev strange nodad
         link set strange up",
        path.display()
    ));
    netns.ip("link set lo up
         link set eth0 up
         addr add 172.20.0.2/24 dev eth0
         addr add fd00:172::2/64 dev eth0 nodad
         route add default via 172.20.0.1
         route add default via fd00:172::1");
    world.router.ip("route add 172.20.0.0/24 via 10.200.0.2
         route add fd00:172::/64 via fd00:200::2");
    netns
}

/// The command that a note on stderr gives.
fn remedy(note: &str) -> &str {
    let (_, command) = note
        .split_once("run: ")
        .unwrap_or_else(|| panic!("no command in {note:?}"));
    command.lines().next().expect("a line")
}

fn has_bridge_netfilter(host: &Host) -> bool {
    let there = Path::new("/proc/sys/net/bridge").exists();
    if !there {
        host.cannot_run("no br_netfilter: packets between pods do not come to the forward hook");
    }
    there
}

mod ours {
    use std::{
        io::Write,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    /// Loads rules that drop the pods' packets, and holds what is promised: they are found
    /// and named, the command that is given helps, and so does the key.
    fn is_found_and_overcome(conf: &Value, load: fn(), named: &[&str]) {
        on_host(|host| {
            if !has_bridge_netfilter(host) {
                return;
            }
            let scene = Scene::new(host, conf);
            load();
            let closed = host.state();
            scene.assert_open_only(&[]);
            scene.stranger().assert_closed();

            let difference = scene.check(host, conf);
            let status = host.status(conf);
            assert_eq!(status.status, 0, "{status:?}");
            for words in named.iter().chain(&[
                "from pods to the outside, from the outside to pods, between pods of this node are dropped",
                "set \"forwardAccept\": true",
            ]) {
                assert!(difference.contains(words), "{words} is not in {difference}");
                assert!(status.stderr.contains(words), "{words} is not in {}", status.stderr);
            }
            host.state().assert_same(&closed);

            let accepting = accepting(conf);
            let (third, _) = host.pod(&accepting);
            scene.assert_open();
            scene.stranger().assert_closed();
            assert_eq!(scene.check(host, &accepting), "");
            assert_eq!(scene.check(host, conf), "");
            assert_eq!(host.status(&accepting).stderr, "");

            let opened = host.state().only(&["nft"]);
            let (fourth, _) = host.pod(&accepting);
            host.state().only(&["nft"]).assert_same(&opened);
            for pod in [&third, &fourth] {
                host.del(&accepting, pod).done();
            }
            host.state().only(&["nft"]).assert_same(&opened);
            let is_ours = |line: &&str| line.contains("pods of cbr0 #f");
            let others: Vec<&str> = opened
                .text()
                .lines()
                .filter(|line| !is_ours(line))
                .collect();
            assert_eq!(others.join("\n"), closed.only(&["nft"]).text());
            assert_eq!(opened.text().lines().filter(is_ours).count(), 2);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_chain_of_nftables_with_policy_drop() {
        is_found_and_overcome(
            &v4(),
            || closed("inet", ""),
            &[
                "chain wall of nftables table inet wall (policy drop)",
                "nft insert rule inet wall wall iifname cbr0 accept && nft insert rule inet wall wall oifname cbr0 accept",
            ],
        );
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn iptables_with_policy_drop() {
        is_found_and_overcome(
            &v4(),
            || drop(harness::sh("iptables-nft -P FORWARD DROP")),
            &[
                "chain FORWARD of nftables table ip filter (policy drop)",
                "iptables -I FORWARD -i cbr0 -j ACCEPT && iptables -I FORWARD -o cbr0 -j ACCEPT",
            ],
        );
    }

    /// As Red Hat's iptables service had it.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn iptables_with_a_last_rule_that_rejects() {
        is_found_and_overcome(
            &v4(),
            || {
                let rules = "iptables-nft -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT; \
                             iptables-nft -A FORWARD -p icmp -j ACCEPT; iptables-nft -A FORWARD -j REJECT";
                harness::sh(rules);
            },
            &["chain FORWARD of nftables table ip filter (rule with handle "],
        );
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn ip6tables_with_policy_drop() {
        is_found_and_overcome(
            &v6(),
            || drop(harness::sh("ip6tables-nft -P FORWARD DROP")),
            &[
                "chain FORWARD of nftables table ip6 filter (policy drop)",
                "ip6tables -I FORWARD -i cbr0 -j ACCEPT",
            ],
        );
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn docker_20() {
        is_found_and_overcome(
            &v4(),
            || load("docker-20.10.iptables"),
            &[
                "table ip filter (policy drop)",
                "iptables -I DOCKER-USER -i cbr0 -j ACCEPT",
            ],
        );
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn docker_29() {
        is_found_and_overcome(
            &v4(),
            || load("docker-29.iptables"),
            &[
                "table ip filter (policy drop)",
                "iptables -I DOCKER-USER -i cbr0 -j ACCEPT",
            ],
        );
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn docker_29_with_ipv6() {
        is_found_and_overcome(
            &v6(),
            || load("docker-29.ip6tables"),
            &[
                "table ip6 filter (policy drop)",
                "ip6tables -I DOCKER-USER -i cbr0 -j ACCEPT",
            ],
        );
    }

    /// Its chain accepts what is marked for a Service, or belongs to a connection.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn kube_proxy_does_not_accept_what_is_no_service() {
        is_found_and_overcome(
            &v4(),
            || load("kube-proxy.iptables"),
            &["table ip filter (policy drop)"],
        );
    }

    /// Its policy is accept; its last rule rejects all that no zone knows.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn firewalld() {
        let named = [
            "chain filter_FORWARD of nftables table inet firewalld (rule with handle ",
            " in chain filter_FWD_public)",
            "firewall-cmd --permanent --zone=trusted --add-interface=cbr0",
            "firewall-cmd --reload",
        ];
        is_found_and_overcome(&v4(), || load("firewalld-1.3.nft"), &named);
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn firewalld_with_ipv6() {
        let named = ["chain filter_FORWARD of nftables table inet firewalld"];
        is_found_and_overcome(&v6(), || load("firewalld-1.3.nft"), &named);
    }

    /// The command that STATUS gives is run as it stands there.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_command_that_is_given_helps() {
        for close in [
            (|| closed("ip", "")) as fn(),
            || closed("inet", ""),
            || drop(harness::sh("iptables-nft -P FORWARD DROP")),
            || load("docker-20.10.iptables"),
            || load("docker-29.iptables"),
        ] {
            on_host(|host| {
                if !has_bridge_netfilter(host) {
                    return;
                }
                let scene = Scene::new(host, &v4());
                close();
                assert_ne!(scene.check(host, &v4()), "");
                harness::sh(remedy(&host.status(&v4()).stderr));
                scene.assert_open();
                scene.stranger().assert_closed();
                assert_eq!(scene.check(host, &v4()), "");
                assert_eq!(host.status(&v4()).stderr, "");
            });
        }
    }

    /// As firewalld writes them after its own commands: the zone alone lets nobody in.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn firewalld_needs_a_zone_and_a_policy() {
        on_host(|host| {
            let scene = Scene::new(host, &v4());
            load("firewalld-1.3-trusted.nft");
            scene.assert_open_only(&["out", "to the lan", "across"]);
            let difference = scene.check(host, &v4());
            assert!(
                difference.contains("connections from the outside to pods are dropped"),
                "{difference}"
            );
            assert!(difference.contains("--policy=to-pods --add-egress-zone=trusted"));

            harness::sh("nft flush ruleset");
            host.pod(&v4());
            load("firewalld-1.3-pods.nft");
            scene.assert_open();
            assert_eq!(scene.check(host, &v4()), "");
            assert_eq!(host.status(&v4()).stderr, "");
        });
    }

    /// A table whose chains are not called.
    const DORMANT: &str = "table inet off {
        flags dormant
        chain f {
            type filter hook forward priority 0; policy drop;
        }
    }";

    /// Nothing is found where nothing is dropped, and nothing is put in.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn rules_that_are_not_in_the_way_are_left_alone() {
        let loads: [fn(); 5] = [
            || load("docker-29.nft"),
            || load("kube-proxy.nft"),
            || calls("X"),
            || nft(DORMANT),
            || closed("ip6", ""),
        ];
        for load in loads {
            on_host(|host| {
                let scene = Scene::new(host, &v4());
                load();
                scene.assert_open();
                let before = host.state().only(&["nft"]);
                assert_eq!(scene.check(host, &v4()), "");
                assert_eq!(host.status(&v4()).stderr, "");
                host.pod(&accepting(&v4()));
                host.state().only(&["nft"]).assert_same(&before);
            });
        }
    }

    /// Ways in which an admin lets pods pass.
    const ACCEPTED: [&str; 8] = [
        "iifname cbr0 accept; oifname cbr0 accept",
        "iif cbr0 accept; oif cbr0 accept",
        "iifname \"cb*\" accept; oifname { cbr0, docker0 } accept",
        "ip saddr 10.64.0.0/16 accept; ip daddr 10.64.1.0/24 accept",
        "ip saddr { 10.64.1.0/24, 192.0.2.7 } accept; ip daddr 10.64.1.0-10.64.1.255 accept",
        "ct state vmap { invalid : drop, new : accept, established : accept, related : accept }",
        "meta l4proto { tcp, udp } iifname cbr0 accept; meta nfproto ipv4 oifname cbr0 accept",
        "iifname . ip saddr { cbr0 . 10.64.1.0/24 } accept; oifname vmap { cbr0 : accept }",
    ];

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_an_admin_accepts_is_not_alarmed_about() {
        on_host(|host| {
            let scene = Scene::new(host, &v4());
            for rules in ACCEPTED {
                closed(
                    "inet",
                    &format!("ct state established,related accept; {rules}"),
                );
                scene.assert_open();
                assert_eq!(scene.check(host, &v4()), "", "{rules}");
                assert_eq!(host.status(&v4()).stderr, "", "{rules}");
                harness::sh("nft delete table inet wall");
            }
            let table = host.state().only(&["nft"]);
            harness::sh(
                "iptables-nft -P FORWARD DROP; iptables-nft -N OWN; iptables-nft -A FORWARD -j OWN; \
                 iptables-nft -A OWN -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
                 iptables-nft -A OWN -s 10.64.1.0/24 -m conntrack --ctstate NEW -j ACCEPT; \
                 iptables-nft -A OWN -d 10.64.1.0/24 -m conntrack ! --ctstate INVALID -j ACCEPT",
            );
            scene.assert_open();
            assert_eq!(scene.check(host, &v4()), "");
            assert_eq!(host.status(&v4()).stderr, "");
            let before = host.state().only(&["nft"]);
            assert_ne!(before, table);
            host.pod(&accepting(&v4()));
            host.state().only(&["nft"]).assert_same(&before);
        });
    }

    /// Who marks packets before the forward hook, or takes them out of tracking, may have
    /// accepted them by that.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_an_admin_marks_is_not_alarmed_about() {
        on_host(|host| {
            let scene = Scene::new(host, &v4());
            for script in [
                "iptables-nft -t mangle -A PREROUTING -j MARK --set-mark 7; \
                 iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -m mark --mark 7 -j ACCEPT",
                "iptables-nft -t raw -A PREROUTING -j NOTRACK; iptables-nft -P FORWARD DROP; \
                 iptables-nft -A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT",
            ] {
                harness::sh(script);
                if script.contains("mark 7") {
                    scene.assert_open();
                }
                assert_eq!(scene.check(host, &v4()), "", "{script}");
                let noted = host.status(&v4()).stderr;
                assert!(noted.contains("may be dropped"), "{noted}");
                harness::sh(
                    "iptables-nft -F FORWARD; iptables-nft -t mangle -F; iptables-nft -t raw -F",
                );
                // What makes the difference is the mark that somebody sets.
                assert_ne!(scene.check(host, &v4()), "");
                harness::sh("iptables-nft -P FORWARD ACCEPT");
            }
        });
    }

    /// The cluster may be behind another link than that of the default route.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_an_admin_accepts_on_another_link_is_not_alarmed_about() {
        on_host(|host| {
            let scene = Scene::new(host, &v4());
            harness::sh("ip link add inner link uplink type macvlan; ip link set inner up");
            let accept = "ct state established,related accept; iifname cbr0 oifname inner accept; \
                          iifname inner oifname cbr0 accept; iifname cbr0 oifname cbr0 accept";
            closed("inet", accept);
            scene.assert_open_only(&["across"]);
            assert_eq!(scene.check(host, &v4()), "");
            let noted = host.status(&v4()).stderr;
            assert!(noted.contains("may be dropped"), "{noted}");
            // A link that is down leads nowhere.
            harness::sh("ip link set inner down");
            assert_ne!(scene.check(host, &v4()), "");
        });
    }

    /// Some destinations are let through: nobody knows whether those are what pods need.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_only_may_be_dropped_is_said_by_status_alone() {
        on_host(|host| {
            let scene = Scene::new(host, &v4());
            closed(
                "inet",
                "ct state established,related accept; iifname cbr0 ip daddr 10.0.0.0/8 accept; \
                 oifname cbr0 tcp dport 80 accept",
            );
            scene.assert_open_only(&["to the lan", "across"]);
            assert_eq!(scene.check(host, &v4()), "");
            let noted = host.status(&v4()).stderr;
            for words in [
                "connections from pods to the outside, from the outside to pods may be dropped",
                "(policy drop, unless a rule before it accepts them): set \"forwardAccept\": true",
            ] {
                assert!(noted.contains(words), "{words} is not in {noted}");
            }
            host.pod(&accepting(&v4()));
            scene.assert_open();
            scene.stranger().assert_closed();
        });
    }

    /// A rule that names the pods is somebody's wish.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn what_an_admin_drops_on_purpose_is_no_difference() {
        on_host(|host| {
            let scene = Scene::new(host, &v4());
            harness::sh(
                "iptables-nft -A FORWARD -i uplink -o cbr0 -m conntrack --ctstate NEW -j DROP",
            );
            scene.assert_open_only(&["out", "to the lan", "across"]);
            assert_eq!(scene.check(host, &v4()), "");
            let noted = host.status(&v4()).stderr;
            assert!(
                noted.contains("connections from the outside to pods are dropped in chain FORWARD")
                    && noted.contains("by a rule that names them")
                    && !noted.contains("forwardAccept"),
                "{noted}"
            );
            let before = host.state().only(&["nft"]);
            let (_pod, _) = host.pod(&accepting(&v4()));
            host.state().only(&["nft"]).assert_same(&before);
            assert_eq!(scene.check(host, &accepting(&v4())), "");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn iptables_legacy_is_pointed_at() {
        on_host(|host| {
            let scene = Scene::new(host, &v4());
            harness::sh("iptables-legacy -P FORWARD DROP");
            scene.assert_open_only(&[]);
            // Nobody can read what it says: it may accept everything.
            assert_eq!(scene.check(host, &v4()), "");
            let noted = host.status(&v4()).stderr;
            assert!(noted.contains("iptables-legacy -S FORWARD"), "{noted}");
            let pod = host.container();
            let added = host.add(&accepting(&v4()), &pod);
            assert_eq!(added.status, 0, "{added:?}");
            harness::sh(remedy(&added.stderr));
            scene.assert_open();
            scene.stranger().assert_closed();
        });
    }

    /// What iptables, nft and others do with the rules of `forwardAccept` is what they do
    /// with their own.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_rules_do_not_confuse_other_tools() {
        on_host(|host| {
            load("docker-29.iptables");
            let before = harness::sh("iptables-nft -S");
            let accepting = accepting(&v4());
            host.pod(&accepting);

            let rules = harness::sh("iptables-nft -S FORWARD");
            let own: Vec<&str> = rules.lines().filter(|rule| rule.contains("cbr0")).collect();
            let [from, to] = own.as_slice() else {
                panic!("{rules}");
            };
            assert!(from.starts_with(
                "-A FORWARD -i cbr0 -m comment --comment \"from cbr0: pods of cbr0 #f"
            ));
            assert!(
                to.starts_with(
                    "-A FORWARD -o cbr0 -m comment --comment \"to cbr0: pods of cbr0 #f"
                )
            );
            assert!(from.ends_with("-j ACCEPT") && to.ends_with("-j ACCEPT"));
            let listed =
                harness::sh("nft list chain ip filter FORWARD; iptables-nft -L FORWARD -nv");
            assert!(
                listed.contains("iifname \"cbr0\" counter packets"),
                "{listed}"
            );
            for rule in &own {
                harness::sh(&rule.replace("-A FORWARD", "iptables-nft -C FORWARD"));
            }

            // Saved and restored they are in iptables' own form, and still known.
            harness::sh("iptables-nft-save >/run/saved; iptables-nft-restore </run/saved");
            let restored = host.state().only(&["nft"]);
            host.pod(&accepting);
            host.state().only(&["nft"]).assert_same(&restored);
            assert_eq!(harness::sh("iptables-nft -S FORWARD"), rules);

            // Docker starts again and puts its own before ours: they need not be first.
            harness::sh(
                "iptables-nft -D FORWARD -j DOCKER-USER; iptables-nft -I FORWARD -j DOCKER-USER",
            );
            let moved = host.state().only(&["nft"]);
            host.pod(&accepting);
            host.state().only(&["nft"]).assert_same(&moved);

            harness::sh(
                "iptables-nft -D FORWARD -j DOCKER-USER; iptables-nft -I FORWARD 3 -j DOCKER-USER",
            );
            for rule in &own {
                harness::sh(&rule.replace("-A FORWARD", "iptables-nft -D FORWARD"));
            }
            assert_eq!(harness::sh("iptables-nft -S"), before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn after_a_flush_check_says_so_and_the_next_add_heals() {
        on_host(|host| {
            let accepting = accepting(&v4());
            let scene = Scene::new(host, &accepting);
            harness::sh("iptables-nft -P FORWARD DROP");
            host.pod(&accepting);
            scene.assert_open();
            let whole = host.state().only(&["nft"]);
            for flush in ["iptables-nft -F FORWARD", "iptables-nft -D FORWARD 1"] {
                harness::sh(flush);
                let difference = scene.check(host, &accepting);
                assert!(
                    difference.contains("the rules of \"forwardAccept\" are missing")
                        && difference.contains("the next ADD puts them in"),
                    "{difference}"
                );
                host.pod(&accepting);
                host.state().only(&["nft"]).assert_same(&whole);
                scene.assert_open();
            }
        });
    }

    /// Each reads, and the first one writes: nobody writes twice.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn many_adds_at_once_put_one_pair_of_rules() {
        on_host(|host| {
            harness::sh("iptables-nft -P FORWARD DROP");
            closed("inet", "");
            let accepting = accepting(&v4());
            let pods: Vec<Container> = (0..12).map(|_| host.container()).collect();
            let running: Vec<_> = pods
                .iter()
                .map(|pod| host.request_for("ADD", &accepting, pod).start())
                .collect();
            for add in running {
                add.wait().result();
            }
            let rules = host.state().only(&["nft"]);
            let own = rules.text().matches("pods of cbr0 #f").count();
            assert_eq!(own, 4, "{rules:?}");
        });
    }

    /// firewalld 2 takes its table for itself; nobody else may put a rule in.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_table_that_belongs_to_another_process_is_no_failure() {
        on_host(|host| {
            let mut owner = Command::new("nft")
                .arg("-i")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("nft");
            let mut orders = owner.stdin.take().expect("a pipe");
            orders
                .write_all(
                    b"add table inet firewalld { flags owner; }\n\
                      add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy drop; }\n",
                )
                .expect("nft to listen");
            let started = Instant::now();
            while !harness::sh("nft list ruleset").contains("policy drop") {
                assert!(started.elapsed() < Duration::from_secs(10), "no table");
                std::thread::sleep(Duration::from_millis(5));
            }
            let accepting = accepting(&v4());
            let pod = host.container();
            let added = host.add(&accepting, &pod);
            assert_eq!(added.status, 0, "{added:?}");
            for words in [
                "another process has nftables table inet firewalld for itself",
                "policy drop",
                "firewall-cmd --permanent --zone=trusted --add-interface=cbr0",
            ] {
                assert!(
                    added.stderr.contains(words),
                    "{words} is not in {}",
                    added.stderr
                );
            }
            let rules = harness::sh("nft list table inet firewalld");
            assert!(!rules.contains("cbr0"), "{rules}");
            let difference = host.check(&accepting, &pod, &added.result()).refusal().msg;
            assert!(
                difference.contains("for itself, so run: firewall-cmd"),
                "{difference}"
            );
            drop(orders);
            owner.wait().expect("the end of nft");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn gc_with_an_empty_list_takes_away_what_is_not_asked_for() {
        on_host(|host| {
            load("docker-29.iptables");
            let before = host.state().only(&["nft"]);
            let other = conf::with(
                &accepting(&v4()),
                &json!({ "name": "other", "bridge": "other0", "ipam": { "subnet": "10.65.0.0/24" } }),
            );
            let no_masquerade = |conf: &Value| conf::with(conf, &json!({ "ipMasq": false }));
            let (first, _) = host.pod(&no_masquerade(&accepting(&v4())));
            let (second, _) = host.pod(&no_masquerade(&other));
            let both = host.state().only(&["nft"]);
            assert_eq!(both.text().matches("#f").count(), 4);

            host.del(&accepting(&v4()), &first).done();
            host.gc(&no_masquerade(&accepting(&v4())), &[]).done();
            host.gc(&no_masquerade(&v4()), &[&second]).done();
            host.state().only(&["nft"]).assert_same(&both);

            host.gc(&no_masquerade(&v4()), &[]).done();
            let rules = host.state().only(&["nft"]);
            assert_eq!(
                rules.text().matches("pods of cbr0 #f").count(),
                0,
                "{rules:?}"
            );
            assert_eq!(
                rules.text().matches("pods of other #f").count(),
                2,
                "{rules:?}"
            );
            // Also in iptables' own form, in which a restart has them.
            harness::sh("iptables-nft-save >/run/saved; iptables-nft-restore </run/saved");
            let others = conf::with(&other, &json!({ "forwardAccept": false }));
            host.gc(&no_masquerade(&others), &[]).done();
            host.state().only(&["nft"]).assert_same(&before);
        });
    }

    /// Both families at once: what is said names the one that is dropped.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn one_family_of_two_is_named() {
        on_host(|host| {
            let conf = conf::dual_stack();
            let (pod, result) = host.pod(&conf);
            closed("inet", "meta nfproto ipv4 accept");
            let said = host.check(&conf, &pod, &result).refusal().msg;
            assert!(said.contains("IPv6 connections from"), "{said}");
            assert!(!said.contains("IPv4"), "{said}");
        });
    }

    /// Without the key an ADD does not look, and without a gateway nothing is routed.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn only_what_the_node_does_for_pods_counts() {
        on_host(|host| {
            if !has_bridge_netfilter(host) {
                return;
            }
            let bridged = json!({ "isGateway": false, "isDefaultGateway": false });
            let conf = conf::with(&v4(), &bridged);
            let (pod, result) = host.pod(&conf);
            closed("inet", "");
            let said = host.check(&conf, &pod, &result).refusal().msg;
            assert!(
                said.contains("connections between pods of this node are dropped"),
                "{said}"
            );
        });
    }
}
