//! What is removed from the ledger, from the sets of movies and from the answers to requests, and what is converted to them.

use rest_api::store::{Removed, Retention};
use serde_json::json;

use crate::support::{BUCKET, Service, movies::movie, notification, postgres::migrate};

#[tokio::test]
async fn old_ingests_are_removed_but_the_newest_of_each_object() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    // Key, age in days, state. The sequencers of one key rise.
    let versions = [
        ("k", 40, "succeeded"),
        ("k", 35, "succeeded"),
        ("k", 33, "rejected"),
        ("k", 1, "superseded"),
        ("only", 50, "succeeded"),
        ("failing", 60, "failed"),
        ("failing", 50, "rejected"),
        ("failing", 40, "rejected"),
        ("young", 5, "succeeded"),
        ("young", 4, "succeeded"),
        ("open", 90, "queued"),
        ("open", 1, "succeeded"),
        // Nothing newer comes under a temporary name.
        ("temporary", 40, "gone"),
        ("fresh", 2, "gone"),
        ("lost", 60, "failed"),
        ("lost", 50, "gone"),
    ];
    for (n, (key, age, state)) in versions.iter().enumerate() {
        let insert = "insert into ingests (bucket, key, state, sequencer, ordered_at, received_at,
                finished_at, inserted, updated, unchanged, violation_count, error)
            select $1, $2, $3, $4, at, at, case when $3 <> 'queued' then at end, 0, 0, 0, 1, '{}'
            from (select now() - make_interval(days => $5) as at) t";
        let sequencer = format!("{n:04}");
        sql.execute(insert, &[&BUCKET, key, state, &sequencer, age]).await.unwrap();
    }
    let (store, keep) = (service.store(2).await, Retention::default());
    let removed = store.remove_unneeded(Retention { ledger_days: Some(30), ..keep }).await.unwrap();
    assert_eq!(removed, Removed { ingests: 5, ..Removed::default() });
    let left = "select string_agg(key || ' ' || state, ', ' order by id) from ingests";
    let left: String = sql.query_one(left, &[]).await.unwrap().get(0);
    let expected = "k succeeded, k rejected, k superseded, only succeeded, failing rejected, \
        young succeeded, young succeeded, open queued, open succeeded, fresh gone, lost failed";
    assert_eq!(left, expected);
    assert_eq!(store.remove_unneeded(keep).await.unwrap(), Removed::default());
}

#[tokio::test]
async fn versions_that_do_not_count_are_removed_with_their_ingests() {
    let service = Service::start().await;
    let sql = service.sql().await;
    let put = async |key: &str, second: u32, titles: &[&str]| {
        let movies: Vec<_> = titles.iter().map(|title| movie(title, key)).collect();
        service.put(key, json!(movies).to_string()).await;
        let ingest = service.notify(&notification::at_second(key, second)).await;
        assert_eq!(ingest["state"], "succeeded", "{ingest}");
        ingest["id"].as_i64().unwrap()
    };
    let first = put("k", 1, &["A", "B"]).await;
    let second = put("k", 2, &["A", "B", "C"]).await;
    put("k", 3, &["A", "B", "C"]).await;
    put("other", 5, &["A", "B", "C", "D"]).await;
    let store = service.store(2).await;
    let (keep, nothing) = (Retention::default(), Removed::default());
    assert_eq!(store.remove_unneeded(keep).await.unwrap(), nothing, "they can be undone");
    let forget = "delete from ingests where id = any($1)";
    sql.execute(forget, &[&vec![second]]).await.unwrap();
    assert_eq!(store.remove_unneeded(keep).await.unwrap(), nothing, "the third can be undone");
    sql.execute(forget, &[&vec![first]]).await.unwrap();
    assert_eq!(store.remove_unneeded(keep).await.unwrap(), Removed { versions: 1, ..nothing });
    // The set that the second and third version share stays, that of the first is gone.
    let sets = "select count(*) from version_movies";
    assert_eq!(sql.query_one(sets, &[]).await.unwrap().get::<_, i64>(0), 2);
    // A late file changes nothing that the newest contains.
    put("late", 0, &["A", "B", "C", "D"]).await;
    let found = service.movies_without_ids("sort=title").await;
    let genres: Vec<_> = found.iter().map(|movie| movie["genres"][0].clone()).collect();
    assert_eq!(json!(genres), json!(["other", "other", "other", "other"]));
}

#[tokio::test]
async fn answers_to_requests_of_more_than_a_day_ago_are_removed() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    let answers = "insert into idempotency_keys (caller, key, fingerprint, answer, created_at)
        select 'ann', n::text, '', '', now() - make_interval(mins => n)
        from generate_series(1, 4000) n";
    sql.batch_execute(answers).await.unwrap();
    let removed = service.store(2).await.remove_unneeded(Retention::default()).await.unwrap();
    assert_eq!(removed, Removed { answers: 4000 - 24 * 60 + 1, ..Removed::default() });
    let left = "select count(*), max(key::int) from idempotency_keys";
    let left = sql.query_one(left, &[]).await.unwrap();
    assert_eq!((left.get(0), left.get(1)), (24_i64 * 60 - 1, 24 * 60 - 1));
}

#[tokio::test]
async fn assertions_of_earlier_releases_become_sets() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    // As the release before has left them: a version of two rows, a small one, and one without movies.
    let assertions = "alter table assertions disable trigger refuse_assertions;
        insert into assertions (ordered_at, key, bucket, sequencer, movie_ids)
            select '2026-01-02', 'large', 'b', '01', array_agg(n)
            from generate_series(1, 3000) n group by n % 2;
        insert into assertions (ordered_at, key, bucket, sequencer, movie_ids)
            values ('2026-01-01', 'small', 'b', '', '{7,5}'), ('2026-01-03', 'none', 'b', '', '{}');
        alter table assertions enable trigger refuse_assertions";
    sql.batch_execute(assertions).await.unwrap();
    let service = service.successor().start().await;
    assert!(!service.get("/readyz").await.status.is_success(), "the conversion has not ended");
    // Until then no file is merged: it would not know what newer versions contain.
    service.put("k", json!([movie("A", "x")]).to_string()).await;
    let recorded = service.send(service.post("/notify", notification::bare("k").to_string())).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let id = recorded.json()["id"].clone();
    assert_eq!(service.get_ingest(&id).await["state"], "queued");
    migrate(&service.database).await.unwrap();
    assert!(service.get("/readyz").await.status.is_success());
    service.reaches(&id, "succeeded").await;
    let found = "select key, sequencer, movie_ids, length(bitmap) from merged_versions
        left join version_movies m on m.version_id = merged_versions.id where bucket = 'b' order by ordered_at";
    let found = sql.query(found, &[]).await.unwrap();
    let keys: Vec<&str> = found.iter().map(|row| row.get("key")).collect();
    assert_eq!(keys, ["small", "large", "none"]);
    assert_eq!(found[0].get::<_, Option<Vec<i64>>>(2), Some(vec![5, 7]));
    assert!(found[1].get::<_, Option<i32>>(3).is_some_and(|bytes| bytes < 8000));
    let none: (Option<Vec<i64>>, Option<i32>) = (found[2].get(2), found[2].get(3));
    assert_eq!(none, (None, None));
    // The release before does not merge any more, and its files wait.
    let refused = sql.batch_execute("insert into assertions values (default)").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "57P03");
    let refused = "update assertions set key = key where id = 0";
    assert!(sql.batch_execute(refused).await.is_err());
}

#[tokio::test]
async fn an_index_that_was_left_half_built_is_built_again() {
    let service = Service::start_without_workers().await;
    let sql = service.sql().await;
    let break_it = "update pg_index set indisvalid = false
        where indexrelid = 'ingests_by_time'::regclass";
    sql.batch_execute(break_it).await.unwrap();
    sql.batch_execute("drop index ingests_by_sequencer").await.unwrap();
    assert!(!service.get("/readyz").await.status.is_success());
    migrate(&service.database).await.unwrap();
    assert!(service.get("/readyz").await.status.is_success());
}
