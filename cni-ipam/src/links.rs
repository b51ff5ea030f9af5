//! What the kernel says about links: which there are, and their aliases. Only reads.

use std::{fs, io, os::unix::fs::MetadataExt};

use cni_protocol::InterfaceName;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc::{self, IFLA_EXT_MASK, IFLA_IFALIAS, IFLA_IFNAME, RTM_GETLINK, RTM_NEWLINK};

use crate::alias::Alias;

/// How often a dump that was disturbed by a change is begun again.
const DUMP_ATTEMPTS: u32 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct ifinfomsg`; one of zeros is any link.
const HEADER: usize = 16;
/// `RTEXT_FILTER_SKIP_STATS`: counters of hundreds of links would be most of the answer.
const SKIP_STATS: u32 = 1 << 3;

/// A route socket in the network namespace of the thread that opened it.
pub struct Links {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// One link as a dump shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
}

/// A dump that has to be begun again, or its end.
enum Dump {
    Complete(Vec<Link>),
    Disturbed,
}

impl Links {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Whether there is a link of this name.
    pub fn exists(&mut self, name: &InterfaceName) -> io::Result<bool> {
        let text = [name.as_str().as_bytes(), &[0]].concat();
        let name = DefaultNla::new(IFLA_IFNAME, text);
        self.send(vec![name], NLM_F_REQUEST | NLM_F_ACK)?;
        let mut there = false;
        loop {
            for message in self.receive()? {
                match message {
                    Message::Link(_) => there = true,
                    Message::Error(0) => return Ok(there),
                    Message::Error(libc::ENODEV) => return Ok(false),
                    Message::Error(code) => return Err(io::Error::from_raw_os_error(code)),
                    Message::Done | Message::Disturbed => {}
                }
            }
        }
    }

    /// The aliases of ours, with the names of their links. An alias on a link that does not
    /// have the name that follows from it is left out.
    pub fn aliases(&mut self) -> io::Result<Vec<(String, Alias)>> {
        let aliases = self.all()?.into_iter().filter_map(|link| {
            let alias: Alias = link.alias?.parse().ok()?;
            (alias.host_link().as_str() == link.name).then_some((link.name, alias))
        });
        Ok(aliases.collect())
    }

    /// All links.
    pub(crate) fn all(&mut self) -> io::Result<Vec<Link>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Dump::Complete(links) = self.dump()? {
                return Ok(links);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "links change too fast to be listed",
        ))
    }

    fn dump(&mut self) -> io::Result<Dump> {
        self.send(Vec::new(), NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut links = Vec::new();
        let mut disturbed = false;
        loop {
            for message in self.receive()? {
                match message {
                    Message::Link(link) => links.push(link),
                    Message::Disturbed => disturbed = true,
                    Message::Done if disturbed => return Ok(Dump::Disturbed),
                    Message::Done => return Ok(Dump::Complete(links)),
                    Message::Error(code) => return Err(io::Error::from_raw_os_error(code)),
                }
            }
        }
    }

    fn send(&mut self, mut attributes: Vec<DefaultNla>, flags: u16) -> io::Result<()> {
        let mask = SKIP_STATS.to_ne_bytes().to_vec();
        attributes.push(DefaultNla::new(IFLA_EXT_MASK, mask));
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        self.sequence += 1;
        header.sequence_number = self.sequence;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(GetLink(attributes)));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// The messages of one datagram that answer the last request.
    fn receive(&mut self) -> io::Result<Vec<Message>> {
        let (bytes, _) = loop {
            match self.socket.recv_from_full() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let mut messages = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(invalid)?;
            if message.sequence_number() == self.sequence {
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    messages.push(Message::Disturbed);
                }
                messages.extend(read(message.message_type(), message.payload())?);
            }
            // Messages are aligned to four bytes (NLMSG_ALIGN).
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// A request for one link or, in a dump, for all. The library's own type for messages of
/// links would make this executable a third larger.
#[derive(Debug)]
struct GetLink(Vec<DefaultNla>);

impl NetlinkSerializable for GetLink {
    fn message_type(&self) -> u16 {
        RTM_GETLINK
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.0.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Some(place) = buffer.get_mut(HEADER..) {
            self.0.as_slice().emit(place);
        }
    }
}

/// What an answer is made of.
#[derive(Debug)]
enum Message {
    Link(Link),
    /// Links came or went while the dump was made.
    Disturbed,
    /// The end of a dump.
    Done,
    /// An error number; 0 when all went well.
    Error(i32),
}

fn read(message_type: u16, payload: &[u8]) -> io::Result<Option<Message>> {
    Ok(match message_type {
        RTM_NEWLINK => Some(Message::Link(describe(payload)?)),
        // A dump that broke off ends with the reason.
        NLMSG_DONE => {
            let code = payload.first_chunk().copied().map(i32::from_ne_bytes);
            Some(match code.filter(|code| *code < 0) {
                Some(code) => Message::Error(code),
                None => Message::Done,
            })
        }
        NLMSG_ERROR => {
            let code = payload.first_chunk().copied().map(i32::from_ne_bytes);
            Some(Message::Error(-code.unwrap_or(-libc::EBADMSG)))
        }
        _ => None,
    })
}

fn describe(payload: &[u8]) -> io::Result<Link> {
    let mut link = Link::default();
    for attribute in NlasIterator::new(payload.get(HEADER..).unwrap_or_default()) {
        let attribute = attribute.map_err(invalid)?;
        match attribute.kind() {
            IFLA_IFNAME => link.name = text(attribute.value()),
            IFLA_IFALIAS => link.alias = Some(text(attribute.value())),
            _ => {}
        }
    }
    Ok(link)
}

/// A string without its terminating NUL.
fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The inode of the network namespace of the calling thread.
pub(crate) fn netns() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_there_and_another_is_not() {
        let mut links = Links::open().unwrap();
        assert!(links.exists(&"lo".parse().unwrap()).unwrap());
        assert!(!links.exists(&"nosuchlink0".parse().unwrap()).unwrap());
        assert!(links.all().unwrap().iter().any(|link| link.name == "lo"));
        assert!(links.exists(&"lo".parse().unwrap()).unwrap());
    }
}
