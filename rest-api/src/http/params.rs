//! Query parameters.
//!
//! They are parsed here, not by warp: warp's own rejection would not say which one is wrong.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;

use crate::problem::{Code, Problem};

/// How many parameters one query may have.
const MAX_PARAMETERS: usize = 32;

/// How many results one page has, unless the client says otherwise; and the most it may ask for.
pub(super) const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 1000;

/// The parameters of a query, decoded, in order. Those without a value are left out.
///
/// # Errors
/// If one is not in `known`, or is not valid percent-encoded UTF-8.
pub(super) fn parse<'a>(
    query: &'a str,
    known: &[&'static str],
) -> Result<Vec<(&'static str, String)>, Problem> {
    let pairs: Vec<&'a str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    if pairs.len() > MAX_PARAMETERS {
        let detail = format!("at most {MAX_PARAMETERS} query parameters");
        return Err(Problem::new(Code::InvalidParameter, detail));
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

/// As HTML forms encode: a plus is a space.
fn decode(encoded: &str) -> Option<String> {
    let spaced = encoded.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|decoded| decoded.into_owned())
}

/// # Errors
/// If it is no number from 1 to 1000.
pub(super) fn limit(value: &str) -> Result<i64, Problem> {
    let problem = || Problem::parameter("limit", &format!("a number from 1 to {MAX_LIMIT}"));
    value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(problem)
}

/// A cursor: what it belongs to, and the id of the last result. Clients know no more of it than
/// that they got it from us.
pub(super) fn cursor(of: &str, id: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("{of}:{id}"))
}

/// The id in a cursor of [`cursor`] for the same `of`.
///
/// # Errors
/// If it is not one of ours, or belongs to another order.
pub(super) fn parse_cursor(value: &str, of: &str) -> Result<i64, Problem> {
    let id = || {
        let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
        decoded.strip_prefix(of)?.strip_prefix(':')?.parse().ok()
    };
    id().ok_or_else(|| {
        Problem::parameter("after", "take it from the Link header, and keep the same sort")
    })
}
