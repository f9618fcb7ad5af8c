//! Times, and the table that they end in.

use std::time::{Duration, Instant};

/// Adds up stretches of time.
#[derive(Default)]
pub(crate) struct Stopwatch(Duration);

impl Stopwatch {
    pub(crate) fn start(&self) -> Instant {
        Instant::now()
    }

    pub(crate) fn stop(&mut self, started: Instant) {
        self.0 += started.elapsed();
    }

    pub(crate) fn total(&self) -> Duration {
        self.0
    }
}

/// One line of the table.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) ours: Duration,
    pub(crate) limit: Duration,
    /// The ratio that the design promises at most.
    pub(crate) target: f64,
    pub(crate) memory_mb: Option<u64>,
}

/// The table.
pub(crate) struct Report(Vec<Line>);

impl Report {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a line, and shows it, since the next may take a while.
    pub(crate) fn add(&mut self, line: Line) {
        eprintln!("{}", row(&line));
        self.0.push(line);
    }

    #[expect(clippy::print_stdout, reason = "the table is what the program is for")]
    pub(crate) fn print(&self) {
        println!("| what | ours | limit | ratio | at most | memory |");
        println!("| --- | --: | --: | --: | --: | --: |");
        for line in &self.0 {
            println!("{}", row(line));
        }
    }
}

fn row(line: &Line) -> String {
    let (ours, limit) = (line.ours.as_secs_f64(), line.limit.as_secs_f64());
    let memory = line.memory_mb.map_or_else(|| "?".to_owned(), |mb| format!("{mb} MB"));
    let ratio = ours / limit;
    let Line { what, target, .. } = line;
    let missed = if ratio > *target { " (missed)" } else { "" };
    format!("| {what} | {ours:.2} s | {limit:.2} s | {ratio:.2}{missed} | {target:.2} | {memory} |")
}

/// The middle one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
