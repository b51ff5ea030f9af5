//! Looking at a plugin while it runs, system call by system call: stopping it in between, and
//! seeing or changing what it asks of the kernel.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    process::{Child, ExitStatus, Output, Stdio},
};

use nix::{
    sys::{
        ptrace,
        wait::{self, WaitStatus},
    },
    unistd::Pid,
};

use crate::{Answer, Request, trace::changes_something};

/// How far a call came that was to be stopped.
#[derive(Debug)]
pub enum Stopped {
    /// It was stopped, and then went on to this end.
    Between(Answer),
    /// Not stopped: it held a lock, and others would only have waited for it.
    InALock(Answer),
    /// It ended before.
    Never(Answer),
}

impl Request {
    /// Makes the call and stops it when its `nth` system call that changes something is done,
    /// for as long as `meanwhile` takes. Then it goes on to its end.
    pub fn stopped_after(&self, nth: usize, meanwhile: impl FnOnce()) -> Stopped {
        let (pid, child) = self.start_traced(Stdio::piped);
        let mut done = 0;
        let mut ended = None;
        while done < nth && ended.is_none() {
            // Here a call has ended; exec is the first.
            ended = next_stop(pid);
            if ended.is_none() {
                done += usize::from(changes_something(pid));
                if done < nth {
                    // The entry of the next.
                    ended = next_stop(pid);
                }
            }
        }
        if let Some(status) = ended {
            return Stopped::Never(self.answer(child, status));
        }
        let locked = holds_a_lock(pid);
        if !locked {
            meanwhile();
        }
        ptrace::detach(pid, None).unwrap();
        let answer = self.answer(child, wait_for(pid));
        if locked {
            Stopped::InALock(answer)
        } else {
            Stopped::Between(answer)
        }
    }

    /// Makes the call and shows each of its system calls before the kernel sees it.
    pub fn watched(&self, mut look: impl FnMut(&Entry)) -> Answer {
        let (pid, child) = self.start_traced(Stdio::piped);
        let path = format!("/proc/{pid}/mem");
        let memory = OpenOptions::new().read(true).write(true).open(path);
        let mut entry = Entry {
            pid,
            memory: memory.expect("cannot see the memory of a process of our own"),
            call: 0,
            arguments: [0; 3],
        };
        loop {
            // exec's own end comes first.
            if let Some(status) = next_stop(pid) {
                return self.answer(child, status);
            }
            if let Some(status) = next_stop(pid) {
                return self.answer(child, status);
            }
            entry.read_registers();
            look(&entry);
        }
    }

    fn answer(&self, mut child: Child, status: i32) -> Answer {
        let mut stdout = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut stdout).ok();
        let mut stderr = Vec::new();
        child.stderr.take().unwrap().read_to_end(&mut stderr).ok();
        let output = Output {
            status: ExitStatus::from_raw(status << 8),
            stdout,
            stderr,
        };
        Answer::new(self.to_string(), &output)
    }
}

/// A system call that is about to be made.
#[derive(Debug)]
pub struct Entry {
    pid: Pid,
    memory: File,
    /// Its number.
    pub call: i64,
    /// Its first arguments.
    pub arguments: [u64; 3],
}

impl Entry {
    #[cfg(target_arch = "x86_64")]
    fn read_registers(&mut self) {
        let registers = ptrace::getregs(self.pid).unwrap();
        self.call = registers.orig_rax.cast_signed();
        self.arguments = [registers.rdi, registers.rsi, registers.rdx];
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn read_registers(&mut self) {
        panic!(
            "system calls can only be looked into on x86-64, not of {}",
            self.pid
        );
    }

    /// What is in the caller's memory.
    pub fn memory(&self, address: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.memory.read_exact_at(&mut bytes, address).unwrap();
        bytes
    }

    /// Changes it.
    pub fn change(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address).unwrap();
    }
}

/// Lets the process run to the next entry or end of a system call. Answers its exit status
/// when it is gone.
fn next_stop(pid: Pid) -> Option<i32> {
    ptrace::syscall(pid, None).unwrap();
    match wait::waitpid(pid, None).unwrap() {
        WaitStatus::PtraceSyscall(_) => None,
        WaitStatus::Exited(_, status) => Some(status),
        other => panic!("unexpected while tracing: {other:?}"),
    }
}

fn wait_for(pid: Pid) -> i32 {
    match wait::waitpid(pid, None).unwrap() {
        WaitStatus::Exited(_, status) => status,
        other => panic!("the plugin did not end by itself: {other:?}"),
    }
}

fn holds_a_lock(pid: Pid) -> bool {
    // Not /proc/locks, whose lines may be missed when others come and go.
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    files.flatten().any(|file| {
        let info = fs::read_to_string(file.path()).unwrap_or_default();
        info.lines().any(|line| line.starts_with("lock:"))
    })
}
