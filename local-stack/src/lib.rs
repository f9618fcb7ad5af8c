//! All of movies-r-us on one machine, without a cloud account and without containers.
//!
//! Real programs replace the services of AWS. [`Stack`] starts all of them and the service; tests
//! use them one by one.
//!
//! - `local_aws` holds the region, the credentials and the SDK configuration of the local endpoints.
//! - [`loopback`] keeps web pages away from the listeners.
//! - `private` creates directories and files that only their owner can read.
//! - [`postgres`] starts a Postgres and stops it when this process ends: `postgres::account` is the
//!   account it runs as, `postgres::binaries` finds its programs, `postgres::cluster` prepares its
//!   data directory, `postgres::guard` is the shell that stops it.
//! - [`s3`] is an S3 endpoint on the store of the crate `local-s3`, which keeps an event of every change;
//!   `s3::takeover` takes over the objects of earlier releases.
//! - [`function`] starts the real Lambda function as a process.
//! - [`lambda`] is the Lambda Runtime API: it sends events to the function, and keeps dead letters.
//! - [`sns`] is an SNS topic that turns published results into lines of text.
//! - `stack` starts and stops everything; `stack::admin` makes the first user, `stack::sample` loads the sample,
//!   `stack::welcome` is the text that `cargo run` prints.
//!
//! Imports go one way. A module imports only from modules above it; a module with children also
//! imports from them, and they do not import from it:
//!
//! ```text
//! local_aws
//! loopback
//! private
//! postgres        uses private
//!   account
//!   binaries      uses account
//!   cluster       uses account, binaries
//!   guard         uses account
//! s3              uses local_aws, loopback, private
//!   takeover
//! function        uses local_aws
//! lambda          uses local_aws, loopback, s3, function
//! sns             uses local_aws, loopback
//! stack           uses local_aws, loopback, private, postgres, s3, function, lambda, sns
//!   admin
//!   sample
//!   welcome       uses local_aws, admin
//! main            uses stack, function
//! ```

pub mod function;
pub mod lambda;
mod local_aws;
pub mod loopback;
pub mod postgres;
mod private;
pub mod s3;
pub mod sns;
mod stack;

pub use local_aws::{client, sdk};
pub use stack::{DATABASE, Options, Stack, variables};
