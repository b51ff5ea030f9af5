//! All lines of a store as they stand at the moment, read without the lock.
//!
//! Each line is whole or recognised as torn, but two lines may be of different moments. So
//! what is decided by a snapshot is decided again under the lock, line by line.

use std::{io, io::Read, net::IpAddr, path::Path};

use super::{
    block::{self, Reading},
    boot::Boot,
    dir::Dir,
    line::Line,
};
use crate::allocate::BlockId;

/// A block as it stands in its file.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) id: BlockId,
    /// How many bytes are missing at the end of the file.
    pub(crate) missing: usize,
    pub(crate) lines: Vec<(IpAddr, Reading)>,
}

/// The lines of one store.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) boot: Boot,
    /// In the order of their addresses.
    pub(crate) blocks: Vec<Shown>,
}

/// How many addresses are damaged or in quarantine. `None` when the store has more than
/// `most` blocks, so that it would take long to find out.
pub(crate) fn count_lost(dir: &Dir, boot: Boot, most: usize) -> io::Result<Option<usize>> {
    let ids: Vec<BlockId> = dir
        .names()?
        .iter()
        .filter_map(|name| block::from_file_name(name))
        .collect();
    if ids.len() > most {
        return Ok(None);
    }
    let mut lost = 0;
    for id in ids {
        if let Some(bytes) = read_block(dir, id)? {
            lost += block::count_lost(id, &bytes, boot);
        }
    }
    Ok(Some(lost))
}

/// The bytes of a block's file, and no more than a block has. `None` when it is not there.
pub(crate) fn read_block(dir: &Dir, id: BlockId) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = dir.open_to_read(&block::file_name(id))? else {
        return Ok(None);
    };
    let mut bytes = Vec::with_capacity(block::SIZE);
    file.take(block::SIZE as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

impl Snapshot {
    /// Of a store that has no lines.
    pub(crate) fn empty(boot: Boot) -> Self {
        Self {
            boot,
            blocks: Vec::new(),
        }
    }

    /// Reads the store in a directory. `None` when there is none.
    pub(crate) fn read(path: &Path, boot: Boot) -> io::Result<Option<Self>> {
        let Some(dir) = Dir::open(path)? else {
            return Ok(None);
        };
        let names = dir.names()?;
        let mut ids: Vec<BlockId> = names
            .iter()
            .filter_map(|n| block::from_file_name(n))
            .collect();
        ids.sort_unstable();
        let mut blocks = Vec::with_capacity(ids.len());
        for id in ids {
            // Gone since the directory was read: the store is being removed.
            let Some(bytes) = read_block(&dir, id)? else {
                continue;
            };
            blocks.push(Shown {
                id,
                missing: block::SIZE.saturating_sub(bytes.len()),
                lines: block::parse(id, &bytes).collect(),
            });
        }
        Ok(Some(Self { boot, blocks }))
    }

    /// The addresses that have an owner in this boot.
    pub(crate) fn taken(&self) -> impl Iterator<Item = &Line> {
        self.lines().filter_map(|(_, reading)| match reading {
            Reading::Line(line) if line.is_taken(self.boot) => Some(line),
            _ => None,
        })
    }

    /// The addresses of which it is not known whether they have an owner.
    pub(crate) fn lost(&self) -> impl Iterator<Item = IpAddr> {
        self.lines().filter_map(|(address, reading)| match reading {
            Reading::Damaged => Some(address),
            Reading::Line(line) => line.is_quarantined(self.boot).then_some(address),
        })
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (IpAddr, &Reading)> {
        self.blocks
            .iter()
            .flat_map(|block| block.lines.iter().map(|(at, reading)| (*at, reading)))
    }
}
