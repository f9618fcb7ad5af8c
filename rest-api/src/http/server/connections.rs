//! The connections of one listener: how many there may be, and which are closed.
//!
//! A connection is closed when the head of its first request or the last byte of a response is late,
//! and when it is idle and a new connection needs its place. hyper does not report when a client has
//! received a response, so the bytes of the response do (see [`Guarded`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Response;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::responses::Guarded;
use crate::config::ServerLimits;

/// How long a client may take to send the head of its first request.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that was chosen to be closed may take. It stays open if it receives a
/// request at that moment.
const REPLACE_TIMEOUT: Duration = Duration::from_millis(100);

/// The places for connections.
pub(super) struct Places {
    permits: Arc<Semaphore>,
    idle: Mutex<IdleConnections>,
    became_idle: Notify,
    response_deadline: Duration,
}

/// The idle connections, the longest idle one first.
#[derive(Default)]
struct IdleConnections {
    next_key: u64,
    replaced: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.connections)),
            idle: Mutex::default(),
            became_idle: Notify::new(),
            response_deadline: limits.response_deadline,
        }
    }

    /// Returns a place for a new connection. If all are taken, closes the connection that has been
    /// idle for longest. Waits while none is idle.
    pub(super) async fn take(self: Arc<Self>) -> Arc<Place> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                break permit;
            }
            let longest_idle = lock(&self.idle).replaced.pop_first();
            let permit = Arc::clone(&self.permits).acquire_owned();
            if let Some((_, replaced)) = longest_idle {
                replaced.notify_one();
                if let Ok(Ok(permit)) = timeout(REPLACE_TIMEOUT, permit).await {
                    break permit;
                }
            } else {
                tokio::select! {
                    Ok(permit) = permit => break permit,
                    () = self.became_idle.notified() => {}
                }
            }
        };
        let place = Place {
            state: Mutex::new(State {
                idle_key: None,
                first_head_due: Some(Instant::now() + FIRST_HEAD_TIMEOUT),
                next_exchange: 0,
                exchanges: BTreeMap::new(),
            }),
            responding: Notify::new(),
            replaced: Arc::default(),
            places: self,
            _permit: permit,
        };
        place.become_idle(&mut lock(&place.state));
        Arc::new(place)
    }
}

/// The place of one connection.
pub(super) struct Place {
    state: Mutex<State>,
    /// Notified when a response begins.
    responding: Notify,
    /// Notified when a new connection needs this place.
    replaced: Arc<Notify>,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

struct State {
    /// The key among the idle connections.
    idle_key: Option<u64>,
    /// When the head of the first request is due. None after it has arrived.
    first_head_due: Option<Instant>,
    next_exchange: u64,
    /// The exchanges under way: when the last byte of the response is due, once it has begun.
    exchanges: BTreeMap<u64, Option<Instant>>,
}

impl Place {
    /// Registers a request whose head has arrived.
    pub(super) fn begin_exchange(self: &Arc<Self>) -> Exchange {
        let mut state = lock(&self.state);
        self.become_busy(&mut state);
        state.first_head_due = None;
        let id = state.next_exchange;
        state.next_exchange += 1;
        state.exchanges.insert(id, None);
        Exchange { id, place: Arc::clone(self) }
    }

    /// Ends when the connection must be closed. Returns the reason.
    pub(super) async fn must_close(&self) -> &'static str {
        tokio::select! {
            () = self.overdue() => "the client sends or reads too slowly",
            () = self.replaced_while_idle() => "idle, and a new connection needs the place",
        }
    }

    async fn overdue(&self) {
        loop {
            let due = {
                let state = lock(&self.state);
                state.exchanges.values().flatten().chain(&state.first_head_due).min().copied()
            };
            let Some(due) = due else {
                self.responding.notified().await;
                continue;
            };
            if due <= Instant::now() {
                return;
            }
            // A response that begins meanwhile may be due earlier.
            let _ = timeout_at(due, self.responding.notified()).await;
        }
    }

    async fn replaced_while_idle(&self) {
        loop {
            self.replaced.notified().await;
            if lock(&self.state).exchanges.is_empty() {
                return;
            }
        }
    }

    fn become_idle(&self, state: &mut State) {
        let mut idle = lock(&self.places.idle);
        let key = idle.next_key;
        idle.next_key += 1;
        idle.replaced.insert(key, Arc::clone(&self.replaced));
        drop(idle);
        state.idle_key = Some(key);
        self.places.became_idle.notify_one();
    }

    fn become_busy(&self, state: &mut State) {
        if let Some(key) = state.idle_key.take() {
            lock(&self.places.idle).replaced.remove(&key);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.become_busy(&mut lock(&self.state));
    }
}

/// A request and its response. It ends when this is dropped.
pub(super) struct Exchange {
    id: u64,
    place: Arc<Place>,
}

impl Exchange {
    /// Sets the deadline of the response, and lets the exchange last until the last byte is written.
    pub(super) fn respond<B>(self, response: Response<B>) -> Response<Guarded<B, Self>> {
        let due = Instant::now() + self.place.places.response_deadline;
        lock(&self.place.state).exchanges.insert(self.id, Some(due));
        self.place.responding.notify_one();
        response.map(|body| Guarded::new(body, self))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = lock(&self.place.state);
        state.exchanges.remove(&self.id);
        if state.exchanges.is_empty() {
            self.place.become_idle(&mut state);
        }
    }
}

/// Locks a mutex. No code panics while it holds one of this module.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
