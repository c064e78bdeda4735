//! Sizes of memory and disk, kept as they were written: `24Gi`, `50G`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The text form that [`Size`] parses and the CRD admits.
pub const PATTERN: &str = "^[1-9][0-9]{0,5}(Mi|Gi|Ti|M|G|T)$";

/// A size of memory or disk: a whole number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    number: u32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unit {
    Mi,
    Gi,
    Ti,
    M,
    G,
    T,
}

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number with a unit such as \"24Gi\" or \"50G\"")]
pub struct NotASize(String);

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const GB: u64 = 1_000_000_000;

impl Size {
    /// So many GiB.
    pub const fn gib(number: u32) -> Self {
        Self {
            number,
            unit: Unit::Gi,
        }
    }

    /// The smallest whole number of GiB that holds so many bytes, one at least.
    pub fn gib_for(bytes: u64) -> Self {
        Self::gib(u32::try_from(bytes.div_ceil(GIB).max(1)).unwrap_or(u32::MAX))
    }

    /// The largest whole number of GiB, or of MiB when that says more, within so many bytes.
    pub fn within(bytes: u64) -> Self {
        let mib = u32::try_from(bytes / MIB).unwrap_or(u32::MAX);
        if mib >= 1024 && mib.is_multiple_of(1024) {
            Self::gib(mib / 1024)
        } else {
            Self {
                number: mib,
                unit: Unit::Mi,
            }
        }
    }

    /// How many bytes these are.
    pub const fn bytes(self) -> u64 {
        self.number as u64
            * match self.unit {
                Unit::Mi => MIB,
                Unit::Gi => GIB,
                Unit::Ti => 1024 * GIB,
                Unit::M => 1_000_000,
                Unit::G => GB,
                Unit::T => 1000 * GB,
            }
    }

    /// Whole GB (10⁹ bytes) that hold this, as a provider counts disks.
    pub const fn gb_up(self) -> u64 {
        self.bytes().div_ceil(GB)
    }

    /// The number on the label of a card of this size: 24 for `24Gi` as for `24G`. Catalogs do not tell the units apart.
    pub const fn nominal(self) -> u64 {
        match self.unit {
            Unit::Mi => (self.number as u64).div_ceil(1024),
            Unit::M => (self.number as u64).div_ceil(1000),
            Unit::Gi | Unit::G => self.number as u64,
            Unit::Ti => self.number as u64 * 1024,
            Unit::T => self.number as u64 * 1000,
        }
    }
}

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let refused = || NotASize(text.to_owned());
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(refused)?;
        let (number, unit) = text.split_at(end);
        if number.len() > 6 || number.starts_with('0') {
            return Err(refused());
        }
        let unit = match unit {
            "Mi" => Unit::Mi,
            "Gi" => Unit::Gi,
            "Ti" => Unit::Ti,
            "M" => Unit::M,
            "G" => Unit::G,
            "T" => Unit::T,
            _ => return Err(refused()),
        };
        Ok(Self {
            number: number.parse().map_err(|_| refused())?,
            unit,
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{:?}", self.number, self.unit))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// The schema of a size that people write. The sentence for a wrong one comes from a rule beside it.
pub(crate) fn written_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 8 })
}
