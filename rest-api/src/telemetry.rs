//! Logging: plain text for a terminal, or JSON lines for production.

use std::{io::IsTerminal, time::Duration};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

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

/// Returns text of a client, at most `max` characters of it, with `…` for the rest. Characters that
/// could control a terminal or reorder its text are escaped: U+202E becomes `\u{202e}`.
pub(crate) fn excerpt(text: &str, max: usize) -> String {
    let mut excerpt = String::new();
    for c in text.chars().take(max + 1) {
        let is_invisible = matches!(
            c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        );
        if c.is_control() || is_invisible {
            excerpt.extend(c.escape_unicode());
        } else {
            excerpt.push(c);
        }
    }
    if excerpt.chars().count() > max {
        excerpt = excerpt.chars().take(max.saturating_sub(1)).chain(['…']).collect();
    }
    excerpt
}

/// Returns a duration in whole milliseconds, for fields that end in `_ms`.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn an_excerpt_is_short_and_controls_no_terminal() {
        assert_eq!(excerpt("/movies", 7), "/movies");
        assert_eq!(excerpt("/movies/1", 7), "/movie…");
        assert_eq!(excerpt("a\u{202e}b\nc", 20), "a\\u{202e}b\\u{a}c");
        assert_eq!(excerpt(&"\u{202e}".repeat(60_000), 512).chars().count(), 512);
    }
}
