//! cnitool, which is libcni on the command line, with the configuration that we ship.

mod ours {
    use std::path::Path;

    use harness::{Cnitool, assert_json, masked, on_host};
    use serde_json::json;

    fn shipped() -> Cnitool {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the root");
        Cnitool::new(&root.join("conf"), "cbr0")
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn add_and_del_with_the_shipped_configuration() {
        on_host(|host| {
            let cnitool = shipped();
            let neighbour = host.container();
            cnitool.run("add", &neighbour);
            let before = host.state();
            let pod = host.container();

            let result = cnitool.run("add", &pod).expect("a result");
            let mut expected = json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    { "name": "cbr0", "mac": "0a:58:0a:40:01:01", "mtu": 1500 },
                    { "name": "veth*", "mtu": 1500 },
                    { "name": "eth0", "mac": "0a:58:0a:40:01:03", "mtu": 1500, "sandbox": "<netns>" },
                ],
                "ips": [{ "interface": 2, "address": "10.64.1.3/24", "gateway": "10.64.1.1" }],
                "routes": [{ "dst": "0.0.0.0/0", "gw": "10.64.1.1" }],
            });
            expected["interfaces"][1]["mac"] = result["interfaces"][1]["mac"].clone();
            assert_json(&masked(&result), &expected);

            cnitool.run("del", &pod);
            host.state().assert_same(&before);
            cnitool.run("del", &pod);
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn check_with_the_shipped_configuration() {
        on_host(|host| {
            let (cnitool, pod) = (shipped(), host.container());
            cnitool.run("add", &pod);
            let before = host.state();
            cnitool.run("check", &pod);
            host.state().assert_same(&before);
            pod.sh("ip link set eth0 down");
            let refusal = cnitool.refused("check", &pod);
            assert!(
                refusal.contains("eth0") && refusal.contains("down"),
                "{refusal}"
            );
        });
    }

    /// `cnitool gc` sends a DEL for all it knows, and then a GC without the list of what
    /// is valid: pods that others have made stay.
    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn gc_with_the_shipped_configuration() {
        on_host(|host| {
            let cnitool = shipped();
            let (_neighbour, _) = host.pod(&harness::conf::smallest());
            let before = host.state();
            let pod = host.container();
            cnitool.run("add", &pod);
            cnitool.run("gc", &pod);
            host.state().assert_same(&before);
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn status_with_the_shipped_configuration() {
        on_host(|host| {
            let before = host.state();
            shipped().run("status", &host.container());
            host.state().assert_same(&before);
        });
    }
}
