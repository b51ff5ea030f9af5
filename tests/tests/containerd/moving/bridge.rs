//! From `bridge` and `host-local`.

use harness::{Containerd, Conversation, Cri, Document, Echo, Node, Pod, World, on_host, packet};

use super::{assert_is, node_of_go, nothing_is_left_of, wait_until_loaded};

for_each_containerd!(there_and_back_with_pods_that_run);

const FILE: &str = "10-cbr0.conflist";
const NODE: &str = "10.200.0.2";
const OUTSIDE: &str = "203.0.113.10:8080";

/// What the outside and a host of the LAN take a pod for; and the pods see each other.
fn have_traffic(node: &Node, cri: &Cri, pods: &[(&Pod, &str)]) {
    for (pod, lan) in pods {
        let netns = node.netns_of(cri, pod);
        let own = pod.address(cri);
        for (target, sender) in [
            (OUTSIDE, NODE),
            ("10.250.0.10:8080", *lan),
            ("10.64.1.1:8080", &own),
        ] {
            let seen = packet::ask(&netns, target).expect(target);
            assert_eq!(seen.to_string(), sender, "{own} asked {target}");
        }
    }
    for (pod, _) in pods {
        let address = format!("{}:9000", pod.address(cri));
        let _server = Echo::start(&node.netns_of(cri, pod), &address);
        for (other, _) in pods {
            let seen = packet::ask(&node.netns_of(cri, other), &address).expect(&address);
            assert_eq!(seen.to_string(), other.address(cri), "asked {address}");
        }
    }
}

fn there_and_back_with_pods_that_run(which: Containerd) {
    on_host(|host| {
        let world = World::around(host);
        let document = Document::moving_over("bridge-host-local");
        let Some(node) = node_of_go(host, which, FILE, &document) else {
            return;
        };
        let cri = node.cri();
        let first = node.pod(&cri, "first");
        let _servers = [
            Echo::start(&world.outside, OUTSIDE),
            Echo::start(&world.lan, "10.250.0.10:8080"),
            Echo::start(&host.netns, "10.64.1.1:8080"),
        ];
        first.remove(&cri);
        let before = host.state();

        let old = [node.pod(&cri, "old"), node.pod(&cri, "older")];
        let mut talk = Conversation::start(
            &node.netns_of(&cri, &old[1]),
            &world.outside,
            "203.0.113.10:9",
        );
        have_traffic(&node, &cri, &[(&old[0], NODE), (&old[1], NODE)]);

        document
            .section("The change")
            .type_on(|script| node.type_in(script));
        assert_is(FILE, &document, "After");
        wait_until_loaded(&cri, "cni-bridge");
        talk.goes_on();
        let new = node.pod(&cri, "new");
        document
            .section("Look at it")
            .type_on(|script| node.type_in(script));
        talk.goes_on();
        let new_address = new.address(&cri);
        have_traffic(
            &node,
            &cri,
            &[(&old[0], NODE), (&old[1], NODE), (&new, &new_address)],
        );
        old[0].remove(&cri);
        nothing_is_left_of(host, &[(&old[0], "10.64.1.3")]);
        talk.goes_on();

        // Back: one pod of Go and one of ours are running.
        let mut ours = Conversation::start(
            &node.netns_of(&cri, &new),
            &world.outside,
            "203.0.113.10:10",
        );
        document
            .section("Back again")
            .type_on(|script| node.type_in(script));
        wait_until_loaded(&cri, "bridge");
        assert_is(FILE, &document, "Before");
        let last = node.pod(&cri, "last");
        talk.goes_on();
        ours.goes_on();
        have_traffic(
            &node,
            &cri,
            &[(&old[1], NODE), (&new, &new_address), (&last, NODE)],
        );
        new.remove(&cri);
        old[1].remove(&cri);
        nothing_is_left_of(host, &[(&new, "10.64.1.2"), (&old[1], "10.64.1.4")]);
        last.remove(&cri);
        document
            .section("Clean up")
            .type_on(|script| node.type_in(script));
        host.state().assert_same(&before);
    });
}
