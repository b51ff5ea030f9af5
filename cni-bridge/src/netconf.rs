//! The configurations that a runtime reads: which of them are for this plugin.
//!
//! A file ends in `.conflist` (a list of plugins), `.conf` or `.json` (one plugin, or a list),
//! as libcni has it. Nothing is known here of what the configurations say.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use cni_protocol::NetworkConfig;
use serde_json::{Map, Value};

/// What files of configurations end in.
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];
/// The largest file that is read, in bytes; larger ones are no configurations.
const MAX_SIZE: u64 = 1 << 20;
/// The `type` of this plugin, besides the name under which it was called.
const TYPE: &str = "cni-bridge";

/// A configuration for this plugin, as the runtime would give it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: PathBuf,
    pub(crate) config: NetworkConfig,
}

/// What a file or a directory has.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) sources: Vec<Source>,
    pub(crate) problems: Vec<Problem>,
}

/// A file that cannot be understood.
#[derive(Debug)]
pub(crate) struct Problem {
    file: PathBuf,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

/// Reads one file, or all configurations of a directory in the order of their names.
pub(crate) fn read(path: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    if !fs::metadata(path)?.is_dir() {
        read_file(path, &mut found);
        return Ok(found);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| is_configuration(file))
        .collect();
    files.sort();
    for file in files {
        read_file(&file, &mut found);
    }
    Ok(found)
}

fn is_configuration(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && file.is_file()
}

fn read_file(file: &Path, found: &mut Found) {
    let outcome = text(file)
        .map_err(|error| error.to_string())
        .and_then(|text| configurations(&text));
    match outcome {
        Ok(configurations) => found
            .sources
            .extend(configurations.into_iter().map(|config| Source {
                file: file.to_owned(),
                config,
            })),
        Err(what) => found.problems.push(Problem {
            file: file.to_owned(),
            what,
        }),
    }
}

fn text(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(file)?
        .take(MAX_SIZE + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(
            "it is larger than 1 MiB, and no configuration",
        ));
    }
    Ok(text)
}

/// The configurations for this plugin in one file, completed as libcni completes them
/// (`buildOneConfig()`): each plugin of a list gets the list's name and version.
fn configurations(text: &[u8]) -> Result<Vec<NetworkConfig>, String> {
    let document: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let Value::Object(document) = document else {
        return Err("it is no JSON object".to_owned());
    };
    let plugins = match document.get("plugins") {
        Some(Value::Array(plugins)) => plugins
            .iter()
            .filter_map(Value::as_object)
            .map(|plugin| completed(plugin, &document))
            .collect(),
        _ => vec![document],
    };
    let ours = plugins.into_iter().filter(is_ours);
    ours.map(|plugin| {
        NetworkConfig::parse(Value::Object(plugin).to_string().into_bytes())
            .map_err(|error| error.to_string())
    })
    .collect()
}

fn completed(plugin: &Map<String, Value>, list: &Map<String, Value>) -> Map<String, Value> {
    let mut plugin = plugin.clone();
    for key in ["name", "cniVersion"] {
        if let Some(value) = list.get(key) {
            plugin.insert(key.to_owned(), value.clone());
        }
    }
    plugin
}

fn is_ours(plugin: &Map<String, Value>) -> bool {
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called)
        .file_name()
        .and_then(|name| name.to_str());
    plugin
        .get("type")
        .and_then(Value::as_str)
        .is_some_and(|name| name == TYPE || called == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let found = configurations(text.as_bytes())?;
        Ok(found
            .iter()
            .map(|config| config.name().to_string())
            .collect())
    }

    #[test]
    fn a_plugin_of_a_list_has_the_lists_name() {
        let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[
            {"type":"portmap"}, {"type":"cni-bridge","bridge":"cbr7"}]}"#;
        let found = configurations(list.as_bytes()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name().as_str(), "pods");
        assert_eq!(found[0].text(&["bridge"]), Some("cbr7"));
    }

    #[test]
    fn a_file_may_be_one_plugin_or_somebody_elses() {
        assert_eq!(
            names(r#"{"name":"one","type":"cni-bridge"}"#),
            Ok(vec!["one".to_owned()])
        );
        assert_eq!(names(r#"{"name":"two","type":"ptp"}"#), Ok(vec![]));
        assert_eq!(names(r#"{"name":"three","plugins":[]}"#), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        assert!(names("{").unwrap_err().contains("EOF"));
        assert!(names("[]").unwrap_err().contains("no JSON object"));
        names(r#"{"type":"cni-bridge","name":"a/b"}"#).unwrap_err();
    }
}
