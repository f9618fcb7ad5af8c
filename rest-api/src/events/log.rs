//! The last events, as text of a stream of server-sent events.
//!
//! An end has an id. The other events have none: a follower that comes back is told the present revision and the
//! running ingests anyway.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    iter,
    sync::Arc,
};

use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use super::follower::Scope;
use crate::store::Ingest;

/// How many events are kept, and how many bytes of them.
const MAX_EVENTS: usize = 4_096;
const MAX_BYTES: usize = 4 << 20;

/// How many bytes a follower takes at once, about.
const MAX_CHUNK: usize = 32 << 10;

/// The last events.
#[derive(Debug)]
pub(super) struct Log {
    /// Those that are kept, the oldest first.
    events: VecDeque<Event>,
    /// The number of the first one in `events`.
    first: u64,
    /// The size of their texts.
    bytes: usize,
    /// The id of the last end before `events`.
    before: Arc<str>,
    /// The id of the last end.
    last: Arc<str>,
    /// The number of the catalogue's state.
    revision: i64,
    /// The events of the ingests that run, with the number of their attempt.
    running: BTreeMap<i64, (i32, Event)>,
}

/// One event.
#[derive(Clone, Debug)]
struct Event {
    /// The id, of an end.
    id: Option<Arc<str>>,
    /// The object key of its ingest; none if it is of no ingest.
    key: Option<Arc<str>>,
    text: Bytes,
}

impl Default for Log {
    fn default() -> Self {
        let start = new_start();
        Self {
            events: VecDeque::new(),
            first: 0,
            bytes: 0,
            before: Arc::clone(&start),
            last: start,
            revision: 0,
            running: BTreeMap::new(),
        }
    }
}

/// Returns an id for a place before which ends may be missing. No other process has it.
fn new_start() -> Arc<str> {
    Uuid::new_v4().simple().to_string().into()
}

/// Returns the text of an event.
fn render(id: Option<&str>, name: &str, data: &str) -> String {
    let mut text = String::with_capacity(data.len() + 64);
    if let Some(id) = id {
        // Writing to a string does not fail.
        let _ = writeln!(text, "id: {id}");
    }
    // JSON has no line breaks outside its strings, and escapes those inside.
    let _ = write!(text, "event: {name}\ndata: {data}\n\n");
    text
}

impl Event {
    fn of_ingest(ingest: &Ingest, id: Option<String>) -> Option<Self> {
        let data = serde_json::to_string(ingest).ok()?;
        let text = render(id.as_deref(), "ingest", &data).into();
        Some(Self { id: id.map(Into::into), key: Some(ingest.key.as_str().into()), text })
    }
}

impl Log {
    /// Learns which ingests run. Adds an event for each that has begun.
    pub(super) fn set_running(&mut self, ingests: &[Ingest]) {
        let mut before = std::mem::take(&mut self.running);
        for ingest in ingests {
            let known =
                before.remove(&ingest.id).filter(|(attempt, _)| *attempt == ingest.attempts);
            let event = match known {
                Some((_, event)) => event,
                None => {
                    let Some(event) = Event::of_ingest(ingest, None) else { continue };
                    self.add(event.clone());
                    event
                }
            };
            self.running.insert(ingest.id, (ingest.attempts, event));
        }
    }

    /// Forgets which ingests run: nobody wants to know.
    pub(super) fn forget_running(&mut self) {
        self.running.clear();
    }

    /// Adds an event for each of these ingests that has ended.
    pub(super) fn add_ended(&mut self, ingests: &[Ingest]) {
        for ingest in ingests {
            // One that was queued again since ends once more.
            let Some(finished_at) = ingest.finished_at else { continue };
            self.running.remove(&ingest.id);
            let id = format!("{}-{}", ingest.id, finished_at.timestamp_micros());
            self.last = id.as_str().into();
            if let Some(event) = Event::of_ingest(ingest, Some(id)) {
                self.add(event);
            }
        }
    }

    /// Learns the number of the catalogue's state. Adds an event if it is another one.
    pub(super) fn set_revision(&mut self, number: i64) {
        if number != self.revision {
            self.revision = number;
            let text = self.render_revision(None).into();
            self.add(Event { id: None, key: None, text });
        }
    }

    /// Begins anew after ends may have been missed. Whoever follows must ask again.
    pub(super) fn begin_anew(&mut self) {
        self.first = self.next() + 1;
        self.events.clear();
        self.bytes = 0;
        self.before = new_start();
        self.last = Arc::clone(&self.before);
    }

    fn add(&mut self, event: Event) {
        self.bytes += event.text.len();
        self.events.push_back(event);
        while (self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES)
            && let Some(event) = self.events.pop_front()
        {
            self.first += 1;
            self.bytes -= event.text.len();
            self.before = event.id.unwrap_or(Arc::clone(&self.before));
        }
    }

    /// Returns the number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Returns the number of the event after the end `id`; none if it is not known (any more).
    pub(super) fn after(&self, id: &str) -> Option<u64> {
        if *self.before == *id {
            return Some(self.first);
        }
        let found = self.events.iter().position(|event| event.id.as_deref() == Some(id))?;
        Some(self.first + found as u64 + 1)
    }

    /// Returns what a follower is told first. One that cannot be told what it has missed `resets`.
    pub(super) fn beginning(&self, scope: &Scope, resets: bool, resumes: bool) -> VecDeque<Bytes> {
        let mut text = "retry: 3000\n\n".to_owned();
        let last = scope.shows_ingests().then_some(&*self.last);
        if resets {
            text += &render(last, "reset", "{}");
        }
        text += &self.render_revision(last.filter(|_| !resumes));
        let running = self.running.values().map(|(_, event)| event);
        // Not copied: many followers may begin at once.
        let running = running.filter(|event| event.is_shown(scope)).map(|event| event.text.clone());
        iter::once(text.into()).chain(running).collect()
    }

    /// Returns the events from `number` on that `scope` shows, up to about [`MAX_CHUNK`] bytes, and the number of the
    /// one after them; none if they are not known any more.
    pub(super) fn read(&self, number: u64, scope: &Scope) -> Option<(Vec<u8>, u64)> {
        let skipped = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let (mut text, mut next) = (Vec::new(), number);
        for event in self.events.iter().skip(skipped) {
            if text.len() >= MAX_CHUNK {
                break;
            }
            next += 1;
            if event.is_shown(scope) {
                text.extend_from_slice(&event.text);
            }
        }
        Some((text, next))
    }

    fn render_revision(&self, id: Option<&str>) -> String {
        render(id, "revision", &json!({ "revision": self.revision }).to_string())
    }
}

impl Event {
    fn is_shown(&self, scope: &Scope) -> bool {
        self.key.as_deref().is_none_or(|key| scope.shows(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::KeyPrefixes,
        store::{Event as Change, IngestState},
    };

    fn ended(id: i64, key: &str) -> Ingest {
        let at = chrono::DateTime::from_timestamp(id, 0);
        Ingest {
            id,
            bucket: "movies".to_owned(),
            key: key.to_owned(),
            version_id: None,
            etag: None,
            size: None,
            event: Change::Created,
            mode: None,
            state: IngestState::Rejected,
            superseded_reason: None,
            attempts: 1,
            received_at: at.unwrap(),
            started_at: at,
            finished_at: at,
            inserted: None,
            updated: None,
            unchanged: None,
            withdrawn: None,
            restored: None,
            held: None,
            undone_at: None,
            undone_by: None,
            approved_at: None,
            approved_by: None,
            violation_count: Some(1),
            violations: None,
            held_movies: None,
            error: None,
        }
    }

    fn all() -> Scope {
        Scope::Ingests(KeyPrefixes::ALL)
    }

    fn beginning(log: &Log, scope: &Scope) -> String {
        let texts: Vec<Bytes> = log.beginning(scope, false, false).into();
        String::from_utf8(texts.concat()).unwrap()
    }

    #[test]
    fn the_log_is_bounded_and_knows_what_it_has_dropped() {
        let mut log = Log::default();
        let start = Arc::clone(&log.last);
        assert_eq!(log.after(&start), Some(0));
        for id in 0..10_000 {
            log.add_ended(&[ended(id, "k")]);
        }
        assert!(log.events.len() <= MAX_EVENTS && log.bytes <= MAX_BYTES);
        let bytes: usize = log.events.iter().map(|event| event.text.len()).sum();
        assert_eq!(bytes, log.bytes);
        assert_eq!(log.next(), 10_000);
        assert_eq!(log.after(&start), None, "events after it are gone");
        assert_eq!(log.after("0-0"), None);
        assert_eq!(log.after("9999-9999000000"), Some(10_000));
        assert_eq!(log.after(&log.before), Some(log.first), "nothing after it is gone");
        assert!(log.read(0, &all()).is_none());
        let (mut next, mut read) = (log.first, 0);
        while next < log.next() {
            let (text, after) = log.read(next, &all()).unwrap();
            assert!(text.len() < MAX_CHUNK + 1024);
            (next, read) = (after, read + text.len());
        }
        assert_eq!(read, log.bytes);
    }

    #[test]
    fn a_gap_is_noticed_by_whoever_follows() {
        let mut log = Log::default();
        log.add_ended(&[ended(1, "k")]);
        let (next, last) = (log.next(), Arc::clone(&log.last));
        log.begin_anew();
        assert!(log.read(next, &all()).is_none());
        assert_eq!(log.after(&last), None);
        log.add_ended(&[ended(2, "k")]);
        assert!(log.read(next, &all()).is_none());
    }

    #[test]
    fn an_attempt_begins_once() {
        let mut log = Log::default();
        let running = |attempts| Ingest {
            state: IngestState::Running,
            finished_at: None,
            attempts,
            ..ended(1, "k")
        };
        let number = |log: &Log| log.next();
        log.set_running(&[running(1)]);
        log.set_running(&[running(1)]);
        assert_eq!(number(&log), 1);
        log.set_running(&[running(2)]);
        assert_eq!(number(&log), 2);
        assert!(beginning(&log, &all()).contains("\"attempts\":2"));
        log.add_ended(&[ended(1, "k")]);
        assert!(!beginning(&log, &all()).contains("attempts"));
    }

    #[test]
    fn a_scope_shows_its_keys_alone() {
        let mut log = Log::default();
        log.add_ended(&[ended(1, "studio/a"), ended(2, "other/b")]);
        log.set_revision(7);
        let read = |scope: &Scope| String::from_utf8(log.read(0, scope).unwrap().0).unwrap();
        let bound = Scope::Ingests(KeyPrefixes::new(vec!["studio/".to_owned()]));
        let text = read(&bound);
        assert!(text.contains("studio/a") && !text.contains("other/b"), "{text}");
        assert_eq!(read(&Scope::Revision), "event: revision\ndata: {\"revision\":7}\n\n");
        let beginning = beginning(&log, &Scope::Revision);
        assert!(!beginning.contains("id:"), "{beginning}");
    }
}
