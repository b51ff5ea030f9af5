//! What the Kubernetes API says of a node: its pod CIDRs. One GET, as the pod's service account.

use std::{env, fs, io, sync::Arc, time::Duration};

use rustls::crypto;
use serde_json::Value;
use ureq::{
    Agent,
    tls::{PemItem, RootCerts, TlsConfig},
};

use crate::{cidrs::PodCidrs, error::Error as Failure};

/// Where the kubelet puts what a pod needs to talk to the API (Kubernetes: "Directly accessing
/// the REST API from a Pod").
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The whole exchange. A new node's proxy may not be there yet; who asks asks again.
const DEADLINE: Duration = Duration::from_secs(10);
/// No node is described in more, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// Why the API did not answer the question.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0:?} is no name of a node")]
    InvalidName(String),
    #[error("{0} is not set: --follow-node is for pods of Kubernetes, elsewhere use --pod-cidr")]
    NoCluster(&'static str),
    #[error("cannot read {0}: {1}")]
    Account(String, io::Error),
    #[error("{file} has no certificate: {problem}")]
    Certificates { file: String, problem: String },
    #[error("cannot ask {url}: {problem} (on a new node kube-proxy comes a little later)")]
    Unreachable { url: String, problem: String },
    #[error(
        "{url} answers {status}: is the ClusterRole of cni-bridge bound to this service account?"
    )]
    Forbidden { url: String, status: u16 },
    #[error("there is no node {0}")]
    NoNode(String),
    #[error("{url} answers {status}")]
    Status { url: String, status: u16 },
    #[error(
        "node {0} has no pod CIDR yet: the controller manager gives it, if it runs with \
         --allocate-node-cidrs and --cluster-cidr (kubeadm init --pod-network-cidr=10.64.0.0/16)"
    )]
    NoCidrs(String),
}

/// The pod CIDRs of a node.
pub(crate) fn pod_cidrs(name: &str) -> Result<PodCidrs, Failure> {
    let node = get(name)?;
    let spec = node.get("spec");
    let list = spec.and_then(|spec| spec.get("podCIDRs")?.as_array());
    let texts: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if texts.is_empty() {
        return Err(Error::NoCidrs(name.to_owned()).into());
    }
    PodCidrs::new(texts).map_err(|source| Failure::NodeCidrs {
        name: name.to_owned(),
        source,
    })
}

fn get(name: &str) -> Result<Value, Error> {
    if !is_name(name) {
        return Err(Error::InvalidName(name.to_owned()));
    }
    // What the API server has in memory will do.
    let url = format!("{}/api/v1/nodes/{name}?resourceVersion=0", server()?);
    // It is exchanged for a new one every hour.
    let token = account("token")?;
    let unreachable = |error: ureq::Error| Error::Unreachable {
        url: url.clone(),
        problem: error.to_string(),
    };
    let mut answer = agent()?
        .get(&url)
        .header("Authorization", format!("Bearer {}", token.trim()))
        .header("Accept", "application/json")
        .call()
        .map_err(unreachable)?;
    match answer.status().as_u16() {
        200 => {}
        404 => return Err(Error::NoNode(name.to_owned())),
        status @ (401 | 403) => return Err(Error::Forbidden { url, status }),
        status => return Err(Error::Status { url, status }),
    }
    let body = answer.body_mut().with_config().limit(MAX_ANSWER);
    let text = body.read_to_string().map_err(unreachable)?;
    serde_json::from_str(&text).map_err(|error| Error::Unreachable {
        url,
        problem: error.to_string(),
    })
}

/// A DNS subdomain, as Kubernetes has it: it becomes a part of a path.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    !name.is_empty() && name.len() <= 253 && name.chars().all(allowed) && !name.starts_with('.')
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment of a pod, which is no request of a runtime"
)]
fn server() -> Result<String, Error> {
    let variable = |name: &'static str| {
        let value = env::var(name).ok().filter(|value| !value.is_empty());
        value.ok_or(Error::NoCluster(name))
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    if host.contains(':') {
        return Ok(format!("https://[{host}]:{port}"));
    }
    Ok(format!("https://{host}:{port}"))
}

fn account(file: &str) -> Result<String, Error> {
    let path = format!("{ACCOUNT}/{file}");
    fs::read_to_string(&path).map_err(|error| Error::Account(path, error))
}

/// Trusts the cluster's own authority and nobody else, and no proxy that the environment names.
fn agent() -> Result<Agent, Error> {
    let text = account("ca.crt")?;
    let no_certificates = |problem: String| Error::Certificates {
        file: format!("{ACCOUNT}/ca.crt"),
        problem,
    };
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(text.as_bytes()) {
        if let PemItem::Certificate(certificate) =
            item.map_err(|error| no_certificates(error.to_string()))?
        {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(no_certificates("it is empty".to_owned()));
    }
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(Arc::new(crypto::ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .timeout_global(Some(DEADLINE))
        .http_status_as_error(false)
        .max_redirects(0)
        .build();
    Ok(config.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes() {
        for name in ["node", "ip-10-0-0-1.eu.internal", "0a"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "..",
            "../pods",
            "a/b",
            "A",
            "a?b",
            "ä",
            &"a".repeat(254),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
