//! The one source of the data's shape.
//!
//! [`SCHEMA`] is the JSON schema that producers download. The types [`Movie`] and [`Notification`]
//! are generated from it at build time, and [`parse`] holds a JSON text against all of it.
//!
//! ```
//! let movie: schema::Movie = schema::parse(br#"{"title": "Heat", "year": 1995}"#)?;
//! assert_eq!(&*movie.title, "Heat");
//!
//! let faults = schema::parse::<schema::Movie>(br#"{"title": "Heat", "year": "1995"}"#).unwrap_err();
//! assert_eq!(faults[0].pointer, "/year");
//! # Ok::<(), schema::Faults>(())
//! ```

mod fault;
mod leaf;
mod parse;

pub use fault::{Fault, Faults};
pub use leaf::{Bounded, Text, Timestamp};
pub use parse::{Definition, parse};
pub use types::{Movie, Name, Notification};

/// The JSON schema (draft 2020-12), as published.
pub const SCHEMA: &str = include_str!("../movies.schema.json");

/// What typify makes of the schema.
mod types {
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}
