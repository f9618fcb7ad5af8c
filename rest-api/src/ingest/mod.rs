//! Ingests files into the catalogue.
//!
//! ```text
//!  notification
//!       |
//!       v
//!    queued <------------------+  fault of the infrastructure: requeued with a delay
//!       | claim (lease)        |
//!       v                      |
//!    running ------------------+
//!       |
//!       +--> succeeded    merged, in one transaction with this state
//!       +--> superseded   a newer version of the object had already been merged (this one then
//!       |                 counts where no newer version contains the movie), or newer content
//!       |                 has replaced it in the bucket (then nothing was stored)
//!       +--> rejected     the content is at fault; nothing of it was stored
//!       +--> gone         the object was not there, nor after a pause
//!       +--> blocked      a snapshot that would withdraw too many movies; nothing of it was stored
//!       +--> failed       the infrastructure failed too often
//! ```
//!
//! [`Worker`] claims ingests. `attempt` reads the object of a large one and merges its movies, `batch` does
//! so for many small ones at once, and `outcome` records the results in the ledger. Memory is bounded, whatever the size of the file: the movies
//! pass through in batches.

mod attempt;
mod batch;
mod lease;
mod outcome;
mod worker;

pub use worker::Worker;
