//! The filters of queries on the catalogue, and their SQL.

use super::{
    catalogue_row::{NAME_SEPARATOR, fold_genre},
    folding::fold,
    reads::Cost,
    sql::ListQuery,
};

/// The filters of a query. A movie must match all of them. Text is as the client sent it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filters {
    /// Substrings of the title.
    pub titles: Vec<String>,
    /// Substrings of the name of any one cast member each.
    pub actors: Vec<String>,
    /// Whole genres.
    pub genres: Vec<String>,
    /// Years, any of which matches; all if there are none.
    pub years: Vec<Years>,
}

/// One or several successive years: from the first to the second one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Years(pub i64, pub i64);

impl Filters {
    /// Returns filters that match the same movies and are equal for all that differ in spelling, order
    /// and repetition.
    pub fn normalised(&self) -> Self {
        let sorted = |texts: &[String], fold: fn(&str) -> String| {
            let mut texts: Vec<String> = texts.iter().map(|text| fold(text)).collect();
            texts.sort();
            texts.dedup();
            texts
        };
        let mut years = self.years.clone();
        years.sort();
        years.dedup();
        Self {
            titles: sorted(&self.titles, fold),
            actors: sorted(&self.actors, fold),
            genres: sorted(&self.genres, fold),
            years,
        }
    }

    /// Returns what a query with these filters reads. A filter that no index serves reads all that the others leave;
    /// genres and years may leave most of the catalogue.
    pub(super) fn cost(&self) -> Cost {
        let texts = || self.titles.iter().chain(&self.actors);
        let is_scan = texts().next().is_some() && !texts().any(|text| is_indexable(text));
        if is_scan { Cost::Scan } else { Cost::Index }
    }

    /// Adds the conditions to a query on `movies`. Returns none if no movie can match.
    pub(super) fn push_to(&self, sql: &mut ListQuery) -> Option<()> {
        for title in &self.titles {
            push_contains(sql, "title_lc", title)?;
        }
        for actor in &self.actors {
            if actor.contains(NAME_SEPARATOR) {
                return None;
            }
            push_contains(sql, "cast_lc", actor)?;
        }
        for genre in &self.genres {
            let genre = sql.bind(vec![searchable(fold_genre(genre))?]);
            sql.push(&format!(" and genres_lc @> {genre}"));
        }
        push_years(sql, &self.years)
    }
}

/// Adds the condition that the year is any of these. Returns none if no movie can match.
fn push_years(sql: &mut ListQuery, years: &[Years]) -> Option<()> {
    if years.is_empty() {
        return Some(());
    }
    let clamp = |year: i64| year.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
    let (mut single, mut conditions) = (Vec::new(), Vec::new());
    for Years(first, last) in years.iter().copied() {
        let is_beyond = first > i32::MAX.into() || last < i32::MIN.into();
        if first > last || is_beyond {
            continue;
        }
        if first == last {
            single.push(clamp(first));
        } else {
            let (first, last) = (sql.bind(clamp(first)), sql.bind(clamp(last)));
            conditions.push(format!("year between {first} and {last}"));
        }
    }
    match single[..] {
        [] => {}
        // Only of one year the index has the movies in the order of their ids.
        [year] => conditions.push(format!("year = {}", sql.bind(year))),
        _ => conditions.push(format!("year = any({})", sql.bind(single))),
    }
    if conditions.is_empty() {
        return None;
    }
    sql.push(&format!(" and ({})", conditions.join(" or ")));
    Some(())
}

/// Returns text that the database accepts. It refuses U+0000, which no stored text contains.
fn searchable(text: String) -> Option<String> {
    if text.contains('\0') { None } else { Some(text) }
}

/// Adds the filter that `column` contains `part`. Returns none if no stored text can match.
fn push_contains(sql: &mut ListQuery, column: &str, part: &str) -> Option<()> {
    let folded = searchable(fold(part))?;
    let escaped = folded.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    let pattern = sql.bind(format!("%{escaped}%"));
    // Without three letters in a row there is no trigram to look up, and Postgres would read the
    // whole index. The appended `|| ''` keeps the planner from that.
    let no_index = if has_trigram(&folded) { "" } else { " || ''" };
    sql.push(&format!(" and {column}{no_index} like {pattern}"));
    Some(())
}

/// Whether an index can find `text` in titles or names: it has three characters in a row that pg_trgm
/// counts.
pub fn is_indexable(text: &str) -> bool {
    has_trigram(&fold(text))
}

/// Whether `text` has three letters or ASCII digits in a row.
fn has_trigram(text: &str) -> bool {
    let mut run = 0;
    text.chars().any(|c| {
        run = if c.is_ascii_digit() || is_common_letter(c) { run + 1 } else { 0 };
        run >= 3
    })
}

/// Whether `c` is a letter for pg_trgm, too. Which letters that knows depends on the Unicode version of
/// the database's locale. So these are the ranges to which no letters have been added for long.
fn is_common_letter(c: char) -> bool {
    let is_common = matches!(c,
        'A'..='\u{2ff}' // Latin
        | '\u{370}'..='\u{7ff}' // Greek, Cyrillic, Armenian, Hebrew, Arabic
        | '\u{900}'..='\u{bff}' // Devanagari to Tamil
        | '\u{e00}'..='\u{e7f}' // Thai
        | '\u{10d0}'..='\u{11ff}' // Georgian, Hangul
        | '\u{1e00}'..='\u{1fff}' // Latin, Greek
        | '\u{3040}'..='\u{30ff}' // Hiragana, Katakana
        | '\u{4e00}'..='\u{9fcc}' // Chinese characters
        | '\u{ac00}'..='\u{d7a3}' // Hangul
    );
    is_common && c.is_alphabetic()
}
