//! The package: put onto a node with dpkg, used by containerd, not to be removed while pods are
//! connected, and then gone without a trace.

use std::{path::Path, process::Command};

use harness::{Containerd, Echo, Host, Installer, Node, on_host, packet, sh, tool_if_built};

const WITHOUT: &str = "nfpm, dpkg and strip are needed: scripts/setup says what is missing";

/// Builds the package of the built executables from the description that we ship. `None`, and
/// a report, where it cannot be built.
fn built(host: &Host) -> Option<String> {
    let has = |program: &str| !sh(&format!("command -v {program} || true")).is_empty();
    let (Some(nfpm), true) = (tool_if_built("nfpm"), has("dpkg") && has("strip")) else {
        host.cannot_run(WITHOUT);
        return None;
    };
    let from = Installer::path();
    let from = from.parent().expect("a directory").display().to_string();
    sh(&format!(
        "mkdir /run/stripped; for name in cni-bridge cni-ipam cni-install; do
             strip -o /run/stripped/$name {from}/$name; chmod 755 /run/stripped/$name
         done"
    ));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    let arch = sh("dpkg --print-architecture");
    let output = Command::new(nfpm)
        .current_dir(root)
        .args([
            "package",
            "--config",
            "conf/package/nfpm.yaml",
            "--packager",
            "deb",
        ])
        .args(["--target", "/run/cni-bridge.deb"])
        .env("PACKAGE_FROM", "/run/stripped")
        .env("PACKAGE_VERSION", env!("CARGO_PKG_VERSION"))
        .env("PACKAGE_ARCH", arch.trim())
        .output()
        .expect("nfpm");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    Some("/run/cni-bridge.deb".to_owned())
}

/// A dpkg that knows the machine's packages, and whose changes are the node's alone.
fn private_dpkg() {
    for dir in ["usr", "var/lib/dpkg"] {
        sh(&format!(
            "mkdir -p /run/node/{dir}/upper /run/node/{dir}/work
             mount -t overlay overlay \
                 -o lowerdir=/{dir},upperdir=/run/node/{dir}/upper,workdir=/run/node/{dir}/work /{dir}"
        ));
    }
}

/// What there is of the package, and of what the runtime sees.
fn files() -> Vec<String> {
    let mut files = Installer::of_the_node().files();
    let of_package = sh(
        "find /usr/sbin/cni-install /usr/share/cni-bridge /usr/share/doc/cni-bridge \
             /usr/lib/systemd/system/cni-bridge* 2>/dev/null || true",
    );
    files.extend(of_package.lines().map(str::to_owned));
    files
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_package_is_installed_used_and_removed() {
    on_host(|host| {
        let Some(package) = built(host) else { return };
        let disk = Path::new("/run/disk");
        let Some(mut node) = Node::prepared(host, Containerd::Current, disk) else {
            return;
        };
        sh("rm -rf /opt/cni /etc/cni; mkdir -p /etc/cni/net.d");
        private_dpkg();
        let before = (host.state(), files());
        sh(&format!("dpkg --install {package}"));
        assert_eq!(sh("dpkg --verify cni-bridge"), "");
        let listed = sh("dpkg --listfiles cni-bridge");
        for file in [
            "/opt/cni/bin/cni-bridge",
            "/opt/cni/bin/cni-ipam",
            "/usr/sbin/cni-install",
        ] {
            assert!(listed.lines().any(|line| line == file), "{listed}");
        }
        // As the README says.
        let said = sh("cni-install --pod-cidr 10.64.1.0/24; cni-install --status");
        assert!(
            said.contains("in use: /etc/cni/net.d/10-cbr0.conflist"),
            "{said}"
        );
        node.start();
        let cri = node.cri();
        let pod = node.pod(&cri, "web");
        assert_eq!(pod.addresses(&cri), ["10.64.1.2"]);
        {
            let _server = Echo::start(&node.netns_of(&cri, &pod), "10.64.1.2:8080");
            packet::ask(&host.netns, "10.64.1.2:8080").expect("an answer");
        }
        // The same version once more, as an update does it: the pod and the network stay.
        let running = (host.state(), files());
        sh(&format!("dpkg --install {package}"));
        host.state().assert_same(&running.0);
        assert_eq!(files(), running.1);

        let said = sh("! dpkg --remove cni-bridge 2>&1");
        assert!(
            said.contains("network cbr0 still connects 1 pod (default/web)"),
            "{said}"
        );
        assert_eq!(files(), running.1);
        host.state().assert_same(&running.0);

        pod.remove(&cri);
        sh("dpkg --purge cni-bridge");
        assert_eq!(files(), before.1);
        let but = ["sysctl net/ipv4/ip_forward", "lease"];
        host.state()
            .without(&but)
            .assert_same(&before.0.without(&but));
    });
}
