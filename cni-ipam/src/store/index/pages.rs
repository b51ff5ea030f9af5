//! The pieces of the index file that one process looks at, and what it changes in them.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt};

use crate::store::dir;

const PAGE: usize = 4096;

#[derive(Debug)]
struct Page {
    bytes: Box<[u8; PAGE]>,
    changed: bool,
}

/// A file as pages that are read when they are needed and written together.
#[derive(Debug)]
pub(super) struct Pages {
    /// `None`: there is no file, all is in memory.
    file: Option<File>,
    /// How much of the file was there: pages after it are zero.
    len: u64,
    loaded: BTreeMap<u64, Page>,
}

impl Pages {
    pub(super) fn of_file(file: File, len: u64) -> Self {
        Self {
            file: Some(file),
            len,
            loaded: BTreeMap::new(),
        }
    }

    pub(super) fn in_memory() -> Self {
        Self {
            file: None,
            len: 0,
            loaded: BTreeMap::new(),
        }
    }

    pub(super) fn get(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (page, start) = place(at + done as u64);
            let part = (PAGE - start).min(bytes.len() - done);
            let page = self.page(page)?;
            let from = page.bytes.get(start..start + part);
            if let (Some(to), Some(from)) = (bytes.get_mut(done..done + part), from) {
                to.copy_from_slice(from);
            }
            done += part;
        }
        Ok(())
    }

    /// Reads a stretch that nothing was changed in yet, without keeping its pages.
    pub(super) fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let is_on_first_page = at + bytes.len() as u64 <= PAGE as u64;
        match &self.file {
            Some(file) if !is_on_first_page => file.read_exact_at(bytes, at),
            _ => self.get(at, bytes),
        }
    }

    pub(super) fn get_array<const N: usize>(&mut self, at: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.get(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Changes bytes in memory; [`Self::flush`] writes them.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (page, start) = place(at + done as u64);
            let part = (PAGE - start).min(bytes.len() - done);
            let page = self.page(page)?;
            let to = page.bytes.get_mut(start..start + part);
            if let (Some(to), Some(from)) = (to, bytes.get(done..done + part)) {
                to.copy_from_slice(from);
            }
            page.changed = true;
            done += part;
        }
        Ok(())
    }

    /// Changes bytes in memory and in the file at once.
    pub(super) fn write_now(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (page, _) = place(at);
        let changed = self.page(page)?.changed;
        self.put(at, bytes)?;
        self.page(page)?.changed = changed;
        match &self.file {
            Some(file) => dir::write_at(file, bytes, at),
            None => Ok(()),
        }
    }

    /// Writes all changes of a file that is `end` bytes long afterwards.
    pub(super) fn flush(&mut self, end: u64) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        for (number, page) in self.loaded.iter_mut().filter(|(_, page)| page.changed) {
            let start = number * PAGE as u64;
            let used = usize::try_from(end.saturating_sub(start))
                .unwrap_or(PAGE)
                .min(PAGE);
            let bytes = page.bytes.get(..used).unwrap_or_default();
            dir::write_at(file, bytes, start)?;
            page.changed = false;
        }
        if end > self.len {
            dir::set_len(file, end)?;
            self.len = end;
        }
        Ok(())
    }

    /// The first `end` bytes.
    pub(super) fn image(&mut self, end: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(end).map_err(io::Error::other)?];
        self.get(0, &mut bytes)?;
        Ok(bytes)
    }

    fn page(&mut self, number: u64) -> io::Result<&mut Page> {
        match self.loaded.entry(number) {
            std::collections::btree_map::Entry::Occupied(page) => Ok(page.into_mut()),
            std::collections::btree_map::Entry::Vacant(vacant) => {
                let mut bytes = Box::new([0; PAGE]);
                let start = number * PAGE as u64;
                if let Some(file) = self.file.as_ref().filter(|_| start < self.len) {
                    read_page(file, &mut bytes, start)?;
                }
                Ok(vacant.insert(Page {
                    bytes,
                    changed: false,
                }))
            }
        }
    }
}

/// Reads what there is of a page; what lies after the end of the file stays zero.
fn read_page(file: &File, bytes: &mut [u8; PAGE], start: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a remainder of a page's size"
)]
fn place(at: u64) -> (u64, usize) {
    (at / PAGE as u64, (at % PAGE as u64) as usize)
}
