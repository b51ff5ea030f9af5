//! Which boot this is: leases end with the boot they were made in.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    sync::OnceLock,
    time::SystemTime,
};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The first eight hexadecimal digits of the kernel's boot id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Boot([u8; 8]);

impl Boot {
    /// The boot that the machine is in. A process lives in one, so it asks once.
    pub(crate) fn current() -> io::Result<Self> {
        static CURRENT: OnceLock<Boot> = OnceLock::new();
        if let Some(boot) = CURRENT.get() {
            return Ok(*boot);
        }
        let boot = Self::read()?;
        Ok(*CURRENT.get_or_init(|| boot))
    }

    fn read() -> io::Result<Self> {
        let mut digits = [0; 8];
        File::open(BOOT_ID)?.read_exact(&mut digits)?;
        let boot = str::from_utf8(&digits).ok().and_then(Self::parse);
        boot.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no boot id"))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 8] = text.as_bytes().try_into().ok()?;
        digits
            .iter()
            .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit))
            .then_some(Self(digits))
    }

    pub(crate) fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or("-"))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// When this boot began, in seconds since 1970.
pub(crate) fn booted_at() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}
