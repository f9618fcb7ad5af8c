//! The service over HTTP, with a real Postgres and a real S3 endpoint. Every test has a service, a
//! database and a bucket of its own.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

mod catalogue;
mod config;
mod corpus;
mod deployment;
mod emulator;
mod faults;
mod files;
mod http;
mod memory;
mod order;
mod reload;
mod schedules;
mod secrets;
mod service;
mod tls;
mod validate;
