//! Builds an index from the lines, and puts right what is damaged in them.
//!
//! A damaged line is not a lost lease: the address is free if the index said so before it
//! was distrusted, or if the damage is of an earlier boot; it is the pod's whose link says so
//! in its alias; and otherwise it is quarantined, which is that address alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
};

use super::{
    Absent,
    block::{self, Block, Reading},
    boot::{Boot, now},
    dir::Dir,
    index::{BlockContent, Content, Index},
    line::{Line, Made, Owner, State},
    snapshot::read_block,
};
use crate::{
    alias::Alias,
    allocate::{BLOCK, BlockId, Occupancy, QUARANTINED, TAKEN},
};

/// What the kernel knows: our links in the namespace that this process is in.
#[derive(Clone, Debug, Default)]
pub(super) struct Seeds {
    pub(super) aliases: Vec<Alias>,
    pub(super) netns: u64,
}

/// The index as it was found.
pub(super) enum Old {
    /// Whole, but some line or file does not fit to it.
    Clean(Index),
    /// Whole, but of an earlier boot: all leases are void.
    EarlierBoot(Index),
    /// Of a change that did not come to its end.
    Dirty(Index),
    Nothing,
}

pub(super) enum Rebuilt {
    Done(Index),
    /// Nothing was changed: do it again with what the kernel knows.
    NeedsLinks,
    /// There are no leases and no index, and none are to be made.
    Empty,
}

pub(super) fn rebuild(
    dir: &Dir,
    boot: Boot,
    mut old: Old,
    seeds: Option<&Seeds>,
    absent: Absent,
) -> io::Result<Rebuilt> {
    let mut lines = Lines::read(dir, boot, &old)?;
    if absent == Absent::Leave && lines.blocks.is_empty() && matches!(old, Old::Nothing) {
        return Ok(Rebuilt::Empty);
    }
    let lost = lines.settle(&mut old)?;
    let needs_links = matches!(old, Old::Nothing) || lines.missing || !lost.is_empty();
    match seeds {
        None if needs_links => return Ok(Rebuilt::NeedsLinks),
        Some(seeds) => lines.seed(seeds),
        None => {}
    }
    lines.write(dir)?;
    let content = lines.content(&mut old)?;
    let index = Index::build(&content)?;
    match index.store(dir) {
        Ok(index) => Ok(Rebuilt::Done(index)),
        // A DEL has to work on a full disk too. It frees its line, and the next process
        // builds the index again.
        Err(error) if is_full(&error) && absent == Absent::Leave => {
            Index::build(&content).map(Rebuilt::Done)
        }
        Err(error) => Err(error),
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// All lines of a store.
struct Lines {
    boot: Boot,
    blocks: BTreeMap<BlockId, Lined>,
    /// A block that the index knew is not there.
    missing: bool,
    imported: bool,
    pools: u64,
    sequence: u64,
}

struct Lined {
    readings: Vec<(IpAddr, Reading)>,
    /// The file is shorter than it was born, or not there.
    short: bool,
    /// The places whose lines have to be written.
    changed: BTreeSet<usize>,
}

impl Lines {
    fn read(dir: &Dir, boot: Boot, old: &Old) -> io::Result<Self> {
        let (index, all_void) = match old {
            Old::Clean(index) | Old::Dirty(index) => (Some(index), false),
            Old::EarlierBoot(index) => (Some(index), true),
            Old::Nothing => (None, false),
        };
        let names = dir.names()?;
        let there: BTreeSet<BlockId> = names
            .iter()
            .filter_map(|n| block::from_file_name(n))
            .collect();
        let mut known = there.clone();
        if let Some(index) = index.filter(|_| !all_void) {
            known.extend(index.blocks().iter().map(|block| block.id));
        }
        let mut lines = Self {
            boot,
            blocks: BTreeMap::new(),
            missing: known.len() > there.len(),
            imported: index.is_some_and(Index::is_imported),
            pools: index.map_or(0, Index::pools),
            sequence: index.map_or(0, Occupancy::sequence),
        };
        for id in known {
            let bytes = read_block(dir, id)?.unwrap_or_default();
            let read = Lined {
                short: bytes.len() < block::SIZE,
                readings: block::parse(id, &bytes).collect(),
                changed: BTreeSet::new(),
            };
            lines.blocks.insert(id, read);
        }
        Ok(lines)
    }

    /// Decides about damaged lines as far as the old index can tell, and returns the
    /// addresses of which it cannot.
    fn settle(&mut self, old: &mut Old) -> io::Result<Vec<IpAddr>> {
        let boot = self.boot;
        let mut lost = Vec::new();
        for lined in self.blocks.values_mut() {
            for (slot, (address, reading)) in lined.readings.iter_mut().enumerate() {
                let known = match reading {
                    Reading::Line(line) if line.is_quarantined(boot) => false,
                    Reading::Line(line) => {
                        self.sequence = self.sequence.max(line.sequence);
                        true
                    }
                    Reading::Damaged => match freed(old, *address)? {
                        Some(sequence) => {
                            *reading = Reading::Line(Line {
                                sequence,
                                ..Line::unused(*address)
                            });
                            lined.changed.insert(slot);
                            true
                        }
                        None => false,
                    },
                };
                if !known {
                    lost.push(*address);
                }
            }
        }
        Ok(lost)
    }

    /// Gives the kernel's pods their addresses, where no line says that somebody has them.
    fn seed(&mut self, seeds: &Seeds) {
        for alias in &seeds.aliases {
            for address in &alias.addresses {
                self.sequence += 1;
                let line = Line {
                    state: State::Active,
                    address: *address,
                    owner: Some(Owner {
                        key: alias.container_key.clone(),
                        interface: alias.interface.to_string(),
                    }),
                    made: Made::ByBridge,
                    netns: seeds.netns,
                    boot: Some(self.boot),
                    time: now(),
                    sequence: self.sequence,
                    pod: alias.pod.clone(),
                };
                self.put(line);
            }
        }
    }

    fn put(&mut self, line: Line) {
        let id = BlockId::of(line.address);
        let lined = self.blocks.entry(id).or_insert_with(|| Lined {
            readings: block::parse(id, &block::unused(id)).collect(),
            short: true,
            changed: BTreeSet::new(),
        });
        let slot = usize::from(crate::allocate::slot_of(line.address));
        let taken =
            |reading: &Reading| matches!(reading, Reading::Line(l) if l.is_taken(self.boot));
        if let Some((_, reading)) = lined.readings.get_mut(slot).filter(|(_, r)| !taken(r)) {
            *reading = Reading::Line(line);
            lined.changed.insert(slot);
        }
    }

    /// Writes the lines that were decided about. Damaged lines that stay in quarantine are
    /// left as they are, for whoever wants to look at them; a short file becomes whole.
    fn write(&self, dir: &Dir) -> io::Result<()> {
        for (id, lined) in &self.blocks {
            if lined.short {
                let bytes: Vec<u8> = lined
                    .readings
                    .iter()
                    .flat_map(|(address, reading)| match reading {
                        Reading::Line(line) => line.to_bytes(),
                        Reading::Damaged => Line::quarantined(*address, self.boot).to_bytes(),
                    })
                    .collect();
                Block::create(dir, *id, &bytes)?;
                continue;
            }
            let mut open = None;
            for slot in &lined.changed {
                if open.is_none() {
                    open = Block::open(dir, *id)?;
                }
                if let (Some(block), Some((_, Reading::Line(line)))) =
                    (&open, lined.readings.get(*slot))
                {
                    block.write(line)?;
                }
            }
        }
        Ok(())
    }

    fn content(&self, old: &mut Old) -> io::Result<Content> {
        let mut owners = Vec::new();
        let mut blocks = Vec::with_capacity(self.blocks.len());
        let remembered = Self::remembered(old)?;
        for (id, lined) in &self.blocks {
            let mut free_since = [TAKEN; BLOCK];
            for ((address, reading), since) in lined.readings.iter().zip(&mut free_since) {
                match reading {
                    Reading::Line(line) if line.is_taken(self.boot) => {
                        owners.extend(line.owner.iter().map(|owner| (owner.hash(), *address)));
                    }
                    Reading::Line(line) if !line.is_quarantined(self.boot) => {
                        *since = line.sequence;
                    }
                    Reading::Line(_) | Reading::Damaged => {
                        *since = QUARANTINED;
                        owners.extend(remembered.get(address).map(|hash| (*hash, *address)));
                    }
                }
            }
            blocks.push(BlockContent {
                id: *id,
                free_since,
            });
        }
        Ok(Content {
            boot: self.boot,
            sequence: self.sequence,
            imported: self.imported,
            pools: self.pools,
            blocks,
            owners,
        })
    }

    /// The owners that a clean index knew of, by address: a DEL finds the address in
    /// quarantine through them.
    fn remembered(old: &mut Old) -> io::Result<HashMap<IpAddr, u64>> {
        let mut remembered = HashMap::new();
        if let Old::Clean(index) = old {
            remembered.extend(index.all_owners()?.into_iter().map(|(hash, at)| (at, hash)));
        }
        Ok(remembered)
    }
}

/// When the address of a damaged line became free, if that is certain.
fn freed(old: &mut Old, address: IpAddr) -> io::Result<Option<u64>> {
    match old {
        Old::Clean(index) => Ok(index.free_since(address)?.filter(|since| *since < TAKEN)),
        // No lease of this boot was ever made, and all others are void.
        Old::EarlierBoot(_) => Ok(Some(0)),
        Old::Dirty(_) | Old::Nothing => Ok(None),
    }
}
