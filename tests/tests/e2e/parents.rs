//! Those that call this plugin on behalf of a runtime, with what they really send: flannel's
//! plugin, Multus for a second network, Nomad's bridge network.

mod ours {
    use std::{fs, net::SocketAddr};

    use harness::{Chain, Echo, State, World, conf, on_host, packet, tool};
    use serde_json::{Value, json};

    /// The node without what Go's firewall and portmap leave: chains, and `route_localnet`.
    fn without_the_chains_of_others(state: &State) -> State {
        state.without(&["nft", "sysctl nomad"])
    }

    /// The configuration of kubeadm and k3s, with the two types that make it ours; flannel's own
    /// plugin fills in the rest from what its daemon wrote.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn flannels_plugin_delegates_to_cni_bridge() {
        on_host(|host| {
            tool("flannel");
            let world = World::around(host);
            fs::create_dir_all("/run/flannel").expect("a directory");
            let subnet = "FLANNEL_NETWORK=10.64.0.0/16\nFLANNEL_SUBNET=10.64.1.1/24\n\
                          FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
            fs::write("/run/flannel/subnet.env", subnet).expect("a file");
            let list = json!({
                "name": "cbr0", "cniVersion": "0.3.1",
                "plugins": [
                    {
                        "type": "flannel",
                        "ipam": { "type": "cni-ipam" },
                        "delegate": { "type": "cni-bridge", "hairpinMode": true, "isDefaultGateway": true },
                    },
                    { "type": "portmap", "capabilities": { "portMappings": true } },
                ],
            });
            let chain = Chain::new(&list, &json!({}));
            let first = host.container();
            chain.add(host, &first);
            let before = host.state();

            let pod = host.container();
            let result = chain.add(host, &pod);
            assert_eq!(result["cniVersion"], "0.3.1");
            assert_eq!(result["ips"][0]["address"], "10.64.1.3/24", "{result:#}");
            assert!(pod.sh("ip -o link show eth0").contains("mtu 1450"));
            // flannel masquerades by itself: a rule of ours would be one too many.
            assert!(!harness::sh("nft list ruleset").contains("masquerade fully-random"));
            for (netns, target) in [
                (&world.other_node, "10.64.2.7:80"),
                (&world.lan, "10.250.0.10:80"),
            ] {
                let _echo = Echo::start(netns, target);
                let seen = packet::ask(&pod.netns, target).expect(target);
                assert_eq!(seen.to_string(), "10.64.1.3");
            }
            chain.del(host, &pod, &result);
            chain.del(host, &pod, &result);
            host.state().assert_same(&before);
        });
    }

    /// Multus calls the plugin of a `NetworkAttachmentDefinition` as libcni would, with the next
    /// interface name, beside the cluster's own network.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn multus_adds_a_second_network_to_a_pod() {
        on_host(|host| {
            let cluster = conf::smallest();
            let definition = json!({
                "cniVersion": "0.3.1", "name": "storage", "type": "cni-bridge", "bridge": "br-storage",
                "isGateway": false, "isDefaultGateway": false, "ipMasq": false,
                "capabilities": { "mac": true, "ips": true },
                "ipam": { "type": "cni-ipam", "ranges": [[{ "subnet": "172.20.0.0/24" }]] },
                // As libcni's DelegateAddNetwork hands them on.
                "runtimeConfig": { "mac": "02:23:45:67:89:01", "ips": ["172.20.0.77/24"] },
                "args": { "cni": {} },
            });
            let (mut pod, _) = host.pod(&cluster);
            let args = "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=db-0;\
                        K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=8b3bd9f8-3ed4-4c6f-8a63-2b1cc4e7a0c1";
            let before = (host.state(), pod.state());
            pod.interface = "net1".to_owned();
            let call = |verb: &str, conf: &Value| {
                host.request_for(verb, conf, &pod)
                    .env("CNI_ARGS", args)
                    .run()
            };
            let result = call("ADD", &definition).result();
            assert_eq!(result["ips"][0]["address"], "172.20.0.77/24", "{result:#}");
            let link = pod.sh("ip -o link show net1; ip route");
            assert!(link.contains("02:23:45:67:89:01"), "{link}");
            assert!(link.contains("default via 10.64.1.1 dev eth0"), "{link}");
            let own = host.state();
            // The cluster's network goes on, and neither GC nor DEL of one touches the other.
            host.gc(
                &conf::with(&cluster, &json!({})),
                &[&{
                    let mut eth0 = harness::Container::new("pod1");
                    eth0.interface = "eth0".to_owned();
                    eth0
                }],
            )
            .done();
            host.state().assert_same(&own);
            for _ in 0..2 {
                call("DEL", &definition).done();
            }
            // The bridge of the second network stays, as bridges do.
            let but = ["link br-storage", "sysctl br-storage"];
            host.state()
                .without(&but)
                .assert_same(&before.0.without(&but));
            pod.state().assert_same(&before.1);
        });
    }

    /// Nomad's conflist as `NewNomadBridgeConflist` makes it, with `bridge` and `host-local`
    /// exchanged for ours, and its port mappings in go-cni's spelling.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn nomad_connects_an_allocation_to_its_bridge() {
        on_host(|host| {
            let world = World::around(host);
            let list = json!({
                "cniVersion": "0.4.0", "name": "nomad",
                "plugins": [
                    { "type": "loopback" },
                    {
                        "type": "cni-bridge", "bridge": "nomad", "ipMasq": true, "isGateway": true,
                        "forceAddress": true, "hairpinMode": false,
                        "ipam": {
                            "type": "cni-ipam",
                            "ranges": [[{ "subnet": "172.26.64.0/20" }]],
                            "routes": [{ "dst": "0.0.0.0/0" }],
                        },
                    },
                    { "type": "firewall", "backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN" },
                    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
                ],
            });
            let ports = json!({ "portMappings": [
                { "HostPort": 25001, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "10.200.0.2" },
                { "HostPort": 25001, "ContainerPort": 80, "Protocol": "udp", "HostIP": "10.200.0.2" },
            ] });
            let chain = Chain::new(&list, &ports);
            let mut first = host.container();
            first.id = "0d1f7f5e-6f0a-9d0b-7cf8-5d0b0b6f6a10".to_owned();
            let other = Chain::new(&list, &json!({}));
            other.add(host, &first);
            let before = without_the_chains_of_others(&host.state());

            let mut allocation = host.container();
            allocation.id = "6b235529-8111-4bbe-520b-d639b1d2a94e".to_owned();
            let result = chain.add(host, &allocation);
            // Behind what the loopback plugin said.
            assert_eq!(result["ips"][2]["address"], "172.26.64.3/20", "{result:#}");
            assert_eq!(result["interfaces"][3]["name"], "eth0", "{result:#}");
            for checked in chain.check(host, &allocation, &result) {
                checked.done();
            }
            {
                let echo = Echo::start(&allocation.netns, "0.0.0.0:80");
                packet::connect(&world.outside, "10.200.0.2:25001").expect("the mapped port");
                let client = |seen: &SocketAddr| seen.ip().to_string() == "203.0.113.10";
                assert!(echo.seen().iter().any(client), "{:?}", echo.seen());
            }
            let _echo = Echo::start(&world.outside, "203.0.113.10:80");
            let seen = packet::ask(&allocation.netns, "203.0.113.10:80").expect("an answer");
            assert_eq!(seen.to_string(), "10.200.0.2");
            for _ in 0..2 {
                chain.del(host, &allocation, &result);
            }
            without_the_chains_of_others(&host.state()).assert_same(&before);
        });
    }
}
