//! The fixed part of the index file, and the entries of its table of blocks.

use super::{Content, ENTRY, Part, SLOTS};
use crate::{
    address::Family,
    allocate::{BlockId, Summary},
    store::boot::Boot,
};

/// The size of the header: less than a sector, so that it is written whole.
pub(super) const SIZE: usize = 128;
/// The format. Another one is garbage to us, and the index is built anew.
const MAGIC: [u8; 8] = *b"cniipam1";

/// The owners' table of an empty index: a page.
const FEWEST_OWNERS: u64 = 256;
/// The size of an entry of the owners' table.
pub(super) const OWNER: usize = 16;
const FEWEST_BLOCKS: u32 = 16;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) boot: Boot,
    pub(super) dirty: bool,
    pub(super) imported: bool,
    pub(super) sequence: u64,
    pub(super) pools: u64,
    pub(super) quarantined: u32,
    /// How long the file is.
    pub(super) end: u64,
    pub(super) blocks_at: u64,
    pub(super) blocks_room: u32,
    pub(super) blocks: u32,
    pub(super) owners_at: u64,
    /// A power of two.
    pub(super) owners_room: u64,
    pub(super) owners: u64,
}

impl Header {
    /// The header of an index that is about to be filled with `content`.
    pub(super) fn new(content: &Content) -> Self {
        let blocks = u32::try_from(content.blocks.len()).unwrap_or(u32::MAX / 4);
        let mut header = Self {
            boot: content.boot,
            dirty: false,
            imported: content.imported,
            sequence: content.sequence,
            pools: content.pools,
            quarantined: 0,
            end: SIZE as u64,
            blocks_at: 0,
            blocks_room: (blocks * 2).max(FEWEST_BLOCKS),
            blocks: 0,
            owners_at: 0,
            owners_room: (content.owners.len() as u64 * 4)
                .next_power_of_two()
                .max(FEWEST_OWNERS),
            owners: 0,
        };
        header.blocks_at = header.allot(u64::from(header.blocks_room) * ENTRY as u64);
        header.owners_at = header.allot(header.owners_room * OWNER as u64);
        header
    }

    /// Takes room at the end of the file.
    pub(super) fn allot(&mut self, size: u64) -> u64 {
        let at = self
            .end
            .next_multiple_of((SLOTS as u64).min(size).next_power_of_two());
        self.end = at + size;
        at
    }

    /// Whether the tables lie within the file.
    pub(super) fn is_sound(&self) -> bool {
        let blocks_end = self.blocks_at + u64::from(self.blocks_room) * ENTRY as u64;
        let owners_end = self
            .owners_at
            .saturating_add(self.owners_room.saturating_mul(OWNER as u64));
        self.blocks <= self.blocks_room
            && blocks_end <= self.end
            && self.owners_room.is_power_of_two()
            && self.owners < self.owners_room
            && owners_end <= self.end
    }

    pub(super) fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let flags = u64::from(self.dirty) | u64::from(self.imported) << 1;
        let fields = [
            u64::from_le_bytes(MAGIC),
            u64::from_le_bytes(self.boot.bytes()),
            flags,
            self.sequence,
            self.pools,
            u64::from(self.quarantined),
            self.end,
            self.blocks_at,
            u64::from(self.blocks_room),
            u64::from(self.blocks),
            self.owners_at,
            self.owners_room,
            self.owners,
        ];
        let encoded = fields.iter().flat_map(|field| field.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(encoded) {
            *to = from;
        }
        let (covered, checksum) = bytes.split_at_mut(SIZE - 4);
        checksum.copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
        bytes
    }

    /// `None` when the bytes are no header, or a damaged one.
    pub(super) fn parse(bytes: &[u8; SIZE]) -> Option<Self> {
        let (covered, checksum) = bytes.split_last_chunk()?;
        let (fields, _) = covered.as_chunks();
        let mut fields = fields.iter().map(|field| u64::from_le_bytes(*field));
        let mut next = || fields.next();
        if u32::from_le_bytes(*checksum) != crc32fast::hash(covered)
            || next()? != u64::from_le_bytes(MAGIC)
        {
            return None;
        }
        let boot = Boot::parse(str::from_utf8(&next()?.to_le_bytes()).ok()?)?;
        let flags = next()?;
        Some(Self {
            boot,
            dirty: flags & 1 != 0,
            imported: flags & 2 != 0,
            sequence: next()?,
            pools: next()?,
            quarantined: next()?.try_into().ok()?,
            end: next()?,
            blocks_at: next()?,
            blocks_room: next()?.try_into().ok()?,
            blocks: next()?.try_into().ok()?,
            owners_at: next()?,
            owners_room: next()?,
            owners: next()?,
        })
    }
}

pub(super) fn entry_to_bytes(summary: &Summary, part: Part) -> [u8; ENTRY] {
    let family = match summary.id.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let mut bytes = [0; ENTRY];
    let encoded = (summary.id.number.to_le_bytes().into_iter())
        .chain(summary.longest_free.to_le_bytes())
        .chain(part.slots_at.to_le_bytes())
        .chain(part.birth.to_le_bytes())
        .chain([family])
        .chain(entry_checksum(summary.id.number, part, family));
    for (place, byte) in bytes.iter_mut().zip(encoded) {
        *place = byte;
    }
    bytes
}

/// Of what never changes in an entry: a damaged one would stand for addresses that nobody
/// configured. All entries are read at each call, so it is three multiplications and no CRC;
/// a change of any one byte changes it, because the factors are odd.
fn entry_checksum(number: u128, part: Part, family: u8) -> [u8; 3] {
    const FACTORS: [u64; 3] = [
        0x9e37_79b9_7f4a_7c15,
        0xbf58_476d_1ce4_e5b9,
        0x94d0_49bb_1331_11eb,
    ];
    let [first, second, third] = FACTORS;
    let [low, high] =
        [number, number >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
    let rest = u64::from(part.birth) << 8 | u64::from(family);
    let sum = (low ^ high.rotate_left(32)).wrapping_mul(first)
        ^ part.slots_at.wrapping_mul(second)
        ^ rest.wrapping_mul(third);
    let [.., a, b, c] = sum.to_le_bytes();
    [a, b, c]
}

/// `None` when the entry is nonsense.
pub(super) fn parse_entry(bytes: &[u8]) -> Option<(Summary, Part)> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (longest_free, rest) = rest.split_first_chunk()?;
    let (slots_at, rest) = rest.split_first_chunk()?;
    let (birth, rest) = rest.split_first_chunk()?;
    let (code, checksum) = rest.split_first()?;
    let family = match code {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    let id = BlockId {
        family,
        number: u128::from_le_bytes(*number),
    };
    let summary = Summary {
        id,
        longest_free: u64::from_le_bytes(*longest_free),
    };
    let part = Part {
        slots_at: u64::from_le_bytes(*slots_at),
        birth: u32::from_le_bytes(*birth),
    };
    let highest = family.highest() >> 8;
    let is_sound = id.number <= highest
        && part.slots_at < u64::MAX / 2
        && *checksum == entry_checksum(id.number, part, *code);
    is_sound.then_some((summary, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_one_changed_byte_is_nonsense() {
        let id = BlockId {
            family: Family::V6,
            number: 0xfd00_0010_0064_0001_u128 << 56,
        };
        let summary = Summary {
            id,
            longest_free: 7,
        };
        let part = Part {
            slots_at: 9216,
            birth: 3,
        };
        let bytes = entry_to_bytes(&summary, part);
        assert!(parse_entry(&bytes).is_some());
        // The time since when an address is free changes with each lease.
        let checked = (0..ENTRY).filter(|at| !(16..24).contains(at));
        for (at, flip) in checked.flat_map(|at| (1..=255).map(move |flip| (at, flip))) {
            let mut bytes = bytes;
            bytes[at] ^= flip;
            assert!(parse_entry(&bytes).is_none(), "byte {at} ^ {flip}");
        }
    }
}
