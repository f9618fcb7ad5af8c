//! What is wrong with a record, in words for the person who made it.

use std::{ops::Deref, sync::LazyLock};

use jsonschema::{
    ValidationError,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::SCHEMA;

/// One thing wrong with one record.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Fault {
    /// Where in the record: a JSON Pointer (RFC 6901). Empty for the record as a whole.
    pub pointer: String,
    /// What the schema asks for.
    pub expected: String,
    /// What stands there instead.
    pub found: String,
}

/// A value in a message is cut to this many characters.
const MAX_SHOWN: usize = 80;

/// The same of a property's name in a pointer.
const MAX_NAME: usize = 200;

impl Fault {
    /// A fault at the place that the property names in `path` lead to.
    pub fn new(path: &[&str], expected: impl Into<String>, found: impl Into<String>) -> Self {
        let pointer = path.iter().map(|name| format!("/{}", escape(name))).collect();
        Self { pointer, expected: expected.into(), found: found.into() }
    }

    /// A fault of the record as a whole.
    pub fn at_root(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(&[], expected, found)
    }

    /// The fault of one member of the object at `pointer`.
    fn of_member(pointer: &str, name: &str, expected: String, found: String) -> Self {
        Self { pointer: format!("{pointer}/{}", escape(name)), expected, found }
    }
}

/// The faults of one record: the first ones, and how many there are.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    listed: Vec<Fault>,
    count: u64,
}

/// Those that are listed.
impl Deref for Faults {
    type Target = [Fault];

    fn deref(&self) -> &[Fault] {
        &self.listed
    }
}

impl Faults {
    /// How many of one record are listed; the rest are only counted.
    const MAX_LISTED: usize = 1000;

    /// How many there are, listed or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds one, which is not even made if it will not be listed.
    pub(crate) fn add(&mut self, fault: impl FnOnce() -> Fault) {
        self.count += 1;
        if self.listed.len() < Self::MAX_LISTED {
            self.listed.push(fault());
        }
    }

    /// Adds what one finding of the validator stands for: one for each unknown property.
    pub(crate) fn add_from_schema(&mut self, error: &ValidationError<'_>) {
        let pointer = error.instance_path().as_str();
        match error.kind() {
            Kind::Required { property } => self.add(|| {
                let name = property.as_str().unwrap_or_default();
                let expected = format!("the required property \"{name}\"");
                Fault::of_member(pointer, name, expected, "nothing".to_owned())
            }),
            Kind::AdditionalProperties { unexpected } => {
                for name in unexpected {
                    self.add(|| {
                        let found =
                            format!("the unknown property {}", shown(&name.as_str().into()));
                        Fault::of_member(pointer, name, expected_property(name), found)
                    });
                }
            }
            kind => self.add(|| {
                let instance: &Value = error.instance();
                let found = match kind {
                    Kind::MaxLength { .. } => length_of(instance),
                    _ => shown(instance),
                };
                Fault { pointer: pointer.to_owned(), expected: expectation(kind, error), found }
            }),
        }
    }
}

fn expectation(kind: &Kind, error: &ValidationError<'_>) -> String {
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
        Kind::Pattern { pattern } => format!("no control character that {pattern} forbids"),
        Kind::Format { format } => format!("a {format} (RFC 3339)"),
        _ => error.to_string(),
    }
}

/// Names the property that was probably meant.
fn expected_property(unknown: &str) -> String {
    static KNOWN: LazyLock<Vec<String>> = LazyLock::new(|| {
        let document: Value = serde_json::from_str(SCHEMA).unwrap_or_default();
        let definitions = document["$defs"].as_object().into_iter().flat_map(Map::values);
        let properties = definitions.filter_map(|definition| definition["properties"].as_object());
        properties.flat_map(Map::keys).cloned().collect()
    });
    let lowered: String = unknown.to_lowercase().chars().take(MAX_SHOWN).collect();
    let distance = |name: &&String| strsim::damerau_levenshtein(name, &lowered);
    match KNOWN.iter().min_by_key(distance).filter(|name| distance(name) <= 2) {
        Some(name) => format!("a property that the schema knows (did you mean \"{name}\"?)"),
        None => "a property that the schema knows".to_owned(),
    }
}

fn length_of(value: &Value) -> String {
    format!("{} characters", value.as_str().unwrap_or_default().chars().count())
}

/// A value as a message shows it: JSON, cut short.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(members) => format!("an object of {}", members.len()),
        scalar => cut(&scalar.to_string(), MAX_SHOWN),
    }
}

/// A name as a JSON Pointer has it (RFC 6901, section 3). One that goes on for ever is cut, so that
/// a list of faults stays small.
fn escape(name: &str) -> String {
    cut(name, MAX_NAME).replace('~', "~0").replace('/', "~1")
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
