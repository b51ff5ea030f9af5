//! What a release of this project brings to a cluster: `conf/kubernetes`, and the image that
//! the manifest there names.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::image::{self, Image};
use crate::{node, plugin, shell};

/// A version of the executables, in an image.
#[derive(Debug)]
pub struct Release {
    /// As the Containerfile describes it.
    pub image: Image,
    dir: TempDir,
}

impl Release {
    /// The executables that were built, under the name that the manifest has.
    pub fn built() -> Self {
        Self::of(&image_name(), b"")
    }

    /// One that comes later: the executables are a byte longer.
    pub fn next() -> Self {
        Self::of(&format!("{}-next", image_name()), b"\n")
    }

    /// Without what is there for debuggers, as a release is: the pod of the manifest may not
    /// take much memory.
    fn of(name: &str, appendix: &[u8]) -> Self {
        let text = node::shipped("kubernetes/Containerfile");
        let dir = TempDir::new().unwrap();
        let image = image::containerfile(&text, dir.path(), name);
        for (file, _) in &image.files {
            let built = plugin::plugins_dir().join(file.file_name().unwrap());
            shell::run(Command::new("strip").arg("-o").arg(file).arg(built), "");
            let mut file = File::options().append(true).open(file).unwrap();
            file.write_all(appendix).unwrap();
        }
        Self { image, dir }
    }

    /// The content of one.
    pub fn executable(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }
}

/// The image of the manifest.
fn image_name() -> String {
    let manifest = node::shipped("kubernetes/cni-bridge.yaml");
    let name = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("image: "));
    name.expect("the manifest names no image").to_owned()
}

/// All manifests that we ship.
pub fn manifests() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let files = fs::read_dir(root.join("conf/kubernetes")).unwrap();
    let mut files: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    files
}
