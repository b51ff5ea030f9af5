//! One request type for each verb: what a verb cannot be called with is not in its type.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    Args, Attachment, DecodeError, NetworkConfig, PluginPath,
    json::{self, Json},
};

/// Connect a container.
#[derive(Clone, Debug)]
pub struct AddRequest {
    pub attachment: Attachment,
    pub netns: PathBuf,
    /// `netns` may be the plugin's own.
    pub netns_override: bool,
    pub args: Args,
    pub plugin_path: PluginPath,
    pub config: NetworkConfig,
}

/// Disconnect a container, whatever is left of it.
#[derive(Clone, Debug)]
pub struct DelRequest {
    pub attachment: Attachment,
    /// `None` when the container is gone and took its namespace along.
    pub netns: Option<PathBuf>,
    /// `netns` may be the plugin's own.
    pub netns_override: bool,
    pub args: Args,
    pub plugin_path: PluginPath,
    pub config: NetworkConfig,
}

/// Compare a container's connection with what its ADD made.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    pub attachment: Attachment,
    pub netns: PathBuf,
    pub args: Args,
    pub plugin_path: PluginPath,
    pub config: NetworkConfig,
}

/// Remove what belongs to no valid attachment of the network.
#[derive(Clone, Debug)]
pub struct GcRequest {
    pub plugin_path: PluginPath,
    pub config: NetworkConfig,
    /// `None`: the runtime does not say what is valid. Empty: nothing is.
    pub valid: Option<Vec<ValidAttachment>>,
}

/// Could an ADD be served?
#[derive(Clone, Debug)]
pub struct StatusRequest {
    pub plugin_path: PluginPath,
    pub config: NetworkConfig,
}

/// An attachment that GC may not touch.
///
/// Not checked like the names of an [`Attachment`]: it is only ever compared.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    #[serde(rename = "ifname")]
    pub interface: String,
}

impl ValidAttachment {
    /// The list at `key` of the configuration.
    ///
    /// An entry without a name is refused: taken as one that matches nothing, it would
    /// make GC remove what it stands for.
    pub(crate) fn list(json: &Json, key: &str) -> Result<Vec<Self>, DecodeError> {
        let list: Vec<Self> = json::decode_key(json, key)?;
        for (index, entry) in list.iter().enumerate() {
            let empty = |field: &str| {
                let path = format!("{key}[{index}].{field}");
                Err(DecodeError::value(&path, "it is empty".to_owned()))
            };
            if entry.container_id.is_empty() {
                return empty("containerID");
            }
            if entry.interface.is_empty() {
                return empty("ifname");
            }
        }
        Ok(list)
    }
}
