-- What search reads of a movie (docs/adr/0012-search.md). `rest-api migrate` builds the indexes after this
-- migration, and computes the columns of each movie with its folded text.

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';
-- No merge is under way from here on: it would take these locks in another order.
select from catalogue for no key update;

alter table movies
    -- The words of the title, for titles that begin with a text.
    add column title_key text collate "C" not null default '',
    -- Words of title and cast.
    add column terms tsvector not null default '';

-- The words of all titles and names, with the hashes of what is left of them after deletions: typing errors
-- are corrected to these words. An index with a list of pending entries would slow down each search.
create table words (
    word text collate "C" primary key,
    keys int[] not null
);
create index words_by_key on words using gin (keys) with (fastupdate = off);
