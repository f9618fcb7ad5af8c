//! Maintenance after a merge. The catalogue is correct without it, but slower.

use super::{
    Merged, Store, StoreError,
    sql::{execute, query_one},
};

impl Store {
    /// Runs the maintenance that a merge calls for.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn maintain_after_merge(&self, merged: &Merged) -> Result<(), StoreError> {
        if self.clean_indexes(merged).await? {
            self.vacuum().await?;
        }
        Ok(())
    }

    /// Cleans the pending lists of the search indexes, which every search must read, and analyzes
    /// the catalogue if much of it has changed. Returns whether much has changed.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn clean_indexes(&self, merged: &Merged) -> Result<bool, StoreError> {
        let changed = merged.inserted + merged.updated;
        if changed == 0 {
            return Ok(false);
        }
        let connection = self.writer().await?;
        let clean = "
            /* maintenance::clean_indexes */
            select gin_clean_pending_list(index::regclass)
            from unnest(array['movies_title_search', 'movies_cast_search', 'movies_genres']) index";
        execute(&connection, clean, &[]).await?;
        let size = "
            /* maintenance::clean_indexes */
            select reltuples::bigint from pg_class where oid = 'movies'::regclass";
        let size: i64 = query_one(&connection, size, &[]).await?.get(0);
        let much = changed * 5 > size;
        if much {
            let analyze = "
                /* maintenance::clean_indexes */
                analyze movies";
            connection.batch_execute(analyze).await?;
        }
        Ok(much)
    }

    /// Marks the pages of the catalogue as visible to all, so that a file that comes again is
    /// compared by an index alone. It takes as long as reading the catalogue.
    async fn vacuum(&self) -> Result<(), StoreError> {
        let vacuum = "
            /* maintenance::vacuum */
            vacuum (index_cleanup off, process_toast off, truncate off) movies";
        Ok(self.worker().await?.batch_execute(vacuum).await?)
    }
}
