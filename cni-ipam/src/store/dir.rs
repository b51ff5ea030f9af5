//! The directory of a network's store, and the only ways to its files.
//!
//! Files are opened relative to the open directory and never through symbolic links, so
//! that nothing outside can be read or written by swapping a name. All that changes
//! something on disk goes through the few functions at the end.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{self, OFlag},
    libc,
    sys::{
        stat::Mode,
        statfs::{self, FsType},
    },
    unistd::{self, UnlinkatFlags},
};

#[derive(Debug)]
pub(crate) struct Dir {
    file: File,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory. `None` when there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path);
        match opened {
            Ok(file) => Ok(Some(Self {
                file,
                path: path.to_owned(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a directory, made with its parents when there is none.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        loop {
            if let Some(dir) = Self::open(path)? {
                return Ok(dir);
            }
            #[cfg(test)]
            super::faults::before_write()?;
            if let Some(parent) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(parent)?;
            }
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                // Ours, or another's at the same moment. Or a link, which `open` refuses.
                _ => {}
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory itself: what is locked.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether this is still the directory at its path.
    pub(crate) fn is_current(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::symlink_metadata(&self.path) {
            Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the directory is in memory, and ends with the boot.
    pub(crate) fn is_in_memory(&self) -> bool {
        // linux/magic.h; nix does not know it.
        const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
        statfs::fstatfs(&self.file)
            .is_ok_and(|stat| [statfs::TMPFS_MAGIC, RAMFS_MAGIC].contains(&stat.filesystem_type()))
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    /// Opens a file to read and write. `None` when there is none.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        self.open_with(name, OFlag::O_RDWR)
    }

    /// Opens a file to read. `None` when there is none.
    pub(crate) fn open_to_read(&self, name: &str) -> io::Result<Option<File>> {
        self.open_with(name, OFlag::O_RDONLY)
    }

    fn open_with(&self, name: &str, access: OFlag) -> io::Result<Option<File>> {
        // O_NONBLOCK: a FIFO put in the place of a file must not stop us.
        let flags = access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        match fcntl::openat(&self.file, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(nix::Error::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens an empty file to write, made when there is none.
    pub(crate) fn create_file(&self, name: &str) -> io::Result<File> {
        self.make_file(name, OFlag::O_TRUNC)
    }

    /// Opens a file to read and write as it is, made when there is none.
    pub(crate) fn ensure_file(&self, name: &str) -> io::Result<File> {
        self.make_file(name, OFlag::empty())
    }

    fn make_file(&self, name: &str, how: OFlag) -> io::Result<File> {
        #[cfg(test)]
        super::faults::before_write()?;
        let flags = how | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(File::from(fcntl::openat(&self.file, name, flags, mode)?))
    }

    /// Gives a file another name, over what has that name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        #[cfg(test)]
        super::faults::before_write()?;
        Ok(fcntl::renameat(&self.file, from, &self.file, to)?)
    }

    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        #[cfg(test)]
        super::faults::before_write()?;
        Ok(unistd::unlinkat(
            &self.file,
            name,
            UnlinkatFlags::NoRemoveDir,
        )?)
    }

    /// Writes a whole file so that it is there complete, or not at all.
    pub(crate) fn write_whole(&self, name: &str, content: &[u8]) -> io::Result<File> {
        let temporary = format!(".{name}.new");
        let file = self.create_file(&temporary)?;
        let written = write_at(&file, content, 0).and_then(|()| self.rename(&temporary, name));
        match written {
            Ok(()) => Ok(file),
            Err(error) => {
                // The first failure is what counts; the next attempt truncates the rest.
                drop(self.remove_file(&temporary));
                Err(error)
            }
        }
    }
}

/// Writes all of `bytes` at `offset`: one system call for what lies in one page.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    super::faults::before_write()?;
    file.write_all_at(bytes, offset)
}

pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    #[cfg(test)]
    super::faults::before_write()?;
    file.set_len(len)
}
