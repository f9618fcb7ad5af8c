//! Logging: plain text for a terminal, or JSON lines for production.

use std::{io::IsTerminal, time::Duration};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// The name of the service in traces, unless the environment has another one.
pub const SERVICE: &str = "movies-r-us";

/// How long a stop waits for the export of the last spans. With the time for requests and workers it stays below the
/// chart's grace period.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts logging to standard error. A second call changes nothing.
///
/// # Errors
/// If `filter` is not a tracing filter (`info`, `rest_api=debug,warn`, ...).
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("MRU_LOG: {error}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let _already_started = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            let is_terminal = std::io::stderr().is_terminal();
            registry.with(layer.with_target(false).with_ansi(is_terminal)).try_init()
        }
    };
    Ok(())
}

/// Returns an error with its whole chain of sources, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many libraries repeat the source in their own message.
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

/// Returns a duration in whole milliseconds, for fields that end in `_ms`.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
