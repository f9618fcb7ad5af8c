//! Prints the result of a comparison, as text for people or as JSON for programs.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use chrono::SecondsFormat;
use serde_json::json;

use super::{Difference, Event, Summary, Versions};
use crate::terminal::printable;

/// The shortest time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Writes differences as they are found, a line each, and a summary at the end.
#[derive(Debug)]
pub struct Printer<W, P> {
    out: W,
    progress: P,
    json: bool,
    started: Instant,
    last_progress: Instant,
}

impl<W: Write, P: Write> Printer<W, P> {
    /// Returns a printer that writes differences and the summary to `out`, as JSON if `json` is set,
    /// and progress to `progress`.
    pub fn new(out: W, progress: P, json: bool) -> Self {
        let now = Instant::now();
        Self { out, progress, json, started: now, last_progress: now }
    }

    /// Writes a difference, or the progress if some time has passed since the last line of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn event(&mut self, event: Event<'_>) -> io::Result<()> {
        match event {
            Event::Found(difference) if self.json => {
                serde_json::to_writer(&mut self.out, difference)?;
                writeln!(self.out)
            }
            Event::Found(difference) => writeln!(self.out, "{}", format_difference(difference)),
            Event::Progress(summary) => {
                if self.last_progress.elapsed() >= PROGRESS_INTERVAL {
                    self.last_progress = Instant::now();
                    let Summary { listed, queued, .. } = summary;
                    let seconds = self.started.elapsed().as_secs();
                    writeln!(self.progress, "{listed} compared, {queued} queued, {seconds} s")?;
                }
                self.out.flush()
            }
        }
    }

    /// Writes the summary, and as text also what to do next.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        if self.json {
            writeln!(self.out, "{}", json!({ "summary": summary }))?;
        } else {
            write!(self.out, "{}", format_summary(summary))?;
        }
        self.out.flush()
    }
}

fn format_difference(difference: &Difference) -> String {
    let Difference { kind, key, size, last_modified, version_id, removal, ingest, queued } =
        difference;
    let kind = serde_json::to_value(kind).unwrap_or_default();
    let mut line = format!("{:<8}  {}", kind.as_str().unwrap_or_default(), printable(key));
    if let Some(size) = size {
        line += &format!("  {}", format_size(*size));
    }
    if *removal {
        line += "  removed";
    }
    if let Some(time) = last_modified {
        line += &format!("  {}", time.to_rfc3339_opts(SecondsFormat::Secs, true));
    }
    if let Some(version_id) = version_id {
        line += &format!("  version {}", printable(version_id));
    }
    if let Some(ingest) = ingest {
        line += &format!("  ingest {ingest}");
    }
    if let Some(queued) = queued {
        line += &format!("  queued as ingest {queued}");
    }
    line
}

/// Returns a size in bytes with a decimal unit and one decimal digit, rounded down: `2.2 MB`.
fn format_size(size: i64) -> String {
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

fn format_summary(summary: &Summary) -> String {
    let Summary { missing, stale, failed, vanished, reverted, queued, versions, .. } = summary;
    let mut text = match versions {
        Some(versions) => format_version_counts(summary, versions),
        None => format_counts(summary),
    };
    if *queued > 0 {
        text +=
            &format!("{queued} queued: GET /ingests?state=queued lists those that still wait\n");
    } else if missing + stale > 0 {
        text += "Run again with --apply to queue what is missing or stale\n";
    }
    if summary.not_queued() > 0 && *failed > 0 {
        text += "GET /ingests/{id} says why one has failed; --apply --retry-failed queues those again\n";
    }
    match versions {
        None if vanished + reverted > 0 => {
            text += "What has vanished or was reverted is left alone: what snapshots said goes \
                     with the event of their removal\n";
        }
        Some(versions) => text += &notes(versions, *vanished),
        None => {}
    }
    if summary.not_queued() == 0 && *queued == 0 {
        text += "Nothing to do\n";
    }
    text
}

fn format_counts(summary: &Summary) -> String {
    let Summary { bucket, listed, up_to_date, in_flight, rejected, .. } = summary;
    let Summary { missing, stale, failed, vanished, reverted, unusable, ignored, .. } = summary;
    let prefix = printable(&summary.prefix);
    format!(
        "\n{bucket}/{prefix}: {listed} files; {up_to_date} up to date, {in_flight} in flight, \
         {rejected} rejected; {missing} missing, {stale} stale, {failed} failed, {vanished} vanished, \
         {reverted} reverted, {unusable} unusable, {ignored} ignored\n"
    )
}

fn format_version_counts(summary: &Summary, versions: &Versions) -> String {
    let Summary { bucket, listed, up_to_date, in_flight, rejected, .. } = summary;
    let Summary { missing, failed, vanished, unusable, ignored, .. } = summary;
    let Versions { delete_markers, .. } = versions;
    let prefix = printable(&summary.prefix);
    format!(
        "\n{bucket}/{prefix}: {} versions, {delete_markers} delete markers; {up_to_date} up to date, \
         {in_flight} in flight, {rejected} rejected; {missing} missing, {failed} failed, \
         {vanished} vanished, {unusable} unusable, {ignored} ignored\n",
        listed.saturating_sub(*delete_markers)
    )
}

/// Returns what a comparison of all versions cannot know or do.
fn notes(versions: &Versions, vanished: u64) -> String {
    let mut text = String::new();
    if versions.incomplete {
        text += "The bucket does not keep versions: what its files said before, and which were removed, \
                 cannot be known\n";
    }
    if versions.lacks_decisions {
        text +=
            "decisions of people are not in the bucket: import them (rest-api decisions import)\n";
    }
    if vanished > 0 {
        text += "Nothing is done about versions that have vanished from the bucket\n";
    }
    text
}
