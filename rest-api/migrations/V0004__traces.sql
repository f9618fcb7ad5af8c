-- The trace that an ingest belongs to (W3C trace context, 32 hexadecimal digits), so that whichever
-- worker takes it, and however often, writes the same id into its log lines as the function did.
-- Null for those that came without one, and before this column.
alter table ingests add column trace_id text;
