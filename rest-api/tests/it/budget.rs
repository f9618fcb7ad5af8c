//! The budget of one file: records, and bytes that are staged.

use reqwest::StatusCode;
use rest_api::{
    config::Budget,
    store::{Mode, ObservedVersion, Stage},
};
use serde_json::json;

use crate::support::{
    Service,
    ledger::{record_and_claim, row},
    movies::{movie, ndjson, numbered_movies},
};

#[tokio::test]
async fn a_file_with_more_records_than_its_budget_is_rejected() {
    let budget = Budget { records: 10, ..Budget::default() };
    let service = Service::builder().config(|config| config.budget = budget).start().await;
    let movies = |count| ndjson(&numbered_movies("A", 0..count, "x"));
    let rejected = service.ingest("k", movies(11)).await;
    assert_eq!(rejected["state"], "rejected", "{rejected}");
    assert_eq!(rejected["attempts"], 1);
    let violations = json!([{
        "pointer": "", "expected": "at most 10 records in a file", "found": "more",
    }]);
    assert_eq!((&rejected["violations"], &rejected["violation_count"]), (&violations, &json!(1)));
    let response = service.send(service.post("/movies", movies(11))).await;
    assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", response.text);
    assert_eq!(response.json()["violations"], violations);
    assert_eq!(service.movies("").await.len(), 0);

    assert_eq!(service.ingest("k", movies(10)).await["inserted"], 10);
    // Records count, whether they are staged or not.
    assert_eq!(service.ingest("k", movies(11)).await["state"], "rejected");
}

#[tokio::test]
async fn a_file_whose_movies_take_more_bytes_than_its_budget_is_rejected() {
    let budget = Budget { staged_bytes: 1 << 20, ..Budget::default() };
    let service = Service::builder().config(|config| config.budget = budget).start().await;
    let rejected = service.ingest("k", ndjson(&numbered_movies("A", 0..20_000, "x"))).await;
    assert_eq!(rejected["state"], "rejected", "{rejected}");
    let expected = "at most 1 MiB of new and changed movies in a file";
    assert_eq!(rejected["violations"][0]["expected"], expected);
    assert_eq!(
        service.ingest("k", ndjson(&numbered_movies("A", 0..500, "x"))).await["inserted"],
        500
    );
    // Repeats do not count, as long as there is room for them.
    let repeats = ["x", "y", "z", "x", "y", "z"].map(|genre| numbered_movies("B", 0..3000, genre));
    let repeated = service.ingest("k", ndjson(&repeats.concat())).await;
    assert_eq!(repeated["inserted"], 3000, "{repeated}");
}

#[tokio::test]
async fn a_movie_that_occurs_again_and_again_is_not_staged_without_bound() {
    let service = Service::start_without_workers().await;
    let store = service.store(1).await;
    let claim = record_and_claim(&store, "k", 1).await;
    let position = store.observe(&claim, &ObservedVersion::default()).await.unwrap();
    let mut staging = store.staging(&claim, Stage::Changes).await.unwrap();
    let sql = service.sql().await;
    let size = "select pg_total_relation_size(oid) from pg_class \
        where relname = 'staging' and relpersistence = 't'";
    let mut largest: i64 = 0;
    for batch in 0..200 {
        let records = (0..1000).map(|n| movie(&format!("A {}", n % 2), &format!("{batch} {n}")));
        let rows: Vec<_> = records.map(|movie| row(&movie)).collect();
        staging.add(&rows).await.unwrap();
        largest = largest.max(sql.query_one(size, &[]).await.unwrap().get(0));
    }
    assert!(largest > 0 && largest < 16 << 20, "{largest} bytes");
    let merged = store.merge_staged(staging, &position, Mode::Upsert, &claim).await.unwrap();
    assert_eq!((merged.inserted, merged.updated, merged.unchanged), (2, 0, 0));
    assert_eq!(service.movies("genre=199+998").await[0]["title"], "A 0");
    assert_eq!(service.movies("genre=199+999").await[0]["title"], "A 1");
}
