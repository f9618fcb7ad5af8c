//! Taking files into the catalogue.
//!
//! ```text
//!  notification
//!       |
//!       v
//!    queued <------------------+  fault of the infrastructure: later, again
//!       | claim (lease)        |
//!       v                      |
//!    running ------------------+
//!       |
//!       +--> succeeded    merged, in one transaction with this state
//!       +--> superseded   a newer version of the object had been taken
//!       +--> rejected     the content is at fault; nothing of it was stored
//!       +--> failed       the infrastructure was at fault once too often
//! ```
//!
//! A file flows one way: [`source`] opens the object, [`inflate`] decompresses it, [`split`] finds
//! the records, [`mod@decode`] turns them into rows and violations, [`stream`] has the store stage
//! the rows, which merges them at the end. No part holds more than a few megabytes, whatever the file's size.

mod decode;
mod failure;
mod inflate;
mod limits;
mod source;
mod split;
mod stream;
mod violation;
mod worker;

pub use decode::{Decoded, Decoder};
pub use limits::{Limits, MAX_FILE};
pub use source::{Listed, ObjectStore, SourceError};
pub use stream::{DecodeError, decode};
pub use violation::{Violation, Violations};
pub use worker::Worker;
