//! Hundreds of pods at once, on a node where links of others come and go; many first pods
//! at once; and a DEL that crosses the ADD of the same attachment.

mod ours {
    use std::{
        collections::BTreeSet,
        fs,
        sync::{
            Mutex,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        thread,
        time::{Duration, Instant},
    };

    use harness::{Answer, Container, Host, Request, conf, lab::Node, on_host};
    use serde_json::{Value, json};

    const PODS: usize = 300;

    /// All our defaults, with room for so many.
    fn network() -> Value {
        let ranges = json!([[{ "subnet": "10.64.0.0/22" }], [{ "subnet": "fd00:64:1::/64" }]]);
        let ipam = json!({ "subnet": null, "ranges": ranges });
        conf::with(&conf::smallest(), &json!({ "ipam": ipam }))
    }

    fn containers(host: &Host, count: usize) -> Vec<Container> {
        let made = Mutex::new(Vec::new());
        in_turn(4, count, |_| {
            let container = host.container();
            made.lock().expect("a list").push(container);
        });
        made.into_inner().expect("a list")
    }

    /// Has so many callers do the jobs 0, 1, 2, ..., each the next one that nobody does yet.
    fn in_turn(callers: usize, jobs: usize, job: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..callers {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= jobs {
                            return;
                        }
                        job(number);
                    }
                });
            }
        });
    }

    /// Makes all the calls with so many callers, prints how fast that was, and returns the
    /// answers in the order of the calls.
    fn storm(what: &str, callers: usize, calls: &[Request]) -> Vec<Answer> {
        let answers: Mutex<Vec<Option<Answer>>> = Mutex::new(calls.iter().map(|_| None).collect());
        let started = Instant::now();
        in_turn(callers, calls.len(), |number| {
            let answer = calls[number].run();
            answers.lock().expect("a list")[number] = Some(answer);
        });
        let seconds = started.elapsed().as_secs_f64();
        let count = u32::try_from(calls.len()).expect("some hundreds");
        println!(
            "{what}: {count} calls of {callers} callers in {seconds:.2} s, {:.0} per second",
            f64::from(count) / seconds
        );
        let answers = answers.into_inner().expect("a list");
        answers
            .into_iter()
            .map(|answer| answer.expect("an answer"))
            .collect()
    }

    /// Links of others come and go at full speed while `work` runs.
    fn under_churn<T>(host: &Host, work: impl FnOnce() -> T) -> T {
        let busy = AtomicBool::new(true);
        thread::scope(|scope| {
            for name in ["a", "b"] {
                let (busy, netns) = (&busy, &host.netns);
                scope.spawn(move || {
                    while busy.load(Ordering::Relaxed) {
                        netns.ip(&foreign(name));
                    }
                });
            }
            let _stop = Stop(&busy);
            work()
        })
    }

    /// Ends the others, also when a test fails.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    fn foreign(name: &str) -> String {
        let links = |n| {
            format!(
                "link add {name}{n} up type veth peer name {name}{n}x
                 link add {name}br{n} up type bridge
                 link set {name}{n} master {name}br{n}
                 link del {name}br{n}
                 link del {name}{n}\n"
            )
        };
        (0..10).map(links).collect()
    }

    fn addresses(results: &[Value]) -> BTreeSet<String> {
        let ips = results
            .iter()
            .flat_map(|result| result["ips"].as_array().expect("ips"));
        ips.map(|ip| ip["address"].to_string()).collect()
    }

    fn ports(host: &Host) -> usize {
        let ports = host.netns.sh("ip -o link show master cbr0");
        ports.lines().filter(|line| line.contains(": veth")).count()
    }

    fn three_storms(host: &Host, pods: &[Container], callers: usize) {
        let conf = network();
        let calls = |verb, conf: &Value| -> Vec<Request> {
            pods.iter()
                .map(|pod| host.request_for(verb, conf, pod))
                .collect()
        };
        let added = storm("ADD", callers, &calls("ADD", &conf));
        let results: Vec<Value> = added.into_iter().map(Answer::result).collect();
        assert_eq!(addresses(&results).len(), 2 * PODS);
        assert_eq!(ports(host), PODS);

        let with_result = |(pod, result): (&Container, &Value)| {
            let conf = conf::with(&conf, &json!({ "prevResult": result }));
            host.request_for("CHECK", &conf, pod)
        };
        let checks: Vec<Request> = pods.iter().zip(&results).map(with_result).collect();
        storm("CHECK", callers, &checks)
            .into_iter()
            .for_each(Answer::done);

        storm("DEL", callers, &calls("DEL", &conf))
            .into_iter()
            .for_each(Answer::done);
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn three_hundred_pods_come_and_go_among_links_of_others() {
        on_host(|host| {
            let conf = network();
            let (first, _) = host.pod(&conf);
            host.del(&conf, &first).done();
            let before = host.state();
            let pods = containers(host, PODS);
            for callers in [16, 64] {
                under_churn(host, || three_storms(host, &pods, callers));
                host.state().assert_same(&before);
                for pod in &pods {
                    pod.netns.run(assert_nothing_but_loopback);
                }
            }
        });
    }

    fn assert_nothing_but_loopback() {
        let links = fs::read_to_string("/proc/thread-self/net/dev").expect("/proc");
        // Two lines of title.
        assert_eq!(links.lines().count(), 3, "{links}");
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn sixty_four_first_pods_at_once_make_one_bridge() {
        on_host(|_| {
            let conf = network();
            for round in 0..5 {
                let node = Node::new("new", 1);
                node.run(|host| {
                    let pods = containers(host, 64);
                    let call = |pod| host.request_for("ADD", &conf, pod);
                    let calls: Vec<Request> = pods.iter().map(call).collect();
                    let running: Vec<_> = calls.iter().map(Request::start).collect();
                    let results: Vec<Value> =
                        running.into_iter().map(|run| run.wait().result()).collect();
                    assert_eq!(addresses(&results).len(), 128, "round {round}");
                    one_of_each(host);
                });
            }
        });
    }

    /// What 64 pods share is there once: bridge, gateway's addresses, rules.
    fn one_of_each(host: &Host) {
        let state = host.state();
        let count = |word: &str| {
            state
                .text()
                .lines()
                .filter(|line| line.contains(word))
                .count()
        };
        assert_eq!(count(" bridge 0a:58:0a:40:00:01"), 1, "{state:?}");
        assert_eq!(count("address 10.64.0.1/22 on cbr0"), 1, "{state:?}");
        assert_eq!(count("address fd00:64:1::1/64 on cbr0"), 1, "{state:?}");
        // One a family.
        assert_eq!(count(" masquerade "), 2, "{state:?}");
        assert_eq!(ports(host), 64);
    }

    /// What is there of a pod: its link on the node, its link inside, and its leases.
    fn parts(pod: &Container) -> [usize; 3] {
        let inside = || fs::read_to_string("/proc/thread-self/net/dev").expect("/proc");
        let veths = names("/sys/class/net").filter(|name| name.starts_with("veth"));
        let blocks = names("/run/cni-ipam/cbr0").filter(|name| name.ends_with(".leases"));
        let leases = |block: String| {
            let lines = fs::read_to_string(format!("/run/cni-ipam/cbr0/{block}")).expect("a block");
            lines.lines().filter(|line| is_lease(line, &pod.id)).count()
        };
        [
            veths.count(),
            pod.netns.run(inside).matches("eth0:").count(),
            blocks.map(leases).sum(),
        ]
    }

    fn names(dir: &str) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(dir).expect(dir).flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
    }

    /// State, address, container, ...: F is a free one.
    fn is_lease(line: &str, container: &str) -> bool {
        let mut words = line.split_whitespace();
        words.next() != Some("F") && words.nth(1) == Some(container)
    }

    /// Numbers that look random and are the same in every run (xorshift64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    /// ADD and DEL of one attachment, started so many microseconds after each other.
    fn cross(add: &Request, del: &Request, offset: i64) -> Answer {
        let (first, second) = if offset < 0 { (del, add) } else { (add, del) };
        let running = first.start();
        let until = Instant::now() + Duration::from_micros(offset.unsigned_abs());
        while Instant::now() < until {
            thread::yield_now();
        }
        let (one, other) = (second.start().wait(), running.wait());
        let (added, deleted) = if offset < 0 {
            (one, other)
        } else {
            (other, one)
        };
        deleted.done();
        added
    }

    /// How one crossing ended; an error when there is neither a whole pod nor nothing.
    fn outcome(host: &Host, pod: &Container, added: Answer) -> Result<bool, String> {
        let parts = parts(pod);
        match (added.status, parts) {
            (_, [0, 0, 0]) => Ok(false),
            (0, [1, 1, 2]) => {
                let result = added.result();
                let checked = host.check(&network(), pod, &result);
                if checked.status == 0 {
                    Ok(true)
                } else {
                    Err(format!("CHECK: {:?}", checked.refusal()))
                }
            }
            (status, parts) => Err(format!(
                "ADD ended with {status}; links and leases: {parts:?}"
            )),
        }
    }

    #[derive(Default)]
    struct Crossings {
        whole: usize,
        gone: usize,
        torn: Vec<String>,
    }

    fn crossings(host: &Host, rounds: u64, random: &mut Random) -> Crossings {
        let conf = network();
        let (first, _) = host.pod(&conf);
        host.del(&conf, &first).done();
        let before = host.state();
        let mut counted = Crossings::default();
        for round in 0..rounds {
            let pod = host.container();
            let [add, mut del] = ["ADD", "DEL"].map(|verb| host.request_for(verb, &conf, &pod));
            // Runtimes do both: the path of the namespace, or nothing.
            if round % 2 == 1 {
                del = del.env("CNI_NETNS", "");
            }
            let offset = random.below(9000).cast_signed() - 1000;
            let added = cross(&add, &del, offset);
            match outcome(host, &pod, added) {
                Ok(true) => counted.whole += 1,
                Ok(false) => counted.gone += 1,
                Err(why) => counted
                    .torn
                    .push(format!("DEL {offset} µs after ADD: {why}")),
            }
            del.run().done();
            assert_eq!(parts(&pod), [0, 0, 0], "after a further DEL");
        }
        host.state().assert_same(&before);
        counted
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_del_that_crosses_its_add_leaves_a_whole_pod_or_nothing() {
        on_host(|_| {
            let all = Mutex::new(Crossings::default());
            in_turn(4, 4, |number| {
                let node = Node::new("crossing", 1);
                let seed = number as u64 + 1;
                let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let counted = node.run(|host| crossings(host, 50, &mut random));
                let mut all = all.lock().expect("a list");
                all.whole += counted.whole;
                all.gone += counted.gone;
                all.torn.extend(counted.torn);
            });
            let Crossings { whole, gone, torn } = all.into_inner().expect("a list");
            println!("{whole} pods whole, {gone} gone, {} torn", torn.len());
            assert_eq!(torn, Vec::<String>::new());
        });
    }
}
