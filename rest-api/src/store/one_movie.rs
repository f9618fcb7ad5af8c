//! One movie by its id: its content, where that comes from, and whether it is held.

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use schemars::JsonSchema;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    MovieDocument, Reason, Revision, Store, StoreError, Withdrawal,
    reads::{self, Cost},
    sql::query_one,
};

/// A movie, and where its content comes from.
#[derive(Clone, Debug)]
pub struct MovieWithProvenance {
    /// The movie.
    pub movie: MovieDocument,
    /// Where its content comes from.
    pub provenance: Provenance,
    /// That files do not change it.
    pub hold: Option<Hold>,
    /// A digest of title, year and href, by which movies are told apart.
    pub(super) identity: Uuid,
    /// The hash of its content.
    content_hash: i64,
}

/// What the catalogue has of an id.
#[derive(Clone, Debug)]
pub enum FoundById {
    /// A movie.
    Movie(Box<MovieWithProvenance>),
    /// A movie that was withdrawn.
    Withdrawn(Withdrawal),
    /// Nothing: no movie ever had this id.
    Nothing,
}

/// Where the present content of a movie comes from. `ingest` and the object are null if a client wrote it.
/// The answer to a caller without a role has `changed_at` alone.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(extend("required" = ["changed_at"]))]
pub struct Provenance {
    /// The ingest that brought the content.
    pub ingest: Option<i64>,
    /// The bucket of the object.
    pub bucket: Option<String>,
    /// The key of the object.
    pub key: Option<String>,
    /// The version of the object, in a bucket that keeps versions.
    pub version_id: Option<String>,
    /// The index of the movie's record in the file or in the body of the request, from 0.
    pub record: Option<i64>,
    /// Who wrote the content, if no file did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_by: Option<String>,
    /// When the content last changed. Null if it was stored before migration 2.
    pub changed_at: Option<DateTime<Utc>>,
}

/// That files do not change a movie.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Hold {
    /// Since when.
    pub held_at: DateTime<Utc>,
    /// By whom.
    pub held_by: String,
}

/// Tells the states of one movie apart: its content, since when it has it, and since when it is held.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct MovieState {
    /// The hash of the content.
    pub content_hash: i64,
    /// Since when it has it.
    pub changed_at: Option<DateTime<Utc>>,
    /// Since when it is held.
    pub held_at: Option<DateTime<Utc>>,
}

impl MovieWithProvenance {
    /// Returns what tells its present state apart from others.
    pub fn state(&self) -> MovieState {
        MovieState {
            content_hash: self.content_hash,
            changed_at: self.provenance.changed_at,
            held_at: self.hold.as_ref().map(|hold| hold.held_at),
        }
    }
}

impl Store {
    /// Returns the movie with this id, and the provenance of its content, or that it was withdrawn; and the state of
    /// the catalogue that they are of, which is `at_least` or a newer one.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn movie(
        &self,
        id: i64,
        at_least: Revision,
    ) -> Result<(Revision, FoundById), StoreError> {
        let connection = self.reader(Cost::Index).await?;
        let (revision, found) = read(&*connection, id).await?;
        reads::finish(connection);
        if self.is_recent(revision, at_least) {
            return Ok((revision, found));
        }
        let connection = self.primary_reader(Cost::Index).await?;
        let found = read(&*connection, id).await?;
        reads::finish(connection);
        Ok(found)
    }
}

/// Reads what the catalogue has of an id.
pub(super) async fn read(
    client: &impl GenericClient,
    id: i64,
) -> Result<(Revision, FoundById), StoreError> {
    let movie = "
        /* one_movie::read */
        select c.revision, c.tag, m.id, m.doc, m.identity, m.content_hash, i.id as ingest, i.bucket, i.key,
            i.version_id, m.record, m.changed_at, m.edited_by, h.held_at, h.held_by, w.reason,
            w.withdrawn_at, w.withdrawn_by
        from catalogue c
        left join movies m on m.id = $1
        left join withdrawn_movies w on w.id = $1
        left join holds h on h.movie_id = $1
        left join ingests i on i.id = coalesce(m.ingest_id, w.ingest_id)";
    let row = query_one(client, movie, &[&id]).await?;
    let found = match (row.get::<_, Option<i64>>("id"), row.get::<_, Option<&str>>("reason")) {
        (Some(id), _) => FoundById::Movie(Box::new(movie_of(&row, id))),
        (None, Some(reason)) => FoundById::Withdrawn(Withdrawal {
            reason: Reason::from_name(reason),
            withdrawn_at: row.get("withdrawn_at"),
            ingest: row.get("ingest"),
            bucket: row.get("bucket"),
            key: row.get("key"),
            version_id: row.get("version_id"),
            withdrawn_by: row.get("withdrawn_by"),
        }),
        (None, None) => FoundById::Nothing,
    };
    Ok((Revision::new(&row), found))
}

fn movie_of(row: &Row, id: i64) -> MovieWithProvenance {
    let held_at: Option<DateTime<Utc>> = row.get("held_at");
    MovieWithProvenance {
        movie: MovieDocument { id, json: row.get("doc") },
        provenance: Provenance {
            ingest: row.get("ingest"),
            bucket: row.get("bucket"),
            key: row.get("key"),
            version_id: row.get("version_id"),
            record: row.get("record"),
            edited_by: row.get("edited_by"),
            changed_at: row.get("changed_at"),
        },
        hold: held_at.map(|held_at| Hold { held_at, held_by: row.get("held_by") }),
        identity: row.get("identity"),
        content_hash: row.get("content_hash"),
    }
}
