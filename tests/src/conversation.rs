//! A connection that lasts: words go there and back for as long as a test wants.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::{
    Netns,
    packet::{self, PATIENCE, socket_address},
};

const WORD: [u8; 16] = *b"are you there? I";

/// A TCP connection from one namespace to another.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
    /// The client, as the other side sees it.
    pub seen: SocketAddr,
}

impl Conversation {
    /// Begins one with a server that is started there.
    pub fn start(from: &Netns, there: &Netns, address: &str) -> Self {
        let listener = packet::bound(there, address, TcpListener::bind);
        let target = socket_address(address);
        let stream = from.run(|| TcpStream::connect_timeout(&target, PATIENCE));
        let stream = stream.unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        let (mut server, seen) = listener.accept().unwrap();
        thread::spawn(move || {
            let mut word = WORD;
            // It ends with the other side.
            while server.read_exact(&mut word).is_ok() && server.write_all(&word).is_ok() {}
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, seen }
    }

    /// Panics unless a word comes back.
    #[track_caller]
    pub fn goes_on(&mut self) {
        let mut word = [0; WORD.len()];
        self.stream.write_all(&WORD).expect("the connection");
        let answer = self.stream.read_exact(&mut word);
        answer.expect("the connection does not go on");
        assert_eq!(word, WORD);
    }
}
