//! The hash table of owners: open addressing with linear probing.
//!
//! It holds hashes, not owners. A hash of 64 bits is as good as the owner, but whoever
//! finds an address here still looks at its line.

use std::{hash::Hasher, io, net::IpAddr};

use siphasher::sip::SipHasher13;

use super::{Index, contradiction, header::OWNER};
use crate::store::line::Owner;

/// An entry without a hash is empty.
const EMPTY: u64 = 0;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    hash: u64,
    reference: u32,
}

impl Owner {
    /// Never 0.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(self.key.as_bytes());
        hasher.write(&[0]);
        hasher.write(self.interface.as_bytes());
        hasher.finish().max(1)
    }
}

impl Index {
    /// The addresses that an owner with this hash has.
    pub(crate) fn addresses_of(&mut self, hash: u64) -> io::Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        self.probe(hash, |index, _, entry| {
            if entry.hash == hash {
                addresses.extend(index.dereference(entry.reference));
            }
            false
        })?;
        Ok(addresses)
    }

    pub(crate) fn add_owner(&mut self, hash: u64, address: IpAddr) -> io::Result<()> {
        if self.header.owners * 2 >= self.header.owners_room {
            self.double_owners()?;
        }
        let reference = self.reference(address)?;
        self.insert(Entry { hash, reference })?;
        self.header.owners += 1;
        Ok(())
    }

    /// Forgets that an owner has an address. No harm if it is not there.
    pub(crate) fn remove_owner(&mut self, hash: u64, address: IpAddr) -> io::Result<()> {
        let reference = self.reference(address)?;
        let wanted = Entry { hash, reference };
        let mut found = None;
        self.probe(hash, |_, place, entry| {
            if entry == wanted {
                found = Some(place);
            }
            found.is_some()
        })?;
        match found {
            Some(place) => {
                self.header.owners = self.header.owners.saturating_sub(1);
                self.close_gap(place)
            }
            None => Ok(()),
        }
    }

    /// All hashes with their addresses.
    pub(crate) fn all_owners(&mut self) -> io::Result<Vec<(u64, IpAddr)>> {
        let mut all = Vec::new();
        for place in 0..self.header.owners_room {
            let entry = self.owner(place)?;
            if let Some(address) = self
                .dereference(entry.reference)
                .filter(|_| entry.hash != EMPTY)
            {
                all.push((entry.hash, address));
            }
        }
        Ok(all)
    }

    fn mask(&self) -> u64 {
        self.header.owners_room - 1
    }

    /// Shows the entries from the place of `hash` on, until `done` or an empty one, whose
    /// place is the answer.
    fn probe(
        &mut self,
        hash: u64,
        mut done: impl FnMut(&Self, u64, Entry) -> bool,
    ) -> io::Result<u64> {
        for step in 0..self.header.owners_room {
            let place = hash.wrapping_add(step) & self.mask();
            let entry = self.owner(place)?;
            if entry.hash == EMPTY || done(self, place, entry) {
                return Ok(place);
            }
        }
        Err(contradiction())
    }

    fn insert(&mut self, entry: Entry) -> io::Result<()> {
        let place = self.probe(entry.hash, |_, _, _| false)?;
        self.set_owner(place, entry)
    }

    /// Empties a place and moves those after it back that would not be found otherwise.
    fn close_gap(&mut self, mut gap: u64) -> io::Result<()> {
        let mask = self.mask();
        let mut place = gap;
        for _ in 0..mask {
            place = place.wrapping_add(1) & mask;
            let entry = self.owner(place)?;
            if entry.hash == EMPTY {
                break;
            }
            let from_home = place.wrapping_sub(entry.hash) & mask;
            let from_gap = place.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.set_owner(gap, entry)?;
                gap = place;
            }
        }
        let empty = Entry {
            hash: EMPTY,
            reference: 0,
        };
        self.set_owner(gap, empty)
    }

    fn double_owners(&mut self) -> io::Result<()> {
        let mut entries = Vec::new();
        for place in 0..self.header.owners_room {
            entries.push(self.owner(place)?);
        }
        self.header.owners_room *= 2;
        self.header.owners_at = self.header.allot(self.header.owners_room * OWNER as u64);
        for entry in entries.into_iter().filter(|entry| entry.hash != EMPTY) {
            self.insert(entry)?;
        }
        Ok(())
    }

    fn owner(&mut self, place: u64) -> io::Result<Entry> {
        let bytes: [u8; OWNER] = self.pages.get_array(self.owner_at(place))?;
        let number = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the parts of the number")]
        let (hash, reference) = (number as u64, (number >> 64) as u32);
        Ok(Entry { hash, reference })
    }

    fn set_owner(&mut self, place: u64, entry: Entry) -> io::Result<()> {
        let number = u128::from(entry.hash) | u128::from(entry.reference) << 64;
        self.pages.put(self.owner_at(place), &number.to_le_bytes())
    }

    fn owner_at(&self, place: u64) -> u64 {
        self.header.owners_at + place * OWNER as u64
    }
}
