//! The Container Runtime Interface, as the kubelet speaks it: a blocking client, with
//! requests and answers as JSON. The gRPC is done by the program in `tests/cri`.

#![expect(
    clippy::indexing_slicing,
    reason = "of JSON, where what is not there is null"
)]

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use serde_json::{Value, json};

use crate::shell;

/// The kubelet waits four minutes. Nothing here should take a tenth of that.
const DEADLINE: Duration = Duration::from_secs(60);

/// A connection to one runtime. Each caller that is to be served at the same time as others
/// needs its own.
#[derive(Debug)]
pub struct Cri {
    client: Mutex<Client>,
}

#[derive(Debug)]
struct Client {
    process: Child,
    calls: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Why a call failed, in the runtime's words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CriError {
    /// gRPC's name for the kind of failure: "Unknown", "`DeadlineExceeded`", ...
    pub code: String,
    /// The text that the kubelet would put into an event.
    pub message: String,
}

impl fmt::Display for CriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// What a call returned, and how long the runtime took.
#[derive(Debug)]
pub struct Answered {
    /// The response, or the error.
    pub outcome: Result<Value, CriError>,
    /// From the request to the response, as the client saw it.
    pub took: Duration,
}

impl Cri {
    /// A client for the runtime that listens, or will listen, on this socket.
    pub fn connect(socket: &Path) -> Self {
        let mut process = Command::new(shell::containerd_tool("cri"))
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start the CRI client");
        let calls = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let client = Client {
            process,
            calls,
            answers,
        };
        Self {
            client: Mutex::new(client),
        }
    }

    /// Makes a call, "RuntimeService/Version", that may take this long.
    pub fn call(&self, method: &str, request: &Value, limit: Duration) -> Answered {
        let call = json!({ "method": method, "request": request, "seconds": limit.as_secs_f64() });
        // A thread that panicked between question and answer has left no half answer: the
        // next line is still a whole one, but another's. No test goes on after that.
        let mut client = self.client.lock().unwrap();
        let answer = client.exchange(&call);
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let outcome = match answer.get("code") {
            Some(_) => Err(CriError {
                code: text("code"),
                message: text("error"),
            }),
            None => Ok(answer["response"].clone()),
        };
        assert!(
            !outcome.as_ref().is_err_and(|error| error.code == "Client"),
            "{method} cannot be called: {outcome:?}\n{request}"
        );
        let took = answer["nanoseconds"].as_u64().unwrap_or_default();
        Answered {
            outcome,
            took: Duration::from_nanos(took),
        }
    }

    /// A call of the runtime service that may fail.
    pub fn try_runtime(&self, method: &str, request: &Value) -> Result<Value, CriError> {
        let method = format!("RuntimeService/{method}");
        self.call(&method, request, DEADLINE).outcome
    }

    /// A call of the runtime service that has to succeed.
    #[track_caller]
    pub fn runtime(&self, method: &str, request: &Value) -> Value {
        let outcome = self.try_runtime(method, request);
        outcome.unwrap_or_else(|error| panic!("{method}: {error}\n{request}"))
    }

    /// Makes a pod sandbox; its id.
    pub fn run_pod_sandbox(&self, config: &Value) -> Result<String, CriError> {
        let made = self.try_runtime("RunPodSandbox", &json!({ "config": config }))?;
        Ok(made["podSandboxId"].as_str().unwrap().to_owned())
    }

    /// Stops a sandbox: its containers end, its network goes.
    pub fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.try_runtime("StopPodSandbox", &json!({ "podSandboxId": id }))
            .map(drop)
    }

    /// Removes what is left of a sandbox.
    pub fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.try_runtime("RemovePodSandbox", &json!({ "podSandboxId": id }))
            .map(drop)
    }

    /// State and addresses of a sandbox, and under "info" what containerd knows beyond that.
    pub fn pod_sandbox_status(&self, id: &str) -> Value {
        let request = json!({ "podSandboxId": id, "verbose": true });
        let mut status = self.runtime("PodSandboxStatus", &request);
        // A JSON document as a text.
        let info = status["info"]["info"].as_str().unwrap_or("null");
        let info = serde_json::from_str(info).unwrap();
        status["info"] = info;
        status
    }

    /// The sandboxes that there are: id and state.
    pub fn pod_sandboxes(&self) -> Vec<(String, String)> {
        let list = self.runtime("ListPodSandbox", &json!({}));
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
        items
            .iter()
            .map(|item| {
                // The first of the enumeration is not written out.
                let state = text(item, "state");
                let ready = state.is_empty() || state == "SANDBOX_READY";
                let state = if ready { "ready" } else { "not ready" };
                (text(item, "id"), state.to_owned())
            })
            .collect()
    }

    /// The condition `NetworkReady` of the runtime, with its message.
    pub fn network_ready(&self) -> (bool, String) {
        let status = self.runtime("Status", &json!({}));
        let conditions = status["status"]["conditions"].as_array().unwrap();
        let network = conditions
            .iter()
            .find(|condition| condition["type"] == "NetworkReady")
            .unwrap_or_else(|| panic!("no condition NetworkReady: {status}"));
        let message = network["message"].as_str().unwrap_or_default();
        (network["status"] == true, message.to_owned())
    }

    /// The types of the plugins of all networks that the runtime has loaded, the built-in one
    /// for the loopback link among them.
    pub fn plugins(&self) -> Vec<String> {
        let status = self.runtime("Status", &json!({ "verbose": true }));
        // A JSON document as a text.
        let text = status["info"]["cniconfig"].as_str().unwrap_or("null");
        let loaded: Value = serde_json::from_str(text).unwrap();
        let networks = loaded["Networks"].as_array().into_iter().flatten();
        let plugins = networks.flat_map(|network| {
            let plugins = network["Config"]["Plugins"].as_array();
            plugins.into_iter().flatten()
        });
        plugins
            .filter_map(|plugin| plugin["Network"]["type"].as_str().map(str::to_owned))
            .collect()
    }

    /// Tells the runtime the node's pod CIDRs, comma-separated.
    pub fn update_runtime_config(&self, pod_cidrs: &str) {
        let config = json!({ "networkConfig": { "podCidr": pod_cidrs } });
        self.runtime("UpdateRuntimeConfig", &json!({ "runtimeConfig": config }));
    }

    /// Makes a container in a sandbox and starts it; its id.
    pub fn start_container(&self, sandbox: &str, sandbox_config: &Value, config: &Value) -> String {
        let made = self.runtime(
            "CreateContainer",
            &json!({
                "podSandboxId": sandbox,
                "sandboxConfig": sandbox_config,
                "config": config,
            }),
        );
        let id = made["containerId"].as_str().unwrap().to_owned();
        self.runtime("StartContainer", &json!({ "containerId": id }));
        id
    }

    /// Runs a command in a container; what it printed. Panics when it fails.
    #[track_caller]
    pub fn exec(&self, container: &str, command: &[&str]) -> String {
        let request = json!({ "containerId": container, "cmd": command, "timeout": 20 });
        let done = self.runtime("ExecSync", &request);
        assert_eq!(done["exitCode"], 0, "{command:?}: {done}");
        done["stdout"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    fn exchange(&mut self, call: &Value) -> Value {
        let line = format!("{call}\n");
        let calls = self.calls.as_mut().unwrap();
        calls
            .write_all(line.as_bytes())
            .expect("the CRI client is gone");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("the CRI client said {answer:?} ({error}) to {call}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.calls.take());
        self.process.wait().ok();
    }
}
