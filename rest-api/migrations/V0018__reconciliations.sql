-- The last complete comparison of each bucket with the ledger, for metrics: operators are told when it is overdue.
set local lock_timeout = '5s';

create table reconciliations (
    bucket      text primary key,
    finished_at timestamptz not null,
    -- How many files of the bucket were not in the catalogue, and were not queued.
    missing     bigint not null
);
