//! A file of 256 lines: the leases of one block of addresses.
//!
//! Which block an address is in follows from the address alone, so that it has exactly one
//! line whatever ranges the configuration has, and had. A block is born whole: a file that
//! is shorter was damaged.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::FileExt,
};

use super::{
    boot::Boot,
    dir::{Dir, write_at},
    line::{self, LINE, Line},
};
use crate::{
    address::Family,
    allocate::{BLOCK, BlockId, slot_of},
};

/// The size of a block in bytes.
pub(crate) const SIZE: usize = BLOCK * LINE;
const SUFFIX: &str = ".leases";

/// What stands at the place of a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reading {
    Line(Line),
    /// The line is not what was written.
    Damaged,
}

#[derive(Debug)]
pub(crate) struct Block {
    file: File,
}

impl Block {
    /// Opens a block. `None` when it is not there or shorter than it was born.
    pub(crate) fn open(dir: &Dir, id: BlockId) -> io::Result<Option<Self>> {
        let Some(file) = dir.open_file(&file_name(id))? else {
            return Ok(None);
        };
        let whole = file.metadata()?.len() >= SIZE as u64;
        Ok(whole.then_some(Self { file }))
    }

    /// Opens the block of an address only to look at it, without the lock. `None` when it is
    /// not there.
    pub(crate) fn open_to_read(dir: &Dir, address: IpAddr) -> io::Result<Option<Self>> {
        let file = dir.open_to_read(&file_name(BlockId::of(address)))?;
        Ok(file.map(|file| Self { file }))
    }

    /// Makes a block with these lines, in place of a damaged one if there is any.
    pub(crate) fn create(dir: &Dir, id: BlockId, content: &[u8]) -> io::Result<Self> {
        let file = dir.write_whole(&file_name(id), content)?;
        Ok(Self { file })
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    pub(crate) fn read(&self, address: IpAddr) -> io::Result<Reading> {
        let mut bytes = [0; LINE];
        self.file.read_exact_at(&mut bytes, offset(address))?;
        Ok(Line::parse(&bytes, address).map_or(Reading::Damaged, Reading::Line))
    }

    pub(crate) fn write(&self, line: &Line) -> io::Result<()> {
        write_at(&self.file, &line.to_bytes(), offset(line.address))
    }
}

fn offset(address: IpAddr) -> u64 {
    u64::from(slot_of(address)) * LINE as u64
}

/// The lines of a block of which no address was ever given.
pub(crate) fn unused(id: BlockId) -> Vec<u8> {
    Line::unused_block((0..=u8::MAX).map(|slot| id.address(slot)))
}

/// The lines of a block from the bytes of its file, which may be too few.
pub(crate) fn parse(id: BlockId, bytes: &[u8]) -> impl Iterator<Item = (IpAddr, Reading)> {
    (0..=u8::MAX).map(move |slot| {
        let address = id.address(slot);
        let start = usize::from(slot) * LINE;
        let line = bytes
            .get(start..start + LINE)
            .and_then(|line| line.first_chunk())
            .and_then(|line| Line::parse(line, address));
        (address, line.map_or(Reading::Damaged, Reading::Line))
    })
}

/// How many lines of a block are damaged, or in quarantine in this boot: a quick look.
pub(crate) fn count_lost(id: BlockId, bytes: &[u8], boot: Boot) -> usize {
    let (lines, _) = bytes.as_chunks::<LINE>();
    let missing = BLOCK.saturating_sub(lines.len());
    let is_lost = |slot: u8, line: &[u8; LINE]| {
        !line::is_whole(line)
            || (line::is_of_quarantine(line)
                && Line::parse(line, id.address(slot)).is_none_or(|line| line.is_quarantined(boot)))
    };
    let lost = (0..=u8::MAX)
        .zip(lines)
        .filter(|(slot, line)| is_lost(*slot, line));
    missing + lost.count()
}

/// `10.64.1.leases` holds 10.64.1.0 to 10.64.1.255, and `fd00::.leases` those of `fd00::/120`.
pub(crate) fn file_name(id: BlockId) -> String {
    let base = id.address(0).to_string();
    match id.family {
        Family::V4 => format!("{}{SUFFIX}", base.strip_suffix(".0").unwrap_or(&base)),
        Family::V6 => format!("{base}{SUFFIX}"),
    }
}

/// The block that a file name stands for. `None` for all other files.
pub(crate) fn from_file_name(name: &str) -> Option<BlockId> {
    let base = name.strip_suffix(SUFFIX)?;
    let address = match base.parse::<Ipv6Addr>() {
        Ok(address) => IpAddr::V6(address),
        Err(_) => IpAddr::V4(format!("{base}.0").parse().ok()?),
    };
    let id = BlockId::of(address);
    // Only the one name that is ours: no second file can stand for the same addresses.
    (file_name(id) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(address: &str) -> BlockId {
        BlockId::of(address.parse().unwrap())
    }

    #[test]
    fn names_of_blocks_go_both_ways() {
        for (address, name) in [
            ("10.64.1.7", "10.64.1.leases"),
            ("0.0.0.1", "0.0.0.leases"),
            ("fd00::7", "fd00::.leases"),
            ("fd00::abcd", "fd00::ab00.leases"),
        ] {
            assert_eq!(file_name(id(address)), name);
            assert_eq!(from_file_name(name), Some(id(address)));
        }
    }

    #[test]
    fn other_files_are_no_blocks() {
        for name in [
            "index",
            "lock",
            ".leases",
            "10.64.1.7.leases",
            "10.64.leases",
            "fd00::1.leases",
            "FD00::.leases",
            "fd00:0::.leases",
            ".10.64.1.leases.new",
        ] {
            assert_eq!(from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn an_unused_block_is_whole() {
        let bytes = unused(id("10.64.1.0"));
        assert_eq!(bytes.len(), SIZE);
        let lines = parse(id("10.64.1.0"), &bytes);
        assert_eq!(
            lines.filter(|(_, line)| *line == Reading::Damaged).count(),
            0
        );
    }
}
