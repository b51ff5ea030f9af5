//! For tests: a process that dies after its n-th write.

use std::{cell::Cell, io};

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Lets this thread make `writes` more writes; all after them fail, as those of a dead
/// process do not happen. `None`: as many as it likes.
pub(crate) fn die_after(writes: Option<u64>) {
    LEFT.set(writes);
}

pub(crate) fn before_write() -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => Err(io::Error::other("the process is dead")),
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}
