//! One lease as one line of text.
//!
//! ```text
//! state address  container  interface  maker netns boot  time  sequence  pod  checksum
//! A     10.64.1.7 4f2b1c…   eth0       b     4026…  …    1763…  42       default/web-0 …
//! ```
//!
//! A line has 256 bytes with its newline, and begins at a multiple of 256: it lies in one
//! page, so one `pwrite` of it is done whole or not at all, whatever signal comes. The
//! checksum is over all the bytes before it; the address is among them, so a line that
//! strayed to another place is as wrong as a damaged one.

use std::{fmt::Display, io::Write, net::IpAddr};

use super::boot::Boot;

/// The length of a line in bytes.
pub(crate) const LINE: usize = 256;

/// A number of a namespace that does not fit is written as 0: no proof, never a wrong one.
const MOST_NETNS: u64 = 9_999_999_999;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Somebody has the address.
    Active,
    /// Somebody has it, but a reclaimer is finding out whether he still lives.
    Condemned,
    /// Nobody has it. The line tells who had it last.
    Free,
    /// It is not known whether somebody has it.
    Quarantined,
}

/// Who made a lease, as it stands in its line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Made {
    /// cni-bridge: there is a link of a name that follows from the owner.
    ByBridge,
    /// Another main plugin.
    ByOther,
    /// host-local, from which it was taken over.
    ByImport,
    /// The address was never given.
    Never,
}

/// Who has, or had, an address.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Owner {
    /// `names::id_key` of the container id.
    pub(crate) key: String,
    /// `-` in an imported record that names no interface.
    pub(crate) interface: String,
}

/// What the interface column holds when the interface is not known.
pub(crate) const NO_INTERFACE: &str = "-";

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    pub(crate) state: State,
    pub(crate) address: IpAddr,
    pub(crate) owner: Option<Owner>,
    pub(crate) made: Made,
    /// The inode of the host's network namespace, 0 when it is not known.
    pub(crate) netns: u64,
    pub(crate) boot: Option<Boot>,
    /// Seconds since 1970, 0 when it was never given.
    pub(crate) time: u64,
    /// The number of the operation that wrote the line.
    pub(crate) sequence: u64,
    /// `namespace/name`, or what fits of it.
    pub(crate) pod: Option<String>,
}

/// First byte and length of each column.
mod column {
    pub(super) const STATE: (usize, usize) = (0, 1);
    pub(super) const ADDRESS: (usize, usize) = (2, 39);
    pub(super) const KEY: (usize, usize) = (42, 96);
    pub(super) const INTERFACE: (usize, usize) = (139, 15);
    pub(super) const MADE: (usize, usize) = (155, 1);
    pub(super) const NETNS: (usize, usize) = (157, 10);
    pub(super) const BOOT: (usize, usize) = (168, 8);
    pub(super) const TIME: (usize, usize) = (177, 10);
    pub(super) const SEQUENCE: (usize, usize) = (188, 12);
    pub(super) const POD: (usize, usize) = (201, 45);
    pub(super) const CHECKSUM: (usize, usize) = (247, 8);
}

impl Line {
    /// The line of an address that was never given.
    pub(crate) fn unused(address: IpAddr) -> Self {
        Self {
            state: State::Free,
            address,
            owner: None,
            made: Made::Never,
            netns: 0,
            boot: None,
            time: 0,
            sequence: 0,
            pod: None,
        }
    }

    /// The line of an address of which nothing is known.
    pub(crate) fn quarantined(address: IpAddr, boot: Boot) -> Self {
        Self {
            state: State::Quarantined,
            boot: Some(boot),
            ..Self::unused(address)
        }
    }

    /// Whether the address has an owner in this boot.
    pub(crate) fn is_taken(&self, boot: Boot) -> bool {
        matches!(self.state, State::Active | State::Condemned) && self.boot == Some(boot)
    }

    /// Whether the address is in quarantine since this boot.
    pub(crate) fn is_quarantined(&self, boot: Boot) -> bool {
        self.state == State::Quarantined && self.boot == Some(boot)
    }

    pub(crate) fn belongs_to(&self, owner: &Owner, boot: Boot) -> bool {
        self.is_taken(boot) && self.owner.as_ref() == Some(owner)
    }

    /// The line as it stands in the file.
    pub(crate) fn to_bytes(&self) -> [u8; LINE] {
        let mut bytes = [b' '; LINE];
        let owner = self.owner.as_ref();
        let netns = if self.netns > MOST_NETNS {
            0
        } else {
            self.netns
        };
        put(&mut bytes, column::STATE, self.state.letter());
        put(&mut bytes, column::ADDRESS, self.address);
        put(
            &mut bytes,
            column::KEY,
            owner.map_or("-", |owner| &owner.key),
        );
        let interface = owner.map_or(NO_INTERFACE, |owner| &owner.interface);
        put(&mut bytes, column::INTERFACE, interface);
        put(&mut bytes, column::MADE, self.made.letter());
        put(&mut bytes, column::NETNS, netns);
        match self.boot {
            Some(boot) => put(&mut bytes, column::BOOT, boot),
            None => put(&mut bytes, column::BOOT, "-"),
        }
        put(&mut bytes, column::TIME, self.time);
        put(&mut bytes, column::SEQUENCE, self.sequence);
        put(&mut bytes, column::POD, printable(self.pod.as_deref()));
        put(&mut bytes, (LINE - 1, 1), "\n");
        seal(&mut bytes);
        bytes
    }

    /// The lines of addresses that were never given, one after the other.
    pub(crate) fn unused_block(addresses: impl Iterator<Item = IpAddr>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut template = None;
        for address in addresses {
            let line = template.get_or_insert_with(|| Self::unused(address).to_bytes());
            put(line, column::ADDRESS, format_args!("{address:<39}"));
            seal(line);
            bytes.extend_from_slice(line);
        }
        bytes
    }

    /// Reads the line that stands at the place of `address`. `None` when it is damaged.
    pub(crate) fn parse(bytes: &[u8; LINE], address: IpAddr) -> Option<Self> {
        if !is_whole(bytes) {
            return None;
        }
        let written: IpAddr = take(bytes, column::ADDRESS)?.parse().ok()?;
        let number = |column| take(bytes, column)?.parse::<u64>().ok();
        let some = |column| Some(take(bytes, column)?).filter(|text| *text != "-");
        let owner = some(column::KEY).map(|key| Owner {
            key: key.to_owned(),
            interface: take(bytes, column::INTERFACE)
                .unwrap_or_default()
                .to_owned(),
        });
        (written == address).then_some(Self {
            state: State::from_letter(take(bytes, column::STATE)?)?,
            address,
            owner,
            made: Made::from_letter(take(bytes, column::MADE)?)?,
            netns: number(column::NETNS)?,
            boot: some(column::BOOT).and_then(Boot::parse),
            time: number(column::TIME)?,
            sequence: number(column::SEQUENCE)?,
            pod: some(column::POD).map(str::to_owned),
        })
    }
}

impl State {
    fn letter(self) -> &'static str {
        match self {
            Self::Active => "A",
            Self::Condemned => "C",
            Self::Free => "F",
            Self::Quarantined => "Q",
        }
    }

    fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "A" => Some(Self::Active),
            "C" => Some(Self::Condemned),
            "F" => Some(Self::Free),
            "Q" => Some(Self::Quarantined),
            _ => None,
        }
    }
}

impl Made {
    fn letter(self) -> &'static str {
        match self {
            Self::ByBridge => "b",
            Self::ByOther => "o",
            Self::ByImport => "i",
            Self::Never => "-",
        }
    }

    fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "b" => Some(Self::ByBridge),
            "o" => Some(Self::ByOther),
            "i" => Some(Self::ByImport),
            "-" => Some(Self::Never),
            _ => None,
        }
    }
}

/// Writes a value into its column, as much of it as fits.
fn put(bytes: &mut [u8; LINE], (start, width): (usize, usize), value: impl Display) {
    if let Some(mut column) = bytes.get_mut(start..start + width) {
        // The one error there is: the value is longer than the column.
        drop(write!(column, "{value}"));
    }
}

/// Writes the checksum of what stands before it.
fn seal(bytes: &mut [u8; LINE]) {
    let digits = checksum(bytes);
    let (_, rest) = bytes.split_at_mut(column::CHECKSUM.0);
    for (to, from) in rest.iter_mut().zip(digits) {
        *to = from;
    }
}

/// Whether the bytes are a line as it was written, at whatever place.
pub(crate) fn is_whole(bytes: &[u8; LINE]) -> bool {
    let (_, rest) = bytes.split_at(column::CHECKSUM.0);
    rest.strip_suffix(b"\n") == Some(&checksum(bytes))
}

/// Whether the bytes are, or were, the line of an address in quarantine.
pub(crate) fn is_of_quarantine(bytes: &[u8; LINE]) -> bool {
    bytes.first() == Some(&b'Q')
}

fn take(bytes: &[u8; LINE], (start, width): (usize, usize)) -> Option<&str> {
    let text = str::from_utf8(bytes.get(start..start + width)?).ok()?;
    Some(text.trim_end_matches(' '))
}

/// The CRC-32 of what stands before the checksum, in hexadecimal digits.
fn checksum(bytes: &[u8; LINE]) -> [u8; 8] {
    let (covered, _) = bytes.split_at(column::CHECKSUM.0);
    let sum = crc32fast::hash(covered);
    std::array::from_fn(|n| {
        let digit = (sum >> (28 - 4 * n)) & 0xf;
        char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8)
    })
}

/// A pod's name as far as it fits; the runtime may have put anything into it.
fn printable(pod: Option<&str>) -> String {
    let clean = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    let text: String = pod.unwrap_or("-").chars().map(clean).collect();
    match text.get(..column::POD.1 - 1) {
        Some(kept) if text.len() > column::POD.1 => format!("{kept}~"),
        _ if text.is_empty() => "-".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            state: State::Active,
            address: "10.64.1.7".parse().unwrap(),
            owner: Some(Owner {
                key: "4f2b".repeat(16),
                interface: "eth0".to_owned(),
            }),
            made: Made::ByBridge,
            netns: 4_026_531_840,
            boot: Boot::parse("0a1b2c3d"),
            time: 1_763_700_000,
            sequence: 42,
            pod: Some("default/web-0".to_owned()),
        }
    }

    #[test]
    fn a_line_is_what_a_person_can_read() {
        let bytes = line().to_bytes();
        let text = str::from_utf8(&bytes).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(
            words[..10].join(" "),
            format!(
                "A 10.64.1.7 {} eth0 b 4026531840 0a1b2c3d 1763700000 42 default/web-0",
                "4f2b".repeat(16)
            )
        );
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn reads_what_it_writes() {
        let mut widest = line();
        widest.address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        widest.owner = Some(Owner {
            key: "k".repeat(96),
            interface: "i".repeat(15),
        });
        widest.sequence = 999_999_999_999;
        widest.pod = Some("p".repeat(45));
        let unused = Line::unused("10.64.1.8".parse().unwrap());
        for line in [line(), widest, unused] {
            assert_eq!(Line::parse(&line.to_bytes(), line.address), Some(line));
        }
    }

    #[test]
    fn a_change_of_any_byte_is_seen() {
        let line = line();
        let good = line.to_bytes();
        for place in 0..LINE {
            for wrong in [0, b' ', b'A', b'\n', good[place] ^ 1, 0xff] {
                let mut bytes = good;
                bytes[place] = wrong;
                if bytes != good {
                    assert_eq!(Line::parse(&bytes, line.address), None, "byte {place}");
                }
            }
        }
    }

    #[test]
    fn a_line_in_the_wrong_place_is_a_damaged_one() {
        let line = line();
        let elsewhere = "10.64.2.7".parse().unwrap();
        assert_eq!(Line::parse(&line.to_bytes(), elsewhere), None);
    }

    #[test]
    fn a_pod_name_cannot_break_the_line() {
        let mut line = line();
        line.pod = Some("a b\nç".to_owned() + &"x".repeat(100));
        let back = Line::parse(&line.to_bytes(), line.address).unwrap();
        let pod = back.pod.unwrap();
        assert_eq!(pod.len(), 45);
        assert!(pod.starts_with("a?b??x") && pod.ends_with("x~"), "{pod}");
    }
}
