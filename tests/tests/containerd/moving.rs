//! Moving over from what a node has to our plugins, and back again, with pods that run: the
//! files and the commands are those of the documents in `conf/moving-over`.

mod agent;
mod aks;
mod bridge;
mod default;

use std::{fs, path::Path};

use harness::{Containerd, Cri, Document, Host, Node, Pod, node};

/// A node with the Go plugins, and with the file that the document says it has.
fn node_of_go(host: &Host, which: Containerd, file: &str, document: &Document) -> Option<Node> {
    let mut node = Node::prepared(host, which, Path::new("/run/disk"))?;
    node.with_go_plugins();
    node.configure_as(file, &document.section("Before").file("json"));
    node.start();
    Some(node)
}

/// Does on the node what a section of the document tells to do.
#[track_caller]
fn type_section(node: &Node, document: &Document, section: &str) {
    let section = document.section(section);
    section.type_on(|script| node.type_in(script));
}

/// Waits until containerd has noticed that its file has changed.
fn wait_until_loaded(cri: &Cri, plugin: &str) {
    node::wait_for(plugin, || {
        let plugins = cri.plugins();
        plugins.iter().any(|one| one == plugin).then_some(())
    });
}

/// The file that is in force, as the document prints it.
#[track_caller]
fn assert_is(file: &str, document: &Document, section: &str) {
    let found = fs::read_to_string(format!("/etc/cni/net.d/{file}")).expect("the file");
    assert_eq!(found, document.section(section).file("json"));
}

/// Nothing on the node is about one of these pods, which had these addresses.
#[track_caller]
fn nothing_is_left_of(host: &Host, pods: &[(&Pod, &str)]) {
    // What host-local kept is set aside, where nobody hands it out.
    let state = host.state().without(&["lease /var/lib/cni/networks/"]);
    let has = |line: &str, address: &str| line.split([' ', ',', '/']).any(|word| word == address);
    let is_of = |line: &&str| {
        let mut pods = pods.iter();
        pods.any(|(pod, address)| line.contains(&pod.id) || has(line, address))
    };
    let left: Vec<&str> = state.text().lines().filter(is_of).collect();
    assert_eq!(left, [""; 0]);
}
