//! The child process of a delegate: started, fed, listened to, and never left behind.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{self, Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl, signal::Signal},
    unistd::{getppid, read, write},
};

use super::MAX_ANSWER;
use crate::{Command, stdio};

/// An executable that is being replaced cannot be started; how long to try.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// How often to look for the child's end while somebody has its pipes open: perhaps a
/// process that the child has left behind.
const LOOK: Duration = Duration::from_millis(20);

/// How long to wait for a killed child. One that hangs in the kernel is left to init.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// How much of standard error is kept for the message.
const MAX_STDERR: usize = 4096;

/// A child that has ended by itself.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The start of it. All of it went to our own standard error.
    pub(super) stderr: Vec<u8>,
}

/// Why a child was not heard to its end.
#[derive(Debug)]
pub(super) enum Broken {
    Deadline,
    TooLarge,
    Io(io::Error),
}

impl From<Errno> for Broken {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A child process that is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A child that has been waited for is not killed: its id may be another's.
        if self.0.kill().is_err() {
            return;
        }
        let killed = Instant::now();
        let mut naps = Naps::default();
        while matches!(self.0.try_wait(), Ok(None)) && killed.elapsed() < KILL_LIMIT {
            naps.take();
        }
    }
}

/// Starts the executable, with patience if it is just being replaced.
pub(super) fn start(path: &Path, command: Command) -> io::Result<Running> {
    let started = Instant::now();
    let mut naps = Naps::default();
    loop {
        match spawn(path, command) {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && started.elapsed() < BUSY_LIMIT =>
            {
                naps.take();
            }
            spawned => return spawned.map(Running),
        }
    }
}

fn spawn(path: &Path, command: Command) -> io::Result<Child> {
    let parent = process::id();
    let mut child = process::Command::new(path);
    child
        .env("CNI_COMMAND", command.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    #[expect(
        unsafe_code,
        reason = "the child dies with us: prctl() is async-signal-safe"
    )]
    // SAFETY: between fork and exec the closure makes two system calls and neither
    // allocates nor locks.
    unsafe {
        child.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // A parent that was killed before the line above has sent no signal.
            if getppid().as_raw().cast_unsigned() == parent {
                Ok(())
            } else {
                Err(Errno::ESRCH.into())
            }
        });
    }
    child.spawn()
}

impl Running {
    /// Writes `input`, and reads until the child ends. Standard error is passed on at once.
    pub(super) fn talk(mut self, input: &[u8], limit: Duration) -> Result<Finished, Broken> {
        let started = Instant::now();
        let mut pipes = Pipes::new(&mut self.0, input)?;
        let mut naps = Naps::default();
        loop {
            // Before the pipes: what the child has written until its end is then in them.
            let ended = self.0.try_wait().map_err(Broken::Io)?;
            pipes.pump()?;
            if let Some(status) = ended {
                return Ok(Finished {
                    status,
                    stdout: pipes.answer,
                    stderr: pipes.complaint,
                });
            }
            let rest = limit.saturating_sub(started.elapsed());
            if rest.is_zero() {
                return Err(Broken::Deadline);
            }
            if pipes.is_silent() {
                naps.take();
            } else {
                pipes.wait(rest.min(LOOK))?;
            }
        }
    }
}

/// Our ends of the child's standard streams. Each is `None` once it is of no more use.
struct Pipes<'a> {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    input: &'a [u8],
    answer: Vec<u8>,
    complaint: Vec<u8>,
}

impl<'a> Pipes<'a> {
    fn new(child: &mut Child, input: &'a [u8]) -> Result<Self, Broken> {
        let pipes = Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            input,
            answer: Vec::new(),
            complaint: Vec::new(),
        };
        for stream in pipes.streams() {
            fcntl(stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(pipes)
    }

    fn streams(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [
            self.stdin.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ]
        .into_iter()
        .flatten()
    }

    /// Can nothing happen any more but the child's end?
    fn is_silent(&self) -> bool {
        self.streams().next().is_none()
    }

    /// Waits until there is something to do.
    fn wait(&self, limit: Duration) -> Result<(), Broken> {
        let events = PollFlags::POLLIN | PollFlags::POLLOUT;
        let mut streams: Vec<_> = self.streams().map(|fd| PollFd::new(fd, events)).collect();
        // A limit below a millisecond would be no wait at all.
        let limit = limit.max(Duration::from_millis(1));
        match poll(
            &mut streams,
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO),
        ) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes and reads what can be at this moment.
    fn pump(&mut self) -> Result<(), Broken> {
        self.feed()?;
        let answer = &mut self.answer;
        drain(&mut self.stdout, |bytes| {
            answer.extend_from_slice(bytes);
            if answer.len() > MAX_ANSWER {
                return Err(Broken::TooLarge);
            }
            Ok(())
        })?;
        let complaint = &mut self.complaint;
        drain(&mut self.stderr, |bytes| {
            stdio::write_error(bytes);
            let room = MAX_STDERR.saturating_sub(complaint.len()).min(bytes.len());
            complaint.extend_from_slice(bytes.get(..room).unwrap_or_default());
            Ok(())
        })
    }

    fn feed(&mut self) -> Result<(), Broken> {
        while let Some(stdin) = &self.stdin {
            match write(stdin, self.input) {
                Ok(written) => self.input = self.input.get(written..).unwrap_or_default(),
                // It need not read all, or anything.
                Err(Errno::EPIPE) => self.input = &[],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
            if self.input.is_empty() {
                self.stdin = None;
            }
        }
        Ok(())
    }
}

/// Reads what is in the pipe, but not for ever if the other end writes on and on: no
/// pipe holds more than 1 MiB, so what a child leaves behind is read in one go.
fn drain<S: AsFd>(
    pipe: &mut Option<S>,
    mut take: impl FnMut(&[u8]) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut buffer = [0; 8192];
    for _ in 0..=128 {
        let Some(stream) = pipe else { break };
        match read(stream, &mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => take(buffer.get(..count).unwrap_or_default())?,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Pauses that become longer: short ones are wasted on what takes long.
#[derive(Default)]
struct Naps(u32);

impl Naps {
    fn take(&mut self) {
        thread::sleep(Duration::from_micros(50 << self.0.min(8)));
        self.0 += 1;
    }
}
