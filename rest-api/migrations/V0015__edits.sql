-- What people write about single movies: edits, deletions and holds; and the history of each movie
-- (docs/adr/0015-edits-and-holds.md).

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';
-- No merge is under way from here on: it would take these locks in another order.
select from catalogue for no key update;

-- The newest word of a client about each movie. It has a place in the order of versions, like a file of this time
-- with an empty key.
create table edits (
    movie_id   bigint primary key,
    ordered_at timestamptz not null,
    -- The movie as JSON. Null: it is deleted.
    doc        text,
    edited_by  text not null
);
create index edits_in_order on edits (ordered_at);
-- As for merges: a process with other rules of equal text would take one movie for two.
create trigger check_folding before insert or update on edits
    for each statement execute function check_folding();

-- Movies that files do not change. A movie without content may be held, too: no file brings it back.
create table holds (
    movie_id bigint primary key,
    -- Checked at the end of a statement: two movies may exchange their identities.
    identity uuid not null unique deferrable,
    held_at  timestamptz not null,
    held_by  text not null,
    -- Whether the movie might be another one without the hold.
    contradicted boolean not null default false
);

create trigger check_folding before insert or update or delete on holds
    for each statement execute function check_folding();

-- Who wrote the content; null if a file did.
alter table movies add column edited_by text;

alter table withdrawn_movies
    -- Who has deleted the movie, or released its hold.
    add column withdrawn_by text,
    drop constraint withdrawn_movies_reason_check,
    -- `deleted`: a client has deleted it; `released`: no version contains it, and it is held no more.
    add constraint withdrawn_movies_reason_check
        check (reason in ('corrected', 'removed', 'undone', 'deleted', 'released'));

alter table ingests
    -- How many movies the file would have changed or withdrawn that are held, and the first of them.
    add column held bigint,
    add column held_movies json;

-- The answers to changes of single movies, by the idempotency keys of their requests.
create table idempotency_keys (
    caller      text not null,
    key         text not null,
    -- A digest of the request.
    fingerprint bytea not null,
    -- The answer, and its entity tag.
    answer      text not null,
    etag        text,
    created_at  timestamptz not null default now(),
    primary key (caller, key)
);
create index idempotency_keys_by_age on idempotency_keys (created_at);

-- The former states of movies: what each was before a change. The present state is the row of `movies` or
-- `withdrawn_movies`. Ids rise with the time: merges run one after another.
create table movie_history (
    id         bigint generated always as identity primary key,
    movie_id   bigint not null,
    -- The movie as JSON. Null: it was withdrawn.
    doc        text,
    -- Why it was withdrawn.
    reason     text,
    -- When it became so, and by what. Null in rows from before migration 2.
    changed_at timestamptz,
    ingest_id  bigint,
    record     bigint,
    edited_by  text,
    -- Until when it was so.
    ended_at   timestamptz not null default clock_timestamp()
);
create index movie_history_of_movie on movie_history (movie_id, id);
-- States that ended before this are not there: they were removed, or ended before this migration.
alter table catalogue add column history_since timestamptz not null default now();

-- Triggers, so that no statement which changes a movie can forget its history. A new movie has none: a first load
-- costs nothing.
create function keep_movie() returns trigger language plpgsql as $$
begin
    insert into movie_history (movie_id, doc, changed_at, ingest_id, record, edited_by)
    values (old.id, old.doc, old.changed_at, old.ingest_id, old.record, old.edited_by);
    return null;
end $$;
create trigger keep_changed after update on movies
    for each row when (old.content_hash <> new.content_hash) execute function keep_movie();
create trigger keep_withdrawn after delete on movies
    for each row execute function keep_movie();

create function keep_withdrawal() returns trigger language plpgsql as $$
begin
    insert into movie_history (movie_id, reason, changed_at, ingest_id, edited_by)
    values (old.id, old.reason, old.withdrawn_at, old.ingest_id, old.withdrawn_by);
    return null;
end $$;
create trigger keep_restored after delete on withdrawn_movies
    for each row execute function keep_withdrawal();

-- A release before this one knows neither edits nor holds. Its merges are refused, as in migration 14.
create or replace function check_counting() returns trigger language plpgsql as $$
begin
    if coalesce(current_setting('mru.counting', true), 'none') <> '2' then
        raise exception 'a newer release ingests the files'
            using errcode = 'cannot_connect_now',
                hint = 'This session lacks the setting mru.counting, which the service sends with its options.';
    end if;
    return null;
end $$;
create or replace function skip_removals() returns trigger language plpgsql as $$
begin
    if coalesce(current_setting('mru.counting', true), 'none') not in ('1', '2') then
        return null;
    end if;
    return new;
end $$;
