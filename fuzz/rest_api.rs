//! The part of rest-api that files go through: its very sources, without the rest of the service,
//! which would take minutes to build.

#[path = "."]
pub mod ingest {
    #[path = "../rest-api/src/ingest/decode.rs"]
    mod decode;
    #[path = "../rest-api/src/ingest/inflate.rs"]
    mod inflate;
    #[path = "../rest-api/src/ingest/limits.rs"]
    mod limits;
    #[path = "../rest-api/src/ingest/split.rs"]
    mod split;
    #[path = "../rest-api/src/ingest/violation.rs"]
    mod violation;

    pub use decode::{Decoded, Decoder};
    pub use limits::Limits;
    pub use violation::{Violation, Violations};
}

#[path = "."]
pub mod store {
    #[path = "../rest-api/src/store/row.rs"]
    mod row;

    pub use row::CatalogueRow;
}
