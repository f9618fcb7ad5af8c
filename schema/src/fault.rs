//! Faults: what is wrong with a record, described for its producer.

use std::{ops::Deref, sync::LazyLock};

use jsonschema::{
    ValidationError,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::SCHEMA;

/// One thing wrong with one record.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Fault {
    /// JSON Pointer (RFC 6901) to the faulty value. Empty for the record as a whole.
    pub pointer: String,
    /// What the schema requires.
    pub expected: String,
    /// What the record contains instead.
    pub found: String,
}

/// Maximum length of a value in a fault text, in characters.
const MAX_VALUE_CHARS: usize = 80;

/// How many letters of a property name may be misspelled for it to be recognised.
const MAX_MISSPELLED: usize = 2;

/// Maximum length of the text of a parser's error, in characters.
const MAX_ERROR_CHARS: usize = 200;

/// Maximum length of a property name in a pointer, in characters.
const MAX_NAME_CHARS: usize = 200;

impl Fault {
    /// Creates a fault of the value at `path`, a list of property names from the root.
    pub fn new(path: &[&str], expected: impl Into<String>, found: impl Into<String>) -> Self {
        let pointer = path.iter().map(|name| format!("/{}", pointer_token(name))).collect();
        Self { pointer, expected: expected.into(), found: found.into() }
    }

    /// Creates a fault of the record as a whole.
    pub fn at_root(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(&[], expected, found)
    }

    /// Creates a fault of the property `name` of the object at `pointer`.
    fn at_property(pointer: &str, name: &str, expected: String, found: String) -> Self {
        Self { pointer: format!("{pointer}/{}", pointer_token(name)), expected, found }
    }
}

/// The first faults of one record, and the number of all its faults.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    first: Vec<Fault>,
    count: u64,
}

/// A single fault.
impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self { first: vec![fault], count: 1 }
    }
}

/// Dereferences to the faults that were kept.
impl Deref for Faults {
    type Target = [Fault];

    fn deref(&self) -> &[Fault] {
        &self.first
    }
}

impl Faults {
    /// Faults kept per record. Further faults are only counted.
    const MAX_KEPT: usize = 1000;

    /// Returns the number of all faults, kept or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts a fault. Calls `fault` only if it is kept.
    pub(crate) fn add(&mut self, fault: impl FnOnce() -> Fault) {
        self.count += 1;
        if self.first.len() < Self::MAX_KEPT {
            self.first.push(fault());
        }
    }

    /// Adds the faults of one validation error. An error about unknown properties is one fault for
    /// each of them.
    pub(crate) fn add_validation_error(&mut self, error: &ValidationError<'_>) {
        let pointer = error.instance_path().as_str();
        match error.kind() {
            Kind::Required { property } => self.add(|| {
                let name = property.as_str().unwrap_or_default();
                let expected = format!("the required property \"{name}\"");
                Fault::at_property(pointer, name, expected, "nothing".to_owned())
            }),
            Kind::AdditionalProperties { unexpected } => {
                for name in unexpected {
                    self.add(|| {
                        let found = format!(
                            "the unknown property {}",
                            describe_value(&name.as_str().into())
                        );
                        Fault::at_property(pointer, name, describe_known_property(name), found)
                    });
                }
            }
            kind => self.add(|| {
                let instance: &Value = error.instance();
                let found = match kind {
                    Kind::MaxLength { .. } => describe_length(instance),
                    _ => describe_value(instance),
                };
                Fault {
                    pointer: pointer.to_owned(),
                    expected: describe_expected(kind, error),
                    found,
                }
            }),
        }
    }
}

fn describe_expected(kind: &Kind, error: &ValidationError<'_>) -> String {
    match kind {
        Kind::Type { kind: TypeKind::Single(json_type) } => format!("{json_type}"),
        Kind::Type { kind: TypeKind::Multiple(types) } => {
            let names: Vec<_> = types.iter().map(|t| t.to_string()).collect();
            names.join(" or ")
        }
        Kind::MinLength { limit: 1 } => "a string that is not empty".into(),
        Kind::MinLength { limit } => format!("at least {limit} characters"),
        Kind::MaxLength { limit } => format!("at most {limit} characters"),
        Kind::Minimum { limit } => format!("{limit} or more"),
        Kind::Maximum { limit } => format!("{limit} or less"),
        Kind::Pattern { pattern } if pattern.starts_with("^https?://") => {
            "an http:// or https:// URL".into()
        }
        Kind::Pattern { pattern } => {
            format!("a string without forbidden control characters (pattern {pattern})")
        }
        Kind::Enum { options } => describe_options(options),
        Kind::Format { format } => format!("a {format} (RFC 3339)"),
        _ => error.to_string(),
    }
}

/// Describes the values of an enumeration, but for null, which means absent.
fn describe_options(options: &Value) -> String {
    let values = options.as_array().into_iter().flatten().filter(|value| !value.is_null());
    let values: Vec<_> = values.map(Value::to_string).collect();
    values.join(" or ")
}

/// Describes a known property; suggests the one that `unknown` probably misspells.
fn describe_known_property(unknown: &str) -> String {
    static KNOWN_PROPERTIES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let document: Value = serde_json::from_str(SCHEMA).unwrap_or_default();
        let definitions = document["$defs"].as_object().into_iter().flat_map(Map::values);
        let properties = definitions.filter_map(|definition| definition["properties"].as_object());
        properties.flat_map(Map::keys).cloned().collect()
    });
    let lowercase: String =
        unknown.chars().take(MAX_VALUE_CHARS).flat_map(char::to_lowercase).collect();
    let chars = lowercase.chars().count();
    // Names whose lengths differ by more are no misspellings. Distances are slow to compute.
    let similar =
        KNOWN_PROPERTIES.iter().filter(|name| name.len().abs_diff(chars) <= MAX_MISSPELLED);
    let distance = |name: &&String| strsim::damerau_levenshtein(name, &lowercase);
    match similar.min_by_key(distance).filter(|name| distance(name) <= MAX_MISSPELLED) {
        Some(name) => format!("a property that the schema knows (did you mean \"{name}\"?)"),
        None => "a property that the schema knows".to_owned(),
    }
}

/// Describes a parser's error by its text and its position. The text is truncated: it quotes values.
pub(crate) fn describe_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&position) {
        Some(text) => truncate(text, MAX_ERROR_CHARS) + &position,
        None => truncate(&text, MAX_ERROR_CHARS),
    }
}

fn describe_length(value: &Value) -> String {
    pluralize(value.as_str().unwrap_or_default().chars().count(), "character")
}

/// Describes an array or object by its size, and any other value by its JSON, truncated.
fn describe_value(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {}", pluralize(items.len(), "item")),
        Value::Object(members) => format!("an object of {}", pluralize(members.len(), "member")),
        scalar => truncate(&scalar.to_string(), MAX_VALUE_CHARS),
    }
}

fn pluralize(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns `name` as a token of a JSON Pointer (RFC 6901, section 3), truncated to keep a list of
/// faults small.
fn pointer_token(name: &str) -> String {
    truncate(name, MAX_NAME_CHARS).replace('~', "~0").replace('/', "~1")
}

fn truncate(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
