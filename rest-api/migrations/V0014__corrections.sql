-- Corrections and deletions: which versions of an object count, and what is withdrawn because no counting
-- version contains it any more (docs/adr/0013-counting-versions.md).

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';
-- No merge is under way from here on: it would take these locks in another order.
select from catalogue for no key update;

-- First what blocks merges alone. The ledger is locked at the end, for a moment.
alter table merged_versions
    -- Which version it is, also after its ingest has been removed from the ledger. Null for versions before
    -- these columns, and for movies that a client posted.
    add column ingest_id bigint,
    add column version_id text,
    add column etag text,
    -- Whether it is all that its object says.
    add column snapshot boolean not null default false,
    -- Whether it is the removal of an object: in a bucket that keeps versions, a delete marker.
    add column removal boolean not null default false,
    -- Whether it is the removal of the version, or of the delete marker, with its version id.
    add column deletion boolean not null default false,
    add column undone boolean not null default false,
    -- The version whose set it shares; null if it has its own. Unknown is the set of a version that did not
    -- count when it was merged.
    add column set_id bigint,
    add column set_known boolean not null default true,
    -- A newer version of the same object that contains all of its movies.
    add column covered_by bigint,
    -- Whether it must be asked what it contains. False if it does not count, or is covered.
    add column counts boolean not null default true;
drop index merged_versions_in_order;
create index merged_versions_in_order on merged_versions (ordered_at, key, bucket, sequencer) where counts;
create index merged_versions_counting on merged_versions (key, bucket, ordered_at, sequencer) where counts;
create index merged_snapshots on merged_versions (key, bucket, ordered_at, sequencer) where snapshot;
create index merged_versions_by_set on merged_versions (coalesce(set_id, id));
create index merged_versions_by_ingest on merged_versions (ingest_id);
create index merged_versions_by_version_id on merged_versions (key, bucket, version_id)
    where version_id is not null;
create index merged_versions_silent on merged_versions (id) where not counts;
create index merged_versions_by_cover on merged_versions (covered_by) where covered_by is not null;

-- Movies that no counting version contains. They have left `movies`, so no query sees them. A version that
-- contains one again restores it under the same id.
create table withdrawn_movies (
    id           bigint primary key,
    identity     uuid not null,
    -- Title, year and href, which the identity is computed from.
    doc          text not null,
    -- The ingest that withdrew it.
    ingest_id    bigint,
    -- `corrected`: a newer version of the object does not contain it; `removed`: the object was removed;
    -- `undone`: the version that contained it was undone.
    reason       text not null check (reason in ('corrected', 'removed', 'undone')),
    withdrawn_at timestamptz not null default now()
);
create unique index withdrawn_movies_by_identity on withdrawn_movies (identity);

-- What people decided about versions. The newest decision of a kind holds. `undo` and `redo` are one kind.
create table decisions (
    id         bigint generated always as identity primary key,
    decision   text not null check (decision in ('undo', 'redo', 'approve')),
    bucket     text not null,
    key        text not null,
    -- The version: by its id; in a bucket without versions by its content.
    version_id text,
    etag       text,
    removal    boolean not null default false,
    sequencer  text collate "C" not null default '',
    decided_at timestamptz not null default now(),
    decided_by text not null
);
create index decisions_of_object on decisions (key, bucket, decided_at, id);

alter table ingests
    -- What the notification reports: that the object was created, or that it was removed.
    add column removal boolean not null default false,
    -- Of a removal: whether not the object was removed, but one version of it.
    add column deletion boolean not null default false,
    -- `upsert` or `snapshot`. Null until the version has been seen, and for ingests before this column.
    add column mode text,
    add column withdrawn bigint,
    add column restored bigint,
    -- How it has ended before its object is read again.
    add column ended_as text,
    -- Since when, and by whose request, the version does not count.
    add column undone_at timestamptz,
    add column undone_by text,
    -- A snapshot that withdraws very much waits for an approval.
    add column approved_at timestamptz,
    add column approved_by text;
-- Not validated: that would read the whole ledger while nothing can be recorded, and every row has passed the
-- stricter check.
alter table ingests
    add constraint known_mode check (mode in ('upsert', 'snapshot')) not valid,
    drop constraint ingests_state_check,
    add constraint ingests_state_check check (state in ('queued', 'running', 'succeeded', 'rejected',
        'superseded', 'gone', 'blocked', 'failed')) not valid,
    add constraint blocked_for_a_reason check (state <> 'blocked' or error is not null) not valid;

-- A release before this one does not know which versions count. Its merges are refused: for it the database
-- counts as unavailable, so it requeues its files.
create function check_counting() returns trigger language plpgsql as $$
begin
    if coalesce(current_setting('mru.counting', true), 'none') <> '1' then
        raise exception 'a newer release ingests the files'
            using errcode = 'cannot_connect_now',
                hint = 'This session lacks the setting mru.counting, which the service sends with its options.';
    end if;
    return null;
end $$;
create trigger check_counting before insert or update or delete on merged_versions
    for each statement execute function check_counting();

-- Nor does it know removals: it would look for the object, and end the ingest as gone. It does not get them.
create function skip_removals() returns trigger language plpgsql as $$
begin
    if coalesce(current_setting('mru.counting', true), 'none') <> '1' then
        return null;
    end if;
    return new;
end $$;
create trigger skip_removals before update of state on ingests
    for each row when (new.removal and new.state = 'running') execute function skip_removals();
