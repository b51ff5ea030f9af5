//! What of a pod's start and end is CNI: pods made and removed through the CRI, on nodes with
//! containerd and our plugins, and on nodes with the Go plugins. `scripts/bench` starts it.
//!
//! The nodes take turns in short rounds. What CNI takes is what containerd says itself, in
//! its metrics: the time from its call of libcni to the result of the last plugin.

#![expect(clippy::expect_used, clippy::panic, reason = "the harness does so too")]

use std::{
    error::Error,
    io::{self, Read, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use harness::{Containerd, Cri, Host, Node, Pod, node, on_host, tool};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const PODS: usize = 60;
const CALLERS: usize = 8;
const ROUNDS: usize = 5;

/// From seconds of all pods to milliseconds of one.
#[expect(clippy::cast_precision_loss, reason = "so few are exact")]
const PER_POD: f64 = 1000.0 / PODS as f64;

/// What the kernel does after a removal must not be charged to the next node.
const SETTLE: Duration = Duration::from_millis(200);

/// What is compared: the name, and the Go plugin's backend for the masquerade rules.
const CONTENDERS: [(&str, Option<&str>); 3] = [
    ("cni-bridge", None),
    ("Go + iptables", Some("iptables")),
    ("Go + nftables", Some("nftables")),
];

/// One node's turn: seconds, summed over the pods.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// `RunPodSandbox`, as the caller sees it.
    start: f64,
    /// Of that, CNI.
    add: f64,
    /// `StopPodSandbox` and `RemovePodSandbox`.
    end: f64,
    /// Of that, CNI.
    del: f64,
    /// From the first call to the last pod, not summed.
    wall: f64,
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 1 } else { ROUNDS };
    let versions = [Containerd::Distribution, Containerd::Current];
    for outcome in versions.map(|which| bench(which, rounds)) {
        if let Err(error) = outcome {
            writeln!(io::stderr(), "bench-containerd: {error}").ok();
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// A node that waits, on a thread of its own, for its turns.
struct Contender {
    orders: Sender<()>,
    turns: Receiver<Outcome<Turn>>,
    version: String,
}

/// The same on its thread.
struct Line {
    version: Sender<String>,
    orders: Receiver<()>,
    turns: Sender<Outcome<Turn>>,
}

fn bench(which: Containerd, rounds: usize) -> Outcome {
    thread::scope(|scope| {
        let mut contenders = Vec::new();
        for (name, backend) in CONTENDERS {
            let (orders, ordered) = mpsc::channel();
            let (done, turns) = mpsc::channel();
            let (ready, version) = mpsc::channel();
            let line = Line {
                version: ready,
                orders: ordered,
                turns: done,
            };
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn_scoped(scope, move || {
                on_host(move |host| contend(host, which, backend, &line));
            })?;
            // It has said why, if there is none.
            let version = version
                .recv()
                .map_err(|gone| format!("no node for {name}: {gone}"))?;
            contenders.push(Contender {
                orders,
                turns,
                version,
            });
        }
        let turns = take_turns(&contenders, rounds)?;
        report(&contenders, &turns, rounds)
    })
}

/// For each contender its turns.
fn take_turns(contenders: &[Contender], rounds: usize) -> Outcome<Vec<Vec<Turn>>> {
    let mut turns = vec![Vec::new(); contenders.len()];
    // The first round is for what is read from disks and made once.
    for round in 0..=rounds {
        let which = match round {
            0 => "a round to warm up".to_owned(),
            _ => format!("round {round} of {rounds}"),
        };
        writeln!(io::stderr(), "bench-containerd: {which} ...").ok();
        let count = contenders.len();
        for index in (0..count).map(|index| (index + round) % count) {
            let (Some(contender), Some(turns)) = (contenders.get(index), turns.get_mut(index))
            else {
                continue;
            };
            contender.orders.send(())?;
            let turn = contender.turns.recv()??;
            if round > 0 {
                turns.push(turn);
            }
        }
    }
    Ok(turns)
}

fn contend(host: &Host, which: Containerd, backend: Option<&str>, line: &Line) {
    let Some(mut node) = Node::prepared(host, which, &PathBuf::from("/run/disk")) else {
        return;
    };
    if let Some(backend) = backend {
        for plugin in ["bridge", "host-local", "loopback"] {
            node::install(&tool(plugin));
        }
        node.configure(&go_network(backend).to_string());
    } else {
        node.configure(&node::shipped("10-cbr0.conflist"));
    }
    node.start();
    line.version.send(node.version()).ok();
    for () in &line.orders {
        line.turns.send(turn(&node)).ok();
        thread::sleep(SETTLE);
    }
}

/// The same job as ours by default.
fn go_network(backend: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "cbr0",
        "plugins": [{
            "type": "bridge", "bridge": "cbr0",
            "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
            "ipMasq": true, "ipMasqBackend": backend,
            "ipam": { "type": "host-local", "subnet": "10.64.1.0/24" },
        }],
    })
}

fn turn(node: &Node) -> Outcome<Turn> {
    let before = cni_seconds()?;
    let started = Instant::now();
    let pods = node.by_callers(CALLERS, PODS, |cri, n| start(node, cri, n));
    let wall = started.elapsed().as_secs_f64();
    let between = cni_seconds()?;
    let ends = node.by_callers(CALLERS, PODS, |cri, n| {
        pods.get(n).map(|(pod, _)| end(cri, pod))
    });
    let after = cni_seconds()?;
    let took = pods.iter().map(|(_, took)| took.as_secs_f64());
    let ended = ends.iter().flatten().map(Duration::as_secs_f64);
    Ok(Turn {
        start: took.sum(),
        add: between.0 - before.0,
        end: ended.sum(),
        del: after.1 - between.1,
        wall,
    })
}

fn start(node: &Node, cri: &Cri, n: usize) -> (Pod, Duration) {
    let config = node.pod_config(&format!("pod{n}"));
    let request = json!({ "config": config });
    let answer = cri.call("RuntimeService/RunPodSandbox", &request, node::DEADLINE);
    let made = answer
        .outcome
        .unwrap_or_else(|error| panic!("pod {n}: {error}"));
    let id = made
        .get("podSandboxId")
        .and_then(Value::as_str)
        .expect("an id")
        .to_owned();
    (Pod { id, config }, answer.took)
}

fn end(cri: &Cri, pod: &Pod) -> Duration {
    ["StopPodSandbox", "RemovePodSandbox"]
        .map(|method| {
            let request = json!({ "podSandboxId": pod.id });
            let answer = cri.call(
                &format!("RuntimeService/{method}"),
                &request,
                node::DEADLINE,
            );
            answer
                .outcome
                .unwrap_or_else(|error| panic!("{method}: {error}"));
            answer.took
        })
        .iter()
        .sum()
}

/// The seconds that containerd has spent in CNI so far: for ADD, for DEL.
fn cni_seconds() -> Outcome<(f64, f64)> {
    let mut stream = TcpStream::connect("127.0.0.1:1338")?;
    stream.write_all(b"GET /v1/metrics HTTP/1.0\r\n\r\n")?;
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics)?;
    let sum = |operation: &str| {
        let start = format!(
            "containerd_cri_network_plugin_operations_duration_seconds_seconds_sum\
             {{operation_type=\"{operation}\"}} "
        );
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&start));
        // Absent before the first.
        values.next().unwrap_or("0").parse::<f64>()
    };
    Ok((sum("set_up_pod")?, sum("tear_down_pod")?))
}

fn report(contenders: &[Contender], turns: &[Vec<Turn>], rounds: usize) -> Outcome {
    let version = contenders
        .first()
        .map_or("", |contender| &*contender.version);
    let mut text = format!(
        "\ncontainerd {version}: {PODS} pods by {CALLERS} callers, {rounds} rounds of each in turn; \
         milliseconds of one pod, median of the rounds (lowest-highest)\n{}",
        row(
            "",
            &[
                "RunPodSandbox",
                "CNI in it",
                "share",
                "Stop + Remove",
                "CNI in it",
                "share",
                "all up, s"
            ]
            .map(str::to_owned)
        )
    );
    for ((name, _), turns) in CONTENDERS.iter().zip(turns) {
        text += &row(
            name,
            &[
                spread(turns, 0, |turn| turn.start * PER_POD),
                spread(turns, 1, |turn| turn.add * PER_POD),
                spread(turns, 1, |turn| turn.add / turn.start * 100.0) + " %",
                spread(turns, 0, |turn| turn.end * PER_POD),
                spread(turns, 1, |turn| turn.del * PER_POD),
                spread(turns, 1, |turn| turn.del / turn.end * 100.0) + " %",
                spread(turns, 1, |turn| turn.wall),
            ],
        );
    }
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn row(name: &str, cells: &[String; 7]) -> String {
    cells.iter().fold(format!("{name:14}"), |row, cell| {
        row + &format!(" {cell:>20}")
    }) + "\n"
}

/// "median (lowest-highest)"
fn spread(turns: &[Turn], digits: usize, of: impl Fn(&Turn) -> f64) -> String {
    let mut values: Vec<f64> = turns.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let median = values.get(values.len() / 2).copied().unwrap_or_default();
    let low = values.first().copied().unwrap_or_default();
    let high = values.last().copied().unwrap_or_default();
    format!("{median:.digits$} ({low:.digits$}-{high:.digits$})")
}
