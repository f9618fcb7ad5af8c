//! Query parameters.
//!
//! warp does not parse them, because its rejection would not name the wrong one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;

use crate::{problem::Problem, store::canonical};

/// The largest number of parameters in one query.
const MAX_PARAMETERS: usize = 32;

/// The longest text of a filter, in characters. Comparing a longer one with long stored names takes
/// seconds.
pub(super) const MAX_TEXT: usize = 256;

/// The number of results of a page: the default, and the largest.
pub(super) const DEFAULT_LIMIT: i64 = 100;
pub(super) const MAX_LIMIT: i64 = 1000;

/// Returns the parameters of a query, decoded, in order. It leaves out those without a value.
///
/// # Errors
/// If a parameter is not in `known`, or is not percent-encoded UTF-8.
pub(super) fn parse<'a>(
    query: &'a str,
    known: &[&'static str],
) -> Result<Vec<(&'static str, String)>, Problem> {
    let pairs: Vec<&'a str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    if pairs.len() > MAX_PARAMETERS {
        return Err(Problem::query(&format!("at most {MAX_PARAMETERS} parameters")));
    }
    let mut parameters = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)
            .ok_or_else(|| Problem::parameter(name, "the name is not percent-encoded UTF-8"))?;
        let Some(name) = known.iter().find(|known| **known == name) else {
            let known = known.join(", ");
            let allowed = if known.is_empty() { "none here".to_owned() } else { known };
            return Err(Problem::parameter(&name, &format!("not known (known: {allowed})")));
        };
        let value = decode(value)
            .ok_or_else(|| Problem::parameter(name, "the value is not percent-encoded UTF-8"))?;
        if !value.is_empty() {
            parameters.push((*name, value));
        }
    }
    Ok(parameters)
}

/// Decodes a name or value as an HTML form encodes it: a plus is a space.
fn decode(encoded: &str) -> Option<String> {
    let spaced = encoded.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|decoded| decoded.into_owned())
}

/// Checks that a query is empty.
///
/// # Errors
/// If it has a parameter.
pub(super) fn none(query: &str) -> Result<(), Problem> {
    parse(query, &[]).map(|_| ())
}

/// Returns the text of a filter.
///
/// # Errors
/// If it is longer than 256 characters, as it is and in composed form.
pub(super) fn text(name: &str, value: String) -> Result<String, Problem> {
    if value.chars().count() > MAX_TEXT && canonical(&value).chars().count() > MAX_TEXT {
        return Err(Problem::parameter(name, &format!("at most {MAX_TEXT} characters")));
    }
    Ok(value)
}

/// Parses the parameter `limit`.
///
/// # Errors
/// If it is not a number from 1 to 1000.
pub(super) fn limit(value: &str) -> Result<i64, Problem> {
    let problem = || Problem::parameter("limit", &format!("a number from 1 to {MAX_LIMIT}"));
    value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(problem)
}

/// Returns the cursor after the result `id` of a list in this `order`. It is opaque to clients.
pub(super) fn cursor(order: &str, id: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("{order}:{id}"))
}

/// Returns the id in a cursor of [`cursor`].
///
/// # Errors
/// If it is malformed, or belongs to another order.
pub(super) fn parse_cursor(value: &str, order: &str) -> Result<i64, Problem> {
    position(value, order).and_then(|id| id.parse().ok()).ok_or_else(wrong_cursor)
}

/// Returns the rank and the id in a cursor of [`cursor`] whose order ends with a colon and a rank.
///
/// # Errors
/// If it is malformed, or belongs to another order.
pub(super) fn parse_ranked_cursor(value: &str, order: &str) -> Result<(i32, i64), Problem> {
    let position = position(value, order);
    let ids = position.as_deref().and_then(|position| position.split_once(':'));
    let ids = ids.and_then(|(rank, id)| Some((rank.parse().ok()?, id.parse().ok()?)));
    ids.ok_or_else(wrong_cursor)
}

/// Returns what follows the order in a cursor.
fn position(value: &str, order: &str) -> Option<String> {
    let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
    Some(decoded.strip_prefix(order)?.strip_prefix(':')?.to_owned())
}

fn wrong_cursor() -> Problem {
    Problem::parameter("after", "take it from the Link header, and keep the same query")
}
