//! From CRI-O's default file and back, by the calls that CRI-O makes: VERSION when it loads a
//! file, CHECK after each ADD and for all pods when it is started again, GC at its start.

use std::{fs, path::Path};

use harness::{Container, Document, Echo, Host, Netns, Request, World, conf, on_host, packet, sh};
use serde_json::{Value, json};

use crate::kit;

/// What stands for the two directories of the node.
const CONF: &str = "/run/net.d";
const PLUGINS: &str = "/run/plugins";
const FILE: &str = "10-crio-bridge.conflist";

/// A pod, and what libcni keeps of it.
struct Pod {
    container: Container,
    result: Value,
}

/// The runtime on this node.
struct CriO<'a> {
    host: &'a Host,
}

impl CriO<'_> {
    fn request(&self, verb: &str, changes: &Value, pod: &Container) -> Request {
        let mut plugin = load();
        // Not `conf::with`: in a result, `null` is a value.
        for (key, value) in changes.as_object().into_iter().flatten() {
            plugin[key] = value.clone();
        }
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid",
            pod.id
        );
        self.host
            .request_for(verb, &plugin, pod)
            .executable(&executable(&plugin))
            .env("CNI_ARGS", args)
            .env("CNI_PATH", PLUGINS)
    }

    fn run(&self) -> Pod {
        let container = self.host.container();
        let result = self.request("ADD", &json!({}), &container).run().result();
        let pod = Pod { container, result };
        self.check(&pod);
        pod
    }

    fn check(&self, pod: &Pod) {
        let result = json!({ "prevResult": pod.result });
        self.request("CHECK", &result, &pod.container).run().done();
    }

    fn stop(&self, pod: &Pod) {
        let result = json!({ "prevResult": pod.result });
        self.request("DEL", &result, &pod.container).run().done();
    }

    /// It is started, and these pods are alive. Version 1.1.0 of the configuration is what it
    /// takes with `cniVersions`.
    fn start(&self, alive: &[&Pod]) {
        for pod in alive {
            self.check(pod);
        }
        let plugin = conf::with(&load(), &json!({ "cniVersion": "1.1.0" }));
        let alive: Vec<&Container> = alive.iter().map(|pod| &pod.container).collect();
        self.host.status(&plugin).done();
        self.host.gc(&plugin, &alive).done();
    }
}

/// The only plugin of the file, as CRI-O loads it.
fn load() -> Value {
    let text = fs::read(Path::new(CONF).join(FILE)).expect("the file");
    let list: Value = serde_json::from_slice(&text).expect("JSON");
    let plugin = conf::with(
        &list["plugins"][0],
        &json!({ "cniVersion": list["cniVersion"], "name": list["name"] }),
    );
    let versions = Request::bare("cni-bridge")
        .executable(&executable(&plugin))
        .stdin(r#"{"cniVersion":"1.1.0"}"#)
        .env("CNI_COMMAND", "VERSION")
        .env("CNI_NETNS", "dummy")
        .env("CNI_IFNAME", "dummy")
        .env("CNI_PATH", "dummy")
        .run()
        .result();
    let supported = versions["supportedVersions"].as_array().expect("a list");
    assert!(supported.contains(&plugin["cniVersion"]), "{versions}");
    plugin
}

/// What the document says is typed, where this test has the directories.
fn typed(document: &Document, section: &str) {
    let executables = Request::bare("cni-bridge");
    let built = executables.path().parent().expect("a directory");
    document.section(section).type_on(|script| {
        let script = script
            .replace("reconcile", &format!("reconcile {CONF}"))
            .replace("/etc/cni/net.d", CONF)
            .replace("/opt/cni/bin", PLUGINS);
        sh(&format!("cd {}\n{script}", built.display()))
    });
}

fn executable(plugin: &Value) -> std::path::PathBuf {
    Path::new(PLUGINS).join(plugin["type"].as_str().expect("a type"))
}

fn addresses(pod: &Pod) -> Vec<String> {
    kit::in_kernel(&pod.container)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Everybody sees the node, but the node and the pods.
fn have_traffic(pods: &[&Pod]) {
    for pod in pods {
        let own = addresses(pod);
        for (target, sender) in [
            ("203.0.113.10:7", "10.200.0.2"),
            ("10.250.0.10:7", "10.200.0.2"),
            ("[2001:db8:113::10]:7", "2001:db8:200::2"),
            ("10.85.0.1:7", &own[0]),
            ("[1100:200::1]:7", &own[1]),
        ] {
            let seen = packet::ask(&pod.container.netns, target).expect(target);
            assert_eq!(seen.to_string(), sender, "{own:?} asked {target}");
        }
    }
}

fn servers(host: &Host, world: &World) -> [Echo; 5] {
    let on = |netns: &Netns, address: &str| Echo::start(netns, address);
    [
        on(&world.outside, "203.0.113.10:7"),
        on(&world.outside, "[2001:db8:113::10]:7"),
        on(&world.lan, "10.250.0.10:7"),
        on(&host.netns, "10.85.0.1:7"),
        on(&host.netns, "[1100:200::1]:7"),
    ]
}

/// The Go plugins' node, as CRI-O's package leaves it.
fn prepare(document: &Document) {
    sh(&format!("mkdir -p {CONF} {PLUGINS}"));
    let file = document.section("Before").file("json");
    fs::write(Path::new(CONF).join(FILE), file).expect("the file");
    for plugin in ["bridge", "host-local"] {
        fs::copy(harness::tool(plugin), Path::new(PLUGINS).join(plugin)).expect("a plugin");
    }
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn there_and_back_with_pods_that_run() {
    on_host(|host| {
        let world = World::around(host);
        let document = Document::moving_over("crio-default");
        prepare(&document);
        let crio = CriO { host };
        crio.stop(&crio.run());
        kit::wait_for_links(0);
        let before = host.state();
        let mut old = [crio.run(), crio.run()];
        kit::wait_for_duplicates("cni0");
        let _servers = servers(host, &world);
        have_traffic(&[&old[0], &old[1]]);

        typed(&document, "The change");
        let file = fs::read_to_string(Path::new(CONF).join(FILE)).expect("the file");
        assert_eq!(file, document.section("After").file("json"));
        let new = crio.run();
        typed(&document, "Look at it");
        crio.start(&[&old[0], &old[1], &new]);
        have_traffic(&[&old[0], &old[1], &new]);

        // One ends while CRI-O is down, and its DEL never comes.
        old[1].container.die();
        crio.start(&[&old[0], &new]);
        have_traffic(&[&old[0], &new]);
        let leases = host.state().only(&["lease /run/cni-ipam/"]);
        assert_eq!(leases.text().lines().count(), 4, "{leases:?}");

        typed(&document, "Back again");
        let last = crio.run();
        have_traffic(&[&old[0], &new, &last]);
        // It is started again.
        for pod in [&old[0], &new, &last] {
            crio.check(pod);
        }
        // That of the one that died.
        assert_eq!(addresses(&last), ["10.85.0.4", "1100:200::4"]);
        for pod in [&new, &old[0], &last] {
            crio.stop(pod);
        }
        kit::wait_for_links(0);
        typed(&document, "Clean up");
        host.state().assert_same(&before);
    });
}
