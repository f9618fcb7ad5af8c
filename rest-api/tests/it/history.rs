//! `GET /movies/{id}/history`: what has changed a movie.

use fastrand::Rng;
use json_patch::Patch;
use reqwest::{Method, StatusCode};
use rest_api::{
    accounts::Role,
    store::{Content, Edit, Edited, FoundById, Mode, Removed, Retention, Store},
};
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service, TOKEN,
    ledger::row,
    movies::{large_movie, movie},
    notification,
    tokens::{bound_token, token},
};

/// Returns all pages of the history of a movie, in pages of `limit` changes.
async fn pages(service: &Service, id: i64, limit: usize) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut path = format!("/movies/{id}/history?limit={limit}");
    loop {
        let page = service.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        pages.push(serde_json::from_str(&page.text).unwrap());
        match page.header("link").split_once("; rel=\"next\"") {
            Some((next, _)) => path = next.trim_matches(['<', '>']).to_owned(),
            None => return pages,
        }
    }
}

/// Returns the history of a movie, the oldest change first.
async fn history(service: &Service, id: i64) -> Vec<Value> {
    let mut changes = pages(service, id, 1000).await.concat();
    changes.reverse();
    changes
}

/// Returns the kinds of changes.
fn kinds(changes: &[Value]) -> Vec<&str> {
    changes.iter().map(|change| change["kind"].as_str().unwrap()).collect()
}

/// Returns the contents that changes, the oldest first, have led to: none where the movie was withdrawn.
fn replay(changes: &[Value]) -> Vec<Option<Value>> {
    let mut content: Option<Value> = None;
    let mut contents = Vec::new();
    for change in changes {
        match change["kind"].as_str().unwrap() {
            "changed" => {
                let patch: Patch = serde_json::from_value(change["changes"].clone()).unwrap();
                json_patch::patch(content.as_mut().unwrap(), &patch).unwrap();
            }
            "withdrawn" => content = None,
            _ => content = Some(change["movie"].clone()),
        }
        contents.push(content.clone());
    }
    contents
}

/// Returns the present content of the only movie; none if it is withdrawn.
async fn present(service: &Service) -> Option<Value> {
    let sql = service.sql().await;
    let row = sql.query_opt("select doc from movies", &[]).await.unwrap();
    row.map(|row| serde_json::from_str(row.get(0)).unwrap())
}

/// Returns the id of the movie of this title.
async fn id_of(service: &Service, title: &str) -> i64 {
    service.movies(&format!("title={title}")).await[0]["id"].as_i64().unwrap()
}

/// Changes a movie as an editor.
async fn edit(store: &Store, id: i64, content: Option<&Value>, by: &str) {
    let FoundById::Movie(found) = store.present_movie(id).await.unwrap() else {
        panic!("the movie is withdrawn");
    };
    let row = content.map(row);
    let content = row.as_ref().map_or(Content::Deleted, Content::Replaced);
    let edit = Edit { id, content, expected: found.state(), hold: false, by };
    store.edit_movie(&edit, None, |_| Edited::default()).await.unwrap();
}

/// Puts a file as version number `second` of its object. Returns its ingest.
async fn put(service: &Service, key: &str, second: u32, movies: &[Value]) -> Value {
    service.put(key, json!(movies).to_string()).await;
    let ingest = service.notify(&notification::at_second(key, second)).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    ingest
}

#[tokio::test]
async fn each_change_says_when_and_by_what_and_what_changed() {
    let service = Service::start().await;
    let store = service.store(2).await;
    let first = put(&service, "a", 1, &[movie("Other", "x"), movie("A", "x")]).await;
    let second = put(&service, "a", 2, &[movie("A", "y")]).await;
    let id = id_of(&service, "A").await;
    let corrected = json!({
        "title": "A", "year": 2000, "cast": ["Ann"], "genres": ["y"], "extract": "Text",
    });
    edit(&store, id, Some(&corrected), "ann").await;
    edit(&store, id, Some(&movie("A", "y")), "bob").await;
    // Nothing changes, so it is no change.
    edit(&store, id, Some(&movie("A", "y")), "bob").await;
    edit(&store, id, None, "ann").await;
    let posted = service.post("/movies", json!([movie("B", "x"), movie("A", "z")]).to_string());
    assert_eq!(service.send(posted).await.status, StatusCode::CREATED);

    let mut changes = history(&service, id).await;
    let times: Vec<String> = changes
        .iter_mut()
        .map(|change| change.as_object_mut().unwrap().remove("at").unwrap().to_string())
        .collect();
    assert!(times.is_sorted() && times[0].starts_with("\"20"), "{times:?}");
    let expected = json!([
        { "kind": "created", "ingest": first["id"], "bucket": BUCKET, "key": "a", "record": 1,
            "movie": movie("A", "x") },
        { "kind": "changed", "ingest": second["id"], "bucket": BUCKET, "key": "a", "record": 0,
            "changes": [{ "op": "replace", "path": "/genres/0", "value": "y" }] },
        { "kind": "changed", "by": "ann", "record": 0, "changes": [
            { "op": "add", "path": "/cast/0", "value": "Ann" },
            { "op": "add", "path": "/extract", "value": "Text" },
        ] },
        { "kind": "changed", "by": "bob", "record": 0, "changes": [
            { "op": "remove", "path": "/cast/0" }, { "op": "remove", "path": "/extract" },
        ] },
        { "kind": "withdrawn", "by": "ann", "reason": "deleted" },
        { "kind": "restored", "by": "API token", "record": 1, "movie": movie("A", "z") },
    ]);
    assert_eq!(json!(changes), expected);

    // The ledger has forgotten the first file.
    let forget = "delete from ingests where id = $1";
    service.sql().await.execute(forget, &[&first["id"].as_i64()]).await.unwrap();
    let created = &history(&service, id).await[0];
    assert_eq!((&created["ingest"], &created["record"]), (&Value::Null, &json!(1)), "{created}");
}

#[tokio::test]
async fn what_withdraws_a_movie_and_brings_it_back_is_in_its_history() {
    let service = Service::start().await;
    service.enable_versioning().await;
    let put = async |movies: &[Value]| {
        let version = service.put_version("k", Mode::Snapshot, json!(movies).to_string()).await;
        let ingest = service.notify(&version).await;
        assert_eq!(ingest["state"], "succeeded", "{ingest}");
        ingest
    };
    let decide = async |ingest: &Value, decision: &str| {
        let path = format!("/ingests/{}/{decision}", ingest["id"]);
        let decided = service.send(service.post(&path, "")).await;
        assert!(decided.status.is_success(), "{}", decided.text);
        service.idle().await;
    };
    put(&[movie("A", "x"), movie("B", "x")]).await;
    let id = id_of(&service, "A").await;
    let corrected = put(&[movie("B", "x")]).await;
    let back = put(&[movie("A", "y"), movie("B", "x")]).await;
    decide(&back, "undo").await;
    decide(&back, "redo").await;

    let changes = history(&service, id).await;
    let found: Vec<Value> =
        changes.iter().map(|c| json!([c["kind"], c["reason"], c["ingest"], c["movie"]])).collect();
    let expected = json!([
        ["created", null, corrected["id"].as_i64().unwrap() - 1, movie("A", "x")],
        ["withdrawn", "corrected", corrected["id"], null],
        ["restored", null, back["id"], movie("A", "y")],
        ["withdrawn", "undone", back["id"], null],
        ["restored", null, back["id"], movie("A", "y")],
    ]);
    assert_eq!(json!(found), expected);

    decide(&back, "undo").await;
    assert_eq!(service.get(&format!("/movies/{id}")).await.status, StatusCode::GONE);
    assert_eq!(history(&service, id).await.len(), 6, "also of a movie that is withdrawn");
}

/// Returns random content of one movie.
fn random_movie(random: &mut Rng) -> Value {
    let mut names = |most: usize| -> Vec<String> {
        (0..random.usize(..most)).map(|_| format!("Name {}", random.u8(..5))).collect()
    };
    let mut movie = json!({ "title": "A", "year": 2000, "cast": names(5), "genres": names(3) });
    for (name, value) in [("extract", "text"), ("thumbnail", "https://example.com/t.png")] {
        if random.bool() {
            movie[name] = json!(format!("{value}{}", random.u8(..2)));
        }
    }
    movie
}

#[tokio::test]
async fn the_changes_one_after_another_lead_to_each_content_that_the_movie_had() {
    let seed = std::env::var("MRU_TEST_SEED").map_or(16, |seed| seed.parse().unwrap());
    let random = &mut Rng::with_seed(seed);
    for round in 0..3 {
        let service = Service::start().await;
        let store = service.store(2).await;
        put(&service, "first", 0, &[random_movie(random)]).await;
        let id = id_of(&service, "A").await;
        let mut contents = vec![present(&service).await];
        for second in 1..40 {
            let content = random_movie(random);
            let now = contents.last().unwrap().is_some();
            match random.u8(..10) {
                0..2 if now => edit(&store, id, Some(&content), "ann").await,
                2 if now => edit(&store, id, None, "ann").await,
                3..5 => {
                    let posted = service.send(service.post("/movies", content.to_string())).await;
                    assert_eq!(posted.status, StatusCode::CREATED, "{}", posted.text);
                }
                choice => {
                    // A small file goes with a batch, one of unknown size is staged. Files are older than edits: some
                    // are from the future.
                    let key = format!("file-{}", random.u8(..3));
                    service.put(&key, content.to_string()).await;
                    let mut notification = notification::at_second(&key, second);
                    if random.bool() {
                        notification["size"] = json!(100);
                    }
                    if choice < 8 {
                        let time = chrono::Utc::now().to_rfc3339();
                        notification["event_time"] = json!(time);
                    }
                    service.notify(&notification).await;
                }
            }
            let present = present(&service).await;
            if present != *contents.last().unwrap() {
                contents.push(present);
            }
        }
        assert!(contents.len() > 10, "{contents:?}");
        let mut changes = pages(&service, id, random.usize(1..6)).await.concat();
        changes.reverse();
        assert_eq!(replay(&changes), contents, "round {round}, MRU_TEST_SEED={seed}");
        assert_eq!(kinds(&changes)[0], "created");
    }
}

#[tokio::test]
async fn new_movies_have_no_former_states() {
    let service = Service::start().await;
    let movies: Vec<Value> = (0..10_000).map(|n| movie(&format!("M {n}"), "x")).collect();
    put(&service, "first-load", 1, &movies).await;
    let more: Vec<Value> = (0..100).map(|n| movie(&format!("N {n}"), "x")).collect();
    put(&service, "more", 2, &more).await;
    put(&service, "same", 3, &movies).await;
    let states = "select count(*) from movie_history";
    assert_eq!(service.sql().await.query_one(states, &[]).await.unwrap().get::<_, i64>(0), 0);
    for title in ["M 77", "N 77"] {
        let id = id_of(&service, title).await;
        assert_eq!(kinds(&history(&service, id).await), ["created"], "{title}");
    }
}

#[tokio::test]
async fn pages_continue_where_the_one_before_ended() {
    let service = Service::start().await;
    let store = service.store(2).await;
    put(&service, "k", 1, &[movie("A", "0"), movie("B", "0")]).await;
    let (id, other) = (id_of(&service, "A").await, id_of(&service, "B").await);
    for number in 1..6 {
        edit(&store, id, Some(&movie("A", &number.to_string())), "ann").await;
        edit(&store, other, Some(&movie("B", &number.to_string())), "bob").await;
    }
    let whole = pages(&service, id, 100).await.concat();
    assert_eq!(whole.len(), 6);
    for (limit, lengths) in [(1, &[1; 6][..]), (4, &[4, 2]), (5, &[5, 1]), (6, &[6])] {
        let pages = pages(&service, id, limit).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), lengths, "{limit}");
        assert_eq!(pages.concat(), whole, "{limit}");
    }
    // A change between two pages does not move the second.
    let first = service.get(&format!("/movies/{id}/history?limit=2")).await;
    let link = first.header("link").to_owned();
    let next = link.split_once('>').unwrap().0.trim_matches('<');
    edit(&store, id, None, "ann").await;
    assert_eq!(service.get(next).await.json(), json!(whole[2..4]));

    let cursor = next.split_once("after=").unwrap().1;
    for query in [format!("{other}/history?after={cursor}"), format!("{id}/history?limit=0")] {
        let refused = service.get(&format!("/movies/{query}")).await;
        assert_eq!(refused.json()["code"], "invalid_parameter", "{query}");
    }
    for unknown in ["999999", "x", "-1"] {
        let missing = service.get(&format!("/movies/{unknown}/history")).await;
        assert_eq!(missing.status, StatusCode::NOT_FOUND, "{unknown}");
    }
}

#[tokio::test]
async fn a_page_of_large_movies_ends_early() {
    let service = Service::start().await;
    let store = service.store(2).await;
    let large = |names: usize| large_movie("A", names);
    put(&service, "k", 1, &[large(700)]).await;
    let id = id_of(&service, "A").await;
    for names in 1..12 {
        // The first name differs, so a patch of the elements would be longer than the names.
        let mut movie = large(700);
        movie["cast"].as_array_mut().unwrap().insert(0, json!(names.to_string()));
        edit(&store, id, Some(&movie), "ann").await;
    }
    let pages = pages(&service, id, 1000).await;
    let sizes: Vec<usize> = pages.iter().map(|page| json!(page).to_string().len()).collect();
    assert!(pages.len() > 2 && sizes.iter().all(|size| *size < 4 << 20), "{sizes:?}");
    let mut changes = pages.concat();
    assert_eq!(changes.len(), 12);
    changes.reverse();
    assert_eq!(replay(&changes).pop().unwrap(), present(&service).await);
}

#[tokio::test]
async fn old_states_are_removed_and_what_was_before_is_unknown_then() {
    let service = Service::start().await;
    let store = service.store(2).await;
    put(&service, "k", 1, &[movie("A", "0"), movie("B", "0")]).await;
    let (id, other) = (id_of(&service, "A").await, id_of(&service, "B").await);
    for number in 1..4 {
        edit(&store, id, Some(&movie("A", &number.to_string())), "ann").await;
    }
    // All but the last change were long ago, and there are others of that time.
    let sql = service.sql().await;
    let age = "update catalogue set history_since = history_since - interval '50 days';
        update movies set changed_at = changed_at - interval '40 days' where title_lc = 'b';
        update movie_history set changed_at = changed_at - interval '40 days';
        update movie_history set ended_at = ended_at - interval '40 days'
        where id < (select max(id) from movie_history)";
    sql.batch_execute(age).await.unwrap();
    assert_eq!(kinds(&history(&service, other).await), ["created"]);
    let kept = store.remove_unneeded(Retention::default()).await.unwrap();
    assert_eq!(kept, Removed::default());
    let days = |days| Retention { history_days: Some(days), ..Retention::default() };
    assert_eq!(store.remove_unneeded(days(41)).await.unwrap(), Removed::default());
    assert_eq!(history(&service, id).await.len(), 4);

    let removed = store.remove_unneeded(days(30)).await.unwrap();
    assert_eq!(removed, Removed { states: 2, ..Removed::default() });
    let changes = history(&service, id).await;
    assert_eq!(kinds(&changes), ["earliest_known", "changed"]);
    assert_eq!(changes[0]["movie"], movie("A", "2"));
    assert_eq!(replay(&changes).pop().unwrap().unwrap(), movie("A", "3"));
    assert_eq!(kinds(&history(&service, other).await), ["earliest_known"], "it may have changed");
    put(&service, "new", 2, &[movie("C", "0")]).await;
    let new = id_of(&service, "C").await;
    assert_eq!(kinds(&history(&service, new).await), ["created"]);
    assert_eq!(store.remove_unneeded(days(30)).await.unwrap(), Removed::default());

    // In batches.
    let many = "delete from movie_history;
        insert into movie_history (movie_id, ended_at)
        select 7, now() - make_interval(days => 40 - n / 100) from generate_series(1, 2500) n";
    sql.batch_execute(many).await.unwrap();
    let removed = store.remove_unneeded(days(20)).await.unwrap();
    assert_eq!(removed.states, 2099);
}

#[tokio::test]
async fn history_needs_a_role_unless_the_ledger_is_public() {
    let service = Service::builder().config(|config| config.public_ledger = false).start().await;
    put(&service, "k", 1, &[movie("A", "x")]).await;
    let path = format!("/movies/{}/history", id_of(&service, "A").await);
    let refused = service.get(&path).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
    let read = async |token: &str| {
        service.send(service.request(Method::GET, &path).bearer_auth(token)).await
    };
    assert_eq!(read(&token(&[])).await.status, StatusCode::FORBIDDEN);
    for token in [TOKEN, &token(&[Role::Producer]), &token(&[Role::Editor])] {
        let read = read(token).await;
        assert_eq!(read.json()[0]["key"], "k", "{}", read.text);
    }
    // Who sees a part of the ledger alone does not see what others did.
    let bound = read(&bound_token(&[Role::Producer], &["k"])).await;
    assert_eq!(bound.status, StatusCode::FORBIDDEN);
}
