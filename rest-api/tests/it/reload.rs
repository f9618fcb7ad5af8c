//! Files that come for the first time, and files that come again: what is compared, what is sent,
//! and where a movie's content is from.

use std::time::Duration;

use rest_api::store::{CatalogueRow, Claim, Observed, Store, StoreError};
use schema::Movie;
use serde_json::{Value, json};

use crate::service::{BUCKET, Service, eventually, no_secrets, without_id};

fn movie(title: &str, genre: &str) -> Value {
    json!({ "title": title, "year": 2000, "cast": [], "genres": [genre] })
}

fn row(movie: &Value) -> CatalogueRow {
    CatalogueRow::new(&schema::parse::<Movie>(movie.to_string().as_bytes()).unwrap())
}

/// Inserted, updated, unchanged.
fn counts(ingest: &Value) -> Value {
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    json!([ingest["inserted"], ingest["updated"], ingest["unchanged"]])
}

#[tokio::test]
async fn a_file_that_comes_again_changes_what_differs_and_nothing_else() {
    let service = Service::start().await;
    let file = |movies: &[(&str, &str)]| -> String {
        movies.iter().map(|(title, genre)| movie(title, genre).to_string() + "\n").collect()
    };
    let first = service.ingest("k", file(&[("A", "x"), ("B", "x"), ("C", "x")])).await;
    assert_eq!(counts(&first), json!([3, 0, 0]));
    // What one record says as it is known, and a later one otherwise, is otherwise; and the reverse.
    let second = [("A", "x"), ("A", "y"), ("B", "y"), ("B", "x"), ("C", "x"), ("D", "x")];
    assert_eq!(counts(&service.ingest("k", file(&second)).await), json!([1, 1, 2]));
    let found: Vec<Value> = service.movies("sort=title").await.iter().map(without_id).collect();
    let expected = [movie("A", "y"), movie("B", "x"), movie("C", "x"), movie("D", "x")];
    assert_eq!(found, expected);
    let third = service.ingest("k", file(&second) + "\n").await;
    assert_eq!(counts(&third), json!([0, 0, 4]));
    // A file without movies, and everything again: known is what the newest version held.
    assert_eq!(counts(&service.ingest("k", "[]").await), json!([0, 0, 0]));
    assert_eq!(counts(&service.ingest("k", file(&second)).await), json!([0, 0, 4]));
}

#[tokio::test]
async fn the_provenance_of_a_movie_is_the_version_that_gave_it_its_content() {
    let service = Service::start().await;
    let provenance = async |title: &str| -> Value {
        let found = service.movies(&format!("title={title}")).await;
        let one = service.get(&format!("/movies/{}", found[0]["id"])).await.json();
        let mut provenance = one["provenance"].clone();
        let at = provenance.as_object_mut().unwrap().remove("changed_at").unwrap();
        at.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        provenance
    };
    let of = |ingest: &Value, record: u64| {
        let version = ingest["version_id"].clone();
        json!({ "ingest": ingest["id"], "bucket": BUCKET, "key": ingest["key"],
            "version_id": version, "record": record })
    };
    let first = service.ingest("a b", json!([movie("A", "x"), movie("B", "x")]).to_string()).await;
    assert_eq!(provenance("A").await, of(&first, 0));
    assert_eq!(provenance("B").await, of(&first, 1));
    // B is as it was, A is not.
    let changed = json!([movie("C", "x"), movie("B", "x"), movie("A", "y")]);
    let second = service.ingest("other", changed.to_string()).await;
    assert_eq!(provenance("A").await, of(&second, 2));
    assert_eq!(provenance("B").await, of(&first, 1));
    let answer = service.send(service.post("/movies", movie("B", "z").to_string())).await;
    assert_eq!(answer.json()["updated"], 1);
    let nowhere = json!({ "ingest": null, "bucket": null, "key": null, "version_id": null,
        "record": 0 });
    assert_eq!(provenance("B").await, nowhere);
}

/// Claims an ingest of `key` at `second`.
async fn claim(store: &Store, key: &str, second: u32) -> Claim {
    let notification = json!({
        "bucket": BUCKET, "key": key, "event_time": format!("2026-01-01T00:00:{second:02}Z"),
        "sequencer": format!("{second:04X}"),
    });
    let notification = schema::parse(notification.to_string().as_bytes()).unwrap();
    store.record(&notification, &Observed::default(), "", None).await.unwrap();
    store.claim(Duration::from_secs(60)).await.unwrap().unwrap()
}

/// Merges `movies` as the content of `claim`; `between` happens after they were staged.
async fn merge(
    store: &Store,
    claim: &Claim,
    movies: &[Value],
    compare: bool,
    between: impl Future<Output = ()>,
) -> Result<rest_api::store::Merged, StoreError> {
    let place = store.observe(claim, &Observed::default()).await?;
    let mut staging = store.staging(claim, compare).await?;
    staging.add(&movies.iter().map(row).collect::<Vec<_>>()).await?;
    between.await;
    staging.merge(&place, claim).await
}

#[tokio::test]
async fn what_changes_under_a_file_that_is_compared_is_not_overlooked() {
    let service = Service::start_with(|config| config.workers = 0).await;
    let store = Store::new(&service.database, &no_secrets(), 4).await.unwrap();
    let file = [movie("A", "x"), movie("B", "x")];
    let first = claim(&store, "k", 1).await;
    merge(&store, &first, &file, true, async {}).await.unwrap();

    // Older than the second version of k, but merged while that one is being read.
    let newer = claim(&store, "k", 9).await;
    let older = claim(&store, "other", 5).await;
    let change = async {
        merge(&store, &older, &[movie("A", "y")], true, async {}).await.unwrap();
    };
    let merged = merge(&store, &newer, &file, true, change).await;
    assert!(matches!(merged, Err(StoreError::Moved)), "{merged:?}");
    let genres = async || service.movies("title=A").await[0]["genres"][0].clone();
    assert_eq!(genres().await, "y", "and nothing was merged");

    let merged = merge(&store, &newer, &file, false, async {}).await.unwrap();
    assert_eq!((merged.updated, merged.unchanged), (1, 1));
    assert_eq!(genres().await, "x", "the newest wins");

    // A change elsewhere is none of its business.
    let again = claim(&store, "k", 10).await;
    let elsewhere = claim(&store, "other", 11).await;
    let change = async {
        merge(&store, &elsewhere, &[movie("C", "x")], true, async {}).await.unwrap();
    };
    let merged = merge(&store, &again, &file, true, change).await.unwrap();
    assert_eq!((merged.inserted, merged.updated, merged.unchanged), (0, 0, 2));
}

/// How many assertions there are of k, and how many movies they name.
async fn asserted(service: &Service) -> (i64, i64) {
    let asserted = "select count(*), coalesce(sum(cardinality(movie_ids)), 0)::bigint \
        from assertions where key = 'k'";
    let row = service.sql().await.query_one(asserted, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_file_that_says_the_same_again_is_newer_all_the_same() {
    let service = Service::start_with(|config| config.workers = 0).await;
    let store = Store::new(&service.database, &no_secrets(), 4).await.unwrap();
    let genre = async || service.movies("title=A").await[0]["genres"][0].clone();
    let file = [movie("A", "x"), movie("B", "x")];
    let take = async |key: &str, second: u32, movies: &[Value]| {
        let claim = claim(&store, key, second).await;
        merge(&store, &claim, movies, true, async {}).await.unwrap()
    };
    take("k", 1, &file).await;
    let again = take("k", 20, &file).await;
    assert_eq!((again.unchanged, again.superseded), (2, false));
    assert_eq!(asserted(&service).await, (1, 2), "nothing more than before is kept for it");

    // Between the two, of another object and of the same one: the newer has spoken.
    assert_eq!(take("other", 10, &[movie("A", "y")]).await.updated, 0);
    let between = take("k", 11, &[movie("A", "z"), movie("C", "z")]).await;
    assert_eq!((between.inserted, between.updated, between.superseded), (1, 0, true));
    assert_eq!(genre().await, "x");
    assert_eq!(take("other", 30, &[movie("A", "y")]).await.updated, 1);
    assert_eq!(genre().await, "y");
}

#[tokio::test]
async fn of_two_versions_that_say_the_same_the_newer_one_counts_whichever_is_first() {
    let service = Service::start_with(|config| config.workers = 0).await;
    let store = Store::new(&service.database, &no_secrets(), 4).await.unwrap();
    let file = [movie("A", "x"), movie("B", "x")];
    let first = claim(&store, "k", 1).await;
    merge(&store, &first, &file, true, async {}).await.unwrap();
    // Both are compared with the first; the newer one is merged before the older.
    let (older, newer) = (claim(&store, "k", 10).await, claim(&store, "k", 20).await);
    let overtake = async {
        merge(&store, &newer, &file, true, async {}).await.unwrap();
    };
    let merged = merge(&store, &older, &file, true, overtake).await.unwrap();
    assert!(merged.superseded);
    let late = claim(&store, "other", 15).await;
    let late = merge(&store, &late, &[movie("A", "y")], true, async {}).await.unwrap();
    assert_eq!(late.updated, 0, "the newer one still speaks for its movies");
}

#[tokio::test]
async fn two_ingests_of_one_version_leave_the_later_record_the_winner() {
    let service = Service::start().await;
    let bare = json!({ "bucket": BUCKET, "key": "k" });
    let early = service.notify(&bare).await;
    assert_eq!(early["state"], "failed", "it is not there yet");
    let file = [movie("A", "x"), movie("B", "x")];
    service.ingest("k", json!(file).to_string()).await;
    let retry = format!("/ingests/{}/retry", early["id"]);
    assert!(service.send(service.post(&retry, "")).await.status.is_success());
    let path = format!("/ingests/{}", early["id"]);
    eventually(async || service.get(&path).await.json()["state"] == "succeeded").await;
    assert_eq!(asserted(&service).await, (1, 2), "of one place in the order, one assertion");

    let changed = [movie("A", "y"), movie("A", "x"), movie("B", "x")];
    let changed = service.ingest("k", json!(changed).to_string()).await;
    assert_eq!(counts(&changed), json!([0, 0, 2]));
    assert_eq!(service.movies("title=A").await[0]["genres"], json!(["x"]));
}

#[tokio::test]
async fn a_file_in_another_order_and_with_fewer_movies_is_compared_as_well() {
    let service = Service::start().await;
    let file = |numbers: &mut dyn Iterator<Item = u32>| -> String {
        numbers.map(|number| movie(&format!("{number}"), "x").to_string() + "\n").collect()
    };
    let first = service.ingest("k", file(&mut (0..500))).await;
    assert_eq!(counts(&first), json!([500, 0, 0]));
    let reversed = service.ingest("k", file(&mut (0..500).rev())).await;
    assert_eq!(counts(&reversed), json!([0, 0, 500]));
    assert_eq!(asserted(&service).await, (1, 500));
    // Every third, some twice, and new ones in between.
    let thinned = (0..500).step_by(3).chain(500..510).chain((0..90).step_by(3));
    let thinned = service.ingest("k", file(&mut thinned.into_iter())).await;
    assert_eq!(counts(&thinned), json!([10, 0, 167]));
    let back = service.ingest("k", file(&mut (0..500)) + "\n").await;
    assert_eq!(counts(&back), json!([0, 0, 500]));
    assert_eq!(service.movies("limit=1000").await.len(), 510);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_load_ends_with_every_index_and_every_movie_in_its_order() {
    let service = Service::start().await;
    let sql = service.sql().await;
    let indexes = async || -> Vec<String> {
        let sorted = "select pg_get_indexdef(indexrelid) from pg_index \
            where indrelid = 'movies'::regclass and indisvalid order by 1";
        sql.query(sorted, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let before = indexes().await;
    let oid = "select array_agg(indexrelid::bigint order by indexrelid::bigint) from pg_index \
        where indrelid = 'movies'::regclass";
    let oid = async || -> Vec<i64> { sql.query_one(oid, &[]).await.unwrap().get(0) };
    let oids_before = oid().await;

    // More than are compared at once.
    let count = 40_000;
    let file: String = (0..count)
        .map(|n| movie(&format!("Movie {n}"), "x").to_string() + "\n")
        .chain([movie("Movie 7", "y").to_string()])
        .collect();
    let ingest = service.ingest("large", file.clone()).await;
    assert_eq!(
        counts(&ingest),
        json!([count, 0, 0]),
        "the second Movie 7 is the first's correction"
    );
    assert_eq!(indexes().await, before);
    assert_ne!(oid().await, oids_before, "they were built afterwards");

    let found = service.movies("limit=1000&year=2000").await;
    assert_eq!(found.len(), count);
    let titles = found.iter().map(|movie| movie["title"].as_str().unwrap());
    let expected = (0..count).filter(|n| *n != 7).chain([7]).map(|n| format!("Movie {n}"));
    assert!(titles.eq(expected), "the order of the records");
    assert_eq!(service.movies("title=movie%2039999").await.len(), 1);
    assert_eq!(service.movies("genre=y").await[0]["title"], "Movie 7");

    let oids_before = oid().await;
    // One byte more: the same bytes within the same second would be the same version.
    assert_eq!(counts(&service.ingest("large", file + "\n").await), json!([0, 0, count]));
    assert_eq!(oid().await, oids_before, "once is enough");
}
