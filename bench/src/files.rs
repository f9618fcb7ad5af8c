//! Small files: their movies, putting them, and what the catalogue has of them.

use std::collections::HashMap;

use anyhow::Result;
use aws_sdk_s3::{Client, primitives::ByteStream};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio_postgres::Client as Sql;

/// How many objects are put or fetched at once.
pub(crate) const CONCURRENCY: usize = 8;

/// The genre of each title.
pub(crate) type Genres = HashMap<String, String>;

/// Returns a movie as JSON.
pub(crate) fn movie(title: &str, genre: &str) -> Value {
    json!({ "title": title, "year": 2000, "cast": ["Ann Actor"], "genres": [genre] })
}

/// Puts an object.
pub(crate) async fn put(s3: &Client, bucket: &str, key: &str, body: Vec<u8>) -> Result<()> {
    let body = ByteStream::from(body);
    s3.put_object().bucket(bucket).key(key).body(body).send().await?;
    Ok(())
}

/// Puts many objects, several at once.
pub(crate) async fn put_all(
    s3: &Client,
    bucket: &str,
    objects: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<()> {
    let puts = objects.into_iter().map(Ok::<_, anyhow::Error>);
    let put = async |(key, body): (String, Vec<u8>)| put(s3, bucket, &key, body).await;
    stream::iter(puts).try_for_each_concurrent(CONCURRENCY, put).await
}

/// Fetches objects, `concurrency` at once. Returns their bodies.
pub(crate) async fn fetch_all(
    s3: &Client,
    bucket: &str,
    keys: &[String],
    concurrency: usize,
) -> Result<Vec<Vec<u8>>> {
    let fetches = keys.iter().map(async |key| {
        let object = s3.get_object().bucket(bucket).key(key).send().await?;
        anyhow::Ok(object.body.collect().await?.to_vec())
    });
    stream::iter(fetches).buffer_unordered(concurrency).try_collect().await
}

/// Reads the genre of each title in the catalogue.
pub(crate) async fn read_catalogue(sql: &Sql) -> Result<Genres> {
    let mut genres = Genres::new();
    for row in sql.query("select doc from movies", &[]).await? {
        let movie: Value = serde_json::from_str(row.get(0))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        genres.insert(text(&movie["title"]), text(&movie["genres"][0]));
    }
    Ok(genres)
}
