//! The connections of one listener: how many there may be, and which are closed.
//!
//! A connection is closed when the head of its first request or the last byte of a response is late,
//! and when it waits for its client and a new connection needs its place. hyper does not report when a
//! client has received a response, so the bytes of the response do (see [`Guarded`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Response;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::{Instant, timeout_at},
};

use super::responses::Guarded;
use crate::{config::ServerLimits, http::response::ResponseDeadline};

/// How long a client may take to send the head of its first request.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle, the head of its next request included. A load balancer keeps
/// its connections for 60 s, and responds 502 if the service closes one before.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A connection that has received the head of a request or [`PROGRESS`] bytes of its body within this
/// time is replaced only if none is idle, and only after slower ones.
const PROGRESS_TIME: Duration = Duration::from_secs(5);

/// How many bytes of a body count as progress.
pub(super) const PROGRESS: usize = 16 << 10;

/// The places for connections.
pub(super) struct Places {
    permits: Arc<Semaphore>,
    waiting: Mutex<WaitingConnections>,
    /// Notified when [`Self::replace_one`] may find another connection.
    changed: Notify,
    response_deadline: Duration,
}

/// Since when a connection waits for its client, and a number that makes this unique. The time of one
/// that receives a body is [`PROGRESS_TIME`] later.
type WaitKey = (Instant, u64);

/// The connections that wait for their clients: those that are idle, and those that receive the body
/// of a request. The first one is replaced first.
#[derive(Default)]
struct WaitingConnections {
    next_number: u64,
    by_key: BTreeMap<WaitKey, Arc<Notify>>,
    /// The connection that was told to close, until it has done so or goes on.
    replaced: Option<WaitKey>,
}

impl Places {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.connections)),
            waiting: Mutex::default(),
            changed: Notify::new(),
            response_deadline: limits.response_deadline,
        }
    }

    /// Returns a place for a new connection. If all are taken, closes the connection that has waited
    /// for its client for longest. Waits while none does.
    pub(super) async fn take(self: Arc<Self>) -> Arc<Place> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                break permit;
            }
            self.replace_one();
            tokio::select! {
                Ok(permit) = Arc::clone(&self.permits).acquire_owned() => break permit,
                () = self.changed.notified() => {}
            }
        };
        let now = Instant::now();
        let place = Place {
            state: Mutex::new(State {
                wait_key: None,
                closes: false,
                head_due: Some(now + FIRST_HEAD_TIMEOUT),
                looks_at: None,
                next_exchange: 0,
                exchanges: Vec::with_capacity(2),
            }),
            look: Arc::default(),
            places: self,
            permit: Some(permit),
        };
        place.reconsider(&mut lock(&place.state), now);
        Arc::new(place)
    }

    /// Tells the connection that has waited for its client for longest to close. Does nothing while
    /// another one has been told and has not closed yet. That one goes on if a request has arrived.
    pub(super) fn replace_one(&self) {
        let mut waiting = lock(&self.waiting);
        if waiting.replaced.is_none()
            && let Some((key, connection)) = waiting.by_key.pop_first()
        {
            waiting.replaced = Some(key);
            connection.notify_one();
        }
    }
}

/// The place of one connection.
pub(super) struct Place {
    state: Mutex<State>,
    /// Notified when the connection must look whether it must close: something is due before it looks next, or
    /// a new connection needs this place.
    look: Arc<Notify>,
    places: Arc<Places>,
    /// None only while it is dropped.
    permit: Option<OwnedSemaphorePermit>,
}

struct State {
    /// The key among the waiting connections.
    wait_key: Option<WaitKey>,
    /// Whether the connection is being replaced.
    closes: bool,
    /// When the head of the next request is due. None while an exchange is under way.
    head_due: Option<Instant>,
    /// When the connection looks next whether something is overdue. None if only a notification lets it look.
    looks_at: Option<Instant>,
    next_exchange: u64,
    /// The exchanges under way, by their ids: one, or with the rest of a response that is being written two.
    exchanges: Vec<(u64, Phase)>,
}

/// How far an exchange is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    /// The body of the request is arriving.
    Receiving,
    /// The request is being served.
    Serving,
    /// The response has begun. Its last byte is due at this time.
    Responding(Instant),
}

impl State {
    /// Returns the phase of an exchange. None if it has ended.
    fn phase(&mut self, id: u64) -> Option<&mut Phase> {
        self.exchanges.iter_mut().find(|(other, _)| *other == id).map(|(_, phase)| phase)
    }

    /// Returns when the first thing is due that the client must do.
    fn next_due(&self) -> Option<Instant> {
        let responses = self.exchanges.iter().filter_map(|(_, phase)| match phase {
            Phase::Responding(due) => Some(due),
            Phase::Receiving | Phase::Serving => None,
        });
        responses.chain(&self.head_due).min().copied()
    }
}

impl Place {
    /// Registers a request whose head has arrived `now`, and its whole body if it has none. Returns its
    /// exchange, and what reports the arrival of its body.
    pub(super) fn begin_exchange(
        self: &Arc<Self>,
        has_arrived: bool,
        now: Instant,
    ) -> (Exchange, Option<Receiving>) {
        let mut state = lock(&self.state);
        state.head_due = None;
        let id = state.next_exchange;
        state.next_exchange += 1;
        let phase = if has_arrived { Phase::Serving } else { Phase::Receiving };
        state.exchanges.push((id, phase));
        self.reconsider(&mut state, now);
        let receiving = (!has_arrived).then(|| Receiving { id, place: Arc::clone(self) });
        (Exchange { id, place: Arc::clone(self) }, receiving)
    }

    /// Ends when the connection must be closed. Returns the reason.
    pub(super) async fn must_close(&self) -> &'static str {
        loop {
            // Most clients are in time. So the timer is not set anew for each deadline: when the present one
            // has passed, the next one is looked up.
            let due = {
                let mut state = lock(&self.state);
                if self.is_replaced(&state) {
                    state.closes = true;
                    return "it waits for its client, and a new connection needs the place";
                }
                state.looks_at = state.next_due();
                state.looks_at
            };
            match due {
                None => self.look.notified().await,
                Some(due) if due <= Instant::now() => {
                    return "the client sends or reads too slowly";
                }
                Some(due) => {
                    let _ = timeout_at(due, self.look.notified()).await;
                }
            }
            // A request may have arrived that the thread has not noticed yet.
            yield_now().await;
        }
    }

    /// Whether the connection was told to close. One that went on since has no key, or a later one.
    fn is_replaced(&self, state: &State) -> bool {
        state.wait_key.is_some() && state.wait_key == lock(&self.places.waiting).replaced
    }

    /// Lets the connection look at `due`, unless it looks earlier.
    fn look_at(&self, state: &mut State, due: Instant) {
        if state.looks_at.is_none_or(|at| due < at) {
            state.looks_at = Some(due);
            self.look.notify_one();
        }
    }

    /// Lets the connection be replaced from now on if it waits for its client, else keeps it from that,
    /// even if it was told to close.
    fn reconsider(&self, state: &mut State, now: Instant) {
        if state.closes {
            return;
        }
        self.keep(state);
        if state.exchanges.iter().all(|(_, phase)| *phase == Phase::Receiving) {
            let grace = if state.exchanges.is_empty() { Duration::ZERO } else { PROGRESS_TIME };
            let mut waiting = lock(&self.places.waiting);
            waiting.next_number += 1;
            let key = (now + grace, waiting.next_number);
            waiting.by_key.insert(key, Arc::clone(&self.look));
            state.wait_key = Some(key);
            self.places.changed.notify_one();
        }
    }

    fn keep(&self, state: &mut State) {
        let Some(key) = state.wait_key.take() else { return };
        let mut waiting = lock(&self.places.waiting);
        if waiting.by_key.remove(&key).is_none() {
            waiting.replaced = None;
            self.places.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // In this order: who waits for the place gets it, instead of closing another connection.
        drop(self.permit.take());
        self.keep(&mut lock(&self.state));
    }
}

/// The phase of an exchange in which the body of its request arrives. It ends when this is dropped.
pub(super) struct Receiving {
    id: u64,
    place: Arc<Place>,
}

impl Receiving {
    /// Records that [`PROGRESS`] further bytes have arrived.
    pub(super) fn progress(&self) {
        self.enter(Phase::Receiving);
    }

    /// Changes the phase, unless a response has begun or the exchange has ended.
    fn enter(&self, phase: Phase) {
        let mut state = lock(&self.place.state);
        if let Some(present @ Phase::Receiving) = state.phase(self.id) {
            *present = phase;
            self.place.reconsider(&mut state, Instant::now());
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.enter(Phase::Serving);
    }
}

/// A request and its response. It ends when this is dropped.
pub(super) struct Exchange {
    id: u64,
    place: Arc<Place>,
}

impl Exchange {
    /// Sets the deadline of the response that begins `now`, and lets the exchange last, with a `guard`,
    /// until the last byte is written.
    pub(super) fn respond<B, G>(
        self,
        response: Response<B>,
        guard: G,
        now: Instant,
    ) -> Response<Guarded<B, (Self, G)>> {
        let deadline = response.extensions().get::<ResponseDeadline>().map(|deadline| deadline.0);
        let due = now + deadline.unwrap_or(self.place.places.response_deadline);
        let mut state = lock(&self.place.state);
        if let Some(phase) = state.phase(self.id) {
            *phase = Phase::Responding(due);
        }
        self.place.reconsider(&mut state, now);
        self.place.look_at(&mut state, due);
        drop(state);
        response.map(|body| Guarded::new(body, (self, guard)))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = lock(&self.place.state);
        state.exchanges.retain(|(id, _)| *id != self.id);
        if state.exchanges.is_empty() {
            state.head_due = Some(now + IDLE_TIMEOUT);
            self.place.look_at(&mut state, now + IDLE_TIMEOUT);
        }
        self.place.reconsider(&mut state, now);
    }
}

/// Locks a mutex. No code panics while it holds one of this module.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_new_connection_closes_one_connection_only() {
        for has_request in [false, true] {
            let limits = ServerLimits { connections: 2, ..ServerLimits::MAIN };
            let places = Arc::new(Places::new(&limits));
            let first = Arc::clone(&places).take().await;
            let second = Arc::clone(&places).take().await;
            let begin = |place: &Arc<Place>| place.begin_exchange(false, Instant::now());
            let requests = has_request.then(|| [begin(&first), begin(&second)]);
            let third = tokio::spawn(places.take());
            // Nobody polls the connections for a while, as on a busy machine.
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(timeout(Duration::from_millis(100), second.must_close()).await.is_err());
            timeout(Duration::from_secs(1), first.must_close()).await.unwrap();
            let _other = requests.map(|[_ended, other]| other);
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(first);
            timeout(Duration::from_secs(1), third).await.unwrap().unwrap();
            assert!(timeout(Duration::from_millis(100), second.must_close()).await.is_err());
        }
    }
}
