//! Together with the plugins of the Go project, in both directions.

use harness::{Chain, Container, Echo, World, conf, on_host, packet};
use serde_json::{Value, json};

fn chain() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "cbr0",
        "plugins": [
            conf::with(&conf::dual_stack(), &json!({ "ipMasq": true })),
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "tuning", "sysctl": { "net.core.somaxconn": "500" }, "mac": "02:00:00:00:00:42" },
            { "type": "firewall" },
        ],
    })
}

/// What the runtime wants for one pod: a port of the node, and limits.
fn wishes(port: u16) -> Value {
    json!({
        "portMappings": [{ "hostPort": port, "containerPort": 7, "protocol": "tcp" }],
        "bandwidth": {
            "ingressRate": 1_000_000_000, "ingressBurst": 1_000_000,
            "egressRate": 1_000_000_000, "egressBurst": 1_000_000,
        },
    })
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_chain_of_portmap_bandwidth_tuning_and_firewall() {
    on_host(|host| {
        let world = World::around(host);
        let neighbour = host.container();
        Chain::new(&chain(), &wishes(8081)).add(host, &neighbour);
        let before = host.state();

        let pod = host.container();
        let chain = Chain::new(&chain(), &wishes(8080));
        let result = chain.add(host, &pod);
        for answer in chain.check(host, &pod, &result) {
            answer.done();
        }
        through_a_host_port(&world, &pod);
        assert_eq!(pod.sh("cat /proc/sys/net/core/somaxconn").trim(), "500");
        assert!(pod.sh("ip -o link show eth0").contains("02:00:00:00:00:42"));

        for _ in 0..2 {
            chain.del(host, &pod, &result);
            host.state().assert_same(&before);
        }
    });
}

fn through_a_host_port(world: &World, pod: &Container) {
    let _echo = Echo::start(&pod.netns, "0.0.0.0:7");
    for (client, address) in [
        (&world.lan, "10.250.0.10"),
        (&world.outside, "203.0.113.10"),
    ] {
        let seen = packet::connect(client, "10.200.0.2:8080");
        assert_eq!(seen.expect(address).to_string(), address);
    }
}

mod ours {
    use std::{collections::BTreeSet, path::Path};

    use harness::Host;

    use super::*;

    /// flannel's plugin, and so k3s and RKE2, starts the main plugin with a configuration that
    /// it made, in the environment that it has.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_main_plugin_may_be_started_by_another_one() {
        on_host(|host| {
            let made = json!({
                "cniVersion": "0.3.1", "name": "cbr0", "type": "cni-bridge", "mtu": 1450,
                "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": { "type": "cni-ipam", "ranges": [[{ "subnet": "10.64.1.0/24" }]],
                          "routes": [{ "dst": "10.64.0.0/16" }] },
            });
            let written = json!({
                "cniVersion": "0.3.1", "name": "cbr0", "type": "flannel",
                "delegate": { "hairpinMode": true, "isDefaultGateway": true },
            });
            let (_neighbour, _) = host.pod(&made);
            let before = host.state();
            let pod = host.container();
            let call = |command| {
                let request = host
                    .request_for(command, &made, &pod)
                    .stdin(written.to_string());
                let bridge = request.path().to_owned();
                let flannel = Path::new(env!("CARGO_MANIFEST_DIR")).join("stub/flannel.sh");
                let request = request
                    .env("DELEGATE", bridge)
                    .env("DELEGATE_CONFIG", made.to_string());
                request.executable(&flannel).run()
            };
            let result = call("ADD").result();
            assert_eq!(result["cniVersion"], "0.3.1");
            assert_eq!(result["ips"][0]["address"], "10.64.1.3/24", "{result:#}");
            call("DEL").done();
            call("DEL").done();
            host.state().assert_same(&before);
        });
    }

    /// ADD, CHECK, packets and DEL of one pod beside another.
    fn works(host: &Host, conf: &Value, gateway: &str, link: &str) {
        let (_neighbour, _) = host.pod(conf);
        let before = host.state();
        let (pod, result) = host.pod(conf);
        assert_eq!(result["interfaces"][0]["name"], link, "{result:#}");
        host.check(conf, &pod, &result).done();
        let _echo = Echo::start(&host.netns, "[::]:7");
        let seen = packet::ask(&pod.netns, gateway).expect(gateway);
        let address = result["ips"][0]["address"].as_str().expect("an address");
        assert!(
            address.starts_with(&format!("{seen}/")),
            "{seen} is not {address}"
        );
        for _ in 0..2 {
            host.del(conf, &pod).done();
            host.state().assert_same(&before);
        }
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn cni_bridge_with_host_local() {
        harness::tool("host-local");
        on_host(|host| {
            let ipam = conf::with(
                &conf::ipam(&["10.64.1.0/24"]),
                &json!({ "type": "host-local" }),
            );
            let conf = conf::with(&conf::smallest(), &json!({ "ipam": null }));
            let conf = conf::with(&conf, &json!({ "ipam": ipam }));
            works(host, &conf, "10.64.1.1:7", "cbr0");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn cni_bridge_with_static() {
        harness::tool("static");
        on_host(|host| {
            let ipam = json!({
                "type": "static",
                "addresses": [{ "address": "10.64.1.9/24", "gateway": "10.64.1.1" }],
                "routes": [{ "dst": "0.0.0.0/0" }],
                "dns": { "nameservers": ["10.0.0.10"] },
            });
            let conf = conf::with(&conf::smallest(), &json!({ "ipam": null }));
            let conf = conf::with(&conf, &json!({ "ipam": ipam }));
            let (_warm, _) = host.pod(&conf::smallest());
            let before = host.state();
            let (pod, result) = host.pod(&conf);
            assert_eq!(result["ips"][0]["address"], "10.64.1.9/24");
            assert_eq!(result["dns"]["nameservers"], json!(["10.0.0.10"]));
            host.check(&conf, &pod, &result).done();
            let _echo = Echo::start(&host.netns, "[::]:7");
            let seen = packet::ask(&pod.netns, "10.64.1.1:7").expect("the gateway");
            assert_eq!(seen.to_string(), "10.64.1.9");
            host.del(&conf, &pod).done();
            host.state().assert_same(&before);
        });
    }

    /// Two words of the configuration are changed while pods run.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_node_of_the_go_plugins_is_taken_over_with_its_pods() {
        harness::tool("bridge");
        on_host(|host| {
            let new = conf::with(&conf::dual_stack(), &json!({ "ipMasq": true }));
            let types = json!({ "type": "bridge", "ipam": { "type": "host-local" } });
            let old = conf::with(&new, &types);
            let pods = [
                host.pod(&old),
                host.pod(&old),
                host.pod(&new),
                host.pod(&new),
            ];
            let addresses = pods
                .iter()
                .map(|(_, result)| result["ips"][0]["address"].to_string());
            assert_eq!(addresses.collect::<BTreeSet<_>>().len(), 4);
            let _echo = Echo::start(&pods[0].0.netns, "[::]:7");
            let seen = packet::ask(&pods[2].0.netns, "10.64.1.2:7").expect("the old pod");
            assert!(
                pods[2].1["ips"][0]["address"]
                    .to_string()
                    .contains(&seen.to_string())
            );

            for (pod, _) in &pods {
                for _ in 0..2 {
                    host.del(&new, pod).done();
                }
            }
            // The directory of host-local stays, set aside.
            let after = host.state().without(&["lease /var/lib/cni/networks/"]);
            assert_eq!(after.only(&["lease", "link veth"]).text(), "");
            for (pod, _) in &pods {
                assert!(!after.text().contains(&pod.id), "{after:?}");
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn go_bridge_with_cni_ipam() {
        harness::tool("bridge");
        on_host(|host| {
            let conf = conf::with(&conf::ipv4(), &json!({ "type": "bridge" }));
            works(host, &conf, "10.64.1.1:7", "cbr0");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn go_ptp_with_cni_ipam() {
        harness::tool("ptp");
        on_host(|host| {
            let routes = json!({ "ipam": { "routes": [{ "dst": "0.0.0.0/0" }] } });
            let conf = conf::with(&conf::ipv4(), &routes);
            let conf = conf::with(&conf, &json!({ "type": "ptp" }));
            let (_neighbour, _) = host.pod(&conf);
            let before = host.state();
            let (pod, result) = host.pod(&conf);
            assert_eq!(result["ips"][0]["address"], "10.64.1.3/24");
            host.check(&conf, &pod, &result).done();
            host.del(&conf, &pod).done();
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn go_macvlan_with_cni_ipam() {
        harness::tool("macvlan");
        on_host(|host| {
            let world = World::around(host);
            if world
                .router
                .sh("ip link add probe link node type macvlan 2>&1 || echo no")
                .contains("no")
            {
                host.cannot_run("this kernel has no macvlan");
                return;
            }
            let conf = json!({
                "cniVersion": "1.1.0", "name": "macvlan", "type": "macvlan", "master": "uplink",
                "ipam": { "type": "cni-ipam", "subnet": "10.200.0.0/24", "rangeStart": "10.200.0.50",
                          "gateway": "10.200.0.1", "routes": [{ "dst": "0.0.0.0/0" }] },
            });
            let before = host.state();
            let (pod, result) = host.pod(&conf);
            assert_eq!(result["ips"][0]["address"], "10.200.0.50/24");
            host.check(&conf, &pod, &result).done();
            let _echo = Echo::start(&world.lan, "10.250.0.10:7");
            let seen = packet::ask(&pod.netns, "10.250.0.10:7").expect("the lan");
            assert_eq!(seen.to_string(), "10.200.0.50");
            host.del(&conf, &pod).done();
            host.state().assert_same(&before);
        });
    }
}
