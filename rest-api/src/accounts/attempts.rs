//! Limits how often somebody may be wrong about a password.
//!
//! An attempt counts when it begins, and no more once it has succeeded: so parallel attempts are limited, too, and
//! a right password costs nothing. Three limits hold at once:
//!
//! - for a name from one address: few. Guesses at one user end here.
//! - for one address: more. Guesses at many users end here.
//! - for one name from all addresses: many, soon allowed again. It does not hold for an address from which the name
//!   has signed in before, so that nobody who guesses from many addresses locks the user out.
//!
//! Each process counts for itself. What is counted takes a bounded memory: of too many names and addresses the least
//! used are forgotten.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    nanos::Nanos,
    state::StateStore,
};
use quick_cache::unsync::Cache;

/// How many names, addresses or pairs of both are remembered by each limit.
const MAX_ENTRIES: usize = 20_000;

/// How many attempts may fail in a row, and after what time another one may.
type Allowed = (NonZeroU32, Duration);
const OF_PAIR: Allowed = (in_a_row(10), Duration::from_secs(60));
const OF_ADDRESS: Allowed = (in_a_row(50), Duration::from_secs(6));
const OF_NAME: Allowed = (in_a_row(100), Duration::from_secs(2));

const fn in_a_row(attempts: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(attempts - 1)
}

/// The limits of failed attempts.
pub(crate) struct Attempts {
    pair: Limit,
    address: Limit,
    name: Limit,
    /// The pairs of name and address that have signed in.
    known: Mutex<Cache<u64, ()>>,
    /// Secret, so that nobody can choose names whose hashes collide.
    hasher: RandomState,
}

/// An attempt that counts as failed unless it is taken back.
pub(crate) struct Attempt<'a> {
    attempts: &'a Attempts,
    pair: u64,
    address: u64,
    name: Option<u64>,
}

impl Default for Attempts {
    fn default() -> Self {
        let [pair, address, name] = [OF_PAIR, OF_ADDRESS, OF_NAME].map(Limit::new);
        let known = Mutex::new(Cache::new(MAX_ENTRIES));
        Self { pair, address, name, known, hasher: RandomState::new() }
    }
}

impl Attempts {
    /// Begins an attempt under `name`, in its folded form, from `address`.
    ///
    /// # Errors
    /// After what time the next attempt may begin, if there were too many.
    pub(crate) fn begin(&self, name: &str, address: IpAddr) -> Result<Attempt<'_>, Duration> {
        let network = network(address);
        let pair = self.hasher.hash_one((name, network));
        let name = Some(self.hasher.hash_one(name)).filter(|_| !self.is_known(pair));
        let mut attempt =
            Attempt { attempts: self, pair, address: self.hasher.hash_one(network), name };
        self.pair.count(pair)?;
        if let Err(wait) = self.address.count(attempt.address) {
            self.pair.take_back(pair);
            return Err(wait);
        }
        if let Some(name) = attempt.name
            && let Err(wait) = self.name.count(name)
        {
            attempt.name = None;
            attempt.take_back();
            return Err(wait);
        }
        Ok(attempt)
    }

    fn is_known(&self, pair: u64) -> bool {
        lock(&self.known).get(&pair).is_some()
    }

    /// Returns how many names, addresses and pairs are remembered.
    #[cfg(test)]
    fn entries(&self) -> [usize; 4] {
        let counted =
            [&self.pair, &self.address, &self.name].map(|limit| lock(&limit.counts.0).len());
        let [pair, address, name] = counted;
        [pair, address, name, lock(&self.known).len()]
    }
}

impl Attempt<'_> {
    /// The password was right.
    pub(crate) fn succeeded(self) {
        lock(&self.attempts.known).insert(self.pair, ());
        self.take_back();
    }

    /// Nobody knows whether the password was right: it was not checked.
    pub(crate) fn take_back(self) {
        self.attempts.pair.take_back(self.pair);
        self.attempts.address.take_back(self.address);
        if let Some(name) = self.name {
            self.attempts.name.take_back(name);
        }
    }
}

/// Returns the network that stands for an address: one customer has a whole /64 of IPv6.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// One limit, for each key.
struct Limit {
    limiter: RateLimiter<u64, Counts, MonotonicClock>,
    counts: Counts,
    /// After what time another attempt may fail.
    period: Duration,
}

/// Of each key the time at which it has no failed attempts any more, as the limiter computes it.
#[derive(Clone)]
struct Counts(Arc<Mutex<Cache<u64, Nanos>>>);

impl Limit {
    fn new((burst, period): Allowed) -> Self {
        let counts = Counts(Arc::new(Mutex::new(Cache::new(MAX_ENTRIES))));
        let quota =
            Quota::with_period(period).unwrap_or(Quota::per_minute(burst)).allow_burst(burst);
        let limiter = RateLimiter::new(quota, counts.clone(), MonotonicClock);
        Self { limiter, counts, period }
    }

    fn count(&self, key: u64) -> Result<(), Duration> {
        let wait = |until: NotUntil<_>| until.wait_time_from(self.limiter.clock().now());
        self.limiter.check_key(&key).map_err(wait)
    }

    fn take_back(&self, key: u64) {
        if let Some(mut until) = lock(&self.counts.0).get_mut(&key) {
            let earlier = until.as_u64().saturating_sub(Nanos::from(self.period).as_u64());
            *until = Nanos::new(earlier);
        }
    }
}

impl StateStore for Counts {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut counts = lock(&self.0);
        let (outcome, next) = measure(counts.get(key).copied())?;
        counts.insert(*key, next);
        Ok(outcome)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    /// Begins attempts that fail until one is refused. Returns their number.
    fn failures(attempts: &Attempts, mut begin: impl FnMut(u32) -> (String, IpAddr)) -> u32 {
        (0..)
            .take_while(|number| {
                let (name, address) = begin(*number);
                attempts.begin(&name, address).is_ok()
            })
            .count()
            .try_into()
            .unwrap()
    }

    #[test]
    fn failed_attempts_alone_count() {
        let attempts = Attempts::default();
        for _ in 0..1000 {
            attempts.begin("ann", address(1)).ok().unwrap().succeeded();
            attempts.begin("ann", address(1)).ok().unwrap().take_back();
        }
        assert_eq!(failures(&attempts, |_| ("ann".to_owned(), address(1))), 10);
        let wait = attempts.begin("ann", address(1)).err().unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
        // Others at the address, and the same name elsewhere, still may.
        attempts.begin("bob", address(1)).ok().unwrap().succeeded();
        attempts.begin("ann", address(2)).ok().unwrap().succeeded();
    }

    #[test]
    fn guesses_at_many_names_from_one_address_end() {
        let attempts = Attempts::default();
        assert_eq!(failures(&attempts, |n| (format!("user {n}"), address(1))), 50);
        assert!(attempts.begin("ann", address(1)).is_err());
        attempts.begin("ann", address(2)).ok().unwrap().succeeded();
    }

    #[test]
    fn guesses_from_many_addresses_do_not_lock_the_user_out() {
        let attempts = Attempts::default();
        attempts.begin("ann", address(1)).ok().unwrap().succeeded();
        assert_eq!(failures(&attempts, |n| ("ann".to_owned(), address(n + 100))), 100);
        let wait = attempts.begin("ann", address(2)).err().unwrap();
        assert!(wait <= Duration::from_secs(2), "{wait:?}");
        // The address that the user is known from.
        attempts.begin("ann", address(1)).ok().unwrap().succeeded();
        assert_eq!(failures(&attempts, |_| ("ann".to_owned(), address(1))), 10);
    }

    #[test]
    fn a_refused_attempt_counts_for_no_other_limit() {
        let attempts = Attempts::default();
        failures(&attempts, |_| ("ann".to_owned(), address(1)));
        for _ in 0..1000 {
            assert!(attempts.begin("ann", address(1)).is_err());
        }
        // 10 of the 50 of the address.
        assert_eq!(failures(&attempts, |n| (format!("user {n}"), address(1))), 40);
    }

    #[test]
    fn one_network_counts_as_one_address() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network(parse("2001:db8::1")), network(parse("2001:db8::ffff:1")));
        assert_ne!(network(parse("2001:db8::1")), network(parse("2001:db8:0:1::1")));
        assert_eq!(network(parse("::ffff:192.0.2.1")), parse("192.0.2.1"));
    }

    #[test]
    fn the_memory_is_bounded() {
        let attempts = Attempts::default();
        for number in 0..200_000 {
            let attempt = attempts.begin(&format!("user {number}"), address(number));
            attempt.ok().unwrap().succeeded();
        }
        let entries = attempts.entries();
        assert!(entries.iter().all(|entries| *entries <= MAX_ENTRIES), "{entries:?}");
    }
}
