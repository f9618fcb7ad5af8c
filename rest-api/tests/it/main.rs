//! The service over HTTP, with a real Postgres and a real S3 endpoint. Every test has a service, a
//! database and a bucket of its own.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

mod catalogue;
mod comparison;
mod config;
mod corpus;
mod deployment;
mod emulator;
mod failover;
mod faults;
mod files;
mod http;
mod memory;
mod metrics;
mod order;
mod process;
mod proxy;
mod reader;
mod reconcile;
mod reload;
mod results;
mod rivals;
mod s3_faults;
mod schedules;
mod secrets;
mod service;
mod sigkill;
mod tls;
mod topic;
mod traces;
mod validate;
mod versions;
