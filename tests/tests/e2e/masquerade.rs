//! Which packets of pods leave under the node's address: the exceptions, wherever they are
//! written, the packets that no connection owns, and many connections at once.

mod ours {
    mod exceptions;
    mod file;
    mod guard;
    mod ports;

    use harness::{Container, Echo, Netns, World, conf, packet};
    use serde_json::{Value, json};

    /// The host outside.
    const OUTSIDE: &str = "203.0.113.10:80";
    /// As whom it sees the node and the first pod.
    const NODE: &str = "10.200.0.2";
    const POD: &str = "10.64.1.2";

    /// The smallest configuration with these changes.
    fn smallest(changes: &Value) -> Value {
        conf::with(&conf::smallest(), changes)
    }

    /// The smallest one for both families.
    fn dual_stack(changes: &Value) -> Value {
        let ranges = json!([[{ "subnet": "10.64.1.0/24" }], [{ "subnet": "fd00:64:1::/64" }]]);
        let ipam = json!({ "ipam": { "subnet": null, "ranges": ranges } });
        conf::with(&smallest(&ipam), changes)
    }

    /// The source address that a server at `target` in `netns` sees of a pod's packets.
    fn seen(pod: &Container, netns: &Netns, target: &str) -> String {
        let _echo = Echo::start(netns, target);
        let udp = packet::ask(&pod.netns, target).expect(target);
        let tcp = packet::connect(&pod.netns, target).expect(target);
        assert_eq!(udp, tcp, "{target}");
        udp.to_string()
    }

    /// Gives the host outside another address, to which the router knows the way.
    fn also_outside(world: &World, address: &str) {
        let via = if address.contains(':') {
            "2001:db8:113::10"
        } else {
            "203.0.113.10"
        };
        world.outside.ip(&format!("addr add {address} dev lo"));
        world.router.ip(&format!("route add {address} via {via}"));
    }

    /// What the rules say on this node, without the fingerprints in their comments.
    fn rules() -> Vec<String> {
        let list = harness::sh("nft --stateless list table inet cni-bridge 2>/dev/null || true");
        let said = |line: &str| {
            let line = line.trim();
            let rule = ["ip ", "ip6 ", "ct "]
                .iter()
                .any(|word| line.starts_with(word));
            rule.then(|| line.split(" comment ").next().unwrap_or(line).to_owned())
        };
        list.lines().filter_map(said).collect()
    }
}
