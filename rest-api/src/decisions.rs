//! Decisions of people on the command line: undo, redo and approve; and all decisions as NDJSON, those about single
//! movies included.

use std::io::{self, BufRead, Read, Write};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    store::{
        Decided, DecidedIngest, Decision, Effect, Imported, Ingest, MovieDecision, Store,
        StoreError, Undo,
    },
    terminal::printable,
};

/// The longest line, in bytes: a movie that a client wrote, of which JSON may escape some.
const MAX_LINE: u64 = 8 << 20;

/// The largest number of decisions that are imported at once.
const MAX_DECISIONS: usize = 100_000;

/// The longest name, key or id, in bytes.
const MAX_TEXT: usize = 1024;

/// The number of digits of a padded sequencer.
const SEQUENCER_LENGTH: usize = 64;

/// How much later than the clock of this machine a decision may be.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// Why decisions cannot be exported, imported or made.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// A line is no decision. Nothing was imported.
    #[error("line {0}: {1}; nothing was imported")]
    Line(usize, String),
    /// There are more than fit into one import.
    #[error("more than {MAX_DECISIONS} decisions: import them in parts, the oldest first")]
    TooMany,
    /// There is no such ingest.
    #[error("no such ingest: GET /ingests lists them")]
    NotFound,
    /// Only a blocked ingest can be approved.
    #[error("the ingest is {0}; only a blocked one can be approved")]
    NotBlocked(&'static str),
    /// The input cannot be read, or the output not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes all decisions to `out`, one a line, the oldest first. Returns their number.
///
/// # Errors
/// If the database is unavailable or `out` cannot be written.
pub async fn export(store: &Store, mut out: impl Write) -> Result<u64, DecisionError> {
    store.ready().await?;
    let mut count = 0;
    store.visit_decisions(|decision| write_line(&mut out, &decision, &mut count)).await?;
    store.visit_movie_decisions(|decision| write_line(&mut out, &decision, &mut count)).await?;
    out.flush()?;
    Ok(count)
}

fn write_line(
    out: &mut impl Write,
    decision: &impl Serialize,
    count: &mut u64,
) -> Result<(), DecisionError> {
    serde_json::to_writer(&mut *out, decision).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    *count += 1;
    Ok(())
}

/// Adds the decisions of `input`, one a line, and applies them: all or none.
///
/// # Errors
/// If a line is no decision, or the database is unavailable. Nothing is changed then.
pub async fn import(store: &Store, input: impl BufRead) -> Result<Imported, DecisionError> {
    store.ready().await?;
    let Parsed { decisions, on_movies } = parse(input)?;
    Ok(store.import_decisions(&decisions, &on_movies).await?)
}

/// Decisions about versions and about movies.
#[derive(Default)]
struct Parsed {
    decisions: Vec<Decision>,
    on_movies: Vec<MovieDecision>,
}

/// Parses decisions, one a line.
fn parse(mut input: impl BufRead) -> Result<Parsed, DecisionError> {
    let mut parsed = Parsed::default();
    let mut count = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(parsed);
        }
        if count == MAX_DECISIONS {
            return Err(DecisionError::TooMany);
        }
        count += 1;
        let added = match line.len() as u64 {
            ..=MAX_LINE => parse_line(line.trim_ascii(), &mut parsed),
            _ => Err(format!("longer than {MAX_LINE} bytes")),
        };
        added.map_err(|problem| DecisionError::Line(count, problem))?;
    }
}

/// Parses one decision.
fn parse_line(line: &[u8], parsed: &mut Parsed) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Kind {
        decision: String,
    }

    if line.is_empty() {
        return Err("empty; each line is a decision".to_owned());
    }
    // The position is one within the line, which is always line 1.
    let problem =
        |error: serde_json::Error| error.to_string().replace(" at line 1 column ", " at column ");
    let Kind { decision } = serde_json::from_slice(line).map_err(problem)?;
    if matches!(&*decision, "edit" | "delete" | "hold") {
        let decision: MovieDecision = serde_json::from_slice(line).map_err(problem)?;
        check_name(&decision.decided_by, decision.decided_at)?;
        parsed.on_movies.push(decision);
    } else {
        let decision: Decision = serde_json::from_slice(line).map_err(problem)?;
        check(&decision)?;
        parsed.decisions.push(decision);
    }
    Ok(())
}

/// Checks by whom and when something was decided.
fn check_name(decided_by: &str, decided_at: DateTime<Utc>) -> Result<(), String> {
    check_text("decided_by", decided_by)?;
    if !(DateTime::UNIX_EPOCH..Utc::now() + MAX_CLOCK_SKEW).contains(&decided_at) {
        return Err("decided_at: expected a time since 1970 that is not in the future".to_owned());
    }
    Ok(())
}

fn check_text(name: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > MAX_TEXT || text.contains('\0') {
        return Err(format!("{name}: expected 1 to {MAX_TEXT} bytes without U+0000"));
    }
    Ok(())
}

/// Checks what the types do not.
fn check(decision: &Decision) -> Result<(), String> {
    let Decision { bucket, key, version_id, etag, sequencer, decided_by, .. } = decision;
    let required = [("bucket", bucket), ("key", key)];
    let optional = [("version_id", version_id), ("etag", etag)];
    let optional = optional.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
    for (name, text) in required.into_iter().chain(optional) {
        check_text(name, text)?;
    }
    let is_padded = sequencer.len() == SEQUENCER_LENGTH
        && sequencer.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !sequencer.is_empty() && !is_padded {
        return Err(format!("sequencer: expected {SEQUENCER_LENGTH} hexadecimal digits, or none"));
    }
    if version_id.is_none() && etag.is_none() && sequencer.is_empty() {
        return Err("version_id or etag: one of them must say which version it is".to_owned());
    }
    if decision.removal && decision.decision == Decided::Approve {
        return Err("removal: only a snapshot can be approved".to_owned());
    }
    check_name(decided_by, decision.decided_at)
}

/// Writes what an import has changed.
///
/// # Errors
/// If it cannot be written.
pub fn print_imported(imported: &Imported, json: bool, mut out: impl Write) -> io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::to_string(imported)?);
    }
    let Imported { added, known, changed, approved, movies } = imported;
    writeln!(
        out,
        "{added} decisions added, {known} known already; {changed} merged versions changed, \
         {approved} blocked ingests approved, {movies} movies changed, deleted or held"
    )
}

/// Undoes or redoes an ingest, and writes what that changes.
///
/// # Errors
/// See [`Store::undo`]. If there is no such ingest, or `out` cannot be written.
pub async fn undo(
    store: &Store,
    id: i64,
    undo: Undo,
    by: &str,
    dry_run: bool,
    json: bool,
    mut out: impl Write,
) -> Result<(), DecisionError> {
    store.ready().await?;
    let decided = store.undo(id, undo, by, dry_run).await?;
    let decided = decided.ok_or(DecisionError::NotFound)?;
    if json {
        writeln!(out, "{}", serde_json::to_string(&decided).map_err(io::Error::from)?)?;
        return Ok(());
    }
    let DecidedIngest { ingest, effect } = decided;
    let Effect { withdrawn, restored, changed, movies, .. } = &effect;
    let done = match (undo, dry_run) {
        (Undo::Undo, false) => "undone",
        (Undo::Redo, false) => "redone",
        (Undo::Undo, true) => "would be undone",
        (Undo::Redo, true) => "would be redone",
    };
    writeln!(out, "ingest {id} {done}: {}", name(&ingest))?;
    for movie in movies {
        let title = printable(&movie.title);
        writeln!(out, "{:<9}  {}  {title} ({})", movie.effect, movie.id, movie.year)?;
    }
    let unlisted = (withdrawn + restored + changed).saturating_sub(movies.len() as u64);
    if unlisted > 0 {
        writeln!(out, "and {unlisted} more")?;
    }
    writeln!(out, "{withdrawn} movies withdrawn, {restored} restored, {changed} changed")?;
    if !dry_run && restored + changed > 0 {
        writeln!(out, "The running service reads the files of what is restored or changed again")?;
    }
    Ok(())
}

/// Approves a blocked ingest.
///
/// # Errors
/// If there is no such ingest, or it is not blocked.
pub async fn approve(
    store: &Store,
    id: i64,
    by: &str,
    json: bool,
    mut out: impl Write,
) -> Result<(), DecisionError> {
    store.ready().await?;
    let (approved, ingest) = store.approve(id, by).await?.ok_or(DecisionError::NotFound)?;
    if !approved {
        return Err(DecisionError::NotBlocked(ingest.state.name()));
    }
    if json {
        writeln!(out, "{}", serde_json::to_string(&ingest).map_err(io::Error::from)?)?;
    } else {
        writeln!(out, "ingest {id} approved: {}", name(&ingest))?;
        writeln!(out, "The running service ingests it")?;
    }
    Ok(())
}

/// Returns the name of an object and its version, to be printed.
fn name(Ingest { bucket, key, version_id, .. }: &Ingest) -> String {
    let name = format!("{bucket}/{}", printable(key));
    match version_id {
        Some(version_id) => format!("{name}, version {}", printable(version_id)),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"decision":"undo","bucket":"b","key":"k","version_id":"v","etag":"e","decided_at":"2026-01-01T00:00:00Z","decided_by":"Ann"}"#;

    fn error(input: &str) -> String {
        parse(input.as_bytes()).map(|parsed| parsed.decisions.len()).unwrap_err().to_string()
    }

    #[test]
    fn a_line_that_is_no_decision_is_named() {
        assert_eq!(parse(format!("{LINE}\r\n{LINE}").as_bytes()).unwrap().decisions.len(), 2);
        assert_eq!(parse("".as_bytes()).unwrap().decisions, []);
        for (from, to, expected) in [
            (r#""undo""#, r#""retract""#, "unknown variant `retract`"),
            (r#""key":"k","#, "", "missing field `key`"),
            (r#""key""#, r#""keys":1,"key""#, "unknown field `keys`"),
            (r#""k""#, r#""""#, "key: expected 1 to 1024 bytes"),
            (r#""e""#, r#""e\u0000""#, "etag: expected 1 to 1024 bytes"),
            ("2026", "2999", "decided_at: expected a time since 1970"),
            ("2026-01-01T00:00:00Z", "yesterday", "at column"),
            (r#""version_id":"v","etag":"e""#, r#""version_id":null"#, "version_id or etag"),
            (r#""etag""#, r#""sequencer":"0A","etag""#, "sequencer: expected 64"),
            (r#""undo""#, r#""approve","removal":true"#, "only a snapshot can be approved"),
            (r#""Ann"}"#, r#""Ann"} {}"#, "trailing characters"),
        ] {
            assert!(LINE.contains(from), "{from}");
            let message = error(&format!("{LINE}\n{}\n{LINE}", LINE.replacen(from, to, 1)));
            assert!(message.starts_with("line 2: "), "{message}");
            assert!(message.contains(expected), "{message}");
            assert!(message.ends_with("; nothing was imported"), "{message}");
        }
        assert!(error(&format!("{LINE}\n\n")).starts_with("line 2: empty"));
        let long = format!("{LINE}\n{}", "x".repeat(9 << 20));
        assert!(error(&long).starts_with("line 2: longer than 8388608 bytes"));
    }
}
