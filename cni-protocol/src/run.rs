//! From the environment and standard input to one document on standard output.

use std::{
    panic::{self, PanicHookInfo},
    process::ExitCode,
    sync::OnceLock,
    time::Duration,
};

use serde::Serialize;

use crate::{
    AddRequest, AddResult, Attachment, CheckRequest, Code, Command, DelRequest, ErrorReply,
    Failure, GcRequest, InvalidNetwork, NetworkConfig, StatusRequest, Version,
    environment::{Call, Container, Environment, InvalidEnvironment},
    journal,
    json::Json,
    log,
    network::Document,
    stdio,
};

/// How long VERSION waits for the document that it may get on standard input.
const VERSION_INPUT: Duration = Duration::from_millis(50);

/// The version that error documents are written in, once the configuration has said it.
static SPOKEN: OnceLock<Version> = OnceLock::new();

/// A CNI plugin.
pub trait Plugin {
    type Error: Failure;

    /// The name of the executable.
    const NAME: &'static str;
    /// The version of the executable.
    const VERSION: &'static str;

    fn add(&self, request: &AddRequest) -> Result<AddResult, Self::Error>;
    fn del(&self, request: &DelRequest) -> Result<(), Self::Error>;
    fn check(&self, request: &CheckRequest) -> Result<(), Self::Error>;
    fn gc(&self, request: &GcRequest) -> Result<(), Self::Error>;
    fn status(&self, request: &StatusRequest) -> Result<(), Self::Error>;
}

/// Serves the one request that this process was started for.
///
/// Whatever happens, there is at most one document on standard output, and it is
/// complete. After an error, and after a panic in any thread, the exit status is 1.
pub fn run<P: Plugin>(plugin: &P) -> ExitCode {
    stdio::set_plugin_name(P::NAME);
    answer_panics::<P>();
    let environment = Environment::of_process();
    journal::begin(
        environment.log_file.as_deref(),
        environment.log_level.as_deref(),
    );
    let outcome = serve(plugin, &environment);
    let failure = outcome.as_ref().err().cloned();
    let status = match outcome {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(document)) => print(document, ExitCode::SUCCESS),
        Err(reply) => print(reply.to_json(spoken_version()), ExitCode::FAILURE),
    };
    journal::end(failure.as_ref());
    status
}

fn print(document: String, status: ExitCode) -> ExitCode {
    match stdio::answer(document) {
        Ok(()) => status,
        Err(error) => {
            log(&format_args!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn spoken_version() -> Version {
    SPOKEN.get().copied().unwrap_or(Version::LATEST)
}

/// The document to print, if the verb has one.
fn serve<P: Plugin>(plugin: &P, environment: &Environment) -> Result<Option<String>, ErrorReply> {
    let call = environment.call().map_err(|error| error.reply())?;
    let verb = match &call {
        Call::About => {
            about::<P>();
            return Ok(None);
        }
        Call::Version => return Ok(Some(version_document(asked_version()))),
        Call::Add(..) => Some(Command::Add),
        Call::Del(..) => Some(Command::Del),
        Call::Check(..) => Some(Command::Check),
        Call::Gc => Some(Command::Gc),
        Call::Status => Some(Command::Status),
        Call::Unknown(_) => None,
    };
    if let Some(verb) = verb {
        journal::verb(verb.as_str());
    }
    let document = read_document()?;
    speak(&document);
    let config = match verb {
        Some(verb) => negotiate(verb, document)?,
        None => document.in_version(Version::LATEST),
    };
    journal::configure(&config);
    let (container, netns) = match &call {
        Call::Add(container, netns) | Call::Check(container, netns) => {
            (Some(container), Some(netns.as_path()))
        }
        Call::Del(container, netns) => (Some(container), netns.as_deref()),
        _ => (None, None),
    };
    if let Some(container) = container {
        journal::container(
            &container.id,
            &container.interface,
            netns,
            &environment.args_tolerantly(),
        );
    }
    dispatch(plugin, environment, call, config)
}

fn dispatch<P: Plugin>(
    plugin: &P,
    environment: &Environment,
    call: Call,
    config: NetworkConfig,
) -> Result<Option<String>, ErrorReply> {
    let plugin_path = environment.plugin_path();
    let done = match call {
        Call::Add(container, netns) => {
            let request = AddRequest {
                attachment: attachment(container, &config),
                netns,
                netns_override: environment.netns_override(),
                args: environment.args().map_err(|error| error.reply())?,
                plugin_path,
                config,
            };
            return add(plugin, &request).map(Some);
        }
        Call::Check(container, netns) => plugin.check(&CheckRequest {
            attachment: attachment(container, &config),
            netns,
            args: environment.args_tolerantly(),
            plugin_path,
            config,
        }),
        Call::Del(container, netns) => plugin.del(&DelRequest {
            attachment: attachment(container, &config),
            netns,
            netns_override: environment.netns_override(),
            args: environment.args_tolerantly(),
            plugin_path,
            config,
        }),
        Call::Gc => plugin.gc(&GcRequest {
            plugin_path,
            valid: config.valid_attachments().map_err(|error| error.reply())?,
            config,
        }),
        Call::Status => plugin.status(&StatusRequest {
            plugin_path,
            config,
        }),
        Call::Unknown(verb) => return Err(InvalidEnvironment::UnknownCommand(verb).reply()),
        // Answered before there was a configuration.
        Call::Version | Call::About => Ok(()),
    };
    done.map(|()| None).map_err(|error| error.reply())
}

fn add<P: Plugin>(plugin: &P, request: &AddRequest) -> Result<String, ErrorReply> {
    let result = plugin.add(request).map_err(|error| error.reply())?;
    journal::result(&result);
    journal::step("answer");
    result
        .to_text(request.config.version())
        .map_err(|error| error.reply())
}

fn attachment(container: Container, config: &NetworkConfig) -> Attachment {
    Attachment {
        network: config.name().clone(),
        container_id: container.id,
        interface: container.interface,
    }
}

/// The configuration on standard input.
fn read_document() -> Result<Document, ErrorReply> {
    let bytes = stdio::read_input().map_err(|error| ErrorReply {
        code: Code::Io,
        msg: "error reading from stdin".to_owned(),
        details: Some(error.to_string()),
    })?;
    let bytes = bytes.ok_or_else(|| InvalidNetwork::TooLarge.reply())?;
    Document::parse(bytes).map_err(|error| error.reply())
}

/// Errors from here on are in the version of the configuration, if it is one of ours.
fn speak(document: &Document) {
    let version = document.version_text().ok().map(Version::from_config);
    if let Some(Ok(version)) = version {
        SPOKEN.get_or_init(|| version);
    }
}

/// Settles the version of the answer.
fn negotiate(verb: Command, document: Document) -> Result<NetworkConfig, ErrorReply> {
    let text = document.version_text().map_err(|error| error.reply())?;
    let version = Version::for_command(verb, text).map_err(|error| error.reply())?;
    Ok(document.in_version(version))
}

/// What a person gets who starts the plugin by hand.
fn about<P: Plugin>() {
    let versions = Version::ALL.map(Version::as_str).join(", ");
    let (name, version) = (P::NAME, P::VERSION);
    stdio::write_error(
        format!("CNI {name} plugin v{version}\nCNI protocol versions supported: {versions}\n")
            .as_bytes(),
    );
}

/// The answer to VERSION.
fn version_document(version: Version) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        cni_version: &'static str,
        supported_versions: [&'static str; 7],
    }
    let wire = Wire {
        cni_version: version.as_str(),
        supported_versions: Version::ALL.map(Version::as_str),
    };
    // Text always serialises.
    serde_json::to_string(&wire).unwrap_or_default()
}

/// The version in which VERSION was asked, if one can be made out.
fn asked_version() -> Version {
    let read = |bytes: &[u8]| -> Option<Version> {
        let json = Json::parse(bytes).ok()?;
        json.get("cniVersion")?.as_str()?.parse().ok()
    };
    let input = stdio::read_input_briefly(VERSION_INPUT, |bytes| Json::parse(bytes).is_ok());
    input
        .ok()
        .flatten()
        .and_then(|bytes| read(&bytes))
        .unwrap_or(Version::LATEST)
}

/// Makes a panic anywhere an error document, and the end of the process.
///
/// The executables abort on a panic, so the hook is the last that runs.
fn answer_panics<P: Plugin>() {
    panic::set_hook(Box::new(|panic| {
        let reply = bug::<P>(panic);
        log(&reply);
        journal::end(Some(&reply));
        if let Err(error) = stdio::answer(reply.to_json(spoken_version())) {
            log(&format_args!("cannot write to standard output: {error}"));
        }
        #[expect(
            clippy::disallowed_methods,
            clippy::exit,
            reason = "there is no main to return to: the panic may be in any thread"
        )]
        std::process::exit(1);
    }));
}

fn bug<P: Plugin>(panic: &PanicHookInfo<'_>) -> ErrorReply {
    let payload = panic.payload();
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let place = panic
        .location()
        .map(|place| format!("{}:{}", place.file(), place.line()))
        .unwrap_or_default();
    ErrorReply {
        code: Code::Internal,
        msg: format!("bug in {} {} at {place}: {what}", P::NAME, P::VERSION),
        details: Some("please report it with this text; the DEL that follows cleans up".to_owned()),
    }
}
