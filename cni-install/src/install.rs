//! What it takes to have the plugins and their network on a node: decided here, done step by
//! step by whoever asked.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{
    cidrs::PodCidrs,
    conflist::{Conflist, FILE_NAME, IPAM, MAIN},
    error::Error,
    node,
    options::{Network, Settings, Source},
    place::{self, Step},
    plugin, survey,
};

/// The executables, in the order of their installation.
pub(crate) const EXECUTABLES: [&str; 2] = [MAIN, IPAM];
/// The plugin that containerd calls for every pod besides; `cni-bridge` is one by that name.
pub(crate) const LOOPBACK: &str = "loopback";

const EXECUTABLE: u32 = 0o755;
const READABLE: u32 = 0o644;

/// What has to be done, and what is worth saying.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) notes: Vec<String>,
}

/// Looks at everything, refuses what cannot work, and changes nothing.
///
/// Executables come first and the configuration last: its appearance is what makes a runtime
/// use them.
pub(crate) fn plan(settings: &Settings, network: &Network) -> Result<Plan, Error> {
    let mut plan = executables(settings)?;
    let of_network = configuration(settings, network)?;
    plan.steps.extend(of_network.steps);
    plan.notes = of_network.notes;
    Ok(plan)
}

/// The configuration alone, if the node is to get one.
pub(crate) fn configuration(settings: &Settings, network: &Network) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let Some(conflist) = conflist(network)? else {
        plan.notes = no_network(&settings.conf_dir)?;
        return Ok(plan);
    };
    let from = sources(settings)?;
    let executable = from.as_ref().unwrap_or(&settings.bin_dir).join(MAIN);
    vet(&conflist, settings, &executable)?;
    let path = settings.conf_dir.join(FILE_NAME);
    let step = place::write(path.clone(), conflist.text.into_bytes(), READABLE)?;
    let differs = step.is_some() && fs::symlink_metadata(&path).is_ok();
    // Where the cluster says what the network is, it counts, whatever was there.
    let may_replace = settings.force || matches!(network.source, Source::Node(_));
    if differs && !may_replace {
        return Err(Error::Different(path));
    }
    plan.steps.extend(step);
    plan.notes = others(&settings.conf_dir)?;
    Ok(plan)
}

/// The executables alone.
pub(crate) fn executables(settings: &Settings) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    if let Some(dir) = sources(settings)? {
        for name in EXECUTABLES {
            let contents = read(&dir.join(name))?;
            let path = settings.bin_dir.join(name);
            plan.steps.extend(place::write(path, contents, EXECUTABLE)?);
        }
    }
    let loopback = settings.bin_dir.join(LOOPBACK);
    plan.steps.extend(place::link(loopback, MAIN));
    Ok(plan)
}

/// Where the executables are that are to be installed. `None`: a package has put them into
/// their place already.
pub(crate) fn sources(settings: &Settings) -> Result<Option<PathBuf>, Error> {
    let own = || {
        let executable = env::current_exe().unwrap_or_default();
        executable.parent().unwrap_or(Path::new("/")).to_owned()
    };
    let dir = settings.from.clone().unwrap_or_else(own);
    let missing_in = |dir: &Path| {
        EXECUTABLES
            .into_iter()
            .find(|name| !dir.join(name).is_file())
    };
    match missing_in(&dir) {
        None => Ok(Some(dir)),
        Some(_) if settings.from.is_none() && missing_in(&settings.bin_dir).is_none() => Ok(None),
        Some(name) => Err(Error::NoExecutable { name, dir }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Read(path.to_owned(), error))
}

/// The network that the node is to get, if it is to get one.
fn conflist(network: &Network) -> Result<Option<Conflist>, Error> {
    let cidrs: Option<PodCidrs> = match &network.source {
        Source::None => None,
        Source::Given(cidrs) => Some(cidrs.clone()),
        Source::Node(name) => Some(node::pod_cidrs(name)?),
    };
    let (file, conflist) = match (&network.conf, &cidrs) {
        (None, None) => return Ok(None),
        (None, Some(cidrs)) => (FILE_NAME.into(), Conflist::built_in(cidrs)),
        (Some(file), cidrs) => {
            let text =
                fs::read_to_string(file).map_err(|error| Error::Read(file.clone(), error))?;
            (file.clone(), Conflist::new(&text, cidrs.as_ref()))
        }
    };
    conflist
        .map(Some)
        .map_err(|source| Error::Conflist { file, source })
}

/// Refuses what would fail every pod, as long as nothing is changed.
fn vet(conflist: &Conflist, settings: &Settings, executable: &Path) -> Result<(), Error> {
    for config in conflist.for_status() {
        plugin::vet(executable, &config, &settings.bin_dir)?;
    }
    let is_there = |name: &str| {
        EXECUTABLES.contains(&name) || name == LOOPBACK || settings.bin_dir.join(name).exists()
    };
    let missing = conflist
        .executables()
        .into_iter()
        .find(|name| !is_there(name));
    match missing {
        Some(plugin) if !settings.force => Err(Error::MissingPlugin {
            plugin: plugin.to_owned(),
            dir: settings.bin_dir.clone(),
        }),
        _ => Ok(()),
    }
}

/// Executables alone connect nobody.
fn no_network(conf_dir: &Path) -> Result<Vec<String>, Error> {
    let found = survey::configurations(conf_dir)?;
    if found.iter().any(|found| found.for_us == Some(true)) {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "no configuration in {} uses them yet: --pod-cidr writes one for this node's pod CIDR",
        conf_dir.display()
    )])
}

/// Other networks: the one that is used instead, and the one that was used before.
fn others(conf_dir: &Path) -> Result<Vec<String>, Error> {
    let mut found = survey::configurations(conf_dir)?;
    let ours = conf_dir.join(FILE_NAME);
    found.retain(|found| found.path != ours);
    Ok(found
        .into_iter()
        .map(|found| {
            let path = found.path.display();
            if found.path < ours {
                format!(
                    "{path} comes first by its name, and is what the runtime uses: take it away to use {FILE_NAME} \
                     (mv {path} {path}.off)"
                )
            } else {
                format!("{path} is not used any more: {FILE_NAME} comes first by its name")
            }
        })
        .collect())
}
