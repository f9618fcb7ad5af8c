//! Generates the Rust types from `movies.schema.json`.
//!
//! typify turns definitions into structs. The leaf types of this crate (`Bounded`, `Text` and
//! `Timestamp`) enforce what typify does not: bounds of integers, lengths counted without a second
//! allocation, forbidden characters, strict times. This script reads their parameters from the
//! schema. A keyword that neither typify nor a leaf type enforces fails the build, so the generated
//! types never accept what the schema forbids.

use std::{env, error::Error, fs, path::Path};

use schemars::schema::{InstanceType, RootSchema, Schema, SchemaObject, SingleOrVec};
use serde_json::Value;
use typify::{TypeSpace, TypeSpaceSettings};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SCHEMA: &str = "movies.schema.json";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    println!("cargo::rerun-if-changed=build.rs");

    let mut document: Value = serde_json::from_str(&fs::read_to_string(SCHEMA)?)?;
    check_keywords(&document)?;
    to_draft_07(&mut document);
    let root: RootSchema = serde_json::from_value(document)?;

    let mut settings = TypeSpaceSettings::default();
    settings.with_derive("PartialEq".into());
    for schema in root.definitions.values() {
        map_leaves(schema, &mut settings)?;
    }
    let mut types = TypeSpace::new(&settings);
    // No code parses a whole file: the service reads one record at a time.
    let definitions = root.definitions.into_iter().filter(|(name, _)| name != "MoviesFile");
    types.add_ref_types(definitions)?;

    let file: syn::File = syn::parse2(types.to_stream())?;
    // Serialize empty lists too, so that every movie has a cast and genres. Null is an empty list.
    let skip_empty = ", skip_serializing_if = \"::std::vec::Vec::is_empty\"";
    let null_is_empty = ", deserialize_with = \"crate::leaf::null_as_default\"";
    let code = prettyplease::unparse(&file).replace(skip_empty, null_is_empty);
    let out = Path::new(&env::var("OUT_DIR")?).join("types.rs");
    Ok(fs::write(out, code)?)
}

/// The keywords that the generated types enforce, and annotations.
const KEYWORDS: [&str; 21] = [
    "$schema",
    "$id",
    "$ref",
    "$defs",
    "title",
    "description",
    "default",
    "type",
    "enum",
    "anyOf",
    "items",
    "properties",
    "required",
    "additionalProperties",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "format",
    "examples",
];

/// Checks that the generated types enforce every keyword of `schema`.
///
/// # Errors
/// If `schema` has a keyword that is not in [`KEYWORDS`], or a format other than `date-time`.
fn check_keywords(schema: &Value) -> Result<()> {
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        if !KEYWORDS.contains(&keyword.as_str()) {
            return Err(format!("the generated types do not enforce the keyword {keyword}").into());
        }
        if keyword == "format" && value != "date-time" {
            return Err(format!("the generated types do not enforce the format {value}").into());
        }
        match keyword.as_str() {
            "$defs" | "properties" => {
                value.as_object().into_iter().flatten().try_for_each(|(_, v)| check_keywords(v))?;
            }
            "anyOf" => value.as_array().into_iter().flatten().try_for_each(check_keywords)?,
            "items" => check_keywords(value)?,
            _ => {}
        }
    }
    Ok(())
}

/// Converts the schema to draft 7, which typify reads: `$defs` becomes `definitions`.
///
/// It also removes `null` from type unions and enumerations: every nullable property is optional, and
/// serde reads `null` into an `Option` as `None`.
fn to_draft_07(node: &mut Value) {
    match node {
        Value::Object(map) => {
            if let Some(definitions) = map.remove("$defs") {
                map.insert("definitions".into(), definitions);
            }
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/$defs/", "#/definitions/");
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
            }
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            map.values_mut().for_each(to_draft_07);
        }
        Value::Array(items) => items.iter_mut().for_each(to_draft_07),
        _ => {}
    }
}

/// Maps every string and integer in `schema` to the leaf type that enforces its keywords.
fn map_leaves(schema: &Schema, settings: &mut TypeSpaceSettings) -> Result<()> {
    let Schema::Object(object) = schema else {
        return Ok(());
    };
    if let Some(leaf) = leaf_type(object)? {
        settings.with_conversion(object.clone(), leaf, [].into_iter());
    }
    if let Some(properties) = &object.object {
        for property in properties.properties.values() {
            map_leaves(property, settings)?;
        }
    }
    if let Some(array) = &object.array
        && let Some(SingleOrVec::Single(items)) = &array.items
    {
        map_leaves(items, settings)?;
    }
    Ok(())
}

/// Returns the leaf type for a string or an integer, and `None` for every other type and for enumerations.
fn leaf_type(object: &SchemaObject) -> Result<Option<String>> {
    let Some(SingleOrVec::Single(instance_type)) = instance_type(object) else {
        return Ok(None);
    };
    // typify makes an enum of it.
    if object.enum_values.is_some() {
        return Ok(None);
    }
    match (*instance_type, &object.format) {
        (InstanceType::String, Some(_)) => Ok(Some("crate::Timestamp".to_owned())),
        (InstanceType::String, None) => {
            let string = object.string.clone().unwrap_or_default();
            let min = string.min_length.unwrap_or(0);
            let max = string.max_length.unwrap_or(u32::MAX);
            let pattern = string.pattern.ok_or("a string needs a pattern that forbids U+0000")?;
            let (pattern, is_url) = match pattern.strip_prefix("^https?://") {
                Some(rest) => (format!("^{rest}"), true),
                None => (pattern, false),
            };
            let controls = forbidden_controls(&pattern)?;
            Ok(Some(format!("crate::Text<{min}, {max}, {controls}, {is_url}>")))
        }
        (InstanceType::Integer, _) => {
            let number = object.number.clone().unwrap_or_default();
            let (Some(min), Some(max)) = (number.minimum, number.maximum) else {
                return Err("an integer needs both a minimum and a maximum".into());
            };
            Ok(Some(format!("crate::Bounded<{min}, {max}>")))
        }
        _ => Ok(None),
    }
}

fn instance_type(object: &SchemaObject) -> Option<SingleOrVec<InstanceType>> {
    match object.instance_type.clone()? {
        SingleOrVec::Vec(types) if types.len() == 1 => {
            Some(SingleOrVec::Single(Box::new(types[0])))
        }
        other => Some(other),
    }
}

/// Converts a pattern such as `^[^\u0000\u001F]*$` to a bit mask: bit n forbids U+n.
fn forbidden_controls(pattern: &str) -> Result<u32> {
    let class = pattern
        .strip_prefix("^[^")
        .and_then(|rest| rest.strip_suffix("]*$"))
        .ok_or_else(|| format!("pattern {pattern}: expected ^[^...]*$ or ^https?://[^...]*$ with control characters"))?;
    class.split("\\u").skip(1).try_fold(0, |mask, code| match u32::from_str_radix(code, 16)? {
        control @ 0..=31 => Ok(mask | 1 << control),
        _ => Err(format!("pattern {pattern}: {code} is not a control character").into()),
    })
}
