//! Titles and names that complete what is being typed: those of the movies that a search finds.

use std::collections::HashSet;

use deadpool_postgres::{GenericClient, Transaction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    FoundMovie, SearchQuery, dictionary, search, search_begun, snapshot, terms::key, tiers,
    words::words,
};
use crate::store::{
    Filters, Revision, Store, StoreError,
    folding::fold,
    reads::{self, Cost, ReadPool},
};

/// The largest number of suggestions.
const MAX_SUGGESTIONS: usize = 10;

/// How many of the best movies suggestions are taken from.
const MOVIES: i64 = 50;

/// A title or a name that completes what was typed.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Suggestion {
    /// The title or the name.
    pub text: String,
    /// What it is.
    pub kind: SuggestionKind,
    /// How many movies have this title, or this name in their cast, in any case.
    pub count: i64,
}

/// What a suggestion is.
#[derive(Clone, Copy, Debug, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SuggestionKind {
    /// The title of a movie.
    Title,
    /// The name of a cast member.
    Actor,
}

impl Store {
    /// Returns titles and names that complete `text`, the best first, with the state of the catalogue that they
    /// are of: `at_least` or a newer one. The state is none if no catalogue can have any.
    ///
    /// # Errors
    /// If the database is unavailable, or the search takes too long.
    pub async fn suggest(
        &self,
        text: &str,
        at_least: Revision,
    ) -> Result<(Option<Revision>, Vec<Suggestion>), StoreError> {
        let query = SearchQuery::new(text, Filters::default(), MOVIES, None);
        let (revision, suggestions) = self.read_suggestions(&self.pools.search, &query).await?;
        if self.is_page_recent(revision, at_least) {
            return Ok((revision, suggestions));
        }
        self.read_suggestions(&self.pools.primary_search, &query).await
    }

    async fn read_suggestions(
        &self,
        pool: &ReadPool,
        query: &SearchQuery,
    ) -> Result<(Option<Revision>, Vec<Suggestion>), StoreError> {
        let mut connection = pool.lend(Cost::Index).await?;
        let frequencies = self.frequencies.get(&*connection).await?;
        let transaction = snapshot(&mut connection).await?;
        let page = search(&transaction, query, &frequencies).await?;
        let mut found = page.movies;
        let mut suggestions = matching(&query.words, &found);
        // What has a word as it was typed must not hide what begins with it: an initial, as in "john w".
        if suggestions.len() < MAX_SUGGESTIONS && found.first().is_some_and(|first| !first.is_begun)
        {
            found.extend(search_begun(&transaction, query, &frequencies).await?.movies);
            suggestions = matching(&query.words, &found);
        }
        let suggestions = counted(&transaction, suggestions).await?;
        drop(transaction);
        reads::finish(connection);
        Ok((page.revision, suggestions))
    }
}

/// Returns the distinct titles and names of `movies` that match what was typed.
fn matching(typed: &[String], movies: &[FoundMovie]) -> Vec<Suggestion> {
    #[derive(Deserialize)]
    struct Texts {
        title: String,
        #[serde(default)]
        cast: Vec<String>,
    }
    let mut known = HashSet::new();
    let texts = movies.iter().filter_map(|found| serde_json::from_str(&found.movie.json).ok());
    let texts = texts.flat_map(|Texts { title, cast }| {
        let names = cast.into_iter().map(|name| (SuggestionKind::Actor, name));
        [(SuggestionKind::Title, title)].into_iter().chain(names)
    });
    let matching = texts
        .filter(|(kind, text)| matches(typed, &words(text)) && known.insert((*kind, fold(text))));
    let matching = matching.map(|(kind, text)| Suggestion { text, kind, count: 0 });
    matching.take(MAX_SUGGESTIONS).collect()
}

/// Whether each typed word is a word of a text, the beginning of one, or one with typing errors; or the text
/// begins with what was typed.
fn matches(typed: &[String], text: &[String]) -> bool {
    let is_meant = |typed: &String, word: &String| {
        let edits = strsim::osa_distance(typed, word);
        word.starts_with(typed.as_str()) || edits <= dictionary::max_edits(word)
    };
    let has = |typed: &String| text.iter().any(|word| is_meant(typed, word));
    typed.iter().all(has)
        || key(text).starts_with(&key(typed))
        || text.concat().starts_with(&typed.concat())
}

/// Counts the movies that have each title or name.
async fn counted(
    transaction: &Transaction<'_>,
    mut suggestions: Vec<Suggestion>,
) -> Result<Vec<Suggestion>, StoreError> {
    let count = "
        /* suggest::counted */
        select case
            when s.terms is null then (
                select count(*) from movies where title_key = s.key and title_lc = s.folded
            )
            else (
                select count(*)
                from movies
                where terms @@ s.terms::tsquery
                    and position(chr(31) || s.folded || chr(31) in chr(31) || cast_lc || chr(31)) > 0
            )
        end
        from unnest($1::text[], $2::text[], $3::text[]) with ordinality as s (key, folded, terms, nth)
        order by nth";
    if suggestions.is_empty() {
        return Ok(suggestions);
    }
    let (mut keys, mut folded, mut terms) = (Vec::new(), Vec::new(), Vec::new());
    for suggestion in &suggestions {
        let words = words(&suggestion.text);
        keys.push(key(&words));
        folded.push(fold(&suggestion.text));
        let is_name = suggestion.kind == SuggestionKind::Actor;
        terms.push(is_name.then(|| tiers::name(&words).to_tsquery()).flatten());
    }
    let statement = transaction.prepare_cached(count).await?;
    let rows = transaction.query(&statement, &[&keys, &folded, &terms]).await?;
    for (suggestion, row) in suggestions.iter_mut().zip(rows) {
        suggestion.count = row.get(0);
    }
    Ok(suggestions)
}
