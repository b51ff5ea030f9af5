//! The three standard streams of a plugin, one system call at a time.
//!
//! The standard library's handles buffer; a plugin reads one document and writes at most
//! one, and a reader that is gone must not become a panic.

use std::{
    io::{self, IsTerminal},
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{read, write},
};

/// The largest configuration that is read.
pub(crate) const MAX_INPUT: usize = 16 << 20;

/// Most configurations fit in here.
const FIRST_READ: usize = 4096;

static PLUGIN_NAME: OnceLock<&'static str> = OnceLock::new();

/// Is there a document on standard output? There must never be a second one. Locked while
/// it is written, so that a panic elsewhere does not end the process in the middle of it.
static ANSWERED: Mutex<bool> = Mutex::new(false);

/// Sets the name that stands before each line of the log.
pub(crate) fn set_plugin_name(name: &'static str) {
    PLUGIN_NAME.get_or_init(|| name);
}

/// The name set, or nothing.
pub(crate) fn plugin_name() -> &'static str {
    PLUGIN_NAME.get().copied().unwrap_or_default()
}

/// Writes the one document that the runtime gets, unless it has one already.
///
/// A runtime that has closed its end is no failure.
pub(crate) fn answer(mut document: String) -> io::Result<()> {
    let mut answered = ANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    if *answered {
        return Ok(());
    }
    *answered = true;
    document.push('\n');
    match write_all(io::stdout(), document.as_bytes()) {
        Err(Errno::EPIPE) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes on standard error. When nobody reads it any more, nobody is left to tell.
pub(crate) fn write_error(text: &[u8]) {
    write_all(io::stderr(), text).unwrap_or_default();
}

/// Writes everything, as a rule in one system call.
pub(crate) fn write_all(stream: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    let stream = stream.as_fd();
    while !bytes.is_empty() {
        match write(stream, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait(stream, PollFlags::POLLOUT, PollTimeout::NONE)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Reads standard input to its end. `None`: there is more than [`MAX_INPUT`].
pub(crate) fn read_input() -> io::Result<Option<Vec<u8>>> {
    read_until(io::stdin(), |_| Ok(true))
}

/// Reads what comes on standard input until `enough`, its end, or the `limit`.
///
/// A terminal is not read at all.
pub(crate) fn read_input_briefly(
    limit: Duration,
    enough: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    if io::stdin().is_terminal() {
        return Ok(None);
    }
    let started = Instant::now();
    read_until(io::stdin(), |bytes| {
        let rest = limit.saturating_sub(started.elapsed());
        if enough(bytes) || rest.is_zero() {
            return Ok(false);
        }
        let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO);
        let stdin = io::stdin();
        let mut streams = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut streams, timeout).is_ok_and(|ready| ready > 0))
    })
}

/// Reads as long as `go_on` says so. `None`: there is more than [`MAX_INPUT`].
fn read_until(
    stream: impl AsFd,
    go_on: impl Fn(&[u8]) -> io::Result<bool>,
) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; FIRST_READ];
    let mut filled = 0;
    while go_on(bytes.get(..filled).unwrap_or_default())? {
        if filled == bytes.len() {
            bytes.resize(filled * 4, 0);
        }
        match read(&stream, bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait(stream.as_fd(), PollFlags::POLLIN, PollTimeout::NONE)?,
            Err(errno) => return Err(errno.into()),
        }
        if filled > MAX_INPUT {
            return Ok(None);
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

fn wait(stream: BorrowedFd<'_>, events: PollFlags, timeout: PollTimeout) -> Result<(), Errno> {
    match poll(&mut [PollFd::new(stream, events)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
