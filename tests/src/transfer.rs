//! More than a small packet: datagrams of an exact size, and a megabyte by TCP.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{self, SetSockOpt, sockopt},
};

use crate::{
    Netns,
    namespace::joined,
    packet::{self, socket_address},
};

/// How long nothing may move. The kernel repeats a lost segment much earlier.
const PATIENCE: Duration = Duration::from_secs(6);

/// What is sent by TCP, each way.
const BULK: usize = 1 << 20;

/// `IP_PMTUDISC_DO`
const NEVER_FRAGMENT: i32 = 2;

#[derive(Clone, Copy, Debug)]
struct IpMtuDiscover;
nix::setsockopt_impl!(
    IpMtuDiscover,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    i32,
    sockopt::SetStruct<i32>
);

/// A sender of datagrams that must not be fragmented, neither here nor on the way.
#[derive(Debug)]
pub struct Sender {
    socket: UdpSocket,
    headers: usize,
}

impl Sender {
    /// From this namespace to there.
    pub fn new(from: &Netns, target: &str) -> Self {
        let target = socket_address(target);
        let any = if target.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = from.run(|| UdpSocket::bind(any)).unwrap();
        if target.is_ipv4() {
            IpMtuDiscover.set(&socket, &NEVER_FRAGMENT).unwrap();
        } else {
            socket::setsockopt(&socket, sockopt::Ipv6DontFrag, &true).unwrap();
        }
        from.run(|| socket.connect(target)).unwrap();
        // UDP's header has 8 bytes, IPv4's 20, IPv6's 40.
        let headers = if target.is_ipv4() { 28 } else { 48 };
        Self { socket, headers }
    }

    /// Sends one datagram whose packet has this many bytes, IP header included.
    pub fn send(&self, length: usize) -> io::Result<()> {
        let datagram = vec![b'x'; length - self.headers];
        self.socket.send(&datagram).map(drop)
    }
}

/// Sends a megabyte by TCP to `target`, where a server at `local` of another namespace
/// takes it, and another one back. Fails when a byte is wrong or nothing moves.
pub fn bulk(from: &Netns, target: &str, to: &Netns, local: &str) -> io::Result<()> {
    let listener = packet::bound(to, local, TcpListener::bind);
    let target = socket_address(target);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut stream, _) = accept(&listener)?;
            receive(&mut stream, 1)?;
            send(&mut stream, 2)
        });
        let client = from.run(|| {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            send(&mut stream, 1)?;
            receive(&mut stream, 2)
        });
        client.and(joined(server.join()))
    })
}

/// Gives up when nobody comes: the client has.
fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    socket::setsockopt(
        listener,
        sockopt::ReceiveTimeout,
        &nix::sys::time::TimeVal::new(6, 0),
    )?;
    listener.accept()
}

fn send(stream: &mut TcpStream, seed: u64) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&noise(seed))?;
    stream.shutdown(Shutdown::Write)
}

fn receive(stream: &mut TcpStream, seed: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    if bytes == noise(seed) {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{} bytes, not what was sent",
            bytes.len()
        )))
    }
}

/// Bytes that look random and are the same each time (xorshift64).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_ne_bytes()
    };
    (0..BULK / 8).flat_map(|_| next()).collect()
}
