//! Migrating a catalogue whose text was folded by other rules.
//!
//! The catalogues of the tests are as earlier releases left them: a movie that was put under a title of its
//! own gets the decomposed form of another one by SQL, as if the two had never been one.

use fastrand::Rng;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::{Service, movies::movie, notification, postgres};

/// The placeholder of a letter that is decomposed in the catalogue of the earlier release.
const PLACEHOLDER: &str = "#";

/// Makes the database one of an earlier release: folds its text by lowering it, and decomposes the
/// placeholders.
async fn make_earlier(sql: &Client) {
    // It is no change of a movie.
    let decompose = "alter table movies disable trigger keep_changed;
        update movies
        set doc = replace(doc, '#', U&'e\\0301'), title_lc = replace(title_lc, '#', U&'e\\0301'),
            cast_lc = replace(cast_lc, '#', U&'e\\0301'), content_hash = hashtextextended(doc, 1);
        alter table movies enable trigger keep_changed";
    sql.batch_execute(decompose).await.unwrap();
    sql.batch_execute("update catalogue set folding = 'earlier'").await.unwrap();
}

/// Returns the service of a successor on the same database, after its migration.
async fn migrate(mut service: Service) -> Service {
    service.stop().await;
    postgres::migrate(&service.database).await.unwrap();
    service.successor().start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn movies_that_become_one_are_merged_as_if_they_had_been_one() {
    let seed = std::env::var("MRU_TEST_SEED").map_or(12, |seed| seed.parse().unwrap());
    let mut random = Rng::with_seed(seed);
    for round in 0..4 {
        // Each file has some of the movies, in one form or the other; some files are large sets.
        let files: Vec<(String, Vec<Value>)> = (0..12)
            .map(|number| {
                let size = if number % 4 == 0 { 1_500 } else { 30 };
                let form = |random: &mut Rng| if random.bool() { "é" } else { PLACEHOLDER };
                let movies = (0..size).map(|_| {
                    let title = format!("Caf{} {}", form(&mut random), random.u32(0..800));
                    movie(&title, &format!("from {number}"))
                });
                (format!("file-{}", number % 7), movies.collect())
            })
            .collect();
        let (before, after) = (Service::start().await, Service::start().await);
        let mut order: Vec<u32> = (0..12).collect();
        random.shuffle(&mut order);
        for second in order {
            let (key, movies) = &files[second as usize];
            let body = json!(movies).to_string();
            for (service, body) in
                [(&before, body.clone()), (&after, body.replace(PLACEHOLDER, "e\u{301}"))]
            {
                service.put(key, body).await;
                service.notify(&notification::at_second(key, second)).await;
            }
        }
        make_earlier(&before.sql().await).await;
        let before = migrate(before).await;

        let catalogue = async |service: &Service| {
            let mut movies = service.movies_without_ids("limit=1000").await;
            movies.sort_by_key(|movie| movie["title"].to_string());
            movies
        };
        let (migrated, expected) = (catalogue(&before).await, catalogue(&after).await);
        assert!(migrated == expected, "round {round}, MRU_TEST_SEED={seed}");

        // What versions contain is merged, too: a late file changes what no later one contains.
        let late: Vec<Value> = (0..900).map(|n| movie(&format!("Café {n}"), "late")).collect();
        for service in [&before, &after] {
            service.put("late", json!(late).to_string()).await;
            service.notify(&notification::at_second("late", 3)).await;
        }
        let (migrated, expected) = (catalogue(&before).await, catalogue(&after).await);
        assert!(migrated == expected, "late, round {round}, MRU_TEST_SEED={seed}");
    }
}

#[tokio::test]
async fn the_first_id_remains_with_the_content_and_the_provenance_of_the_newest_version() {
    let service = Service::start().await;
    for (key, title, second) in [("a", "Café", 5), ("b", "Caf#", 9), ("c", "Other", 7)] {
        service.put(key, json!([movie(title, key)]).to_string()).await;
        service.notify(&notification::at_second(key, second)).await;
    }
    let ids: Vec<Value> = service.movies("").await.iter().map(|m| m["id"].clone()).collect();
    let revision = "select revision from catalogue";
    let sql = service.sql().await;
    let before: i64 = sql.query_one(revision, &[]).await.unwrap().get(0);
    make_earlier(&sql).await;
    let service = migrate(service).await;
    let after: i64 = sql.query_one(revision, &[]).await.unwrap().get(0);
    assert!(after > before, "cached answers would stay");
    let movies = service.movies("").await;
    assert_eq!(movies.iter().map(|m| &m["id"]).collect::<Vec<_>>(), [&ids[0], &ids[2]]);
    let one = service.get(&format!("/movies/{}", ids[0])).await.json();
    assert_eq!((&one["title"], &one["genres"]), (&json!("Cafe\u{301}"), &json!(["b"])));
    assert_eq!(one["provenance"]["key"], "b");
    let text = "select count(*) from movies where title_lc = 'café'";
    assert_eq!(sql.query_one(text, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn an_interrupted_run_continues_where_it_ended() {
    let service = Service::start().await;
    let movies: Vec<Value> = (0..25_000).map(|n| movie(&format!("Caf# {n}"), "x")).collect();
    service.ingest("k", json!(movies).to_string()).await;
    let sql = service.sql().await;
    make_earlier(&sql).await;
    // The last step fails.
    let poison = "update movies set doc = '{}' where id = (select max(id) from movies)";
    let kept: String =
        sql.query_one("select doc from movies order by id desc limit 1", &[]).await.unwrap().get(0);
    sql.batch_execute(poison).await.unwrap();
    let database = service.database.clone();
    postgres::migrate(&database).await.unwrap_err();
    let progress = "select folding is null and folded_up_to >= 20000 from catalogue";
    assert!(sql.query_one(progress, &[]).await.unwrap().get::<_, bool>(0));

    // What was done before is not done again: it would fail on the first movie now.
    let heal = "update movies set doc = $1 where id = (select max(id) from movies)";
    sql.execute(heal, &[&kept]).await.unwrap();
    let poison = "update movies set doc = '{}' where id = (select min(id) from movies)";
    sql.batch_execute(poison).await.unwrap();
    postgres::migrate(&database).await.unwrap();
    let left = "select count(*) from movies where title_lc not like 'café %'";
    assert_eq!(sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_withdrawn_movie_comes_back_under_the_same_id() {
    let service = Service::start().await;
    let ingest = async |service: &Service, title: &str| {
        service.ingest("k", json!([movie(title, "x")]).to_string()).await
    };
    let first = ingest(&service, "Caf# 1").await;
    let id = service.movies("").await[0]["id"].clone();
    let undo = service.post(&format!("/ingests/{}/undo", first["id"]), "");
    assert_eq!(service.send(undo).await.json()["effect"]["withdrawn"], 1);
    let sql = service.sql().await;
    let decompose = "update withdrawn_movies set doc = replace(doc, '#', U&'e\\0301')";
    sql.batch_execute(decompose).await.unwrap();
    make_earlier(&sql).await;
    let service = migrate(service).await;
    let back = ingest(&service, "Café 1").await;
    assert_eq!((&back["inserted"], &back["restored"]), (&json!(0), &json!(1)), "{back}");
    assert_eq!(service.movies("").await[0]["id"], id);
}

#[tokio::test]
async fn a_process_with_other_rules_takes_no_file() {
    let service = Service::start().await;
    service.ingest("k", json!([movie("A", "x")]).to_string()).await;
    assert!(service.get("/readyz").await.status.is_success());
    let sql = service.sql().await;
    sql.batch_execute("update catalogue set folding = 'newer'").await.unwrap();
    service.put("k", json!([movie("B", "x")]).to_string()).await;
    let posted = service.send(service.post("/movies", json!([movie("C", "x")]).to_string())).await;
    assert_eq!(posted.status.as_u16(), 503, "{}", posted.text);
    let notify = service.post("/notify", notification::bare("k").to_string());
    let queued = service.send(notify).await.json();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(service.movies("").await.len(), 1, "a file was merged by other rules");
    assert_eq!(service.get_ingest(&queued["id"]).await["attempts"], 0, "claimed in vain");
    assert!(service.get("/readyz").await.status.is_success(), "queries are answered");

    postgres::migrate(&service.database).await.unwrap();
    service.reaches(&queued["id"], "succeeded").await;
    assert_eq!(service.movies("").await.len(), 2);
}

#[tokio::test]
async fn a_service_waits_until_the_text_is_folded_by_its_rules() {
    let mut service = Service::start().await;
    service.stop().await;
    let sql = service.sql().await;
    sql.batch_execute("update catalogue set folding = 'earlier'").await.unwrap();
    let service = service.successor().start().await;
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let notify = service.post("/notify", notification::bare("k").to_string());
    let queued = service.send(notify).await.json();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let waiting = service.get_ingest(&queued["id"]).await;
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("queued"), &json!(0)));
    assert_eq!(service.get("/readyz").await.status.as_u16(), 503);
    postgres::migrate(&service.database).await.unwrap();
    service.reaches(&queued["id"], "succeeded").await;
}

#[tokio::test]
async fn the_database_refuses_merges_by_sessions_with_other_rules_or_none() {
    let service = Service::start().await;
    let sql = service.sql().await;
    let merge = "insert into merged_versions (ordered_at, key, bucket, sequencer)
        values (now(), 'k', 'b', '')";
    for catalogue in ["folding", "'newer'", "null"] {
        sql.batch_execute(&format!("update catalogue set folding = {catalogue}")).await.unwrap();
        for session in ["reset mru.folding", "set mru.folding = 'earlier'"] {
            sql.batch_execute(session).await.unwrap();
            let refused = sql.batch_execute(merge).await.unwrap_err();
            let code = refused.code().map(|code| code.code().to_owned());
            assert_eq!(code.as_deref(), Some("57P03"), "{catalogue}, {session}: {refused}");
        }
    }
}

#[tokio::test]
async fn only_movies_that_become_others_get_history() {
    let service = Service::start().await;
    for (key, title, second) in [("a", "Café", 5), ("b", "Caf#", 9), ("c", "Caf# 2", 7)] {
        service.put(key, json!([movie(title, key)]).to_string()).await;
        service.notify(&notification::at_second(key, second)).await;
    }
    // One movie that will be gone has a history, and so does one that stays as it is.
    for (key, title, second) in [("b", "Caf#", 10), ("c", "Caf# 2", 11)] {
        service.put(key, json!([movie(title, "other")]).to_string()).await;
        service.notify(&notification::at_second(key, second)).await;
    }
    let ids: Vec<Value> = service.movies("").await.iter().map(|m| m["id"].clone()).collect();
    let sql = service.sql().await;
    make_earlier(&sql).await;
    let service = migrate(service).await;
    let history = async |id: &Value| {
        let found = service.get(&format!("/movies/{id}/history")).await;
        let kinds = |changes: Value| -> Vec<Value> {
            changes.as_array().unwrap().iter().map(|c| json!([c["kind"], c["key"]])).collect()
        };
        (
            found.status.as_u16(),
            if found.status.is_success() { kinds(found.json()) } else { vec![] },
        )
    };
    let merged = vec![json!(["changed", "b"]), json!(["created", "a"])];
    assert_eq!(history(&ids[0]).await, (200, merged), "the content of the newest version");
    assert_eq!(history(&ids[1]).await, (404, vec![]), "it is the first one now");
    let untouched = vec![json!(["changed", "c"]), json!(["created", "c"])];
    assert_eq!(history(&ids[2]).await, (200, untouched));
    let states = "select count(*) from movie_history";
    assert_eq!(sql.query_one(states, &[]).await.unwrap().get::<_, i64>(0), 2);
}
