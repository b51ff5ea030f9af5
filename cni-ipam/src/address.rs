//! Addresses as numbers, and stretches of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Which of the two kinds of address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The highest number that an address can have.
    pub(crate) fn highest(self) -> u128 {
        match self {
            Self::V4 => u32::MAX.into(),
            Self::V6 => u128::MAX,
        }
    }

    /// The address with this number. Numbers above [`Self::highest`] are cut off.
    pub(crate) fn address(self, number: u128) -> IpAddr {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an IPv4 number has 32 bits"
            )]
            Self::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

/// The number of an address: 10.0.0.1 is 0x0a000001.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The addresses from `first` to `last`, both included. Never empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Interval {
    pub(crate) family: Family,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Interval {
    /// `None` when there is nothing from `first` to `last`, or the families differ.
    pub(crate) fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let family = Family::of(first);
        let interval = Self {
            family,
            first: number(first),
            last: number(last),
        };
        (family == Family::of(last) && interval.first <= interval.last).then_some(interval)
    }

    pub(crate) fn single(address: IpAddr) -> Self {
        let number = number(address);
        Self {
            family: Family::of(address),
            first: number,
            last: number,
        }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.overlaps(&Self::single(address))
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses: at least one.
    pub(crate) fn len(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// What of this interval is in none of `holes`, in ascending order.
    pub(crate) fn without(self, holes: &[Self]) -> Vec<Self> {
        let mut holes: Vec<&Self> = holes.iter().filter(|hole| self.overlaps(hole)).collect();
        holes.sort_unstable_by_key(|hole| hole.first);
        let mut left = Vec::new();
        let mut first = self.first;
        for hole in holes {
            if hole.first > first {
                left.push(Self {
                    first,
                    last: hole.first - 1,
                    ..self
                });
            }
            if hole.last >= self.last {
                return left;
            }
            first = first.max(hole.last + 1);
        }
        left.push(Self { first, ..self });
        left
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.family.address(self.first);
        write!(f, "{first}-{}", self.family.address(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(first: &str, last: &str) -> Interval {
        Interval::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
    }

    fn texts(intervals: &[Interval]) -> Vec<String> {
        intervals.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn holes_may_overlap_and_hang_over_the_ends() {
        let holes = [
            interval("10.0.0.250", "10.0.1.5"),
            interval("10.0.0.10", "10.0.0.20"),
            interval("10.0.0.15", "10.0.0.17"),
            interval("9.0.0.0", "10.0.0.1"),
            interval("10.0.0.21", "10.0.0.21"),
        ];
        let left = interval("10.0.0.0", "10.0.0.255").without(&holes);
        assert_eq!(texts(&left), ["10.0.0.2-10.0.0.9", "10.0.0.22-10.0.0.249"]);
    }

    #[test]
    fn a_hole_of_the_other_family_is_none() {
        let all = interval("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        let hole = interval("0.0.0.0", "255.255.255.255");
        assert_eq!(all.without(&[hole]), [all]);
        assert_eq!(all.len(), u128::MAX);
    }

    #[test]
    fn a_hole_over_all_leaves_nothing() {
        let all = interval("fd00::1", "fd00::ff");
        assert_eq!(all.without(&[all]), []);
    }
}
