//! From containerd's own default file.

use harness::{
    Containerd, Conversation, Cri, Document, Echo, Node, Pod, World, node, on_host, packet, sh,
};

use super::{assert_is, node_of_go, nothing_is_left_of, type_section, wait_until_loaded};

for_each_containerd!(
    there_and_back_with_pods_that_run,
    the_first_file_by_name_is_in_force,
);

const FILE: &str = "10-containerd-net.conflist";

/// Nobody outside knows a way to the pods: everybody sees the node.
fn have_traffic(node: &Node, cri: &Cri, pods: &[&Pod]) {
    for pod in pods {
        let netns = node.netns_of(cri, pod);
        let addresses = pod.addresses(cri);
        for (target, sender) in [
            ("203.0.113.10:8080", "10.200.0.2"),
            ("10.250.0.10:8080", "10.200.0.2"),
            ("169.254.169.254:8080", "10.200.0.2"),
            ("[2001:db8:113::10]:8080", "2001:db8:200::2"),
            ("[fd00:250::10]:8080", "fd00:200::2"),
            ("10.88.0.1:8080", &addresses[0]),
            ("[2001:4860:4860::1]:8080", &addresses[1]),
        ] {
            let seen = packet::ask(&netns, target);
            let seen = seen.unwrap_or_else(|error| panic!("{addresses:?} asked {target}: {error}"));
            assert_eq!(seen.to_string(), sender, "{addresses:?} asked {target}");
        }
    }
}

fn there_and_back_with_pods_that_run(which: Containerd) {
    on_host(|host| {
        let world = World::around(host);
        // A cloud's metadata.
        world.outside.ip("address add 169.254.169.254/32 dev lo");
        world
            .router
            .ip("route add 169.254.169.254 via 203.0.113.10");
        let document = Document::moving_over("containerd-default");
        let Some(node) = node_of_go(host, which, FILE, &document) else {
            return;
        };
        let cri = node.cri();
        let typed = |section: &str| type_section(&node, &document, section);
        node.pod(&cri, "first").remove(&cri);
        let before = host.state();

        let old = node.pod(&cri, "old");
        // The Go plugin has the kernel look for duplicates of the gateway's address.
        node::wait_for("the gateway", || {
            let tentative = sh("ip -6 address show dev cni0 tentative");
            tentative.is_empty().then_some(())
        });
        let _servers = [
            Echo::start(&world.outside, "203.0.113.10:8080"),
            Echo::start(&world.outside, "[2001:db8:113::10]:8080"),
            Echo::start(&world.outside, "169.254.169.254:8080"),
            Echo::start(&world.lan, "10.250.0.10:8080"),
            Echo::start(&world.lan, "[fd00:250::10]:8080"),
            Echo::start(&host.netns, "10.88.0.1:8080"),
            Echo::start(&host.netns, "[2001:4860:4860::1]:8080"),
        ];
        let netns = node.netns_of(&cri, &old);
        let mut talks = [
            Conversation::start(&netns, &world.outside, "203.0.113.10:9"),
            Conversation::start(&netns, &world.outside, "[2001:db8:113::10]:9"),
        ];
        have_traffic(&node, &cri, &[&old]);

        typed("The change");
        assert_is(FILE, &document, "After");
        wait_until_loaded(&cri, "cni-bridge");
        let new = node.pod(&cri, "new");
        typed("Look at it");
        have_traffic(&node, &cri, &[&old, &new]);
        talks.iter_mut().for_each(Conversation::goes_on);

        typed("Back again");
        wait_until_loaded(&cri, "bridge");
        assert_is(FILE, &document, "Before");
        let last = node.pod(&cri, "last");
        have_traffic(&node, &cri, &[&old, &new, &last]);
        talks.iter_mut().for_each(Conversation::goes_on);
        new.remove(&cri);
        nothing_is_left_of(host, &[(&new, "10.88.0.2"), (&new, "2001:4860:4860::2")]);
        have_traffic(&node, &cri, &[&old]);
        old.remove(&cri);
        last.remove(&cri);
        typed("Clean up");
        host.state().assert_same(&before);
    });
}

fn the_first_file_by_name_is_in_force(which: Containerd) {
    on_host(|host| {
        let document = Document::moving_over("containerd-default");
        let Some(node) = node_of_go(host, which, FILE, &document) else {
            return;
        };
        node.with_our_plugins();
        let cri = node.cri();
        let gets = |name: &str, start: &str| {
            let pod = node.pod(&cri, name);
            let address = pod.addresses(&cri).remove(0);
            assert!(address.starts_with(start), "{name}: {address}");
            pod.remove(&cri);
        };
        gets("alone", "10.88.0.");

        node.configure(&node::shipped("10-cbr0.conflist"));
        wait_until_loaded(&cri, "cni-bridge");
        gets("behind-ours", "10.64.1.");

        node.sh("cd /etc/cni/net.d; mv 10-containerd-net.conflist 10-bridge.conflist");
        wait_until_loaded(&cri, "bridge");
        gets("before-ours", "10.88.0.");

        let aside = document.section("Another file beside it");
        aside.type_on(|script| node.type_in(script));
        wait_until_loaded(&cri, "cni-bridge");
        gets("aside", "10.64.1.");
    });
}
