//! Indexes that are built while the service runs.
//!
//! A migration is one transaction, and would block writes for as long as it builds an index. Indexes of
//! tables that grow without bound are built outside of it, concurrently. Building can be repeated: an
//! index that was left half built is dropped first.

use tokio_postgres::{Client, GenericClient};
use tracing::info;

use super::StoreError;

/// The indexes, by name, and what they are on.
const INDEXES: [(&str, &str); 7] = [
    // The queue, for each kind of object.
    ("ingests_in_queue", "ingests (large, run_after, id) where state in ('queued', 'running')"),
    // The versions of an object by sequencer: the same one, and its neighbors.
    (
        "ingests_by_sequencer",
        "ingests (key, bucket, rpad(sequencer, 64, '0')) where sequencer is not null",
    ),
    // The versions of an object by time.
    ("ingests_by_time", "ingests (key, bucket, ordered_at)"),
    // By version id.
    ("ingests_by_version_id", "ingests (key, bucket, version_id) where version_id is not null"),
    // Those whose time is not known yet.
    ("ingests_without_time", "ingests (key, bucket) where ordered_at is null"),
    // Search: by words, and by the beginning of a title.
    ("movies_terms", "movies using gin (terms)"),
    ("movies_by_title_key", "movies (title_key, id)"),
];

/// Indexes of earlier releases that nothing uses any more.
const OBSOLETE: [&str; 1] = ["ingests_to_claim"];

/// Builds the indexes that are missing or were left half built.
pub(super) async fn build(client: &Client) -> Result<(), StoreError> {
    for (name, on) in missing(client).await? {
        let drop = format!("drop index concurrently if exists {name}");
        client.batch_execute(&drop).await?;
        info!(name, "building an index");
        client.batch_execute(&format!("create index concurrently {name} on {on}")).await?;
    }
    for name in OBSOLETE {
        client.batch_execute(&format!("drop index concurrently if exists {name}")).await?;
    }
    Ok(())
}

/// Returns the indexes that are missing or half built.
pub(super) async fn missing(
    client: &impl GenericClient,
) -> Result<Vec<(&'static str, &'static str)>, StoreError> {
    let built = "
        /* concurrent_indexes::missing */
        select relname::text
        from pg_index join pg_class on pg_class.oid = indexrelid
        where indisvalid and indrelid in ('ingests'::regclass, 'movies'::regclass)";
    let rows = client.query(built, &[]).await?;
    let built: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let is_missing = |(name, _): &(&str, &str)| !built.iter().any(|built| built == name);
    Ok(INDEXES.into_iter().filter(is_missing).collect())
}
