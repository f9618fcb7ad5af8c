-- Small files are ingested in batches, and what a merged version contains becomes a set.
--
-- `assertions` kept 8 bytes for each movie of each version, and a late file read all later ones. Now
-- `merged_versions` has one small row for each version, and `version_movies` its set of movies
-- (docs/adr/0007-movie-sets.md). `rest-api migrate` converts the rows of `assertions` after this
-- migration, in steps, and builds the new indexes of `ingests` without blocking it.

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';
-- No merge is under way from here on: it would take these locks in another order.
select from catalogue for no key update;

-- Whether the object is processed alone. Otherwise it is processed in a batch with others. An object
-- of unknown size is processed alone, and so is what a replica of the release before records.
alter table ingests add column large boolean not null default true;

-- Why an ingest is superseded: a newer version had been merged, and this one counts only where no newer
-- version contains the movie; or the bucket held newer content, and nothing of this version was
-- stored. Null for ingests before this column.
alter table ingests add column superseded_reason text;
-- Not validated: that would read the whole ledger while nothing can be recorded.
alter table ingests add constraint superseded_for_a_known_reason
    check (superseded_reason in ('newer_version_merged', 'content_replaced')) not valid;

-- An ingest changes its state twice. Its dead rows and index entries must go before a scan notices
-- them. A page keeps room for the changes that touch no index.
alter table ingests set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0);

-- One row for each merged version of an object.
create table merged_versions (
    id         bigint generated always as identity primary key,
    ordered_at timestamptz not null,
    key        text collate "C" not null,
    bucket     text collate "C" not null,
    sequencer  text collate "C" not null
);
create index merged_versions_in_order on merged_versions (ordered_at, key, bucket, sequencer);
create index merged_versions_of_object on merged_versions (key, bucket, ordered_at, sequencer);

-- The ids of the movies that a version contains: up to 1,000 as an array, more as a Roaring bitmap.
-- A version without movies has no row.
create table version_movies (
    version_id bigint primary key,
    movie_ids  bigint[],
    bitmap     bytea,
    constraint one_form check (num_nonnulls(movie_ids, bitmap) = 1)
);
alter table version_movies alter column bitmap set storage external;
-- Which small versions contain a movie. Without a pending list, which every look-up would read.
create index version_movies_small on version_movies using gin (movie_ids) with (fastupdate = off);
-- The large ones, all of which a late file reads.
create index version_movies_large on version_movies (version_id) where bitmap is not null;
