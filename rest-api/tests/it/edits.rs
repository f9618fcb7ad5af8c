//! Changes of single movies by people: `PUT`, `PATCH`, `DELETE`, and holds.

use reqwest::{Method, StatusCode};
use rest_api::accounts::Role;
use serde_json::{Value, json};

use crate::support::{BUCKET, Response, Service, movies::movie, notification, tokens::token};

/// An editor of the catalogue of a service.
struct Editor<'a> {
    service: &'a Service,
    token: String,
}

impl<'a> Editor<'a> {
    fn of(service: &'a Service) -> Self {
        Self { service, token: token(&[Role::Editor]) }
    }

    /// Sends a change with these headers.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Response {
        let media_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = self.service.request(method, path).bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", media_type).body(body.to_string());
        }
        self.service.send(request).await
    }

    /// Sends a change of the present state of a movie.
    async fn change(&self, method: Method, id: i64, body: Option<&Value>) -> Response {
        let etag = self.etag(id).await;
        self.send(method, &format!("/movies/{id}"), &[("if-match", &etag)], body).await
    }

    async fn etag(&self, id: i64) -> String {
        self.service.get(&format!("/movies/{id}")).await.header("etag").to_owned()
    }

    async fn hold(&self, method: Method, id: i64) -> Value {
        let held = self.send(method, &format!("/movies/{id}/hold"), &[], None).await;
        assert_eq!(held.status, StatusCode::OK, "{}", held.text);
        held.json()
    }
}

/// Returns the id of the movie with this title.
async fn id_of(service: &Service, title: &str) -> i64 {
    service.movies(&format!("title={title}")).await[0]["id"].as_i64().unwrap()
}

/// Puts a file of one movie that was written so many seconds after the first ones, and waits for its ingest.
async fn ingest_at(service: &Service, key: &str, second: u32, movies: &[Value]) -> Value {
    service.put(key, json!(movies).to_string()).await;
    service.notify(&notification::at_second(key, second)).await
}

/// Returns a notification of an object that was written now.
async fn ingest_now(service: &Service, key: &str, movies: &[Value]) -> Value {
    service.put(key, json!(movies).to_string()).await;
    let now = chrono::Utc::now();
    let sequencer = format!("{:016X}", now.timestamp_micros());
    let notification =
        json!({ "bucket": BUCKET, "key": key, "event_time": now, "sequencer": sequencer });
    service.notify(&notification).await
}

async fn genres(service: &Service, title: &str) -> Value {
    service
        .movies(&format!("title={title}"))
        .await
        .first()
        .map_or(Value::Null, |movie| movie["genres"].clone())
}

#[tokio::test]
async fn a_movie_is_replaced_changed_and_deleted() {
    let service = Service::start().await;
    let editor = Editor::of(&service);
    ingest_at(&service, "k", 0, &[movie("A", "x")]).await;
    let id = id_of(&service, "A").await;

    // What GET returns can be changed and sent back.
    let mut whole = service.get(&format!("/movies/{id}")).await.json();
    whole["genres"] = json!(["y", "z"]);
    whole["extract"] = json!("About A.");
    let replaced = editor.change(Method::PUT, id, Some(&whole)).await;
    assert_eq!(replaced.status, StatusCode::OK, "{}", replaced.text);
    let shown = service.get(&format!("/movies/{id}")).await;
    assert_eq!(replaced.json(), shown.json());
    assert_eq!(replaced.header("etag"), shown.header("etag"));
    assert_eq!(shown.json()["genres"], json!(["y", "z"]));
    assert_eq!(shown.json()["provenance"]["edited_by"], "ada");
    assert_eq!(service.movies("genre=z").await.len(), 1);

    let patch = json!({ "cast": ["Ann Bell"], "extract": null });
    let patched = editor.change(Method::PATCH, id, Some(&patch)).await.json();
    assert_eq!((&patched["cast"], &patched["genres"]), (&json!(["Ann Bell"]), &json!(["y", "z"])));
    assert!(patched.get("extract").is_none());
    assert_eq!(service.movies("actor=bell&q=ann").await.len(), 1);

    let deleted = editor.change(Method::DELETE, id, None).await;
    assert_eq!((deleted.status, &*deleted.text), (StatusCode::NO_CONTENT, ""));
    assert_eq!(service.movies("").await, Vec::<Value>::new());
    let gone = service.get(&format!("/movies/{id}")).await;
    assert_eq!(gone.status, StatusCode::GONE, "{}", gone.text);
    assert_eq!(gone.json()["withdrawal"]["reason"], "deleted");
    assert_eq!(gone.json()["withdrawal"]["withdrawn_by"], "ada");
    // A change of what is not there says so.
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        let body = (method != Method::DELETE).then_some(&patch);
        let path = format!("/movies/{id}");
        let changed = editor.send(method, &path, &[("if-match", "*")], body).await;
        assert_eq!(changed.status, StatusCode::GONE, "{}", changed.text);
    }
}

#[tokio::test]
async fn older_files_lose_against_a_change_and_newer_ones_win() {
    let service = Service::start().await;
    let editor = Editor::of(&service);
    ingest_at(&service, "k", 0, &[movie("A", "x"), movie("B", "x")]).await;
    let (a, b) = (id_of(&service, "A").await, id_of(&service, "B").await);
    editor.change(Method::PUT, a, Some(&movie("A", "edited"))).await;
    editor.change(Method::DELETE, b, None).await;

    let late = ingest_at(&service, "late", 9, &[movie("A", "late"), movie("B", "late")]).await;
    assert_eq!(late["unchanged"], 2, "{late}");
    assert_eq!(genres(&service, "A").await, json!(["edited"]));
    assert_eq!(genres(&service, "B").await, Value::Null);

    // A large file, which is staged.
    let many: Vec<Value> = (0..3000).map(|n| movie(&format!("M{n}"), &"x".repeat(40))).collect();
    let many = [&many[..], &[movie("A", "large"), movie("B", "large")]].concat();
    let large = ingest_at(&service, "large", 10, &many).await;
    assert_eq!((&large["inserted"], &large["unchanged"]), (&json!(3000), &json!(2)), "{large}");
    assert_eq!(genres(&service, "B").await, Value::Null);

    let newer = ingest_now(&service, "new", &[movie("A", "new"), movie("B", "new")]).await;
    assert_eq!((&newer["updated"], &newer["restored"]), (&json!(1), &json!(1)), "{newer}");
    assert_eq!(genres(&service, "A").await, json!(["new"]));
    assert_eq!(id_of(&service, "B").await, b);

    // What the newer file said is taken back: the changes hold again.
    let undone = service.send(service.post(&format!("/ingests/{}/undo", newer["id"]), "")).await;
    let effect = &undone.json()["effect"];
    assert_eq!((&effect["withdrawn"], &effect["changed"]), (&json!(1), &json!(1)), "{effect}");
    assert_eq!(genres(&service, "A").await, json!(["edited"]));
    assert_eq!(genres(&service, "B").await, Value::Null);
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_with_the_way() {
    let service = Service::start().await;
    let editor = Editor::of(&service);
    ingest_at(&service, "k", 0, &[movie("A", "x")]).await;
    let id = id_of(&service, "A").await;
    let path = format!("/movies/{id}");
    let etag = editor.etag(id).await;
    let current = [("if-match", &*etag)];
    let renamed = json!({ "title": "B" });
    let wrong = json!({ "genres": [1], "extra": true });
    let other_id = json!({ "id": id + 1 });
    let held = json!({ "held": true });
    let cases = [
        (Method::PATCH, &*path, &[][..], Some(&renamed), 428, "precondition_required"),
        (
            Method::PATCH,
            &path,
            &[("if-match", "\"old\"")],
            Some(&renamed),
            412,
            "precondition_failed",
        ),
        (Method::PATCH, &path, &current, Some(&renamed), 409, "another_movie"),
        (Method::PATCH, &path, &current, Some(&other_id), 409, "another_movie"),
        (Method::PATCH, &path, &current, Some(&wrong), 422, "violations"),
        (Method::PATCH, &path, &current, Some(&held), 422, "violations"),
        (Method::PATCH, &path, &current, None, 400, "malformed_json"),
        (Method::PUT, &path, &current, Some(&json!([])), 400, "malformed_json"),
        (Method::PUT, &path, &current, Some(&json!({})), 422, "violations"),
        (Method::DELETE, "/movies/99", &current, None, 404, "not_found"),
        (Method::DELETE, "/movies/x", &current, None, 404, "not_found"),
        (Method::DELETE, "/movies/1?hold=maybe", &current, None, 400, "invalid_parameter"),
        (
            Method::DELETE,
            &path,
            &[("if-match", "*"), ("idempotency-key", "")],
            None,
            400,
            "invalid_header",
        ),
        (Method::PUT, "/movies/99/hold", &[], None, 404, "not_found"),
        (Method::DELETE, "/movies/99/hold", &[], None, 404, "not_found"),
    ];
    for (method, path, headers, body, status, code) in cases {
        let refused = editor.send(method.clone(), path, headers, body).await;
        let text = format!("{method} {path} {headers:?} {body:?}: {}", refused.text);
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["code"]),
            (status, &json!(code)),
            "{text}"
        );
    }
    let request = service.request(Method::PATCH, &path).bearer_auth(&editor.token);
    let request = request.header("if-match", "*").json(&renamed);
    assert_eq!(service.send(request).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(editor.etag(id).await, etag);
}

#[tokio::test]
async fn of_two_editors_at_once_one_is_told_and_nothing_is_lost() {
    let service = Service::start().await;
    let (one, other) = (Editor::of(&service), Editor::of(&service));
    ingest_at(&service, "k", 0, &[movie("A", "x")]).await;
    let id = id_of(&service, "A").await;
    let path = format!("/movies/{id}");
    for round in 0..20 {
        let etag = one.etag(id).await;
        let current = [("if-match", &*etag)];
        let [first, second] = [
            json!({ "genres": [format!("1 {round}")] }),
            json!({ "cast": [format!("2 {round}")] }),
        ];
        let (first, second) = tokio::join!(
            one.send(Method::PATCH, &path, &current, Some(&first)),
            other.send(Method::PATCH, &path, &current, Some(&second)),
        );
        let mut statuses = [first.status.as_u16(), second.status.as_u16()];
        let winner = if statuses[0] == 200 { &first } else { &second };
        assert_eq!(service.get(&path).await.json(), winner.json());
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412]);
    }
    // Changes of any state wait for each other.
    let any = [("if-match", "*")];
    let [first, second] = [json!({ "genres": ["1"] }), json!({ "cast": ["2"] })];
    let (first, second) = tokio::join!(
        one.send(Method::PATCH, &path, &any, Some(&first)),
        other.send(Method::PATCH, &path, &any, Some(&second)),
    );
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
    let both = service.get(&path).await.json();
    assert_eq!((&both["genres"], &both["cast"]), (&json!(["1"]), &json!(["2"])));
}

#[tokio::test]
async fn a_request_that_is_repeated_with_its_key_changes_once() {
    let service = Service::start().await;
    let editor = Editor::of(&service);
    ingest_at(&service, "k", 0, &[movie("A", "x")]).await;
    let id = id_of(&service, "A").await;
    let path = format!("/movies/{id}");
    let etag = editor.etag(id).await;
    let headers = [("if-match", &*etag), ("idempotency-key", "once")];
    let patch = json!({ "genres": ["y"] });
    let send = || editor.send(Method::PATCH, &path, &headers, Some(&patch));
    let (first, second) = tokio::join!(send(), send());
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    assert_eq!((second.status, &second.text), (first.status, &first.text));
    assert_eq!(second.header("etag"), first.header("etag"));
    // Also after the movie has moved on.
    editor.change(Method::PATCH, id, Some(&json!({ "genres": ["z"] }))).await;
    assert_eq!(send().await.text, first.text);
    assert_eq!(genres(&service, "A").await, json!(["z"]));
    let edits = "select count(*) from movie_history";
    let edits: i64 = service.sql().await.query_one(edits, &[]).await.unwrap().get(0);
    assert_eq!(edits, 2);

    let other = editor.send(Method::PATCH, &path, &headers, Some(&json!({ "genres": [] }))).await;
    assert_eq!(other.json()["code"], "idempotency_key_reused", "{}", other.text);
    // A deletion, too.
    let headers = [("if-match", "*"), ("idempotency-key", "gone")];
    for _ in 0..2 {
        let deleted = editor.send(Method::DELETE, &path, &headers, None).await;
        assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{}", deleted.text);
    }
}

#[tokio::test]
async fn files_do_not_change_held_movies_until_they_are_released() {
    let service = Service::start().await;
    let editor = Editor::of(&service);
    ingest_at(&service, "k", 0, &[movie("A", "x"), movie("B", "x"), movie("C", "x")]).await;
    let (a, b) = (id_of(&service, "A").await, id_of(&service, "B").await);
    let held = editor.hold(Method::PUT, a).await;
    assert_eq!((&held["held"], &held["held_by"]), (&json!(true), &json!("ada")));
    assert_eq!(editor.hold(Method::PUT, a).await, held);
    assert_eq!(service.get(&format!("/movies/{a}")).await.json()["held"], true);
    let etag = editor.etag(b).await;
    let path = format!("/movies/{b}?hold=true");
    let deleted = editor.send(Method::DELETE, &path, &[("if-match", &etag)], None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{}", deleted.text);

    let movies = [movie("A", "new"), movie("B", "new"), movie("C", "new")];
    let newer = ingest_now(&service, "new", &movies).await;
    assert_eq!((&newer["updated"], &newer["held"]), (&json!(1), &json!(2)), "{newer}");
    let listed = json!([
        { "id": a, "record": 0, "title": "A", "year": 2000 },
        { "id": b, "record": 1, "title": "B", "year": 2000 },
    ]);
    assert_eq!(service.get_ingest(&newer["id"]).await["held_movies"], listed);
    assert_eq!(genres(&service, "A").await, json!(["x"]));
    assert_eq!(genres(&service, "B").await, Value::Null);
    // Of equal content there is nothing to hold back.
    let same = ingest_now(&service, "same", &[movie("A", "x")]).await;
    assert_eq!((&same["unchanged"], &same["held"]), (&json!(1), &json!(0)), "{same}");
    // People do change it.
    editor.change(Method::PATCH, a, Some(&json!({ "genres": ["edited"] }))).await;
    assert_eq!(genres(&service, "A").await, json!(["edited"]));
    let newest = ingest_now(&service, "newest", &[movie("A", "newest")]).await;
    assert_eq!(newest["held"], 1, "{newest}");

    let released = editor.hold(Method::DELETE, a).await;
    assert_eq!((&released["held"], &released["newer"]["key"]), (&json!(false), &json!("newest")));
    let released = editor.hold(Method::DELETE, b).await;
    assert_eq!(released["newer"]["ingest"], newer["id"], "{released}");
    service.idle().await;
    assert_eq!(genres(&service, "A").await, json!(["newest"]));
    assert_eq!(genres(&service, "B").await, json!(["new"]));
    // The ingest keeps what it has reported.
    assert_eq!(service.get_ingest(&newer["id"]).await["held"], 2);
    assert_eq!(editor.hold(Method::DELETE, a).await, json!({ "id": a, "held": false }));
}

#[tokio::test]
async fn a_held_movie_is_not_withdrawn_until_it_is_released() {
    let service = Service::start().await;
    service.enable_versioning().await;
    let editor = Editor::of(&service);
    let put = async |movies: &[Value]| {
        let put = service
            .put_version("k", rest_api::store::Mode::Snapshot, json!(movies).to_string())
            .await;
        service.notify(&put).await
    };
    put(&[movie("A", "x"), movie("B", "x"), movie("C", "x")]).await;
    let (a, b) = (id_of(&service, "A").await, id_of(&service, "B").await);
    editor.hold(Method::PUT, a).await;
    let corrected = put(&[movie("C", "x")]).await;
    assert_eq!(
        (&corrected["withdrawn"], &corrected["held"]),
        (&json!(1), &json!(1)),
        "{corrected}"
    );
    let listed = json!([{ "id": a, "title": "A", "year": 2000 }]);
    assert_eq!(service.get_ingest(&corrected["id"]).await["held_movies"], listed);
    assert_eq!(service.movies("").await.len(), 2);
    assert_eq!(service.get(&format!("/movies/{b}")).await.status, StatusCode::GONE);
    assert_eq!(editor.hold(Method::DELETE, a).await, json!({ "id": a, "held": false }));
    let gone = service.get(&format!("/movies/{a}")).await;
    assert_eq!(gone.json()["withdrawal"]["reason"], "released", "{}", gone.text);
}

#[tokio::test]
async fn a_large_snapshot_that_uncovers_an_edit_is_seen_at_once() {
    let service = Service::start().await;
    service.enable_versioning().await;
    let editor = Editor::of(&service);
    ingest_at(&service, "first", 0, &[movie("A", "x")]).await;
    let id = id_of(&service, "A").await;
    editor.change(Method::PUT, id, Some(&movie("A", "edited"))).await;
    let others: Vec<Value> = (0..2000).map(|n| movie(&format!("M{n}"), &"x".repeat(40))).collect();
    let put = async |movies: &[Value]| {
        let put = service
            .put_version("large", rest_api::store::Mode::Snapshot, json!(movies).to_string())
            .await;
        service.notify(&put).await
    };
    put(&[&others[..], &[movie("A", "file")]].concat()).await;
    assert_eq!(genres(&service, "A").await, json!(["file"]));
    // The answer is cached.
    let before = editor.etag(id).await;
    let corrected = put(&others).await;
    assert_eq!((&corrected["unchanged"], &corrected["withdrawn"]), (&json!(2000), &json!(0)));
    assert_eq!(genres(&service, "A").await, json!(["edited"]));
    assert_ne!(editor.etag(id).await, before);
}

#[tokio::test]
async fn the_entity_tag_of_a_movie_changes_with_the_movie_alone() {
    let service = Service::start().await;
    let editor = Editor::of(&service);
    ingest_at(&service, "k", 0, &[movie("A", "x")]).await;
    let id = id_of(&service, "A").await;
    let path = format!("/movies/{id}");
    let etag = editor.etag(id).await;
    ingest_at(&service, "other", 1, &[movie("B", "x"), movie("A", "x")]).await;
    assert_eq!(editor.etag(id).await, etag);
    let request = service.request(Method::GET, &path).header("if-none-match", &etag);
    assert_eq!(service.send(request).await.status, StatusCode::NOT_MODIFIED);
    editor.hold(Method::PUT, id).await;
    assert_ne!(editor.etag(id).await, etag);
}

#[tokio::test]
async fn the_public_sees_of_provenance_the_time_alone() {
    let service = Service::builder().config(|config| config.public_ledger = false).start().await;
    let editor = Editor::of(&service);
    let ingest = ingest_at(&service, "k", 0, &[movie("A", "x")]).await;
    let _ = ingest;
    let id = id_of(&service, "A").await;
    let path = format!("/movies/{id}");
    let public = service.get(&path).await;
    let keys: Vec<_> = public.json()["provenance"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["changed_at"]);
    let whole = editor.send(Method::GET, &path, &[], None).await;
    assert_eq!(whole.json()["provenance"]["key"], "k");
    assert_ne!(whole.header("etag"), public.header("etag"));
    assert!(whole.header("cache-control").starts_with("private"));
    // Either tag names the state of the movie.
    let public_tag = public.header("etag").to_owned();
    let deleted = editor.send(Method::DELETE, &path, &[("if-match", &public_tag)], None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{}", deleted.text);
    let gone = service.get(&path).await.json();
    let keys: Vec<_> = gone["withdrawal"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["reason", "withdrawn_at"]);
    let gone = editor.send(Method::GET, &path, &[], None).await.json();
    assert_eq!(gone["withdrawal"]["withdrawn_by"], "ada");
}
