//! What it takes to have a node without the plugins: the way of the installation, backwards.

use std::{fs, path::Path, time::Duration};

use crate::{
    conflist::{Conflist, FILE_NAME, MAIN},
    error::Error,
    install::{EXECUTABLES, LOOPBACK, Plan},
    options::Settings,
    place::{self, Step},
    pods, survey,
};

/// A runtime that is told of a changed directory reads it at once; a busy node needs longer,
/// and the last pod may have been begun with the old configuration.
const NOTICE: Duration = Duration::from_secs(5);

/// Where the configuration is while the rest is removed: no runtime reads a file of that name,
/// and who is interrupted goes on with it.
const ASIDE: &str = "10-cbr0.conflist.removing";

/// Looks at everything, refuses what would leave pods without a way to be removed, and changes
/// nothing.
pub(crate) fn plan(settings: &Settings) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let conflist = settings.conf_dir.join(FILE_NAME);
    let aside = settings.conf_dir.join(ASIDE);
    let mut text = fs::read_to_string(&conflist).ok();
    let is_others = text.as_deref().and_then(Conflist::is_for_us) == Some(false);
    if is_others {
        let path = conflist.display();
        plan.notes
            .push(format!("{path} is not for cni-bridge, and stays"));
        text = None;
    }
    let is_there = text.is_some();
    let text = text.or_else(|| fs::read_to_string(&aside).ok());
    if !settings.force {
        pods::refuse_connected(text.as_deref())?;
        refuse_in_use(&settings.conf_dir, &conflist)?;
    }
    let executables = executables(settings);
    if is_there {
        plan.steps.push(Step::SetAside {
            path: conflist,
            to: aside.clone(),
        });
        if !executables.is_empty() {
            plan.steps.push(Step::LetTheRuntimeNotice(NOTICE));
        }
    }
    plan.steps.extend(shared(settings, text.as_deref()));
    plan.steps.extend(executables);
    if is_there || aside.exists() {
        plan.steps.push(Step::Forget { path: aside });
    }
    Ok(plan)
}

fn executables(settings: &Settings) -> Vec<Step> {
    let mut steps = Vec::new();
    let loopback = settings.bin_dir.join(LOOPBACK);
    if fs::read_link(&loopback).is_ok_and(|to| to == Path::new(MAIN)) {
        steps.push(Step::Remove { path: loopback });
    }
    let paths = EXECUTABLES
        .iter()
        .rev()
        .map(|name| settings.bin_dir.join(name));
    steps.extend(paths.filter_map(place::remove));
    steps
}

/// What pods shared goes while the executable that knows it is there. With pods it stays.
fn shared(settings: &Settings, conflist: Option<&str>) -> Option<Step> {
    let executable = settings.bin_dir.join(MAIN);
    let conflist = conflist.filter(|text| pods::refuse_connected(Some(text)).is_ok())?;
    executable.is_file().then(|| Step::RemoveShared {
        executable,
        conflist: conflist.as_bytes().to_vec(),
    })
}

/// Another configuration names our plugins: without them its pods would fail.
fn refuse_in_use(conf_dir: &Path, conflist: &Path) -> Result<(), Error> {
    let found = survey::configurations(conf_dir)?;
    let user = found
        .into_iter()
        .find(|found| found.path != conflist && found.for_us == Some(true));
    match user {
        Some(user) => Err(Error::InUse(user.path)),
        None => Ok(()),
    }
}
