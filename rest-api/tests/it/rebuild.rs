//! The drill: a catalogue is made by random operations, thrown away, and rebuilt from the bucket and the decisions.
//!
//! The times that a bucket reports have whole seconds, so within a second the order of two objects is lost. Here
//! objects that share movies are written in different seconds; one object is written several times within one.
//! What a removed version said is not in the bucket either. A snapshot that was removed does not count, but an upsert
//! does. So only versions of snapshots, rejected files and delete markers are removed by their ids, and of snapshots the
//! current one alone: the removal of another one is taken for an expiry, which changes nothing. People change, hold and
//! release movies in seconds of their own.
//!
//! `MRU_TEST_SEED` is the seed.

use std::{collections::BTreeMap, time::Duration};

use aws::trace::TraceParent;
use fastrand::Rng;
use ingest_lambda::{ApiClient, Notify, RecordAction, Token, parse_event};
use rest_api::{
    config::Secret,
    store::{Content, Edit, Edited, FoundById, Mode},
};
use schema::{MAX_NOTIFICATIONS, Notification};
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service, TOKEN,
    builder::no_secrets,
    function::function,
    ledger::row,
    movies::{movie, ndjson},
    postgres::migrated_database,
    process::{Output, environment, program},
};

/// Each round lasts about a second.
const ROUNDS: usize = 24;

/// Groups of objects that share movies.
const GROUPS: usize = 9;
const KEYS: usize = 3;
const MOVIES: usize = 7;

/// How often people act: after every so many rounds.
const PEOPLE: usize = 3;

/// A version in the bucket, or a delete marker.
#[derive(Clone)]
struct Version {
    key: String,
    version_id: String,
    is_marker: bool,
    /// When it may be removed by its id.
    removable: Removable,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Removable {
    Always,
    IfCurrent,
    Never,
}

struct Drill {
    random: Rng,
    service: Service,
    function: ApiClient,
    /// In the order of the puts.
    versions: Vec<Version>,
    /// Notifications that are not delivered yet.
    pending: Vec<Notification>,
    /// How often each operation was done.
    done: BTreeMap<&'static str, usize>,
}

impl Drill {
    fn count(&mut self, operation: &'static str) {
        *self.done.entry(operation).or_default() += 1;
    }

    /// Changes an object of the group at random.
    async fn change(&mut self, group: usize, key: &str) {
        match self.random.u8(0..10) {
            0..2 => {
                let delete = self.service.s3.delete_object().bucket(BUCKET).key(key).send().await;
                let version_id = delete.unwrap().version_id.unwrap();
                let (key, removable) = (key.to_owned(), Removable::Always);
                self.versions.push(Version { key, version_id, is_marker: true, removable });
                self.count("object removed");
            }
            2..4 if !self.removable(key).is_empty() => {
                let removable = self.removable(key);
                let chosen = removable[self.random.usize(0..removable.len())];
                let Version { key, version_id, .. } = self.versions.remove(chosen);
                self.service.delete_version(&key, &version_id).await;
                self.count("version removed");
            }
            _ => self.put(group, key).await,
        }
        let event = self.service.next_event().await;
        for message in parse_event(event) {
            for record in message.records {
                let RecordAction::Notify(notification) = record.unwrap() else { panic!() };
                self.pending.push(*notification);
            }
        }
    }

    /// Returns the indexes of the versions of an object that can be removed now.
    fn removable(&self, key: &str) -> Vec<usize> {
        let versions = self.versions.iter().enumerate().filter(|(_, version)| version.key == key);
        let is_current = |index: usize| {
            let newer = self.versions[index + 1..].iter();
            newer.filter(|newer| newer.key == key).all(|newer| newer.is_marker)
        };
        let removable = versions.filter(|(index, version)| match version.removable {
            Removable::Always => true,
            Removable::IfCurrent => is_current(*index),
            Removable::Never => false,
        });
        removable.map(|(index, _)| index).collect()
    }

    async fn put(&mut self, group: usize, key: &str) {
        let mode = if self.random.bool() { Mode::Snapshot } else { Mode::Upsert };
        let is_rejected = self.random.u8(0..10) == 0;
        let random = &mut self.random;
        let numbers: Vec<usize> = (0..MOVIES).filter(|_| random.bool()).collect();
        let genre = |random: &mut Rng| ["a", "b", "c"][random.usize(0..3)];
        let movies =
            numbers.iter().map(|number| movie(&format!("{group} {number}"), genre(random)));
        let movies: Vec<Value> = movies.collect();
        let body = match (is_rejected, movies.is_empty()) {
            (true, _) => "no movie".to_owned(),
            (false, true) => "[]".to_owned(),
            (false, false) => ndjson(&movies),
        };
        let put = self.service.put_version(key, mode, body).await;
        let (key, version_id) = (key.to_owned(), put["version_id"].as_str().unwrap().to_owned());
        let removable = match mode {
            _ if is_rejected => Removable::Always,
            Mode::Snapshot => Removable::IfCurrent,
            Mode::Upsert => Removable::Never,
        };
        self.versions.push(Version { key, version_id, is_marker: false, removable });
        self.count(match (is_rejected, mode) {
            (true, _) => "rejected",
            (false, Mode::Snapshot) => "snapshot",
            (false, Mode::Upsert) => "upsert",
        });
    }

    /// Delivers some of the pending notifications in random order, a few repeatedly.
    async fn deliver(&mut self, share: usize) {
        self.random.shuffle(&mut self.pending);
        let count = self.pending.len() * share / 100;
        let mut sent: Vec<Notification> = self.pending.drain(..count).collect();
        let again = sent.iter().filter(|_| self.random.u8(0..8) == 0).cloned();
        let again: Vec<Notification> = again.collect();
        sent.extend(again);
        for batch in sent.chunks(MAX_NOTIFICATIONS) {
            let results = self.function.notify(batch, "drill", &TraceParent::random()).await;
            results.into_iter().for_each(|result| result.unwrap());
        }
    }

    /// Lets people post, change, delete, hold and release movies.
    async fn people(&mut self) {
        let store = self.service.store(1).await;
        let movies = self.service.movies("").await;
        for _ in 0..8.min(movies.len()) {
            let found = &movies[self.random.usize(0..movies.len())];
            let id = found["id"].as_i64().unwrap();
            let new = row(&movie(found["title"].as_str().unwrap(), "edited"));
            let content = match self.random.u8(0..6) {
                0 => {
                    store.post_movies(&[new], "Ann").await.unwrap();
                    self.count("post");
                    continue;
                }
                1 => {
                    store.hold_movie(id, "Ann").await.unwrap();
                    self.count("hold");
                    continue;
                }
                2 => {
                    store.release_movie(id, "Ann").await.unwrap();
                    self.count("release");
                    continue;
                }
                3 => Content::Deleted,
                _ => Content::Replaced(&new),
            };
            let FoundById::Movie(present) = store.present_movie(id).await.unwrap() else {
                continue;
            };
            let (expected, hold) = (present.state(), self.random.u8(0..4) == 0);
            let edit = Edit { id, content, expected, hold, by: "Ann" };
            store.edit_movie(&edit, None, |_| Edited::default()).await.unwrap();
            self.count(if matches!(content, Content::Deleted) { "delete" } else { "edit" });
        }
    }

    /// Undoes or redoes an ended ingest.
    async fn decide(&mut self) {
        let ingests = self.service.get("/ingests?limit=1000").await.json();
        let merged = |ingest: &&Value| {
            ingest["state"] == "succeeded" || ingest["superseded_reason"] == "newer_version_merged"
        };
        let mut merged: Vec<&Value> = ingests.as_array().unwrap().iter().filter(merged).collect();
        let is_undone = |ingest: &&Value| !ingest["undone_at"].is_null();
        if self.random.u8(0..3) == 0 && merged.iter().any(is_undone) {
            merged.retain(is_undone);
        }
        if merged.is_empty() {
            return;
        }
        let ingest = merged[self.random.usize(0..merged.len())];
        let decision = if is_undone(&ingest) { "redo" } else { "undo" };
        let path = format!("/ingests/{}/{decision}", ingest["id"]);
        let decided = self.service.send(self.service.post(&path, "")).await;
        // What removed a version has merged nothing.
        let is_refused = decided.json()["code"] == "not_merged";
        assert!(decided.status.is_success() || is_refused, "{}", decided.text);
        if decided.status.is_success() {
            self.count(decision);
        }
    }
}

/// Waits until the next second begins.
async fn next_second() {
    let into_second = chrono::Utc::now().timestamp_subsec_millis().min(999);
    tokio::time::sleep(Duration::from_millis(u64::from(1001 - into_second))).await;
}

/// Returns the catalogue, sorted.
async fn catalogue(service: &Service) -> Vec<String> {
    let movies = service.movies_without_ids("sort=title").await;
    let mut movies: Vec<String> = movies.iter().map(Value::to_string).collect();
    movies.sort();
    movies
}

/// Runs `rest-api` on the database of `service`.
async fn run(service: &Service, subcommand: &str, arguments: &[&str]) -> Output {
    let mut program = program(subcommand);
    program.envs(environment(service)).env("MRU_BUCKETS", BUCKET);
    let ran = Output::of(program, arguments).await;
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    ran
}

/// Makes a catalogue by random operations.
async fn make(seed: u64) -> Drill {
    let service = Service::start().await;
    service.enable_versioning().await;
    let function = function(&service, Token::Fixed(Secret::new(TOKEN)), no_secrets()).await;
    let (versions, pending, done) = (Vec::new(), Vec::new(), BTreeMap::new());
    let random = Rng::with_seed(seed);
    let mut drill = Drill { random, service, function, versions, pending, done };
    for round in 0..ROUNDS {
        for group in 0..GROUPS {
            let key = format!("{group}/{}.json", drill.random.usize(0..KEYS));
            for _ in 0..drill.random.usize(0..4) {
                drill.change(group, &key).await;
            }
        }
        let share = drill.random.usize(0..100);
        drill.deliver(share).await;
        drill.decide().await;
        drill.decide().await;
        // The next round begins in another second.
        next_second().await;
        if round % PEOPLE == 0 {
            drill.people().await;
            next_second().await;
        }
    }
    drill.deliver(100).await;
    drill.service.idle().await;
    drill
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_rebuilt_from_the_bucket_and_the_decisions_is_equal() {
    let seed = std::env::var("MRU_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|| fastrand::u64(0..1 << 32));
    let drill = make(seed).await;
    let (mut service, done) = (drill.service, drill.done);
    assert!(done.values().sum::<usize>() >= 200, "MRU_TEST_SEED={seed}: {done:?}");
    assert_eq!(done.len(), 12, "MRU_TEST_SEED={seed}: an operation was never done: {done:?}");
    let before = catalogue(&service).await;
    let path = service.scratch_path("decisions.ndjson");
    std::fs::write(&path, run(&service, "decisions", &["export"]).await.stdout).unwrap();

    service.stop().await;
    service.database = migrated_database().await;
    let service = service.successor().start().await;
    run(&service, "decisions", &["import", path.to_str().unwrap()]).await;
    let replayed = run(&service, "reconcile", &["--all-versions", "--apply", "--json"]).await;
    let summary = replayed.json_lines().pop().unwrap()["summary"].take();
    assert_eq!(summary["versions"]["lacks_decisions"], false, "{summary}");
    assert_eq!(summary["queued"], summary["listed"], "{summary}");
    service.idle().await;
    let after = catalogue(&service).await;
    let changed: Vec<_> = before
        .iter()
        .filter(|movie| !after.contains(movie))
        .map(|movie| format!("- {movie}"))
        .chain(
            after.iter().filter(|movie| !before.contains(movie)).map(|movie| format!("+ {movie}")),
        )
        .collect();
    assert!(changed.is_empty() && before == after, "MRU_TEST_SEED={seed}: {done:?}: {changed:#?}");

    let again = run(&service, "reconcile", &["--all-versions", "--json"]).await.json_lines();
    let [line] = &*again else { panic!("MRU_TEST_SEED={seed}: {again:?}") };
    assert_eq!(line["summary"]["missing"], json!(0), "{line}");
}
