-- For reconciling the bucket with the ledger: the keys of which something was taken, a page at a time
-- and in the order in which S3 lists them (by bytes), which the index by object has not.
create index ingests_taken_by_key on ingests (bucket, key collate "C", id) where state = 'succeeded';
