//! All of movies-r-us on one machine, with no cloud account and no container.
//!
//! The parts that AWS provides are stood in for by real ones: [`postgres`] is a Postgres under our
//! supervision, [`s3`] an S3 endpoint that sends events, [`lambda`] the Runtime API that the real
//! function runs behind. [`Stack`] is all of them and the service. Tests use the parts.

mod binaries;
pub mod lambda;
pub mod postgres;
pub mod s3;
mod stack;

pub use stack::{DATABASE, Options, Stack, client, sdk};
