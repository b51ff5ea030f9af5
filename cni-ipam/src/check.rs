//! Looks that change nothing: is a lease what ADD said, and could an ADD be served?

use std::{fs, io, net::IpAddr, path::Path};

use cni_protocol::{Attachment, NetworkName};
use nix::unistd::{self, AccessFlags};

use crate::{
    allocate,
    cause::Cause,
    config::{Config, DataDir},
    error::Error,
    import,
    lease::{owner_of, texts},
    store::{
        Here, Store,
        block::{Block, Reading},
        dir::Dir,
        index::{Index, Opened},
        line::{Line, NO_INTERFACE, Owner},
        snapshot::{self, Snapshot},
    },
};

/// Of how many blocks STATUS looks at every line: more would take longer than it may.
const FEW_BLOCKS: usize = 8;

/// Checks that an attachment has the `expected` addresses, or any when none is expected.
/// Waits for no lock.
pub fn check(
    data_dir: &DataDir,
    attachment: &Attachment,
    expected: &[IpAddr],
) -> Result<(), Error> {
    let store = Store::new(data_dir, &attachment.network, &Here)?;
    let failed = |error| store.failed("read", error);
    let owner = owner_of(attachment);
    let has = |address: &IpAddr| has(&store, &owner, *address);
    let mut missing = Vec::new();
    for address in expected {
        if !has(address).map_err(failed)? {
            missing.push(*address);
        }
    }
    if missing.is_empty() && !expected.is_empty() {
        return Ok(());
    }
    // Something is wrong: it is worth reading everything to say what.
    let snapshot = Snapshot::read(&store.path, store.boot).map_err(failed)?;
    let held: Vec<IpAddr> = snapshot
        .iter()
        .flat_map(Snapshot::taken)
        .filter(|line| is_owner(line, &owner))
        .map(|line| line.address)
        .collect();
    let expected = match expected {
        [] if !held.is_empty() => return Ok(()),
        [] => "an address".to_owned(),
        expected => texts(expected.iter().copied()),
    };
    let mut damaged = snapshot.iter().flat_map(Snapshot::lost);
    let found = match missing.first() {
        Some(address) if damaged.any(|lost| lost == *address) => {
            format!("has a damaged record for {address}; see `cni-ipam verify`")
        }
        _ if held.is_empty() => "has no lease for it".to_owned(),
        _ => format!("has {} for it", texts(held.into_iter())),
    };
    Err(Error::Differs {
        attachment: Box::new(attachment.clone()),
        expected,
        found,
        path: store.path.clone(),
    })
}

/// Whether an attachment has an address, be it by a record that host-local made and that
/// was not taken over yet. Waits for no lock.
pub fn holds(data_dir: &DataDir, attachment: &Attachment, address: IpAddr) -> Result<bool, Error> {
    let store = Store::new(data_dir, &attachment.network, &Here)?;
    let owner = owner_of(attachment);
    if has(&store, &owner, address).map_err(|error| store.failed("read", error))? {
        return Ok(true);
    }
    match data_dir.import_from() {
        Some(from) => import::holds_there(&store, from, attachment, address),
        None => Ok(false),
    }
}

fn has(store: &Store<'_>, owner: &Owner, address: IpAddr) -> io::Result<bool> {
    let Some(dir) = Dir::open(&store.path)? else {
        return Ok(false);
    };
    let Some(block) = Block::open_to_read(&dir, address)? else {
        return Ok(false);
    };
    Ok(match block.read(address)? {
        Reading::Line(line) => line.is_taken(store.boot) && is_owner(&line, owner),
        Reading::Damaged => false,
    })
}

fn is_owner(line: &Line, owner: &Owner) -> bool {
    line.owner.as_ref().is_some_and(|found| {
        found.key == owner.key
            && (found.interface == owner.interface || found.interface == NO_INTERFACE)
    })
}

/// Whether an ADD could be served. Waits for no lock and changes nothing.
///
/// Says on standard error how many addresses are in quarantine. That no address is free is
/// an error only where the configuration says so.
pub fn status(config: &Config, network: &NetworkName) -> Result<(), Error> {
    let store = Store::new(config.data_dir(), network, &Here)?;
    let failed = |error| Error::Unusable {
        path: store.path.clone(),
        source: Cause::from(error),
    };
    let Some(dir) = Dir::open(&store.path).map_err(failed)? else {
        return can_be_made(&store.path).map_err(failed);
    };
    may_write(&store.path).map_err(failed)?;
    let opened = Index::open_to_read(&dir, store.boot).map_err(failed)?;
    let counted = snapshot::count_lost(&dir, store.boot, FEW_BLOCKS).map_err(failed)?;
    let known = match &opened {
        Opened::Good(index) => index.quarantined() as usize,
        Opened::EarlierBoot(_) | Opened::Dirty(_) | Opened::Lost => 0,
    };
    match counted.unwrap_or(known) {
        0 => {}
        n => cni_protocol::log(&format_args!(
            "{n} addresses of network {network} have damaged records; see `cni-ipam verify`"
        )),
    }
    // Without an index that can be trusted at this moment, nothing can be said for sure.
    let Opened::Good(mut index) = opened else {
        return Ok(());
    };
    if !config.status_on_exhaustion() {
        return Ok(());
    }
    for set in config.sets() {
        if matches!(allocate::choose(set.usable(), &mut index), Ok(None)) {
            return Err(Error::NoneFree(set.to_string()));
        }
    }
    Ok(())
}

/// Whether a directory could be made: its first parent that is there may be written to.
fn can_be_made(path: &Path) -> io::Result<()> {
    for parent in path.ancestors().skip(1) {
        match fs::metadata(parent) {
            Ok(metadata) if metadata.is_dir() => return may_write(parent),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn may_write(path: &Path) -> io::Result<()> {
    // Root may write anywhere but to a read-only file system; access(2) knows that too.
    Ok(unistd::access(path, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

#[cfg(test)]
mod tests {
    use cni_protocol::{Code, Failure};

    use super::*;
    use crate::{
        DataDir, release,
        testing::{attachment, config},
    };

    fn leased(data: &Path) -> Config {
        let config = config(r#""subnet":"10.64.1.0/30","statusOnExhaustion":true"#, data);
        let maker = crate::Maker::Other;
        crate::lease(&config, &attachment("c1"), maker, None).unwrap();
        config
    }

    #[test]
    fn a_check_compares_the_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let config = leased(dir.path());
        let data_dir = config.data_dir();
        let address = |text: &str| [text.parse::<IpAddr>().unwrap()];
        check(data_dir, &attachment("c1"), &address("10.64.1.2")).unwrap();
        check(data_dir, &attachment("c1"), &[]).unwrap();

        let path = dir.path().join("cbr0");
        let error = check(data_dir, &attachment("c1"), &address("10.64.1.3")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cbr0/c1/eth0 should have 10.64.1.3, but the lease store {} has 10.64.1.2 for it",
                path.display()
            )
        );
        let error = check(data_dir, &attachment("c2"), &address("10.64.1.2")).unwrap_err();
        assert!(
            error.to_string().ends_with("has no lease for it"),
            "{error}"
        );
        let nowhere = DataDir::new(dir.path().join("nowhere"));
        let error = check(&nowhere, &attachment("c1"), &[]).unwrap_err();
        assert!(
            error.to_string().ends_with("has no lease for it"),
            "{error}"
        );
    }

    #[test]
    fn exhaustion_is_told_where_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let config = leased(dir.path());
        let network = attachment("c1").network;
        let error = status(&config, &network).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        release(config.data_dir(), &attachment("c1")).unwrap();
        status(&config, &network).unwrap();
    }

    #[test]
    fn a_status_waits_for_no_lock_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("not/yet");
        let config = config(r#""subnet":"10.64.1.0/30""#, &elsewhere);
        status(&config, &attachment("c1").network).unwrap();
        assert!(!dir.path().join("not").exists());

        let config = leased(dir.path());
        let held = fs::File::open(dir.path().join("cbr0")).unwrap();
        held.lock().unwrap();
        status(&config, &attachment("c1").network).unwrap_err();
    }

    #[test]
    fn a_place_that_cannot_be_is_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let config = config(r#""subnet":"10.64.1.0/30""#, &file);
        let error = status(&config, &attachment("c1").network).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(
            error.reply().to_string(),
            format!(
                "cannot keep leases in {}; a part of the path is no directory",
                file.join("cbr0").display()
            )
        );
    }
}
