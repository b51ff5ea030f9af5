//! SIGKILL after every system call that changes something, as a runtime does whose patience is over: the DEL that
//! follows leaves nothing.

mod ours {
    use std::sync::Mutex;

    use harness::{Container, Host, conf, on_host};
    use serde_json::json;

    /// With more, something goes round in circles.
    const MOST_CALLS: usize = 400;

    /// With fewer, nothing was killed in the middle of anything.
    const FEWEST_CALLS: usize = 15;

    /// Kills after the first, second, ... system call, until the plugin ends by itself.
    fn at_every_call(host: &Host, verb: &str, before_each: impl Fn(&Host, &Container)) {
        let conf = conf::with(&conf::dual_stack(), &json!({ "ipMasq": true }));
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let pod = host.container();
        for nth in 1..MOST_CALLS {
            before_each(host, &pod);
            let killed = host.request_for(verb, &conf, &pod).killed_after(nth);
            host.del(&conf, &pod).done();
            let after = host.state();
            if after != before {
                println!("{verb} was killed after system call {nth}");
            }
            after.assert_same(&before);
            if !killed {
                assert!(nth > FEWEST_CALLS, "{verb} made only {nth} system calls");
                return;
            }
        }
        panic!("{verb} makes more than {MOST_CALLS} system calls");
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_add_that_is_killed_is_cleaned_up_by_del() {
        on_host(|host| at_every_call(host, "ADD", |_, _| {}));
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_del_that_is_killed_is_finished_by_the_next() {
        on_host(|host| {
            at_every_call(host, "DEL", |host, pod| {
                let conf = conf::with(&conf::dual_stack(), &json!({ "ipMasq": true }));
                host.add(&conf, pod).result();
            });
        });
    }

    /// A runtime that does not call DEL first: what the dead one had leased is used, unless
    /// its link is there.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_add_that_is_killed_can_be_repeated() {
        on_host(|host| {
            let conf = conf::dual_stack();
            let (_neighbour, _) = host.pod(&conf);
            let before = host.state();
            let pod = host.container();
            for nth in 1..MOST_CALLS {
                let killed = host.request_for("ADD", &conf, &pod).killed_after(nth);
                let half = host.state();
                let again = host.add(&conf, &pod);
                if half.only(&["link veth"]) == before.only(&["link veth"]) {
                    again.result();
                    let leases = host.state().only(&["lease"]);
                    assert_eq!(leases.text().lines().count(), 4, "{nth}: {leases:?}");
                } else {
                    again.refused(4, "exists already");
                    host.state().assert_same(&half);
                }
                host.del(&conf, &pod).done();
                host.state().assert_same(&before);
                if !killed {
                    return;
                }
            }
            panic!("ADD makes more than {MOST_CALLS} system calls");
        });
    }

    /// The bridge, its address and the rules may be half made: the next pod finishes them.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_first_add_of_a_node_that_is_killed_does_no_harm_to_the_next() {
        const SHARED: [&str; 6] = [
            "link cbr0 ",
            "sysctl cbr0",
            "sysctl net",
            "address",
            "rule",
            "nft",
        ];
        let conf = conf::with(&conf::dual_stack(), &json!({ "ipMasq": true }));
        let whole = Mutex::new(None);
        let killed = Mutex::new(true);
        for nth in 1..MOST_CALLS {
            on_host(|host| {
                let pod = host.container();
                *killed.lock().expect("a lock") =
                    host.request_for("ADD", &conf, &pod).killed_after(nth);
                let (_next, _) = host.pod(&conf);
                let after = host.state().only(&SHARED);
                let mut whole = whole.lock().expect("a lock");
                after.assert_same(whole.get_or_insert_with(|| after.clone()));
            });
            if !*killed.lock().expect("a lock") {
                return;
            }
        }
        panic!("ADD makes more than {MOST_CALLS} system calls");
    }
}
