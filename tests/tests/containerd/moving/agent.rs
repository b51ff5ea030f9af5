//! From ip-masq-agent, whose rules are put as it puts them.

use std::fs;

use harness::{
    Containerd, Conversation, Cri, Document, Echo, Node, Pod, State, World, on_host, packet, sh,
};

use super::{assert_is, node_of_go, nothing_is_left_of, type_section, wait_until_loaded};

for_each_containerd!(there_and_back_with_pods_that_run);

const FILE: &str = "10-cbr0.conflist";

/// What is outside by its address, whom it takes a pod for: the node, or the pod itself. The
/// last two tell the file from the defaults of both.
const SIGHTS: [(&str, bool); 5] = [
    ("203.0.113.10", true),
    ("10.250.0.10", false),
    ("169.254.169.254", false),
    ("172.16.5.5", false),
    ("192.168.5.5", true),
];

/// What the agent gives to iptables: the chain anew, and a jump to it unless there is one. The
/// comment of the jump has had quotation marks in it since some release.
fn agent(which: Containerd) {
    let mark = if which == Containerd::Current {
        "\\\""
    } else {
        ""
    };
    let spared = ["169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12"];
    let comment = "-m comment --comment \"ip-masq-agent:";
    let spared: Vec<String> = spared
        .iter()
        .map(|cidr| {
            format!("-A IP-MASQ-AGENT {comment} local traffic is not subject to MASQUERADE\" -d {cidr} -j RETURN\n")
        })
        .collect();
    sh(&format!(
        "iptables-restore --noflush <<'END'
*nat
:IP-MASQ-AGENT - [0:0]
{}-A IP-MASQ-AGENT {comment} outbound traffic is subject to MASQUERADE (must be last in chain)\" -j MASQUERADE
COMMIT
END
iptables-save -t nat | grep -q 'j IP-MASQ-AGENT' || iptables-restore --noflush <<'END'
*nat
-A POSTROUTING -m comment --comment \"{mark}ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom IP-MASQ-AGENT chain{mark}\" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
COMMIT
END",
        spared.concat()
    ));
}

fn around(host: &harness::Host) -> World {
    let world = World::around(host);
    for address in ["169.254.169.254", "172.16.5.5", "192.168.5.5"] {
        world
            .outside
            .ip(&format!("address add {address}/32 dev lo"));
        world
            .router
            .ip(&format!("route add {address} via 203.0.113.10"));
    }
    world
}

fn are_seen(node: &Node, cri: &Cri, pods: &[&Pod]) {
    for pod in pods {
        let netns = node.netns_of(cri, pod);
        let own = pod.address(cri);
        for (target, hidden) in SIGHTS {
            let seen = packet::ask(&netns, &format!("{target}:8080")).expect(target);
            let expected = if hidden { "10.200.0.2" } else { &own };
            assert_eq!(seen.to_string(), expected, "{own} asked {target}");
        }
    }
}

/// The agent's chains were made anew.
fn in_any_order(state: &State) -> State {
    let mut lines: Vec<&str> = state.text().lines().collect();
    lines.sort_unstable();
    State::from_text(&lines.join("\n"))
}

fn there_and_back_with_pods_that_run(which: Containerd) {
    on_host(|host| {
        let world = around(host);
        let document = Document::moving_over("ip-masq-agent");
        let Some(node) = node_of_go(host, which, FILE, &document) else {
            return;
        };
        let cri = node.cri();
        let typed = |section: &str| type_section(&node, &document, section);
        let _outside = SIGHTS.map(|(address, _)| {
            let netns = if address.starts_with("10.") {
                &world.lan
            } else {
                &world.outside
            };
            Echo::start(netns, &format!("{address}:8080"))
        });
        agent(which);
        typed("What the agent does");
        node.pod(&cri, "first").remove(&cri);
        let before = host.state();
        let old = node.pod(&cri, "old");
        let netns = node.netns_of(&cri, &old);
        let mut talk = Conversation::start(&netns, &world.outside, "203.0.113.10:9");
        are_seen(&node, &cri, &[&old]);

        // Both.
        fs::write(
            "/etc/cni/ip-masq-agent",
            document.section("Before").file("yaml"),
        )
        .expect("the file");
        typed("The change");
        assert_is(FILE, &document, "After");
        wait_until_loaded(&cri, "cni-bridge");
        are_seen(&node, &cri, &[&old]);
        let new = node.pod(&cri, "new");
        are_seen(&node, &cri, &[&old, &new]);

        typed("Without the agent");
        typed("Look at it");
        are_seen(&node, &cri, &[&old, &new]);
        talk.goes_on();
        let netns = node.netns_of(&cri, &new);
        let mut ours = Conversation::start(&netns, &world.outside, "203.0.113.10:10");

        agent(which);
        are_seen(&node, &cri, &[&old, &new]);
        typed("Back again");
        wait_until_loaded(&cri, "bridge");
        let last = node.pod(&cri, "last");
        are_seen(&node, &cri, &[&old, &new, &last]);
        talk.goes_on();
        ours.goes_on();
        for pod in [&old, &new, &last] {
            pod.remove(&cri);
        }
        nothing_is_left_of(host, &[(&old, "10.64.1.3"), (&new, "10.64.1.2")]);
        sh("ip link set cbr0 type bridge nf_call_iptables 0 nf_call_ip6tables 0");
        in_any_order(&host.state()).assert_same(&in_any_order(&before));
    });
}
