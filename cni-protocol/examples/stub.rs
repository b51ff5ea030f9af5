//! The smallest plugin: it connects nothing, and behaves as its configuration says.
//!
//! `tests/process.rs` runs it to see what a runtime sees of any plugin.

use std::{process::ExitCode, thread};

use cni_protocol::{
    AddRequest, AddResult, CheckRequest, Code, Command, DelRequest, Failure, GcRequest, IpConfig,
    NetworkConfig, Plugin, PluginPath, StatusRequest,
    delegate::{self, Delegate},
};

struct Stub;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot do what was asked")]
    AsConfigured(#[source] std::fmt::Error),
    #[error(transparent)]
    Delegate(#[from] delegate::Error),
}

impl Failure for Error {
    fn code(&self) -> Code {
        match self {
            Self::AsConfigured(_) => Code::TryAgain,
            Self::Delegate(error) => error.code(),
        }
    }
}

impl Plugin for Stub {
    type Error = Error;

    const NAME: &'static str = "stub";
    const VERSION: &'static str = "0.0.1";

    fn add(&self, request: &AddRequest) -> Result<AddResult, Error> {
        behave(&request.config, &request.plugin_path, Command::Add)?;
        cni_protocol::log(&format_args!("added {}", request.attachment));
        Ok(AddResult {
            ips: vec![IpConfig {
                interface: None,
                address: ipnet::IpNet::from(ipnet::Ipv4Net::new_assert([10, 0, 0, 5].into(), 24)),
                gateway: None,
            }],
            ..AddResult::default()
        })
    }

    fn del(&self, request: &DelRequest) -> Result<(), Error> {
        behave(&request.config, &request.plugin_path, Command::Del)
    }

    fn check(&self, request: &CheckRequest) -> Result<(), Error> {
        behave(&request.config, &request.plugin_path, Command::Check)
    }

    fn gc(&self, request: &GcRequest) -> Result<(), Error> {
        behave(&request.config, &request.plugin_path, Command::Gc)
    }

    fn status(&self, request: &StatusRequest) -> Result<(), Error> {
        behave(&request.config, &request.plugin_path, Command::Status)
    }
}

fn behave(config: &NetworkConfig, path: &PluginPath, command: Command) -> Result<(), Error> {
    match config.text(&["behave"]) {
        Some("fail") => Err(Error::AsConfigured(std::fmt::Error)),
        Some("panic") => bug(),
        Some("panic in a thread") => {
            if thread::spawn(bug::<()>).join().is_err() {
                cni_protocol::log(&"nobody hears of it");
            }
            Ok(())
        }
        Some("delegate") => {
            let name = config.text(&["ipam", "type"]).unwrap_or_default();
            Ok(Delegate::find(name, path)?.call(command, config)?)
        }
        _ => Ok(()),
    }
}

#[expect(clippy::panic, reason = "it is what the tests want to see")]
fn bug<T>() -> T {
    panic!("the table has no {} legs", 3)
}

fn main() -> ExitCode {
    cni_protocol::run(&Stub)
}
