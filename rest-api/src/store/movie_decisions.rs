//! What people have decided about single movies, to be carried from one database to another: edits, deletions, holds.
//!
//! A decision names its movie by title, year and href, since ids differ between databases. An edit has its place in the
//! order of versions with it, so it does not matter whether it is imported before or after the files.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use roaring::RoaringTreemap;
use schema::Movie;
use serde::{Deserialize, Serialize};
use tokio_postgres::{IsolationLevel, types::ToSql};

use super::{
    CatalogueRow, Store, StoreError, VersionPosition, edits, holds, movie_sets,
    sql::{execute, query_one, query_opt},
    withdrawn,
};

/// How many decisions one statement reads.
const BATCH: i64 = 1000;

/// What was decided about a movie.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DecidedOnMovie {
    /// It gets this content.
    Edit,
    /// It is deleted.
    Delete,
    /// Files do not change it.
    Hold,
}

/// What somebody has decided about a movie.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MovieDecision {
    /// What was decided.
    pub decision: DecidedOnMovie,
    /// The content of the movie. Of one that is deleted or withdrawn title, year and href count.
    pub movie: Movie,
    /// Of a hold: whether the catalogue does not have the movie, and files do not bring it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// Of a hold: when somebody has written the movie since. A post does not change a held movie, an edit does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<DateTime<Utc>>,
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
    /// Who has decided.
    pub decided_by: String,
}

impl Store {
    /// Calls `visit` with all edits and deletions that hold, then with all holds.
    ///
    /// # Errors
    /// If the database is unavailable, or `visit` fails.
    pub async fn visit_movie_decisions<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(MovieDecision) -> Result<(), E>,
    ) -> Result<(), E> {
        let edits = "
            /* movie_decisions::visit_movie_decisions */
            select e.movie_id, e.doc is null as deleted, false as withdrawn,
                null::timestamptz as edited_at, coalesce(e.doc, m.doc, w.doc) as doc, e.ordered_at as decided_at,
                e.edited_by as decided_by
            from edits e
            left join movies m on m.id = e.movie_id
            left join withdrawn_movies w on w.id = e.movie_id
            where e.movie_id > $1
            order by e.movie_id
            limit $2";
        let holds = "
            /* movie_decisions::visit_movie_decisions */
            select h.movie_id, false as deleted, m.id is null as withdrawn, e.ordered_at as edited_at,
                coalesce(m.doc, w.doc) as doc, h.held_at as decided_at, h.held_by as decided_by
            from holds h
            left join edits e on e.movie_id = h.movie_id and e.ordered_at > h.held_at
            left join movies m on m.id = h.movie_id
            left join withdrawn_movies w on w.id = h.movie_id
            where h.movie_id > $1
            order by h.movie_id
            limit $2";
        let mut connection = self.bulk().await?;
        // One snapshot: a deletion and its hold belong together.
        let transaction =
            connection.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        let transaction = transaction.read_only(true).start().await.map_err(StoreError::from)?;
        for (statement, decided) in [(edits, DecidedOnMovie::Edit), (holds, DecidedOnMovie::Hold)] {
            let mut after = 0_i64;
            loop {
                let params: [&(dyn ToSql + Sync); 2] = [&after, &BATCH];
                let rows = transaction.query(statement, &params).await.map_err(StoreError::from)?;
                let Some(last) = rows.last() else { break };
                after = last.get("movie_id");
                for row in &rows {
                    let deleted = row.get("deleted");
                    visit(MovieDecision {
                        decision: if deleted { DecidedOnMovie::Delete } else { decided },
                        movie: movie(row.get("doc"), deleted)?,
                        withdrawn: row.get("withdrawn"),
                        edited_at: row.get("edited_at"),
                        decided_at: row.get("decided_at"),
                        decided_by: row.get("decided_by"),
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the movie of a document; of a deleted one only what it is known by.
fn movie(doc: &str, deleted: bool) -> Result<Movie, StoreError> {
    let malformed =
        |error| StoreError::Setup(format!("the document of a movie is malformed: {error}"));
    let mut movie: Movie = serde_json::from_str(doc).map_err(malformed)?;
    if deleted {
        let Movie { title, year, href, .. } = &movie;
        let known_by = serde_json::json!({ "title": title, "year": year, "href": href });
        movie = serde_json::from_value(known_by).map_err(malformed)?;
    }
    Ok(movie)
}

/// Applies a decision. Returns none if it was known, else whether it changes the catalogue. The caller holds the
/// merge lock.
pub(super) async fn import(
    transaction: &Transaction<'_>,
    decision: &MovieDecision,
) -> Result<Option<bool>, StoreError> {
    let row = CatalogueRow::new(&decision.movie);
    let by = &*decision.decided_by;
    match decision.decision {
        DecidedOnMovie::Hold => import_hold(transaction, decision, &row).await,
        DecidedOnMovie::Edit => {
            import_edit(transaction, decision.decided_at, by, &row, Some(&*row.doc)).await
        }
        DecidedOnMovie::Delete => {
            import_edit(transaction, decision.decided_at, by, &row, None).await
        }
    }
}

async fn import_edit(
    transaction: &Transaction<'_>,
    decided_at: DateTime<Utc>,
    by: &str,
    row: &CatalogueRow,
    doc: Option<&str>,
) -> Result<Option<bool>, StoreError> {
    let known = "
        /* movie_decisions::import_edit */
        select exists (select from edits where movie_id = $1 and ordered_at >= $2)";
    let mut is_changed = false;
    let id = match id_of(transaction, row).await? {
        Some(id) => {
            if query_one(transaction, known, &[&id, &decided_at]).await?.get(0) {
                return Ok(None);
            }
            let ids = RoaringTreemap::from([id.cast_unsigned()]);
            let position = VersionPosition::of_edit(decided_at);
            let newest = movie_sets::newest_of_each(transaction, &ids).await?;
            let is_newest = newest.values().all(|newest| newest.position < position);
            if is_newest && holds::contradict(transaction, &ids).await?.is_empty() {
                is_changed = true;
                match doc {
                    Some(_) => edits::write(transaction, std::slice::from_ref(row), by).await?,
                    None => {
                        let cause = edits::cause_of_deletion(by);
                        withdrawn::withdraw(transaction, &ids, cause).await?;
                    }
                }
            }
            id
        }
        None => {
            is_changed = doc.is_some();
            create(transaction, row, by, doc.is_some()).await?
        }
    };
    edits::record(transaction, &[decided_at], by, &[id], &[doc]).await?;
    Ok(Some(is_changed))
}

async fn import_hold(
    transaction: &Transaction<'_>,
    decision: &MovieDecision,
    row: &CatalogueRow,
) -> Result<Option<bool>, StoreError> {
    // Without the hold the movie may be another one: what files say is not known here.
    let hold = "
        /* movie_decisions::import_hold */
        insert into holds (movie_id, identity, held_at, held_by, contradicted)
        values ($1, $2, $3, $4, true)";
    let is_held = "
        /* movie_decisions::import_hold */
        select exists (select from holds where identity = $1)";
    let edited_since = "
        /* movie_decisions::import_hold */
        select exists (select from edits where movie_id = $1 and ordered_at > $2)";
    let identity = row.folded.identity;
    if query_one(transaction, is_held, &[&identity]).await?.get(0) {
        return Ok(None);
    }
    let by = &*decision.decided_by;
    let last_written = decision.edited_at.unwrap_or(decision.decided_at);
    let id = match id_of(transaction, row).await? {
        // Somebody has written it since the export.
        Some(id) if query_one(transaction, edited_since, &[&id, &last_written]).await?.get(0) => id,
        Some(id) if decision.withdrawn => {
            let ids = RoaringTreemap::from([id.cast_unsigned()]);
            let cause = edits::cause_of_deletion(by);
            withdrawn::withdraw(transaction, &ids, cause).await?;
            id
        }
        Some(id) => {
            edits::write(transaction, std::slice::from_ref(row), by).await?;
            id
        }
        None => create(transaction, row, by, !decision.withdrawn).await?,
    };
    let params: [&(dyn ToSql + Sync); 4] = [&id, &identity, &decision.decided_at, &by];
    execute(transaction, hold, &params).await?;
    Ok(Some(true))
}

/// Returns the id of a movie, if the catalogue ever had it.
async fn id_of(
    transaction: &Transaction<'_>,
    row: &CatalogueRow,
) -> Result<Option<i64>, StoreError> {
    let id = "
        /* movie_decisions::id_of */
        select id from movies where identity = $1
        union all
        select id from withdrawn_movies where identity = $1";
    let row = query_opt(transaction, id, &[&row.folded.identity]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Adds a movie that the catalogue never had, with its content or as a deleted one. Returns its id.
async fn create(
    transaction: &Transaction<'_>,
    row: &CatalogueRow,
    by: &str,
    with_content: bool,
) -> Result<i64, StoreError> {
    edits::write(transaction, std::slice::from_ref(row), by).await?;
    let id = id_of(transaction, row).await?;
    let id = id.ok_or_else(|| StoreError::Setup("a movie was not stored".to_owned()))?;
    if !with_content {
        let ids = RoaringTreemap::from([id.cast_unsigned()]);
        withdrawn::withdraw(transaction, &ids, edits::cause_of_deletion(by)).await?;
    }
    Ok(id)
}
