//! An address that was another pod's a moment ago: nothing of the old pod is left that could
//! reach the new one, or keep it from being reached.

mod ours {
    use std::{
        fs,
        net::UdpSocket,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        thread::{self, JoinHandle},
        time::{Duration, Instant},
    };

    use harness::{Container, Entry, Host, Netns, World, conf, on_host, packet};
    use serde_json::{Value, json};

    /// How soon the first datagram to a new pod has to be answered: on a busy machine, too, and
    /// before anybody would ask for a hardware address again.
    const AT_ONCE: Duration = Duration::from_millis(250);
    /// How long an answer is waited for that may never come.
    const PATIENCE: Duration = Duration::from_secs(3);
    /// The number of the system call.
    const SENDTO: i64 = 44;
    const TICK: Duration = Duration::from_millis(10);

    /// Two addresses of each family: whoever comes next gets one that was used before.
    fn two_addresses() -> Value {
        let range = |subnet, first, last| json!([{ "subnet": subnet, "rangeStart": first, "rangeEnd": last }]);
        let ranges = json!([
            range("10.64.1.0/24", "10.64.1.20", "10.64.1.21"),
            range("fd00:64:1::/64", "fd00:64:1::20", "fd00:64:1::21"),
        ]);
        conf::with(
            &conf::smallest(),
            &json!({ "ipam": { "subnet": null, "ranges": ranges } }),
        )
    }

    fn address(result: &Value, index: usize) -> String {
        let address = result["ips"][index]["address"]
            .as_str()
            .expect("an address");
        address.split('/').next().unwrap_or_default().to_owned()
    }

    /// A server that says its name to whoever asks.
    struct Named {
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Named {
        fn start(netns: &Netns, port: u16, name: &'static str) -> Self {
            let socket = packet::bound(netns, &format!("[::]:{port}"), UdpSocket::bind);
            socket.set_read_timeout(Some(TICK)).expect("a socket");
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = stop.clone();
            let thread = thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((_, sender)) = socket.recv_from(&mut [0; 64]) {
                        socket.send_to(name.as_bytes(), sender).ok();
                    }
                }
            });
            let thread = Some(thread);
            Self { stop, thread }
        }
    }

    impl Drop for Named {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            self.thread.take().map(JoinHandle::join);
        }
    }

    /// A client that always sends from the same port.
    struct Client(UdpSocket);

    impl Client {
        fn new(netns: &Netns, port: u16) -> Self {
            let socket = packet::bound(netns, &format!("[::]:{port}"), UdpSocket::bind);
            socket.set_read_timeout(Some(TICK)).expect("a socket");
            Self(socket)
        }

        /// Sends one datagram and no other. Answers who answered, and how soon.
        fn ask_once(&self, target: &str) -> Option<(String, Duration)> {
            // What is late from before is no answer to this.
            while self.receive().is_some() {}
            let started = Instant::now();
            self.0.send_to(b"who are you?", mapped(target)).ok()?;
            while started.elapsed() < PATIENCE {
                if let Some(name) = self.receive() {
                    return Some((name, started.elapsed()));
                }
            }
            None
        }

        /// Sends every 10 ms until `name` answers. Answers how long that took.
        fn ask_for(&self, name: &str, target: &str) -> Option<Duration> {
            let started = Instant::now();
            while started.elapsed() < PATIENCE {
                self.0.send_to(b"who are you?", mapped(target)).ok();
                if self.receive().is_some_and(|answer| answer == name) {
                    return Some(started.elapsed());
                }
            }
            None
        }

        fn receive(&self) -> Option<String> {
            let mut answer = [0; 64];
            let (length, _) = self.0.recv_from(&mut answer).ok()?;
            Some(String::from_utf8_lossy(answer.get(..length)?).into_owned())
        }
    }

    /// A socket for both families has to be told of IPv4 in the form of IPv6.
    fn mapped(target: &str) -> String {
        if target.starts_with('[') {
            target.to_owned()
        } else {
            let (address, port) = target.rsplit_once(':').expect("ADDRESS:PORT");
            format!("[::ffff:{address}]:{port}")
        }
    }

    /// The node's entries of an address, without their timers and counters.
    fn tracked(address: &str) -> Vec<String> {
        let table = fs::read_to_string("/proc/thread-self/net/nf_conntrack");
        let table = table.expect("the kernel tracks connections and shows them");
        // The kernel writes IPv6 addresses in full.
        let address = match address.parse().expect("an address") {
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => address
                .segments()
                .map(|part| format!("{part:04x}"))
                .join(":"),
        };
        let is_about = |line: &&str| {
            let mut words = line.split(' ');
            words.any(|word| {
                word.split_once('=')
                    .is_some_and(|(_, value)| value == address)
            })
        };
        let facts = |line: &str| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            // "ipv4 2 udp 17 29 src=...": the fifth is the timer.
            words.remove(4);
            words.join(" ")
        };
        table.lines().filter(is_about).map(facts).collect()
    }

    /// Two pods that have talked with the outside, in both directions and both families.
    struct Talk {
        world: World,
        client: Client,
        old: Container,
        result: Value,
        other: Container,
        entries_of_other: Vec<String>,
    }

    impl Talk {
        fn new(host: &Host, conf: &Value) -> Self {
            let world = World::around(host);
            let (old, result) = host.pod(conf);
            let (other, other_result) = host.pod(conf);
            let client = Client::new(&world.outside, 4000);
            let _outside = Named::start(&world.outside, 53, "outside");
            for (pod, result, name) in [(&old, &result, "old"), (&other, &other_result, "other")] {
                let _server = Named::start(&pod.netns, 7, name);
                for index in 0..2 {
                    let target = at(&address(result, index), 7);
                    client.ask_for(name, &target).expect("an answer of the pod");
                }
                let inside = Client::new(&pod.netns, 5000);
                for target in ["203.0.113.10:53", "[2001:db8:113::10]:53"] {
                    inside
                        .ask_for("outside", target)
                        .expect("an answer from outside");
                }
            }
            for index in 0..2 {
                assert_eq!(tracked(&address(&result, index)).len(), 2, "{:?}", all());
            }
            let entries_of_other = of_other();
            assert_eq!(entries_of_other.len(), 4, "{:?}", all());
            Self {
                world,
                client,
                old,
                result,
                other,
                entries_of_other,
            }
        }

        /// Nothing of the old pod is remembered, and all of the other.
        fn assert_forgotten(&self) {
            for index in 0..2 {
                let entries = tracked(&address(&self.result, index));
                assert!(entries.is_empty(), "{entries:#?}");
            }
            assert_eq!(of_other(), self.entries_of_other);
        }
    }

    /// The entries of the pod that is not touched.
    fn of_other() -> Vec<String> {
        let addresses = ["10.64.1.21", "fd00:64:1::21"];
        addresses.into_iter().flat_map(tracked).collect()
    }

    fn all() -> String {
        fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap_or_default()
    }

    fn at(address: &str, port: u16) -> String {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_del_forgets_the_connections_of_its_pod_and_of_no_other() {
        on_host(|host| {
            let conf = two_addresses();
            let talk = Talk::new(host, &conf);
            let answer = host.del(&conf, &talk.old);
            assert!(!answer.stderr.contains("conntrack"), "{answer:?}");
            answer.done();
            talk.assert_forgotten();

            let (new, result) = host.pod(&conf);
            assert_eq!(result["ips"], talk.result["ips"]);
            let _server = Named::start(&new.netns, 7, "new");
            for index in 0..2 {
                let target = at(&address(&result, index), 7);
                let (name, took) = talk.client.ask_once(&target).expect(&target);
                assert_eq!(name, "new");
                assert!(took < AT_ONCE, "{target}: {took:?}");
            }
        });
    }

    /// What is forgotten while the pod can still send is remembered again at once.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_del_forgets_also_what_its_pod_sends_up_to_the_end() {
        on_host(|host| {
            let conf = two_addresses();
            let talk = Talk::new(host, &conf);
            let inside = Client::new(&talk.old.netns, 5000);
            let sent = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut targets = ["203.0.113.10:53", "[2001:db8:113::10]:53"]
                        .map(mapped)
                        .into_iter()
                        .cycle();
                    // Without its link the pod has no route.
                    while let Some(target) = targets.next()
                        && inside.0.send_to(b"still here", target).is_ok()
                    {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                });
                while sent.load(Ordering::Relaxed) < 100 {
                    thread::sleep(TICK);
                }
                host.del(&conf, &talk.old).done();
            });
            talk.assert_forgotten();
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn nothing_is_forgotten_before_the_link_is_gone() {
        on_host(|host| {
            let conf = two_addresses();
            let talk = Talk::new(host, &conf);
            // Unlike a request for links, this does not wait until the kernel has removed one.
            let ports = || {
                let links = fs::read_to_string("/proc/thread-self/net/dev").expect("links");
                links.matches("veth").count()
            };
            let before = ports();
            let mut there = Vec::new();
            let request = host.request_for("DEL", &conf, &talk.old);
            let look = |entry: &Entry| {
                if asks_conntrack(entry) {
                    there.push(ports());
                }
            };
            request.watched(look).done();
            // A deletion for IPv4; a list for IPv6, and the deletion of what is in it.
            assert_eq!(there, [before - 1; 3], "of {before}");
            talk.assert_forgotten();
        });
    }

    /// The link may be gone before the DEL, with its namespace.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_del_forgets_also_what_is_left_of_a_pod_that_died() {
        on_host(|host| {
            let conf = two_addresses();
            let talk = Talk::new(host, &conf);
            talk.old.sh("ip link delete eth0");
            host.del(&conf, &talk.old).done();
            talk.assert_forgotten();
        });
    }

    /// What GC removes is as gone as what DEL removes.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_gc_forgets_the_connections_of_the_pods_it_removes() {
        on_host(|host| {
            let conf = two_addresses();
            let talk = Talk::new(host, &conf);
            host.gc(&conf, &[&talk.other]).done();
            talk.assert_forgotten();
        });
    }

    /// Kernels before 6.12 refuse to look for what they are to delete, and those before 5.8 to
    /// look for anything. A kernel that does not know the filter's attribute is one of them.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn on_older_kernels_too() {
        for (oldest, changed) in [("6.11", 2), ("5.7", 4)] {
            on_host(|host| {
                let conf = two_addresses();
                let talk = Talk::new(host, &conf);
                let mut hidden = 0;
                let request = host.request_for("DEL", &conf, &talk.old);
                let answer = request.watched(|entry| {
                    hidden += hide_the_filter(entry, oldest == "5.7");
                });
                assert!(!answer.stderr.contains("conntrack"), "{oldest}: {answer:?}");
                answer.done();
                assert_eq!(hidden, changed, "as on {oldest}");
                talk.assert_forgotten();
            });
        }
    }

    /// Takes the filter out of a request to connection tracking: out of a deletion, or of any.
    /// Answers out of how many.
    fn hide_the_filter(entry: &Entry, of_any: bool) -> usize {
        const DELETE: [u8; 2] = [2, 1];
        const GET: [u8; 2] = [1, 1];
        /// `CTA_FILTER` with its flags in it, and a type that no kernel knows.
        const FILTER: [u8; 4] = [20, 0, 25, 0x80];
        const UNKNOWN: [u8; 4] = [20, 0, 99, 0x80];
        if entry.call != SENDTO {
            return 0;
        }
        let [_, buffer, length] = entry.arguments;
        let mut datagram = entry.memory(buffer, length);
        let mut hidden = 0;
        let mut at = 0;
        while let Some(header) = datagram.get(at..at + 16) {
            let length = usize::from(header[0]) | usize::from(header[1]) << 8;
            let end = at + length;
            if header[4..6] == DELETE || (of_any && header[4..6] == GET) {
                let place = (at..end - 3).find(|place| datagram[*place..place + 4] == FILTER);
                if let Some(place) = place {
                    datagram[place..place + 4].copy_from_slice(&UNKNOWN);
                    hidden += 1;
                }
            }
            at = end.next_multiple_of(4);
        }
        if hidden > 0 {
            entry.change(buffer, &datagram);
        }
        hidden
    }

    /// Runtimes send several DELs. Those that come when the address is another pod's touch
    /// nothing of that pod.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_late_del_leaves_the_connections_of_the_next_pod() {
        on_host(|host| late_del(host, &two_addresses()));
    }

    /// The same where this plugin knows nothing of the leases.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_late_del_leaves_them_also_with_another_ipam() {
        on_host(|host| {
            late_del(
                host,
                &conf::with(
                    &two_addresses(),
                    &json!({ "ipam": { "type": "host-local" } }),
                ),
            );
        });
    }

    fn late_del(host: &Host, conf: &Value) {
        let talk = Talk::new(host, conf);
        let mut with_result = conf.clone();
        with_result["prevResult"] = talk.result.clone();
        host.del(&with_result, &talk.old).done();
        talk.assert_forgotten();
        let (new, result) = host.pod(conf);
        assert_eq!(result["ips"], talk.result["ips"]);
        let _server = Named::start(&new.netns, 7, "new");
        let addresses = [0, 1].map(|index| address(&result, index));
        for address in &addresses {
            talk.client
                .ask_for("new", &at(address, 7))
                .expect("the new pod");
        }
        let entries = || {
            addresses
                .iter()
                .flat_map(|address| tracked(address))
                .collect::<Vec<_>>()
        };
        let before = entries();
        assert_eq!(before.len(), 2, "{before:#?}");
        for conf in [conf, &with_result, &with_result] {
            host.del(conf, &talk.old).done();
            assert_eq!(entries(), before);
        }
        drop(talk.other);
        drop(talk.world);
    }

    /// With another IPAM the link says which addresses these are.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn another_ipams_addresses_are_forgotten_by_what_the_link_says() {
        on_host(|host| {
            let conf = conf::with(
                &two_addresses(),
                &json!({ "ipam": { "type": "host-local" } }),
            );
            let talk = Talk::new(host, &conf);
            host.del(&conf, &talk.old).done();
            talk.assert_forgotten();
        });
    }

    /// Who knew the old pod with an address, and sends the new one with it a single datagram.
    #[derive(Clone, Copy, Debug)]
    enum Sender {
        Node,
        Peer,
    }

    /// What a pod was asked to have.
    const ASKED_FOR: Option<&str> = Some("02:00:00:00:00:42");

    /// The old pod was sent something a moment or a while ago, and the new one has its addresses.
    fn first_datagram(host: &Host, macs: [Option<&str>; 2], state: &str) {
        let conf = two_addresses();
        let with_mac = |mac: Option<&str>| match mac {
            Some(mac) => conf::with(&conf, &json!({ "runtimeConfig": { "mac": mac } })),
            None => conf.clone(),
        };
        let [old_conf, new_conf] = macs.map(with_mac);
        let (spare, _) = host.pod(&conf);
        let (peer, _) = host.pod(&conf);
        let mut next = spare;
        host.del(&conf, &next).done();
        for sender in [Sender::Node, Sender::Peer] {
            for index in 0..2 {
                let from = match sender {
                    Sender::Node => &host.netns,
                    Sender::Peer => &peer.netns,
                };
                let client = Client::new(from, 4000);
                let result = host.add(&old_conf, &next).result();
                let target = at(&address(&result, index), 7);
                let old = Named::start(&next.netns, 7, "old");
                client.ask_for("old", &target).expect("the old pod");
                drop(old);
                let link = match sender {
                    Sender::Node => "cbr0",
                    Sender::Peer => "eth0",
                };
                let known = address(&result, index);
                from.sh(&format!("ip neigh change {known} dev {link} nud {state}"));
                host.del(&old_conf, &next).done();

                next = host.container();
                let again = host.add(&new_conf, &next).result();
                assert_eq!(again["ips"], result["ips"]);
                let _new = Named::start(&next.netns, 7, "new");
                let answer = client.ask_once(&target);
                let case = format!("{sender:?} to {target}, {macs:?}, {state}: {answer:?}");
                let (name, took) = answer.unwrap_or_else(|| panic!("{case}"));
                assert!(name == "new" && took < AT_ONCE, "{case}");
                host.del(&new_conf, &next).done();
                next = host.container();
            }
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_first_datagram_to_a_pod_with_a_used_address_arrives() {
        for state in ["stale", "reachable"] {
            on_host(|host| first_datagram(host, [None, None], state));
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_first_datagram_to_a_pod_that_asked_for_a_mac_address_arrives() {
        for state in ["stale", "reachable"] {
            on_host(|host| first_datagram(host, [None, ASKED_FOR], state));
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_first_datagram_after_a_pod_that_asked_for_a_mac_address_arrives() {
        for state in ["stale", "reachable"] {
            on_host(|host| first_datagram(host, [ASKED_FOR, None], state));
        }
    }

    /// The Go plugin gives hardware addresses by chance.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_first_datagram_after_a_pod_of_the_go_plugin_arrives() {
        for sender in [Sender::Node, Sender::Peer] {
            on_host(|host| {
                let ours = two_addresses();
                let ipam = json!({ "type": "host-local" });
                let go = conf::with(
                    &ours,
                    &json!({ "type": "bridge", "bridge": "cbr0", "isGateway": true, "ipam": ipam }),
                );
                let (old, result) = host.pod(&go);
                let (peer, _) = host.pod(&ours);
                let (from, link) = match sender {
                    Sender::Node => (&host.netns, "cbr0"),
                    Sender::Peer => (&peer.netns, "eth0"),
                };
                let client = Client::new(from, 4000);
                let target = at(&address(&result, 0), 7);
                let server = Named::start(&old.netns, 7, "old");
                client.ask_for("old", &target).expect("the old pod");
                drop(server);
                let known = address(&result, 0);
                from.sh(&format!("ip neigh change {known} dev {link} nud stale"));
                host.del(&ours, &old).done();
                let (new, again) = host.pod(&ours);
                assert_eq!(again["ips"], result["ips"]);
                let _server = Named::start(&new.netns, 7, "new");
                let (name, took) = client.ask_once(&target).expect("the new pod");
                assert!(name == "new" && took < AT_ONCE, "{sender:?}: {took:?}");
            });
        }
    }

    /// The hardware address follows from the IPv4 address: with another one of these, it is
    /// another one for the IPv6 address.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_first_datagram_to_an_ipv6_address_with_another_ipv4_address_arrives() {
        on_host(|host| {
            let with = |ips: [&str; 2]| {
                conf::with(
                    &conf::dual_stack(),
                    &json!({ "runtimeConfig": { "ips": ips } }),
                )
            };
            let (peer, _) = host.pod(&conf::dual_stack());
            let target = "[fd00:64:1::20]:7";
            for (netns, link) in [(&host.netns, "cbr0"), (&peer.netns, "eth0")] {
                let client = Client::new(netns, 4000);
                let (old, _) = host.pod(&with(["10.64.1.20", "fd00:64:1::20"]));
                let server = Named::start(&old.netns, 7, "old");
                client.ask_for("old", target).expect("the old pod");
                drop(server);
                netns.sh(&format!(
                    "ip neigh change fd00:64:1::20 dev {link} nud stale"
                ));
                host.del(&conf::dual_stack(), &old).done();
                let (new, _) = host.pod(&with(["10.64.1.30", "fd00:64:1::20"]));
                let _server = Named::start(&new.netns, 7, "new");
                let (name, took) = client.ask_once(target).expect("the new pod");
                assert!(name == "new" && took < AT_ONCE, "{link}: {took:?}");
                host.del(&conf::dual_stack(), &new).done();
            }
        });
    }

    /// A sender that never pauses keeps its entry alive, and with it the translation to a pod
    /// that is gone.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_service_by_udp_goes_over_to_the_next_pod() {
        on_host(|host| {
            let world = World::around(host);
            let conf = two_addresses();
            let (old, result) = host.pod(&conf);
            let (new, next) = host.pod(&conf);
            let _old = Named::start(&old.netns, 7, "old");
            let _new = Named::start(&new.netns, 7, "new");
            service(&format!("dnat ip to {}:7", address(&result, 0)));
            let client = Client::new(&world.outside, 4000);
            client
                .ask_for("old", "10.200.0.2:30053")
                .expect("the old pod");

            service(&format!("dnat ip to {}:7", address(&next, 0)));
            let (name, _) = client.ask_once("10.200.0.2:30053").expect("an answer");
            assert_eq!(name, "old", "an entry that lives is not looked up again");
            host.del(&conf, &old).done();

            let took = client.ask_for("new", "10.200.0.2:30053");
            assert!(
                took.is_some_and(|took| took < Duration::from_secs(1)),
                "{took:?}"
            );
        });
    }

    /// The same for a pod that is made again: for a while its Service has no pod.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_service_by_udp_goes_over_to_a_pod_that_is_made_again() {
        on_host(|host| {
            let world = World::around(host);
            let conf = two_addresses();
            let (old, result) = host.pod(&conf);
            let _old = Named::start(&old.netns, 7, "old");
            service(&format!("dnat ip to {}:7", address(&result, 0)));
            let client = Client::new(&world.outside, 4000);
            client
                .ask_for("old", "10.200.0.2:30053")
                .expect("the old pod");

            service("drop");
            host.del(&conf, &old).done();
            for _ in 0..5 {
                client
                    .0
                    .send_to(b"nobody?", mapped("10.200.0.2:30053"))
                    .expect("sent");
                thread::sleep(TICK);
            }
            let (new, next) = host.pod(&conf);
            assert_ne!(next["ips"][0], result["ips"][0]);
            let _new = Named::start(&new.netns, 7, "new");
            service(&format!("dnat ip to {}:7", address(&next, 0)));
            let took = client.ask_for("new", "10.200.0.2:30053");
            assert!(
                took.is_some_and(|took| took < Duration::from_secs(1)),
                "{took:?}"
            );
        });
    }

    /// What kube-proxy writes for a port of the node, as far as it matters here.
    fn service(verdict: &str) {
        harness::sh(&format!(
            "nft 'table inet service {{
                chain nodeport {{ type nat hook prerouting priority dstnat; }}
             }}
             flush chain inet service nodeport
             add rule inet service nodeport udp dport 30053 {verdict}'"
        ));
    }

    /// To be asked for the first time is to load a module.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn where_nothing_is_tracked_nothing_is_asked() {
        on_host(|host| {
            let conf = conf::with(&two_addresses(), &json!({ "ipMasq": false }));
            let (pod, _) = host.pod(&conf);
            let _echo = harness::Echo::start(&host.netns, "[::]:7");
            packet::ask(&pod.netns, "10.64.1.1:7").expect("the gateway");
            assert_eq!(all(), "", "nobody tracks connections here");
            let asked = |pod: &Container| {
                let mut asked = 0;
                let request = host.request_for("DEL", &conf, pod);
                let look = |entry: &Entry| asked += usize::from(asks_conntrack(entry));
                request.watched(look).done();
                asked
            };
            assert_eq!(asked(&pod), 0);
            let conf = two_addresses();
            let (pod, _) = host.pod(&conf);
            packet::ask(&pod.netns, "10.64.1.1:7").expect("the gateway");
            assert_ne!(all(), "", "and now somebody does");
            assert_eq!(asked(&pod), 2, "a deletion for IPv4, a list for IPv6");
            // A DEL that finds nothing has nothing to forget.
            assert_eq!(asked(&pod), 0);
        });
    }

    /// Something is sent whose first message is for connection tracking.
    fn asks_conntrack(entry: &Entry) -> bool {
        const SUBSYSTEM: u8 = 1;
        let [_, buffer, length] = entry.arguments;
        entry.call == SENDTO && entry.memory(buffer, length).get(5) == Some(&SUBSYSTEM)
    }
}
