//! Clients that follow the events: how many there may be, what they see, and how far they are.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::Events;
use crate::accounts::{KeyPrefixes, network};

/// How many clients may follow. Each takes one of the connections of the service, of which the others are left for
/// requests.
const MAX_FOLLOWERS: usize = 512;

/// How many clients may follow from one address.
const MAX_FROM_ADDRESS: usize = 64;

/// What a follower sees.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// The states of the catalogue alone.
    Revision,
    /// Also the ingests of these keys.
    Ingests(KeyPrefixes),
}

impl Scope {
    /// Returns whether it shows ingests at all.
    pub(super) fn shows_ingests(&self) -> bool {
        matches!(self, Self::Ingests(_))
    }

    /// Returns whether it shows ingests of this key.
    pub(super) fn shows(&self, key: &str) -> bool {
        match self {
            Self::Revision => false,
            Self::Ingests(prefixes) => prefixes.contain(key),
        }
    }
}

/// Why nobody else can follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TooMany {
    /// There are too many followers.
    InAll,
    /// There are too many from this address.
    FromAddress,
}

/// The places of followers, by their addresses.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

impl Places {
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, TooMany> {
        let (address, mut taken) = (network(address), self.lock());
        if taken.values().sum::<usize>() >= MAX_FOLLOWERS {
            return Err(TooMany::InAll);
        }
        let from_address = taken.entry(address).or_default();
        if *from_address >= MAX_FROM_ADDRESS {
            return Err(TooMany::FromAddress);
        }
        *from_address += 1;
        Ok(Place { places: Arc::clone(self), address })
    }

    pub(super) fn taken(&self) -> usize {
        self.lock().values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one follower.
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(from_address) = taken.get_mut(&self.address) {
            *from_address -= 1;
            if *from_address == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// A client that follows the events. It keeps no event: all read the same log.
pub(crate) struct Follower {
    events: Arc<Events>,
    scope: Scope,
    changed: watch::Receiver<()>,
    /// The number of the next event.
    next: u64,
    /// What is to be told before.
    beginning: VecDeque<Bytes>,
    _place: Place,
}

impl Follower {
    pub(super) fn new(
        events: Arc<Events>,
        place: Place,
        scope: Scope,
        last_id: Option<&str>,
    ) -> Self {
        let changed = events.changed.subscribe();
        let log = events.log();
        // The revision needs no id: the present one is all that matters.
        let last_id = last_id.filter(|_| scope.shows_ingests());
        let after = last_id.map(|id| log.after(id));
        let (resets, resumes) = (after == Some(None), matches!(after, Some(Some(_))));
        let next = after.flatten().unwrap_or(log.next());
        let beginning = log.beginning(&scope, resets, resumes);
        drop(log);
        Self { events, scope, changed, next, beginning, _place: place }
    }

    /// Waits for the next events, and returns their text. One that falls so far behind that the log does not have
    /// them any more begins anew.
    pub(crate) async fn next(&mut self) -> Bytes {
        loop {
            if let Some(text) = self.beginning.pop_front() {
                return text;
            }
            self.changed.mark_unchanged();
            {
                let log = self.events.log();
                let Some((text, next)) = log.read(self.next, &self.scope) else {
                    self.next = log.next();
                    self.beginning = log.beginning(&self.scope, true, false);
                    continue;
                };
                self.next = next;
                if !text.is_empty() {
                    return text.into();
                }
                if next < log.next() {
                    continue;
                }
            }
            // The sender lives as long as `events`.
            let _ = self.changed.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_address() {
        let places = Arc::new(Places::default());
        let address = |number: usize| IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]);
        let mut taken = Vec::new();
        for _ in 0..MAX_FROM_ADDRESS {
            taken.push(places.take(address(0)).unwrap());
        }
        assert_eq!(places.take(address(0)).err(), Some(TooMany::FromAddress));
        for number in MAX_FROM_ADDRESS..MAX_FOLLOWERS {
            taken.push(places.take(address(number / MAX_FROM_ADDRESS)).unwrap());
        }
        assert_eq!(places.take(address(255)).err(), Some(TooMany::InAll));
        assert_eq!(places.taken(), MAX_FOLLOWERS);
        drop(taken);
        assert_eq!(places.taken(), 0);
        assert!(places.lock().is_empty());
    }
}
