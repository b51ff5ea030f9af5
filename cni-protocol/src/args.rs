//! `CNI_ARGS`: what a runtime says about the container beside the configuration.

use std::ffi::OsStr;

use crate::{Code, Failure};

/// `CNI_ARGS`, as far as it is understood. An empty value is `None`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Args {
    pub ip: Option<String>,
    pub mac: Option<String>,
    pub pod_namespace: Option<String>,
    pub pod_name: Option<String>,
    pub pod_uid: Option<String>,
    pub infra_container_id: Option<String>,
}

/// What is wrong with `CNI_ARGS`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidArgs {
    #[error("CNI_ARGS: {0:?} is not valid UTF-8")]
    NotUtf8(String),
    #[error("CNI_ARGS: invalid pair {0:?}, expected KEY=VALUE")]
    NotAPair(String),
    #[error("CNI_ARGS: IgnoreUnknown is {0:?}, expected 1, true, 0 or false")]
    IgnoreUnknown(String),
    #[error("CNI_ARGS: unknown args {0:?}, and IgnoreUnknown=1 is not among them")]
    Unknown(Vec<String>),
}

impl Failure for InvalidArgs {
    fn code(&self) -> Code {
        Code::InvalidEnvironment
    }
}

impl Args {
    /// Reads `KEY=VALUE;KEY=VALUE` and refuses what it does not know, as ADD has to.
    pub fn parse(text: &OsStr) -> Result<Self, InvalidArgs> {
        let Some(text) = text.to_str() else {
            return Err(InvalidArgs::NotUtf8(text.to_string_lossy().into_owned()));
        };
        let mut args = Self::default();
        let mut ignore_unknown = false;
        let mut unknown = Vec::new();
        for pair in pairs(text) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(InvalidArgs::NotAPair(pair.to_owned()));
            };
            if key == "IgnoreUnknown" {
                ignore_unknown =
                    boolean(value).ok_or_else(|| InvalidArgs::IgnoreUnknown(value.to_owned()))?;
            } else if !args.set(key, value) {
                unknown.push(pair.to_owned());
            }
        }
        if unknown.is_empty() || ignore_unknown {
            Ok(args)
        } else {
            Err(InvalidArgs::Unknown(unknown))
        }
    }

    /// Reads what can be read. All but ADD must work whatever stands there.
    pub fn parse_tolerantly(text: &OsStr) -> Self {
        let mut args = Self::default();
        for pair in pairs(&text.to_string_lossy()) {
            if let Some((key, value)) = pair.split_once('=') {
                args.set(key, value);
            }
        }
        args
    }

    /// The pod as `namespace/name`, when the runtime named both.
    pub fn pod(&self) -> Option<String> {
        let namespace = self.pod_namespace.as_deref()?;
        let name = self.pod_name.as_deref()?;
        Some(format!("{namespace}/{name}"))
    }

    /// Sets the value of a known key. `false`: the key is not known.
    fn set(&mut self, key: &str, value: &str) -> bool {
        let place = match key {
            "IP" => &mut self.ip,
            "MAC" => &mut self.mac,
            "K8S_POD_NAMESPACE" => &mut self.pod_namespace,
            "K8S_POD_NAME" => &mut self.pod_name,
            "K8S_POD_UID" => &mut self.pod_uid,
            "K8S_POD_INFRA_CONTAINER_ID" => &mut self.infra_container_id,
            _ => return false,
        };
        *place = (!value.is_empty()).then(|| value.to_owned());
        true
    }
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').filter(|pair| !pair.is_empty())
}

fn boolean(text: &str) -> Option<bool> {
    if text == "1" || text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text == "0" || text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn parse(text: &str) -> Result<Args, InvalidArgs> {
        Args::parse(OsStr::new(text))
    }

    #[test]
    fn what_containerd_sends_names_the_pod() {
        let args = parse(
            "K8S_POD_INFRA_CONTAINER_ID=f00;K8S_POD_UID=u-1;IgnoreUnknown=1;\
             K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;SOMETHING=new",
        )
        .unwrap();
        assert_eq!(args.pod().as_deref(), Some("default/web-0"));
        assert_eq!(args.pod_uid.as_deref(), Some("u-1"));
        assert_eq!(args.infra_container_id.as_deref(), Some("f00"));
    }

    #[test]
    fn address_and_mac_need_no_ignore_unknown() {
        let args = parse("IP=10.0.0.9;MAC=0a:58:0a:00:00:09").unwrap();
        assert_eq!(args.ip.as_deref(), Some("10.0.0.9"));
        assert_eq!(args.mac.as_deref(), Some("0a:58:0a:00:00:09"));
    }

    #[test]
    fn a_value_may_hold_an_equals_sign_and_segments_may_be_empty() {
        let args = parse(";K8S_POD_NAME=a=b;;IP=;").unwrap();
        assert_eq!(args.pod_name.as_deref(), Some("a=b"));
        assert_eq!(args.ip, None);
        assert_eq!(args.pod(), None);
    }

    #[test]
    fn add_refuses_what_it_does_not_know() {
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(
            refused("FOO=bar"),
            "CNI_ARGS: unknown args [\"FOO=bar\"], and IgnoreUnknown=1 is not among them"
        );
        assert_eq!(
            refused("ip=10.0.0.1;IgnoreUnknown=0"),
            "CNI_ARGS: unknown args [\"ip=10.0.0.1\"], and IgnoreUnknown=1 is not among them"
        );
        assert_eq!(
            refused("FOO;IgnoreUnknown=1"),
            "CNI_ARGS: invalid pair \"FOO\", expected KEY=VALUE"
        );
        assert_eq!(
            refused("IgnoreUnknown=yes"),
            "CNI_ARGS: IgnoreUnknown is \"yes\", expected 1, true, 0 or false"
        );
        assert_eq!(
            Args::parse(OsStr::from_bytes(b"IP=\xff"))
                .unwrap_err()
                .code(),
            Code::InvalidEnvironment
        );
    }

    #[test]
    fn the_place_of_ignore_unknown_does_not_matter() {
        for text in ["IgnoreUnknown=TRUE;FOO=bar", "FOO=bar;IgnoreUnknown=true"] {
            assert_eq!(parse(text), Ok(Args::default()));
        }
    }

    #[test]
    fn all_but_add_take_args_as_they_come() {
        let text = OsStr::from_bytes(b"FOO;IgnoreUnknown=yes;X=\xff;K8S_POD_NAME=web-0;ip=1");
        let args = Args::parse_tolerantly(text);
        assert_eq!(args.pod_name.as_deref(), Some("web-0"));
        assert_eq!(args.ip, None);
    }
}
