//! A chain of plugins, driven as libcni drives a conflist: ADD and CHECK in order, DEL
//! in reverse order, each ADD with the result of the one before.

use serde_json::{Value, json};

use crate::{Answer, Container, Host, conf};

/// The plugins of one conflist.
#[derive(Debug)]
pub struct Chain {
    plugins: Vec<Value>,
}

impl Chain {
    /// From a conflist, with what the runtime has to say.
    pub fn new(list: &Value, runtime_config: &Value) -> Self {
        let common = json!({
            "cniVersion": list["cniVersion"],
            "name": list["name"],
        });
        let plugins = list["plugins"].as_array().expect("the list has no plugins");
        let plugins = plugins
            .iter()
            .map(|plugin| {
                let capabilities = plugin["capabilities"]
                    .as_object()
                    .cloned()
                    .unwrap_or_default();
                let mut wanted = runtime_config.as_object().cloned().unwrap_or_default();
                wanted.retain(|key, _| capabilities.contains_key(key));
                let plugin = conf::with(plugin, &common);
                if wanted.is_empty() {
                    plugin
                } else {
                    conf::with(&plugin, &json!({ "runtimeConfig": wanted }))
                }
            })
            .collect();
        Self { plugins }
    }

    /// ADD of all; the final result.
    pub fn add(&self, host: &Host, container: &Container) -> Value {
        self.plugins.iter().fold(Value::Null, |before, plugin| {
            let conf = with_previous(plugin, &before);
            host.add(&conf, container).result()
        })
    }

    /// CHECK of all, until the first that is not content.
    pub fn check(&self, host: &Host, container: &Container, result: &Value) -> Vec<Answer> {
        let check = |plugin| host.check(plugin, container, result);
        self.plugins.iter().map(check).collect()
    }

    /// DEL of all, last first.
    pub fn del(&self, host: &Host, container: &Container, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            host.del(&with_previous(plugin, result), container).done();
        }
    }
}

/// Not [`conf::with`]: in a result, `null` is a value.
fn with_previous(plugin: &Value, result: &Value) -> Value {
    let mut plugin = plugin.clone();
    if !result.is_null() {
        let members = plugin.as_object_mut().unwrap();
        members.insert("prevResult".to_owned(), result.clone());
    }
    plugin
}
