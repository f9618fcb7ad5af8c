//! W3C trace context: one trace id for everything that one S3 event causes.
//!
//! Source: <https://www.w3.org/TR/trace-context/>. The function continues X-Ray's trace or starts a
//! new one, the service stores the trace id with the ingest, and both log it. [`crate::otlp`] exports spans with
//! these ids.

use std::fmt;

/// The HTTP header that passes a trace from one service to the next.
pub const TRACEPARENT: &str = "traceparent";

/// A trace id, never zero. `Display` writes 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceId(pub(crate) u128);

/// The trace that a request or an ingest belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// The id of the trace.
    pub id: TraceId,
    /// The exported span that the rest of the trace goes below; none if nothing is exported.
    pub span: Option<TraceParent>,
}

impl Trace {
    /// Starts a new trace, without a span.
    pub fn random() -> Self {
        Self { id: TraceId::random(), span: None }
    }
}

impl TraceId {
    /// Returns the id of a new trace.
    pub fn random() -> Self {
        // Unique, not secret: a system call for randomness would take longer than many requests.
        Self(fastrand::u128(1..))
    }

    /// Parses what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text, 32).filter(|id| *id != 0).map(Self)
    }
}

/// A position in a trace: the trace id, and the id of the step that sends a request.
///
/// `Display` writes the value of the header [`TRACEPARENT`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceParent {
    /// The id of the trace.
    pub trace_id: TraceId,
    pub(crate) parent_id: u64,
    pub(crate) sampled: bool,
}

impl TraceParent {
    /// Starts a new trace.
    pub fn random() -> Self {
        Self { trace_id: TraceId::random(), parent_id: random_parent_id(), sampled: true }
    }

    /// Returns whether the sender records the trace.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Parses the value of a `traceparent` header of version 00, the only version defined. Returns
    /// `None` if it is malformed or of another version: the caller then starts a new trace.
    pub fn parse(header: &str) -> Option<Self> {
        let mut fields = header.split('-');
        let mut next = |digits| fields.next().and_then(|field| parse_hex(field, digits));
        let (version, trace_id, parent_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        if fields.next().is_some() || version != 0 || trace_id == 0 || parent_id == 0 {
            return None;
        }
        let parent_id = u64::try_from(parent_id).ok()?;
        Some(Self { trace_id: TraceId(trace_id), parent_id, sampled: flags & 1 == 1 })
    }

    /// Parses the tracing header of AWS X-Ray, which the Lambda runtime passes to a function:
    /// `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`. The trace id is
    /// `Root` without its version and dashes. Returns `None` if `Root` is missing or malformed.
    ///
    /// Source: <https://docs.aws.amazon.com/xray/latest/devguide/xray-api-sendingdata.html>
    pub fn from_xray(header: &str) -> Option<Self> {
        let field = |name: &str| {
            header.split(';').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let (seconds, unique) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
        let trace_id = parse_hex(seconds, 8)? << 96 | parse_hex(unique, 24)?;
        if trace_id == 0 {
            return None;
        }
        let parent_id = field("Parent").and_then(|parent| parse_hex(parent, 16));
        let parent_id = parent_id.and_then(|id| u64::try_from(id).ok()).filter(|id| *id != 0);
        Some(Self {
            trace_id: TraceId(trace_id),
            parent_id: parent_id.unwrap_or_else(random_parent_id),
            sampled: field("Sampled") == Some("1"),
        })
    }
}

fn random_parent_id() -> u64 {
    fastrand::u64(1..)
}

/// Parses exactly `digits` lowercase hexadecimal digits, at most 32.
fn parse_hex(text: &str, digits: usize) -> Option<u128> {
    let is_lowercase_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_lowercase_hex && text.len() == digits {
        u128::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, parent_id, sampled } = self;
        write!(f, "00-{trace_id}-{parent_id:016x}-{:02x}", u8::from(*sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::TraceParent;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn traceparent_is_parsed_strictly() {
        for (header, displayed) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", None),
            // Unknown flags are cleared.
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff",
                Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02",
                Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
            ),
        ] {
            let parsed = TraceParent::parse(header).unwrap();
            assert_eq!(parsed.trace_id.to_string(), TRACE);
            assert_eq!(parsed.to_string(), displayed.unwrap_or(header));
        }
        for bad in [
            "",
            "00",
            TRACE,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47360-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e47\u{e9}-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn xray_header_converts_to_traceparent() {
        let convert = |header: &str| TraceParent::from_xray(header).map(|trace| trace.to_string());
        let root = "Root=1-5759e988-bd862e3fe1be46a994272793";
        for (rest, flags) in [
            (";Parent=53995c3f42cd8ad8;Sampled=1", "01"),
            (";Parent=53995c3f42cd8ad8;Sampled=0", "00"),
            (";Parent=53995c3f42cd8ad8", "00"),
            (";Parent=53995c3f42cd8ad8;Sampled=1;Lineage=1:a87bd80c:0", "01"),
            ("; Sampled=1; Parent=53995c3f42cd8ad8", "01"),
        ] {
            let expected = format!("00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-{flags}");
            assert_eq!(convert(&format!("{root}{rest}")), Some(expected), "{rest}");
        }
        let without_parent = convert(root).unwrap();
        assert!(without_parent.starts_with("00-5759e988bd862e3fe1be46a994272793-"));
        assert!(TraceParent::parse(&without_parent).is_some(), "{without_parent}");
        for bad in [
            "",
            "Root=",
            "Root=1-5759e988",
            "Root=2-5759e988-bd862e3fe1be46a994272793",
            "Root=1-5759e98-bd862e3fe1be46a994272793",
            "Root=1-5759e988-bd862e3fe1be46a99427279",
            "Root=1-5759e988-bd862e3fe1be46a9942727-3",
            "Root=1-5759E988-bd862e3fe1be46a994272793",
            "Root=1-00000000-000000000000000000000000",
            "Self=1-5759e988-bd862e3fe1be46a994272793",
            "Parent=53995c3f42cd8ad8;Sampled=1",
        ] {
            assert_eq!(convert(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn new_traces_are_valid_and_distinct() {
        let (first, second) = (TraceParent::random(), TraceParent::random());
        assert_ne!(first.trace_id, second.trace_id);
        assert_eq!(TraceParent::parse(&first.to_string()), Some(first));
        assert!(first.to_string().ends_with("-01"));
    }
}
