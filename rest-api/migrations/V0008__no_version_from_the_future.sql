-- A notification could claim any time. A version with a time in the far future won against all later ones, for ever. Such
-- notifications are refused now, and positions are checked here as well.

-- No merge is under way from here on: it would take these locks in another order.
select from catalogue for no key update;
set local lock_timeout = '5s';

-- Versions that are in the future already get the time at which they were received.
update ingests set ordered_at = received_at where ordered_at > now() + interval '5 minutes';
update assertions set ordered_at = now() where ordered_at > now() + interval '5 minutes';

-- Checked when a row is written, with some tolerance for clocks.
alter table ingests add constraint ordered_not_in_the_future
    check (ordered_at <= now() + interval '10 minutes');
