//! Secrets in an emulated Secrets Manager, rotated while the service runs.

use std::time::Duration;

use aws::{SecretsManager, trace::TraceParent};
use aws_sdk_secretsmanager::Client;
use ingest_lambda::{ApiClient, Notify, Token};
use reqwest::StatusCode;
use rest_api::{
    config::{ApiToken, Database, Login},
    store,
};
use schema::Notification;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    emulator,
    service::{BUCKET, Service, TOKEN},
    tls::secure,
};

const MOVIE: &str = r#"{"title":"A","year":2000}"#;

/// A client for writing secrets, and one as the service has it.
async fn secrets() -> (Client, SecretsManager) {
    let sdk = emulator::sdk().await;
    (Client::new(&sdk), SecretsManager::new(&sdk))
}

/// As RDS writes it.
fn credentials(user: &str, password: &str) -> String {
    json!({ "username": user, "password": password, "engine": "postgres" }).to_string()
}

async fn create(writer: &Client, name: &str, text: impl Into<String>) -> String {
    let created = writer.create_secret().name(name).secret_string(text).send().await.unwrap();
    created.arn.unwrap()
}

async fn put(writer: &Client, name: &str, text: impl Into<String>) {
    writer.put_secret_value().secret_id(name).secret_string(text).send().await.unwrap();
}

/// A database whose credentials are in a secret of the same name.
async fn database(name: &str, writer: &Client, reader: &SecretsManager) -> Database {
    let database = secure().await.database(name, "first").await;
    let secret_id = create(writer, name, credentials(name, "first")).await;
    let database = Database { login: Login::Managed { secret_id, user: None }, ..database };
    store::migrate(&database, reader).await.unwrap();
    database
}

/// What RDS does to the database in a rotation, some time before it changes the secret.
async fn change_password(name: &str, password: &str) {
    let sql = secure().await.postgres.connect(name).await.unwrap();
    sql.batch_execute(&format!("alter role {name} password '{password}'")).await.unwrap();
}

/// So many queries and writes at once that new connections are needed. A request that is told to
/// come back later, as a machine that is too busy may say, does so, a few times.
async fn load(service: &Service) -> Vec<StatusCode> {
    let mut requests = JoinSet::new();
    for number in 0..40 {
        let request = if number % 8 == 0 {
            service.post("/movies", MOVIE)
        } else {
            service.request(reqwest::Method::GET, "/movies?title=a")
        };
        requests.spawn(async move {
            let mut attempts = 1;
            loop {
                let answer = request.try_clone().unwrap().send().await.unwrap();
                let later = answer.headers().get("retry-after");
                let Some(later) = later.filter(|_| attempts < 5) else { return answer.status() };
                eprintln!("attempt {attempts}: {}", answer.status());
                attempts += 1;
                let seconds = later.to_str().unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
        });
    }
    requests.join_all().await
}

#[tokio::test]
async fn a_password_that_is_rotated_under_load_is_no_outage() {
    let (writer, reader) = secrets().await;
    let database = database("rotated", &writer, &reader).await;
    let service = Service::start_with_secrets(|config| config.database = database, reader).await;
    assert_eq!(service.get("/readyz").await.status, StatusCode::OK);
    let connections = async || -> i64 {
        let sql = secure().await.postgres.connect("rotated").await.unwrap();
        let count = "select count(*) from pg_stat_activity where usename = 'rotated'";
        sql.query_one(count, &[]).await.unwrap().get(0)
    };
    let before = connections().await;

    change_password("rotated", "second").await;
    let late = tokio::spawn({
        let writer = writer.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            put(&writer, "rotated", credentials("rotated", "second")).await;
        }
    });
    let answers = load(&service).await;
    assert!(answers.iter().all(StatusCode::is_success), "{answers:?}");
    assert!(connections().await > before, "none was made with the new password");
    late.await.unwrap();

    // And once more, with the secret changed at the same time.
    change_password("rotated", "third").await;
    put(&writer, "rotated", credentials("rotated", "third")).await;
    let sql = secure().await.postgres.connect("rotated").await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rotated'";
    sql.execute(end, &[]).await.unwrap();
    let answers = load(&service).await;
    assert!(answers.iter().all(StatusCode::is_success), "{answers:?}");
}

#[tokio::test]
async fn while_the_database_refuses_the_secret_the_answer_is_503_and_soon() {
    let (writer, reader) = secrets().await;
    let database = database("refused", &writer, &reader).await;
    change_password("refused", "second").await;
    let service = Service::start_with_secrets(|config| config.database = database, reader).await;
    let answer = service.get("/movies").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    assert!(!answer.header("retry-after").is_empty());
    assert!(!answer.text.contains("first"), "no secret in an answer: {}", answer.text);
    put(&writer, "refused", credentials("refused", "second")).await;
    assert_eq!(service.get("/movies").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_secret_that_is_missing_or_malformed_stops_the_start_by_name() {
    let (writer, reader) = secrets().await;
    let right = database("malformed", &writer, &reader).await;
    let refusal = async |secret_id: &str| {
        let login = Login::Managed { secret_id: secret_id.to_owned(), user: None };
        let database = Database { login, ..right.clone() };
        store::migrate(&database, &reader).await.unwrap_err().to_string()
    };
    let told = refusal("nowhere").await;
    assert!(told.contains("nowhere") && told.contains("no such secret"), "{told}");
    for text in ["hunter2", r#"{"username":"hunter2"}"#, r#"{"password":"hunter2"}"#] {
        put(&writer, "malformed", text).await;
        let told = refusal("malformed").await;
        assert!(told.contains("malformed") && !told.contains("hunter2"), "{told}");
    }
}

#[tokio::test]
async fn a_rotated_token_costs_no_event() {
    let (writer, reader) = secrets().await;
    let name = "movies-r-us/api-token";
    create(&writer, name, "one").await;
    let managed = |config: &mut rest_api::config::Config| {
        config.api_token = ApiToken::Managed(name.to_owned());
    };
    let service = Service::start_with_secrets(managed, reader.clone()).await;
    service.put("k", MOVIE).await;
    let notification = json!({ "bucket": BUCKET, "key": "k" }).to_string();
    let notification: Notification = schema::parse(notification.as_bytes()).unwrap();
    let function = async |service: &Service| {
        let api_url = service.url("/notify").parse().unwrap();
        let token = Token::Managed(name.to_owned());
        let config = ingest_lambda::Config { api_url, token, log_filter: String::new() };
        ApiClient::new(&config, reader.clone()).await.unwrap()
    };
    let old_function = function(&service).await;
    old_function.notify(&notification, "r", &TraceParent::random()).await.unwrap();
    let with = async |token: &str| {
        let request = service.request(reqwest::Method::POST, "/notify");
        let body = json!({ "bucket": BUCKET, "key": "k" }).to_string();
        service.send(request.bearer_auth(token).body(body)).await.status
    };
    assert_eq!(with("one").await, StatusCode::ACCEPTED);
    assert_eq!(with("two").await, StatusCode::UNAUTHORIZED);

    // A replica that starts after the rotation takes the token of before it, too.
    put(&writer, name, "two").await;
    let rolled_out = Service::start_with_secrets(managed, reader.clone()).await;
    for (token, status) in [
        ("two", StatusCode::CREATED),
        ("one", StatusCode::CREATED),
        ("zero", StatusCode::UNAUTHORIZED),
        ("", StatusCode::UNAUTHORIZED),
    ] {
        let request = rolled_out.request(reqwest::Method::POST, "/movies");
        let answer = rolled_out.send(request.bearer_auth(token).body(MOVIE)).await;
        assert_eq!(answer.status, status, "{token:?}");
    }

    // A function that still has an older token reads it again when it is refused.
    let strict = Service::start().await;
    strict.put("k", MOVIE).await;
    let stale = function(&strict).await;
    assert!(
        stale.notify(&notification, "r", &TraceParent::random()).await.is_err(),
        "the token is another"
    );
    put(&writer, name, TOKEN).await;
    stale.notify(&notification, "r", &TraceParent::random()).await.unwrap();
}
