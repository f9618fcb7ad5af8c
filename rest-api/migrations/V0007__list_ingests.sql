-- Serves each list of `GET /ingests` from an index: every combination of the filters bucket, key and
-- state, newest first. Without them a list of few or no ingests reads the whole ledger.
--
-- The indexes on (state, id) and (key, bucket, id) exist. Each index below costs one entry for each
-- ingest, and one more for each change of its state.

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';

create index ingests_by_bucket on ingests (bucket, id);
create index ingests_by_bucket_and_state on ingests (bucket, state, id);
create index ingests_by_key on ingests (key, id);
create index ingests_by_key_and_state on ingests (key, state, id);
create index ingests_by_object_and_state on ingests (key, bucket, state, id);
