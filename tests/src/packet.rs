//! Packets that are really sent, and what the other side sees of them.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

use crate::Netns;

/// How long an answer may take before a packet counts as lost. The Go plugin's gateway has
/// no IPv6 for some two seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);
/// How long nothing has to come before it is believed that nothing comes.
const SILENCE: Duration = Duration::from_millis(600);
/// How often a datagram is repeated: the first may fall victim to address resolution.
pub(crate) const REPEAT: Duration = Duration::from_millis(250);
/// How often a server looks whether it should stop.
const POLL: Duration = Duration::from_millis(5);

/// A UDP and TCP server in a namespace. It answers with the address that it sees.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Listens on this address, which has to be there, in the namespace.
    pub fn start(netns: &Netns, address: &str) -> Self {
        let udp = bound(netns, address, UdpSocket::bind);
        let tcp = bound(netns, address, TcpListener::bind);
        udp.set_read_timeout(Some(POLL)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let threads = vec![
            thread::spawn({
                let (stop, seen) = (stop.clone(), seen.clone());
                move || serve_udp(&udp, &stop, &seen)
            }),
            thread::spawn({
                let (stop, seen) = (stop.clone(), seen.clone());
                move || serve_tcp(&tcp, &stop, &seen)
            }),
        ];
        Self {
            stop,
            seen,
            threads,
        }
    }

    /// Every sender so far, once for each datagram or connection.
    pub fn seen(&self) -> Vec<SocketAddr> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Opens a socket in a namespace. One that has been closed lives on for a moment in a child
/// that another test has just forked.
pub fn bound<T: Send>(
    netns: &Netns,
    address: &str,
    bind: impl Fn(SocketAddr) -> io::Result<T> + Sync,
) -> T {
    let local = socket_address(address);
    let started = Instant::now();
    loop {
        match netns.run(|| bind(local)) {
            Ok(socket) => return socket,
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < PATIENCE =>
            {
                thread::sleep(POLL);
            }
            Err(error) => panic!("cannot listen on {address}: {error}"),
        }
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool, seen: &Mutex<Vec<SocketAddr>>) {
    let mut datagram = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, sender)) = socket.recv_from(&mut datagram) {
            let answer = note(sender, seen);
            socket.send_to(answer.as_bytes(), sender).ok();
        }
    }
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool, seen: &Mutex<Vec<SocketAddr>>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, sender)) => {
                let answer = note(sender, seen);
                stream.write_all(answer.as_bytes()).ok();
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Returns what the sender is told.
fn note(sender: SocketAddr, seen: &Mutex<Vec<SocketAddr>>) -> String {
    // A socket for both families sees 10.64.1.2 as ::ffff:10.64.1.2.
    let address = sender.ip().to_canonical();
    seen.lock()
        .unwrap()
        .push(SocketAddr::new(address, sender.port()));
    address.to_string()
}

/// Sends datagrams from a namespace until one is answered. Returns the sender's address
/// as the other side sees it.
pub fn ask(from: &Netns, target: &str) -> io::Result<IpAddr> {
    ask_for(from, target, PATIENCE)
}

/// Whether datagrams get no answer.
pub fn is_silent(from: &Netns, target: &str) -> bool {
    ask_for(from, target, SILENCE).is_err()
}

fn ask_for(from: &Netns, target: &str, patience: Duration) -> io::Result<IpAddr> {
    let target = socket_address(target);
    from.run(|| {
        let socket = UdpSocket::bind((any(target), 0))?;
        // Connected, so that only the target's answer counts.
        socket.connect(target)?;
        socket.set_read_timeout(Some(REPEAT))?;
        let started = Instant::now();
        let mut answer = [0; 64];
        loop {
            socket.send(b"who am I?")?;
            match socket.recv(&mut answer) {
                Ok(length) => return parsed(answer.get(..length).unwrap_or_default()),
                Err(error) if started.elapsed() >= patience => return Err(error),
                // "Connection refused" comes at once: no reason to hurry with the next.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    thread::sleep(POLL);
                }
                Err(_) => {}
            }
        }
    })
}

/// Sends one datagram and does not wait for anything.
pub fn send(from: &Netns, target: &str) -> io::Result<()> {
    let target = socket_address(target);
    from.run(|| {
        UdpSocket::bind((any(target), 0))?
            .send_to(b"hello", target)
            .map(drop)
    })
}

/// Connects from a namespace by TCP and returns the own address as the other side sees it.
pub fn connect(from: &Netns, target: &str) -> io::Result<IpAddr> {
    let target = socket_address(target);
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parsed(&answer)
    })
}

/// Where a test listens for datagrams to a multicast group.
#[derive(Debug)]
pub struct Member(UdpSocket);

impl Member {
    /// Joins an IPv4 group on the interface that has this address.
    pub fn join(netns: &Netns, group: Ipv4Addr, interface: Ipv4Addr, port: u16) -> Self {
        let socket = netns.run(|| UdpSocket::bind((group, port))).unwrap();
        socket.join_multicast_v4(&group, &interface).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The sender of the next datagram.
    pub fn sender(&self) -> io::Result<IpAddr> {
        let (_, sender) = self.0.recv_from(&mut [0; 64])?;
        Ok(sender.ip())
    }
}

/// All frames that a namespace sends or receives on any of its links.
#[derive(Debug)]
pub struct Capture(OwnedFd);

impl Capture {
    /// Starts to listen.
    pub fn start(netns: &Netns) -> Self {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = netns.run(|| {
            socket::socket(
                AddressFamily::Packet,
                SockType::Raw,
                flags,
                SockProtocol::EthAll,
            )
        });
        Self(socket.expect("cannot capture packets"))
    }

    /// Where the frames come from, which knows more of them than [`Self::frames`] tells.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.0
    }

    /// The frames that have come since the start or the last call.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut frame = [0; 2048];
        while let Ok(length) = socket::recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            frames.push(frame.get(..length).unwrap_or_default().to_vec());
        }
        frames
    }
}

pub(crate) fn socket_address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is not ADDRESS:PORT"))
}

pub(crate) fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

pub(crate) fn parsed(answer: &[u8]) -> io::Result<IpAddr> {
    let text = String::from_utf8_lossy(answer);
    text.parse()
        .map_err(|error| io::Error::other(format!("odd answer {text:?}: {error}")))
}
