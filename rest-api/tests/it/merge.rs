//! Merges: what a first load and a repeated file write, assertions, and the provenance of a movie.

use rest_api::store::{Claim, Merged, Mode, ObservedVersion, Stage, Store, StoreError};
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    ledger::{record_and_claim, row},
    movies::movie,
    notification,
};

/// Returns how many movies were inserted, updated and unchanged.
fn counts(ingest: &Value) -> Value {
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    json!([ingest["inserted"], ingest["updated"], ingest["unchanged"]])
}

#[tokio::test]
async fn a_repeated_file_changes_only_the_movies_that_differ() {
    let service = Service::start().await;
    let file = |movies: &[(&str, &str)]| -> String {
        movies.iter().map(|(title, genre)| movie(title, genre).to_string() + "\n").collect()
    };
    let first = service.ingest("k", file(&[("A", "x"), ("B", "x"), ("C", "x")])).await;
    assert_eq!(counts(&first), json!([3, 0, 0]));
    // Of A, the first record is as stored and the last one differs; of B the other way round.
    let second = [("A", "x"), ("A", "y"), ("B", "y"), ("B", "x"), ("C", "x"), ("D", "x")];
    assert_eq!(counts(&service.ingest("k", file(&second)).await), json!([1, 1, 2]));
    let found = service.movies_without_ids("sort=title").await;
    let expected = [movie("A", "y"), movie("B", "x"), movie("C", "x"), movie("D", "x")];
    assert_eq!(found, expected);
    let third = service.ingest("k", file(&second) + "\n").await;
    assert_eq!(counts(&third), json!([0, 0, 4]));
    // After a version without movies, the same movies are still in the catalogue.
    assert_eq!(counts(&service.ingest("k", "[]").await), json!([0, 0, 0]));
    assert_eq!(counts(&service.ingest("k", file(&second)).await), json!([0, 0, 4]));
}

#[tokio::test]
async fn the_provenance_of_a_movie_is_the_version_that_changed_it_last() {
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
    // A differs, B does not.
    let changed = json!([movie("C", "x"), movie("B", "x"), movie("A", "y")]);
    let second = service.ingest("other", changed.to_string()).await;
    assert_eq!(provenance("A").await, of(&second, 2));
    assert_eq!(provenance("B").await, of(&first, 1));
    let response = service.send(service.post("/movies", movie("B", "z").to_string())).await;
    assert_eq!(response.json()["updated"], 1);
    let posted = json!({ "ingest": null, "bucket": null, "key": null, "version_id": null,
        "record": 0, "edited_by": "API token" });
    assert_eq!(provenance("B").await, posted);
}

/// Merges `movies` as the content of `claim`. Awaits `between` after they are staged.
async fn merge(
    store: &Store,
    claim: &Claim,
    movies: &[Value],
    stage: Stage,
    between: impl Future<Output = ()>,
) -> Result<Merged, StoreError> {
    let position = store.observe(claim, &ObservedVersion::default()).await?;
    let mut staging = store.staging(claim, stage).await?;
    staging.add(&movies.iter().map(row).collect::<Vec<_>>()).await?;
    between.await;
    store.merge_staged(staging, &position, Mode::Upsert, claim).await
}

#[tokio::test]
async fn a_change_between_comparison_and_merge_is_detected() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let file = [movie("A", "x"), movie("B", "x")];
    let first = record_and_claim(&store, "k", 1).await;
    merge(&store, &first, &file, Stage::Changes, async {}).await.unwrap();

    // Older than the second version of k, but merged while that version is staged.
    let newer = record_and_claim(&store, "k", 9).await;
    let older = record_and_claim(&store, "other", 5).await;
    let change = async {
        merge(&store, &older, &[movie("A", "y")], Stage::Changes, async {}).await.unwrap();
    };
    let merged = merge(&store, &newer, &file, Stage::Changes, change).await;
    assert!(matches!(merged, Err(StoreError::CatalogueChanged)), "{merged:?}");
    let genres = async || service.movies("title=A").await[0]["genres"][0].clone();
    assert_eq!(genres().await, "y", "the movies were merged nevertheless");

    let merged = merge(&store, &newer, &file, Stage::Everything, async {}).await.unwrap();
    assert_eq!((merged.updated, merged.unchanged), (1, 1));
    assert_eq!(genres().await, "x", "the newest version does not win");

    // A change of another movie does not matter.
    let again = record_and_claim(&store, "k", 10).await;
    let unrelated = record_and_claim(&store, "other", 11).await;
    let change = async {
        merge(&store, &unrelated, &[movie("C", "x")], Stage::Changes, async {}).await.unwrap();
    };
    let merged = merge(&store, &again, &file, Stage::Changes, change).await.unwrap();
    assert_eq!((merged.inserted, merged.updated, merged.unchanged), (0, 0, 2));
}

/// Returns the number of versions of k that count, and of the movies in all its sets.
async fn asserted(service: &Service) -> (i64, i64) {
    let asserted = "select count(*) filter (where counts),
            coalesce(sum(cardinality(movie_ids)), 0)::bigint
        from merged_versions v left join version_movies m on m.version_id = v.id
        where key = 'k'";
    let row = service.sql().await.query_one(asserted, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_repeated_file_with_equal_content_takes_the_newer_position() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    // From the table: the service may answer from its cache until it hears of the other process.
    let sql = service.sql().await;
    let read = "select doc::jsonb -> 'genres' ->> 0 from movies where title_lc = 'a'";
    let genre = async || sql.query_one(read, &[]).await.unwrap().get::<_, String>(0);
    let file = [movie("A", "x"), movie("B", "x")];
    let ingest = async |key: &str, second: u32, movies: &[Value]| {
        let claim = record_and_claim(&store, key, second).await;
        merge(&store, &claim, movies, Stage::Changes, async {}).await.unwrap()
    };
    ingest("k", 1, &file).await;
    let again = ingest("k", 20, &file).await;
    assert_eq!((again.unchanged, again.superseded), (2, false));
    assert_eq!(asserted(&service).await, (1, 2), "the repeated file has added an assertion");

    // Versions in between, of another object and of the same one, do not overwrite the newest.
    assert_eq!(ingest("other", 10, &[movie("A", "y")]).await.updated, 0);
    let between = ingest("k", 11, &[movie("A", "z"), movie("C", "z")]).await;
    assert_eq!((between.inserted, between.updated, between.superseded), (1, 0, true));
    assert_eq!(genre().await, "x");
    assert_eq!(ingest("other", 30, &[movie("A", "y")]).await.updated, 1);
    assert_eq!(genre().await, "y");
}

#[tokio::test]
async fn the_newer_of_two_equal_versions_counts_in_either_order_of_merges() {
    let service = Service::start_without_workers().await;
    let store = service.store(4).await;
    let file = [movie("A", "x"), movie("B", "x")];
    let first = record_and_claim(&store, "k", 1).await;
    merge(&store, &first, &file, Stage::Changes, async {}).await.unwrap();
    // Both are compared with the first version. The newer one is merged before the older one.
    let (older, newer) =
        (record_and_claim(&store, "k", 10).await, record_and_claim(&store, "k", 20).await);
    let overtake = async {
        merge(&store, &newer, &file, Stage::Changes, async {}).await.unwrap();
    };
    let merged = merge(&store, &older, &file, Stage::Changes, overtake).await.unwrap();
    assert!(merged.superseded);
    let late = record_and_claim(&store, "other", 15).await;
    let late = merge(&store, &late, &[movie("A", "y")], Stage::Changes, async {}).await.unwrap();
    assert_eq!(late.updated, 0, "the assertion of the newest version is lost");
}

#[tokio::test]
async fn the_last_record_wins_after_two_ingests_of_one_version() {
    let service = Service::start().await;
    let bare = notification::bare("k");
    let early = service.notify(&bare).await;
    assert_eq!(early["state"], "gone", "the object exists already");
    let file = [movie("A", "x"), movie("B", "x")];
    service.ingest("k", json!(file).to_string()).await;
    let retry = format!("/ingests/{}/retry", early["id"]);
    assert!(service.send(service.post(&retry, "")).await.status.is_success());
    service.reaches(&early["id"], "succeeded").await;
    assert_eq!(
        asserted(&service).await,
        (1, 2),
        "two assertions at one position in the version order"
    );

    let changed = [movie("A", "y"), movie("A", "x"), movie("B", "x")];
    let changed = service.ingest("k", json!(changed).to_string()).await;
    assert_eq!(counts(&changed), json!([0, 0, 2]));
    assert_eq!(service.movies("title=A").await[0]["genres"], json!(["x"]));
}

#[tokio::test]
async fn a_repeated_file_in_another_order_or_with_other_movies_is_compared() {
    let service = Service::start().await;
    let file = |numbers: &mut dyn Iterator<Item = u32>| -> String {
        numbers.map(|number| movie(&format!("{number}"), "x").to_string() + "\n").collect()
    };
    let first = service.ingest("k", file(&mut (0..500))).await;
    assert_eq!(counts(&first), json!([500, 0, 0]));
    let reversed = service.ingest("k", file(&mut (0..500).rev())).await;
    assert_eq!(counts(&reversed), json!([0, 0, 500]));
    assert_eq!(asserted(&service).await, (1, 500));
    // Every third movie, some of them twice, and new ones in between.
    let thinned = (0..500).step_by(3).chain(500..510).chain((0..90).step_by(3));
    let thinned = service.ingest("k", file(&mut thinned.into_iter())).await;
    assert_eq!(counts(&thinned), json!([10, 0, 167]));
    let complete = service.ingest("k", file(&mut (0..500)) + "\n").await;
    assert_eq!(counts(&complete), json!([0, 0, 500]));
    assert_eq!(service.movies("limit=1000").await.len(), 510);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_load_leaves_every_index_and_the_movies_in_the_order_of_the_file() {
    let service = Service::start().await;
    let sql = service.sql().await;
    let indexes = async || -> Vec<String> {
        let definitions = "select pg_get_indexdef(indexrelid) from pg_index \
            where indrelid = 'movies'::regclass and indisvalid order by 1";
        sql.query(definitions, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let before = indexes().await;
    let oid = "select array_agg(indexrelid::bigint order by indexrelid::bigint) from pg_index \
        where indrelid = 'movies'::regclass";
    let oid = async || -> Vec<i64> { sql.query_one(oid, &[]).await.unwrap().get(0) };
    let oids_before = oid().await;

    // More than one batch.
    let count = 40_000;
    let file: String = (0..count)
        .map(|n| movie(&format!("Movie {n}"), "x").to_string() + "\n")
        .chain([movie("Movie 7", "y").to_string()])
        .collect();
    let ingest = service.ingest("large", file.clone()).await;
    assert_eq!(counts(&ingest), json!([count, 0, 0]), "the second Movie 7 replaces the first");
    assert_eq!(indexes().await, before);
    assert_ne!(oid().await, oids_before, "the indexes were not built after the load");

    let found = service.movies("limit=1000&year=2000").await;
    assert_eq!(found.len(), count);
    let titles = found.iter().map(|movie| movie["title"].as_str().unwrap());
    let expected = (0..count).filter(|n| *n != 7).chain([7]).map(|n| format!("Movie {n}"));
    assert!(titles.eq(expected), "not in the order of the file");
    assert_eq!(service.movies("title=movie%2039999").await.len(), 1);
    assert_eq!(service.movies("genre=y").await[0]["title"], "Movie 7");

    let oids_before = oid().await;
    // With another byte, because the same bytes within the same second are the same version.
    assert_eq!(counts(&service.ingest("large", file + "\n").await), json!([0, 0, count]));
    assert_eq!(oid().await, oids_before, "the indexes were built again");
}
