//! Generates the Rust types from `movies.schema.json`.
//!
//! typify turns definitions into structs. What it does not enforce by itself (bounds of integers,
//! lengths counted without a second allocation, forbidden characters, strict times) is carried by
//! the leaf types of this crate, `Bounded`, `Text` and `Timestamp`, whose parameters are read from
//! the schema here. A keyword that none of them enforces stops the build, so that the schema cannot
//! promise more than the types keep.

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
    // Files are read a record at a time, never as a whole.
    let definitions = root.definitions.into_iter().filter(|(name, _)| name != "MoviesFile");
    types.add_ref_types(definitions)?;

    let mut file: syn::File = syn::parse2(types.to_stream())?;
    // The errors of conversions that the leaf types do by themselves.
    file.items.retain(|item| !matches!(item, syn::Item::Mod(module) if module.ident == "error"));
    // An empty list is written like any other, so that every movie shows its cast and genres.
    let skip_empty = ", skip_serializing_if = \"::std::vec::Vec::is_empty\"";
    let code = prettyplease::unparse(&file).replace(skip_empty, "");
    let out = Path::new(&env::var("OUT_DIR")?).join("types.rs");
    Ok(fs::write(out, code)?)
}

/// What the generated types enforce, or need not.
const KEYWORDS: [&str; 20] = [
    "$schema",
    "$id",
    "$ref",
    "$defs",
    "title",
    "description",
    "default",
    "type",
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

/// # Errors
/// If a schema has a keyword that is not in the list.
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

/// typify reads draft 7: `$defs` was `definitions` there. `null` in a type union goes too: every
/// nullable property is optional, and serde reads `null` into an `Option` as none.
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
            map.values_mut().for_each(to_draft_07);
        }
        Value::Array(items) => items.iter_mut().for_each(to_draft_07),
        _ => {}
    }
}

/// Maps every string and integer below `schema` to the leaf type that enforces its keywords.
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

/// The Rust type for a string or an integer; none for the other types, and for formats, which
/// typify maps by itself.
fn leaf_type(object: &SchemaObject) -> Result<Option<String>> {
    let Some(SingleOrVec::Single(instance_type)) = instance_type(object) else {
        return Ok(None);
    };
    match (*instance_type, &object.format) {
        (InstanceType::String, Some(_)) => Ok(Some("crate::Timestamp".to_owned())),
        (InstanceType::String, None) => {
            let string = object.string.clone().unwrap_or_default();
            let min = string.min_length.unwrap_or(0);
            let max = string.max_length.unwrap_or(u32::MAX);
            let pattern = string.pattern.ok_or("a string must forbid U+0000")?;
            let controls = forbidden_controls(&pattern)?;
            Ok(Some(format!("crate::Text<{min}, {max}, {controls}>")))
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

/// Reads a pattern of the form `^[^\u0000\u001F]*$` into a mask: bit n stands for U+n.
fn forbidden_controls(pattern: &str) -> Result<u32> {
    let class = pattern
        .strip_prefix("^[^")
        .and_then(|rest| rest.strip_suffix("]*$"))
        .ok_or_else(|| format!("pattern {pattern}: only ^[^...]*$ of control characters"))?;
    class.split("\\u").skip(1).try_fold(0, |mask, code| match u32::from_str_radix(code, 16)? {
        control @ 0..=31 => Ok(mask | 1 << control),
        _ => Err(format!("pattern {pattern}: {code} is no control character").into()),
    })
}
