//! Images, made by hand as `docker save` would write them: no registry is there to be asked.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{Containerd, shell};

/// An image of one layer.
#[derive(Debug)]
pub struct Image {
    /// With its tag.
    pub name: String,
    /// The program that runs if the pod does not say otherwise.
    pub entrypoint: Vec<String>,
    /// What is in it: the file here, its path there.
    pub files: Vec<(PathBuf, String)>,
}

impl Image {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: Vec::new(),
            files: Vec::new(),
        }
    }

    fn with(mut self, file: PathBuf, path: &str) -> Self {
        self.files.push((file, path.to_owned()));
        self
    }
}

/// The image that a Containerfile describes: one from scratch with COPY and ENTRYPOINT, whose
/// files are in the directory `context`.
pub(super) fn containerfile(text: &str, context: &Path, name: &str) -> Image {
    let mut image = Image::new(name);
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (instruction, rest) = line.split_once(' ').unwrap_or((line, ""));
        match instruction {
            "FROM" => assert_eq!(rest, "scratch"),
            "COPY" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let (target, sources) = words.split_last().expect("COPY of something");
                assert!(target.ends_with('/'), "no directory: {line}");
                for source in sources {
                    image = image.with(context.join(source), &format!("{target}{source}"));
                }
            }
            "ENTRYPOINT" => image.entrypoint = serde_json::from_str(rest).expect(line),
            "LABEL" => {}
            _ => panic!("not understood: {line}"),
        }
    }
    image
}

/// All that `kubeadm config images list` names, each with its one program.
pub(super) fn of_kubernetes(scratch: &Path) -> Vec<Image> {
    let config = scratch.join("kubeadm.yaml");
    fs::write(&config, super::CONFIG).unwrap();
    let mut list = Command::new(shell::kubernetes_tool("kubeadm"));
    list.args(["config", "images", "list", "--config"])
        .arg(config);
    let names = shell::run(&mut list, "");
    names.lines().map(of_kubeadm).collect()
}

fn of_kubeadm(name: &str) -> Image {
    let image = Image::new(name);
    let program = name
        .rsplit('/')
        .next()
        .and_then(|name| name.split(':').next());
    match program.expect("a name") {
        // The sandboxes' image is another: that of containerd's configuration.
        "pause" => {
            let busybox = Containerd::Distribution.dir().join("busybox");
            image.with(busybox, "/pause")
        }
        "coredns" => {
            let mut image = image.with(shell::kubernetes_tool("coredns"), "/coredns");
            image.entrypoint = vec!["/coredns".to_owned()];
            image
        }
        program => {
            let path = format!("/usr/local/bin/{program}");
            let image = image.with(shell::kubernetes_tool(program), &path);
            if program == "kube-proxy" {
                with_nft(image)
            } else {
                image
            }
        }
    }
}

/// kube-proxy runs nft: that of this machine, with its libraries.
fn with_nft(image: Image) -> Image {
    let needed = shell::sh("nft=$(command -v nft); echo $nft; ldd $nft");
    needed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .fold(image, |image, file| {
            let path = if file.ends_with("/nft") {
                "/usr/sbin/nft"
            } else {
                file
            };
            image.with(PathBuf::from(file), path)
        })
}

/// Writes all images into one archive in this directory; its path.
pub(super) fn archive(images: &[&Image], dir: &Path) -> PathBuf {
    let staging = dir.join("images");
    fs::create_dir(&staging).unwrap();
    let manifest: Vec<Value> = images
        .iter()
        .enumerate()
        .map(|(number, image)| written(image, number, &staging))
        .collect();
    fs::write(
        staging.join("manifest.json"),
        Value::from(manifest).to_string(),
    )
    .unwrap();
    let archive = dir.join("images.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&staging)
        .arg(".");
    shell::run(&mut tar, "");
    fs::remove_dir_all(staging).unwrap();
    archive
}

/// Writes layer and configuration of an image; its entry in the manifest.
fn written(image: &Image, number: usize, staging: &Path) -> Value {
    let root = staging.join("root");
    for (file, path) in &image.files {
        let link = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(file, link).unwrap();
    }
    let layer = format!("{number}-layer.tar");
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--dereference",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--file",
    ])
    .arg(staging.join(&layer))
    .arg("--directory")
    .arg(&root)
    .arg(".");
    shell::run(&mut tar, "");
    fs::remove_dir_all(root).unwrap();
    let sum = shell::run(Command::new("sha256sum").arg(staging.join(&layer)), "");
    let sum = sum.split(' ').next().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    let name = format!("{number}-config.json");
    fs::write(staging.join(&name), config.to_string()).unwrap();
    json!({ "Config": name, "RepoTags": [image.name], "Layers": [layer] })
}
