//! Measures times, and prints them as a table.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

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

/// A table of figures, each with a target of its own, or none.
#[derive(Default)]
pub(crate) struct Figures {
    /// The conditions that the figures hold for, printed before the table.
    conditions: Vec<String>,
    rows: Vec<String>,
}

impl Figures {
    /// Adds a condition that the figures hold for.
    pub(crate) fn condition(&mut self, text: String) {
        eprintln!("{text}");
        self.conditions.push(text);
    }

    /// Adds a figure without a target.
    pub(crate) fn state(&mut self, name: &str, measured: &str) {
        self.add(format!("| {name} | {measured} | | |"));
    }

    /// Adds a figure with a target in words.
    pub(crate) fn check(&mut self, name: &str, measured: &str, target: &str, is_met: bool) {
        let result = result(is_met);
        self.add(format!("| {name} | {measured} | {target} | {result} |"));
    }

    /// Adds a duration that is to be at most `target`.
    pub(crate) fn duration(&mut self, name: &str, measured: Duration, target: Duration) {
        let result = result(measured <= target);
        let (measured, target) = (text(measured), text(target));
        self.add(format!("| {name} | {measured} | at most {target} | {result} |"));
    }

    /// Adds the 50th and the 99th percentile of durations, which are to be at most the targets.
    ///
    /// # Errors
    /// If there are no durations.
    pub(crate) fn percentiles(
        &mut self,
        name: &str,
        durations: &[Duration],
        p50_target: Option<Duration>,
        p99_target: Option<Duration>,
    ) -> Result<()> {
        let (p50, p99) = (percentile(durations, 50)?, percentile(durations, 99)?);
        let targets = [("p50", p50, p50_target), ("p99", p99, p99_target)];
        let targets: Vec<_> = targets
            .into_iter()
            .filter_map(|(name, is, target)| Some((name, is, target?)))
            .collect();
        let is_met = targets.iter().all(|(_, measured, target)| measured <= target);
        let texts = targets.iter().map(|(name, _, target)| format!("{name} {}", text(*target)));
        let target = texts.collect::<Vec<_>>().join(", ");
        let (at_most, result) =
            if targets.is_empty() { ("", "") } else { ("at most ", result(is_met)) };
        let measured = format!("{} / {}", text(p50), text(p99));
        self.add(format!("| {name}, p50 / p99 | {measured} | {at_most}{target} | {result} |"));
        Ok(())
    }

    /// Adds the share of queries whose first results have what was meant, the 50th and the 99th percentile of
    /// their durations, and the longest one.
    ///
    /// # Errors
    /// If there are no durations.
    pub(crate) fn search(
        &mut self,
        name: &str,
        hits: f64,
        durations: &[Duration],
        target: SearchTarget,
    ) -> Result<()> {
        let (p50, p99) = (percentile(durations, 50)?, percentile(durations, 99)?);
        let longest = durations.iter().max().copied().context("nothing was measured")?;
        let is_met = target.hits.is_none_or(|least| hits >= least)
            && p50 <= target.p50
            && p99 <= target.p99
            && longest <= target.longest;
        let [p50, p99, longest] = [p50, p99, longest].map(text);
        let [p50_target, p99_target] = [target.p50, target.p99].map(text);
        let least = target.hits.map(|least| format!("{least:.2} hits, ")).unwrap_or_default();
        let hits = target.hits.map(|_| format!("{hits:.3} hits, ")).unwrap_or_default();
        let result = result(is_met);
        self.add(format!(
            "| {name} | {hits}{p50} / {p99} / {longest} | {least}{p50_target} / {p99_target} | {result} |"
        ));
        Ok(())
    }

    /// Adds a number of files a second that is to be at least `target`.
    pub(crate) fn rate(&mut self, name: &str, measured: f64, target: f64) {
        let result = result(measured >= target);
        self.add(format!("| {name} | {measured:.0}/s | at least {target:.0}/s | {result} |"));
    }

    /// Adds a ratio that is to be at most `target`.
    pub(crate) fn ratio(&mut self, name: &str, measured: f64, target: f64) {
        let result = result(measured <= target);
        self.add(format!("| {name} | {measured:.2} | at most {target:.2} | {result} |"));
    }

    /// Adds the share of a limit that was reached, which is to be at least `target`: the median of the
    /// ratios of all rounds, and their range.
    pub(crate) fn share(&mut self, name: &str, rounds: &Rounds, target: Option<f64>) {
        let ratios = rounds.ratios();
        let ratio = middle(&ratios);
        let (least, most) = (ratios.first().unwrap_or(&ratio), ratios.last().unwrap_or(&ratio));
        let measured = format!(
            "{ratio:.2} ({least:.2} to {most:.2}): {} of {}",
            per_second(middle(&sorted(&rounds.measured))),
            per_second(middle(&sorted(&rounds.limit)))
        );
        let (target, result) = match target {
            Some(target) => (format!("at least {target:.2}"), result(ratio >= target)),
            None => (String::new(), ""),
        };
        self.add(format!("| {name} | {measured} | {target} | {result} |"));
    }

    /// Adds a row, and prints it at once to stderr: the next one may take minutes.
    fn add(&mut self, row: String) {
        eprintln!("{row}");
        self.rows.push(row);
    }

    #[expect(clippy::print_stdout, reason = "the table is the output of the program")]
    pub(crate) fn print(&self) {
        for condition in &self.conditions {
            println!("{condition}");
        }
        println!("\n| what | measured | target | |\n| --- | --: | --: | --- |");
        for row in &self.rows {
            println!("{row}");
        }
    }
}

/// What a kind of search must reach.
#[derive(Clone, Copy)]
pub(crate) struct SearchTarget {
    /// The share of queries whose first results have what was meant; none if that is not known.
    pub(crate) hits: Option<f64>,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// The longest time of any query.
    pub(crate) longest: Duration,
}

/// Requests a second of the service and of its limit, measured in turn.
#[derive(Default)]
pub(crate) struct Rounds {
    pub(crate) measured: Vec<f64>,
    pub(crate) limit: Vec<f64>,
}

impl Rounds {
    /// Returns the ratio of each round, upwards.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.measured.iter().zip(&self.limit);
        sorted(&pairs.map(|(measured, limit)| measured / limit).collect::<Vec<_>>())
    }
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// Returns the median of sorted figures.
fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn per_second(rate: f64) -> String {
    if rate < 1e4 { format!("{rate:.0}/s") } else { format!("{:.1} k/s", rate / 1e3) }
}

fn result(is_met: bool) -> &'static str {
    if is_met { "ok" } else { "FAIL" }
}

/// Returns a duration as text: in milliseconds if it is shorter than a second.
pub(crate) fn text(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// Returns the median; of an even number of times, the higher one of the two in the middle.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Returns the duration that `percent` of all durations are shorter than.
///
/// # Errors
/// If there are no durations.
pub(crate) fn percentile(durations: &[Duration], percent: usize) -> Result<Duration> {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * percent / 100).copied().context("nothing was measured")
}
