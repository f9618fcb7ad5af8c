-- Names each state of the catalogue, for the entity tags of responses and for the processes that cache them.

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';

-- Changes with the revision, to a random number. Two databases that come from one backup have the same
-- revisions, and different tags.
alter table catalogue add column tag bigint not null default hashtextextended(gen_random_uuid()::text, 0);
