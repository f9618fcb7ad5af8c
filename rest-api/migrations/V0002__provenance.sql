-- Where each movie's present content came from, and what a file that comes again is compared with.

-- The version that gave the row its content: an ingest, and the record's index in it. No ingest: a
-- client posted it. All null: before this migration. A version that says the same again does not
-- touch the row. (No foreign key: checking it would cost as much again as the first load.)
alter table movies
    add column ingest_id bigint,
    add column record bigint,
    add column changed_at timestamptz;

-- Indexes alone can be dropped and built again around the first load; a constraint's cannot.
create unique index movies_by_identity on movies (identity);
alter table movies drop constraint movies_identity_key;

-- What the newest version of one object has said.
create index assertions_of_object on assertions (key, bucket, ordered_at);
