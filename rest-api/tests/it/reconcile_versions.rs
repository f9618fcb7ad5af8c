//! `rest-api reconcile --all-versions`: pages, the order of versions, delete markers, buckets without versions.

use std::collections::BTreeMap;

use rest_api::{
    objects::ObjectStore,
    reconcile::{Difference, Kind, Options},
    store::Mode,
};
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    comparison::{apply, compare_versions},
    movies::MOVIE,
    process::{Output, environment, program},
};

/// Returns the version ids of a key in the order of their positions.
async fn in_order(service: &Service, key: &str) -> Vec<String> {
    let select = "select version_id from ingests where key = $1 order by ordered_at, id";
    let rows = service.sql().await.query(select, &[&key]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn put(service: &Service, key: &str, body: &str) -> String {
    let put = service.put_version(key, Mode::Snapshot, body).await;
    put["version_id"].as_str().unwrap().to_owned()
}

/// Deletes an object. Returns the id of the delete marker.
async fn mark(service: &Service, key: &str) -> String {
    let delete = service.s3.delete_object().bucket(BUCKET).key(key).send().await;
    delete.unwrap().version_id.unwrap()
}

fn version_ids(found: &[Difference], key: &str) -> Vec<String> {
    let of_key = found.iter().filter(|difference| difference.key == key);
    of_key.map(|difference| difference.version_id.clone().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_versions_of_each_key_are_recorded_in_their_order_across_pages() {
    let service = Service::start_without_workers().await;
    service.enable_versioning().await;
    // Many in the same second. The second key is that of the first page's end.
    let mut made: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, count) in [("a", 3), ("b +%\n\u{1f3ac}", 2100), ("c", 2), ("d/ü", 1)] {
        for number in 0..count {
            let id = match number % 7 {
                2 | 3 => mark(&service, key).await,
                _ => put(&service, key, &format!("{number}")).await,
            };
            made.entry(key).or_default().push(id);
        }
    }
    let (found, summary) = compare_versions(&service, Options::default()).await;
    assert_eq!((summary.listed, summary.missing, summary.queued), (2106, 2106, 0));
    let markers = summary.versions.unwrap().delete_markers;
    assert_eq!(markers, found.iter().filter(|difference| difference.removal).count() as u64);
    assert_eq!(markers, 601);
    for (key, made) in &made {
        assert_eq!(version_ids(&found, key), *made, "{key:?}");
    }

    let (found, summary) = compare_versions(&service, apply()).await;
    assert_eq!(summary.queued, 2106);
    let queued: Vec<i64> = found.iter().map(|difference| difference.queued.unwrap()).collect();
    assert!(queued.is_sorted());
    for (key, made) in &made {
        assert_eq!(in_order(&service, key).await, *made, "{key:?}");
    }
    let positions = "select count(distinct ordered_at) from ingests where key like 'b%'";
    let positions = service.sql().await.query_one(positions, &[]).await.unwrap();
    assert_eq!(positions.get::<_, i64>(0), 2100);

    let (found, summary) = compare_versions(&service, apply()).await;
    assert_eq!((found.len(), summary.in_flight, summary.queued), (0, 2106, 0));
    let options = Options { prefix: "b +%\n".to_owned(), ..Options::default() };
    assert_eq!(compare_versions(&service, options).await.1.listed, 2100);
}

#[tokio::test]
async fn the_listing_tells_where_a_delete_marker_of_the_same_second_is() {
    let service = Service::start_without_workers().await;
    service.enable_versioning().await;
    let mut made = Vec::new();
    // Marker over marker, at the beginning, between versions and at the end.
    for is_marker in [true, true, false, false, true, true, false, true, false, true, true] {
        made.push(match is_marker {
            true => mark(&service, "k").await,
            false => put(&service, "k", MOVIE).await,
        });
    }
    let objects = ObjectStore::new(service.s3.clone());
    let mut pages = Box::pin(objects.list_versions(BUCKET, "k"));
    let page = futures_util::StreamExt::next(&mut pages).await.unwrap().unwrap();
    let listed = page.iter().rev().map(|listed| listed.version.version_id.clone().unwrap());
    assert!(listed.eq(made.clone()), "{page:#?}");
    let latest: Vec<bool> = page.iter().map(|listed| listed.is_latest).collect();
    assert_eq!(latest.iter().position(|is_latest| *is_latest), Some(0));

    let (found, _) = compare_versions(&service, apply()).await;
    assert_eq!(version_ids(&found, "k"), made);
    assert_eq!(in_order(&service, "k").await, made);
}

#[tokio::test]
async fn a_version_comes_between_its_neighbours_that_the_ledger_has() {
    let service = Service::start().await;
    service.enable_versioning().await;
    // All within one second or two. Every other one is notified, with the time of its event.
    let mut made = Vec::new();
    for number in 0..9 {
        let body = json!({ "title": format!("{number}"), "year": 2000 }).to_string();
        let version = service.put_version("k", Mode::Snapshot, body).await;
        if number % 2 == 1 {
            assert_eq!(service.notify(&version).await["state"], "succeeded");
        }
        made.push(version["version_id"].as_str().unwrap().to_owned());
    }
    let (found, summary) = compare_versions(&service, apply()).await;
    assert_eq!((summary.up_to_date, summary.missing, summary.queued), (4, 5, 5));
    assert!(version_ids(&found, "k").iter().eq(made.iter().step_by(2)));
    assert_eq!(in_order(&service, "k").await, made);
    service.idle().await;
    let titles: Vec<Value> =
        service.movies("").await.iter().map(|movie| movie["title"].clone()).collect();
    assert_eq!(titles, ["8"], "each is a snapshot, and the last one is the newest");
}

#[tokio::test]
async fn failed_and_vanished_versions_are_told_apart() {
    let mut service = Service::start().await;
    service.enable_versioning().await;
    let sql = service.sql().await;
    let kept = service.put_version("kept", Mode::Upsert, MOVIE).await;
    let failed = service.put_version("failed", Mode::Upsert, MOVIE).await;
    let gone = service.put_version("gone", Mode::Upsert, MOVIE).await;
    let vanished = service.put_version("vanished", Mode::Upsert, MOVIE).await;
    service.put_version("rejected", Mode::Upsert, "no movie").await;
    for version in [&kept, &failed, &gone, &vanished] {
        assert_eq!(service.notify(version).await["state"], "succeeded");
    }
    let fail = "update ingests set state = key, error = '{}', attempts = 12 where key = $1";
    sql.execute(fail, &[&"failed"]).await.unwrap();
    sql.execute(fail, &[&"gone"]).await.unwrap();
    service.delete_version("vanished", vanished["version_id"].as_str().unwrap()).await;
    let marker = mark(&service, "kept").await;
    // Its ingest is not in the ledger any more. What it has merged is.
    sql.execute("delete from ingests where key = 'kept'", &[]).await.unwrap();

    let (found, summary) = compare_versions(&service, apply()).await;
    let kinds: Vec<_> = found.iter().map(|it| (it.kind, it.key.as_str(), it.removal)).collect();
    let expected = [
        (Kind::Failed, "failed", false),
        (Kind::Missing, "gone", false),
        (Kind::Missing, "kept", true),
        (Kind::Missing, "rejected", false),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(found[2].version_id, Some(marker));
    assert_eq!((found[1].queued, found[1].ingest), (found[1].ingest, found[1].queued));
    assert_eq!((summary.listed, summary.up_to_date, summary.vanished), (5, 1, 1));
    assert_eq!((summary.queued, summary.not_queued()), (3, 1));
    service.idle().await;
    let options = Options { retry_failed: true, ..apply() };
    let (found, summary) = compare_versions(&service, options).await;
    assert_eq!((found.len(), summary.queued, summary.rejected), (1, 1, 1));
    service.idle().await;
    let (found, summary) = compare_versions(&service, apply()).await;
    assert!(found.is_empty(), "{found:?}");
    assert_eq!((summary.up_to_date, summary.vanished, summary.rejected), (4, 1, 1));
    service.stop().await;
}

#[tokio::test]
async fn a_bucket_without_versions_says_what_cannot_be_known() {
    let service = Service::start().await;
    service.put("one", MOVIE).await;
    service.ingest("two", r#"{"title":"Two","year":2000}"#).await;
    let mut reconcile = program("reconcile");
    reconcile.envs(environment(&service)).arg("--all-versions");
    let printed = Output::of(reconcile, &["--bucket", BUCKET, "--apply"]).await;
    assert_eq!((printed.status, printed.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = printed.stdout.lines().collect();
    assert!(lines[0].starts_with("missing   one  25 B  20"), "{lines:?}");
    assert!(lines[0].ends_with("Z  queued as ingest 2"), "{lines:?}");
    assert_eq!(
        lines[2],
        "movies/: 2 versions, 0 delete markers; 1 up to date, 0 in flight, 0 rejected; 1 missing, \
         0 failed, 0 vanished, 0 unusable, 0 ignored"
    );
    assert_eq!(
        lines[4..],
        [
            "The bucket does not keep versions: what its files said before, and which were removed, \
             cannot be known",
            "decisions of people are not in the bucket: import them (rest-api decisions import)",
        ]
    );
    service.idle().await;
    let mut reconcile = program("reconcile");
    reconcile.envs(environment(&service)).arg("--all-versions");
    let printed = Output::of(reconcile, &["--bucket", BUCKET, "--json"]).await;
    assert_eq!(printed.status, 0, "{}", printed.stdout);
    let summary = &printed.json_lines()[0]["summary"];
    assert_eq!((&summary["up_to_date"], &summary["missing"]), (&json!(2), &json!(0)));
    let versions = json!({ "delete_markers": 0, "incomplete": true, "lacks_decisions": false });
    assert_eq!(summary["versions"], versions);

    // From now on the bucket keeps versions. The one of before, which has no id, is read although it is hidden.
    let service = {
        service.enable_versioning().await;
        service.put("three", r#"{"title":"Three","year":2000}"#).await;
        put(&service, "one", r#"{"title":"New","year":2000}"#).await;
        service
    };
    let rebuilt = "truncate ingests, movies, merged_versions, version_movies, withdrawn_movies";
    service.sql().await.batch_execute(&format!("set mru.counting = '2'; {rebuilt}")).await.unwrap();
    let (found, summary) = compare_versions(&service, apply()).await;
    assert_eq!((found.len(), summary.queued), (4, 4));
    service.idle().await;
    let one = service.get("/ingests?key=one").await.json();
    let versions: Vec<&Value> =
        one.as_array().unwrap().iter().map(|it| &it["version_id"]).collect();
    assert_eq!(versions.iter().filter(|id| ***id == json!("null")).count(), 1, "{one}");
    let states: Vec<&Value> = one.as_array().unwrap().iter().map(|it| &it["state"]).collect();
    assert!(
        states.iter().all(|state| ["succeeded", "superseded"].contains(&state.as_str().unwrap()))
    );
    let titles: Vec<Value> =
        service.movies("sort=title").await.iter().map(|movie| movie["title"].clone()).collect();
    assert_eq!(titles, ["New", "Three", "Two"]);
    assert!(compare_versions(&service, apply()).await.0.is_empty());
}
