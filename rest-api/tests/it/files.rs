//! What becomes of files: of every good form, and of every bad one.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::service::{BUCKET, Service, without_id};

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn movie(title: &str) -> Value {
    json!({ "title": title, "year": 1999, "cast": ["Ann Actor"], "genres": ["Drama"] })
}

/// A good file: its name, its bytes, and how many movies it holds, of "A" and "B".
type Good = (&'static str, Vec<u8>, i64);

pub(crate) fn good_files() -> Vec<Good> {
    let (a, b) = (movie("A"), movie("B"));
    let pretty = serde_json::to_string_pretty(&json!([a, b])).unwrap();
    let lines = format!("{a}\n{b}\n");
    let single = serde_json::to_string_pretty(&a).unwrap();
    let bom = |text: &str| format!("\u{feff}{text}").into_bytes();
    vec![
        ("array", pretty.clone().into(), 2),
        ("lines", lines.clone().into(), 2),
        ("lines-crlf", lines.replace('\n', "\r\n").into(), 2),
        ("lines-no-end", format!("{a}\n\n{b}").into(), 2),
        ("single", single.clone().into(), 1),
        ("empty-array", " [ ] \n".into(), 0),
        ("bom-array", bom(&pretty), 2),
        ("bom-lines", bom(&lines), 2),
        ("array.gz", gzip(pretty.as_bytes()), 2),
        ("lines.gz", gzip(lines.as_bytes()), 2),
        ("single.gz", gzip(single.as_bytes()), 1),
        (
            "two-members.gz",
            [gzip(format!("{a}\n").as_bytes()), gzip(b.to_string().as_bytes())].concat(),
            2,
        ),
    ]
}

#[tokio::test]
async fn every_form_of_a_good_file_is_taken() {
    let service = Service::start().await;
    for (key, body, count) in good_files() {
        let ingest = service.ingest(key, body).await;
        assert_eq!(ingest["state"], "succeeded", "{key}: {ingest}");
        let total: i64 =
            ["inserted", "updated", "unchanged"].map(|n| ingest[n].as_i64().unwrap()).iter().sum();
        assert_eq!(total, count, "{key}: {ingest}");
        assert_eq!(ingest["violations"], json!([]), "{key}");
    }
    let movies: Vec<Value> = service.movies("").await.iter().map(without_id).collect();
    assert_eq!(movies, [movie("A"), movie("B")]);
}

#[tokio::test]
async fn content_encoding_gzip_is_undone() {
    let service = Service::start().await;
    let put = service.s3.put_object().bucket(BUCKET).key("k").content_encoding("gzip");
    put.body(gzip(movie("A").to_string().as_bytes()).into()).send().await.unwrap();
    assert_eq!(
        service.notify(&json!({ "bucket": BUCKET, "key": "k" })).await["state"],
        "succeeded"
    );
    for (encoding, body) in [("gzip", b"[]".to_vec()), ("br", b"[]".to_vec())] {
        let key = format!("not-{encoding}");
        let put = service.s3.put_object().bucket(BUCKET).key(&key).content_encoding(encoding);
        put.body(body.into()).send().await.unwrap();
        let ingest = service.notify(&json!({ "bucket": BUCKET, "key": key })).await;
        assert_eq!(ingest["state"], "rejected", "{encoding}");
    }
}

#[tokio::test]
async fn null_is_as_good_as_absent_and_every_field_comes_back() {
    let service = Service::start().await;
    let full = json!({
        "title": "Full \"quoted\" \\ Ünïcode 映画 🎬", "year": 2001, "cast": ["A\tB", "Ça"],
        "genres": ["Sci-Fi"], "href": "Full_(film)", "extract": "Text.\nMore.", "thumbnail": "https://example.com/t.jpg",
        "thumbnail_width": 220, "thumbnail_height": 0,
    });
    let sparse = json!({ "title": "Sparse", "year": 2002, "href": null, "extract": null, "thumbnail_width": null });
    let ingest = service.ingest("k", json!([full, sparse]).to_string()).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    let movies: Vec<Value> = service.movies("").await.iter().map(without_id).collect();
    assert_eq!(
        movies,
        [full, json!({ "title": "Sparse", "year": 2002, "cast": [], "genres": [] })]
    );
}

#[tokio::test]
async fn within_one_file_the_later_record_wins() {
    let service = Service::start().await;
    let mut later = movie("A");
    later["cast"] = json!(["Someone Else"]);
    let mut other = movie("A");
    other["href"] = json!("A_(other)");
    let ingest = service.ingest("k", json!([movie("A"), other, later]).to_string()).await;
    assert_eq!(ingest["inserted"], 2, "a href makes it another movie");
    let movies: Vec<Value> = service.movies("").await.iter().map(without_id).collect();
    assert_eq!(movies, [other, later]);
}

#[tokio::test]
async fn one_movie_many_times_over_is_merged_in_linear_time() {
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

/// A bad file: its name, its bytes, and for each violation that is expected, where it is.
pub(crate) type Bad = (&'static str, Vec<u8>, Vec<Value>);

fn at(record: u64, pointer: &str) -> Value {
    json!([record, pointer])
}

fn whole_file() -> Vec<Value> {
    vec![json!([null, ""])]
}

pub(crate) fn bad_files() -> Vec<Bad> {
    let good = movie("Good").to_string();
    let array = |bad: &str| format!("[{good},{bad},{good}]").into_bytes();
    let utf_16: Vec<u8> = "[{}]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let half = gzip(good.repeat(500).as_bytes());
    let mut damaged = half.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    vec![
        ("empty file", vec![], whole_file()),
        ("white space", b" \n\t ".to_vec(), whole_file()),
        ("only a byte order mark", b"\xef\xbb\xbf".to_vec(), whole_file()),
        ("truncated array", format!("[{good},").into(), whole_file()),
        ("truncated record", format!("[{good},{{\"title\":\"x").into(), vec![at(1, "")]),
        ("truncated line", format!("{good}\n{{\"title\":\"x").into(), vec![at(1, "")]),
        ("trailing text", format!("[{good}] and more").into(), whole_file()),
        ("trailing text behind one movie", format!("{good} more").into(), vec![at(1, "")]),
        ("a comma too many", format!("[{good},]").into(), vec![at(1, "")]),
        ("a comma too few", format!("[{good} {good}]").into(), vec![at(1, "")]),
        ("nesting bomb", "[".repeat(500 << 10).into(), vec![at(0, "")]),
        ("nesting bomb of megabytes", "[".repeat(3 << 20).into(), vec![at(0, ""), at(0, "")]),
        (
            "nesting bomb in a field",
            array(&format!(
                r#"{{"title":"x","year":1999,"cast":{}{}}}"#,
                "[".repeat(9000),
                "]".repeat(9000)
            )),
            vec![at(1, "")],
        ),
        (
            "one giant record",
            array(&format!(r#"{{"title":"x","year":1999,"extract":"{}"}}"#, "x".repeat(9 << 20))),
            vec![at(1, "")],
        ),
        (
            "white space bomb",
            format!("[{good},{}{good}]", " ".repeat(2 << 20)).into(),
            whole_file(),
        ),
        ("UTF-16 with mark", [b"\xff\xfe".to_vec(), utf_16.clone()].concat(), whole_file()),
        ("UTF-16 without", utf_16, whole_file()),
        (
            "bad UTF-8",
            [b"[{\"title\":\"".to_vec(), vec![0xc3, 0x28], b"\",\"year\":1999}]".to_vec()].concat(),
            vec![at(0, "")],
        ),
        ("binary", (0..=255).rev().collect(), whole_file()),
        ("a picture", b"\x89PNG\r\n\x1a\n".to_vec(), whole_file()),
        ("cut gzip", half[..half.len() / 2].to_vec(), whole_file()),
        ("damaged gzip", damaged, whole_file()),
        ("gzip of nothing", gzip(b""), whole_file()),
        ("gzip and rubbish", [gzip(good.as_bytes()), b"rubbish".to_vec()].concat(), whole_file()),
        ("gzip bomb of spaces", gzip(&vec![b' '; 64 << 20]), whole_file()),
        (
            "gzip bomb of a record",
            gzip(format!("[{{\"title\":\"{}", "x".repeat(64 << 20)).as_bytes()),
            vec![at(0, ""), at(0, "")],
        ),
        (
            "gzip bomb of records",
            gzip(&format!("{good}\n").repeat(1 << 20).into_bytes()),
            whole_file(),
        ),
        (
            "wrong types",
            array(r#"{"title":1,"year":"1999","cast":"x","genres":[1]}"#),
            vec![at(1, "/cast"), at(1, "/genres/0"), at(1, "/title"), at(1, "/year")],
        ),
        ("missing properties", array("{}"), vec![at(1, "/title"), at(1, "/year")]),
        (
            "an unknown property",
            array(r#"{"title":"x","year":1999,"genre":["Drama"]}"#),
            vec![at(1, "/genre")],
        ),
        ("year too early", array(r#"{"title":"x","year":1869}"#), vec![at(1, "/year")]),
        ("year too late", array(r#"{"title":"x","year":2201}"#), vec![at(1, "/year")]),
        ("a zero character", array(r#"{"title":"x\u0000","year":1999}"#), vec![at(1, "/title")]),
        ("a lone surrogate", array(r#"{"title":"x\ud83d","year":1999}"#), vec![at(1, "")]),
        (
            "a duplicate key",
            array(r#"{"title":"x","title":"y","year":1999}"#),
            vec![at(1, "/title")],
        ),
        ("no object", array("12"), vec![at(1, "")]),
        ("null", b"null".to_vec(), whole_file()),
        ("text", b"title,year\nHeat,1995\n".to_vec(), whole_file()),
        ("an array in an array", format!("[[{good}]]").into(), vec![at(0, "")]),
        ("two arrays", format!("[{good}]\n[{good}]").into(), whole_file()),
    ]
}

#[tokio::test]
async fn every_bad_file_is_rejected_and_says_where() {
    let service = Service::start().await;
    for (name, body, expected) in bad_files() {
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
    assert_eq!(service.movies("").await, Vec::<Value>::new(), "nothing of a bad file is stored");
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
async fn of_many_violations_the_first_thousand_are_listed_and_all_are_counted() {
    let service = Service::start().await;
    let bad: Vec<Value> =
        (0..2000).map(|n| json!({ "title": format!("{n}"), "year": 1 })).collect();
    let ingest = service.ingest("k", json!(bad).to_string()).await;
    assert_eq!(ingest["violation_count"], 2000);
    let violations = ingest["violations"].as_array().unwrap();
    assert_eq!(violations.len(), 1000);
    assert!(violations.iter().enumerate().all(|(n, violation)| violation["record"] == n));
    let listed = service.get("/ingests").await.json();
    assert_eq!(listed[0].get("violations"), None, "the list leaves them out");
}

#[tokio::test]
async fn after_a_broken_record_the_next_one_is_found() {
    let service = Service::start().await;
    // Lines with a lost quote, a lost brace and a lost value: three bad records, two of them good
    // JSON once more behind each.
    let lines = "{\"title\":\"a,\"year\":1999}\n{\"title\":\"b\",\"year\":1}\n{\"title\":\"c\",\"year\":1999\n\
                 {\"title\":\"d\",\"year\":2}\n{\"title\":,\"year\":1999}\n{\"title\":\"e\",\"year\":3}\n";
    let ingest = service.ingest("k", lines).await;
    let violations = ingest["violations"].as_array().unwrap();
    let found: Vec<Value> = violations.iter().map(|v| json!([v["record"], v["pointer"]])).collect();
    let expected = [(0, ""), (1, "/year"), (2, ""), (3, "/year"), (4, ""), (5, "/year")];
    assert_eq!(json!(found), json!(expected), "{ingest}");
}

#[tokio::test]
async fn a_movie_may_be_as_large_as_the_schema_lets_it_be() {
    let service = Service::start().await;
    // Beyond what index entries of the database hold (2,704 bytes), and hard to compress.
    let mut random = fastrand::Rng::with_seed(7);
    let mut word = |length: usize| -> String {
        (0..length).map(|_| char::from_u32(random.u32(0x4e00..0x9fff)).unwrap()).collect()
    };
    let big = json!({
        "title": word(1000), "year": 1999, "cast": [word(5000)], "genres": [word(5000)],
        "href": word(5000), "extract": word(50_000),
    });
    let ingest = service.ingest("k", big.to_string()).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    let encode = |text: &Value| -> String {
        text.as_str().unwrap().bytes().map(|byte| format!("%{byte:02X}")).collect()
    };
    for query in [
        format!("title={}", encode(&big["title"])),
        format!("genre={}", encode(&big["genres"][0])),
        "sort=title".to_owned(),
        "sort=-title".to_owned(),
    ] {
        let movies: Vec<Value> = service.movies(&query).await.iter().map(without_id).collect();
        assert!(movies == [big.clone()], "{}", &query[..20.min(query.len())]);
    }
}
