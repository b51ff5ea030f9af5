//! A container as a runtime sees it before and after the plugin ran: an id, an interface
//! name, and a network namespace by path.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use nix::mount::{self, MntFlags, MsFlags};

use crate::{Netns, State};

/// One container. Its fields may be changed before they are used in a call.
#[derive(Debug)]
pub struct Container {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_NETNS`.
    pub path: PathBuf,
    /// The namespace itself.
    pub netns: Netns,
}

impl Container {
    /// One with nothing but its loopback link, which is up.
    pub fn new(id: &str) -> Self {
        let netns = Netns::new();
        netns.ip("link set lo up");
        Self {
            id: id.to_owned(),
            interface: "eth0".to_owned(),
            path: netns.path(),
            netns,
        }
    }

    /// Gives its namespace a path under `/run/netns`, as runtimes do.
    pub fn mount(&mut self) {
        let path = Path::new("/run/netns").join(&self.id);
        fs::create_dir_all("/run/netns").unwrap();
        File::create(&path).unwrap();
        mount::mount(
            Some(&self.netns.path()),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        self.path = path;
    }

    /// Takes the namespace away, as a runtime that dies does: the path is no namespace
    /// any more, and the kernel deletes what was inside.
    pub fn die(&mut self) {
        if self.path.starts_with("/run/netns") {
            mount::umount2(&self.path, MntFlags::MNT_DETACH).unwrap();
            fs::remove_file(&self.path).unwrap();
        } else {
            self.path = PathBuf::from("/run/netns/gone");
        }
        self.netns = Netns::current();
    }

    /// Everything inside that a plugin may touch, as text.
    pub fn state(&self) -> State {
        self.netns.run(State::of_container)
    }

    /// Runs a shell script inside and returns its output. Panics when it fails.
    pub fn sh(&self, script: &str) -> String {
        self.netns.sh(script)
    }
}
