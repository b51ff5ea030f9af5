//! VLAN membership of a bridge port, as it is configured.

use std::ops::RangeInclusive;

use serde::Deserialize;

/// The highest VLAN number that can be used (IEEE 802.1Q reserves 4095).
const MAX_ID: i64 = 4094;

/// One entry of `vlanTrunk`: a number, a range, or both.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawTrunk {
    #[serde(rename = "minID")]
    min_id: Option<i64>,
    #[serde(rename = "maxID")]
    max_id: Option<i64>,
    id: Option<i64>,
}

/// The VLANs of a port. That there is one at all switches the bridge to VLAN filtering.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Vlan {
    /// The VLAN of the port's untagged packets.
    pub(crate) native: Option<u16>,
    /// The VLANs that pass tagged.
    pub(crate) trunk: Vec<RangeInclusive<u16>>,
    /// Keep the VLAN (1) that every new port belongs to.
    pub(crate) keep_default: bool,
}

/// Numbers that are no VLANs.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidVlan {
    #[error("\"vlan\" is {0}: expected a number from 0 to {MAX_ID}")]
    Native(i64),
    #[error("\"vlanTrunk\" has {key} {value}: expected a number from 1 to {MAX_ID}")]
    Trunk { key: &'static str, value: i64 },
    #[error("\"vlanTrunk\" has minID without maxID or maxID without minID")]
    HalfRange,
    #[error("\"vlanTrunk\" has minID {min} above maxID {max}")]
    Backwards { min: u16, max: u16 },
}

impl Vlan {
    /// The keys `vlan`, `vlanTrunk` and `preserveDefaultVlan` as the Go plugin reads them:
    /// an empty trunk still switches VLAN filtering on.
    pub(crate) fn parse(
        native: i64,
        trunk: Option<&[RawTrunk]>,
        keep_default: bool,
    ) -> Result<Option<Self>, InvalidVlan> {
        let native = match native {
            0 => None,
            1..=MAX_ID => u16::try_from(native).ok(),
            _ => return Err(InvalidVlan::Native(native)),
        };
        if native.is_none() && trunk.is_none() {
            return Ok(None);
        }
        let mut ranges = Vec::new();
        for entry in trunk.unwrap_or_default() {
            match (entry.min_id, entry.max_id) {
                (None, None) => {}
                (Some(min), Some(max)) => {
                    let (min, max) = (number("minID", min)?, number("maxID", max)?);
                    if min > max {
                        return Err(InvalidVlan::Backwards { min, max });
                    }
                    ranges.push(min..=max);
                }
                _ => return Err(InvalidVlan::HalfRange),
            }
            if let Some(id) = entry.id {
                let id = number("id", id)?;
                ranges.push(id..=id);
            }
        }
        Ok(Some(Self {
            native,
            trunk: ranges,
            keep_default,
        }))
    }
}

fn number(key: &'static str, value: i64) -> Result<u16, InvalidVlan> {
    match u16::try_from(value) {
        Ok(number) if (1..=MAX_ID).contains(&value) => Ok(number),
        _ => Err(InvalidVlan::Trunk { key, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk(min_id: Option<i64>, max_id: Option<i64>, id: Option<i64>) -> RawTrunk {
        RawTrunk { min_id, max_id, id }
    }

    #[test]
    fn nothing_said_is_no_vlan() {
        assert_eq!(Vlan::parse(0, None, false), Ok(None));
    }

    #[test]
    fn an_empty_trunk_is_a_vlan_all_the_same() {
        let vlan = Vlan {
            native: None,
            trunk: vec![],
            keep_default: true,
        };
        assert_eq!(Vlan::parse(0, Some(&[]), true), Ok(Some(vlan)));
    }

    #[test]
    fn ranges_and_numbers_add_up() {
        let entries = [
            trunk(Some(10), Some(20), Some(30)),
            trunk(None, None, Some(4094)),
        ];
        let vlan = Vlan {
            native: Some(5),
            trunk: vec![10..=20, 30..=30, 4094..=4094],
            keep_default: false,
        };
        assert_eq!(Vlan::parse(5, Some(&entries), false), Ok(Some(vlan)));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        assert_eq!(Vlan::parse(-3, None, false), Err(InvalidVlan::Native(-3)));
        assert_eq!(
            Vlan::parse(4095, None, false),
            Err(InvalidVlan::Native(4095))
        );
        let refused = |entry| Vlan::parse(0, Some(&[entry]), false).unwrap_err();
        assert_eq!(refused(trunk(Some(1), None, None)), InvalidVlan::HalfRange);
        assert_eq!(
            refused(trunk(Some(9), Some(8), None)),
            InvalidVlan::Backwards { min: 9, max: 8 }
        );
        assert_eq!(
            refused(trunk(None, None, Some(0))),
            InvalidVlan::Trunk {
                key: "id",
                value: 0
            }
        );
    }
}
