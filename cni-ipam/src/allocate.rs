//! Which address is given next: the one that has been free longest. Pure.
//!
//! Addresses come in blocks of 256. What is known of a block is when each of its addresses
//! became free, as the number of the operation that freed it, and the least of these
//! numbers. So a range is judged by its blocks, and only one or two of them are looked
//! into: what it takes does not grow with the number of leases.

use std::{io, net::IpAddr, ops::Range};

use crate::address::{Family, Interval};

/// How many addresses a block has.
pub(crate) const BLOCK: usize = 256;
/// An address that was never given is free since before the first operation.
pub(crate) const NEVER: u64 = 0;
/// An address that somebody has. All lower numbers are of free addresses.
pub(crate) const TAKEN: u64 = u64::MAX - 1;
/// An address of which it is not known whether somebody has it.
pub(crate) const QUARANTINED: u64 = u64::MAX;

/// An address that was given back this many operations ago is taken again before a new
/// block is opened. Without this, a node with an IPv6 /64 would fill its memory with blocks
/// of addresses that were used once.
pub(crate) const REST: u64 = 16_384;

/// 256 addresses that differ in the last eight bits only.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct BlockId {
    pub(crate) family: Family,
    /// The number of an address of the block without its last eight bits.
    pub(crate) number: u128,
}

impl BlockId {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self {
            family: Family::of(address),
            number: crate::address::number(address) >> 8,
        }
    }

    pub(crate) fn address(self, slot: u8) -> IpAddr {
        self.family.address((self.number << 8) | u128::from(slot))
    }
}

/// The place of an address in its block.
pub(crate) fn slot_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// A block of which at least one address was given at some time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Summary {
    pub(crate) id: BlockId,
    /// The least of the block's numbers: [`TAKEN`] or more when no address is free.
    pub(crate) longest_free: u64,
}

/// What is known of the addresses of a network.
pub(crate) trait Occupancy {
    /// All blocks, in ascending order.
    fn blocks(&self) -> &[Summary];
    /// Since when each address of the `n`-th block is free.
    fn slots(&mut self, n: usize) -> io::Result<[u64; BLOCK]>;
    /// The number of the latest operation.
    fn sequence(&self) -> u64;
}

/// The best address so far: never used before used, then longest free, then first.
struct Best {
    free_since: u64,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Address(IpAddr),
    /// The first of the longest free addresses of a block, which is not looked at yet.
    Block(usize),
}

/// Chooses a free address of `usable`. `None` when there is none.
pub(crate) fn choose(
    usable: &[Interval],
    occupancy: &mut impl Occupancy,
) -> io::Result<Option<IpAddr>> {
    let mut best = Best {
        free_since: TAKEN,
        place: Place::Block(0),
    };
    let mut unopened = None;
    for part in usable {
        let blocks = blocks_of(part, occupancy.blocks());
        unopened = unopened.or_else(|| first_unopened(part, occupancy.blocks(), blocks.clone()));
        for n in blocks {
            if best.free_since != NEVER {
                judge(part, n, occupancy, &mut best)?;
            }
        }
    }
    let rested = occupancy.sequence().saturating_sub(best.free_since) >= REST;
    match (best.free_since, unopened) {
        (TAKEN, unopened) => Ok(unopened),
        (NEVER, _) | (_, None) => resolve(&best, occupancy),
        (_, Some(_)) if rested => resolve(&best, occupancy),
        (_, Some(address)) => Ok(Some(address)),
    }
}

/// The places in the list of those blocks that have addresses of `part`.
fn blocks_of(part: &Interval, blocks: &[Summary]) -> Range<usize> {
    let edge = |number: u128| BlockId {
        family: part.family,
        number: number >> 8,
    };
    let start = blocks.partition_point(|block| block.id < edge(part.first));
    let end = blocks.partition_point(|block| block.id <= edge(part.last));
    start..end
}

/// The first address of `part` whose block was never opened.
fn first_unopened(part: &Interval, blocks: &[Summary], there: Range<usize>) -> Option<IpAddr> {
    let mut number = part.first >> 8;
    for block in blocks.get(there).unwrap_or_default() {
        if block.id.number != number {
            break;
        }
        number += 1;
    }
    (number <= part.last >> 8).then(|| part.family.address(part.first.max(number << 8)))
}

/// Takes the `n`-th block's best address of `part` if it is better than the best so far.
fn judge(
    part: &Interval,
    n: usize,
    occupancy: &mut impl Occupancy,
    best: &mut Best,
) -> io::Result<()> {
    let Some(block) = occupancy.blocks().get(n).copied() else {
        return Ok(());
    };
    // The least of the whole block is the least of any part of it, or less.
    if block.longest_free >= best.free_since {
        return Ok(());
    }
    let base = block.id.number << 8;
    if part.first <= base && part.last >= (base | 0xff) {
        *best = Best {
            free_since: block.longest_free,
            place: Place::Block(n),
        };
        return Ok(());
    }
    for (address, free_since) in (base..).zip(occupancy.slots(n)?) {
        if address >= part.first && address <= part.last && free_since < best.free_since {
            *best = Best {
                free_since,
                place: Place::Address(part.family.address(address)),
            };
        }
    }
    Ok(())
}

fn resolve(best: &Best, occupancy: &mut impl Occupancy) -> io::Result<Option<IpAddr>> {
    let n = match best.place {
        Place::Address(address) => return Ok(Some(address)),
        Place::Block(n) => n,
    };
    let Some(block) = occupancy.blocks().get(n).copied() else {
        return Ok(None);
    };
    let slots = occupancy.slots(n)?;
    let found = (0..=u8::MAX).find(|slot| slots.get(usize::from(*slot)) == Some(&best.free_since));
    match found {
        Some(slot) => Ok(Some(block.id.address(slot))),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the index contradicts itself",
        )),
    }
}
