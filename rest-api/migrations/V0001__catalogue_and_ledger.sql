-- The catalogue, the ledger of ingests (which is the work queue too), and the order between them.
--
-- Everything lives in one database so that data and bookkeeping commit together.

create extension if not exists pg_trgm;

-- One row: the number of the catalogue's state. A merge locks it first and bumps it last, so that
-- merges run one after the other and each sees what the one before it left.
create table catalogue (
    only_row bool primary key default true check (only_row),
    revision bigint not null default 0
);
insert into catalogue default values;

-- What clients query. The companion columns are computed by the service: lowered text for
-- searching, and the movie as JSON, ready to be served.
create table movies (
    id           bigint generated always as identity primary key,
    -- 128 bits of SHA-256 over title, year and href. The parts themselves can outgrow what a
    -- btree holds (2,704 bytes).
    identity     uuid   not null unique,
    title_lc     text   collate "C" not null,
    year         int    not null,
    -- Lowered names, joined by U+001F.
    cast_lc      text   collate "C" not null,
    genres_lc    text[] collate "C" not null,
    -- 64 bits of SHA-256 over doc: rows whose content has not changed are not rewritten.
    content_hash bigint not null,
    doc          text   not null
);
create index movies_title_search on movies using gin (title_lc gin_trgm_ops);
create index movies_cast_search on movies using gin (cast_lc gin_trgm_ops);
create index movies_genres on movies using gin (genres_lc);
create index movies_by_year on movies (year, id);
-- The prefix keeps a long title within what a btree holds.
create index movies_by_title on movies (left(title_lc, 256), id);
-- The planner guesses badly at rare words in a large catalogue with the default of 100.
alter table movies alter column title_lc set statistics 1000;
alter table movies alter column cast_lc set statistics 1000;

-- One row for each version of an object that the service was told of.
create table ingests (
    id               bigint generated always as identity primary key,
    bucket           text not null,
    key              text not null,
    version_id       text,
    etag             text,
    -- Orders the versions of one key; compared after padding on the right.
    sequencer        text collate "C",
    size             bigint,
    -- This version's place in the order of all versions, together with key, bucket and sequencer.
    -- Null until the object has been seen, if the notification did not say when it was written.
    ordered_at       timestamptz,
    state            text not null default 'queued'
        check (state in ('queued', 'running', 'succeeded', 'rejected', 'superseded', 'failed')),
    attempts         int not null default 0,
    received_at      timestamptz not null default now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    -- When a queued ingest may be claimed: later than now after a fault.
    run_after        timestamptz not null default now(),
    lease_token      uuid,
    lease_expires_at timestamptz,
    inserted         bigint,
    updated          bigint,
    unchanged        bigint,
    violation_count  bigint,
    -- json, not jsonb: a violation may quote a U+0000, which jsonb refuses.
    violations       json,
    error            json,
    request_id       text,
    constraint lease_while_running check
        ((state = 'running') = (lease_token is not null and lease_expires_at is not null)),
    constraint finished_at_the_end check
        ((state in ('queued', 'running')) = (finished_at is null)),
    constraint counts_of_what_was_merged check
        (state <> 'succeeded' or (inserted, updated, unchanged) is not null and ordered_at is not null),
    constraint rejected_for_a_reason check (state <> 'rejected' or violation_count > 0),
    constraint failed_for_a_reason check (state <> 'failed' or error is not null)
);
create index ingests_to_claim on ingests (run_after, id) where state in ('queued', 'running');
create index ingests_by_object on ingests (key, bucket, id);
create index ingests_by_state on ingests (state, id);

-- Which movies each merged version held, by id. A row of movies is left untouched when a newer
-- version says the same again, so the row cannot tell that an older version, arriving late, must
-- not change it any more. This can, at 8 bytes a movie, and is read only when that happens.
create table assertions (
    id         bigint generated always as identity primary key,
    ordered_at timestamptz not null,
    key        text collate "C" not null,
    bucket     text collate "C" not null,
    sequencer  text collate "C" not null,
    movie_ids  bigint[] not null
);
create index assertions_in_order on assertions (ordered_at, key, bucket, sequencer);
