//! All results of a search, for what needs more than a page of them: counts, and the whole result.

use std::sync::Arc;

use deadpool_postgres::GenericClient;

use super::{
    SearchQuery, compose, dictionary, exact_query,
    frequencies::{Frequencies, KnownFrequencies},
    query::push_condition,
    search,
    tiers::{self, Tier},
};
use crate::store::{Revision, StoreError, sql::ListQuery};

/// A limit that no result reaches.
pub(super) const NO_LIMIT: i64 = i64::MAX / 2;

/// The ways in which the results of a search match.
pub(in crate::store) struct Results {
    /// The search without a limit.
    pub(super) query: SearchQuery,
    pub(super) frequencies: Arc<Frequencies>,
    /// The tiers of words as they were typed. None if no movie matches so.
    pub(super) exact: Vec<Tier>,
    /// Further tiers, those of each statement.
    pub(super) further: Vec<Vec<Tier>>,
}

impl Results {
    /// Decides in which ways the results of `query` match, whatever its limit and start: the best result tells.
    /// None if there are no results. Returns the state of the catalogue too, as of a page.
    ///
    /// # Errors
    /// If the database is unavailable, or the search takes too long.
    pub(in crate::store) async fn decide(
        transaction: &impl GenericClient,
        query: &SearchQuery,
        frequencies: &KnownFrequencies,
    ) -> Result<(Option<Revision>, Option<Self>), StoreError> {
        let first = SearchQuery { limit: 1, after: None, ..query.clone() };
        let frequencies = frequencies.get(transaction).await?;
        let page = search(transaction, &first, &frequencies).await?;
        let Some(best) = page.movies.first() else { return Ok((page.revision, None)) };
        let words = &query.words;
        let (mut exact, mut further) = (Vec::new(), Vec::new());
        if best.rank < tiers::WORDS_CORRECTED {
            exact = tiers::exact(words);
            further.extend(best.is_begun.then(|| tiers::begun(words)));
        }
        if words.len() <= tiers::MAX_CORRECTED {
            let corrections = &dictionary::corrections(transaction, words).await?;
            further.push(if best.rank < tiers::WORDS_CORRECTED {
                tiers::corrected(words, corrections)
            } else if best.rank < tiers::ONE_MISSING {
                tiers::words_corrected(words, corrections)
            } else {
                tiers::one_missing(words, corrections)
            });
        }
        let query = SearchQuery { limit: NO_LIMIT, ..first };
        Ok((page.revision, Some(Self { query, frequencies, exact, further })))
    }

    /// Adds the condition that a movie is a result to a query on `movies`. Returns none if no movie can match the
    /// filters.
    pub(in crate::store) fn push_to(&self, sql: &mut ListQuery) -> Option<()> {
        let tiers = self.exact.iter().chain(self.further.iter().flatten());
        push_condition(sql, &self.query, tiers, &self.frequencies);
        self.query.filters.push_to(sql)
    }

    /// Composes the statements of all results. One after another they return the best match first.
    pub(in crate::store) fn statements(&self) -> Vec<ListQuery> {
        let Self { query, frequencies, exact, further } = self;
        let mut known = exact.clone();
        let mut statements = vec![exact_query(query, exact, frequencies)];
        for tiers in further {
            statements.push(compose(query, &known, tiers, frequencies, query.limit));
            known.extend(tiers.iter().cloned());
        }
        statements.into_iter().flatten().collect()
    }
}
