//! Stopping and killing a plugin that another process has started.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use harness::{Request, Running};
use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{self, Signal},
        wait::{self, WaitStatus},
    },
    unistd::Pid,
};

/// Where the wrapper is that comes first in `CNI_PATH`.
const DIR: &str = "/run/wrapper";

const OPTIONS: Options = Options::PTRACE_O_TRACESYSGOOD
    .union(Options::PTRACE_O_TRACEEXEC)
    .union(Options::PTRACE_O_EXITKILL);

/// A plugin in whose place the next call finds a shell, which waits until it is traced and
/// then becomes the plugin.
#[derive(Debug)]
pub(crate) struct Wrapped {
    path: PathBuf,
}

impl Wrapped {
    pub(crate) fn new(plugin: &str) -> Self {
        let real = Request::bare(plugin);
        let script = format!(
            "#!/bin/sh\nif rm {DIR}/armed 2>/dev/null; then\n  echo $$ >{DIR}/pid\n  kill -STOP $$\nfi\nexec {}\n",
            real.path().display()
        );
        let path = Path::new(DIR).join(plugin);
        fs::create_dir_all(DIR).unwrap();
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { path }
    }

    /// Starts a call of the plugin itself.
    pub(crate) fn start(&self, request: &Request) -> (Running, Traced) {
        start(&request.clone().executable(&self.path))
    }

    /// Starts a call of a plugin that runs this one.
    pub(crate) fn start_under(&self, request: &Request) -> (Running, Traced) {
        let dir = self.path.parent().unwrap().display();
        let path = format!("{dir}:{}", Request::search_path().to_string_lossy());
        start(&request.clone().env("CNI_PATH", path))
    }
}

fn start(request: &Request) -> (Running, Traced) {
    fs::write(format!("{DIR}/armed"), "").unwrap();
    let running = request.start();
    let traced = Traced::attach(wait_for_pid());
    fs::remove_file(format!("{DIR}/pid")).unwrap();
    (running, traced)
}

/// Waits until the shell has stopped itself.
fn wait_for_pid() -> Pid {
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(format!("{DIR}/pid")).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.contains(" T ") {
                return Pid::from_raw(pid);
            }
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "the plugin was never run"
        );
        thread::sleep(Duration::from_micros(200));
    }
}

/// A process that stands still before its first system call, or after one.
#[derive(Debug)]
pub(crate) struct Traced(Pid);

impl Traced {
    fn attach(pid: Pid) -> Self {
        ptrace::seize(pid, OPTIONS).expect("cannot trace a process of our own");
        signal::kill(pid, Signal::SIGCONT).unwrap();
        loop {
            match wait::waitpid(pid, None).unwrap() {
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => return Self(pid),
                WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(_, Signal::SIGCONT) => {
                    ptrace::cont(pid, None).unwrap();
                }
                other => panic!("the plugin did not start: {other:?}"),
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.0
    }

    /// Kills the process when its `nth` system call is done. False when it ended before.
    pub(crate) fn kill_after(self, nth: usize) -> bool {
        // exec's own end comes first.
        let mut done = 0;
        while self.next_stop() {
            if done == nth {
                signal::kill(self.0, Signal::SIGKILL).unwrap();
                wait::waitpid(self.0, None).unwrap();
                return true;
            }
            done += 1;
            if !self.next_stop() {
                return false;
            }
        }
        false
    }

    /// Stops the process, as SIGSTOP does, as soon as it holds a lock.
    pub(crate) fn stop_in_the_lock(self) {
        while self.next_stop() {
            if self.holds_a_lock() {
                // It stops where it is when it is traced no longer.
                ptrace::detach(self.0, Signal::SIGSTOP).unwrap();
                return;
            }
        }
        panic!("it never took a lock");
    }

    fn holds_a_lock(&self) -> bool {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let own = format!(" {} ", self.0);
        let mut lines = locks.lines();
        lines.any(|line| line.contains("FLOCK") && line.contains(&own) && !line.contains("->"))
    }

    /// Lets the process run to the next entry or end of a system call. False: it is gone.
    fn next_stop(&self) -> bool {
        ptrace::syscall(self.0, None).unwrap();
        match wait::waitpid(self.0, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => true,
            WaitStatus::Exited(..) => false,
            other => panic!("unexpected while tracing: {other:?}"),
        }
    }
}
