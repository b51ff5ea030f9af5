//! From `bridge` and `host-local`.

use harness::{
    Containerd, Conversation, Cri, Document, Echo, Host, Node, Pod, World, on_host, packet,
};

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
        // With it comes what pods share.
        let first = node.pod(&cri, "first");
        let _servers = [
            Echo::start(&world.outside, OUTSIDE),
            Echo::start(&world.lan, "10.250.0.10:8080"),
            Echo::start(&host.netns, "10.64.1.1:8080"),
        ];
        first.remove(&cri);
        let before = host.state();
        let moving = Moving {
            host,
            world: &world,
            node: &node,
            cri: &cri,
            document: &document,
        };
        let (pods, talk) = moving.over();
        moving.back(pods, talk);
        host.state().assert_same(&before);
    });
}

/// The node on its way.
struct Moving<'a> {
    host: &'a Host,
    world: &'a World,
    node: &'a Node,
    cri: &'a Cri,
    document: &'a Document,
}

impl Moving<'_> {
    fn typed(&self, section: &str) {
        let section = self.document.section(section);
        section.type_on(|script| self.node.type_in(script));
    }

    fn pod(&self, name: &str) -> Pod {
        self.node.pod(self.cri, name)
    }

    fn talk(&self, pod: &Pod, address: &str) -> Conversation {
        let netns = self.node.netns_of(self.cri, pod);
        Conversation::start(&netns, &self.world.outside, address)
    }

    fn have_traffic(&self, pods: &[(&Pod, &str)]) {
        have_traffic(self.node, self.cri, pods);
    }

    /// A pod of the Go plugins that runs on, one that ends on the way, and a new one. Returns
    /// those that run, and what the first one goes on saying.
    fn over(&self) -> ([Pod; 2], Conversation) {
        let old = self.pod("old");
        let older = self.pod("older");
        let mut talk = self.talk(&older, "203.0.113.10:9");
        self.have_traffic(&[(&old, NODE), (&older, NODE)]);

        self.typed("The change");
        assert_is(FILE, self.document, "After");
        wait_until_loaded(self.cri, "cni-bridge");
        talk.goes_on();
        let new = self.pod("new");
        self.typed("Look at it");
        talk.goes_on();
        let own = new.address(self.cri);
        self.have_traffic(&[(&old, NODE), (&older, NODE), (&new, &own)]);
        old.remove(self.cri);
        nothing_is_left_of(self.host, &[(&old, "10.64.1.3")]);
        talk.goes_on();
        ([older, new], talk)
    }

    fn back(&self, [older, new]: [Pod; 2], mut talk: Conversation) {
        let mut ours = self.talk(&new, "203.0.113.10:10");
        self.typed("Back again");
        wait_until_loaded(self.cri, "bridge");
        assert_is(FILE, self.document, "Before");
        let last = self.pod("last");
        talk.goes_on();
        ours.goes_on();
        let own = new.address(self.cri);
        self.have_traffic(&[(&older, NODE), (&new, &own), (&last, NODE)]);
        new.remove(self.cri);
        older.remove(self.cri);
        nothing_is_left_of(self.host, &[(&new, "10.64.1.2"), (&older, "10.64.1.4")]);
        last.remove(self.cri);
        self.typed("Clean up");
    }
}
