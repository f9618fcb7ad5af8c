//! Parsing of one JSON text against one definition of the schema.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, json};

use crate::{Fault, Faults, Movie, Notification, SCHEMA};

/// A type that the schema defines.
pub trait Definition: DeserializeOwned {
    /// Returns the validator that explains why a text does not fit the type.
    fn validator() -> &'static Validator;
}

impl Definition for Movie {
    fn validator() -> &'static Validator {
        static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| compile("Movie"));
        &VALIDATOR
    }
}

impl Definition for Notification {
    fn validator() -> &'static Validator {
        static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| compile("Notification"));
        &VALIDATOR
    }
}

#[expect(clippy::expect_used, reason = "the schema is a constant, and every test compiles it")]
fn compile(definition: &str) -> Validator {
    let mut document: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    document["$ref"] = json!(format!("#/$defs/{definition}"));
    jsonschema::options()
        .should_validate_formats(true)
        .build(&document)
        .expect("the schema is valid")
}

/// Parses one JSON text as a `T`.
///
/// The generated type accepts or rejects the text: it enforces the whole schema at the speed of a
/// parser. Only a rejected text goes through the slower JSON Schema validator, which locates every
/// fault.
///
/// # Errors
/// Returns the faults of the text, at least one.
pub fn parse<T: Definition>(raw: &[u8]) -> Result<T, Faults> {
    // serde also accepts an array of the field values for a struct.
    if raw.trim_ascii_start().first() != Some(&b'{') {
        return Err(explain::<T>(raw, "not an object"));
    }
    serde_json::from_slice(raw).map_err(|error| explain::<T>(raw, &error.to_string()))
}

/// Returns the faults of a text that the type `T` rejects with `type_error`.
fn explain<T: Definition>(raw: &[u8], type_error: &str) -> Faults {
    let mut faults = Faults::default();
    let value: Value = match parse_value(raw) {
        Ok(value) => value,
        Err(fault) => {
            faults.add(|| fault);
            return faults;
        }
    };
    for key in duplicate_keys(raw) {
        faults.add(|| Fault::new(&[&key], "the property once", "the property more than once"));
    }
    for error in T::validator().iter_errors(&value) {
        faults.add_validation_error(&error);
    }
    if faults.count() == 0 {
        // No text is known that the type rejects and the validator accepts.
        faults.add(|| Fault::at_root("a record that fits the schema", type_error));
    }
    faults
}

/// Parses the text as any JSON value.
fn parse_value(raw: &[u8]) -> Result<Value, Fault> {
    if raw.trim_ascii().is_empty() {
        return Err(Fault::at_root("a JSON object", "nothing"));
    }
    if let Err(error) = std::str::from_utf8(raw) {
        let offset = error.valid_up_to();
        let found = format!("byte 0x{:02X}, {offset} bytes into the record", raw[offset]);
        return Err(Fault::at_root("UTF-8 text", found));
    }
    serde_json::from_slice(raw).map_err(|error| Fault::at_root("JSON", error.to_string()))
}

/// Returns the keys that occur more than once in the object `raw`. They are read separately because
/// `Value` keeps only the last value of a key.
fn duplicate_keys(raw: &[u8]) -> impl Iterator<Item = String> {
    let Keys(mut keys) = serde_json::from_slice(raw).unwrap_or_default();
    keys.sort_unstable();
    let mut duplicates: Vec<String> =
        keys.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone()).collect();
    duplicates.dedup();
    duplicates.into_iter()
}

#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = Vec::new();
        while let Some((key, IgnoredAny)) = map.next_entry()? {
            keys.push(key);
        }
        Ok(Keys(keys))
    }
}
