//! The requests of clients that write movies: many at once, or a change of one.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use tokio_postgres::types::ToSql;

use super::{
    CatalogueRow, FoundById, Merged, MovieState, MovieWithProvenance, Store, StoreError,
    VersionPosition,
    batch_movies::{Part, apply, read_movies, write_movies},
    edits, holds, merge,
    merged_versions::MergedVersion,
    movie_sets, one_movie,
    sql::{execute, query_one, query_opt},
    staging::check_records,
    withdrawn,
};

/// What becomes of a movie.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// It gets this content.
    Replaced(&'a CatalogueRow),
    /// It is deleted.
    Deleted,
}

/// A change of one movie.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// The id of the movie.
    pub id: i64,
    /// What becomes of it.
    pub content: Content<'a>,
    /// The state that it must be in.
    pub expected: MovieState,
    /// Whether files do not change it from now on.
    pub hold: bool,
    /// Who changes it.
    pub by: &'a str,
}

/// Tells a request from a repetition of it.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyKey<'a> {
    /// Who sends the request.
    pub caller: &'a str,
    /// The key that the client has chosen.
    pub key: &'a str,
    /// A digest of the request.
    pub fingerprint: &'a [u8],
}

/// The answer to a change of one movie.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Edited {
    /// The movie as JSON; empty if it was deleted.
    pub answer: String,
    /// Its entity tag.
    pub etag: Option<String>,
}

impl Store {
    /// Merges movies that a client posts, like a file of the present time.
    ///
    /// # Errors
    /// [`StoreError::OverBudget`] if there are more movies than the budget of a file allows. If the
    /// database is unavailable, or other merges take too long. Nothing is changed then.
    pub async fn post_movies(&self, rows: &[CatalogueRow], by: &str) -> Result<Merged, StoreError> {
        check_records(rows.len() as i64, self.budget)?;
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        merge::lock_for_request(&transaction).await?;
        // Nothing that is merged is newer, so the position does not matter yet.
        let first = VersionPosition::first();
        let part = Part::of_client(MergedVersion::of_client(&first), rows, by);
        let mut movies = read_movies(&transaction, std::iter::once(&part)).await?;
        let known = movies.values().filter_map(|movie| movie.id).map(i64::cast_unsigned);
        let times = Times::read(&transaction, &known.collect()).await?;
        let (mut new_movies, mut held) = (Vec::new(), Vec::new());
        let merged = apply(&part, &mut movies, &mut new_movies, &mut held);
        write_movies(&transaction, &mut movies, &new_movies).await?;
        let written = part
            .rows
            .iter()
            .filter_map(|(_, row)| Some((movies.get(&row.folded.identity)?.id?, Some(&*row.doc))));
        let (ids, docs): (Vec<i64>, Vec<Option<&str>>) = written.unzip();
        edits::record(&transaction, &times.of(&ids), by, &ids, &docs).await?;
        holds::report(&transaction, &held).await?;
        let revision = merge::increment_revision(&transaction, merged.changes_movies()).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        self.add_changes(&merged);
        Ok(merged)
    }

    /// Returns the answer to an earlier request with this idempotency key, if there is one.
    ///
    /// # Errors
    /// [`StoreError::KeyReused`] if it was another request. If the database is unavailable.
    pub async fn answered(&self, key: &IdempotencyKey<'_>) -> Result<Option<Edited>, StoreError> {
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        answered(&transaction, key).await
    }

    /// Reads what the primary database has of an id.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn present_movie(&self, id: i64) -> Result<FoundById, StoreError> {
        Ok(one_movie::read(&self.writer().await?, id).await?.1)
    }

    /// Changes one movie. Its edit comes after all versions that are merged. Returns the answer, which `answer` renders
    /// of the changed movie; that to the first request if this one repeats it.
    ///
    /// # Errors
    /// [`StoreError::MovieChanged`] if the movie is not in the expected state. [`StoreError::KeyReused`] if the
    /// idempotency key was that of another request. If the database is unavailable, or other merges take too long.
    /// Nothing is changed then.
    pub async fn edit_movie(
        &self,
        edit: &Edit<'_>,
        key: Option<&IdempotencyKey<'_>>,
        answer: impl Fn(&MovieWithProvenance) -> Edited,
    ) -> Result<Edited, StoreError> {
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        merge::lock_for_request(&transaction).await?;
        if let Some(key) = key
            && let Some(edited) = answered(&transaction, key).await?
        {
            return Ok(edited);
        }
        match one_movie::read(&transaction, edit.id).await?.1 {
            FoundById::Movie(movie) if movie.state() == edit.expected => {}
            _ => return Err(StoreError::MovieChanged),
        }
        let changed = write(&transaction, edit).await?;
        let edited = match one_movie::read(&transaction, edit.id).await?.1 {
            FoundById::Movie(movie) => answer(&movie),
            _ => Edited::default(),
        };
        if let Some(key) = key {
            remember(&transaction, key, &edited).await?;
        }
        let revision = merge::increment_revision(&transaction, changed).await?;
        transaction.commit().await?;
        self.learn_own(revision);
        Ok(edited)
    }
}

/// Writes an edit. Returns whether it changes the movie.
async fn write(transaction: &Transaction<'_>, edit: &Edit<'_>) -> Result<bool, StoreError> {
    let Edit { id, content, expected, hold, by } = *edit;
    let movie = RoaringTreemap::from([id.cast_unsigned()]);
    let times = Times::read(transaction, &movie).await?;
    let (doc, is_changed) = match content {
        Content::Replaced(row) => {
            edits::write(transaction, std::slice::from_ref(row), by).await?;
            (Some(&*row.doc), row.content_hash != expected.content_hash)
        }
        Content::Deleted => {
            withdrawn::withdraw(transaction, &movie, edits::cause_of_deletion(by)).await?;
            (None, true)
        }
    };
    edits::record(transaction, &times.of(&[id]), by, &[id], &[doc]).await?;
    let is_held = hold && holds::hold(transaction, id, by).await?;
    Ok(is_changed || is_held)
}

/// The times of what a client writes now: that of each movie comes after all its versions and edits, though one may be
/// dated in the future, by a clock that is ahead.
struct Times {
    now: DateTime<Utc>,
    /// Of movies that have something later.
    later: HashMap<u64, DateTime<Utc>>,
}

impl Times {
    /// Reads the times for these movies. The caller holds the merge lock.
    async fn read(transaction: &Transaction<'_>, ids: &RoaringTreemap) -> Result<Self, StoreError> {
        let clock = "
            /* edit_movie::read */
            select clock_timestamp()";
        let now: DateTime<Utc> = query_one(transaction, clock, &[]).await?.get(0);
        let mut later = HashMap::new();
        let visit = |newer: movie_sets::CountingVersion, movies: RoaringTreemap| {
            let after = newer.position.ordered_at + TimeDelta::microseconds(1);
            for id in movies & ids {
                let time = later.entry(id).or_insert(after);
                *time = after.max(*time);
            }
        };
        movie_sets::visit_later(transaction, &VersionPosition::of_edit(now), ids, visit).await?;
        Ok(Self { now, later })
    }

    /// Returns the time of each of these movies.
    fn of(&self, ids: &[i64]) -> Vec<DateTime<Utc>> {
        let time = |id: &i64| self.later.get(&id.cast_unsigned()).copied().unwrap_or(self.now);
        ids.iter().map(time).collect()
    }
}

/// Returns the answer to an earlier request with this key, if there is one.
async fn answered(
    transaction: &Transaction<'_>,
    key: &IdempotencyKey<'_>,
) -> Result<Option<Edited>, StoreError> {
    let answered = "
        /* edit_movie::answered */
        select fingerprint, answer, etag from idempotency_keys where caller = $1 and key = $2";
    let Some(row) = query_opt(transaction, answered, &[&key.caller, &key.key]).await? else {
        return Ok(None);
    };
    if row.get::<_, &[u8]>("fingerprint") != key.fingerprint {
        return Err(StoreError::KeyReused);
    }
    Ok(Some(Edited { answer: row.get("answer"), etag: row.get("etag") }))
}

/// Keeps the answer to a request.
async fn remember(
    transaction: &Transaction<'_>,
    key: &IdempotencyKey<'_>,
    edited: &Edited,
) -> Result<(), StoreError> {
    let remember = "
        /* edit_movie::remember */
        insert into idempotency_keys (caller, key, fingerprint, answer, etag)
        values ($1, $2, $3, $4, $5)";
    let params: [&(dyn ToSql + Sync); 5] =
        [&key.caller, &key.key, &key.fingerprint, &edited.answer, &edited.etag];
    execute(transaction, remember, &params).await?;
    Ok(())
}
