//! Snapshots, removals, approvals and undo, as producers and operators see them.

use aws_sdk_s3::primitives::ByteStream;
use reqwest::StatusCode;
use rest_api::config::MaxWithdraw;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service, eventually,
    movies::{movie, numbered_movies},
};

/// A bucket that keeps versions, whose events the test delivers.
struct Fixture {
    service: Service,
    /// The number of the next event.
    next: std::cell::Cell<u32>,
}

/// What was put into the bucket, or removed from it.
#[derive(Clone, Debug)]
struct Event(Value);

impl Event {
    fn version_id(&self) -> &str {
        self.0["version_id"].as_str().unwrap()
    }
}

impl Fixture {
    async fn start() -> Self {
        Self::with(Service::start().await).await
    }

    async fn with(service: Service) -> Self {
        service.enable_versioning().await;
        Self { service, next: std::cell::Cell::new(1) }
    }

    /// Returns the event of a version.
    fn event(&self, key: &str, version_id: Option<String>, etag: Option<String>) -> Event {
        let number = self.next.replace(self.next.get() + 1);
        Event(json!({
            "bucket": BUCKET, "key": key, "version_id": version_id, "etag": etag,
            "sequencer": format!("{number:04X}"),
            "event_time": format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60),
        }))
    }

    async fn put(&self, key: &str, mode: &str, titles: &[&str]) -> Event {
        let movies: Vec<Value> = titles.iter().map(|title| movie(title, key)).collect();
        self.put_text(key, mode, json!(movies).to_string()).await
    }

    async fn put_text(&self, key: &str, mode: &str, text: String) -> Event {
        let put = self.service.s3.put_object().bucket(BUCKET).key(key);
        let put = put.metadata("movies-mode", mode).body(ByteStream::from(text.into_bytes()));
        let put = put.send().await.unwrap();
        let etag = put.e_tag.unwrap().trim_matches('"').to_owned();
        self.event(key, put.version_id, Some(etag))
    }

    /// Removes the object, or one version of it.
    async fn remove(&self, key: &str, version_id: Option<&str>) -> Event {
        let delete = self.service.s3.delete_object().bucket(BUCKET).key(key);
        let deleted = delete.set_version_id(version_id.map(str::to_owned)).send().await.unwrap();
        let mut event = self.event(key, deleted.version_id, None);
        event.0["event"] = json!("removed");
        event
    }

    async fn deliver(&self, event: &Event) -> Value {
        self.service.notify(&event.0).await
    }

    /// Puts a file, and delivers its event.
    async fn ingest(&self, key: &str, mode: &str, titles: &[&str]) -> Value {
        self.deliver(&self.put(key, mode, titles).await).await
    }

    /// Returns the titles of the catalogue, each with the key of the file that its content is from.
    async fn titles(&self) -> Vec<String> {
        let movies = self.service.movies_without_ids("sort=title").await;
        let name = |movie: &Value| {
            let [title, key] =
                [&movie["title"], &movie["genres"][0]].map(|text| text.as_str().unwrap());
            format!("{title} of {key}")
        };
        movies.iter().map(name).collect()
    }

    /// Waits until no ingest is queued or running.
    async fn idle(&self) {
        eventually(async || {
            let mut open = 0;
            for state in ["queued", "running"] {
                let path = format!("/ingests?state={state}");
                open += self.service.get(&path).await.json().as_array().unwrap().len();
            }
            open == 0
        })
        .await;
    }

    async fn decide(&self, ingest: &Value, decision: &str) -> Value {
        let path = format!("/ingests/{}/{decision}", ingest["id"]);
        let response = self.service.send(self.service.post(&path, "")).await;
        assert!(response.status.is_success(), "{path}: {}", response.text);
        response.json()
    }
}

fn counts(ingest: &Value) -> Value {
    let counts = ["state", "mode", "inserted", "withdrawn", "restored"];
    json!(counts.map(|name| ingest[name].clone()))
}

#[tokio::test]
async fn a_corrected_title_in_a_snapshot_replaces_the_movie() {
    let fixture = Fixture::start().await;
    let service = &fixture.service;
    let first = fixture.ingest("k", "snapshot", &["Alein", "Heat"]).await;
    assert_eq!(counts(&first), json!(["succeeded", "snapshot", 2, 0, 0]));
    let wrong = service.movies("title=Alein").await[0]["id"].clone();
    let second = fixture.ingest("k", "snapshot", &["Alien", "Heat"]).await;
    assert_eq!(counts(&second), json!(["succeeded", "snapshot", 1, 1, 0]));
    assert_eq!(fixture.titles().await, ["Alien of k", "Heat of k"]);

    let gone = service.get(&format!("/movies/{wrong}")).await;
    assert_eq!(gone.status, StatusCode::GONE, "{}", gone.text);
    let problem = gone.json();
    assert_eq!(problem["code"], "withdrawn");
    assert_eq!(problem["withdrawal"]["reason"], "corrected");
    assert_eq!(problem["withdrawal"]["ingest"], second["id"]);
    assert_eq!(problem["withdrawal"]["key"], "k");
    // No list, count, search or suggestion has it.
    for path in ["/movies?q=Alein", "/movies?title=Alein", "/years?title=Alein"] {
        let found = service.get(path).await.json();
        let found = found.as_array().unwrap().iter().filter(|found| found["title"] == "Alein");
        assert_eq!(found.count(), 0, "{path}");
    }
    let suggested = service.get("/suggest?q=Alein").await.text;
    assert!(!suggested.contains("Alein"), "{suggested}");

    // It comes back under the same id.
    let third = fixture.ingest("other", "upsert", &["Alein"]).await;
    assert_eq!(counts(&third), json!(["succeeded", "upsert", 0, 0, 1]));
    assert_eq!(service.movies("title=Alein").await[0]["id"], wrong);
    // They are counted after the ingest has ended.
    eventually(async || {
        let metrics = service.get("/metrics").await.text;
        ["withdrawn", "restored"].iter().all(|outcome| {
            metrics.contains(&format!("mru_movies_merged_total{{outcome=\"{outcome}\"}} 1"))
        })
    })
    .await;
}

#[tokio::test]
async fn an_upsert_removes_nothing() {
    let fixture = Fixture::start().await;
    fixture.ingest("k", "upsert", &["A", "B"]).await;
    let second = fixture.ingest("k", "upsert", &["B", "C"]).await;
    assert_eq!(counts(&second), json!(["succeeded", "upsert", 1, 0, 0]));
    let removed = fixture.deliver(&fixture.remove("k", None).await).await;
    assert_eq!(counts(&removed), json!(["succeeded", "upsert", 0, 0, 0]));
    assert_eq!(removed["event"], "removed");
    assert_eq!(fixture.titles().await, ["A of k", "B of k", "C of k"]);
}

#[tokio::test]
async fn a_movie_that_another_file_names_falls_back_to_its_content() {
    let fixture = Fixture::start().await;
    fixture.ingest("b", "upsert", &["A"]).await;
    fixture.ingest("k", "snapshot", &["A", "B"]).await;
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
    let second = fixture.ingest("k", "snapshot", &["B"]).await;
    assert_eq!(counts(&second), json!(["succeeded", "snapshot", 0, 0, 0]));
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of b", "B of k"]);
}

#[tokio::test]
async fn a_removal_takes_back_what_snapshots_said() {
    let fixture = Fixture::start().await;
    fixture.ingest("k", "snapshot", &["A", "B"]).await;
    let marker = fixture.remove("k", None).await;
    let removed = fixture.deliver(&marker).await;
    assert_eq!(counts(&removed), json!(["succeeded", "snapshot", 0, 2, 0]));
    assert_eq!(fixture.titles().await, Vec::<String>::new());
    // A delete marker over a delete marker changes nothing.
    let again = fixture.deliver(&fixture.remove("k", None).await).await;
    assert_eq!(counts(&again), json!(["succeeded", "snapshot", 0, 0, 0]));
    // The same notification again is the same ingest.
    assert_eq!(fixture.deliver(&marker).await["id"], removed["id"]);
    // A version after it counts.
    let back = fixture.ingest("k", "snapshot", &["B"]).await;
    assert_eq!(counts(&back), json!(["succeeded", "snapshot", 0, 0, 1]));
    assert_eq!(fixture.titles().await, ["B of k"]);
}

#[tokio::test]
async fn without_the_newest_version_the_one_before_speaks_again() {
    let fixture = Fixture::start().await;
    fixture.ingest("k", "snapshot", &["A", "B"]).await;
    let second = fixture.put("k", "snapshot", &["B", "C"]).await;
    fixture.deliver(&second).await;
    assert_eq!(fixture.titles().await, ["B of k", "C of k"]);
    let removed = fixture.deliver(&fixture.remove("k", Some(second.version_id())).await).await;
    assert_eq!(counts(&removed), json!(["succeeded", "snapshot", 0, 1, 0]));
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);

    // A delete marker that is removed is no removal any more.
    let marker = fixture.remove("k", None).await;
    fixture.deliver(&marker).await;
    assert_eq!(fixture.titles().await, Vec::<String>::new());
    fixture.deliver(&fixture.remove("k", Some(marker.version_id())).await).await;
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
}

#[tokio::test]
async fn the_expiry_of_a_version_that_is_not_current_changes_nothing() {
    let fixture = Fixture::start().await;
    let first = fixture.put("k", "snapshot", &["A"]).await;
    fixture.deliver(&first).await;
    // Of this version the service was never told.
    let unknown = fixture.put("k", "snapshot", &["X"]).await;
    fixture.ingest("k", "snapshot", &["A", "B"]).await;
    for version in [first, unknown] {
        let expired = fixture.remove("k", Some(version.version_id())).await;
        let expired = fixture.deliver(&expired).await;
        assert_eq!(expired["withdrawn"], 0, "{expired}");
        assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
    }
}

#[tokio::test]
async fn a_version_that_speaks_for_a_newer_one_does_not_expire() {
    let fixture = Fixture::start().await;
    let first = fixture.put("k", "snapshot", &["A", "B"]).await;
    fixture.deliver(&first).await;
    let expire = async |key: &str, version: &Event| {
        let expired = fixture.remove(key, Some(version.version_id())).await;
        let expired = fixture.deliver(&expired).await;
        assert_eq!(expired["withdrawn"], 0, "{expired}");
        fixture.idle().await;
    };
    // The newer version is rejected.
    let rejected = fixture.put_text("k", "snapshot", "[".to_owned()).await;
    assert_eq!(fixture.deliver(&rejected).await["state"], "rejected");
    expire("k", &first).await;
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
    // The event of the expiry is late: meanwhile a further version is the current one.
    let first = fixture.put("p", "snapshot", &["P"]).await;
    fixture.deliver(&first).await;
    fixture.deliver(&fixture.put_text("p", "snapshot", "[".to_owned()).await).await;
    let expired = fixture.remove("p", Some(first.version_id())).await;
    fixture.deliver(&fixture.put_text("p", "snapshot", "{".to_owned()).await).await;
    assert_eq!(fixture.deliver(&expired).await["withdrawn"], 0);
    // It is undone, before the older one expires and after that.
    for (key, undone_first) in [("m", true), ("n", false)] {
        let first = fixture.put(key, "snapshot", &[&format!("{key} 1")]).await;
        fixture.deliver(&first).await;
        let second =
            fixture.ingest(key, "snapshot", &[&format!("{key} 1"), &format!("{key} 2")]).await;
        if undone_first {
            fixture.decide(&second, "undo").await;
            fixture.idle().await;
            expire(key, &first).await;
        } else {
            expire(key, &first).await;
            fixture.decide(&second, "undo").await;
            fixture.idle().await;
        }
    }
    let expected = ["A of k", "B of k", "m 1 of m", "n 1 of n", "P of p"];
    assert_eq!(fixture.titles().await, expected);
}

#[tokio::test]
async fn a_removal_of_an_object_that_is_there_has_no_effect() {
    let fixture = Fixture::start().await;
    fixture.ingest("k", "snapshot", &["A"]).await;
    let bare = json!({ "bucket": BUCKET, "key": "k", "event": "removed" });
    assert_eq!(fixture.service.notify(&bare).await["withdrawn"], 0);
    assert_eq!(fixture.titles().await, ["A of k"]);
    fixture.service.delete("k").await;
    let removed = fixture.service.notify(&bare).await;
    assert_eq!(removed["withdrawn"], 1, "{removed}");
    assert_eq!(fixture.service.notify(&bare).await["id"], removed["id"]);
}

#[tokio::test]
async fn a_blocked_snapshot_is_tried_again_after_an_older_one() {
    let service = Service::builder().config(|config| {
        config.snapshots.max_withdraw = MaxWithdraw::Movies(2);
    });
    let fixture = Fixture::with(service.start().await).await;
    fixture.ingest("k", "snapshot", &["A", "B", "C", "D", "E"]).await;
    let older = fixture.put("k", "snapshot", &["A", "B", "C"]).await;
    let newer = fixture.ingest("k", "snapshot", &["A"]).await;
    assert_eq!(newer["state"], "blocked");
    assert_eq!(newer["mode"], "snapshot");
    fixture.deliver(&older).await;
    fixture.service.reaches(&newer["id"], "succeeded").await;
    assert_eq!(fixture.titles().await, ["A of k"]);
}

#[tokio::test]
async fn an_ingest_that_is_read_again_keeps_its_counts() {
    let fixture = Fixture::start().await;
    let first = fixture.ingest("b", "upsert", &["A", "B"]).await;
    let wrong = fixture.ingest("k", "upsert", &["A"]).await;
    fixture.decide(&wrong, "undo").await;
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of b", "B of b"]);
    let again = fixture.service.get_ingest(&first["id"]).await;
    assert_eq!(counts(&again), counts(&first));
    assert_eq!(again["inserted"], 2);
}

#[tokio::test]
async fn events_in_any_order_end_in_the_same_catalogue() {
    let fixture = Fixture::start().await;
    // The removal of a key that was never seen.
    let unseen = fixture.deliver(&fixture.remove("never", None).await).await;
    assert_eq!(counts(&unseen), json!(["succeeded", "upsert", 0, 0, 0]));

    // A late version of a snapshot changes nothing.
    let late = fixture.put("late", "snapshot", &["A", "B"]).await;
    fixture.ingest("late", "snapshot", &["B"]).await;
    let late = fixture.deliver(&late).await;
    assert_eq!(counts(&late), json!(["superseded", "snapshot", 0, 0, 0]));
    assert_eq!(fixture.titles().await, ["B of late"]);

    // The removal arrives before the version that it removes.
    let version = fixture.put("k", "snapshot", &["A"]).await;
    let marker = fixture.remove("k", None).await;
    fixture.deliver(&marker).await;
    let version = fixture.deliver(&version).await;
    assert_eq!(counts(&version), json!(["superseded", "snapshot", 0, 0, 0]));
    assert_eq!(fixture.titles().await, ["B of late"]);
}

#[tokio::test]
async fn a_rejected_version_withdraws_nothing() {
    let fixture = Fixture::start().await;
    fixture.ingest("k", "snapshot", &["A", "B"]).await;
    let truncated = fixture.put_text("k", "snapshot", "[{\"title\":\"A\",".to_owned()).await;
    assert_eq!(fixture.deliver(&truncated).await["state"], "rejected");
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
    // Nor does one whose mode is not known.
    let misspelt = fixture.deliver(&fixture.put("k", "snapshott", &["A"]).await).await;
    assert_eq!(misspelt["state"], "rejected", "{misspelt}");
    assert_eq!(misspelt["violations"][0]["found"], "\"snapshott\"");
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
}

#[tokio::test]
async fn a_snapshot_that_withdraws_too_much_waits_for_an_approval() {
    let fixture = Fixture::start().await;
    let service = &fixture.service;
    let file = |count| json!(numbered_movies("movie", 0..count, "x")).to_string();
    fixture.deliver(&fixture.put_text("k", "snapshot", file(300)).await).await;
    // 150 of 300 are half of them.
    let allowed = fixture.deliver(&fixture.put_text("k", "snapshot", file(150)).await).await;
    assert_eq!(counts(&allowed), json!(["succeeded", "snapshot", 0, 150, 0]));
    let blocked = fixture.deliver(&fixture.put_text("k", "snapshot", file(49)).await).await;
    assert_eq!(blocked["state"], "blocked", "{blocked}");
    assert_eq!(blocked["error"]["code"], "too_many_withdrawn");
    let detail = blocked["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("101 of the 150 movies") && detail.contains("/approve"), "{detail}");
    let movies = blocked["error"]["movies"].as_array().unwrap();
    assert_eq!((movies.len(), &movies[0]["effect"]), (100, &json!("withdrawn")));
    let query = format!("title={}", movies[99]["title"].as_str().unwrap());
    assert_eq!(service.movies(&query).await[0]["id"], movies[99]["id"]);
    assert_eq!(service.movies("").await.len(), 150);
    let listed = service.get("/ingests?state=blocked").await.json();
    assert_eq!(listed[0]["id"], blocked["id"]);

    let approved = fixture.decide(&blocked, "approve").await;
    assert_eq!(approved["approved_by"], "API token");
    service.reaches(&blocked["id"], "succeeded").await;
    assert_eq!(service.get_ingest(&blocked["id"]).await["withdrawn"], 101);
    assert_eq!(service.movies("").await.len(), 49);
    let path = format!("/ingests/{}/approve", blocked["id"]);
    let again = service.send(service.post(&path, "")).await;
    assert_eq!(
        (again.status, &again.json()["code"]),
        (StatusCode::CONFLICT, &json!("not_blocked"))
    );
}

#[tokio::test]
async fn a_large_snapshot_is_blocked_too_and_a_prefix_makes_snapshots() {
    let service = Service::builder().config(|config| {
        config.snapshots.prefixes = format!("{BUCKET}/full/").parse().unwrap();
        config.snapshots.max_withdraw = MaxWithdraw::Movies(10);
    });
    let service = service.start().await;
    service.enable_versioning().await;
    let file = |count| {
        let movies = numbered_movies("movie", 0..count, "x");
        let lines: Vec<String> = movies.iter().map(Value::to_string).collect();
        lines.join("\n")
    };
    // Of unknown size: each is processed alone.
    let put = async |key: &str, count| service.ingest(key, file(count)).await;
    assert_eq!(counts(&put("full/a", 30).await), json!(["succeeded", "snapshot", 30, 0, 0]));
    assert_eq!(counts(&put("full/a", 20).await), json!(["succeeded", "snapshot", 0, 10, 0]));
    assert_eq!(put("full/a", 9).await["state"], "blocked");
    assert_eq!(counts(&put("part/a", 9).await), json!(["succeeded", "upsert", 0, 0, 0]));
    assert_eq!(service.movies("").await.len(), 20);
}

#[tokio::test]
async fn an_undone_version_counts_as_if_it_had_never_come() {
    let fixture = Fixture::start().await;
    fixture.ingest("b", "upsert", &["A", "B"]).await;
    let wrong = fixture.ingest("k", "upsert", &["B", "C"]).await;
    assert_eq!(fixture.titles().await, ["A of b", "B of k", "C of k"]);

    let dry = fixture.decide(&wrong, "undo?dry_run=true").await;
    let effect = &dry["effect"];
    assert_eq!(
        json!([effect["withdrawn"], effect["changed"], effect["restored"]]),
        json!([1, 1, 0])
    );
    let movies = effect["movies"].as_array().unwrap();
    let movies: Vec<_> = movies.iter().map(|movie| (&movie["title"], &movie["effect"])).collect();
    assert_eq!(json!(movies), json!([["C", "withdrawn"], ["B", "changed"]]));
    assert_eq!(fixture.titles().await, ["A of b", "B of k", "C of k"]);

    let undone = fixture.decide(&wrong, "undo").await;
    assert_eq!(undone["undone_by"], "API token");
    assert_eq!(undone["effect"]["withdrawn"], 1);
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of b", "B of b"]);
    let again = fixture.decide(&wrong, "undo").await;
    assert_eq!(again["effect"]["withdrawn"], 0);

    let redone = fixture.decide(&wrong, "redo").await;
    assert_eq!(redone["undone_at"], Value::Null);
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of b", "B of k", "C of k"]);
}

#[tokio::test]
async fn an_undone_version_of_a_covered_or_repeated_file_leaves_the_others() {
    let fixture = Fixture::start().await;
    fixture.ingest("k", "upsert", &["A"]).await;
    fixture.ingest("k", "upsert", &["A", "B"]).await;
    let third = fixture.ingest("k", "upsert", &["B", "A"]).await;
    assert_eq!(fixture.decide(&third, "undo").await["effect"]["withdrawn"], 0);
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
}

#[tokio::test]
async fn an_undone_snapshot_lets_the_one_before_speak_again() {
    let fixture = Fixture::start().await;
    fixture.ingest("k", "snapshot", &["A", "B"]).await;
    let second = fixture.ingest("k", "snapshot", &["B", "C"]).await;
    let effect = fixture.decide(&second, "undo").await["effect"].clone();
    assert_eq!(
        json!([effect["withdrawn"], effect["changed"], effect["restored"]]),
        json!([1, 1, 1])
    );
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["A of k", "B of k"]);
    // A file after it does not bring it back.
    fixture.ingest("other", "upsert", &["D"]).await;
    fixture.decide(&second, "redo").await;
    fixture.idle().await;
    assert_eq!(fixture.titles().await, ["B of k", "C of k", "D of other"]);
}

#[tokio::test]
async fn what_merged_nothing_cannot_be_undone() {
    let fixture = Fixture::start().await;
    let service = &fixture.service;
    let rejected = fixture.deliver(&fixture.put_text("k", "upsert", "[".to_owned()).await).await;
    let path = format!("/ingests/{}/undo", rejected["id"]);
    let response = service.send(service.post(&path, "")).await;
    assert_eq!(response.status, StatusCode::CONFLICT);
    assert_eq!(response.json()["code"], "not_merged");
    let unknown = service.send(service.post("/ingests/999999/undo", "")).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let malformed = service.send(service.post(&format!("{path}?dry_run=maybe"), "")).await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn ten_thousand_wrong_movies_are_undone_in_one_call() {
    let fixture = Fixture::start().await;
    let file = json!(numbered_movies("wrong", 0..10_000, "x")).to_string();
    fixture.ingest("right", "upsert", &["A"]).await;
    let wrong = fixture.deliver(&fixture.put_text("wrong", "upsert", file).await).await;
    assert_eq!(wrong["inserted"], 10_000);
    let effect = fixture.decide(&wrong, "undo").await["effect"].clone();
    assert_eq!(effect["withdrawn"], 10_000);
    assert_eq!(effect["movies"].as_array().unwrap().len(), 100);
    assert_eq!(fixture.titles().await, ["A of right"]);
}

#[tokio::test]
async fn a_release_that_knows_no_removals_gets_none_and_merges_nothing() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    let removed = json!({ "bucket": BUCKET, "key": "k", "event": "removed" }).to_string();
    let recorded = service.send(service.post("/notify", removed)).await.json();
    assert_eq!((&recorded["state"], &recorded["event"]), (&json!("queued"), &json!("removed")));
    let claim = "update ingests set state = 'running', lease_token = gen_random_uuid(),
        lease_expires_at = now()";
    assert_eq!(sql.execute(claim, &[]).await.unwrap(), 0);
    let merge = "insert into merged_versions (ordered_at, key, bucket, sequencer)
        values (now(), 'k', 'b', '')";
    sql.batch_execute("set mru.folding = 'any'").await.unwrap();
    let refused = sql.batch_execute(merge).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "57P03", "{refused}");
    sql.batch_execute("set mru.counting = '2'").await.unwrap();
    sql.batch_execute(merge).await.unwrap();
    assert_eq!(sql.execute(claim, &[]).await.unwrap(), 1);
}
