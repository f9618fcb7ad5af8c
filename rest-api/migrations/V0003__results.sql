-- The ledger becomes the outbox of the results that are published to producers: an ingest that ends
-- is marked in the transaction that ends it, and the mark goes once its result has been published.
--
-- The release before leaves the column null, and publishes nothing.

-- When the result is to be published: at once, later after a fault, or, while somebody is about it,
-- when that somebody has died. Null if there is nothing to publish (any more).
alter table ingests add column result_due_at timestamptz;
create index ingests_results_due on ingests (result_due_at) where result_due_at is not null;
