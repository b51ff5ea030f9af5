//! What `scripts/try` needs to look at packets and JSON without netcat, python or jq.
//!
//! - `probe listen ADDRESS:PORT` answers each UDP datagram with the address it came from.
//! - `probe ask ADDRESS:PORT` sends a datagram there and prints the answer: the sender as
//!   the other side sees it.
//! - `probe plugin FILE` prints what a runtime gives the first plugin of a conflist.
//! - `probe pretty` prints the JSON on standard input for people.
//! - `probe get POINTER` prints one value of it (`/ips/0/address`), nothing if it is absent.

use std::{
    error::Error,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Map, Value};

/// How long one answer may take, and how often is asked: a path that was never used has
/// to resolve addresses first.
const PATIENCE: Duration = Duration::from_millis(250);
const ATTEMPTS: u32 = 12;

/// What fits into a line of this width is printed on one line.
const WIDTH: usize = 88;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["listen", address] => listen(address),
        ["ask", address] => ask(address),
        ["plugin", file] => plugin(file),
        ["pretty"] => stdin_json().and_then(|json| print(&pretty(&json, 0))),
        ["get", pointer] => stdin_json().and_then(|json| get(&json, pointer)),
        _ => Err("usage: probe listen|ask ADDRESS:PORT, plugin FILE, pretty, get POINTER".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "probe: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn print(line: &str) -> Outcome {
    Ok(writeln!(io::stdout(), "{line}")?)
}

fn stdin_json() -> Outcome<Value> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn listen(address: &str) -> Outcome {
    let socket =
        UdpSocket::bind(address).map_err(|e| format!("cannot listen on {address}: {e}"))?;
    let mut datagram = [0; 64];
    loop {
        let (_, sender) = socket.recv_from(&mut datagram)?;
        socket.send_to(sender.ip().to_string().as_bytes(), sender)?;
    }
}

fn ask(address: &str) -> Outcome {
    let target: SocketAddr = address.parse()?;
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut problem = String::from("no answer");
    for _ in 0..ATTEMPTS {
        // An error may be the answer to the datagram before: "connection refused".
        match try_ask(&socket, target) {
            Ok(answer) => return print(&answer),
            Err(error) if is_timeout(&error) => {}
            Err(error) => {
                problem = error.to_string();
                std::thread::sleep(PATIENCE);
            }
        }
    }
    let waited = (PATIENCE * ATTEMPTS).as_secs();
    Err(format!("{target} does not answer within {waited} s: {problem}").into())
}

fn try_ask(socket: &UdpSocket, target: SocketAddr) -> io::Result<String> {
    let mut answer = [0; 64];
    // Connected, so that the kernel reports "connection refused" and the like.
    socket.connect(target)?;
    socket.send(b"who am I?")?;
    let length = socket.recv(&mut answer)?;
    Ok(answer
        .iter()
        .take(length)
        .map(|byte| char::from(*byte))
        .collect())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn plugin(file: &str) -> Outcome {
    let text = fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}"))?;
    let list: Value = serde_json::from_str(&text)?;
    let first = list.pointer("/plugins/0").and_then(Value::as_object);
    let mut config: Map<String, Value> = first.ok_or("the list has no plugin")?.clone();
    for key in ["name", "cniVersion"] {
        let value = list
            .get(key)
            .ok_or_else(|| format!("the list has no {key}"))?;
        config.insert(key.to_owned(), value.clone());
    }
    print(&Value::Object(config).to_string())
}

fn get(json: &Value, pointer: &str) -> Outcome {
    match json.pointer(pointer) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(text)) => print(text),
        Some(value) => print(&value.to_string()),
    }
}

/// Short objects and arrays on one line, as a person would write them.
fn pretty(json: &Value, indent: usize) -> String {
    let flat = flat(json);
    if indent + flat.len() <= WIDTH && indent > 0 {
        return flat;
    }
    let inner = indent + 2;
    let (open, close, lines): (_, _, Vec<String>) = match json {
        Value::Object(map) => {
            let line = |(key, value)| format!("{key:?}: {}", pretty(value, inner));
            ('{', '}', map.iter().map(line).collect())
        }
        Value::Array(list) => (
            '[',
            ']',
            list.iter().map(|value| pretty(value, inner)).collect(),
        ),
        _ => return flat,
    };
    let pad = " ".repeat(inner);
    let body = lines.join(&format!(",\n{pad}"));
    format!("{open}\n{pad}{body}\n{}{close}", " ".repeat(indent))
}

/// JSON on one line, with blanks after its commas and colons.
fn flat(json: &Value) -> String {
    match json {
        Value::Object(map) if !map.is_empty() => {
            let members: Vec<_> = map
                .iter()
                .map(|(k, v)| format!("{k:?}: {}", flat(v)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(list) if !list.is_empty() => {
            let values: Vec<_> = list.iter().map(flat).collect();
            format!("[{}]", values.join(", "))
        }
        _ => json.to_string(),
    }
}
