//! Killing a plugin between two of its system calls.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
};

use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{self, Signal},
        wait::{self, WaitPidFlag, WaitStatus},
    },
    unistd::Pid,
};

use crate::Request;

/// The shell waits until it is traced, then becomes the plugin.
const STOPPED_SHELL: &str = "kill -STOP $$; exec \"$0\" \"$@\"";

pub(crate) const OPTIONS: Options = Options::PTRACE_O_TRACESYSGOOD
    .union(Options::PTRACE_O_TRACEEXEC)
    .union(Options::PTRACE_O_EXITKILL);

impl Request {
    /// Makes the call and kills the process, as SIGKILL does, when its `nth` system call
    /// that changes something is done. Returns false when it ended by itself before.
    pub fn killed_after(&self, nth: usize) -> bool {
        let pid = self.start_traced(Stdio::null).0;
        run_for(pid, nth)
    }

    /// Makes the call and returns how many system calls it took. Panics when the process
    /// starts another.
    pub fn system_calls(&self) -> usize {
        let pid = self.start_traced(Stdio::null).0;
        let children = Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK;
        ptrace::setoptions(pid, OPTIONS | children).unwrap();
        let mut stops = 0;
        while next_stop(pid) {
            stops += 1;
        }
        stops / 2
    }

    /// Starts the call, traced and stopped where the plugin begins. What it writes goes where
    /// `output` says.
    pub(crate) fn start_traced(&self, output: fn() -> Stdio) -> (Pid, Child) {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", STOPPED_SHELL])
            .arg(self.path())
            .args(self.words())
            .env_clear()
            .envs(self.variables())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(output())
            .stderr(output());
        let mut child = command.spawn().expect("cannot run /bin/sh");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(self.input()).ok();
        let pid = Pid::from_raw(child.id().cast_signed());
        trace_to_the_plugin(pid);
        (pid, child)
    }
}

/// Starts to trace a shell that has stopped itself, up to the moment when it is the plugin.
fn trace_to_the_plugin(pid: Pid) {
    wait::waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    ptrace::seize(pid, OPTIONS).expect("cannot trace a process of our own");
    signal::kill(pid, Signal::SIGCONT).unwrap();
    loop {
        match wait::waitpid(pid, None).unwrap() {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => return,
            WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(_, Signal::SIGCONT) => {
                ptrace::cont(pid, None).unwrap();
            }
            other => panic!("the plugin did not start: {other:?}"),
        }
    }
}

fn run_for(pid: Pid, nth: usize) -> bool {
    let mut done = 0;
    // exec's own end comes first.
    while next_stop(pid) {
        if changes_something(pid) {
            done += 1;
        }
        if done == nth {
            signal::kill(pid, Signal::SIGKILL).unwrap();
            wait::waitpid(pid, None).unwrap();
            return true;
        }
        // The entry of the next call.
        if !next_stop(pid) {
            return false;
        }
    }
    false
}

/// Lets the process run to the next entry or end of a system call. False when it is gone.
fn next_stop(pid: Pid) -> bool {
    loop {
        ptrace::syscall(pid, None).unwrap();
        match wait::waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => return true,
            WaitStatus::Exited(..) => return false,
            // A program that it started has ended.
            WaitStatus::Stopped(_, Signal::SIGCHLD) => {}
            other => panic!("unexpected while tracing: {other:?}"),
        }
    }
}

/// Whether anybody else can tell that the call that has just ended was made. To be killed
/// after a call that nobody can tell of is to be killed after the one before.
#[cfg(target_arch = "x86_64")]
pub(crate) fn changes_something(pid: Pid) -> bool {
    const PRIVATE: [libc::c_long; 24] = [
        libc::SYS_arch_prctl,
        libc::SYS_brk,
        libc::SYS_close,
        libc::SYS_fcntl,
        libc::SYS_fstat,
        libc::SYS_fstatfs,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_munmap,
        libc::SYS_newfstatat,
        libc::SYS_poll,
        libc::SYS_pread64,
        libc::SYS_prlimit64,
        libc::SYS_read,
        libc::SYS_readlink,
        libc::SYS_recvfrom,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_set_robust_list,
        libc::SYS_set_tid_address,
        libc::SYS_sigaltstack,
        libc::SYS_statx,
    ];
    let call = ptrace::getregs(pid).unwrap().orig_rax;
    !PRIVATE
        .iter()
        .any(|private| private.cast_unsigned() == call)
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn changes_something(_: Pid) -> bool {
    true
}
