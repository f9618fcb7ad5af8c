//! What a comparison has found, for people or for programs.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use chrono::SecondsFormat;
use serde_json::json;

use super::{Difference, Event, Summary};

/// How long a comparison may be silent.
const SILENCE: Duration = Duration::from_secs(2);

/// Writes differences as they are found, and a summary at the end.
#[derive(Debug)]
pub struct Printer<W, P> {
    out: W,
    /// Where progress goes.
    progress: P,
    json: bool,
    started: Instant,
    told: Instant,
}

impl<W: Write, P: Write> Printer<W, P> {
    /// A printer to `out`, whose progress goes to `progress`: a line for each difference, as JSON
    /// on request.
    pub fn new(out: W, progress: P, json: bool) -> Self {
        let now = Instant::now();
        Self { out, progress, json, started: now, told: now }
    }

    /// Writes what an event tells.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn event(&mut self, event: Event<'_>) -> io::Result<()> {
        match event {
            Event::Found(difference) if self.json => {
                serde_json::to_writer(&mut self.out, difference)?;
                writeln!(self.out)
            }
            Event::Found(difference) => writeln!(self.out, "{}", line(difference)),
            Event::Progress(summary) => {
                if self.told.elapsed() >= SILENCE {
                    self.told = Instant::now();
                    let Summary { listed, queued, .. } = summary;
                    let seconds = self.started.elapsed().as_secs();
                    writeln!(
                        self.progress,
                        "{listed} files compared, {queued} queued, {seconds} s"
                    )?;
                }
                self.out.flush()
            }
        }
    }

    /// Writes what was found, and what to do about it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        if self.json {
            writeln!(self.out, "{}", json!({ "summary": summary }))?;
        } else {
            write!(self.out, "{}", text(summary))?;
        }
        self.out.flush()
    }
}

fn line(difference: &Difference) -> String {
    let Difference { kind, key, size, last_modified, ingest, queued } = difference;
    let kind = serde_json::to_value(kind).unwrap_or_default();
    let mut line = format!("{:<8}  {}", kind.as_str().unwrap_or_default(), printable(key));
    if let Some(size) = size {
        line += &format!("  {}", bytes(*size));
    }
    if let Some(written) = last_modified {
        line += &format!("  {}", written.to_rfc3339_opts(SecondsFormat::Secs, true));
    }
    if let Some(ingest) = ingest {
        line += &format!("  ingest {ingest}");
    }
    if let Some(queued) = queued {
        line += &format!("  queued as ingest {queued}");
    }
    line
}

/// A key may hold line ends, and what a terminal takes for commands.
fn printable(key: &str) -> String {
    let mut printable = String::with_capacity(key.len());
    for character in key.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

fn bytes(size: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let (mut tenths, mut unit) = (size.saturating_mul(10), "B");
    for larger in UNITS {
        if tenths < 10_000 {
            break;
        }
        (tenths, unit) = (tenths / 1000, larger);
    }
    if unit == "B" {
        format!("{size} B")
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

fn text(summary: &Summary) -> String {
    let Summary { bucket, prefix, listed, up_to_date, in_flight, rejected, .. } = summary;
    let Summary { missing, stale, failed, vanished, reverted, unusable, queued, .. } = summary;
    let prefix = printable(prefix);
    let mut text = format!(
        "\n{bucket}/{prefix}: {listed} files; {up_to_date} up to date, {in_flight} in flight, \
         {rejected} rejected; {missing} missing, {stale} stale, {failed} failed, {vanished} vanished, \
         {reverted} reverted, {unusable} unusable\n"
    );
    let loadable = missing + stale;
    if *queued > 0 {
        text += &format!("{queued} queued: GET /ingests?state=queued says what is still waiting\n");
    } else if loadable > 0 {
        text += "Run again with --apply to queue what is missing or stale\n";
    }
    if summary.left() > 0 && *failed > 0 {
        text += "GET /ingests/{id} says why one has failed; --apply --retry-failed queues those again\n";
    }
    if vanished + reverted > 0 {
        text += "What has vanished or was reverted is left alone: a file that was deleted does not \
                 take its movies with it\n";
    }
    if summary.left() == 0 && *queued == 0 {
        text += "Nothing to do\n";
    }
    text
}
