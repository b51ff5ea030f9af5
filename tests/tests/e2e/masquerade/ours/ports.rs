//! Many connections at once under one address: none is lost, and none is another's.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read},
    net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use harness::{Container, Echo, Host, Netns, World, conf, on_host};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};

use super::OUTSIDE;

/// How many pods send from how many ports, the same of each.
const PODS: usize = 6;
const PORTS: std::ops::Range<u16> = 20_000..20_100;
/// How many connections of a pod are made at the same time: a listener has room for 128.
const AT_ONCE: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);
const REPEAT: Duration = Duration::from_millis(500);

/// What the node's connection tracking counts when two connections want to be one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Losses {
    insert_failed: u64,
    drop: u64,
}

impl Losses {
    /// `None` where the kernel does not show them (`CONFIG_NF_CONNTRACK_PROCFS`).
    fn of(node: &Netns) -> Option<Self> {
        let path = "/proc/thread-self/net/stat/nf_conntrack";
        let text = node.run(|| std::fs::read_to_string(path)).ok()?;
        let mut lines = text.lines().map(str::split_whitespace);
        let names: Vec<&str> = lines.next()?.collect();
        let mut losses = Self::default();
        // One line a processor, in hexadecimal.
        for line in lines {
            for (name, count) in names.iter().zip(line) {
                let count = u64::from_str_radix(count, 16).ok()?;
                match *name {
                    "insert_failed" => losses.insert_failed += count,
                    "drop" => losses.drop += count,
                    _ => {}
                }
            }
        }
        Some(losses)
    }
}

/// Runs this for all pods at the same time, in their namespaces.
fn everywhere(pods: &[Container], work: impl Fn() + Sync) {
    let start = Barrier::new(pods.len());
    thread::scope(|scope| {
        for pod in pods {
            scope.spawn(|| {
                pod.netns.run(|| {
                    start.wait();
                    work();
                });
            });
        }
    });
}

/// Each port sends one datagram; those without an answer send it again.
fn ask_from_all_ports() {
    let server: SocketAddr = OUTSIDE.parse().expect("an address");
    let mut waiting: Vec<UdpSocket> = PORTS
        .map(|port| {
            let socket = UdpSocket::bind(("0.0.0.0", port)).expect("a port");
            socket.connect(server).expect("a route");
            socket.set_nonblocking(true).expect("a socket");
            socket
        })
        .collect();
    let started = Instant::now();
    let mut sent = None::<Instant>;
    while !waiting.is_empty() {
        assert!(started.elapsed() < PATIENCE, "{} wait", waiting.len());
        if sent.is_none_or(|at| at.elapsed() > REPEAT) {
            for socket in &waiting {
                socket.send(b"who am I?").expect("to send");
            }
            sent = Some(Instant::now());
        }
        waiting.retain(|socket| socket.recv(&mut [0; 64]).is_err());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Each port makes one connection, some of them at a time, and reads what it is told.
fn connect_from_all_ports() {
    let ports: Vec<u16> = PORTS.collect();
    for some in ports.chunks(AT_ONCE) {
        let mut waiting: Vec<TcpStream> = some.iter().map(|port| connecting(*port)).collect();
        let started = Instant::now();
        while !waiting.is_empty() {
            assert!(started.elapsed() < PATIENCE, "{} wait", waiting.len());
            waiting.retain_mut(|stream| match stream.read(&mut [0; 64]) {
                Ok(length) => {
                    assert!(length > 0, "an answer without a word");
                    false
                }
                Err(error) => {
                    let pending = [ErrorKind::WouldBlock, ErrorKind::NotConnected];
                    assert!(pending.contains(&error.kind()), "{error}");
                    true
                }
            });
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A connection under way from this port to the server outside.
fn connecting(port: u16) -> TcpStream {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None);
    let socket = socket.expect("a socket");
    socket::bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).expect("a port");
    let server: SocketAddrV4 = OUTSIDE.parse().expect("an address");
    let outcome = socket::connect(socket.as_raw_fd(), &SockaddrIn::from(server));
    assert!(
        matches!(outcome, Ok(()) | Err(nix::errno::Errno::EINPROGRESS)),
        "{outcome:?}"
    );
    TcpStream::from(socket)
}

fn pods(host: &Host) -> Vec<Container> {
    (0..PODS).map(|_| host.pod(&conf::smallest()).0).collect()
}

/// The senders that the server saw: each once, all with the node's address.
fn senders(echo: &Echo) -> BTreeSet<SocketAddr> {
    let senders: BTreeSet<SocketAddr> = echo.seen().into_iter().collect();
    let foreign = |sender: &&SocketAddr| sender.ip().to_string() != super::NODE;
    assert_eq!(senders.iter().find(foreign), None);
    senders
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn the_same_ports_of_several_pods_are_told_apart_and_none_is_lost() {
    on_host(|host| {
        let world = World::around(host);
        let pods = pods(host);
        let flows = pods.len() * PORTS.len();
        let Some(before) = Losses::of(&host.netns) else {
            host.cannot_run("the kernel shows no statistics of connection tracking");
            return;
        };
        for work in [ask_from_all_ports, connect_from_all_ports] {
            let echo = Echo::start(&world.outside, OUTSIDE);
            everywhere(&pods, work);
            assert_eq!(senders(&echo).len(), flows);
            assert_eq!(Losses::of(&host.netns), Some(before));
        }
        a_shortage_would_be_seen(host, &pods, before);
    });
}

/// With fewer ports than connections, the kernel has to drop some, and counts them.
fn a_shortage_would_be_seen(host: &Host, pods: &[Container], before: Losses) {
    harness::sh(
        "nft flush chain inet cni-bridge postrouting
         nft add rule inet cni-bridge postrouting meta l4proto udp masquerade to :30000-30099",
    );
    everywhere(pods, || {
        for port in 21_000..21_100_u16 {
            let socket = UdpSocket::bind(("0.0.0.0", port)).expect("a port");
            socket.send_to(b"hello", OUTSIDE).expect("to send");
        }
    });
    let started = Instant::now();
    while Losses::of(&host.netns) == Some(before) {
        assert!(started.elapsed() < PATIENCE, "nothing is counted");
        thread::sleep(Duration::from_millis(10));
    }
}
