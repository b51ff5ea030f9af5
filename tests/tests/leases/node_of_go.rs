//! `cni-ipam` under a main plugin of the Go project, killed after every system call.

use harness::{Host, conf, on_host};
use serde_json::{Value, json};

use crate::{kit, tracer::Wrapped};

/// With more, something goes round in circles.
const MOST_CALLS: usize = 400;

/// With fewer, nothing was killed in the middle of anything.
const FEWEST_CALLS: usize = 30;

fn network() -> Value {
    conf::with(&conf::ipv4(), &json!({ "type": "bridge" }))
}

/// Kills `cni-ipam` after its first, second, ... system call, until it ends by itself. The
/// DEL that follows leaves the node and the pod as they were.
fn at_every_call(host: &Host, verb: &str) {
    let conf = network();
    let ipam = Wrapped::new("cni-ipam");
    let (_neighbour, _) = host.pod(&conf);
    let pod = host.container();
    let (before, inside) = (host.state(), pod.state());
    for nth in 1..MOST_CALLS {
        if verb == "DEL" {
            host.add(&conf, &pod).result();
        }
        let (running, traced) = ipam.start_under(&host.request_for(verb, &conf, &pod));
        let killed = traced.kill_after(nth);
        let answer = running.wait();
        assert_eq!(answer.status == 0, !killed, "{verb} {nth}: {answer:?}");
        host.del(&conf, &pod).done();
        let after = host.state();
        if after != before {
            println!("{verb} was killed after system call {nth}");
        }
        after.assert_same(&before);
        pod.state().assert_same(&inside);
        if !killed {
            assert!(nth > FEWEST_CALLS, "{verb} made only {nth} system calls");
            kit::assert_healthy();
            kit::figure(&format!(
                "cni-ipam under Go bridge: {verb} killed {} times",
                nth - 1
            ));
            return;
        }
    }
    panic!("{verb} makes more than {MOST_CALLS} system calls");
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_add_whose_ipam_is_killed_is_cleaned_up_by_del() {
    harness::tool("bridge");
    on_host(|host| at_every_call(host, "ADD"));
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_del_whose_ipam_is_killed_is_finished_by_the_next() {
    harness::tool("bridge");
    on_host(|host| at_every_call(host, "DEL"));
}
