//! Staying in a pod: doing the same again and again, until told to end.

use std::time::Duration;

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use std::os::fd::AsFd;

use crate::error::Error;

/// Signals that end a pod, waited for instead of obeyed: a container's first process gets no
/// signal that it does not ask for.
#[derive(Debug)]
pub(crate) struct Ending {
    signals: SignalFd,
}

impl Ending {
    /// From now on SIGTERM and SIGINT are waited for.
    pub(crate) fn expect() -> Result<Self, Error> {
        let failed = |error: Errno| Error::Signals(error.into());
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).map_err(failed)?;
        Ok(Self { signals })
    }

    /// Waits so long, or until told to end. Answers whether it was.
    pub(crate) fn within(&self, time: Duration) -> Result<bool, Error> {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let mut files = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(Error::Signals(error.into())),
        }
    }
}
