//! SIGKILL at every system call, as a runtime does whose patience is over: the DEL that
//! follows leaves nothing.

mod ours {
    use harness::{Container, Host, conf, on_host};
    use serde_json::json;

    /// What a plugin does while it starts and ends is no concern of this.
    const MOST_CALLS: usize = 400;

    /// With fewer, nothing was killed in the middle of anything.
    const FEWEST_CALLS: usize = 40;

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
}
