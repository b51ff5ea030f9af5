//! Killing a plugin between two of its system calls.

use std::{
    io::Write,
    process::{Command, Stdio},
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

impl Request {
    /// Makes the call and kills the process, as SIGKILL does, when its `nth` system call
    /// is done. Returns false when it ended by itself before.
    pub fn killed_after(&self, nth: usize) -> bool {
        // The shell waits until it is traced, then becomes the plugin.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "kill -STOP $$; exec \"$0\""])
            .arg(self.path());
        let pid = self.spawn(command);
        trace_to_the_plugin(pid);
        run_for(pid, nth)
    }

    #[expect(
        clippy::zombie_processes,
        reason = "who traces it waits for it, by its pid"
    )]
    fn spawn(&self, mut command: Command) -> Pid {
        command
            .env_clear()
            .envs(self.variables())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("cannot run /bin/sh");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(self.input()).ok();
        Pid::from_raw(child.id().cast_signed())
    }
}

/// Starts to trace a shell that has stopped itself, up to the moment when it is the plugin.
fn trace_to_the_plugin(pid: Pid) {
    wait::waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).expect("cannot trace a process of our own");
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
    // One stop at the entry of each system call and one at its end; exec's end comes first.
    for _ in 0..=2 * nth {
        ptrace::syscall(pid, None).unwrap();
        match wait::waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {}
            WaitStatus::Exited(..) => return false,
            other => panic!("unexpected while tracing: {other:?}"),
        }
    }
    signal::kill(pid, Signal::SIGKILL).unwrap();
    wait::waitpid(pid, None).unwrap();
    true
}
