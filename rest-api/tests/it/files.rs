//! Valid files in every form are ingested. Invalid files are rejected with their violations.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service,
    files::{gzip, invalid_files, movie, valid_files},
    notification,
};

#[tokio::test]
async fn a_valid_file_is_ingested_in_every_form() {
    let service = Service::start().await;
    for (key, body, count) in valid_files() {
        let ingest = service.ingest(key, body).await;
        assert_eq!(ingest["state"], "succeeded", "{key}: {ingest}");
        let total: i64 =
            ["inserted", "updated", "unchanged"].map(|n| ingest[n].as_i64().unwrap()).iter().sum();
        assert_eq!(total, count, "{key}: {ingest}");
        assert_eq!(ingest["violations"], json!([]), "{key}");
    }
    let movies = service.movies_without_ids("").await;
    assert_eq!(movies, [movie("A"), movie("B")]);
}

#[tokio::test]
async fn the_content_encoding_of_an_object_decides_only_if_it_names_a_coding() {
    let service = Service::start().await;
    let gzipped = gzip(movie("A").to_string().as_bytes());
    for (encoding, body) in [
        ("gzip", gzipped.clone()),
        ("aws-chunked,gzip", gzipped.clone()),
        ("utf-8", gzipped),
        ("UTF8", b"[]".to_vec()),
        ("aws-chunked", b"[]".to_vec()),
    ] {
        let put = service.s3.put_object().bucket(BUCKET).key(encoding).content_encoding(encoding);
        put.body(body.into()).send().await.unwrap();
        let ingest = service.notify(&notification::bare(encoding)).await;
        assert_eq!(ingest["state"], "succeeded", "{encoding}: {ingest}");
    }
    for (encoding, body) in [("gzip", b"[]".to_vec()), ("br", b"[]".to_vec())] {
        let key = format!("not-{encoding}");
        let put = service.s3.put_object().bucket(BUCKET).key(&key).content_encoding(encoding);
        put.body(body.into()).send().await.unwrap();
        let ingest = service.notify(&notification::bare(&key)).await;
        assert_eq!(ingest["state"], "rejected", "{encoding}");
    }
}

#[tokio::test]
async fn every_field_is_returned_and_null_means_absent() {
    let service = Service::start().await;
    let full = json!({
        "title": "Full \"quoted\" \\ Ünïcode 映画 🎬", "year": 2001, "cast": ["A\tB", "Ça"],
        "genres": ["Sci-Fi"], "href": "Full_(film)", "extract": "Text.\nMore.", "thumbnail": "https://example.com/t.jpg",
        "thumbnail_width": 220, "thumbnail_height": 0,
    });
    let sparse = json!({ "title": "Sparse", "year": 2002, "href": null, "extract": null, "thumbnail_width": null,
        "cast": null, "genres": null });
    let ingest = service.ingest("k", json!([full, sparse]).to_string()).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    let movies = service.movies_without_ids("").await;
    assert_eq!(
        movies,
        [full, json!({ "title": "Sparse", "year": 2002, "cast": [], "genres": [] })]
    );
}

#[tokio::test]
async fn the_last_record_of_a_movie_in_a_file_wins() {
    let service = Service::start().await;
    let mut later = movie("A");
    later["cast"] = json!(["Someone Else"]);
    let mut other = movie("A");
    other["href"] = json!("A_(other)");
    let ingest = service.ingest("k", json!([movie("A"), other, later]).to_string()).await;
    assert_eq!(ingest["inserted"], 2, "another href is another movie");
    let movies = service.movies_without_ids("").await;
    assert_eq!(movies, [other, later]);
}

#[tokio::test]
async fn a_movie_repeated_many_times_is_merged_in_linear_time() {
    let service = Service::start().await;
    let mut lines: Vec<String> = (0..60_000)
        .map(|n| json!({ "title": "A", "year": 1999, "extract": format!("{n}") }).to_string())
        .collect();
    lines.push(json!({ "title": "A", "year": 1999, "extract": "the last" }).to_string());
    let ingest = service.ingest("k", lines.join("\n")).await;
    assert_eq!(
        (&ingest["state"], &ingest["inserted"]),
        (&json!("succeeded"), &json!(1)),
        "{ingest}"
    );
    assert_eq!(service.movies("").await[0]["extract"], "the last");
}

#[tokio::test]
async fn every_invalid_file_is_rejected_with_its_violations() {
    let service = Service::start().await;
    for (name, body, expected) in invalid_files() {
        let ingest = service.ingest(name, body).await;
        assert_eq!(ingest["state"], "rejected", "{name}: {ingest}");
        assert_eq!(ingest["attempts"], 1, "{name}: {ingest}");
        let violations = ingest["violations"].as_array().unwrap();
        let mut found: Vec<Value> =
            violations.iter().map(|v| json!([v["record"], v["pointer"]])).collect();
        found.sort_by_key(Value::to_string);
        assert_eq!(found, expected, "{name}: {ingest}");
        for violation in violations {
            assert!(violation["expected"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
            assert!(violation["found"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        }
    }
    assert_eq!(service.movies("").await, Vec::<Value>::new(), "a rejected file changes nothing");
    assert_eq!(service.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_violation_has_the_offset_of_its_record() {
    let service = Service::start().await;
    let text = format!("\u{feff}[\n  {},\n  {{\"title\": \"Ü\", \"year\": 1}}]", movie("Ü"));
    let offset = text.find("{\"title\": \"Ü\", \"year\": 1}").unwrap();
    for (key, body) in [("plain", text.clone().into_bytes()), ("gzip", gzip(text.as_bytes()))] {
        let ingest = service.ingest(key, body).await;
        let expected = json!({
            "record": 1, "offset": offset, "pointer": "/year",
            "expected": "1870 or more", "found": "1",
        });
        assert_eq!(ingest["violations"], json!([expected]), "{key}");
    }
}

#[tokio::test]
async fn the_first_thousand_violations_are_listed_and_all_are_counted() {
    let service = Service::start().await;
    let bad: Vec<Value> =
        (0..2000).map(|n| json!({ "title": format!("{n}"), "year": 1 })).collect();
    let ingest = service.ingest("k", json!(bad).to_string()).await;
    assert_eq!(ingest["violation_count"], 2000);
    let violations = ingest["violations"].as_array().unwrap();
    assert_eq!(violations.len(), 1000);
    assert!(violations.iter().enumerate().all(|(n, violation)| violation["record"] == n));
    let listed = service.get("/ingests").await.json();
    assert_eq!(listed[0].get("violations"), None, "the list of ingests contains no violations");
}

#[tokio::test]
async fn records_after_a_malformed_record_are_checked() {
    let service = Service::start().await;
    // Malformed lines without a quote, a brace and a value. After each, a line that is JSON.
    let lines = "{\"title\":\"a,\"year\":1999}\n{\"title\":\"b\",\"year\":1}\n{\"title\":\"c\",\"year\":1999\n\
                 {\"title\":\"d\",\"year\":2}\n{\"title\":,\"year\":1999}\n{\"title\":\"e\",\"year\":3}\n";
    let ingest = service.ingest("k", lines).await;
    let violations = ingest["violations"].as_array().unwrap();
    let found: Vec<Value> = violations.iter().map(|v| json!([v["record"], v["pointer"]])).collect();
    let expected = [(0, ""), (1, "/year"), (2, ""), (3, "/year"), (4, ""), (5, "/year")];
    assert_eq!(json!(found), json!(expected), "{ingest}");
}

#[tokio::test]
async fn a_movie_of_the_largest_size_in_the_schema_is_stored_and_found() {
    let service = Service::start().await;
    // Larger than an index entry of Postgres can be (2,704 bytes), and hard to compress.
    let mut random = fastrand::Rng::with_seed(7);
    let mut word = |length: usize| -> String {
        (0..length).map(|_| char::from_u32(random.u32(0x4e00..0x9fff)).unwrap()).collect()
    };
    let big = json!({
        "title": word(1000), "year": 1999, "cast": [word(1000)], "genres": [word(1000), word(256)],
        "href": word(2048), "extract": word(20_000),
    });
    let ingest = service.ingest("k", big.to_string()).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    let encode = |text: &Value| -> String {
        let text: String = text.as_str().unwrap().chars().take(256).collect();
        text.bytes().map(|byte| format!("%{byte:02X}")).collect()
    };
    for query in [
        format!("title={}", encode(&big["title"])),
        format!("genre={}", encode(&big["genres"][1])),
        "sort=title".to_owned(),
        "sort=-title".to_owned(),
    ] {
        let movies = service.movies_without_ids(&query).await;
        assert!(movies == [big.clone()], "{}", &query[..20.min(query.len())]);
    }
}
