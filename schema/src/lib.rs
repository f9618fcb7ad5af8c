//! The JSON schema of movies and notifications, and the Rust types generated from it.
//!
//! [`SCHEMA`] is the JSON schema that producers download. [`Movie`] and [`Notification`] are
//! generated from it at build time. [`parse`] reads one JSON text and enforces the whole schema.
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
mod syntax;

pub use fault::{Fault, Faults};
pub use leaf::{Bounded, Text, Timestamp};
pub use parse::{Definition, MAX_EXPLAINED, Unfit, parse, try_parse};
pub use types::{Movie, Name, Notification, NotificationEvent};

/// The JSON schema (draft 2020-12), as the service publishes it.
pub const SCHEMA: &str = include_str!("../movies.schema.json");

/// The largest number of notifications in one request to `POST /notify`.
pub const MAX_NOTIFICATIONS: usize = 100;

/// The types that `build.rs` generates with typify.
#[expect(missing_docs, unreachable_pub, reason = "typify writes variants and an error type so")]
mod types {
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}

impl Notification {
    /// Returns whether the object was removed, not created.
    pub fn is_removal(&self) -> bool {
        self.event == Some(NotificationEvent::Removed)
    }
}
