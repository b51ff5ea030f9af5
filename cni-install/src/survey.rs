//! Which configurations a runtime finds, and which of them it uses: the first by name, as
//! containerd, CRI-O and libcni have it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{conflist::Conflist, error::Error};

/// What files of configurations end in (libcni, `ConfFiles()`).
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// A file that a runtime reads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// It names one of our plugins. `None`: it cannot be understood.
    pub(crate) for_us: Option<bool>,
}

/// All configurations of a directory in the order in which runtimes take them. A directory
/// that is not there has none.
pub(crate) fn configurations(dir: &Path) -> Result<Vec<Found>, Error> {
    let failed = |error| Error::Read(dir.to_owned(), error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).ok();
            let for_us = text.and_then(|text| Conflist::is_for_us(&text));
            Found { path, for_us }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_by_name_is_used() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "10-containerd-net.conflist",
                r#"{"plugins":[{"type":"bridge"}]}"#,
            ),
            ("10-cbr0.conflist", r#"{"plugins":[{"type":"cni-bridge"}]}"#),
            ("05-broken.conf", "{"),
            ("00-not-read.conflist.bak", "{}"),
            (".10-cbr0.conflist.new", "{}"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::create_dir(dir.path().join("01-directory.conf")).unwrap();
        let found = configurations(dir.path()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|found| {
                (
                    found.path.file_name().unwrap().to_str().unwrap(),
                    found.for_us,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("05-broken.conf", None),
                ("10-cbr0.conflist", Some(true)),
                ("10-containerd-net.conflist", Some(false)),
            ]
        );
        assert_eq!(configurations(&dir.path().join("none")).unwrap(), []);
    }
}
