//! An API as a local HTTP server, and events.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use aws::SecretsManager;
use ingest_lambda::{ApiClient, Config, InvocationError};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use warp::{Filter, http::StatusCode};

/// The requests that the API received: `authorization`, `x-request-id`, body, `traceparent`.
pub(crate) type Requests = Arc<Mutex<Vec<(String, String, Value, String)>>>;

/// Starts an API that responds with `status` as a whole, and with results for an array. A key that
/// starts with "bad" gets 500, one that starts with "refused" 422.
pub(crate) async fn start_api(status: StatusCode) -> (SocketAddr, Requests) {
    start(move |body| respond(status, body)).await
}

/// Starts an API of the release before, which takes one notification a request.
pub(crate) async fn start_old_api() -> (SocketAddr, Requests) {
    start(|body| match body {
        Value::Array(_) => (StatusCode::UNPROCESSABLE_ENTITY, problem()),
        body => respond(StatusCode::ACCEPTED, body),
    })
    .await
}

pub(crate) fn problem() -> Value {
    json!({ "type": "about:blank", "status": 422, "code": "violations" })
}

/// Returns what the API responds to `body`.
pub(crate) fn respond(status: StatusCode, body: &Value) -> (StatusCode, Value) {
    let respond_to = |notification: &Value| match notification["key"].as_str().unwrap() {
        key if key.starts_with("bad") => (StatusCode::INTERNAL_SERVER_ERROR, json!({})),
        key if key.starts_with("refused") => (StatusCode::UNPROCESSABLE_ENTITY, problem()),
        _ => (status, json!({ "id": 1 })),
    };
    let Value::Array(notifications) = body else { return respond_to(body) };
    if !status.is_success() {
        return (status, json!({}));
    }
    let results = notifications.iter().map(|notification| {
        let (status, body) = respond_to(notification);
        let name = if status.is_success() { "ingest" } else { "problem" };
        json!({ "status": status.as_u16(), name: body })
    });
    (StatusCode::ACCEPTED, results.collect())
}

/// Starts an API that responds to a body with what `respond` returns.
pub(crate) async fn start(
    respond: impl Fn(&Value) -> (StatusCode, Value) + Clone + Send + Sync + 'static,
) -> (SocketAddr, Requests) {
    let requests = Requests::default();
    let log = Arc::clone(&requests);
    let route = warp::path!("notify")
        .and(warp::post())
        .and(warp::header("authorization"))
        .and(warp::header("x-request-id"))
        .and(warp::body::json())
        .and(warp::header("traceparent"))
        .map(move |authorization: String, request_id: String, body: Value, trace: String| {
            let (status, response) = respond(&body);
            log.lock().unwrap().push((authorization, request_id, body, trace));
            let success = status.is_success();
            let media_type = if success { "application/json" } else { "application/problem+json" };
            let response = warp::reply::with_status(response.to_string(), status);
            warp::reply::with_header(response, "content-type", media_type)
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(warp::serve(route).incoming(listener).run());
    (address, requests)
}

pub(crate) async fn client(address: SocketAddr) -> ApiClient {
    let url = format!("http://{address}/notify");
    let config = Config::from_lookup(|name| match name {
        "MRU_API_URL" => Some(url.clone()),
        "MRU_API_TOKEN" => Some("secret".to_owned()),
        _ => None,
    });
    let sdk = aws_config::SdkConfig::builder();
    let sdk = sdk.behavior_version(aws_config::BehaviorVersion::latest()).build();
    ApiClient::new(&config.unwrap(), SecretsManager::new(&sdk)).await.unwrap()
}

pub(crate) fn record(name: &str, key: &str) -> Value {
    json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1",
        "eventTime": "2026-11-01T10:00:00.123Z", "eventName": name,
        "userIdentity": { "principalId": "p" }, "requestParameters": { "sourceIPAddress": "10.0.0.1" },
        "responseElements": { "x-amz-request-id": "r" },
        "s3": {
            "s3SchemaVersion": "1.0", "configurationId": "c",
            "bucket": { "name": "b", "ownerIdentity": { "principalId": "p" }, "arn": "arn:aws:s3:::b" },
            "object": { "key": key, "size": 12, "eTag": "e", "versionId": "v", "sequencer": "0A" },
        },
    })
}

pub(crate) fn event(payload: Value) -> LambdaEvent<Value> {
    let mut context = Context::default();
    context.request_id = "request-1".to_owned();
    LambdaEvent::new(payload, context)
}

/// Returns an event that these objects were created.
pub(crate) fn created(keys: &[&str]) -> LambdaEvent<Value> {
    let records: Vec<Value> = keys.iter().map(|key| record("ObjectCreated:Put", key)).collect();
    event(json!({ "Records": records }))
}

/// Returns the keys of each request: one for an object, all for an array.
pub(crate) fn keys(requests: &Requests) -> Vec<Value> {
    let keys_of = |body: &Value| match body {
        Value::Array(notifications) => {
            notifications.iter().map(|notification| notification["key"].clone()).collect()
        }
        notification => notification["key"].clone(),
    };
    requests.lock().unwrap().iter().map(|(_, _, body, _)| keys_of(body)).collect()
}

/// Returns the function's response to the invocation, as Lambda receives it: error type and message.
pub(crate) fn response(error: InvocationError) -> (String, String) {
    let diagnostic = Diagnostic::from(error);
    (diagnostic.error_type, diagnostic.error_message)
}
