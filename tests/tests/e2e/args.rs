//! What the runtime asks for beyond the configuration: `CNI_ARGS`, `args` and
//! `runtimeConfig`.

use harness::{Answer, Host, conf, on_host};
use serde_json::{Value, json};

/// ADD of a new container with this `CNI_ARGS` and these changes of the configuration.
fn add(host: &Host, args: &str, changes: &Value) -> Answer {
    let conf = conf::with(&conf::ipv4(), changes);
    let pod = host.container();
    let answer = host
        .request_for("ADD", &conf, &pod)
        .env("CNI_ARGS", args)
        .run();
    host.keep(pod);
    answer
}

fn address(result: &Value) -> &str {
    result["ips"][0]["address"].as_str().expect("an address")
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_address_can_be_asked_for() {
    on_host(|host| {
        for (args, changes, expected) in [
            ("IgnoreUnknown=1;IP=10.64.1.50", json!({}), "10.64.1.50/24"),
            (
                "IgnoreUnknown=true;IP=10.64.1.51/16",
                json!({}),
                "10.64.1.51/24",
            ),
            (
                "",
                json!({ "args": { "cni": { "ips": ["10.64.1.52"] } } }),
                "10.64.1.52/24",
            ),
            (
                "",
                json!({ "runtimeConfig": { "ips": ["10.64.1.53/24"] } }),
                "10.64.1.53/24",
            ),
        ] {
            let result = add(host, args, &changes).result();
            assert_eq!(address(&result), expected, "{args} {changes}");
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_address_that_cannot_be_had_is_an_error() {
    on_host(|host| {
        let taken = json!({ "runtimeConfig": { "ips": ["10.64.1.60"] } });
        let (_pod, _) = host.pod(&conf::with(&conf::ipv4(), &taken));
        let before = host.state().only(&["lease"]);
        for ip in ["10.64.1.60", "10.64.1.1", "10.99.0.1"] {
            let changes = json!({ "runtimeConfig": { "ips": [ip] } });
            let refusal = add(host, "", &changes).refusal();
            assert!(format!("{refusal:?}").contains(ip), "{refusal:?}");
            host.state().only(&["lease"]).assert_same(&before);
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn ranges_of_the_runtime_come_first() {
    on_host(|host| {
        let theirs = json!([[{ "subnet": "10.66.0.0/24" }]]);
        // As containerd writes it.
        let capital = json!([[{ "Subnet": "10.66.0.0/24", "RangeStart": "", "RangeEnd": "", "Gateway": "" }]]);
        for ranges in [theirs, capital] {
            let changes = json!({ "runtimeConfig": { "ipRanges": ranges } });
            let conf = conf::with(&conf::ipv4(), &changes);
            let pod = host.container();
            let result = host
                .request_for("ADD", &conf, &pod)
                .plugin("cni-ipam")
                .run()
                .result();
            let ips = result["ips"].as_array().expect("ips");
            assert_eq!(ips.len(), 2, "{result:#}");
            assert!(address(&result).starts_with("10.66.0."), "{result:#}");
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_hardware_address_can_be_asked_for() {
    on_host(|host| {
        let mac = "02:11:22:33:44:55";
        for (args, changes) in [
            ("IgnoreUnknown=1;MAC=02:11:22:33:44:55", json!({})),
            ("", json!({ "args": { "cni": { "mac": mac } } })),
            ("", json!({ "runtimeConfig": { "mac": mac } })),
            ("", json!({ "runtimeConfig": { "Mac": mac } })),
        ] {
            let result = add(host, args, &changes).result();
            assert_eq!(result["interfaces"][2]["mac"], mac, "{args} {changes}");
        }
    });
}

/// What containerd and CRI-O send to a plugin that has not asked for it.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn capabilities_of_others_do_not_matter() {
    on_host(|host| {
        let containerd = json!({
            "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
            "bandwidth": { "IngressRate": 1_000_000, "IngressBurst": 4_294_967_295_u64,
                           "EgressRate": 2_000_000, "EgressBurst": 4_294_967_295_u64 },
            "dns": { "Servers": ["10.0.0.10"], "Searches": [], "Options": null },
            "io.kubernetes.cri.pod-annotations": { "a": "b" },
        });
        let crio = json!({
            "bandwidth": { "ingressRate": 1, "ingressBurst": 34_359_738_359_u64 },
            "aliases": { "net": ["a"] },
            "cgroupPath": "/x",
        });
        let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;\
                    K8S_POD_UID=1-2;IgnoreUnknown=1";
        for runtime_config in [containerd, crio] {
            let result = add(host, args, &json!({ "runtimeConfig": runtime_config })).result();
            assert_eq!(result["interfaces"][2]["name"], "eth0");
        }
    });
}

mod ours {
    use super::*;

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn args_that_are_accepted() {
        on_host(|host| {
            for args in [
                "",
                ";;",
                "IgnoreUnknown=1;",
                "IgnoreUnknown=1;FOO=a=b",
                "FOO=bar;IgnoreUnknown=TRUE",
                "IgnoreUnknown=0",
                "IP=",
                "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c;K8S_POD_INFRA_CONTAINER_ID=d",
                "MAC=02:11:22:33:44:55;IP=10.64.1.50",
            ] {
                add(host, args, &json!({})).result();
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn args_that_are_refused() {
        on_host(|host| {
            let (_neighbour, _) = host.pod(&conf::ipv4());
            let before = host.state();
            for (args, words) in [
                ("FOO=bar", "FOO=bar"),
                ("IgnoreUnknown=false;FOO=bar", "FOO=bar"),
                ("ip=10.64.1.50", "ip=10.64.1.50"),
                ("mac=02:11:22:33:44:55", "mac="),
                ("ignoreunknown=1", "ignoreunknown=1"),
                ("IgnoreUnknown=perhaps", "perhaps"),
                ("FOO", "FOO"),
            ] {
                let refusal = add(host, args, &json!({})).refusal();
                let said = format!("{}; {}", refusal.msg, refusal.details);
                assert!(
                    refusal.code == 4 && said.contains(words),
                    "{args}: {refusal:?}"
                );
                assert!(said.contains("CNI_ARGS"), "{args}: {refusal:?}");
                host.state().assert_same(&before);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn of_two_wishes_the_more_particular_one_counts() {
        on_host(|host| {
            let cni = json!({ "ips": ["10.64.1.71"], "mac": "02:00:00:00:00:71" });
            let runtime = json!({ "ips": ["10.64.1.72"], "mac": "02:00:00:00:00:72" });
            let args = "IP=10.64.1.70;MAC=02:00:00:00:00:70";
            for (changes, last) in [
                (json!({}), "70"),
                (json!({ "args": { "cni": cni } }), "71"),
                (
                    json!({ "args": { "cni": cni }, "runtimeConfig": runtime }),
                    "72",
                ),
            ] {
                let result = add(host, args, &changes).result();
                assert_eq!(address(&result), format!("10.64.1.{last}/24"));
                let mac = format!("02:00:00:00:00:{last}");
                assert_eq!(result["interfaces"][2]["mac"], mac);
            }
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn an_ipam_called_by_itself_knows_the_same_args() {
        on_host(|host| {
            for (args, expected) in [
                ("MAC=02:11:22:33:44:55;IP=10.64.1.50", "10.64.1.50/24"),
                ("K8S_POD_NAME=web-0", "10.64.1.2/24"),
            ] {
                let pod = host.container();
                let request = host.request_for("ADD", &conf::ipv4(), &pod);
                let result = request
                    .plugin("cni-ipam")
                    .env("CNI_ARGS", args)
                    .run()
                    .result();
                assert_eq!(address(&result), expected);
            }
        });
    }
}
