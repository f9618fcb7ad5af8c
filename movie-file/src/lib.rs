//! Bytes of a movie file in, typed movies or violations out.
//!
//! A file is a JSON array of movies, one movie, or NDJSON; plain or gzip; UTF-8. Its bytes pass
//! through these stages, in bounded memory, whatever the size of the file:
//!
//! ```text
//!  chunks of the object --> inflate --> split --> decode --> movies, or violations
//!                           gunzip      records   schema
//! ```
//!
//! - [`limits`] bounds the size of a file and of its parts.
//! - `inflate` decompresses gzip and bounds how much a file may grow.
//! - `split` finds the records in the bytes; `format` names a file of another format.
//! - [`Decoder`] runs the stages on chunks of bytes. It validates each record against the schema.
//! - [`Reader`] runs a [`Decoder`] on a stream of chunks, on the threads of a [`DecodePool`].
//! - [`Violations`] collects what is wrong with the file.
//!
//! The crate knows no database and no HTTP.

mod decode;
mod format;
mod inflate;
pub mod limits;
mod pool;
mod read;
mod split;
mod violation;

pub use decode::{Decoder, Summary};
pub use limits::Limits;
pub use pool::DecodePool;
pub use read::Reader;
pub use violation::{MAX_LISTED, Violation, Violations};
