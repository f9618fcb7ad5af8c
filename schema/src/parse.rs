//! Parsing of one JSON text against one definition of the schema.

use std::{marker::PhantomData, sync::LazyLock};

use jsonschema::Validator;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, json};

use crate::{
    Fault, Faults, Movie, Notification, SCHEMA,
    fault::describe_error,
    syntax::{no_object, not_json, not_utf_8},
};

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

/// The largest text whose faults are searched for, in bytes. A larger one gets a single fault.
///
/// The search keeps the text as a tree and all its faults in memory: at most some 250 bytes for each
/// byte of the text.
pub const MAX_EXPLAINED: usize = 64 << 10;

/// Parses one JSON text as a `T`.
///
/// # Errors
/// Returns the faults of the text, at least one.
pub fn parse<T: Definition>(raw: &[u8]) -> Result<T, Faults> {
    try_parse(raw).map_err(Unfit::explain)
}

/// Parses one JSON text as a `T`. Does not search for the faults of a text that does not fit.
///
/// The generated type accepts or rejects the text: it enforces the whole schema at the speed of a
/// parser. Only [`Unfit::explain`] needs the slower JSON Schema validator, which locates every fault.
///
/// # Errors
/// If the text does not fit the schema.
pub fn try_parse<T: Definition>(raw: &[u8]) -> Result<T, Unfit<'_, T>> {
    // serde also accepts an array of the field values for a struct.
    if raw.trim_ascii_start().first() != Some(&b'{') {
        return Err(Unfit { raw, error: None, definition: PhantomData });
    }
    serde_json::from_slice(raw).map_err(|error| Unfit {
        raw,
        error: Some(error),
        definition: PhantomData,
    })
}

/// A text that the type `T` rejected.
#[derive(Debug)]
pub struct Unfit<'a, T> {
    raw: &'a [u8],
    /// None if the text is not an object.
    error: Option<serde_json::Error>,
    definition: PhantomData<T>,
}

impl<T: Definition> Unfit<'_, T> {
    /// Returns the faults of the text, at least one.
    ///
    /// A text of more than [`MAX_EXPLAINED`] bytes has one fault: the first that the type found.
    pub fn explain(self) -> Faults {
        self.try_explain().unwrap_or_else(Faults::from)
    }

    /// Returns the faults of the text, or the one fault that keeps others from being searched for.
    fn try_explain(self) -> Result<Faults, Fault> {
        std::str::from_utf8(self.raw).map_err(|error| not_utf_8(self.raw, error))?;
        if let Some(fault) = no_object(self.raw) {
            return Err(fault);
        }
        if self.raw.len() > MAX_EXPLAINED {
            return Err(self.type_fault());
        }
        let value: Value =
            serde_json::from_slice(self.raw).map_err(|error| not_json(self.raw, &error))?;
        let mut faults = Faults::default();
        for key in duplicate_keys(self.raw) {
            faults.add(|| Fault::new(&[&key], "the property once", "the property more than once"));
        }
        for error in T::validator().iter_errors(&value) {
            faults.add_validation_error(&error);
        }
        // No text is known that the type rejects and the validator accepts.
        if faults.count() == 0 { Err(self.type_fault()) } else { Ok(faults) }
    }

    /// Returns what the type found.
    fn type_fault(&self) -> Fault {
        match &self.error {
            None => no_object(self.raw)
                .unwrap_or_else(|| Fault::at_root("a JSON object", "another value")),
            Some(error) if error.is_data() => {
                let expected = if self.raw.len() > MAX_EXPLAINED {
                    let limit = MAX_EXPLAINED >> 10;
                    format!("a valid record (beyond {limit} KiB only the first fault is described)")
                } else {
                    "a record that fits the schema".to_owned()
                };
                Fault::at_root(expected, describe_error(error))
            }
            Some(error) => not_json(self.raw, error),
        }
    }
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
