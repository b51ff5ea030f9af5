//! A DEL that comes while an ADD of the same attachment is under way: one that its runtime has
//! given up, or that was only slow. In the end there is a whole attachment or nothing.

mod ours {
    use harness::{Answer, Host, Stopped, conf, on_host};
    use serde_json::{Value, json};

    /// With more, something goes round in circles.
    const MOST_CALLS: usize = 400;
    /// With fewer, the ADD was never stopped in the middle of anything.
    const FEWEST_STOPS: usize = 15;
    /// How many system calls are left to an ADD that has looked at its link for the last time.
    const LAST_CALLS: usize = 3;

    /// Room for the neighbour and one more: that one always has the same addresses.
    fn room_for_two(families: usize) -> Value {
        let range = |subnet, first, last| json!([{ "subnet": subnet, "rangeStart": first, "rangeEnd": last }]);
        let mut ranges = vec![
            range("10.64.1.0/24", "10.64.1.2", "10.64.1.3"),
            range("fd00:64:1::/64", "fd00:64:1::2", "fd00:64:1::3"),
        ];
        ranges.truncate(families);
        conf::network(&json!({ "type": "cni-ipam", "ranges": ranges }))
    }

    /// Stops an ADD after its first, second, ... system call, makes a whole DEL there, and lets
    /// the ADD go on.
    fn at_every_call(host: &Host, conf: &Value) {
        let (_neighbour, _) = host.pod(conf);
        let before = host.state();
        let whole = {
            let pod = host.container();
            host.add(conf, &pod).result();
            let whole = host.state();
            host.del(conf, &pod).done();
            host.keep(pod);
            whole
        };
        let mut pod = host.container();
        "pod2".clone_into(&mut pod.id);
        let inside = pod.state();
        let (mut stops, mut failed, mut stayed, mut over) = (0, 0, 0, 0);
        for nth in 1..MOST_CALLS {
            let del = || host.del(conf, &pod).done();
            let answer = match host.request_for("ADD", conf, &pod).stopped_after(nth, del) {
                Stopped::Between(answer) => answer,
                Stopped::InALock(answer) => {
                    answer.result();
                    host.del(conf, &pod).done();
                    continue;
                }
                Stopped::Never(answer) => {
                    answer.result();
                    host.del(conf, &pod).done();
                    host.state().assert_same(&before);
                    pod.state().assert_same(&inside);
                    let said =
                        format!("{stops} stops: {failed} failed, {stayed} stayed, {over} over");
                    assert!(stops > FEWEST_STOPS && failed > 0 && stayed > 0, "{said}");
                    assert!(over <= LAST_CALLS, "{said}");
                    return;
                }
            };
            stops += 1;
            let after = host.state();
            if succeeded(&answer) {
                // Nothing, and success: the ADD was over, but for saying so.
                if after == before {
                    over += 1;
                } else {
                    after.assert_same(&whole);
                    stayed += 1;
                    host.del(conf, &pod).done();
                    host.state().assert_same(&before);
                }
            } else {
                if after != before {
                    println!("after system call {nth}: {answer:?}");
                }
                after.assert_same(&before);
                failed += 1;
            }
        }
        panic!("ADD makes more than {MOST_CALLS} system calls");
    }

    fn succeeded(answer: &Answer) -> bool {
        answer.status == 0
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_del_at_every_system_call_of_an_add() {
        on_host(|host| {
            at_every_call(
                host,
                &conf::with(&room_for_two(2), &json!({ "ipMasq": true })),
            );
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_del_at_every_system_call_of_an_add_that_checks_mac_addresses() {
        on_host(|host| {
            let changes = json!({ "ipMasq": true, "macspoofchk": true });
            at_every_call(host, &conf::with(&room_for_two(1), &changes));
        });
    }

    /// The other way round: a whole ADD in the middle of a DEL that found a lease, and then of
    /// one that found the link of an earlier ADD.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_add_at_every_system_call_of_a_del() {
        on_host(|host| {
            let conf = conf::with(&room_for_two(2), &json!({ "ipMasq": true }));
            let (_neighbour, _) = host.pod(&conf);
            let before = host.state();
            let pod = host.container();
            let mut whole = None;
            for nth in 1..MOST_CALLS {
                host.add(&conf, &pod).result();
                let whole = whole.get_or_insert_with(|| host.state());
                let mut crossing = None;
                let add = || crossing = Some(host.add(&conf, &pod));
                let stopped = host.request_for("DEL", &conf, &pod).stopped_after(nth, add);
                let after = host.state();
                let never = match stopped {
                    Stopped::Between(answer) => {
                        answer.done();
                        if after != before {
                            println!("after system call {nth} of the DEL: {crossing:?}");
                            after.assert_same(whole);
                        }
                        false
                    }
                    Stopped::InALock(answer) => {
                        answer.done();
                        false
                    }
                    Stopped::Never(answer) => {
                        answer.done();
                        true
                    }
                };
                host.del(&conf, &pod).done();
                if after != before {
                    host.state().assert_same(&before);
                }
                if never {
                    return;
                }
            }
            panic!("DEL makes more than {MOST_CALLS} system calls");
        });
    }

    /// The ADD was killed before it set the alias: a link without one is the attachment's.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_link_without_an_alias_is_removed() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::smallest());
            let before = host.state();
            let (mut pod, result) = host.pod(&conf::smallest());
            let link = result["interfaces"][1]["name"].as_str().expect("a name");
            harness::sh(&format!("ip link set {link} alias ''"));
            // Else it would be found from inside, as the link of another plugin.
            pod.path = "".into();
            host.del(&conf::smallest(), &pod).done();
            host.state().assert_same(&before);
        });
    }

    /// What has the very name of the attachment's link and is something else stays; the lease
    /// does not.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_strangers_link_of_the_same_name_stays() {
        for stranger in [
            "type bridge",
            "type veth peer name other; ip link set {} alias uplink",
            "type veth peer name other; ip link set {} alias 'cni cbr0 another eth0 10.64.1.9'",
        ] {
            on_host(|host| {
                let (pod, result) = host.pod(&conf::smallest());
                let link = result["interfaces"][1]["name"].as_str().expect("a name");
                host.del(&conf::smallest(), &pod).done();
                harness::sh(&format!(
                    "ip link add {link} {}",
                    stranger.replace("{}", link)
                ));
                let before = host.state();
                pod_that_was_leased(host, &pod);
                for _ in 0..2 {
                    let answer = host.del(&conf::smallest(), &pod);
                    assert_eq!(answer.stderr.matches(link).count(), 1, "{answer:?}");
                    assert!(answer.stderr.contains("cbr0/pod1/eth0"), "{answer:?}");
                    answer.done();
                    host.state().assert_same(&before);
                }
            });
        }
    }

    /// A lease as an ADD leaves it that is killed before it makes the link.
    fn pod_that_was_leased(host: &Host, pod: &harness::Container) {
        let request = host.request_for("ADD", &conf::smallest(), pod);
        request.plugin("cni-ipam").run().result();
        assert_ne!(host.state().only(&["lease"]).text(), "");
    }
}
