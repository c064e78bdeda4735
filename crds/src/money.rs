//! Exact US dollars, parsed once. A float never touches a price.

use std::{borrow::Cow, fmt, iter::Sum, ops::Add, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The text form of a price: what [`Dollars`] parses, and what the CRD admits.
pub const PATTERN: &str = r"^[0-9]{1,9}(\.[0-9]{1,6})?$";

/// An amount of US dollars, never negative, in millionths: a second of a $0.25-an-hour pod is 69 of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dollars(u64);

/// A text that is not an amount of dollars.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an amount in dollars: write a decimal number such as \"0.79\", with at most six decimals"
)]
pub struct NotDollars(String);

const MICROS: u64 = 1_000_000;
const DECIMALS: usize = 6;

impl Dollars {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whole dollars.
    pub const fn whole(dollars: u32) -> Self {
        Self(dollars as u64 * MICROS)
    }

    /// Hundredths of a dollar.
    pub const fn cents(cents: u32) -> Self {
        Self(cents as u64 * (MICROS / 100))
    }

    /// Millionths of a dollar.
    pub const fn micros(micros: u64) -> Self {
        Self(micros)
    }

    /// This amount in millionths of a dollar.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// A JSON number as providers send prices, through its shortest decimal text; the seventh digit is rounded
    /// away, and with it the noise of a provider's single-precision floats.
    pub fn from_number(number: &serde_json::Number) -> Result<Self, NotDollars> {
        let text = number.to_string();
        let refused = || NotDollars(text.clone());
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                (mantissa, exponent.parse::<i32>().map_err(|_| refused())?)
            }
            None => (text.as_str(), 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: u128 = format!("{whole}{fraction}")
            .parse()
            .map_err(|_| refused())?;
        let fraction_len = i32::try_from(fraction.len()).map_err(|_| refused())?;
        let shift = DECIMALS as i32 + exponent - fraction_len;
        let power = 10u128.checked_pow(shift.unsigned_abs());
        let micros = match (shift >= 0, power) {
            (true, Some(power)) => digits.checked_mul(power).ok_or_else(refused)?,
            (false, Some(power)) => (digits + power / 2) / power,
            (true, None) if digits > 0 => return Err(refused()),
            (true | false, None) => 0,
        };
        u64::try_from(micros).map(Self).map_err(|_| refused())
    }

    /// A float as providers' JSON libraries give it; `None` for what is not an amount. For reading their answers only.
    pub fn from_f64(number: f64) -> Option<Self> {
        Self::from_number(&serde_json::Number::from_f64(number)?).ok()
    }

    /// What this rate an hour costs over `time`, rounded up to a millionth.
    pub fn for_hours_of(self, time: Duration) -> Self {
        const NANOS_AN_HOUR: u128 = 3_600 * 1_000_000_000;
        let product = u128::from(self.0).saturating_mul(time.as_nanos());
        Self(u64::try_from(product.div_ceil(NANOS_AN_HOUR)).unwrap_or(u64::MAX))
    }

    /// How long this amount lasts at a rate an hour; `None` when the rate is zero.
    pub fn lasts_at(self, rate: Self) -> Option<Duration> {
        (rate.0 > 0).then(|| {
            let millis = u128::from(self.0) * 3_600_000 / u128::from(rate.0);
            Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
        })
    }

    /// This amount `times` over; stays at the largest amount instead of overflowing.
    pub const fn times(self, times: u32) -> Self {
        Self(self.0.saturating_mul(times as u64))
    }

    /// What is left after `other` is taken away, zero at least.
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// So many percent of this amount, rounded down.
    pub const fn percent(self, percent: u32) -> Self {
        Self((self.0 as u128 * percent as u128 / 100) as u64)
    }
}

impl Add for Dollars {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Dollars {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl FromStr for Dollars {
    type Err = NotDollars;

    fn from_str(text: &str) -> Result<Self, NotDollars> {
        let refused = || NotDollars(text.to_owned());
        let digits = |part: &str, most: usize| {
            (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) if digits(fraction, DECIMALS) => (whole, fraction),
            Some(_) => return Err(refused()),
            None => (text, ""),
        };
        if !digits(whole, 9) {
            return Err(refused());
        }
        let whole: u64 = whole.parse().map_err(|_| refused())?;
        let fraction: u64 = format!("{fraction:0<DECIMALS$}")
            .parse()
            .map_err(|_| refused())?;
        Ok(Self(whole * MICROS + fraction))
    }
}

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:06}", self.0 % MICROS);
        let shortest = fraction.trim_end_matches('0');
        f.pad(&format!("{}.{shortest:0<2}", self.0 / MICROS))
    }
}

impl Serialize for Dollars {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Dollars;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount in dollars: a quoted decimal or a whole number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dollars, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Dollars, E> {
                number
                    .checked_mul(MICROS)
                    .map(Dollars)
                    .ok_or_else(|| E::custom(NotDollars(number.to_string())))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Dollars, E> {
                let number =
                    u64::try_from(number).map_err(|_| E::custom(NotDollars(number.to_string())))?;
                self.visit_u64(number)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The schema of a price that only srchat writes: always a string.
impl JsonSchema for Dollars {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Dollars".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// The schema of a price that people write: a decimal string, or a bare whole number.
pub(crate) fn written_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "nullable": false,
        "pattern": PATTERN,
        "maxLength": 16,
    })
}
