//! A bucket that keeps versions.

use aws_sdk_s3::primitives::ByteStream;
use serde_json::{Value, json};

use crate::support::{BUCKET, Service, movies::movie};

#[tokio::test]
async fn each_notified_version_is_read_and_the_newest_wins() {
    let service = Service::start().await;
    service.enable_versioning().await;
    let s3 = &service.s3;
    let put = async |second: u32, movies: Value| {
        let body = ByteStream::from(movies.to_string().into_bytes());
        let put = s3.put_object().bucket(BUCKET).key("k").body(body).send().await.unwrap();
        json!({
            "bucket": BUCKET, "key": "k", "version_id": put.version_id.unwrap(),
            "etag": put.e_tag.unwrap().trim_matches('"'), "sequencer": format!("{second:04X}"),
            "event_time": format!("2026-01-01T00:00:{second:02}Z"),
        })
    };
    let first = put(1, json!([movie("A", "x"), movie("B", "x")])).await;
    let second = put(2, json!([movie("A", "y"), movie("C", "y")])).await;
    let third = put(3, json!({ "title": "A", "yaer": 2000 })).await;
    assert_ne!(first["version_id"], second["version_id"]);

    // The last version first. It is rejected, which does not affect the versions before it.
    let third = service.notify(&third).await;
    assert_eq!(third["state"], "rejected", "{third}");
    let newer = service.notify(&second).await;
    assert_eq!(json!([newer["state"], newer["inserted"]]), json!(["succeeded", 2]));
    assert_eq!(newer["version_id"], second["version_id"]);
    let older = service.notify(&first).await;
    assert_eq!(older["state"], "superseded", "{older}");
    assert_eq!(json!([older["inserted"], older["updated"]]), json!([1, 0]));
    let found = service.movies_without_ids("sort=title").await;
    assert_eq!(found, [movie("A", "y"), movie("B", "x"), movie("C", "y")]);

    // A version behind a delete marker can be read. A deleted version cannot.
    s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    let fourth = put(4, json!([movie("D", "z")])).await;
    s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(service.notify(&fourth).await["state"], "succeeded");
    let fifth = put(5, json!([movie("E", "z")])).await;
    let delete = s3.delete_object().bucket(BUCKET).key("k");
    delete.version_id(fifth["version_id"].as_str().unwrap()).send().await.unwrap();
    let gone = service.notify(&fifth).await;
    assert_eq!(json!([gone["state"], gone["error"]["code"]]), json!(["gone", "object_gone"]));
}
