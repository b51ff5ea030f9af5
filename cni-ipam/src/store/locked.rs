//! A store under its lock: what it says, and the changes that one process stages.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io,
    net::IpAddr,
};

use super::{
    Fault,
    block::{self, Block, Reading},
    boot::Boot,
    dir::Dir,
    index::{BlockContent, Index},
    line::{Line, Owner, State},
};
use crate::{
    address::Interval,
    allocate::{self, BLOCK, BlockId, NEVER, TAKEN},
};

/// The file that tells people and tools which ranges are configured.
pub(crate) const POOLS: &str = "pools";

#[derive(Debug)]
pub(crate) struct Locked {
    dir: Dir,
    index: Index,
    boot: Boot,
    blocks: BTreeMap<BlockId, Block>,
    staged: Vec<Line>,
    /// A file was made, so the directory has to be synced too.
    grown: bool,
    sync_index: bool,
    durable: bool,
}

/// An address that an owner has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Held {
    pub(crate) address: IpAddr,
    /// `None`: the line is damaged, only the index knows the owner.
    pub(crate) line: Option<Line>,
}

impl Locked {
    pub(super) fn new(dir: Dir, index: Index, boot: Boot) -> Self {
        Self {
            dir,
            index,
            boot,
            blocks: BTreeMap::new(),
            staged: Vec::new(),
            grown: false,
            sync_index: false,
            durable: false,
        }
    }

    pub(crate) fn boot(&self) -> Boot {
        self.boot
    }

    /// What is staged has to be on the disk before [`super::Store::transact`] returns.
    pub(crate) fn make_durable(&mut self) {
        self.durable = true;
    }

    pub(super) fn sync_index(&mut self) {
        self.sync_index = true;
    }

    pub(crate) fn is_imported(&self) -> bool {
        self.index.is_imported()
    }

    pub(crate) fn set_imported(&mut self) -> Result<(), Fault> {
        self.index.begin()?;
        self.index.set_imported(true);
        Ok(())
    }

    /// The next ADD looks again what host-local has.
    pub(crate) fn forget_import(&mut self) -> Result<(), Fault> {
        self.index.begin()?;
        self.index.set_imported(false);
        Ok(())
    }

    /// Keeps the file `pools` up to date. `hash` stands for the text.
    pub(crate) fn publish_pools(&mut self, hash: u64, text: &str) -> Result<(), Fault> {
        if self.index.pools() == hash {
            return Ok(());
        }
        self.index.begin()?;
        // For people only: a disk that is too full for it is no reason to refuse a lease.
        if self.dir.write_whole(POOLS, text.as_bytes()).is_ok() {
            self.index.set_pools(hash);
        }
        Ok(())
    }

    /// The number of a new operation.
    pub(crate) fn next_sequence(&mut self) -> Result<u64, Fault> {
        self.index.begin()?;
        Ok(self.index.next_sequence())
    }

    /// The addresses that an owner has.
    pub(crate) fn held_by(&mut self, owner: &Owner) -> Result<Vec<Held>, Fault> {
        let mut held = Vec::new();
        for address in self.index.addresses_of(owner.hash())? {
            match self.read(address)? {
                Reading::Line(line) if line.belongs_to(owner, self.boot) => held.push(Held {
                    address,
                    line: Some(line),
                }),
                // In quarantine since its file was cut short: the index remembers the owner.
                Reading::Line(line) if line.is_quarantined(self.boot) => held.push(Held {
                    address,
                    line: None,
                }),
                // Another owner with the same hash.
                Reading::Line(line) if line.is_taken(self.boot) => {}
                Reading::Line(_) => return Err(Fault::Contradiction),
                Reading::Damaged => held.push(Held {
                    address,
                    line: None,
                }),
            }
        }
        Ok(held)
    }

    /// The line of an address whose block is known, as it will be after what is staged.
    pub(crate) fn read(&mut self, address: IpAddr) -> Result<Reading, Fault> {
        let mut staged = self.staged.iter().rev();
        if let Some(line) = staged.find(|line| line.address == address) {
            return Ok(Reading::Line(line.clone()));
        }
        let block = self.block(BlockId::of(address))?;
        Ok(block.read(address)?)
    }

    /// The line of an address. `None` when the address was never given.
    pub(crate) fn find(&mut self, address: IpAddr) -> Result<Option<Reading>, Fault> {
        if self.index.has_block(BlockId::of(address)) {
            self.read(address).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The address that has been free longest.
    pub(crate) fn choose(&mut self, usable: &[Interval]) -> Result<Option<IpAddr>, Fault> {
        Ok(allocate::choose(usable, &mut self.index)?)
    }

    /// Whether nobody has an address.
    pub(crate) fn is_free(&mut self, address: IpAddr) -> Result<bool, Fault> {
        let since = self.index.free_since(address)?;
        Ok(since.is_none_or(|since| since < TAKEN))
    }

    /// Looks whether the line of an address is free as well, before anything is changed: a
    /// damaged store is recognised while its index can still help.
    pub(crate) fn probe(&mut self, address: IpAddr) -> Result<(), Fault> {
        if !self.is_free(address)? {
            return Err(Fault::Contradiction);
        }
        match self.find(address)? {
            Some(Reading::Line(line))
                if line.is_taken(self.boot) || line.is_quarantined(self.boot) =>
            {
                Err(Fault::Contradiction)
            }
            // A damaged line of an address that the index knows to be free is overwritten.
            _ => Ok(()),
        }
    }

    /// Stages that a free address gets an owner.
    pub(crate) fn grant(&mut self, line: Line) -> Result<(), Fault> {
        self.probe(line.address)?;
        self.index.begin()?;
        self.create_if_new(BlockId::of(line.address))?;
        self.index.set_free_since(line.address, TAKEN)?;
        if let Some(owner) = &line.owner {
            self.index.add_owner(owner.hash(), line.address)?;
        }
        self.staged.push(line);
        Ok(())
    }

    /// Stages that an address is free. The line keeps saying who had it.
    pub(crate) fn free(&mut self, held: &Held, owner: Option<&Owner>) -> Result<(), Fault> {
        let sequence = self.next_sequence()?;
        self.index.set_free_since(held.address, sequence)?;
        if let Some(owner) = owner {
            self.index.remove_owner(owner.hash(), held.address)?;
        }
        let last = held.line.clone();
        self.staged.push(Line {
            state: State::Free,
            sequence,
            ..last.unwrap_or_else(|| Line::unused(held.address))
        });
        Ok(())
    }

    /// Stages another text for a line that keeps its address and its owner.
    pub(crate) fn rewrite(&mut self, line: Line) -> Result<(), Fault> {
        self.index.begin()?;
        self.staged.push(line);
        Ok(())
    }

    /// Stages that an address has this owner, be it in quarantine until now.
    pub(crate) fn restore(&mut self, line: Line) -> Result<(), Fault> {
        self.index.begin()?;
        self.index.set_free_since(line.address, TAKEN)?;
        if let Some(owner) = &line.owner {
            self.index.remove_owner(owner.hash(), line.address)?;
            self.index.add_owner(owner.hash(), line.address)?;
        }
        self.staged.push(line);
        Ok(())
    }

    /// Writes what is staged. The order is in the head of [`super`].
    pub(super) fn commit(&mut self) -> Result<(), Fault> {
        self.index.flush()?;
        let staged = std::mem::take(&mut self.staged);
        for (n, line) in staged.iter().enumerate() {
            let block = self.block(BlockId::of(line.address))?;
            if let Err(error) = block.write(line) {
                self.take_back(staged.get(..n).unwrap_or_default());
                return Err(error.into());
            }
        }
        if self.index.is_begun() {
            // If this fails, the index stays dirty and is built anew: no harm, no error.
            drop(self.index.finish());
        }
        Ok(())
    }

    /// Leaves the store as it is: nothing that was staged is written.
    pub(super) fn abandon(&mut self) {
        if self.index.is_begun() {
            // If this fails, the index stays dirty and is built anew.
            drop(self.index.cancel());
        }
    }

    /// Frees what was written of a change that is not complete, as far as that works.
    fn take_back(&mut self, written: &[Line]) {
        for line in written.iter().filter(|line| line.state == State::Active) {
            let free = Line {
                state: State::Free,
                ..line.clone()
            };
            if let Ok(block) = self.block(BlockId::of(line.address)) {
                drop(block.write(&free));
            }
        }
    }

    /// Lets the lock go. What has to be synced is synced after that.
    pub(super) fn unlock(self) -> Unsynced {
        let to_disk = (self.durable || self.sync_index) && !self.dir.is_in_memory();
        if !to_disk {
            return Unsynced::default();
        }
        let mut files: Vec<File> = Vec::new();
        if self.durable {
            files.extend(self.blocks.into_values().map(Block::into_file));
        }
        if self.sync_index {
            files.extend(self.dir.open_file(super::index::NAME).ok().flatten());
        }
        let mut directories = Vec::new();
        if self.grown || self.sync_index {
            let path = self.dir.path();
            let parent = path.parent().filter(|_| self.sync_index);
            let paths = [Some(path), parent].into_iter().flatten();
            directories.extend(paths.filter_map(|path| File::open(path).ok()));
        }
        Unsynced { files, directories }
    }

    fn block(&mut self, id: BlockId) -> Result<&Block, Fault> {
        match self.blocks.entry(id) {
            Entry::Occupied(block) => Ok(block.into_mut()),
            Entry::Vacant(vacant) => match Block::open(&self.dir, id)? {
                Some(block) => Ok(vacant.insert(block)),
                None => Err(Fault::Contradiction),
            },
        }
    }

    fn create_if_new(&mut self, id: BlockId) -> Result<(), Fault> {
        if self.index.has_block(id) {
            return Ok(());
        }
        if self.dir.open_to_read(&block::file_name(id))?.is_some() {
            // Somebody put it there: its lines count.
            return Err(Fault::Contradiction);
        }
        let block = Block::create(&self.dir, id, &block::unused(id))?;
        self.blocks.insert(id, block);
        self.grown = true;
        self.index.add_block(&BlockContent {
            id,
            free_since: [NEVER; BLOCK],
        })?;
        Ok(())
    }
}

/// Files that are not on the disk yet.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    files: Vec<File>,
    directories: Vec<File>,
}

impl Unsynced {
    pub(super) fn sync(self) -> io::Result<()> {
        for file in self.files {
            file.sync_data()?;
        }
        for directory in self.directories {
            directory.sync_all()?;
        }
        Ok(())
    }
}
