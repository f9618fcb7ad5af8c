//! Integration tests: the service over HTTP, with a real Postgres and a real S3 endpoint.
//!
//! Each test has a service, a database and a bucket of its own. The databases are clones of one
//! migrated template. `support` has what the tests share.
//!
//! Each module below is a group, which runs by its name:
//!
//! ```sh
//! cargo test -p rest-api --test it order::
//! ```
//!
//! | group | behaviour |
//! | --- | --- |
//! | `abandoned_reads::` | reads that are given up: cancelled, counted by the pool |
//! | `accounts::` | users: passwords, limits of wrong ones, `/users`, `rest-api users` |
//! | `batches::` | small files that are ingested together |
//! | `budget::` | the budget of one file: records, staged bytes |
//! | `cache::` | cached answers, entity tags, compression |
//! | `catalogue::` | queries of the catalogue: filters, sort orders, pages |
//! | `counts::` | `/genres` and `/years` |
//! | `concurrent_ingests::` | ingests of the same object or the same movies that run at the same time |
//! | `config::` | environment variables: defaults, checks, messages |
//! | `corpus::` | the oracle of the fuzzer, on the corpus and on the files of the tests |
//! | `decisions::` | undo, redo, approve, and their export and import |
//! | `deployment::` | chart, Terraform and health check agree with the programs, which refuse unknown variables |
//! | `details::` | what TMDB says of movies: a stand-in that answers as documented, slowly, badly, or not; `rest-api enrich`; which images the page may load |
//! | `details_matching::` | which film a movie is, on real titles that are easily taken for each other |
//! | `equal_text::` | texts that are equal: normal forms, case |
//! | `events::` | `GET /events`: what followers are told, across replicas and outages |
//! | `exports::` | whole results as NDJSON |
//! | `failover::` | outages of the database under load |
//! | `files::` | file formats, violations, limits of a movie |
//! | `forged_notifications::` | notifications that claim a wrong bucket, time or sequencer |
//! | `gone::` | objects that are gone before they are read |
//! | `freshness::` | the age of answers, with several replicas and a cut listener |
//! | `history::` | the changes of a movie, and how long they are kept |
//! | `hostile_files::` | files made to occupy processors and memory |
//! | `http::` | errors, limits, timeouts and shutdown of the HTTP API |
//! | `ignored_keys::` | keys that are no files |
//! | `ingest_failures::` | ingests whose infrastructure fails: retries, leases, `/retry` |
//! | `memory::` | peak memory while a large file is ingested, and while clients read no responses |
//! | `merge::` | repeated files, first loads, provenance, assertions |
//! | `metrics::` | `/metrics` |
//! | `migrations::` | migrations: taken over, verified, run at once |
//! | `notification_arrays::` | `POST /notify` with an array: a result for each notification |
//! | `oidc::` | access tokens of an outside issuer: a real OpenID Connect provider, and a hostile one |
//! | `openapi::` | the OpenAPI document: current, obeyed by every answer, fit to generate a client from; `/docs` |
//! | `order::` | duplicate and reordered notifications: the newest version wins |
//! | `page::` | the page at `/`: how it is served, and how a browser uses it |
//! | `read_host::` | outages of `MRU_DB_READ_HOST` alone |
//! | `reconcile::` | the command `rest-api reconcile` |
//! | `rebuild::` | a catalogue that is thrown away and rebuilt from the bucket and the decisions |
//! | `reconcile_comparison::` | the comparison of a bucket with the ledger |
//! | `reconcile_versions::` | `rest-api reconcile --all-versions` |
//! | `refold::` | migrating a catalogue whose text was folded by other rules |
//! | `results::` | results that are published to a topic |
//! | `retention::` | what is removed from the ledger and the sets of movies |
//! | `roles::` | each route by each role; key prefixes; the public ledger |
//! | `s3_faults::` | faults of the object store, injected by a proxy |
//! | `schedules::` | random interleavings of workers, against a model |
//! | `secrets::` | credentials and tokens in Secrets Manager, and their rotation |
//! | `server::` | connections, slow readers, the listener for probes, headers of responses |
//! | `service_role::` | what the role of the service may not do, and how the migration makes it |
//! | `sessions::` | refresh tokens, cookies, and what ends a session |
//! | `sigkill::` | a process that is killed at each step of an ingest |
//! | `spans::` | spans by OTLP: when they leave, and what a collector that does not answer costs |
//! | `tls::` | TLS to the database |
//! | `tokens::` | access tokens of the service: attacks, rotation of the key |
//! | `traces::` | trace ids in the log, from the request to the result |
//! | `uploads::` | `POST /uploads`: presigned requests, and what the bucket refuses |
//! | `validate::` | `rest-api validate` and `POST /validate` |
//! | `versioned_bucket::` | a bucket that keeps versions |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abandoned_reads;
mod accounts;
mod batches;
mod budget;
mod cache;
mod catalogue;
mod concurrent_ingests;
mod config;
mod corpus;
mod corrections;
mod counts;
mod decisions;
mod deployment;
mod details;
mod details_matching;
mod edits;
mod equal_text;
mod events;
mod exports;
mod failover;
mod files;
mod forged_notifications;
mod freshness;
mod gone;
mod history;
mod hostile_files;
mod http;
mod ignored_keys;
mod ingest_failures;
mod memory;
mod merge;
mod metrics;
mod migrations;
mod notification_arrays;
mod oidc;
mod openapi;
mod order;
mod overload;
mod page;
mod read_host;
mod rebuild;
mod reconcile;
mod reconcile_comparison;
mod reconcile_versions;
mod refold;
mod results;
mod retention;
mod roles;
mod s3_faults;
mod schedules;
mod search;
mod secrets;
mod server;
mod service_role;
mod sessions;
mod sigkill;
mod spans;
mod support;
mod tls;
mod tokens;
mod traces;
mod uploads;
mod validate;
mod versioned_bucket;
