-- Canonically equivalent text is the same text, and case is ignored by full case folding
-- (docs/adr/0010-equal-text.md). `rest-api migrate` computes the identity and the folded columns of each movie
-- anew after this migration, in steps, and merges movies that become one.

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';
-- First, because merges take this lock first. A lock of the row alone would deadlock with merges that wait for
-- the row.
lock table catalogue in access exclusive mode;

-- The version of the rules that the columns of `movies` were computed with. Null while they are computed
-- anew: then for which version, and the largest id of a movie that has its new columns.
alter table catalogue
    add column folding text,
    add column next_folding text,
    add column folded_up_to bigint not null default 0;

-- Each merge records its version here. A process with other rules must not merge: it would take one movie
-- for two. For it the database counts as unavailable, so it requeues its files. Releases before this one have
-- no setting. The setting `any` is for the migration itself.
create function check_folding() returns trigger language plpgsql as $$
declare
    session_folding text := coalesce(current_setting('mru.folding', true), 'none');
    catalogue_folding text := (select folding from catalogue);
begin
    if session_folding <> 'any' and session_folding is distinct from catalogue_folding then
        raise exception 'the text of the catalogue is folded by rules %, this session has %',
                coalesce(catalogue_folding, '(unfinished)'), session_folding
            using errcode = 'cannot_connect_now',
                hint = 'Run rest-api migrate of the release that is to ingest files.';
    end if;
    return null;
end $$;
create trigger check_folding before insert or update on merged_versions
    for each statement execute function check_folding();
