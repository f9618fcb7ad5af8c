//! The filters of queries on the catalogue, and their SQL.

use std::cmp::Reverse;

use super::{
    catalogue_row::{NAME_SEPARATOR, fold_genre},
    folding::fold,
    reads::Cost,
    sample::Sample,
    search::Field,
    sql::ListQuery,
};

/// Of how many words of a text the trigrams are looked up.
const MAX_RUNS: usize = 4;

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

    /// Returns what a query with these filters reads, if Postgres plans it. A filter that no index serves reads all that
    /// the others leave; genres and years may leave most of the catalogue.
    pub(super) fn cost(&self) -> Cost {
        let mut texts = self.titles.iter().chain(&self.actors).peekable();
        let is_scan = texts.peek().is_some() && !texts.any(|text| is_indexable(text));
        if is_scan { Cost::Scan } else { Cost::Index }
    }

    /// Returns the filters one by one. None if no movie can match.
    pub(super) fn each(&self) -> Option<Vec<Filter<'_>>> {
        let mut filters = Vec::new();
        for title in &self.titles {
            filters.push(Filter::Text(Field::Title, searchable(fold(title))?));
        }
        for actor in &self.actors {
            if actor.contains(NAME_SEPARATOR) {
                return None;
            }
            filters.push(Filter::Text(Field::Cast, searchable(fold(actor))?));
        }
        for genre in &self.genres {
            filters.push(Filter::Genre(searchable(fold_genre(genre))?));
        }
        if !self.years.is_empty() {
            if merged(&self.years).is_empty() {
                return None;
            }
            filters.push(Filter::Years(&self.years));
        }
        Some(filters)
    }

    /// Adds the conditions to a query on `movies`. Returns none if no movie can match.
    pub(super) fn push_to(&self, sql: &mut ListQuery) -> Option<()> {
        for filter in self.each()? {
            sql.push(" and ");
            filter.push_to(sql);
        }
        Some(())
    }
}

/// One filter.
#[derive(Clone, Debug)]
pub(super) enum Filter<'a> {
    /// Title or cast contain this folded text.
    Text(Field, String),
    /// This folded genre.
    Genre(String),
    /// Any of these years, at least one of which is possible.
    Years(&'a [Years]),
}

impl Filter<'_> {
    /// Whether an index finds the movies that match.
    pub(super) fn has_index(&self) -> bool {
        match self {
            Self::Text(_, part) => has_trigram(&runs(part)) || self.pairs().is_some(),
            Self::Genre(_) | Self::Years(_) => true,
        }
    }

    /// Returns the words whose trigrams this index looks up, as filters of their own. None if it has no trigrams.
    pub(super) fn indexed_words(&self) -> Vec<Filter<'static>> {
        let Self::Text(field, part) = self else { return Vec::new() };
        let runs = runs(part);
        if !has_trigram(&runs) {
            return Vec::new();
        }
        longest(runs).into_iter().map(|run| Filter::Text(*field, run.to_owned())).collect()
    }

    /// Returns which movies of a sample match.
    pub(super) fn matches(&self, sample: &Sample) -> Vec<bool> {
        match self {
            Self::Text(Field::Title, part) => sample.titles.containing(part),
            Self::Text(Field::Cast, part) => sample.casts.containing(part),
            Self::Genre(genre) => sample.with_genre(genre),
            Self::Years(years) => {
                let is_in = |year: &i32| {
                    let year = i64::from(*year);
                    years.iter().any(|Years(first, last)| (*first..=*last).contains(&year))
                };
                sample.years.iter().map(is_in).collect()
            }
        }
    }

    /// Adds the condition, which an index of this column may serve.
    pub(super) fn push_to(&self, sql: &mut ListQuery) {
        match self {
            Self::Text(field, part) => push_contains(sql, *field, part),
            Self::Genre(_) | Self::Years(_) => self.push_condition(sql),
        }
    }

    /// Adds the condition, which an index serves.
    pub(super) fn push_to_index(&self, sql: &mut ListQuery) {
        let Some(pairs) = self.pairs() else { return self.push_to(sql) };
        let pairs = sql.bind(pairs);
        sql.push(&format!("terms @@ {pairs}::text::tsquery and "));
        self.push_without_index(sql);
    }

    /// Returns the condition on terms by which the movies are found, if they are not found by the text itself.
    pub(super) fn pairs(&self) -> Option<String> {
        match self {
            Self::Text(field, part) if !has_trigram(&runs(part)) => field.condition(part),
            _ => None,
        }
    }

    /// Adds the condition in a form that no index serves.
    pub(super) fn push_without_index(&self, sql: &mut ListQuery) {
        sql.push("(");
        self.push_condition(sql);
        sql.push(") is true");
    }

    fn push_condition(&self, sql: &mut ListQuery) {
        match self {
            Self::Text(field, part) => push_like(sql, *field, part),
            Self::Genre(genre) => {
                let genre = sql.bind(vec![genre.clone()]);
                sql.push(&format!("genres_lc @> {genre}"));
            }
            Self::Years(years) => push_years(sql, years),
        }
    }
}

/// Returns the years that the database can have, as spans in ascending order that neither overlap nor touch.
pub(super) fn merged(years: &[Years]) -> Vec<Years> {
    let (least, most) = (i32::MIN.into(), i32::MAX.into());
    let spans = years.iter().map(|Years(first, last)| Years(*first.max(&least), *last.min(&most)));
    let mut spans: Vec<Years> = spans.filter(|Years(first, last)| first <= last).collect();
    spans.sort();
    spans.dedup_by(|next, span| {
        let touches = next.0 <= span.1 + 1;
        if touches {
            span.1 = span.1.max(next.1);
        }
        touches
    });
    spans
}

/// Adds the condition that the year is any of these.
fn push_years(sql: &mut ListQuery, years: &[Years]) {
    let (mut single, mut conditions) = (Vec::new(), Vec::new());
    for Years(first, last) in merged(years) {
        // They are within these bounds.
        let (first, last) = (first as i32, last as i32);
        if first == last {
            single.push(first);
        } else {
            let (first, last) = (sql.bind(first), sql.bind(last));
            conditions.push(format!("year between {first} and {last}"));
        }
    }
    match single[..] {
        [] => {}
        // Only of one year the index has the movies in the order of their ids.
        [year] => conditions.push(format!("year = {}", sql.bind(year))),
        _ => conditions.push(format!("year = any({})", sql.bind(single))),
    }
    sql.push(&format!("({})", conditions.join(" or ")));
}

/// Returns text that the database accepts. It refuses U+0000, which no stored text contains.
fn searchable(text: String) -> Option<String> {
    if text.contains('\0') { None } else { Some(text) }
}

/// Adds the condition that the text of `field` contains the folded text `part`.
fn push_contains(sql: &mut ListQuery, field: Field, part: &str) {
    let runs = runs(part);
    let is_split = runs.len() > 1 && runs.iter().all(|run| run.chars().count() > 3);
    if has_trigram(&runs) && !is_split {
        return push_like(sql, field, part);
    }
    if is_split {
        // With the whole part Postgres would also read the trigrams of where words begin and end, which most texts
        // have. With long words these save less than they take.
        for run in longest(runs) {
            push_like(sql, field, run);
            sql.push(" and ");
        }
    }
    // Without a trigram Postgres would read the whole index.
    sql.push("(");
    push_like(sql, field, part);
    sql.push(") is true");
}

/// Adds the condition that the text of `field` contains this text.
fn push_like(sql: &mut ListQuery, field: Field, text: &str) {
    let column = match field {
        Field::Title => "title_lc",
        Field::Cast => "cast_lc",
    };
    let escaped = text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    let pattern = sql.bind(format!("%{escaped}%"));
    sql.push(&format!("{column} like {pattern}"));
}

/// Whether the trigram indexes find `text` in titles or names: it has three characters in a row that pg_trgm counts.
pub fn is_indexable(text: &str) -> bool {
    has_trigram(&runs(&fold(text)))
}

fn has_trigram(runs: &[&str]) -> bool {
    runs.iter().any(|run| run.chars().nth(2).is_some())
}

/// Returns the parts of a text between characters that are neither letters nor ASCII digits.
fn runs(text: &str) -> Vec<&str> {
    let runs = text.split(|c: char| !c.is_ascii_digit() && !is_common_letter(c));
    runs.filter(|run| !run.is_empty()).collect()
}

/// Returns the longest of these runs, each once.
fn longest(mut runs: Vec<&str>) -> Vec<&str> {
    runs.sort_unstable_by_key(|run| (Reverse(run.len()), *run));
    runs.dedup();
    runs.truncate(MAX_RUNS);
    runs
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_words_of_a_text_are_looked_up_each_once() {
        let text = format!("{}alpha omega gamma alpha delta-longest", "abc ".repeat(50));
        let words = Filter::Text(Field::Title, text).indexed_words();
        let words = words.iter().map(|word| match word {
            Filter::Text(_, word) => word.as_str(),
            _ => "",
        });
        assert_eq!(Vec::from_iter(words), ["longest", "alpha", "delta", "gamma"]);
    }
}
