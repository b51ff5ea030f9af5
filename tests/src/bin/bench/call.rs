//! One call of a plugin, as a runtime makes it, and many at the same time.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Outcome,
    stage::{Pod, Side},
};

/// Where the Go plugins find iptables.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A finished call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) stdout: Vec<u8>,
    /// What it said, if it failed.
    pub(crate) failure: Option<String>,
}

impl Call {
    pub(crate) fn wall(&self) -> Duration {
        self.ended - self.started
    }

    pub(crate) fn successful(self) -> Outcome<Self> {
        match &self.failure {
            None => Ok(self),
            Some(failure) => Err(failure.clone().into()),
        }
    }
}

impl Side {
    pub(crate) fn add(&self, pod: &Pod) -> Outcome<Call> {
        self.call("ADD", pod, &pod.netns, &self.config)
    }

    /// With the result of ADD, as runtimes give it.
    pub(crate) fn del(&self, pod: &Pod, result: &[u8]) -> Outcome<Call> {
        let mut config = self.config.clone();
        let previous = serde_json::from_slice(result)?;
        if let Some(map) = config.as_object_mut() {
            map.insert("prevResult".to_owned(), previous);
        }
        self.call("DEL", pod, &pod.netns, &config)
    }

    /// The DEL that comes again, when nothing is left of the pod.
    pub(crate) fn del_nothing(&self, pod: &Pod) -> Outcome<Call> {
        self.call("DEL", pod, Path::new(""), &self.config)
    }

    pub(crate) fn version(&self, pod: &Pod) -> Outcome<Call> {
        self.call("VERSION", pod, &pod.netns, &self.config)
    }

    pub(crate) fn empty(&self) -> Outcome<Call> {
        run(
            "an empty program",
            Command::new(&self.empty).env_clear(),
            b"",
        )
    }

    fn call(&self, command: &str, pod: &Pod, netns: &Path, config: &Value) -> Outcome<Call> {
        let mut plugin = Command::new(&self.plugin);
        self.environment(&mut plugin, (command, pod, netns));
        let what = format!("{}: {command} of {}", self.name, pod.id);
        run(&what, &mut plugin, &serde_json::to_vec(config)?)
    }

    pub(crate) fn environment(&self, program: &mut Command, call: (&str, &Pod, &Path)) {
        let (command, pod, netns) = call;
        let namespace = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=";
        program
            .env_clear()
            .env("PATH", PATH)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", format!("{namespace}{}", pod.id))
            .env("CNI_PATH", &self.plugins);
    }
}

/// From the start of the process to the end of its output and its exit.
pub(crate) fn run(what: &str, program: &mut Command, stdin: &[u8]) -> Outcome<Call> {
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = program
        .spawn()
        .map_err(|e| format!("cannot start {what}: {e}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // The program may end without having read it.
        pipe.write_all(stdin).ok();
    }
    let output = child.wait_with_output()?;
    let ended = Instant::now();
    let said = || [output.stdout.as_slice(), b" ", &output.stderr].concat();
    let failure = (!output.status.success()).then(|| {
        format!(
            "{what}: {} {}",
            output.status,
            String::from_utf8_lossy(&said())
        )
    });
    Ok(Call {
        started,
        ended,
        stdout: output.stdout,
        failure,
    })
}

/// So many callers ADD a share of the pods each, all at once; when the last one is done
/// they DEL them. Failed calls are returned too.
pub(crate) fn crowd(side: &Side, pods: &[Pod], callers: usize) -> Outcome<(Vec<Call>, Vec<Call>)> {
    let share = pods.len().div_ceil(callers);
    let shares: Vec<&[Pod]> = pods.chunks(share).collect();
    let barrier = Barrier::new(shares.len());
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    thread::scope(|scope| -> Outcome {
        let barrier = &barrier;
        let start = |pods| scope.spawn(move || one_of_many(side, pods, barrier));
        let workers: Vec<_> = shares.into_iter().map(start).collect();
        for worker in workers {
            let (mine, gone) = worker.join().map_err(|_panic| "a caller panicked")??;
            adds.extend(mine);
            dels.extend(gone);
        }
        Ok(())
    })?;
    Ok((adds, dels))
}

fn one_of_many(side: &Side, pods: &[Pod], barrier: &Barrier) -> Outcome<(Vec<Call>, Vec<Call>)> {
    let entered = side.enter();
    barrier.wait();
    let adds = pods
        .iter()
        .map(|pod| side.add(pod))
        .collect::<Outcome<Vec<_>>>();
    // Reached by every caller, also after an error: the others wait for it.
    barrier.wait();
    entered?;
    let adds = adds?;
    let dels = pods.iter().zip(&adds).map(|(pod, add)| match &add.failure {
        None => side.del(pod, &add.stdout),
        Some(_) => side.del_nothing(pod),
    });
    let dels = dels.collect::<Outcome<_>>()?;
    Ok((adds, dels))
}
