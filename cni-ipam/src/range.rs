//! Ranges: which addresses of which subnets may be handed out. Pure.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::address::{Family, Interval, number};

/// Of an IPv6 range set only this many addresses are given: the first ones. The others are
/// there for those who ask for them.
///
/// More than any node has pods, and it bounds the size of the store.
pub(crate) const MOST_IPV6: u128 = 1 << 20;

/// A range as it was written, parsed but not judged.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) subnet: IpNet,
    pub(crate) start: Option<IpAddr>,
    pub(crate) end: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) exclude: Vec<Interval>,
}

/// A part of a subnet from which addresses are given.
#[derive(Clone, Debug)]
pub struct Range {
    subnet: IpNet,
    gateway: IpAddr,
    bounds: Interval,
    exclude: Vec<Interval>,
}

/// Which key of a range is wrong, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refused {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) problem: String,
}

impl Range {
    /// Checks a range and fills in what was not written.
    pub(crate) fn new(wanted: Wanted) -> Result<Self, Refused> {
        let subnet = wanted.subnet;
        let refuse = |key, value: String, problem: String| Refused {
            key,
            value,
            problem,
        };
        if subnet.trunc() != subnet {
            let meant = subnet.trunc();
            let problem = format!("Network has host bits set: is {meant} meant?");
            return Err(refuse("subnet", subnet.to_string(), problem));
        }
        if subnet.prefix_len() > subnet.max_prefix_len() - 2 {
            let problem = format!("Network {subnet} too small to allocate from");
            return Err(refuse("subnet", subnet.to_string(), problem));
        }
        let family = Family::of(subnet.network());
        let first = family.address(number(subnet.network()) + 1);
        let (start, end) = (wanted.start.unwrap_or(first), last(&subnet, wanted.end));
        let gateway = wanted.gateway.unwrap_or(first);
        for (key, address) in [("rangeStart", start), ("rangeEnd", end)] {
            if !subnet.contains(&address) {
                let problem = format!("it is not in subnet {subnet}");
                return Err(refuse(key, address.to_string(), problem));
            }
        }
        if Family::of(gateway) != family {
            let problem = format!("it is not of the family of subnet {subnet}");
            return Err(refuse("gateway", gateway.to_string(), problem));
        }
        let Some(bounds) = Interval::new(start, end) else {
            let problem = format!("it is before rangeStart {start}");
            return Err(refuse("rangeEnd", end.to_string(), problem));
        };
        Ok(Self {
            subnet,
            gateway,
            bounds,
            exclude: wanted.exclude,
        })
    }

    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// The first address of the range. It may be one that is never given, as the gateway.
    pub fn first(&self) -> IpAddr {
        self.bounds.family.address(self.bounds.first)
    }

    /// The last address of the range.
    pub fn last(&self) -> IpAddr {
        self.bounds.family.address(self.bounds.last)
    }

    /// The addresses that are never given, whoever asks.
    fn holes(&self) -> Vec<Interval> {
        let mut holes = self.exclude.clone();
        holes.push(Interval::single(self.subnet.network()));
        if self.bounds.family == Family::V4 {
            holes.push(Interval::single(self.subnet.broadcast()));
        }
        holes
    }
}

/// The end of a range: what was written, or the last address that is no broadcast.
fn last(subnet: &IpNet, written: Option<IpAddr>) -> IpAddr {
    written.unwrap_or_else(|| {
        let family = Family::of(subnet.network());
        let highest = number(subnet.broadcast());
        match family {
            Family::V4 => family.address(highest - 1),
            Family::V6 => family.address(highest),
        }
    })
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bounds.fmt(f)
    }
}

/// Ranges of one family that stand for each other: an attachment gets one address of each set.
#[derive(Clone, Debug)]
pub struct RangeSet {
    ranges: Vec<Range>,
    /// What may be given to those who ask for it, in the order of the ranges.
    allowed: Vec<Interval>,
    /// What is given to all others: the same, but of IPv6 only the beginning.
    usable: Vec<Interval>,
}

impl RangeSet {
    /// `also_excluded` are the holes that are not written in a range: the common
    /// exclusions, and the gateways of all ranges of all sets.
    pub(crate) fn new(ranges: Vec<Range>, also_excluded: &[Interval]) -> Self {
        let mut allowed = Vec::new();
        for range in &ranges {
            let mut holes = range.holes();
            holes.extend_from_slice(also_excluded);
            allowed.extend(range.bounds.without(&holes));
        }
        let mut room = MOST_IPV6;
        let usable = allowed.iter().filter_map(|part| match part.family {
            Family::V4 => Some(*part),
            Family::V6 => cut(part, &mut room),
        });
        Self {
            usable: usable.collect(),
            allowed,
            ranges,
        }
    }

    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether an address lies in one of the ranges, be it one that is never given.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.range_of(address).is_some()
    }

    /// The addresses that are given to those who ask for none.
    pub(crate) fn usable(&self) -> &[Interval] {
        &self.usable
    }

    /// Whether an address may be given to one who asks for it.
    pub(crate) fn may_give(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|part| part.contains(address))
    }

    /// The range that an address lies in, given or not.
    pub(crate) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.ranges
            .iter()
            .find(|range| range.bounds.contains(address))
    }

    /// The first two ranges of `self` and `other` that have an address in common.
    pub(crate) fn overlap<'a>(&'a self, other: &'a Self) -> Option<(&'a Range, &'a Range)> {
        overlap(&self.ranges, &other.ranges)
    }
}

/// The first two ranges of the lists that have an address in common.
pub(crate) fn overlap<'a>(one: &'a [Range], other: &'a [Range]) -> Option<(&'a Range, &'a Range)> {
    one.iter().find_map(|a| {
        let b = other.iter().find(|b| a.bounds.overlaps(&b.bounds))?;
        Some((a, b))
    })
}

/// The beginning of a part that fits into the room that is left.
fn cut(part: &Interval, room: &mut u128) -> Option<Interval> {
    let len = part.len().min(*room);
    *room -= len;
    (len > 0).then(|| Interval {
        last: part.first + (len - 1),
        ..*part
    })
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}
