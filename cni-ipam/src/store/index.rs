//! What is quickly found: who has which address, and which address has been free longest.
//!
//! A cache, made anew from the lines whenever it cannot be trusted: when it says itself
//! that a change was begun and not ended, is of another boot, is not of its own size, or is
//! contradicted by a line. Nothing in it is ever believed against a line that is whole.
//!
//! The file: a header; a table of the blocks; for each block, since when its addresses are
//! free (eight bytes each); a hash table of owners with the addresses they have. A table
//! that is full moves to the end of the file at twice the size.

mod header;
mod owners;
mod pages;

use std::{fs::File, io, net::IpAddr};

use header::Header;
use pages::Pages;

use super::{
    boot::Boot,
    dir::{self, Dir},
};
use crate::allocate::{BLOCK, BlockId, NEVER, Occupancy, QUARANTINED, Summary, TAKEN, slot_of};

/// The name of the index in the directory of the store.
pub(crate) const NAME: &str = "index";

/// The size of an entry of the table of blocks.
const ENTRY: usize = 40;
/// The size of a block's part: one number an address.
const SLOTS: usize = 8 * BLOCK;

/// Where the parts of a block are.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where in the file the numbers of the block's addresses begin.
    slots_at: u64,
    /// The number of the block in the order of birth: owners refer to blocks by it.
    birth: u32,
}

/// An index that could be trusted when it was opened.
#[derive(Debug)]
pub(crate) struct Index {
    pages: Pages,
    header: Header,
    /// Ascending; `parts` has the same order.
    blocks: Vec<Summary>,
    parts: Vec<Part>,
    /// A block was added, so that entries have moved.
    blocks_moved: bool,
    begun: bool,
}

/// What the file of an index is worth.
#[derive(Debug)]
pub(crate) enum Opened {
    Good(Index),
    /// It is whole, but of an earlier boot: no lease of this boot was ever made.
    EarlierBoot(Index),
    /// A change was begun and not ended. The table of blocks can be believed, no more.
    Dirty(Index),
    /// It is not there, or garbage.
    Lost,
}

/// What one block starts an index with.
#[derive(Clone, Debug)]
pub(crate) struct BlockContent {
    pub(crate) id: BlockId,
    pub(crate) free_since: [u64; BLOCK],
}

/// What an index is made of.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) boot: Boot,
    pub(crate) sequence: u64,
    pub(crate) imported: bool,
    pub(crate) pools: u64,
    pub(crate) blocks: Vec<BlockContent>,
    /// The hash of each owner, and an address it has.
    pub(crate) owners: Vec<(u64, IpAddr)>,
}

fn contradiction() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the index contradicts itself")
}

impl Index {
    /// Opens the index to change it.
    pub(crate) fn open(dir: &Dir, boot: Boot) -> io::Result<Opened> {
        match dir.open_file(NAME)? {
            Some(file) => Self::read(file, boot),
            None => Ok(Opened::Lost),
        }
    }

    /// Opens the index only to look at it, without the lock: what it says may be in motion.
    pub(crate) fn open_to_read(dir: &Dir, boot: Boot) -> io::Result<Opened> {
        match dir.open_to_read(NAME)? {
            Some(file) => Self::read(file, boot),
            None => Ok(Opened::Lost),
        }
    }

    fn read(file: File, boot: Boot) -> io::Result<Opened> {
        let len = file.metadata()?.len();
        let mut pages = Pages::of_file(file, len);
        let Some(header) = Header::parse(&pages.get_array(0)?) else {
            return Ok(Opened::Lost);
        };
        // Only a change that was begun may have left the file longer than the header says.
        if header.end > len || (header.end < len && !header.dirty) || !header.is_sound() {
            return Ok(Opened::Lost);
        }
        let (dirty, same_boot) = (header.dirty, header.boot == boot);
        let mut index = Self {
            pages,
            header,
            blocks: Vec::new(),
            parts: Vec::new(),
            blocks_moved: false,
            begun: false,
        };
        if !index.read_blocks()? {
            return Ok(Opened::Lost);
        }
        Ok(match (same_boot, dirty) {
            (false, _) => Opened::EarlierBoot(index),
            (true, true) => Opened::Dirty(index),
            (true, false) => Opened::Good(index),
        })
    }

    /// Reads the table of blocks. False when it is nonsense.
    fn read_blocks(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; self.header.blocks as usize * ENTRY];
        self.pages.read(self.header.blocks_at, &mut bytes)?;
        self.blocks.reserve(self.header.blocks as usize);
        self.parts.reserve(self.header.blocks as usize);
        for entry in bytes.chunks_exact(ENTRY) {
            let Some((summary, part)) = header::parse_entry(entry) else {
                return Ok(false);
            };
            let ascending = self.blocks.last().is_none_or(|last| last.id < summary.id);
            if !ascending || part.slots_at + SLOTS as u64 > self.header.end {
                return Ok(false);
            }
            self.blocks.push(summary);
            self.parts.push(part);
        }
        Ok(true)
    }

    /// Makes an index in memory; [`Self::store`] puts it on disk.
    pub(crate) fn build(content: &Content) -> io::Result<Self> {
        let header = Header::new(content);
        let mut index = Self {
            pages: Pages::in_memory(),
            header,
            blocks: Vec::with_capacity(content.blocks.len()),
            parts: Vec::with_capacity(content.blocks.len()),
            blocks_moved: true,
            begun: false,
        };
        for block in &content.blocks {
            index.add_block(block)?;
        }
        for (hash, address) in &content.owners {
            index.add_owner(*hash, *address)?;
        }
        index.flush()?;
        index.finish()?;
        Ok(index)
    }

    /// Puts an index that was built in memory on disk, over what is there, and goes on
    /// with the file. Nothing but the growth of the file needs space on the disk.
    pub(crate) fn store(mut self, dir: &Dir) -> io::Result<Self> {
        let file = dir.ensure_file(NAME)?;
        let image = self.pages.image(self.header.end)?;
        let (head, body) = image.split_at(header::SIZE);
        // No header at all until the rest is there: the tables of the old one are going.
        dir::write_at(&file, &[0; header::SIZE], 0)?;
        dir::set_len(&file, self.header.end)?;
        dir::write_at(&file, body, header::SIZE as u64)?;
        dir::write_at(&file, head, 0)?;
        self.pages = Pages::of_file(file, self.header.end);
        Ok(self)
    }

    /// Says on disk that a change begins. From here to [`Self::finish`], a death makes the
    /// next process build the index anew from the lines.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        if !self.begun {
            self.header.dirty = true;
            self.pages.write_now(0, &self.header.to_bytes())?;
            self.begun = true;
        }
        Ok(())
    }

    /// Takes [`Self::begin`] back: nothing was changed.
    pub(crate) fn cancel(&mut self) -> io::Result<()> {
        let Some(mut header) = Header::parse(&self.pages.get_array(0)?) else {
            return Ok(());
        };
        header.dirty = false;
        self.pages.write_now(0, &header.to_bytes())?;
        self.begun = false;
        Ok(())
    }

    /// Writes all changes but the header. After [`Self::begin`], before the lines.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.blocks_moved {
            let entries = self.blocks.iter().zip(&self.parts);
            let bytes: Vec<u8> = entries
                .flat_map(|(summary, part)| header::entry_to_bytes(summary, *part))
                .collect();
            self.pages.put(self.header.blocks_at, &bytes)?;
            self.blocks_moved = false;
        }
        self.pages.flush(self.header.end)
    }

    /// Says on disk that the change is complete. After the lines.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.header.dirty = false;
        self.pages.write_now(0, &self.header.to_bytes())?;
        self.begun = false;
        Ok(())
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.begun
    }

    /// The next number of an operation.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.header.sequence += 1;
        self.header.sequence
    }

    pub(crate) fn is_imported(&self) -> bool {
        self.header.imported
    }

    pub(crate) fn set_imported(&mut self, imported: bool) {
        self.header.imported = imported;
    }

    /// The hash of the configured pools that the file `pools` shows.
    pub(crate) fn pools(&self) -> u64 {
        self.header.pools
    }

    pub(crate) fn set_pools(&mut self, hash: u64) {
        self.header.pools = hash;
    }

    pub(crate) fn quarantined(&self) -> u32 {
        self.header.quarantined
    }

    pub(crate) fn has_block(&self, id: BlockId) -> bool {
        self.find_block(id).is_some()
    }

    fn find_block(&self, id: BlockId) -> Option<usize> {
        self.blocks.binary_search_by_key(&id, |block| block.id).ok()
    }

    /// Since when an address is free. `None` when its block is not known.
    pub(crate) fn free_since(&mut self, address: IpAddr) -> io::Result<Option<u64>> {
        let Some(n) = self.find_block(BlockId::of(address)) else {
            return Ok(None);
        };
        Ok(self.slots(n)?.get(usize::from(slot_of(address))).copied())
    }

    pub(crate) fn add_block(&mut self, content: &BlockContent) -> io::Result<()> {
        let Err(n) = self
            .blocks
            .binary_search_by_key(&content.id, |block| block.id)
        else {
            return Err(contradiction());
        };
        let part = Part {
            slots_at: self.header.allot(SLOTS as u64),
            birth: self.header.blocks,
        };
        let bytes: Vec<u8> = content
            .free_since
            .iter()
            .flat_map(|at| at.to_le_bytes())
            .collect();
        self.pages.put(part.slots_at, &bytes)?;
        let quarantined = content
            .free_since
            .iter()
            .filter(|since| **since == QUARANTINED);
        self.header.quarantined += u32::try_from(quarantined.count()).unwrap_or(0);
        let least = content.free_since.iter().copied().min();
        let summary = Summary {
            id: content.id,
            longest_free: least.unwrap_or(NEVER),
        };
        self.blocks.insert(n, summary);
        self.parts.insert(n, part);
        self.header.blocks += 1;
        if self.header.blocks > self.header.blocks_room {
            self.header.blocks_room = self.header.blocks * 2;
            self.header.blocks_at = self
                .header
                .allot(u64::from(self.header.blocks_room) * ENTRY as u64);
        }
        self.blocks_moved = true;
        Ok(())
    }

    /// Notes since when an address is free, or that it is [`TAKEN`].
    pub(crate) fn set_free_since(&mut self, address: IpAddr, since: u64) -> io::Result<()> {
        let n = self
            .find_block(BlockId::of(address))
            .ok_or_else(contradiction)?;
        let slot = usize::from(slot_of(address));
        let mut slots = self.slots(n)?;
        if let Some(entry) = slots.get_mut(slot) {
            let change = i32::from(since == QUARANTINED) - i32::from(*entry == QUARANTINED);
            let count = &mut self.header.quarantined;
            *count = count.saturating_add_signed(change);
            *entry = since;
        }
        let least = slots.iter().copied().min().unwrap_or(TAKEN);
        let (Some(part), Some(block)) = (self.parts.get(n), self.blocks.get_mut(n)) else {
            return Err(contradiction());
        };
        let at = part.slots_at + slot as u64 * 8;
        self.pages.put(at, &since.to_le_bytes())?;
        if block.longest_free != least {
            block.longest_free = least;
            let at = self.header.blocks_at + (n * ENTRY) as u64;
            self.pages.put(at, &header::entry_to_bytes(block, *part))?;
        }
        Ok(())
    }

    /// The number that owners' entries have for an address.
    fn reference(&self, address: IpAddr) -> io::Result<u32> {
        let n = self
            .find_block(BlockId::of(address))
            .ok_or_else(contradiction)?;
        let part = self.parts.get(n).ok_or_else(contradiction)?;
        Ok((part.birth << 8) | u32::from(slot_of(address)))
    }

    fn dereference(&self, reference: u32) -> Option<IpAddr> {
        let n = self
            .parts
            .iter()
            .position(|part| part.birth == reference >> 8)?;
        let block = self.blocks.get(n)?;
        let [slot, ..] = reference.to_le_bytes();
        Some(block.id.address(slot))
    }
}

impl Occupancy for Index {
    fn blocks(&self) -> &[Summary] {
        &self.blocks
    }

    fn slots(&mut self, n: usize) -> io::Result<[u64; BLOCK]> {
        let part = *self.parts.get(n).ok_or_else(contradiction)?;
        let mut bytes = [0; SLOTS];
        self.pages.get(part.slots_at, &mut bytes)?;
        let mut slots = [TAKEN; BLOCK];
        for (slot, bytes) in slots.iter_mut().zip(bytes.as_chunks().0) {
            *slot = u64::from_le_bytes(*bytes);
        }
        Ok(slots)
    }

    fn sequence(&self) -> u64 {
        self.header.sequence
    }
}
