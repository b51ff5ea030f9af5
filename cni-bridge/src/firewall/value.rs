//! Values of which only some bits are known, and questions about them that have three answers.
//!
//! A value stands for all packets in question at once: the source address of "any pod" has
//! the bits of the pods' network and no others. Knows nothing of packets or rules.

use std::ops::Range;

/// Whether something holds for every packet in question, for none, or for some (or nobody
/// can tell).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Truth {
    Yes,
    No,
    Maybe,
}

impl Truth {
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        !(!self).and(!other)
    }

    /// The answer to the opposite question, if it is that which was asked.
    pub(crate) fn inverted(self, inverted: bool) -> Self {
        if inverted { !self } else { self }
    }
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
        }
    }
}

impl From<bool> for Truth {
    fn from(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }
}

/// Bytes in the order in which nftables compares them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Value {
    bytes: Vec<Byte>,
    /// What it certainly is not.
    never: Vec<Pattern>,
    /// It is the pods' link, or their network: who compares with all of it means the pods.
    pods: bool,
}

/// Unknown bits are 0 in `bits`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Byte {
    bits: u8,
    known: u8,
}

/// The values whose bits under the mask are these.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Pattern {
    bits: Vec<u8>,
    mask: Vec<u8>,
}

impl Value {
    /// Nothing is known of it.
    pub(crate) fn unknown(length: usize) -> Self {
        Self {
            bytes: vec![Byte::default(); length],
            ..Self::default()
        }
    }

    pub(crate) fn exactly(bytes: &[u8]) -> Self {
        Self::partly(bytes, &vec![0xff; bytes.len()])
    }

    /// The bits under the mask are known.
    pub(crate) fn partly(bits: &[u8], mask: &[u8]) -> Self {
        let byte = |(bits, known): (&u8, &u8)| Byte {
            bits: bits & known,
            known: *known,
        };
        Self {
            bytes: bits.iter().zip(mask).map(byte).collect(),
            ..Self::default()
        }
    }

    /// This is what the pods have in common.
    #[must_use]
    pub(crate) fn of_pods(mut self) -> Self {
        self.pods = true;
        self
    }

    /// And it is none of those with these bits under the mask.
    #[must_use]
    pub(crate) fn but_not(mut self, bits: &[u8], mask: &[u8]) -> Self {
        self.never.push(Pattern {
            bits: bits.to_vec(),
            mask: mask.to_vec(),
        });
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn says_something(&self) -> bool {
        self.bytes.iter().any(|byte| byte.known != 0)
    }

    /// Who compares with all of this means the pods.
    pub(crate) fn is_of_pods(&self) -> bool {
        self.pods
    }

    /// A part of it; what lies behind the end is unknown.
    pub(crate) fn part(&self, part: Range<usize>) -> Self {
        let all = 0..self.len();
        let outside = |index: &usize| !part.contains(index);
        let byte = |index: usize| self.bytes.get(index).copied().unwrap_or_default();
        let says_nothing = |index| byte(index).bits == 0;
        Self {
            bytes: part.clone().map(byte).collect(),
            never: self
                .never
                .iter()
                .filter_map(|never| never.part(&part))
                .collect(),
            // A name is followed by zeros, a network by unknown bits.
            pods: self.pods && all.clone().filter(outside).all(says_nothing),
        }
    }

    /// This one, filled up to whole registers, and then the other.
    pub(crate) fn append(&mut self, other: Self) {
        let start = self.len().next_multiple_of(REGISTER);
        let zero = Byte {
            bits: 0,
            known: 0xff,
        };
        self.bytes.resize(start, zero);
        self.never.extend(other.never.iter().map(|never| Pattern {
            bits: [vec![0; start], never.bits.clone()].concat(),
            mask: [vec![0; start], never.mask.clone()].concat(),
        }));
        self.bytes.extend(other.bytes);
        self.pods |= other.pods;
    }

    /// `self & mask ^ flipped`, as the kernel's bitwise expression has it.
    #[must_use]
    pub(crate) fn masked(&self, mask: &[u8], flipped: &[u8]) -> Self {
        let masks = || mask.iter().zip(flipped);
        let byte = |(byte, (mask, flipped)): (&Byte, (&u8, &u8))| {
            let known = byte.known | !mask;
            Byte {
                bits: ((byte.bits & mask) ^ flipped) & known,
                known,
            }
        };
        let hides = |(byte, mask): (&Byte, &u8)| byte.known & !mask != 0;
        Self {
            bytes: self.bytes.iter().zip(masks()).map(byte).collect(),
            never: self
                .never
                .iter()
                .filter_map(|never| never.masked(mask, flipped))
                .collect(),
            pods: self.pods && !self.bytes.iter().zip(mask).any(hides),
        }
    }

    /// Each `size` bytes in the other order.
    #[must_use]
    pub(crate) fn reversed(&self, size: usize) -> Self {
        let bytes = self.bytes.chunks(size.max(1));
        Self {
            bytes: bytes
                .flat_map(|chunk| chunk.iter().rev().copied())
                .collect(),
            never: Vec::new(),
            pods: self.pods,
        }
    }

    pub(crate) fn equals(&self, wanted: &[u8]) -> Truth {
        if wanted.len() != self.len() {
            return Truth::Maybe;
        }
        let differs = |(byte, wanted): (&Byte, &u8)| (byte.bits ^ wanted) & byte.known != 0;
        if self.bytes.iter().zip(wanted).any(differs)
            || self.never.iter().any(|never| never.has(wanted))
        {
            Truth::No
        } else if self.bytes.iter().all(|byte| byte.known == 0xff) {
            Truth::Yes
        } else {
            Truth::Maybe
        }
    }

    /// From `low` to `high`, both included.
    pub(crate) fn within(&self, low: &[u8], high: &[u8]) -> Truth {
        if low.len() != self.len() || high.len() != self.len() {
            return Truth::Maybe;
        }
        let excluded = |never: &Pattern| never.is_prefix() && never.has(low) && never.has(high);
        if self.largest().as_slice() < low
            || self.smallest().as_slice() > high
            || self.never.iter().any(excluded)
        {
            Truth::No
        } else if self.smallest().as_slice() >= low && self.largest().as_slice() <= high {
            Truth::Yes
        } else {
            Truth::Maybe
        }
    }

    pub(crate) fn is_below(&self, limit: &[u8]) -> Truth {
        if limit.len() != self.len() {
            Truth::Maybe
        } else if self.largest().as_slice() < limit {
            Truth::Yes
        } else if self.smallest().as_slice() >= limit {
            Truth::No
        } else {
            Truth::Maybe
        }
    }

    pub(crate) fn is_at_most(&self, limit: &[u8]) -> Truth {
        self.within(&vec![0; limit.len()], limit)
    }

    fn smallest(&self) -> Vec<u8> {
        self.bytes.iter().map(|byte| byte.bits).collect()
    }

    fn largest(&self) -> Vec<u8> {
        self.bytes
            .iter()
            .map(|byte| byte.bits | !byte.known)
            .collect()
    }
}

impl Pattern {
    fn has(&self, value: &[u8]) -> bool {
        let parts = value.iter().zip(&self.mask).zip(&self.bits);
        value.len() >= self.mask.len() && parts.into_iter().all(|((value, m), b)| value & m == *b)
    }

    /// Ones, then zeros: an interval has no gaps in it.
    fn is_prefix(&self) -> bool {
        let ones: u32 = self.mask.iter().map(|mask| mask.count_ones()).sum();
        let mut leading = 0;
        for mask in &self.mask {
            leading += mask.leading_ones();
            if *mask != 0xff {
                break;
            }
        }
        ones == leading
    }

    /// `None` when it says something of what is not in the part.
    fn part(&self, part: &Range<usize>) -> Option<Self> {
        let outside = |(index, mask): (usize, &u8)| !part.contains(&index) && *mask != 0;
        if self.mask.iter().enumerate().any(outside) {
            return None;
        }
        Some(Self {
            bits: self.bits.get(part.clone())?.to_vec(),
            mask: self.mask.get(part.clone())?.to_vec(),
        })
    }

    /// `None` when the mask takes away what it says.
    fn masked(&self, mask: &[u8], flipped: &[u8]) -> Option<Self> {
        let hidden = |(own, mask): (&u8, &u8)| own & !mask != 0;
        if self.mask.iter().zip(mask).any(hidden) {
            return None;
        }
        let bits = self.bits.iter().zip(flipped).zip(&self.mask);
        Some(Self {
            bits: bits
                .map(|((bits, flip), own)| bits ^ (flip & own))
                .collect(),
            mask: self.mask.clone(),
        })
    }
}

/// A register of nftables, in bytes.
pub(crate) const REGISTER: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.64.1.0/24, and everything but that.
    fn pods() -> Value {
        Value::partly(&[10, 64, 1, 0], &[255, 255, 255, 0]).of_pods()
    }

    fn others() -> Value {
        Value::unknown(4).but_not(&[10, 64, 1, 0], &[255, 255, 255, 0])
    }

    #[test]
    fn an_address_of_the_pods_is_compared_as_all_of_them() {
        use Truth::{Maybe, No, Yes};
        assert_eq!(pods().equals(&[10, 64, 1, 7]), Maybe);
        assert_eq!(pods().equals(&[10, 64, 2, 7]), No);
        for (network, mask, inside, outside) in [
            ([10, 64, 1, 0], [255, 255, 255, 0], Yes, No),
            ([10, 0, 0, 0], [255, 0, 0, 0], Yes, Maybe),
            ([10, 64, 1, 64], [255, 255, 255, 192], Maybe, No),
            ([10, 64, 2, 0], [255, 255, 255, 0], No, Maybe),
            ([0, 0, 0, 0], [0, 0, 0, 0], Yes, Yes),
        ] {
            assert_eq!(
                pods().masked(&mask, &[0; 4]).equals(&network),
                inside,
                "{network:?}"
            );
            assert_eq!(
                others().masked(&mask, &[0; 4]).equals(&network),
                outside,
                "{network:?}"
            );
        }
        // nft and iptables load three bytes instead of masking the fourth.
        assert_eq!(pods().part(0..3).equals(&[10, 64, 1]), Yes);
        assert_eq!(others().part(0..3).equals(&[10, 64, 1]), No);
        assert_eq!(others().part(0..2).equals(&[10, 64]), Maybe);
    }

    #[test]
    fn intervals_know_the_same() {
        use Truth::{Maybe, No, Yes};
        let ends = |first: u8, last: u8| ([10, 64, 1, first], [10, 64, 1, last]);
        let (low, high) = ends(0, 255);
        assert_eq!(pods().within(&low, &high), Yes);
        assert_eq!(others().within(&low, &high), No);
        let (low, high) = ends(9, 99);
        assert_eq!(pods().within(&low, &high), Maybe);
        assert_eq!(others().within(&low, &high), No);
        assert_eq!(
            others().within(&[10, 64, 0, 0], &[10, 64, 1, 255]),
            Truth::Maybe
        );
        assert_eq!(pods().is_below(&[10, 64, 2, 0]), Yes);
        assert_eq!(pods().is_below(&[10, 64, 1, 0]), No);
        assert_eq!(pods().is_below(&[10, 64, 1, 9]), Maybe);
        assert_eq!(pods().is_at_most(&[10, 64, 1, 255]), Yes);
        assert_eq!(pods().is_at_most(&[10, 64, 1, 254]), Maybe);
        assert_eq!(pods().is_at_most(&[10, 64, 0, 255]), No);
    }

    #[test]
    fn who_means_the_pods_compares_with_all_that_they_have_in_common() {
        let name = Value::exactly(b"cbr0\0\0\0\0").of_pods();
        assert!(name.part(0..5).is_of_pods() && !name.part(0..3).is_of_pods());
        assert!(pods().masked(&[255, 255, 255, 0], &[0; 4]).is_of_pods());
        assert!(!pods().masked(&[255, 0, 0, 0], &[0; 4]).is_of_pods());
        assert!(pods().part(0..3).is_of_pods() && !pods().part(0..2).is_of_pods());
    }

    #[test]
    fn values_in_a_row_fill_whole_registers() {
        let mut row = Value::exactly(b"ab");
        row.append(others());
        assert_eq!(row.len(), 8);
        assert_eq!(row.equals(b"ab\0\0\x0a\x40\x01\x07"), Truth::No);
        assert_eq!(row.equals(b"ab\0\0\x0a\x40\x02\x07"), Truth::Maybe);
        assert_eq!(row.equals(b"ac\0\0\x0a\x40\x02\x07"), Truth::No);
    }

    #[test]
    fn what_is_known_survives_mask_and_byte_order() {
        let mark = Value::exactly(&[1, 2, 3, 4]).masked(&[0, 255, 0, 255], &[1, 0, 0, 0]);
        assert_eq!(mark.equals(&[1, 2, 0, 4]), Truth::Yes);
        assert_eq!(mark.reversed(4).equals(&[4, 0, 2, 1]), Truth::Yes);
        assert_eq!(mark.reversed(2).equals(&[2, 1, 4, 0]), Truth::Yes);
    }
}
