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
    for (slot, free_since) in (0_u8..=u8::MAX).zip(occupancy.slots(n)?) {
        let address = base | u128::from(slot);
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::range::{Range as AddressRange, RangeSet, Wanted};

    /// Blocks in memory.
    #[derive(Clone, Debug, Default)]
    struct Blocks {
        sequence: u64,
        slots: BTreeMap<BlockId, [u64; BLOCK]>,
        summaries: Vec<Summary>,
    }

    impl Occupancy for Blocks {
        fn blocks(&self) -> &[Summary] {
            &self.summaries
        }

        fn slots(&mut self, n: usize) -> io::Result<[u64; BLOCK]> {
            Ok(self.slots[&self.summaries[n].id])
        }

        fn sequence(&self) -> u64 {
            self.sequence
        }
    }

    impl Blocks {
        fn set(&mut self, address: IpAddr, since: u64) {
            let id = BlockId::of(address);
            let slots = self.slots.entry(id).or_insert([NEVER; BLOCK]);
            slots[usize::from(slot_of(address))] = since;
            let summary = |(id, slots): (&BlockId, &[u64; BLOCK])| Summary {
                id: *id,
                longest_free: *slots.iter().min().unwrap(),
            };
            self.summaries = self.slots.iter().map(summary).collect();
        }

        fn since(&self, address: IpAddr) -> u64 {
            let slots = self.slots.get(&BlockId::of(address));
            slots.map_or(NEVER, |slots| slots[usize::from(slot_of(address))])
        }

        fn lease(&mut self, set: &RangeSet) -> Option<IpAddr> {
            let address = choose(set.usable(), self).unwrap()?;
            self.sequence += 1;
            self.set(address, TAKEN);
            Some(address)
        }

        fn release(&mut self, address: IpAddr) {
            self.sequence += 1;
            self.set(address, self.sequence);
        }
    }

    fn every(set: &RangeSet) -> Vec<IpAddr> {
        let numbers = |part: &Interval| {
            let family = part.family;
            (part.first..=part.last).map(move |number| family.address(number))
        };
        set.usable().iter().flat_map(numbers).collect()
    }

    /// Sets of up to some hundred addresses, over several blocks, with exclusions.
    fn any_set() -> impl Strategy<Value = RangeSet> {
        let base = prop_oneof![Just("10.64.0.0/20"), Just("fd00::/116")];
        let exclude = prop::collection::vec((0_u128..1200, 0_u128..40), 0..6);
        (base, 1_u128..600, 0_u128..600, 0_u128..1200, exclude).prop_filter_map(
            "no address is left",
            |(base, start, len, gateway, exclude)| {
                let subnet: ipnet::IpNet = base.parse().unwrap();
                let family = Family::of(subnet.network());
                let at = |offset| family.address(crate::address::number(subnet.network()) + offset);
                let hole = |(first, len)| Interval::new(at(first), at(first + len)).unwrap();
                let wanted = Wanted {
                    subnet,
                    start: Some(at(start)),
                    end: Some(at(start + len)),
                    gateway: Some(at(gateway)),
                    exclude: exclude.into_iter().map(hole).collect(),
                };
                let range = AddressRange::new(wanted).unwrap();
                let gateway = Interval::single(range.gateway());
                let set = RangeSet::new(vec![range], &[gateway]);
                (!set.usable().is_empty()).then_some(set)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn all_addresses_are_given_each_once_and_none_that_may_not(set in any_set()) {
            let range = &set.ranges()[0];
            let mut blocks = Blocks::default();
            let mut given = BTreeSet::new();
            while let Some(address) = blocks.lease(&set) {
                prop_assert!(given.insert(address), "{} twice", address);
                prop_assert!(range.first() <= address && address <= range.last());
                prop_assert_ne!(address, range.gateway());
                prop_assert_ne!(address, range.subnet().network());
                prop_assert!(address.is_ipv6() || address != range.subnet().broadcast());
                prop_assert!(set.may_give(address));
            }
            prop_assert_eq!(given, every(&set).into_iter().collect());
        }

        #[test]
        fn the_last_free_address_is_found(set in any_set(), pick: prop::sample::Index) {
            let all = every(&set);
            let mut blocks = Blocks::default();
            for address in &all {
                blocks.set(*address, TAKEN);
            }
            let last = *pick.get(&all);
            blocks.set(last, 5);
            prop_assert_eq!(blocks.lease(&set), Some(last));
            prop_assert_eq!(blocks.lease(&set), None);
        }

        #[test]
        fn the_longest_free_comes_next_and_the_never_used_before(
            set in any_set(),
            steps in prop::collection::vec(prop::option::weighted(0.4, any::<prop::sample::Index>()), 1..150),
        ) {
            let mut blocks = Blocks::default();
            let mut taken: Vec<IpAddr> = Vec::new();
            for step in steps {
                match step {
                    Some(pick) if !taken.is_empty() => {
                        let at = pick.index(taken.len());
                        blocks.release(taken.swap_remove(at));
                    }
                    _ => {
                        // In this model nothing rests long enough to come before a new block.
                        let best = every(&set).into_iter().min_by_key(|at| blocks.since(*at));
                        let best = best.filter(|at| blocks.since(*at) < TAKEN);
                        let since = best.map(|at| blocks.since(at));
                        let got = {
                            let before = blocks.clone();
                            let got = blocks.lease(&set);
                            prop_assert_eq!(got.map(|at| before.since(at)), since);
                            got
                        };
                        prop_assert_eq!(got, best);
                        taken.extend(got);
                    }
                }
            }
        }
    }

    fn set(subnet: &str) -> RangeSet {
        let wanted = Wanted {
            subnet: subnet.parse().unwrap(),
            start: None,
            end: None,
            gateway: None,
            exclude: Vec::new(),
        };
        let range = AddressRange::new(wanted).unwrap();
        let gateway = Interval::single(range.gateway());
        RangeSet::new(vec![range], &[gateway])
    }

    #[test]
    fn a_rested_address_comes_before_a_new_block() {
        let set = set("10.0.0.0/8");
        let mut blocks = Blocks::default();
        let mut addresses: Vec<IpAddr> = (0..254).map(|_| blocks.lease(&set).unwrap()).collect();
        let first = addresses.remove(0);
        blocks.release(first);
        assert_eq!(blocks.lease(&set).unwrap().to_string(), "10.0.1.0");
        for address in (0..=255).map(|slot| BlockId::of("10.0.1.0".parse().unwrap()).address(slot))
        {
            blocks.set(address, TAKEN);
        }
        blocks.sequence += REST;
        assert_eq!(blocks.lease(&set), Some(first));
    }

    #[test]
    fn one_pod_that_comes_and_goes_does_not_open_all_blocks_of_a_large_range() {
        let set = set("fd00::/64");
        let mut blocks = Blocks::default();
        for _ in 0..40_000 {
            let address = blocks.lease(&set).unwrap();
            blocks.release(address);
        }
        assert!(blocks.slots.len() < 40, "{}", blocks.slots.len());
    }
}
