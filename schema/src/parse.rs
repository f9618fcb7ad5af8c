//! Holding one JSON text against one definition of the schema.

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
    /// What judges a text that did not fit the type.
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

#[expect(clippy::expect_used, reason = "the schema is a constant, compiled by every test")]
fn compile(definition: &str) -> Validator {
    let mut document: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    document["$ref"] = json!(format!("#/$defs/{definition}"));
    jsonschema::options()
        .should_validate_formats(true)
        .build(&document)
        .expect("the schema is a schema")
}

/// Reads one JSON text as a `T`.
///
/// The generated type decides, since it enforces the whole schema at the speed of a parser. A text
/// that it refuses is judged once more by a JSON schema validator, for what exactly is wrong where.
///
/// # Errors
/// The faults of the text, at least one.
pub fn parse<T: Definition>(raw: &[u8]) -> Result<T, Faults> {
    // serde would take an array of the fields' values for a struct, too.
    if raw.trim_ascii_start().first() != Some(&b'{') {
        return Err(explain::<T>(raw, "not an object"));
    }
    serde_json::from_slice(raw).map_err(|error| explain::<T>(raw, &error.to_string()))
}

fn explain<T: Definition>(raw: &[u8], refusal: &str) -> Faults {
    let mut faults = Faults::default();
    let value: Value = match readable(raw) {
        Ok(value) => value,
        Err(fault) => {
            faults.add(|| fault);
            return faults;
        }
    };
    for key in duplicate_keys(raw) {
        faults.add(|| Fault::new(&[&key], "the property once", "the property twice"));
    }
    for error in T::validator().iter_errors(&value) {
        faults.add_from_schema(&error);
    }
    if faults.count() == 0 {
        // The validator is more lenient than the type in no way we know of; say what the type said.
        faults.add(|| Fault::at_root("a record that fits the schema", refusal));
    }
    faults
}

/// The text as JSON of any kind.
fn readable(raw: &[u8]) -> Result<Value, Fault> {
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

/// The keys that stand more than once in the object that `raw` holds. A parser into a map would
/// keep the last one and lose the others silently.
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
