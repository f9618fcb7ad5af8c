-- The exported span of the request that an ingest came with (W3C trace context, a traceparent), so that the spans of
-- whichever worker takes it go below it. Null for those that came while no spans were exported.
set local lock_timeout = '5s';

alter table ingests add column traceparent text;
