//! Trying again after faults.

use std::time::Duration;

/// How often, and after which pauses, a fault of the infrastructure is retried.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How often an ingest is attempted before it is `failed`.
    pub max_attempts: i32,
    /// The same where the store refuses (no permission, no such bucket): it seldom relents.
    pub max_attempts_refused: i32,
    /// The pause after the first attempt; it doubles with each further one.
    pub base_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
}

impl Retry {
    /// The pause after attempt number `attempt`, from 1: doubling, with up to half of it left to
    /// chance, so that many that failed together do not come back together.
    pub(crate) fn delay(&self, attempt: i32) -> Duration {
        let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(20);
        let delay = self.base_delay.saturating_mul(1 << doublings).min(self.max_delay);
        let chance = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        delay.mul_f64(1.0 - chance / 2.0)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 12,
            max_attempts_refused: 4,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let (base_delay, max_delay) = (Duration::from_secs(1), Duration::from_secs(300));
        let retry = Retry { base_delay, max_delay, ..Retry::default() };
        for (attempt, longest) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (i32::MAX, 300)] {
            let longest = Duration::from_secs(longest);
            let pauses: Vec<Duration> = (0..100).map(|_| retry.delay(attempt)).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)));
            let spread = pauses.iter().max().zip(pauses.iter().min()).map(|(max, min)| *max - *min);
            assert!(spread > Some(longest / 4), "{attempt}: {spread:?}");
        }
    }
}
