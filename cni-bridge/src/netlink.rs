//! A blocking netlink socket that sends several requests in one datagram.
//!
//! It knows the envelope (sequence numbers, acknowledgements, dumps, errors with the kernel's
//! own words) and nothing of links, routes or rules.

use std::{fmt, io, os::fd::AsFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_core::{NetlinkPayload, NetlinkSerializable};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// A dump was interrupted by a change and may be incomplete.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The error has only the header of the request, not all of it.
const NLM_F_CAPPED: u16 = 0x100;
/// The error is followed by attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Room for one received message. The kernel puts no more of a dump into one than the
/// receiver has shown to have room for (`netlink_dump()`).
const RECEIVE: usize = 16 * 1024;

/// When a request has been answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// By one message, or an error.
    One,
    /// By an acknowledgement, or an error. Asked for where it is the last of a datagram.
    Ack,
    /// By messages up to the end of the dump.
    Dump,
    /// Not at all, or by an error that ends the whole datagram (the frame of a transaction).
    Nothing,
}

/// One request, and what it is for in the words of the error that it may become.
#[derive(Debug)]
pub(crate) struct Request<M> {
    pub(crate) message: M,
    pub(crate) flags: u16,
    pub(crate) answer: Answer,
    /// Completes "cannot …".
    pub(crate) operation: String,
}

/// A request that did not do what it asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub(crate) struct Error {
    pub(crate) operation: String,
    #[source]
    pub(crate) cause: Cause,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The kernel's own answer, with its explanation where it gave one.
    Refused {
        errno: Errno,
        explanation: Option<String>,
    },
    /// The exchange broke before the kernel answered.
    Exchange(io::Error),
    /// Links came and went during each of several dumps.
    Interrupted,
}

impl std::error::Error for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { errno, explanation } => {
                write!(f, "{errno}")?;
                match explanation {
                    Some(explanation) => write!(f, " ({explanation})"),
                    None => Ok(()),
                }
            }
            Self::Exchange(error) => write!(f, "the netlink exchange broke: {error}"),
            Self::Interrupted => f.write_str("the list changed while it was read, several times"),
        }
    }
}

impl Error {
    fn exchange(operation: &str, error: io::Error) -> Self {
        Self {
            operation: operation.to_owned(),
            cause: Cause::Exchange(error),
        }
    }

    /// The kernel's error number, where it answered with one.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self.cause {
            Cause::Refused { errno, .. } => Some(errno),
            Cause::Exchange(_) | Cause::Interrupted => None,
        }
    }

    /// A list was not of one moment: read again, it may be.
    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self.cause, Cause::Interrupted)
    }

    /// The object to create is there already.
    pub(crate) fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// The object is not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENODEV | Errno::ENOENT | Errno::EADDRNOTAVAIL | Errno::ESRCH)
        )
    }
}

/// One message of an answer: its type and what follows the header.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) message_type: u16,
    pub(crate) payload: &'a [u8],
}

/// A netlink socket in the network namespace of the thread that opened it, where it stays.
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket of a netlink protocol (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = netlink_sys::Socket::new(protocol)?;
        // The kernel's reason in words: a message without it is no failure.
        drop(socket.set_ext_ack(true));
        Ok(Self {
            inner: socket,
            sequence: 0,
            received: Vec::new(),
        })
    }

    /// Has the kernel take the filters of a dump seriously: addresses of one link, say.
    pub(crate) fn filter_dumps(&self) {
        // As old as the filters; without it there is more to read, which changes nothing.
        drop(self.inner.set_netlink_get_strict_chk(true));
    }

    /// Sends all requests in one datagram and reads until the last one is answered.
    ///
    /// The kernel works on all of them in order, also past one that fails. Answers one
    /// outcome for each request; `on_reply` sees each message of an answer.
    pub(crate) fn exchange<M: NetlinkSerializable>(
        &mut self,
        requests: Vec<Request<M>>,
        mut on_reply: impl FnMut(Reply<'_>),
    ) -> Result<Vec<Result<(), Error>>, Error> {
        self.exchange_all(requests, &mut on_reply)
    }

    /// Once for each kind of message, and not for each caller too: it is a lot of code.
    fn exchange_all<M: NetlinkSerializable>(
        &mut self,
        requests: Vec<Request<M>>,
        on_reply: &mut dyn FnMut(Reply<'_>),
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let first = self.sequence.wrapping_add(1);
        let answers: Vec<Answer> = requests.iter().map(|request| request.answer).collect();
        let last = answers
            .iter()
            .rposition(|answer| *answer != Answer::Nothing)
            .unwrap_or(0);
        let mut operations = Vec::with_capacity(requests.len());
        let mut datagram = Vec::with_capacity(1024);
        for (index, request) in requests.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = request.flags | flags(request.answer, index == last);
            append(&mut datagram, request.message, flags, self.sequence);
            operations.push(request.operation);
        }
        let mut outcomes: Vec<Result<(), Cause>> = operations.iter().map(|_| Ok(())).collect();
        let exchanged = self.converse(&datagram, &mut |message: Message<'_>| {
            let Some((index, answer)) = index_of(message.sequence, first, &answers) else {
                return false;
            };
            match message.kind {
                NLMSG_NOOP => false,
                NLMSG_ERROR | NLMSG_DONE => {
                    let mut failed = record(&mut outcomes, index, &message);
                    // The last change may be one after which nothing was left to list.
                    if message.flags & NLM_F_DUMP_INTR != 0 && !failed {
                        set(&mut outcomes, index, Cause::Interrupted);
                        failed = true;
                    }
                    index == last || (failed && answer == Answer::Nothing)
                }
                message_type => {
                    if message.flags & NLM_F_DUMP_INTR != 0 {
                        set(&mut outcomes, index, Cause::Interrupted);
                    }
                    on_reply(Reply {
                        message_type,
                        payload: message.payload,
                    });
                    index == last && answer == Answer::One
                }
            }
        });
        let talk = || {
            operations
                .get(last)
                .map_or("talk to the kernel", String::as_str)
        };
        exchanged.map_err(|error| Error::exchange(talk(), error))?;
        let named = outcomes.into_iter().zip(operations);
        Ok(named
            .map(|(outcome, operation)| outcome.map_err(|cause| Error { operation, cause }))
            .collect())
    }

    /// Sends a datagram and reads messages until one of them is the last.
    fn converse(
        &mut self,
        datagram: &[u8],
        is_last: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> io::Result<()> {
        send(&self.inner, datagram)?;
        let mut finished = false;
        while !finished {
            receive(&self.inner, &mut self.received)?;
            for message in Messages(&self.received) {
                finished |= is_last(message);
            }
        }
        Ok(())
    }

    /// Sends all requests in one datagram; the first failure is the answer.
    pub(crate) fn execute<M: NetlinkSerializable>(
        &mut self,
        requests: Vec<Request<M>>,
        on_reply: impl FnMut(Reply<'_>),
    ) -> Result<(), Error> {
        self.exchange(requests, on_reply)?.into_iter().collect()
    }
}

fn flags(answer: Answer, acknowledge: bool) -> u16 {
    NLM_F_REQUEST
        | match answer {
            Answer::Dump => NLM_F_DUMP,
            Answer::Ack if acknowledge => NLM_F_ACK,
            Answer::Ack | Answer::One | Answer::Nothing => 0,
        }
}

fn append<M: NetlinkSerializable>(datagram: &mut Vec<u8>, message: M, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let start = datagram.len();
    let length = message.buffer_len();
    datagram.resize(start + length.next_multiple_of(4), 0);
    if let Some(place) = datagram.get_mut(start..start + length) {
        message.serialize(place);
    }
}

fn send(socket: &netlink_sys::Socket, datagram: &[u8]) -> io::Result<()> {
    let kernel = netlink_sys::SocketAddr::new(0, 0);
    match socket.send_to(datagram, &kernel, 0) {
        // A transaction with thousands of addresses outgrows a socket's buffer.
        Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
            setsockopt(&socket.as_fd(), sockopt::SndBufForce, &(2 * datagram.len()))?;
            socket.send_to(datagram, &kernel, 0).map(|_sent| ())
        }
        outcome => outcome.map(|_sent| ()),
    }
}

fn receive(socket: &netlink_sys::Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(RECEIVE);
    loop {
        match socket.recv(buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_length) => return Ok(()),
        }
    }
}

/// Which request of the datagram a message answers. `None` for a late one of an earlier.
fn index_of(sequence: u32, first: u32, answers: &[Answer]) -> Option<(usize, Answer)> {
    let index = usize::try_from(sequence.wrapping_sub(first)).ok()?;
    Some((index, *answers.get(index)?))
}

fn set(outcomes: &mut [Result<(), Cause>], index: usize, cause: Cause) {
    if let Some(outcome) = outcomes.get_mut(index) {
        *outcome = Err(cause);
    }
}

/// Takes down how a request ended: `NLMSG_ERROR` and `NLMSG_DONE` both begin with the code.
/// Answers whether it failed.
fn record(outcomes: &mut [Result<(), Cause>], index: usize, message: &Message<'_>) -> bool {
    let code = message
        .payload
        .first_chunk::<4>()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    if code < 0 {
        let explanation = (message.kind == NLMSG_ERROR && message.flags & NLM_F_ACK_TLVS != 0)
            .then(|| explanation(message.payload, message.flags))
            .flatten();
        let errno = Errno::from_raw(-code);
        set(outcomes, index, Cause::Refused { errno, explanation });
    }
    code < 0
}

/// The kernel's own words (`NLMSGERR_ATTR_MSG`) behind the code and what it has of the request.
fn explanation(payload: &[u8], flags: u16) -> Option<String> {
    let request = match payload.get(4..)?.first_chunk::<4>() {
        Some(length) if flags & NLM_F_CAPPED == 0 => {
            usize::try_from(u32::from_ne_bytes(*length)).ok()?
        }
        _ => HEADER,
    };
    let attributes = payload.get(4 + request.next_multiple_of(4)..)?;
    let text = Attributes(attributes)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?
        .1;
    Some(text_of(text))
}

/// A string attribute without its terminating NUL.
pub(crate) fn text_of(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The messages of a received buffer.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let [l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([t0, t1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    }
}

/// The attributes of a buffer, as (type without its flags, value).
#[derive(Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, t0, t1] = *self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]) & 0x3fff, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's "taken" for a request of `length` bytes, of which `kept` come back.
    fn refusal(length: u32, kept: usize) -> Vec<u8> {
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend(length.to_ne_bytes());
        payload.resize(4 + kept, 0);
        payload.extend([10, 0, 1, 0]);
        payload.extend(b"taken\0\0\0");
        payload
    }

    #[test]
    fn an_error_carries_the_kernels_own_words() {
        let whole = refusal(40, 40);
        let capped = refusal(40, HEADER);
        for (payload, flags) in [
            (whole, NLM_F_ACK_TLVS),
            (capped, NLM_F_ACK_TLVS | NLM_F_CAPPED),
        ] {
            let message = Message {
                kind: NLMSG_ERROR,
                flags,
                sequence: 1,
                payload: &payload,
            };
            let mut outcomes = vec![Ok(())];

            assert!(record(&mut outcomes, 0, &message));

            let cause = outcomes.pop().unwrap().unwrap_err();
            assert_eq!(cause.to_string(), "EEXIST: File exists (taken)");
        }
    }

    #[test]
    fn a_buffer_that_ends_in_the_middle_of_a_message_ends_the_walk() {
        let mut buffer = Vec::new();
        buffer.extend(20_u32.to_ne_bytes());
        buffer.extend([0; 12]);
        buffer.extend([1, 2, 3, 4]);
        buffer.extend(64_u32.to_ne_bytes());
        buffer.extend([0; 12]);
        let payloads: Vec<&[u8]> = Messages(&buffer).map(|message| message.payload).collect();
        assert_eq!(payloads, [&[1_u8, 2, 3, 4][..]]);
    }

    #[test]
    fn attributes_with_impossible_lengths_end_the_walk() {
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(Attributes(&[5, 0, 2, 0, 7]).next(), Some((2, &[7_u8][..])));
    }
}
