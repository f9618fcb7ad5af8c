//! The leaf types: a string, an integer and a time that hold only values the schema allows.
//!
//! `build.rs` reads their parameters from the schema's keywords.

use std::{fmt, ops::Deref};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A string of `MIN` to `MAX` characters without forbidden control characters.
///
/// `FORBIDDEN` is a bit mask: bit n forbids the character U+n. With `URL`, the string is an http or
/// https URL: it begins with the scheme.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Text<const MIN: usize, const MAX: usize, const FORBIDDEN: u32, const URL: bool>(String);

impl<const MIN: usize, const MAX: usize, const FORBIDDEN: u32, const URL: bool>
    Text<MIN, MAX, FORBIDDEN, URL>
{
    /// Returns the string.
    pub fn into_string(self) -> String {
        self.0
    }

    fn check(text: &str) -> Result<(), &'static str> {
        // Lengths are in characters, of 1 to 4 bytes each. The number of bytes decides most cases
        // without counting characters.
        let too_short = text.len() < MIN * 4 && text.chars().count() < MIN;
        let too_long = text.len() > MAX && text.chars().count() > MAX;
        let has_controls = text.bytes().fold(false, |found, byte| found | (byte < 32));
        if too_short {
            return Err("string too short");
        }
        if too_long {
            return Err("string too long");
        }
        if has_controls && text.bytes().any(|b| b < 32 && FORBIDDEN >> b & 1 == 1) {
            return Err("forbidden control character in string");
        }
        if URL && !text.starts_with("http://") && !text.starts_with("https://") {
            return Err("not an http or https URL");
        }
        Ok(())
    }
}

impl<const MIN: usize, const MAX: usize, const FORBIDDEN: u32, const URL: bool> TryFrom<String>
    for Text<MIN, MAX, FORBIDDEN, URL>
{
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::check(&text).map(|()| Self(text))
    }
}

impl<'de, const MIN: usize, const MAX: usize, const FORBIDDEN: u32, const URL: bool>
    Deserialize<'de> for Text<MIN, MAX, FORBIDDEN, URL>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

impl<const MIN: usize, const MAX: usize, const FORBIDDEN: u32, const URL: bool> Deref
    for Text<MIN, MAX, FORBIDDEN, URL>
{
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A point in time. Its JSON is an RFC 3339 string.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// Returns the point in time.
    pub fn get(self) -> DateTime<Utc> {
        self.0
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // chrono also accepts a space instead of the T.
        if text.contains(' ') {
            return Err(de::Error::custom("not an RFC 3339 time"));
        }
        let time = DateTime::parse_from_rfc3339(&text).map_err(de::Error::custom)?;
        Ok(Self(time.to_utc()))
    }
}

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Bounded<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Bounded<MIN, MAX> {
    /// Returns the integer.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl<const MIN: i64, const MAX: i64> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = &'static str;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        if (MIN..=MAX).contains(&number) { Ok(Self(number)) } else { Err("integer out of range") }
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntegerVisitor)?.try_into().map_err(de::Error::custom)
    }
}

/// Reads an integer as JSON Schema defines it: 1995.0 is an integer (2020-12 Core, 4.2.3).
struct IntegerVisitor;

impl de::Visitor<'_> for IntegerVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E>(self, number: i64) -> Result<i64, E> {
        Ok(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
        i64::try_from(number).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
        // Every bound lies within 2^53, so the conversion is exact for every allowed value.
        if number.fract() == 0.0 { Ok(number as i64) } else { Err(E::custom("not an integer")) }
    }
}

/// Reads null as the default value, for properties whose absence means that too.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
