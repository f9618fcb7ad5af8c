//! `POST /uploads`: presigned requests, and what the bucket refuses.

use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Region};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Method, StatusCode, Url};
use rest_api::{
    accounts::Role,
    objects::{ObjectStore, Upload},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    BUCKET, Response, Service,
    movies::MOVIE,
    notification,
    tokens::{bound_token, token},
};

fn checksum(body: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(body))
}

/// Returns what a client says about a file.
fn wanted(key: &str, body: &str) -> Value {
    json!({
        "key": key,
        "size": body.len(),
        "content_type": "application/json",
        "checksum_sha256": checksum(body),
    })
}

async fn service() -> Service {
    Service::builder().config(|config| config.buckets = vec![BUCKET.to_owned()]).start().await
}

async fn ask(service: &Service, token: &str, wanted: &Value) -> Response {
    let request = service.request(Method::POST, "/uploads").bearer_auth(token);
    let request = request.header("content-type", "application/json");
    service.send(request.body(wanted.to_string())).await
}

/// Returns a signed request for a file.
async fn signed(service: &Service, key: &str, body: &str) -> Value {
    let response = ask(service, &token(&[Role::Producer]), &wanted(key, body)).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    response.json()
}

/// Sends a signed request with this body.
async fn put(service: &Service, signed: &Value, body: &str) -> Response {
    let mut request = reqwest::Client::new().request(
        signed["method"].as_str().unwrap().parse().unwrap(),
        signed["url"].as_str().unwrap(),
    );
    for (name, value) in signed["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    service.send(request.body(body.to_owned())).await
}

#[tokio::test]
async fn a_file_is_uploaded_and_ingested() {
    let service = service().await;
    for key in ["incoming/1950s.json", "a b+c/é映&%2F?#;=.json"] {
        let before = chrono::Utc::now();
        let signed = signed(&service, key, MOVIE).await;
        assert_eq!((&signed["method"], &signed["key"]), (&json!("PUT"), &json!(key)));
        let headers = json!({
            "content-type": "application/json", "x-amz-checksum-sha256": checksum(MOVIE),
        });
        assert_eq!(signed["headers"], headers, "{signed}");
        let expires: chrono::DateTime<chrono::Utc> =
            signed["expires_at"].as_str().unwrap().parse().unwrap();
        let lifetime = expires - before;
        assert!((300..310).contains(&lifetime.num_seconds()), "{lifetime}");
        let url: Url = signed["url"].as_str().unwrap().parse().unwrap();
        assert!(url.query_pairs().any(|pair| pair == ("X-Amz-Expires".into(), "300".into())));

        let response = put(&service, &signed, MOVIE).await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        let ingest = service.notify(&notification::bare(key)).await;
        assert_eq!(ingest["state"], "succeeded", "{ingest}");
        let stored = service.s3.head_object().bucket(BUCKET).key(key).send().await.unwrap();
        assert_eq!(stored.content_type.as_deref(), Some("application/json"));
    }
}

#[tokio::test]
async fn the_bucket_refuses_another_file_with_the_same_request() {
    let service = service().await;
    let good = signed(&service, "a.json", MOVIE).await;
    let same_size = MOVIE.replace(|c: char| c.is_ascii_lowercase(), "x");
    assert_eq!(same_size.len(), MOVIE.len());
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed["headers"][name] = value;
        changed
    };
    let without = |name: &str| {
        let mut changed = good.clone();
        changed["headers"].as_object_mut().unwrap().remove(name);
        changed
    };
    let mut hidden = with("x-amz-meta-movies-mode", "snapshot".into());
    let url = good["url"].as_str().unwrap();
    hidden["url"] = url.replace("X-Amz-SignedHeaders", "X%2DAmz-SignedHeaders").into();
    assert_ne!(hidden["url"], good["url"]);
    let with_url = |from: &str, to: &str| {
        let mut changed = good.clone();
        let url = good["url"].as_str().unwrap();
        assert!(url.contains(from), "{url}");
        changed["url"] = url.replace(from, to).into();
        changed
    };
    let with_method = |method: &str| {
        let mut changed = good.clone();
        changed["method"] = method.into();
        changed
    };
    let other_checksum = Value::from(checksum(&same_size));
    for (what, request, body) in [
        ("another key", with_url("/a.json?", "/b.json?"), MOVIE),
        ("another bucket", with_url("/movies/", "/other/"), MOVIE),
        ("a longer life", with_url("X-Amz-Expires=300", "X-Amz-Expires=3000"), MOVIE),
        ("a longer file", good.clone(), &format!("{MOVIE} ")),
        ("a shorter file", good.clone(), &MOVIE[1..]),
        ("another content", good.clone(), &same_size),
        ("another checksum", with("x-amz-checksum-sha256", other_checksum), &same_size),
        ("no checksum", without("x-amz-checksum-sha256"), &same_size),
        ("another type", with("content-type", "text/html".into()), MOVIE),
        ("no type", without("content-type"), MOVIE),
        ("metadata", with("x-amz-meta-movies-mode", "snapshot".into()), MOVIE),
        ("metadata that a name in other letters hides", hidden, MOVIE),
        ("reading", with_method("GET"), MOVIE),
        ("deleting", with_method("DELETE"), MOVIE),
    ] {
        let response = put(&service, &request, body).await;
        let status = response.status;
        assert!(status.is_client_error(), "{what}: {status}: {}", response.text);
    }
    // A body whose length nobody tells before.
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(MOVIE.to_owned())]);
    let chunked = reqwest::Client::new().put(good["url"].as_str().unwrap());
    let chunked = chunked
        .header("content-type", "application/json")
        .header("x-amz-checksum-sha256", checksum(MOVIE))
        .body(reqwest::Body::wrap_stream(chunks));
    let response = service.send(chunked).await;
    assert!(response.status.is_client_error(), "{}: {}", response.status, response.text);
    let listed = service.s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.key_count, Some(0), "{listed:?}");
    assert_eq!(put(&service, &good, MOVIE).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_bucket_refuses_a_request_that_has_expired() {
    let service = service().await;
    let objects = ObjectStore::new(service.s3.clone());
    let sum = checksum(MOVIE);
    let upload = Upload {
        bucket: BUCKET,
        key: "a.json",
        size: MOVIE.len().try_into().unwrap(),
        content_type: "application/json",
        checksum_sha256: &sum,
    };
    let signed = objects.presign_put(&upload, Duration::from_secs(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let headers: serde_json::Map<String, Value> =
        signed.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
    let signed = json!({ "url": signed.url, "method": signed.method, "headers": headers });
    let response = put(&service, &signed, MOVIE).await;
    assert_eq!(response.status, StatusCode::FORBIDDEN, "{}", response.text);
    assert!(response.text.contains("expired"), "{}", response.text);
}

#[tokio::test]
async fn a_file_that_is_not_right_is_refused_by_its_field() {
    let service = service().await;
    let token = token(&[Role::Producer]);
    let long = "k".repeat(1025);
    let max = "é".repeat(512);
    for key in [max.as_str(), "a//b", "/a", "a../b", "a/b..json"] {
        let response = ask(&service, &token, &wanted(key, MOVIE)).await;
        assert_eq!(response.status, StatusCode::CREATED, "{key}: {}", response.text);
    }
    let keys = [
        "",
        &long,
        "a\nb",
        "a\u{0}",
        "a\u{85}b",
        "_SUCCESS",
        "a/.hidden",
        "a/",
        "x_$folder$",
        "../a",
        "a/./b",
        "a/..",
    ];
    for key in keys {
        refused(&service, &token, "key", key.into()).await;
    }
    for size in [json!(0), json!((5_u64 << 30) + 1)] {
        refused(&service, &token, "size", size).await;
    }
    for content_type in ["", "json", "a/b/c", "a b/c", "é/x", "text/html\r\nx-a: b", &long] {
        refused(&service, &token, "content_type", content_type.into()).await;
    }
    let sum = checksum(MOVIE);
    for sum in ["", "n4bQ", &sum[..43], &format!("{sum}="), &hex(MOVIE)] {
        refused(&service, &token, "checksum_sha256", sum.into()).await;
    }
    // What no JSON of the right form says.
    for (name, value) in [("size", json!(-1)), ("size", json!("1")), ("extra", json!(1))] {
        let mut wanted = wanted("a.json", MOVIE);
        wanted[name] = value;
        let response = ask(&service, &token, &wanted).await;
        assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", response.text);
    }
}

fn hex(body: &str) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks for a file with this value of one field, and checks that the answer names the field.
async fn refused(service: &Service, token: &str, field: &str, value: Value) {
    let mut wanted = wanted("a.json", MOVIE);
    wanted[field] = value.clone();
    let response = ask(service, token, &wanted).await;
    assert_eq!(response.status, StatusCode::UNPROCESSABLE_ENTITY, "{field} {value}");
    let problem = response.json();
    assert_eq!(problem["violation_count"], 1, "{problem}");
    assert_eq!(problem["violations"][0]["pointer"], format!("/{field}"), "{problem}");
}

#[tokio::test]
async fn a_key_must_be_below_the_prefixes_of_the_account_and_of_the_service() {
    let service = Service::builder()
        .config(|config| {
            config.buckets = vec![BUCKET.to_owned(), "other".to_owned()];
            config.upload_prefix = "in/".to_owned();
        })
        .start()
        .await;
    let bound = bound_token(&[Role::Producer], &["in/studio/", "elsewhere/"]);
    let status = async |token: &str, key: &str| ask(&service, token, &wanted(key, MOVIE)).await;
    let own = status(&bound, "in/studio/a.json").await;
    assert_eq!(own.status, StatusCode::CREATED, "{}", own.text);
    assert!(own.json()["url"].as_str().unwrap().contains("/movies/in/studio/a.json?"));
    let other = status(&bound, "in/other/a.json").await;
    assert_eq!(other.status, StatusCode::FORBIDDEN, "{}", other.text);
    assert!(other.json()["detail"].as_str().unwrap().starts_with("key: "), "{}", other.text);
    let outside = status(&bound, "elsewhere/a.json").await;
    assert_eq!(outside.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", outside.text);
    let violation = &outside.json()["violations"][0];
    assert_eq!(violation["pointer"], "/key");
    assert_eq!(violation["expected"], "a key that begins with in/", "{violation}");
    let producer = token(&[Role::Producer]);
    assert_eq!(status(&producer, "in/a.json").await.status, StatusCode::CREATED);
    assert_eq!(status(&producer, "a.json").await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn the_page_may_connect_to_the_origin_of_the_bucket() {
    let service = service().await;
    let policy = service.get("/").await.header("content-security-policy").to_owned();
    let expected = format!("connect-src 'self' http://{}", service.s3_address);
    assert!(policy.ends_with(&expected), "{policy}");
    let signed = signed(&service, "a.json", MOVIE).await;
    let url: Url = signed["url"].as_str().unwrap().parse().unwrap();
    assert!(policy.ends_with(&url.origin().ascii_serialization()), "{url} {policy}");

    let without_bucket = Service::start().await;
    let policy = without_bucket.get("/").await.header("content-security-policy").to_owned();
    assert!(policy.ends_with("connect-src 'self'"), "{policy}");

    // It needs no credentials.
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"));
    let objects = ObjectStore::new(aws_sdk_s3::Client::from_conf(config.build()));
    for (bucket, origin) in [
        ("movies-r-us", "https://movies-r-us.s3.eu-west-1.amazonaws.com"),
        ("movies.example.com", "https://s3.eu-west-1.amazonaws.com"),
    ] {
        assert_eq!(objects.upload_origin(bucket).await.as_deref(), Some(origin));
    }
}

#[tokio::test]
async fn nothing_is_signed_without_a_bucket_or_credentials() {
    let producer = token(&[Role::Producer]);
    let service = Service::start().await;
    let response = ask(&service, &producer, &wanted("a.json", MOVIE)).await;
    assert_eq!(response.status, StatusCode::NOT_FOUND, "{}", response.text);
    assert!(response.text.contains("MRU_BUCKETS"), "{}", response.text);

    let without_credentials = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"));
    let service = Service::builder()
        .config(|config| config.buckets = vec![BUCKET.to_owned()])
        .s3_config(|_| without_credentials)
        .start()
        .await;
    let response = ask(&service, &producer, &wanted("a.json", MOVIE)).await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.text);
    assert_eq!(response.header("retry-after"), "5");
}
