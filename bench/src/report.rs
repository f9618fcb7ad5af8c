//! Measures times, and prints them as a table.

use std::time::{Duration, Instant};

/// Adds up intervals.
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
    pub(crate) name: String,
    pub(crate) measured: Duration,
    pub(crate) limit: Duration,
    /// The highest ratio of `measured` to `limit` that meets the design's target.
    pub(crate) target: f64,
    /// `None` if the kernel does not report it.
    pub(crate) memory_growth_mb: Option<u64>,
}

/// The table.
pub(crate) struct Report(Vec<Line>);

impl Report {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a line, and prints it at once to stderr: the next one may take minutes.
    pub(crate) fn add(&mut self, line: Line) {
        eprintln!("{}", row(&line));
        self.0.push(line);
    }

    #[expect(clippy::print_stdout, reason = "the table is the output of the program")]
    pub(crate) fn print(&self) {
        println!("| what | measured | limit | ratio | at most | memory growth |");
        println!("| --- | --: | --: | --: | --: | --: |");
        for line in &self.0 {
            println!("{}", row(line));
        }
    }
}

fn row(line: &Line) -> String {
    let (measured, limit) = (line.measured.as_secs_f64(), line.limit.as_secs_f64());
    let growth = line.memory_growth_mb.map_or_else(|| "?".to_owned(), |mb| format!("{mb} MB"));
    let ratio = measured / limit;
    let Line { name, target, .. } = line;
    let missed = if ratio > *target { " (missed)" } else { "" };
    format!(
        "| {name} | {measured:.2} s | {limit:.2} s | {ratio:.2}{missed} | {target:.2} | {growth} |"
    )
}

/// Returns the median; of an even number of times, the higher one of the two in the middle.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
