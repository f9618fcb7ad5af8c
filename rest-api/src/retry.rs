//! Retries after faults of the infrastructure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How often, and after which delays, a fault of the infrastructure is retried.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How often an ingest is attempted before it has `failed`.
    pub max_attempts: i32,
    /// The same if the object store refuses (no permission, no such bucket), which seldom changes.
    pub max_attempts_refused: i32,
    /// The delay before an object that was not there is looked for once more.
    pub gone_delay: Duration,
    /// The longest delay after the first attempt. It doubles with each further attempt.
    pub base_delay: Duration,
    /// The longest delay.
    pub max_delay: Duration,
}

impl Retry {
    /// After this many attempts the longest delay is reached, whatever the configuration.
    const MAX_DOUBLINGS: usize = 32;

    /// Returns the delay after attempt number `attempt`, counted from 1: between half of the longest
    /// delay for this attempt and all of it, at random. So many ingests that failed together are not
    /// retried together.
    pub(crate) fn delay(&self, attempt: i32) -> Duration {
        // The jitter of backon adds up to the delay itself.
        let delays = ExponentialBuilder::new()
            .with_min_delay(self.base_delay / 2)
            .with_max_delay(self.max_delay / 2)
            .with_jitter()
            .without_max_times();
        let doublings = usize::try_from(attempt - 1).unwrap_or(0).min(Self::MAX_DOUBLINGS);
        delays.build().nth(doublings).unwrap_or(self.max_delay)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 12,
            max_attempts_refused: 4,
            gone_delay: Duration::from_secs(15),
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_differ() {
        let (base_delay, max_delay) = (Duration::from_secs(1), Duration::from_secs(300));
        let retry = Retry { base_delay, max_delay, ..Retry::default() };
        for (attempt, longest) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (i32::MAX, 300)] {
            let longest = Duration::from_secs(longest);
            let delays: Vec<Duration> = (0..100).map(|_| retry.delay(attempt)).collect();
            assert!(delays.iter().all(|delay| (longest / 2..=longest).contains(delay)));
            let spread = delays.iter().max().zip(delays.iter().min()).map(|(max, min)| *max - *min);
            assert!(spread > Some(longest / 4), "{attempt}: {spread:?}");
        }
    }
}
