//! The units in `conf/systemd`: the very files, and the commands that stand in them.

mod ours {
    use std::{
        fs,
        os::unix::process::CommandExt,
        path::{Path, PathBuf},
        process::{Child, Command, Stdio},
        thread,
        time::{Duration, Instant},
    };

    use harness::{Host, Request, conf, on_host};
    use nix::{
        sys::signal::{self, Signal},
        unistd::Pid,
    };

    /// How long a reload may take to be noticed.
    const DEADLINE: Duration = Duration::from_secs(20);
    /// How long nothing has to happen before it is believed that nothing does.
    const QUIET: Duration = Duration::from_millis(500);

    fn units() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/systemd")
    }

    /// The commands of a unit for one key, as a shell reads them.
    fn commands(unit: &str, key: &str) -> Vec<String> {
        let text = fs::read_to_string(units().join(unit)).expect(unit);
        let prefix = format!("{key}=");
        text.lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(|command| command.replace("$$", "$").replace("%%", "%"))
            .collect()
    }

    /// Puts plugin and configuration where the units expect them, on this test's own mounts.
    fn install() {
        harness::sh("mount -t tmpfs none /opt; mkdir -p /opt/cni/bin; mkdir -p /run/cni-conf");
        fs::copy(
            Request::bare("cni-bridge").path(),
            "/opt/cni/bin/cni-bridge",
        )
        .expect("a copy");
        // The machine may have no such directory: it is made on a layer above /etc.
        harness::sh(
            "mkdir -p /run/layer/up /run/layer/work
             mount -t tmpfs none /run/layer; mkdir /run/layer/up /run/layer/work
             mount -t overlay -o lowerdir=/etc,upperdir=/run/layer/up,workdir=/run/layer/work none /etc
             rm -rf /etc/cni; mkdir -p /etc/cni/net.d",
        );
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/10-cbr0.conflist");
        fs::copy(list, "/etc/cni/net.d/10-cbr0.conflist").expect("a copy");
    }

    fn has(program: &str) -> bool {
        Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn cannot_run(host: &Host, programs: &[&str]) -> bool {
        let missing: Vec<_> = programs.iter().filter(|program| !has(program)).collect();
        if let Some(program) = missing.first() {
            host.cannot_run(&format!("{program} is not installed"));
        }
        !missing.is_empty()
    }

    fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
        let started = Instant::now();
        while !happened() {
            assert!(started.elapsed() < DEADLINE, "{what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn rules() -> String {
        harness::sh("nft list ruleset")
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn systemd_understands_every_unit() {
        on_host(|host| {
            if cannot_run(host, &["systemd-analyze"]) {
                return;
            }
            install();
            let files = fs::read_dir(units()).expect("conf/systemd");
            let files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
            assert!(files.len() >= 3, "{files:?}");
            let output = Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .args(&files)
                .output()
                .expect("systemd-analyze");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Of units that this machine has itself, it may say what it likes.
            let about_ours: Vec<&str> = said
                .lines()
                .filter(|line| line.contains("cni-bridge"))
                .collect();
            assert!(about_ours.is_empty(), "{said}");
            assert!(output.status.success(), "{said}");
        });
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn the_commands_of_the_units_restore_what_was_flushed() {
        on_host(|host| {
            install();
            let (_pod, _) = host.pod(&conf::smallest());
            let before = rules();
            for (unit, key) in [
                ("cni-bridge-reconcile.service", "ExecStart"),
                ("cni-bridge-firewall.service", "ExecStartPre"),
                ("cni-bridge-firewall.service", "ExecReload"),
            ] {
                harness::sh("nft flush ruleset");
                let commands = commands(unit, key);
                assert_eq!(commands.len(), 1, "{unit} {key}");
                let said = harness::sh(&commands[0]);
                assert!(said.contains("restored: the masquerade rule"), "{said}");
                assert_eq!(rules(), before, "{unit} {key}");
            }
        });
    }

    /// A script and all that it started; they end with this value.
    struct Group(Child);

    impl Group {
        fn start(script: &str) -> Self {
            let child = Command::new("sh")
                .args(["-c", script])
                .process_group(0)
                .spawn();
            Self(child.expect("sh"))
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let group = Pid::from_raw(self.0.id().cast_signed());
            signal::killpg(group, Signal::SIGKILL).ok();
            self.0.wait().ok();
        }
    }

    /// A bus of this test's own, where the system's would be.
    fn bus() -> Group {
        fs::create_dir_all("/run/dbus").expect("a directory");
        let config = "<busconfig><type>system</type>\
            <listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>\
            <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
            <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>";
        fs::write("/run/dbus.conf", config).expect("a file");
        let bus = Group::start("exec dbus-daemon --nofork --config-file=/run/dbus.conf");
        wait_for("the bus", || {
            Path::new("/run/dbus/system_bus_socket").exists()
        });
        bus
    }

    #[test]
    #[ignore = "needs namespaces: run scripts/test"]
    fn a_reload_that_firewalld_announces_is_followed_by_a_reconcile() {
        on_host(|host| {
            if cannot_run(host, &["busctl", "dbus-daemon", "dbus-send"]) {
                return;
            }
            install();
            let (_pod, _) = host.pod(&conf::smallest());
            let before = rules();
            let _bus = bus();
            let commands = commands("cni-bridge-firewall.service", "ExecStart");
            let _listener = Group::start(&commands[0]);
            harness::sh("nft flush ruleset");
            wait_for("the rules after the reload", || {
                // The listener may not be there yet when the first is sent.
                harness::sh(
                    "dbus-send --system --type=signal /org/fedoraproject/FirewallD1 \
                     org.fedoraproject.FirewallD1.Reloaded",
                );
                rules() == before
            });
            // Until it has followed all that were sent.
            wait_for("the listener to be done", || {
                harness::sh("nft flush ruleset");
                thread::sleep(QUIET);
                rules() != before
            });
            // Other signals mean nothing.
            harness::sh(
                "dbus-send --system --type=signal /org/fedoraproject/FirewallD1 \
                 org.fedoraproject.FirewallD1.ServiceAdded",
            );
            thread::sleep(QUIET);
            assert_ne!(rules(), before);
        });
    }
}
