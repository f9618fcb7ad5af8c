//! Small files that are ingested together.

use std::time::Duration;

use futures_util::future::join_all;
use rest_api::store::{Lane, Mode, ObservedVersion, Report, SmallFile, Store};
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service, eventually,
    ledger::{LEASE, parse, row},
    movies::movie,
    notification,
    proxy::{Action, Direction, Proxy},
};

/// Returns a notification of a small object.
fn small(key: &str, second: u32) -> Value {
    let mut notification = notification::at_second(key, second);
    notification["size"] = json!(100);
    notification
}

/// Records files before a worker runs, and returns their ingests in the same order, after a service has
/// processed them.
async fn process(files: &[(Value, Option<String>)]) -> (Service, Vec<Value>) {
    let service = Service::start_without_workers().await;
    let mut ids = Vec::new();
    for (notification, content) in files {
        if let Some(content) = content {
            service.put(notification["key"].as_str().unwrap(), content.clone()).await;
        }
        let recorded = service.send(service.post("/notify", notification.to_string())).await;
        ids.push(recorded.json()["id"].clone());
    }
    let service = service.successor().start().await;
    for id in &ids {
        eventually(async || service.get_ingest(id).await["finished_at"].is_string()).await;
    }
    let ingests = join_all(ids.iter().map(|id| service.get_ingest(id))).await;
    (service, ingests)
}

fn file(movies: &[Value]) -> Option<String> {
    Some(json!(movies).to_string())
}

/// Returns state, and how many movies were inserted, updated and unchanged.
fn counts(ingest: &Value) -> Value {
    json!([ingest["state"], ingest["inserted"], ingest["updated"], ingest["unchanged"]])
}

async fn revision(service: &Service) -> i64 {
    let revision = "select revision from catalogue";
    service.sql().await.query_one(revision, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn each_file_of_a_batch_has_its_own_counts_and_provenance() {
    // In another order than that of their versions.
    let (service, ingests) = process(&[
        (small("third", 3), file(&[movie("A", "z"), movie("C", "x")])),
        (small("first", 1), file(&[movie("A", "x"), movie("B", "x"), movie("A", "x")])),
        (small("second", 2), file(&[movie("A", "y"), movie("A", "z"), movie("B", "x")])),
        (small("empty", 4), file(&[])),
    ])
    .await;
    let [third, first, second, empty] = &ingests[..] else { panic!("{ingests:?}") };
    assert_eq!(counts(first), json!(["succeeded", 2, 0, 0]));
    assert_eq!(counts(second), json!(["succeeded", 0, 1, 1]));
    assert_eq!(counts(third), json!(["succeeded", 1, 0, 1]));
    assert_eq!(counts(empty), json!(["succeeded", 0, 0, 0]));
    assert_eq!(revision(&service).await, 1, "they were not merged together");
    let expected = [movie("A", "z"), movie("B", "x"), movie("C", "x")];
    assert_eq!(service.movies_without_ids("sort=title").await, expected);
    for (title, ingest, record) in [("A", second, 1), ("B", first, 1), ("C", third, 1)] {
        let found = service.movies(&format!("title={title}")).await;
        let one = service.get(&format!("/movies/{}", found[0]["id"])).await.json();
        let provenance = &one["provenance"];
        assert_eq!(
            json!([provenance["ingest"], provenance["record"]]),
            json!([ingest["id"], record])
        );
    }
}

#[tokio::test]
async fn a_bad_file_falls_out_of_its_batch_alone() {
    let mut replaced = small("replaced", 3);
    replaced["etag"] = json!("of-a-replaced-version");
    let (service, ingests) = process(&[
        (small("good", 1), file(&[movie("A", "x")])),
        (small("rejected", 2), Some(json!([{ "title": "B", "yaer": 2000 }]).to_string())),
        (replaced, file(&[movie("C", "x")])),
        (small("gone", 4), None),
        (small("good too", 5), file(&[movie("D", "x")])),
    ])
    .await;
    let states: Vec<&Value> = ingests.iter().map(|ingest| &ingest["state"]).collect();
    assert_eq!(json!(states), json!(["succeeded", "rejected", "superseded", "gone", "succeeded"]));
    assert_eq!(ingests[1]["violation_count"], 2);
    assert_eq!(ingests[2]["superseded_reason"], "content_replaced");
    assert_eq!(ingests[3]["error"]["code"], "object_gone");
    assert_eq!(revision(&service).await, 1, "the good ones were not merged together");
    assert_eq!(service.movies("").await.len(), 2);
}

#[tokio::test]
async fn a_batch_whose_merge_fails_is_taken_apart() {
    let service = Service::start_without_workers().await;
    let refuse = "create function refuse() returns trigger language plpgsql as $$
            begin raise exception 'refused'; end $$;
        create trigger refuse before insert on movies for each row
            when (new.title_lc = 'poison') execute function refuse()";
    service.sql().await.batch_execute(refuse).await.unwrap();
    for (n, title) in ["A", "Poison", "C"].into_iter().enumerate() {
        let key = format!("{n}");
        service.put(&key, json!([movie(title, "x")]).to_string()).await;
        let notification = small(&key, n.try_into().unwrap());
        service.send(service.post("/notify", notification.to_string())).await;
    }
    let service = service.successor().start().await;
    eventually(async || {
        let failed = service.get("/ingests?state=failed").await.json();
        failed.as_array().unwrap().len() == 1 && failed[0]["key"] == "1"
    })
    .await;
    let expected = [movie("A", "x"), movie("C", "x")];
    assert_eq!(service.movies_without_ids("sort=title").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_slow_to_read_delays_no_other_and_goes_on_alone() {
    let proxy = Proxy::start().await;
    let service = Service::start_without_workers().await;
    for n in 0..5 {
        let key = if n == 2 { "slow".to_owned() } else { format!("{n}") };
        service.put(&key, json!([movie(&format!("{n}"), "x")]).to_string()).await;
        let recorded = service.send(service.post("/notify", small(&key, n).to_string())).await;
        assert!(recorded.status.is_success());
    }
    let slow = proxy.on(Direction::ToServer, "GET /movies/slow", 1, Action::Hold);
    let service = service.successor().objects_through(&proxy).start().await;
    eventually(async || service.movies("").await.len() == 4).await;
    let sql = service.sql().await;
    let alone = "select large from ingests where key = 'slow'";
    eventually(async || sql.query_one(alone, &[]).await.unwrap().get(0)).await;
    slow.release();
    eventually(async || service.movies("").await.len() == 5).await;
    let found = service.get("/ingests?key=slow").await.json();
    assert_eq!(json!([found[0]["state"], found[0]["attempts"]]), json!(["succeeded", 1]));
}

/// Records files and claims them as one batch.
async fn claim(store: &Store, files: &[(&str, u32, Value)], lease: Duration) -> Vec<SmallFile> {
    for (key, second, _) in files {
        let notification = parse(&small(key, *second));
        let report = Report { notification: &notification, observed: ObservedVersion::default() };
        store.record(&report, "", None).await.unwrap();
    }
    let claims = store.claim(Lane::Small, 10, lease).await.unwrap();
    let read = claims.into_iter().map(async |claim| {
        let position = store.observe(&claim, &ObservedVersion::default()).await.unwrap();
        let (.., movies) = files.iter().find(|(key, ..)| *key == claim.key).unwrap();
        let rows = movies.as_array().unwrap().iter().map(row).collect();
        SmallFile { claim, position, mode: Mode::Upsert, removal: None, rows }
    });
    join_all(read).await
}

#[tokio::test]
async fn a_file_whose_lease_was_lost_is_left_out_of_the_merge() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let files = [("a", 1, json!([movie("A", "x")])), ("b", 2, json!([movie("B", "x")]))];
    let batch = claim(&store, &files, LEASE).await;
    let expire = "update ingests set lease_expires_at = now() - interval '1 s' where key = 'a'";
    service.sql().await.batch_execute(expire).await.unwrap();
    assert_eq!(store.claim(Lane::Small, 10, LEASE).await.unwrap().len(), 1);
    let merged = store.merge_batch(&batch).await.unwrap();
    let inserted: Vec<_> =
        merged.iter().map(|merged| merged.map(|merged| merged.inserted)).collect();
    assert_eq!(inserted, [None, Some(1)]);
    assert_eq!(service.movies_without_ids("").await, [movie("B", "x")]);
}

#[tokio::test]
async fn the_files_of_a_batch_are_merged_in_the_order_of_their_versions() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    for rotation in 0..3 {
        let title = format!("{rotation}");
        let keys = [1, 2, 3].map(|second| format!("{rotation} {second}"));
        let genres = ["a", "b", "c"];
        let files: Vec<_> = (1..)
            .zip(&keys)
            .zip(genres)
            .map(|((second, key), genre)| (&**key, second, json!([movie(&title, genre)])))
            .collect();
        let mut batch = claim(&store, &files, LEASE).await;
        batch.sort_by(|one, other| one.claim.key.cmp(&other.claim.key));
        batch.rotate_left(rotation);
        let merged = store.merge_batch(&batch).await.unwrap();
        for (file, merged) in batch.iter().zip(merged) {
            let merged = merged.unwrap();
            let expected = if file.claim.key == keys[0] { (1, 0) } else { (0, 1) };
            assert_eq!((merged.inserted, merged.updated), expected, "{}", file.claim.key);
        }
        assert_eq!(service.movies(&format!("title={title}")).await[0]["genres"], json!(["c"]));
    }
}

#[tokio::test]
async fn a_late_file_changes_only_what_no_newer_version_contains() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let merge = async |files: &[(&str, u32, Value)]| {
        let batch = claim(&store, files, LEASE).await;
        store.merge_batch(&batch).await.unwrap()
    };
    // More later versions than are read one by one, and a set that is not an array.
    for n in 0..300 {
        merge(&[(&format!("filler {n}"), 20, json!([movie(&format!("filler {n}"), "x")]))]).await;
    }
    let many: Vec<Value> = (0..1500).map(|n| movie(&format!("many {n}"), "new")).collect();
    merge(&[("many", 21, json!(many)), ("few", 22, json!([movie("few", "new")]))]).await;
    let late = json!([movie("few", "old"), movie("many 7", "old"), movie("late", "old")]);
    let merged = merge(&[("late", 5, late.clone()), ("later", 6, late)]).await;
    let counts = merged.iter().flatten().map(|merged| (merged.inserted, merged.unchanged));
    let mut counts: Vec<_> = counts.collect();
    counts.sort_unstable();
    assert_eq!(counts, [(0, 3), (1, 2)]);
    for (title, genre) in [("few", "new"), ("many 7", "new"), ("late", "old")] {
        let found = service.movies(&format!("title={title}&limit=1")).await;
        assert_eq!(found[0]["genres"], json!([genre]), "{title}");
    }
}

#[tokio::test]
async fn files_of_one_kind_do_not_wait_for_those_of_the_other() {
    let queue = "insert into ingests (bucket, key, large, ordered_at, etag, size, run_after)
        select $1, case when large then 'large' else 'small' end || n, large, now(), 'replaced', 1,
            now() - interval '1 hour'
        from generate_series(1, 300) n, unnest(array[true, false]) large";
    let last = "insert into ingests (bucket, key, large, ordered_at, etag, size)
        select $1, 'last ' || large, large, now(), 'replaced', 1
        from unnest(array[true, false]) large";
    for large in [true, false] {
        let others = "delete from ingests where large = $1 and key not like 'last%'";
        let service = Service::start_without_workers().await;
        let sql = service.sql().await;
        sql.execute(queue, &[&BUCKET]).await.unwrap();
        sql.execute(last, &[&BUCKET]).await.unwrap();
        sql.execute(others, &[&large]).await.unwrap();
        let service = service.successor().config(|config| config.workers = 1).start().await;
        let key = format!("last%20{large}");
        eventually(async || {
            let found = service.get(&format!("/ingests?key={key}")).await.json();
            found[0]["finished_at"].is_string()
        })
        .await;
        let overtaken = "select count(*) from ingests
            where key not like 'last%' and finished_at is null or finished_at > (
                select finished_at from ingests where key = $1)";
        let key = format!("last {large}");
        let overtaken: i64 = sql.query_one(overtaken, &[&key]).await.unwrap().get(0);
        assert!(overtaken > 0, "it has waited for {} files", if large { "small" } else { "large" });
    }
}
