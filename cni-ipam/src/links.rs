//! What the kernel says about links: which there are, and their aliases. Only reads.

use std::{fs, io, os::unix::fs::MetadataExt};

use cni_protocol::InterfaceName;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;

use crate::alias::Alias;

/// How often a dump that was disturbed by a change is begun again.
const DUMP_ATTEMPTS: u32 = 20;

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
        let name = LinkAttribute::IfName(name.to_string());
        self.send(vec![name], NLM_F_REQUEST | NLM_F_ACK)?;
        let mut there = false;
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(_)) => there = true,
                    NetlinkPayload::Error(answer) => match answer.raw_code() {
                        0 => return Ok(there),
                        code if -code == libc::ENODEV => return Ok(false),
                        code => return Err(io::Error::from_raw_os_error(-code)),
                    },
                    _ => {}
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
                disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        links.push(describe(link));
                    }
                    NetlinkPayload::Done(_) if disturbed => return Ok(Dump::Disturbed),
                    NetlinkPayload::Done(_) => return Ok(Dump::Complete(links)),
                    NetlinkPayload::Error(answer) => {
                        return Err(io::Error::from_raw_os_error(-answer.raw_code()));
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, attributes: Vec<LinkAttribute>, flags: u16) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = attributes;
        // Counters of hundreds of links would be most of the answer.
        link.attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        self.sequence += 1;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::GetLink(link).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// The messages of one datagram that answer the last request.
    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (bytes, _) = loop {
            match self.socket.recv_from_full() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let mut messages = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // Messages are aligned to four bytes (NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
            if message.header.sequence_number == self.sequence {
                messages.push(message);
            }
        }
        Ok(messages)
    }
}

fn describe(message: LinkMessage) -> Link {
    let mut link = Link::default();
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            _ => {}
        }
    }
    link
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
