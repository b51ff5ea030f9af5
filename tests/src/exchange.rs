//! Questions and answers between two machines, counted where they leave and where they
//! arrive: each exactly once, and with the source that is expected.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Echo, Netns, Tap,
    packet::{self, PATIENCE, REPEAT},
    tap::{Packet, Protocol, Way},
};

/// How many datagrams are asked.
const QUESTIONS: usize = 5;
/// The bytes of one, which no other datagram of the harness has.
const QUESTION: [u8; 33] = *b"who am I, and how often am I seen";

/// A machine, and the link by which it takes part.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Its network namespace.
    pub netns: &'a Netns,
    /// The link's name.
    pub link: &'a str,
}

/// Who asks whom.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Who asks.
    pub client: Port<'a>,
    /// The client's own address.
    pub from: &'a str,
    /// Whom it asks, perhaps a Service.
    pub asks: (&'a str, u16),
    /// Who answers.
    pub server: Port<'a>,
    /// Where it listens.
    pub at: (&'a str, u16),
    /// What it takes the client for.
    pub seen: &'a str,
}

impl Exchange<'_> {
    /// Asks by UDP and by TCP. Panics unless the server sees the client as expected, and
    /// all that left one side arrived on the other, once.
    pub fn check(&self) {
        let _echo = Echo::start(self.server.netns, &socket(self.at));
        let asked = socket(self.asks);
        // The first one finds out hardware addresses, and may be repeated.
        self.assert_seen("UDP", packet::ask(self.client.netns, &asked));
        let mut client = Tap::on(self.client.netns, self.client.link);
        let mut server = Tap::on(self.server.netns, self.server.link);
        self.assert_seen("UDP", self.ask());
        self.assert_seen("TCP", packet::connect(self.client.netns, &asked));
        for (protocol, least) in [(Protocol::Udp, QUESTIONS), (Protocol::Tcp, 3)] {
            self.assert_counts(protocol, least, &mut client, &mut server);
        }
        let pieces = [client, server].map(|mut tap| {
            let piece = |packet: &&Packet| packet.protocol == Protocol::Fragment;
            tap.packets().iter().filter(piece).count()
        });
        assert_eq!(pieces, [0, 0], "{self}: fragments");
    }

    fn assert_seen(&self, protocol: &str, answer: io::Result<IpAddr>) {
        let answer =
            answer.unwrap_or_else(|error| panic!("{self}: no answer by {protocol}: {error}"));
        assert_eq!(
            answer.to_string(),
            self.seen,
            "{self}: source by {protocol}"
        );
    }

    /// One datagram after the other. One without an answer is repeated.
    fn ask(&self) -> io::Result<IpAddr> {
        let target = address(self.asks);
        let socket = self.client.netns.run(|| {
            let socket = UdpSocket::bind((packet::any(target), 0))?;
            socket.connect(target)?;
            io::Result::Ok(socket)
        })?;
        socket.set_read_timeout(Some(REPEAT))?;
        let mut seen = Err(io::Error::other("nothing asked"));
        for _ in 0..QUESTIONS {
            seen = answered(&socket);
        }
        seen
    }

    /// The last packets of a connection may still be under way.
    fn assert_counts(&self, protocol: Protocol, least: usize, client: &mut Tap, server: &mut Tap) {
        let started = Instant::now();
        loop {
            let counts = self.counts(protocol, client.packets(), server.packets());
            if counts.fit(least) {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{self}, seen as {}: {protocol:?} {counts:?}",
                self.seen
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn counts(&self, protocol: Protocol, client: &[Packet], server: &[Packet]) -> Counts {
        let (asks, at) = (address(self.asks), address(self.at));
        let is = |packet: &Packet, way| packet.protocol == protocol && packet.way == way;
        let headers = if at.is_ipv4() { 28 } else { 48 };
        // Datagrams of before, that come late, do not count.
        let question = |packet: &Packet| {
            protocol == Protocol::Tcp || packet.length == headers + QUESTION.len()
        };
        let to = |packets: &[Packet], way, target| -> Vec<SocketAddr> {
            let wanted = |p: &&Packet| is(p, way) && p.target == target && question(p);
            packets.iter().filter(wanted).map(|p| p.source).collect()
        };
        let answers = |packets: &[Packet], way, source, to: &[SocketAddr]| {
            let wanted = |p: &&Packet| is(p, way) && p.source == source && to.contains(&p.target);
            packets.iter().filter(wanted).count()
        };
        let sent = to(client, Way::Out, asks);
        let arrived = to(server, Way::In, at);
        Counts {
            sent: sent.len(),
            arrived: arrived.len(),
            answered: answers(server, Way::Out, at, &arrived),
            heard: answers(client, Way::In, asks, &sent),
            strangers: strangers(&sent, self.from)
                .chain(strangers(&arrived, self.seen))
                .collect(),
        }
    }
}

fn strangers<'a>(sources: &'a [SocketAddr], expected: &str) -> impl Iterator<Item = IpAddr> + 'a {
    let expected = ip(expected);
    let sources = sources.iter().map(SocketAddr::ip);
    sources.filter(move |source| *source != expected)
}

/// The packets of one protocol.
#[derive(Debug)]
struct Counts {
    sent: usize,
    arrived: usize,
    answered: usize,
    heard: usize,
    /// Sources that are not the expected ones.
    strangers: Vec<IpAddr>,
}

impl Counts {
    fn fit(&self, least: usize) -> bool {
        self.strangers.is_empty()
            && (self.sent >= least && self.arrived == self.sent)
            && (self.answered >= least && self.heard == self.answered)
    }
}

impl fmt::Display for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (asks, at) = (socket(self.asks), socket(self.at));
        write!(f, "{} asks {asks}, which is {at}", self.from)
    }
}

fn answered(socket: &UdpSocket) -> io::Result<IpAddr> {
    let started = Instant::now();
    let mut answer = [0; 64];
    loop {
        socket.send(&QUESTION)?;
        match socket.recv(&mut answer) {
            Ok(length) => return packet::parsed(answer.get(..length).unwrap_or_default()),
            Err(error) if started.elapsed() >= PATIENCE => return Err(error),
            Err(_) => {}
        }
    }
}

/// `10.64.1.2:80`, `[fd00:64:1::2]:80`.
fn socket((address, port): (&str, u16)) -> String {
    SocketAddr::new(ip(address), port).to_string()
}

fn address((address, port): (&str, u16)) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn ip(address: &str) -> IpAddr {
    address
        .parse()
        .unwrap_or_else(|_| panic!("{address} is no address"))
}
