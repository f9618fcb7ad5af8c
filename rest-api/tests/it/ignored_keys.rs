//! Keys that are no files: markers and temporary names of other programs.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    movies::MOVIE,
    notification::{at_second, bare},
    process::{Output, environment, program},
};

/// Keys that no file has, by default.
const IGNORED: [&str; 9] = [
    "_SUCCESS",
    "out/_SUCCESS",
    "out/_temporary.json",
    ".DS_Store",
    "films/.movies.json.swp",
    "films_$folder$",
    "out/2026_$folder$",
    "folder/",
    "a/b/folder/",
];

/// Keys that look similar.
const FILES: [&str; 5] =
    ["_dir/movies.json", "a/.hidden/movies.json", "a_b.json", "$folder$.json", "a/b.c/d_.json"];

async fn notify(service: &Service, body: &Value) -> (StatusCode, Value) {
    let response = service.send(service.post("/notify", body.to_string())).await;
    (response.status, response.json())
}

/// Returns the number of ingests in the ledger.
async fn recorded(service: &Service) -> i64 {
    service.sql().await.query_one("select count(*) from ingests", &[]).await.unwrap().get(0)
}

async fn ignored(service: &Service) -> String {
    let metrics = service.get("/metrics").await.text;
    let line = metrics.lines().find(|line| line.starts_with("mru_notifications_ignored_total "));
    line.map_or("none".to_owned(), |line| line.rsplit_once(' ').unwrap().1.to_owned())
}

#[tokio::test]
async fn a_key_that_is_no_file_leaves_nothing_in_the_ledger() {
    let service = Service::start_without_workers().await;
    assert_eq!(ignored(&service).await, "0");
    for key in IGNORED {
        for notification in [bare(key), at_second(key, 1)] {
            let (status, body) = notify(&service, &notification).await;
            assert_eq!(status, StatusCode::OK, "{key}: {body}");
            let why = body["ignored"].as_str().unwrap();
            assert!(why.contains("MRU_IGNORE_KEYS"), "{why}");
            assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        }
    }
    assert_eq!(recorded(&service).await, 0);
    assert_eq!(ignored(&service).await, "18");
    for key in FILES {
        assert_eq!(notify(&service, &bare(key)).await.0, StatusCode::ACCEPTED, "{key}");
    }
    assert_eq!(recorded(&service).await, 5);
    // What is wrong is refused before it is ignored.
    let mut forged = bare("_SUCCESS");
    forged["sequencer"] = json!("not hexadecimal");
    assert_eq!(notify(&service, &forged).await.0, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn an_array_has_a_result_for_each_ignored_key() {
    let service = Service::start().await;
    service.put("good.json", MOVIE).await;
    let sent = json!([bare("_SUCCESS"), bare("good.json"), json!({}), at_second("folder/", 1)]);
    let request = service.post("/notify", sent.to_string()).header("prefer", "wait=30");
    let response = service.send(request).await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
    let results = response.json();
    let statuses: Vec<&Value> =
        results.as_array().unwrap().iter().map(|result| &result["status"]).collect();
    assert_eq!(json!(statuses), json!([200, 200, 422, 200]));
    assert!(results[0]["ignored"].is_string() && results[3]["ignored"].is_string(), "{results}");
    assert_eq!(results[1]["ingest"]["state"], "succeeded");
    assert_eq!((recorded(&service).await, ignored(&service).await), (1, "2".to_owned()));
    // All are ignored.
    let (status, results) = notify(&service, &json!([bare("_a"), bare("_b")])).await;
    assert_eq!((status, results[1]["status"].as_u64()), (StatusCode::ACCEPTED, Some(200)));
}

#[tokio::test]
async fn a_key_that_ends_in_a_slash_is_a_file_if_it_has_content() {
    let service = Service::start_without_workers().await;
    let sized = |size: u64| {
        let mut notification = at_second("folder/", 1);
        notification["size"] = json!(size);
        notification
    };
    let (status, body) = notify(&service, &sized(0)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = notify(&service, &sized(5)).await;
    assert_eq!((status, &body["key"]), (StatusCode::ACCEPTED, &json!("folder/")));
    // S3 does not have it either.
    let (status, body) = notify(&service, &at_second("missing/", 1)).await;
    assert_eq!((status, body["ignored"].is_string()), (StatusCode::OK, true));
    // S3 is not asked about a removed object.
    service.put("with content/", "[]").await;
    let mut removed = at_second("with content/", 1);
    assert_eq!(notify(&service, &removed).await.0, StatusCode::ACCEPTED);
    removed["event"] = json!("removed");
    assert_eq!(notify(&service, &removed).await.0, StatusCode::OK);
    // Whatever its size, a marker of another kind is none.
    let mut marker = bare("_SUCCESS");
    marker["size"] = json!(5);
    assert_eq!(notify(&service, &marker).await.0, StatusCode::OK);
}

#[tokio::test]
async fn reconciling_ignores_the_same_keys() {
    let service = Service::start_without_workers().await;
    for key in ["_SUCCESS", "out/.part.json", "films_$folder$", "movies.json"] {
        service.put(key, MOVIE).await;
    }
    let run = async |patterns: Option<&str>| {
        let mut program = program("reconcile");
        program.envs(environment(&service)).env("MRU_BUCKETS", BUCKET);
        program.envs(patterns.map(|patterns| ("MRU_IGNORE_KEYS", patterns)));
        let output = Output::of(program, &["--json"]).await;
        let summary = output.json_lines().pop().unwrap()["summary"].take();
        json!([summary["listed"], summary["ignored"], summary["missing"]])
    };
    assert_eq!(run(None).await, json!([4, 3, 1]));
    assert_eq!(run(Some("")).await, json!([4, 0, 4]));
    assert_eq!(run(Some("*.json, **/*$folder$")).await, json!([4, 2, 2]));
    let text = {
        let mut program = program("reconcile");
        program.envs(environment(&service)).env("MRU_BUCKETS", BUCKET);
        Output::of(program, &["--apply"]).await.stdout
    };
    assert!(text.contains("3 ignored"), "{text}");
    assert_eq!(recorded(&service).await, 1);
}
