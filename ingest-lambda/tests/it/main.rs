//! Tests of the handler with a local HTTP server as the API.
//!
//! | group | what it tests |
//! | --- | --- |
//! | `config::` | environment variables |
//! | `delivery::` | what becomes of the records of an S3 event |
//! | `envelopes::` | events that come through SNS, SQS or EventBridge, or from other stores |
//! | `faults::` | failures, and whether another attempt can succeed |
//! | `logs::` | the log |

#![expect(clippy::unwrap_used, reason = "unwrapping fails a test")]
#![expect(clippy::disallowed_methods, reason = "limits and timeouts do not matter in a test")]

mod config;
mod delivery;
mod envelopes;
mod faults;
mod logs;
mod support;
