-- An ingest whose object is not there when it is read ends as `gone`, and not as `failed`: nothing failed.
-- Programs that write under a temporary name and rename it cause many.
--
-- The release before shows such an ingest as failed. Its own ends of this kind stay `failed`.

-- A caller that waits for a lock keeps others waiting behind it: it is better to fail, and to be run
-- again.
set local lock_timeout = '5s';
-- No merge is under way from here on: it would take these locks in another order.
select from catalogue for no key update;

-- Not validated: that would read the whole ledger while nothing can be recorded, and every row has passed the
-- stricter check.
alter table ingests
    drop constraint ingests_state_check,
    add constraint ingests_state_check check (state in
        ('queued', 'running', 'succeeded', 'rejected', 'superseded', 'gone', 'failed')) not valid,
    add constraint gone_for_a_reason check (state <> 'gone' or error is not null) not valid;
