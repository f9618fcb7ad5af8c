//! The S3 endpoint: what clients of S3 expect, over HTTP.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{
        BucketCannedAcl, BucketVersioningStatus, ChecksumAlgorithm, ChecksumMode, ChecksumType,
        CompletedMultipartUpload, CompletedPart, Delete, EncodingType, MetadataDirective,
        ObjectAttributes, ObjectIdentifier, StorageClass, VersioningConfiguration,
    },
};
use local_stack::{
    client,
    s3::{Endpoint, Events},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const BUCKET: &str = "bucket";

/// The least bytes of a part that is not the last.
const PART: usize = 5 << 20;

/// A running endpoint. Its directory is removed with it.
struct Running {
    directory: PathBuf,
    address: SocketAddr,
    s3: Client,
    events: Events,
    serving: JoinHandle<()>,
}

impl Running {
    /// Starts an endpoint with an empty bucket.
    async fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("mru-s3-{}-{name}", std::process::id()));
        let running = Self::at(directory).await;
        running.s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        running
    }

    async fn at(directory: PathBuf) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The store of a predecessor is closed when its last connection has ended.
        let mut opened = Endpoint::new(&directory);
        for _ in 0..100 {
            if opened.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            opened = Endpoint::new(&directory);
        }
        let endpoint = opened.unwrap();
        endpoint.take_over(&directory).await.unwrap();
        let events = endpoint.events();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async {
            endpoint.serve(listener, std::future::pending()).await.unwrap();
        });
        Self { directory, address, s3: client(address), events, serving }
    }

    /// Stops the endpoint, and starts another on the same directory.
    async fn restart(mut self) -> Self {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        let directory = std::mem::take(&mut self.directory);
        drop(self);
        Self::at(directory).await
    }

    async fn version(&self, status: BucketVersioningStatus) {
        let versioning = VersioningConfiguration::builder().status(status).build();
        let put = self.s3.put_bucket_versioning().bucket(BUCKET);
        put.versioning_configuration(versioning).send().await.unwrap();
    }

    /// Puts an object. Returns its version id.
    async fn put(&self, key: &str, body: &str) -> Option<String> {
        let body = ByteStream::from(body.as_bytes().to_vec());
        let put = self.s3.put_object().bucket(BUCKET).key(key).body(body);
        put.send().await.unwrap().version_id
    }

    async fn get(&self, key: &str) -> String {
        let object = self.s3.get_object().bucket(BUCKET).key(key).send().await.unwrap();
        String::from_utf8(object.body.collect().await.unwrap().to_vec()).unwrap()
    }

    /// Returns the keys and the common prefixes of a listing.
    async fn list(&self, prefix: &str, delimiter: &str) -> (Vec<String>, Vec<String>) {
        let list = self.s3.list_objects_v2().bucket(BUCKET).prefix(prefix).delimiter(delimiter);
        let page = list.send().await.unwrap();
        let keys = page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect();
        let prefixes = page.common_prefixes().iter();
        (keys, prefixes.map(|prefix| prefix.prefix().unwrap().to_owned()).collect())
    }

    /// Begins an upload, and uploads parts with these numbers.
    async fn upload(&self, key: &str, parts: &[(i32, Vec<u8>)]) -> (String, Vec<CompletedPart>) {
        let upload = self.s3.create_multipart_upload().bucket(BUCKET).key(key).send().await;
        let id = upload.unwrap().upload_id.unwrap();
        let mut completed = Vec::new();
        for (number, body) in parts {
            let part = self.s3.upload_part().bucket(BUCKET).key(key).upload_id(&id);
            let part = part.part_number(*number).body(ByteStream::from(body.clone()));
            let etag = part.send().await.unwrap().e_tag;
            completed.push(CompletedPart::builder().part_number(*number).set_e_tag(etag).build());
        }
        (id, completed)
    }

    /// Ends an upload. Returns the error code, if it fails.
    async fn complete(&self, key: &str, id: &str, parts: &[CompletedPart]) -> Option<String> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        let complete = self.s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
        code(complete.multipart_upload(parts).send().await)
    }

    /// Returns the next event: its name and its object.
    async fn event(&mut self) -> (String, Value) {
        let event = self.events.next().await.unwrap();
        let record = &event.body["Records"][0];
        (record["eventName"].as_str().unwrap().to_owned(), record["s3"]["object"].clone())
    }

    /// Sends a request as it is, and returns the answer.
    async fn raw(&self, request: &str) -> String {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let request = request.replace("{host}", &self.address.to_string());
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Posts a form as a browser does. Returns the status and the header `Location`.
    async fn post(&self, fields: &[(&str, &str)], file_name: &str) -> (u16, String) {
        let mut form = String::new();
        for (name, value) in fields {
            form += &format!(
                "--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
        form += &format!(
            "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file_name}\"\r\n\
             Content-Type: text/plain\r\n\r\nposted\r\n--x--\r\n"
        );
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let post = http.post(format!("http://{}/{BUCKET}", self.address));
        let post = post.header("content-type", "multipart/form-data; boundary=x").body(form);
        let answer = post.send().await.unwrap();
        let location = answer.headers().get("location");
        let location = location.map(|location| location.to_str().unwrap().to_owned());
        (answer.status().as_u16(), location.unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.directory.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// Returns the error code, or the status if the answer has none. `None` if the request succeeded.
fn code<T, E: ProvideErrorMetadata>(
    result: Result<T, SdkError<E, aws_sdk_s3::config::http::HttpResponse>>,
) -> Option<String> {
    let error = result.err()?;
    let status = error.raw_response().map(|response| response.status().as_u16().to_string());
    error.code().map(str::to_owned).or(status).or_else(|| Some("no answer".to_owned()))
}

#[tokio::test]
async fn a_put_with_a_wrong_digest_leaves_the_object_as_it_was() {
    let running = Running::start("digest").await;
    running.put("k", "good").await;
    let put = || {
        let put = running.s3.put_object().bucket(BUCKET).key("k");
        put.body(ByteStream::from(vec![b'x'; 100_000]))
    };
    let wrong = "AAAAAAAAAAAAAAAAAAAAAA==";
    assert_eq!(code(put().content_md5(wrong).send().await).as_deref(), Some("BadDigest"));
    let short = code(put().content_md5("AAAA").send().await);
    assert_eq!(short.as_deref(), Some("InvalidDigest"));
    for (algorithm, wrong) in [
        (ChecksumAlgorithm::Crc32, "AAAAAA=="),
        (ChecksumAlgorithm::Crc32C, "AAAAAA=="),
        (ChecksumAlgorithm::Crc64Nvme, "AAAAAAAAAAA="),
        (ChecksumAlgorithm::Sha1, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        (ChecksumAlgorithm::Sha256, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let put = put().checksum_algorithm(algorithm.clone());
        let put = match algorithm {
            ChecksumAlgorithm::Crc32 => put.checksum_crc32(wrong),
            ChecksumAlgorithm::Crc32C => put.checksum_crc32_c(wrong),
            ChecksumAlgorithm::Crc64Nvme => put.checksum_crc64_nvme(wrong),
            ChecksumAlgorithm::Sha1 => put.checksum_sha1(wrong),
            _ => put.checksum_sha256(wrong),
        };
        assert_eq!(code(put.send().await).as_deref(), Some("BadDigest"), "{algorithm}");
    }
    assert_eq!(running.get("k").await, "good");
    // Before a restart, which would remove them.
    let contents = std::fs::read_dir(running.directory.join("_contents")).unwrap();
    assert_eq!(contents.count(), 0, "refused bodies leave nothing");
    let running = running.restart().await;
    assert_eq!(running.get("k").await, "good");
}

#[tokio::test]
async fn a_checksum_that_follows_the_body_is_computed_and_must_arrive() {
    let running = Running::start("trailers").await;
    let put = || running.s3.put_object().bucket(BUCKET).key("k");
    // The body is complete, but nothing follows it.
    let missing = put().body(ByteStream::from_static(b"x")).customize();
    let missing = missing.mutate_request(|request| {
        request.headers_mut().insert("x-amz-trailer", "x-amz-checksum-crc32");
    });
    assert_eq!(code(missing.send().await).as_deref(), Some("InvalidRequest"));
    let head = || running.s3.head_object().bucket(BUCKET).key("k").send();
    assert_eq!(code(head().await).as_deref(), Some("NotFound"));

    // The header of the trailer alone tells the algorithm.
    let file = running.directory.join("body");
    std::fs::write(&file, "x").unwrap();
    let body = ByteStream::from_path(&file).await.unwrap();
    let named = put().checksum_algorithm(ChecksumAlgorithm::Sha256).body(body).customize();
    let named = named.mutate_request(|request| {
        request.headers_mut().remove("x-amz-sdk-checksum-algorithm");
    });
    let sum = named.send().await.unwrap().checksum_sha256;
    assert_eq!(sum.as_deref(), Some("LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE="));
}

#[tokio::test]
async fn a_key_may_be_the_prefix_of_others() {
    let running = Running::start("prefix").await;
    let keys =
        ["a", "a/", "a/b", "a/b/c", "a//b", "../a", ".", "/", "a\\b", "ü/\u{1F600}", "a b+c%20"];
    for key in keys {
        running.put(key, key).await;
    }
    for key in keys {
        assert_eq!(running.get(key).await, key);
        running.s3.head_object().bucket(BUCKET).key(key).send().await.unwrap();
    }
    let copy = running.s3.copy_object().bucket(BUCKET).key("a/b/c/d").copy_source("bucket/a");
    copy.send().await.unwrap();
    let mut sorted: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    sorted.push("a/b/c/d".to_owned());
    sorted.sort();
    assert_eq!(running.list("", "").await.0, sorted);
    running.s3.delete_object().bucket(BUCKET).key("a").send().await.unwrap();
    assert_eq!(running.get("a/b").await, "a/b");
    let long = "x".repeat(1025);
    let put = running.s3.put_object().bucket(BUCKET).key(&long).send().await;
    assert_eq!(code(put).as_deref(), Some("KeyTooLongError"));
    running.put(&long[..1024], "x").await;
}

#[tokio::test]
async fn listings_group_page_and_encode() {
    let running = Running::start("listing").await;
    for key in ["a/1", "a/2", "b", "c/1", "c/d/1", "d\ne", "z z"] {
        running.put(key, "x").await;
    }
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    // An empty delimiter is none.
    assert_eq!(running.list("", "").await.0.len(), 7);
    let (keys, prefixes) = running.list("", "/").await;
    assert_eq!((keys, prefixes), (strings(&["b", "d\ne", "z z"]), strings(&["a/", "c/"])));
    let (keys, prefixes) = running.list("c/", "/").await;
    assert_eq!((keys, prefixes), (strings(&["c/1"]), strings(&["c/d/"])));

    // Page by page, with either version of the operation.
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let list = running.s3.list_objects_v2().bucket(BUCKET).delimiter("/").max_keys(1);
        let page = list.set_continuation_token(token).send().await.unwrap();
        assert_eq!(page.key_count(), Some(1));
        found.extend(
            page.common_prefixes().iter().map(|prefix| prefix.prefix().unwrap().to_owned()),
        );
        found.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        token = page.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, ["a/", "b", "c/", "d\ne", "z z"]);
    let list = running.s3.list_objects().bucket(BUCKET).marker("a/1").max_keys(2);
    let page = list.delimiter("/").send().await.unwrap();
    assert_eq!((page.is_truncated(), page.next_marker()), (Some(true), Some("b")));

    let list = running.s3.list_objects_v2().bucket(BUCKET).encoding_type(EncodingType::Url);
    let page = list.start_after("c/d/1").fetch_owner(true).send().await.unwrap();
    let keys: Vec<_> = page.contents().iter().map(|object| object.key().unwrap()).collect();
    assert_eq!(keys, ["d%0Ae", "z%20z"]);
    assert!(page.contents()[0].owner().unwrap().id().is_some());
    assert_eq!(page.contents()[0].e_tag(), Some("\"9dd4e461268c8034f5c8564e155c67a6\""));
    let empty = running.s3.list_objects_v2().bucket(BUCKET).max_keys(0).send().await.unwrap();
    assert_eq!((empty.key_count(), empty.is_truncated()), (Some(0), Some(false)));
}

#[tokio::test]
async fn versions_are_kept_listed_and_deleted() {
    let running = Running::start("versions").await;
    running.put("k", "null").await;
    running.version(BucketVersioningStatus::Enabled).await;
    let first = running.put("k", "first").await.unwrap();
    let second = running.put("k", "second").await.unwrap();
    let deleted = running.s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    let marker = deleted.version_id.unwrap();
    let get =
        |version: &str| running.s3.get_object().bucket(BUCKET).key("k").version_id(version).send();
    let newest = running.s3.get_object().bucket(BUCKET).key("k").send().await;
    let headers = newest.as_ref().unwrap_err().raw_response().unwrap().headers();
    assert_eq!(headers.get("x-amz-delete-marker"), Some("true"));
    assert_eq!(code(newest).as_deref(), Some("NoSuchKey"));
    assert_eq!(code(get(&marker).await).as_deref(), Some("MethodNotAllowed"));
    for (version, body) in [("null", "null"), (&first, "first"), (&second, "second")] {
        let got = get(version).await.unwrap().body.collect().await.unwrap().to_vec();
        assert_eq!(String::from_utf8(got).unwrap(), body);
    }
    assert_eq!(code(get("0000000000000001").await).as_deref(), Some("NoSuchVersion"));
    assert_eq!(running.list("", "").await.0.len(), 0);

    // Page by page, the newest first.
    let (mut found, mut key, mut id) = (Vec::new(), None, None);
    loop {
        let list = running.s3.list_object_versions().bucket(BUCKET).max_keys(1);
        let list = list.set_key_marker(key).set_version_id_marker(id);
        let page = list.send().await.unwrap();
        let versions = page.versions().iter();
        found.extend(versions.map(|version| (version.version_id.clone(), version.is_latest)));
        let markers = page.delete_markers().iter();
        found.extend(markers.map(|marker| (marker.version_id.clone(), marker.is_latest)));
        (key, id) = (page.next_key_marker, page.next_version_id_marker);
        if page.is_truncated != Some(true) {
            break;
        }
    }
    let expected =
        [(&marker, true), (&second, false), (&first, false), (&"null".to_owned(), false)];
    assert_eq!(found, expected.map(|(id, latest)| (Some(id.clone()), Some(latest))));

    let delete = |version: &str| {
        running.s3.delete_object().bucket(BUCKET).key("k").version_id(version).send()
    };
    delete(&marker).await.unwrap();
    assert_eq!(running.get("k").await, "second");
    delete(&second).await.unwrap();
    assert_eq!(running.get("k").await, "first");
    // A page continues after a version that was deleted meanwhile.
    let list = running.s3.list_object_versions().bucket(BUCKET);
    let list = list.key_marker("k").version_id_marker(&second).send().await.unwrap();
    let ids: Vec<_> = list.versions().iter().map(|version| version.version_id().unwrap()).collect();
    assert_eq!(ids, [first.as_str(), "null"]);
    let bucket = running.s3.delete_bucket().bucket(BUCKET).send().await;
    assert_eq!(code(bucket).as_deref(), Some("BucketNotEmpty"));

    // Without versioning a put replaces the null version alone.
    running.version(BucketVersioningStatus::Suspended).await;
    running.put("k", "null again").await;
    let list = running.s3.list_object_versions().bucket(BUCKET).send().await.unwrap();
    let ids: Vec<_> = list.versions().iter().map(|version| version.version_id().unwrap()).collect();
    assert_eq!(ids, ["null", &first]);
    delete("null").await.unwrap();
    let list = running.s3.list_object_versions().bucket(BUCKET);
    let list = list.key_marker("k").version_id_marker("null").send().await.unwrap();
    assert_eq!(list.versions()[0].version_id(), Some(first.as_str()), "listed again, not left out");
    delete(&first).await.unwrap();
    running.s3.delete_bucket().bucket(BUCKET).send().await.unwrap();
    let list = running.s3.list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(code(list).as_deref(), Some("NoSuchBucket"));
}

#[tokio::test]
async fn conditions_hold_on_reads_and_writes() {
    let running = Running::start("conditions").await;
    let put =
        || running.s3.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
    assert_eq!(code(put().if_match("\"x\"").send().await).as_deref(), Some("NoSuchKey"));
    let etag = put().if_none_match("*").send().await.unwrap().e_tag.unwrap();
    let failed = Some("PreconditionFailed");
    assert_eq!(code(put().if_none_match("*").send().await).as_deref(), failed);
    assert_eq!(code(put().if_match("\"x\"").send().await).as_deref(), failed);
    put().if_match(&etag).send().await.unwrap();
    let get = || running.s3.get_object().bucket(BUCKET).key("k");
    assert_eq!(code(get().if_none_match(&etag).send().await).as_deref(), Some("304"));
    assert_eq!(code(get().if_match("\"x\"").send().await).as_deref(), failed);
    get().if_match(&etag).send().await.unwrap();
    let time = get().send().await.unwrap().last_modified.unwrap();
    let before = aws_sdk_s3::primitives::DateTime::from_secs(time.secs() - 10);
    assert_eq!(code(get().if_modified_since(time).send().await).as_deref(), Some("304"));
    get().if_modified_since(before).send().await.unwrap();
    assert_eq!(code(get().if_unmodified_since(before).send().await).as_deref(), failed);
    get().if_unmodified_since(time).send().await.unwrap();
    let delete = || running.s3.delete_object().bucket(BUCKET).key("k");
    assert_eq!(code(delete().if_match("\"x\"").send().await).as_deref(), failed);

    let (id, parts) = running.upload("k", &[(1, b"y".to_vec())]).await;
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = running.s3.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(&id);
    let complete = complete.multipart_upload(parts);
    assert_eq!(code(complete.clone().if_none_match("*").send().await).as_deref(), failed);
    complete.if_match(&etag).send().await.unwrap();
    assert_eq!(running.get("k").await, "y");
    let copy = running.s3.copy_object().bucket(BUCKET).key("copy").copy_source("bucket/k");
    assert_eq!(code(copy.copy_source_if_match(&etag).send().await).as_deref(), failed);
    delete().if_match("*").send().await.unwrap();
}

#[tokio::test]
async fn concurrent_conditional_puts_make_one_object() {
    let running = Running::start("racing").await;
    let puts = (0..20).map(|writer: u8| {
        let body = ByteStream::from(vec![writer; 100]);
        let put = running.s3.put_object().bucket(BUCKET).key("k").if_none_match("*").body(body);
        async { put.send().await.is_ok() }
    });
    let outcomes = futures_util::future::join_all(puts).await;
    assert_eq!(outcomes.iter().filter(|succeeded| **succeeded).count(), 1);
}

#[tokio::test]
async fn parts_are_verified() {
    let running = Running::start("parts").await;
    let body = |letter: u8| vec![letter; PART];
    let (id, parts) =
        running.upload("k", &[(2, body(b'a')), (5, body(b'b')), (9, b"c".to_vec())]).await;
    let named =
        |number: i32, etag: &str| CompletedPart::builder().part_number(number).e_tag(etag).build();
    let wrong = [parts[0].clone(), named(5, "\"00000000000000000000000000000000\"")];
    assert_eq!(running.complete("k", &id, &wrong).await.as_deref(), Some("InvalidPart"));
    let missing = [parts[0].clone(), named(7, parts[1].e_tag().unwrap())];
    assert_eq!(running.complete("k", &id, &missing).await.as_deref(), Some("InvalidPart"));
    let reversed = [parts[1].clone(), parts[0].clone()];
    assert_eq!(running.complete("k", &id, &reversed).await.as_deref(), Some("InvalidPartOrder"));
    let small = [parts[0].clone(), parts[2].clone(), named(10, "\"x\"")];
    assert_eq!(running.complete("k", &id, &small).await.as_deref(), Some("InvalidPart"));
    let part = running.s3.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(10_001);
    let part = part.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(part).as_deref(), Some("InvalidArgument"));
    let part = running.s3.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(2);
    let part = part.content_md5("AAAAAAAAAAAAAAAAAAAAAA==").body(ByteStream::from_static(b"x"));
    assert_eq!(code(part.send().await).as_deref(), Some("BadDigest"));

    let list = running.s3.list_parts().bucket(BUCKET).key("k").upload_id(&id).max_parts(2);
    let listed = list.send().await.unwrap();
    assert_eq!((listed.parts().len(), listed.is_truncated()), (2, Some(true)));
    assert_eq!(listed.next_part_number_marker(), Some("5"));
    let uploads = running.s3.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));
    let after = running.s3.list_multipart_uploads().bucket(BUCKET).key_marker("k");
    let after = after.upload_id_marker("ffffffffffffffff").send().await.unwrap();
    assert_eq!(after.uploads().len(), 0);

    // Two at once: each says that the object is there.
    let complete = || running.complete("k", &id, &parts);
    assert_eq!(tokio::join!(complete(), complete()), (None, None));
    // A client that lost the answer asks again.
    assert_eq!(running.complete("k", &id, &parts).await, None);
    let whole = [body(b'a'), body(b'b'), b"c".to_vec()].concat();
    let got = running.s3.get_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert!(got.e_tag().unwrap().ends_with("-3\""));
    assert!(got.body.collect().await.unwrap().to_vec() == whole);
    // Of a part, by its place.
    let part = running.s3.get_object().bucket(BUCKET).key("k").part_number(3).send().await.unwrap();
    assert_eq!((part.parts_count(), part.content_length()), (Some(3), Some(1)));
    assert_eq!(part.content_range(), Some("bytes 10485760-10485760/10485761"));
    let attributes = running.s3.get_object_attributes().bucket(BUCKET).key("k");
    let attributes = attributes.object_attributes(ObjectAttributes::ObjectParts);
    let attributes =
        attributes.object_attributes(ObjectAttributes::ObjectSize).send().await.unwrap();
    assert_eq!(attributes.object_size(), Some(10_485_761));
    assert_eq!(attributes.object_parts().unwrap().total_parts_count(), Some(3));
    let range = running.s3.get_object().bucket(BUCKET).key("k").range("bytes=5242878-5242881");
    let range = range.send().await.unwrap().body.collect().await.unwrap().to_vec();
    assert_eq!(range, b"aabb");
    let contents = std::fs::read_dir(running.directory.join("_contents")).unwrap();
    assert_eq!(contents.count(), 1, "the parts are gone");

    let (id, parts) = running.upload("k", &[(1, b"tiny".to_vec()), (2, b"x".to_vec())]).await;
    assert_eq!(running.complete("k", &id, &parts).await.as_deref(), Some("EntityTooSmall"));
    let abort =
        || running.s3.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).send();
    abort().await.unwrap();
    assert_eq!(code(abort().await).as_deref(), Some("NoSuchUpload"));
    assert_eq!(running.complete("k", &id, &parts).await.as_deref(), Some("NoSuchUpload"));
}

#[tokio::test]
async fn parts_have_checksums_alone_and_together() {
    let running = Running::start("checksums").await;
    for (algorithm, kind, whole) in [
        (
            ChecksumAlgorithm::Sha256,
            ChecksumType::Composite,
            "uWBwpe1dxI4Vw8Gf0X9ynOdw/SS6VBzfWm9giiv1sf4=-3",
        ),
        (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject, "i+6LR0y3eFo="),
        (ChecksumAlgorithm::Crc32, ChecksumType::FullObject, "WgDhBQ=="),
        (ChecksumAlgorithm::Crc32C, ChecksumType::FullObject, "xU+Krw=="),
        (ChecksumAlgorithm::Sha1, ChecksumType::Composite, "sizjvY4eud3MrcHdZM3cQ/ol39o=-3"),
    ] {
        let upload = running.s3.create_multipart_upload().bucket(BUCKET).key("k");
        let upload = upload.checksum_algorithm(algorithm.clone()).checksum_type(kind.clone());
        let id = upload.send().await.unwrap().upload_id.unwrap();
        let mut parts = Vec::new();
        for (number, letter) in (1..).zip([b'A', b'B', b'C']) {
            let part = running.s3.upload_part().bucket(BUCKET).key("k").upload_id(&id);
            let part = part.part_number(number).checksum_algorithm(algorithm.clone());
            let part = part.body(ByteStream::from(vec![letter; PART])).send().await.unwrap();
            let part = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(part.e_tag)
                .set_checksum_crc32(part.checksum_crc32)
                .set_checksum_crc32_c(part.checksum_crc32_c)
                .set_checksum_crc64_nvme(part.checksum_crc64_nvme)
                .set_checksum_sha1(part.checksum_sha1)
                .set_checksum_sha256(part.checksum_sha256);
            parts.push(part.build());
        }
        assert_eq!(running.complete("k", &id, &parts).await, None, "{algorithm}");
        let head = running.s3.head_object().bucket(BUCKET).key("k");
        let head = head.checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
        let found = match algorithm {
            ChecksumAlgorithm::Crc32 => head.checksum_crc32(),
            ChecksumAlgorithm::Crc32C => head.checksum_crc32_c(),
            ChecksumAlgorithm::Crc64Nvme => head.checksum_crc64_nvme(),
            ChecksumAlgorithm::Sha1 => head.checksum_sha1(),
            _ => head.checksum_sha256(),
        };
        assert_eq!((found, head.checksum_type()), (Some(whole), Some(&kind)), "{algorithm}");
    }
}

#[tokio::test]
async fn a_copy_has_what_its_source_has_unless_the_client_says_otherwise() {
    let running = Running::start("copies").await;
    running.version(BucketVersioningStatus::Enabled).await;
    let put = running.s3.put_object().bucket(BUCKET).key("source").metadata("name", "value");
    let put =
        put.content_type("text/x").content_encoding("gzip").storage_class(StorageClass::StandardIa);
    let put =
        put.tagging("a=1&b=2").cache_control("no-cache").body(ByteStream::from_static(b"first"));
    let first = put.send().await.unwrap().version_id.unwrap();
    running.put("source", "second").await;
    let copy = || running.s3.copy_object().bucket(BUCKET);
    copy()
        .key("copy")
        .copy_source(format!("bucket/source?versionId={first}"))
        .send()
        .await
        .unwrap();
    assert_eq!(running.get("copy").await, "first");
    let head = running.s3.head_object().bucket(BUCKET).key("copy").send().await.unwrap();
    assert_eq!(head.metadata().unwrap()["name"], "value");
    assert_eq!((head.content_type(), head.content_encoding()), (Some("text/x"), Some("gzip")));
    assert_eq!(head.storage_class(), None);
    let source = running.s3.head_object().bucket(BUCKET).key("source").version_id(&first);
    assert_eq!(source.send().await.unwrap().storage_class(), Some(&StorageClass::StandardIa));
    let tags = running.s3.get_object_tagging().bucket(BUCKET).key("copy").send().await.unwrap();
    assert_eq!(tags.tag_set().len(), 2);

    let itself = copy().key("copy").copy_source("bucket/copy");
    assert_eq!(code(itself.clone().send().await).as_deref(), Some("InvalidRequest"));
    itself
        .metadata_directive(MetadataDirective::Replace)
        .content_type("text/y")
        .send()
        .await
        .unwrap();
    let head = running.s3.head_object().bucket(BUCKET).key("copy").send().await.unwrap();
    assert_eq!(
        (head.content_type(), head.metadata().map(|all| all.len())),
        (Some("text/y"), Some(0))
    );
    let missing = copy().key("copy").copy_source("bucket/missing").send().await;
    assert_eq!(code(missing).as_deref(), Some("NoSuchKey"));
    let elsewhere = copy().key("copy").copy_source("nowhere/missing").send().await;
    assert_eq!(code(elsewhere).as_deref(), Some("NoSuchBucket"));
    let answered =
        running.s3.get_object().bucket(BUCKET).key("copy").response_content_type("text/z");
    assert_eq!(answered.send().await.unwrap().content_type(), Some("text/z"));
}

#[tokio::test]
async fn a_request_deletes_up_to_1000_keys_or_none() {
    let running = Running::start("deletes").await;
    running.put("a", "x").await;
    running.put("a/b", "x").await;
    let delete = |count: usize| {
        let keys = (0..count).map(|n| if n == 0 { "a".to_owned() } else { format!("a/{n}") });
        let objects = keys.map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
        let delete = Delete::builder().set_objects(Some(objects.collect())).build().unwrap();
        running.s3.delete_objects().bucket(BUCKET).delete(delete).send()
    };
    assert_eq!(code(delete(1001).await).as_deref(), Some("MalformedXML"));
    assert_eq!(running.get("a").await, "x");
    let deleted = delete(1000).await.unwrap();
    assert_eq!((deleted.deleted().len(), deleted.errors().len()), (1000, 0));
    assert_eq!(running.list("", "").await.0, ["a/b"]);
}

#[tokio::test]
async fn browsers_post_forms() {
    let running = Running::start("forms").await;
    assert_eq!(running.post(&[("key", "k")], "f").await.0, 403, "the bucket is private");
    let acl = running.s3.put_bucket_acl().bucket(BUCKET).acl(BucketCannedAcl::PublicReadWrite);
    acl.send().await.unwrap();
    assert_eq!(running.post(&[("key", "dir/${filename}")], "C:\\my file.txt").await.0, 204);
    assert_eq!(running.get("dir/my file.txt").await, "posted");
    assert_eq!(running.post(&[("key", "k"), ("success_action_status", "201")], "f").await.0, 201);
    assert_eq!(running.post(&[("key", "k"), ("success_action_status", "404")], "f").await.0, 204);
    let target = "http://localhost/done";
    let (status, location) =
        running.post(&[("key", "k"), ("success_action_redirect", target)], "f").await;
    assert_eq!(status, 303);
    let expected = "http://localhost/done?bucket=bucket&key=k&etag=%22";
    assert!(location.starts_with(expected), "{location}");
    let late = r#"{"expiration":"2020-01-01 00:00:00","conditions":[]}"#;
    let late = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, late);
    let fields =
        [("key", "k"), ("policy", late.as_str()), ("signature", "x"), ("AWSAccessKeyId", "local")];
    assert_eq!(running.post(&fields, "f").await.0, 400);
    assert_eq!(running.post(&fields[..2], "f").await.0, 400, "a policy needs a signature");
}

#[tokio::test]
async fn a_client_that_expects_it_is_told_to_continue() {
    let running = Running::start("continue").await;
    let request = "PUT /bucket/k HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\
                   Expect: 100-continue\r\nConnection: close\r\n\r\n";
    let refused = running.raw(request).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let acl = running.s3.put_bucket_acl().bucket(BUCKET).acl(BucketCannedAcl::PublicReadWrite);
    acl.send().await.unwrap();
    let answer = running.raw(&format!("{request}x")).await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{answer}");
    // A body that ends early is no object.
    let mut connection = TcpStream::connect(running.address).await.unwrap();
    let cut = format!(
        "PUT /bucket/cut HTTP/1.1\r\nHost: {}\r\nContent-Length: 9\r\n\r\nabc",
        running.address
    );
    connection.write_all(cut.as_bytes()).await.unwrap();
    drop(connection);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let head = running.s3.head_object().bucket(BUCKET).key("cut").send().await;
    assert_eq!(code(head).as_deref(), Some("NotFound"));
}

#[tokio::test]
async fn each_change_is_an_event_until_it_is_acknowledged() {
    let mut running = Running::start("events").await;
    running.version(BucketVersioningStatus::Enabled).await;
    let version = running.put("a b/ü", "x").await.unwrap();
    let delete = running.s3.delete_object().bucket(BUCKET).key("a b/ü").send().await.unwrap();
    let marker = delete.version_id.unwrap();
    let remove = running.s3.delete_object().bucket(BUCKET).key("a b/ü").version_id(&marker);
    remove.send().await.unwrap();
    let mut sequencers = Vec::new();
    for (expected, id, size) in [
        ("ObjectCreated:Put", &version, Some(1)),
        ("ObjectRemoved:DeleteMarkerCreated", &marker, None),
        ("ObjectRemoved:Delete", &marker, None),
    ] {
        let (name, object) = running.event().await;
        assert_eq!((name.as_str(), &object["key"]), (expected, &Value::from("a+b/%C3%BC")));
        assert_eq!(
            (object["versionId"].as_str(), object["size"].as_u64()),
            (Some(id.as_str()), size)
        );
        sequencers.push(object["sequencer"].as_str().unwrap().to_owned());
    }
    assert!(sequencers.is_sorted());
    assert!(sequencers.iter().all(|sequencer| u64::from_str_radix(sequencer, 16).is_ok()));

    // Nothing was acknowledged, so a restart begins anew.
    let mut running = running.restart().await;
    let first = running.events.next().await.unwrap();
    assert_eq!(first.body["Records"][0]["eventName"], "ObjectCreated:Put");
    first.acknowledge().await;
    drop(first);
    let mut running = running.restart().await;
    assert_eq!(running.event().await.0, "ObjectRemoved:DeleteMarkerCreated");
    assert_eq!(running.event().await.0, "ObjectRemoved:Delete");
    running.put("later", "x").await;
    let (name, object) = running.event().await;
    assert_eq!(name, "ObjectCreated:Put");
    assert!(object["sequencer"].as_str().unwrap() > sequencers[2].as_str(), "across restarts");
}

#[tokio::test]
async fn objects_of_earlier_releases_are_taken_over() {
    let directory = std::env::temp_dir().join(format!("mru-s3-{}-old", std::process::id()));
    std::fs::create_dir_all(directory.join("bucket/a")).unwrap();
    std::fs::write(directory.join("bucket/a/b.json.gz"), "content").unwrap();
    std::fs::write(directory.join("bucket/plain"), "plain").unwrap();
    std::fs::create_dir_all(directory.join("empty")).unwrap();
    let attributes = ".bucket-YnVja2V0.object-YS9iLmpzb24uZ3o.metadata.json";
    let json = r#"{"content_encoding":"gzip","user_metadata":{"name":"value"}}"#;
    std::fs::write(directory.join(attributes), json).unwrap();
    let written = std::fs::metadata(directory.join("bucket/plain")).unwrap().modified().unwrap();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();

    let running = Running::at(directory.clone()).await;
    assert_eq!(running.list("", "").await.0, ["a/b.json.gz", "plain"]);
    assert_eq!(running.get("plain").await, "plain");
    let head = running.s3.head_object().bucket(BUCKET).key("plain").send().await.unwrap();
    assert_eq!(head.last_modified().unwrap().secs().cast_unsigned(), written);
    let head = running.s3.head_object().bucket(BUCKET).key("a/b.json.gz").send().await.unwrap();
    assert_eq!(head.content_encoding(), Some("gzip"));
    assert_eq!(head.metadata().unwrap()["name"], "value");
    running.s3.head_bucket().bucket("empty").send().await.unwrap();
    assert!(!directory.join("bucket").exists() && !directory.join(attributes).exists());
    let running = running.restart().await;
    assert_eq!(running.list("", "").await.0.len(), 2);
}
