//! Secrets in the emulated Secrets Manager, which are rotated while the service runs.

use std::time::Duration;

use aws::SecretsManager;
use aws_sdk_secretsmanager::Client;
use ingest_lambda::Token;
use reqwest::StatusCode;
use rest_api::{
    config::{ApiToken, Config, Database, Login, Tmdb, TmdbToken},
    store,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    Service, TOKEN, emulator,
    function::{function, notify},
    ledger::parse,
    movies::MOVIE,
    notification,
    secure_postgres::secure_postgres,
    tmdb::{Standin, TMDB_TOKEN, TmdbFilm},
};

/// Returns a client that writes secrets, and the client of the service.
async fn secrets() -> (Client, SecretsManager) {
    let sdk = emulator::sdk().await;
    (Client::new(&sdk), SecretsManager::new(&sdk))
}

/// Returns the secret as RDS writes it.
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

/// Creates a database whose credentials are in a secret of the same name, and migrates it.
async fn database(name: &str, writer: &Client, reader: &SecretsManager) -> Database {
    let database = secure_postgres().await.database(name, "first").await;
    let secret_id = create(writer, name, credentials(name, "first")).await;
    let database = Database { login: Login::Managed { secret_id, user: None }, ..database };
    store::migrate(&database, reader).await.unwrap();
    database
}

#[tokio::test]
async fn the_token_for_tmdb_comes_from_its_secret() {
    let (writer, reader) = secrets().await;
    let secret = create(&writer, "tmdb-token", format!("{TMDB_TOKEN}\n")).await;
    let tmdb = Standin::start(vec![TmdbFilm::new(1, "A", 2000, &[])]).await;
    let url = tmdb.url();
    let service = Service::builder()
        .config(|config| config.tmdb = Some(Tmdb { token: TmdbToken::Managed(secret), url }))
        .secrets(reader)
        .start()
        .await;
    service.send(service.post("/movies", MOVIE)).await;
    assert_eq!(service.get("/movies/1/details").await.json()["tmdb_id"], 1);
}

/// Changes the password in the database, as RDS does some time before it changes the secret.
async fn change_password(name: &str, password: &str) {
    let sql = secure_postgres().await.sql(name).await;
    sql.batch_execute(&format!("alter role {name} password '{password}'")).await.unwrap();
}

/// Sends so many queries and writes at once that the service opens new connections. A response with
/// `Retry-After`, which a busy machine can cause, is followed by a retry, at most four times.
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
                let response = request.try_clone().unwrap().send().await.unwrap();
                let delay = response.headers().get("retry-after");
                let Some(delay) = delay.filter(|_| attempts < 5) else { return response.status() };
                eprintln!("attempt {attempts}: {}", response.status());
                attempts += 1;
                let seconds = delay.to_str().unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
        });
    }
    requests.join_all().await
}

#[tokio::test]
async fn a_password_can_be_rotated_under_load_without_an_outage() {
    let (writer, reader) = secrets().await;
    let database = database("rotated", &writer, &reader).await;
    let service = Service::builder()
        .config(|config| config.database = database)
        .secrets(reader)
        .start()
        .await;
    assert_eq!(service.get("/readyz").await.status, StatusCode::OK);
    let connections = async || -> i64 {
        let sql = secure_postgres().await.sql("rotated").await;
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
    let statuses = load(&service).await;
    assert!(statuses.iter().all(StatusCode::is_success), "{statuses:?}");
    assert!(connections().await > before, "no connection was opened with the new password");
    late.await.unwrap();

    // Again, with the secret changed at the same time.
    change_password("rotated", "third").await;
    put(&writer, "rotated", credentials("rotated", "third")).await;
    let sql = secure_postgres().await.sql("rotated").await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rotated'";
    sql.execute(end, &[]).await.unwrap();
    let statuses = load(&service).await;
    assert!(statuses.iter().all(StatusCode::is_success), "{statuses:?}");
}

#[tokio::test]
async fn while_the_database_refuses_the_password_requests_get_503() {
    let (writer, reader) = secrets().await;
    let database = database("refused", &writer, &reader).await;
    change_password("refused", "second").await;
    let service = Service::builder()
        .config(|config| config.database = database)
        .secrets(reader)
        .start()
        .await;
    let response = service.get("/movies").await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.text);
    assert!(!response.header("retry-after").is_empty());
    assert!(!response.text.contains("first"), "a secret is in the response: {}", response.text);
    put(&writer, "refused", credentials("refused", "second")).await;
    assert_eq!(service.get("/movies").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_missing_or_malformed_secret_is_named_in_the_error_and_not_shown() {
    let (writer, reader) = secrets().await;
    let right = database("malformed", &writer, &reader).await;
    let migration_error = async |secret_id: &str| {
        let login = Login::Managed { secret_id: secret_id.to_owned(), user: None };
        let database = Database { login, ..right.clone() };
        store::migrate(&database, &reader).await.unwrap_err().to_string()
    };
    let error = migration_error("nowhere").await;
    assert!(error.contains("nowhere") && error.contains("no such secret"), "{error}");
    for text in ["hunter2", r#"{"username":"hunter2"}"#, r#"{"password":"hunter2"}"#] {
        put(&writer, "malformed", text).await;
        let error = migration_error("malformed").await;
        assert!(error.contains("malformed") && !error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_rotated_token_causes_no_lost_notification() {
    let (writer, reader) = secrets().await;
    let name = "movies-r-us/api-token";
    create(&writer, name, "one").await;
    let managed = |config: &mut Config| config.api_token = ApiToken::Managed(name.to_owned());
    let start = async || Service::builder().config(managed).secrets(reader.clone()).start().await;
    let service = start().await;
    service.put("k", MOVIE).await;
    let notification = parse(&notification::bare("k"));
    let managed_function = async |service: &Service| {
        function(service, Token::Managed(name.to_owned()), reader.clone()).await
    };
    let old_function = managed_function(&service).await;
    notify(&old_function, &notification).await.unwrap();
    let status_with = async |token: &str| {
        let request = service.request(reqwest::Method::POST, "/notify");
        let body = notification::bare("k").to_string();
        service.send(request.bearer_auth(token).body(body)).await.status
    };
    assert_eq!(status_with("one").await, StatusCode::ACCEPTED);
    assert_eq!(status_with("two").await, StatusCode::UNAUTHORIZED);

    // A replica that starts after the rotation accepts the previous token, too.
    put(&writer, name, "two").await;
    let rolled_out = start().await;
    for (token, status) in [
        ("two", StatusCode::CREATED),
        ("one", StatusCode::CREATED),
        ("zero", StatusCode::UNAUTHORIZED),
        ("", StatusCode::UNAUTHORIZED),
    ] {
        let request = rolled_out.request(reqwest::Method::POST, "/movies");
        let response = rolled_out.send(request.bearer_auth(token).body(MOVIE)).await;
        assert_eq!(response.status, status, "{token:?}");
    }

    // A Lambda with an older token reads the secret again when the service refuses the token.
    let strict = Service::start().await;
    strict.put("k", MOVIE).await;
    let stale = managed_function(&strict).await;
    assert!(notify(&stale, &notification).await.is_err(), "the service accepted a wrong token");
    put(&writer, name, TOKEN).await;
    notify(&stale, &notification).await.unwrap();
}
