//! What movies were before: their former states, which triggers keep (migration 15, docs/adr/0016-history.md).

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::{Row, types::ToSql};

use super::{Provenance, Reason, Store, StoreError, catalogue::MAX_PAGE, reads, sql::execute};

/// The number of the present state, which is newer than all former ones.
const PRESENT: i64 = i64::MAX;

/// Selects one page of the history of a movie.
#[derive(Clone, Copy, Debug)]
pub struct HistoryQuery {
    /// The movie.
    pub id: i64,
    /// The largest number of states.
    pub limit: i64,
    /// States with lower numbers than this; all if it is none.
    pub before: Option<i64>,
}

/// One state of a movie: what it became by a change.
#[derive(Clone, Debug)]
pub struct HistoricState {
    number: i64,
    /// The movie as JSON; none if it was withdrawn.
    pub json: Option<String>,
    /// Why it was withdrawn.
    pub reason: Option<Reason>,
    /// When and by what it became so. `edited_by` is also who withdrew it.
    pub provenance: Provenance,
}

/// The states of one page.
#[derive(Debug, Default)]
pub struct HistoryPage {
    /// The newest one first.
    pub states: Vec<HistoricState>,
    /// The one before the last; none if it is not known.
    pub before: Option<HistoricState>,
    /// Since when each state is kept that has ended.
    since: DateTime<Utc>,
}

impl HistoryPage {
    /// Returns [`HistoryQuery::before`] of the next page, if there is one.
    pub fn next(&self) -> Option<i64> {
        self.before.as_ref().map(|state| state.number + 1)
    }

    /// Returns whether a state that no other is known to precede is the first one of its movie.
    pub fn is_first(&self, state: &HistoricState) -> bool {
        // If another had preceded it, that would have ended later than this.
        state.provenance.changed_at.is_some_and(|at| at >= self.since)
    }
}

impl Store {
    /// Returns a page of the states of a movie; none if no movie ever had this id.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn history(&self, query: &HistoryQuery) -> Result<Option<HistoryPage>, StoreError> {
        // The present state has no cost if the page does not begin with it.
        let states = "
            /* history::history */
            select s.id, s.doc, s.reason, s.record, s.changed_at, s.edited_by, i.id as ingest,
                i.bucket, i.key, i.version_id, c.history_since
            from (
                select $4::bigint as id, doc, null as reason, ingest_id, record, changed_at, edited_by
                from movies
                where id = $1 and $2 = $4
                union all
                select $4, null, reason, ingest_id, null, withdrawn_at, withdrawn_by
                from withdrawn_movies
                where id = $1 and $2 = $4
                union all
                (select id, doc, reason, ingest_id, record, changed_at, edited_by
                from movie_history
                where movie_id = $1 and id < $2
                order by id desc
                limit $3)
            ) s
            cross join catalogue c
            left join ingests i on i.id = s.ingest_id
            order by s.id desc
            limit $3";
        let HistoryQuery { id, limit, before } = *query;
        let connection = self.ledger_reader().await?;
        let statement = connection.prepare_cached(states).await?;
        // One more than the page has, which the last one is compared with.
        let params: [&(dyn ToSql + Sync); 4] =
            [&id, &before.unwrap_or(PRESENT), &(limit + 1), &PRESENT];
        let mut page = HistoryPage::default();
        let (mut size, mut is_short) = (0, false);
        {
            let rows = connection.query_raw(&statement, params).await?;
            pin_mut!(rows);
            while let Some(row) = rows.try_next().await? {
                page.since = row.get("history_since");
                let state = HistoricState::of(&row);
                size += state.json.as_ref().map_or(0, String::len);
                page.states.push(state);
                // One state alone is no page: the next one would begin with it.
                is_short = size > MAX_PAGE && page.states.len() > 1;
                if is_short {
                    break;
                }
            }
        }
        // After a page that ended early, the rest of the rows is not waited for.
        if !is_short {
            reads::finish(connection);
        }
        if page.states.is_empty() && before.is_none() {
            return Ok(None);
        }
        if is_short || page.states.len() as i64 > limit {
            page.before = page.states.pop();
        }
        Ok(Some(page))
    }
}

/// Forgets the states of movies that have become one with others: what these were is the history of the one.
pub(super) async fn forget(
    transaction: &Transaction<'_>,
    ids: impl Iterator<Item = &u64>,
) -> Result<(), StoreError> {
    let forget = "
        /* history::forget */
        delete from movie_history where movie_id = any($1)";
    let ids: Vec<i64> = ids.map(|id| id.cast_signed()).collect();
    execute(transaction, forget, &[&ids]).await?;
    Ok(())
}

impl HistoricState {
    fn of(row: &Row) -> Self {
        Self {
            number: row.get("id"),
            json: row.get("doc"),
            reason: row.get::<_, Option<&str>>("reason").map(Reason::from_name),
            provenance: Provenance {
                ingest: row.get("ingest"),
                bucket: row.get("bucket"),
                key: row.get("key"),
                version_id: row.get("version_id"),
                record: row.get("record"),
                edited_by: row.get("edited_by"),
                changed_at: row.get("changed_at"),
            },
        }
    }
}
