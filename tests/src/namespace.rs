//! Network namespaces that live as long as a file is open, and threads that work in them.

use std::{
    fs::File,
    os::fd::AsRawFd,
    panic,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
};

use nix::sched::{self, CloneFlags};

use crate::shell;

/// A network namespace. It is gone with the last process and file that uses it.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one, with nothing in it but a loopback link that is down.
    #[expect(clippy::new_without_default, reason = "it makes a kernel object")]
    pub fn new() -> Self {
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                enter_new(CloneFlags::CLONE_NEWNET);
                Self::current()
            });
            joined(made.join())
        })
    }

    /// The one of the calling thread.
    pub fn current() -> Self {
        let file =
            File::open("/proc/thread-self/ns/net").expect("cannot open /proc: is it mounted?");
        Self { file }
    }

    /// One that has a path.
    pub fn open(path: &Path) -> Self {
        let file = File::open(path)
            .unwrap_or_else(|error| panic!("no namespace {}: {error}", path.display()));
        Self { file }
    }

    /// A path by which any process can open it while this value lives.
    pub fn path(&self) -> PathBuf {
        // Not /proc/self: the path is given to other processes.
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            process::id(),
            self.file.as_raw_fd()
        ))
    }

    /// Runs `work` on a thread inside this namespace, and returns what it returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            joined(inside.join())
        })
    }

    /// Moves the calling thread into this namespace, for the rest of the thread's life.
    pub(crate) fn enter(&self) {
        #[expect(
            clippy::disallowed_methods,
            reason = "the harness's way into a namespace"
        )]
        sched::setns(&self.file, CloneFlags::CLONE_NEWNET).expect("cannot enter a namespace");
    }

    /// Runs a shell script inside and returns its output. Panics when it fails.
    pub fn sh(&self, script: &str) -> String {
        self.run(|| shell::sh(script))
    }

    /// Runs many `ip` commands, one a line, in one process. Empty lines and indentation
    /// are skipped.
    pub fn ip(&self, commands: &str) -> String {
        self.run(|| shell::run(Command::new("ip").args(["-batch", "-"]), commands))
    }
}

/// Gives the calling thread new namespaces.
pub(crate) fn enter_new(flags: CloneFlags) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness's way to make namespaces"
    )]
    sched::unshare(flags).unwrap_or_else(|error| {
        panic!(
            "cannot make a namespace ({error}): CAP_SYS_ADMIN is missing. Run scripts/test, \
             or put `unshare --user --map-root-user` in front of the test executable"
        )
    });
}

/// What a thread returned; its panic goes on in this one.
pub(crate) fn joined<T>(outcome: thread::Result<T>) -> T {
    outcome.unwrap_or_else(|payload| panic::resume_unwind(payload))
}
