//! TLS to the database: connections are encrypted, and the server is verified.

use std::path::PathBuf;

use rest_api::{
    config::{Database, Tls},
    telemetry::chain,
};

use crate::support::{
    Service,
    movies::MOVIE,
    postgres::migrate,
    secure_postgres::{secure_postgres, start_on_tcp},
};

/// Returns the error of a migration that must fail.
async fn migration_error(database: &Database) -> String {
    chain(&migrate(database).await.unwrap_err())
}

#[tokio::test]
async fn every_connection_is_encrypted_and_verified() {
    let secure = secure_postgres().await;
    let database = secure.database("encrypted", "pass").await;
    migrate(&database).await.unwrap();
    let service = Service::builder().config(|config| config.database = database).start().await;
    let ingest = service.ingest("k", MOVIE).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    assert_eq!(service.movies("title=a").await.len(), 1);
    // One each for LISTEN, the workers, the writer and the reader.
    let sql = secure.sql("encrypted").await;
    let encrypted = sql
        .query(
            "select s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid)
             where a.usename = 'encrypted'",
            &[],
        )
        .await
        .unwrap();
    assert!(encrypted.len() >= 4, "{}", encrypted.len());
    assert!(encrypted.iter().all(|row| row.get(0)));
}

#[tokio::test]
async fn a_server_with_a_certificate_that_cannot_be_verified_is_refused() {
    let secure = secure_postgres().await;
    let right = secure.database("unverified", "pass").await;

    let ca_file = Some(secure.other_ca_file.clone());
    let wrong_ca = Database { tls: Tls::VerifyFull { ca_file }, ..right.clone() };
    let error = migration_error(&wrong_ca).await;
    assert!(error.contains("UnknownIssuer"), "{error}");

    // The certificate is for localhost only.
    let wrong_host = Database { host: "127.0.0.1".to_owned(), ..right.clone() };
    let error = migration_error(&wrong_host).await;
    assert!(error.contains("not valid for name"), "{error}");

    // The authorities of the system, none of which signed the certificate.
    let system = Database { tls: Tls::VerifyFull { ca_file: None }, ..right.clone() };
    let error = migration_error(&system).await;
    assert!(error.contains("UnknownIssuer") || error.contains("MRU_DB_CA_FILE"), "{error}");

    let ca_file = Some(PathBuf::from("/no/such/file"));
    let no_ca = Database { tls: Tls::VerifyFull { ca_file }, ..right.clone() };
    let error = migration_error(&no_ca).await;
    assert!(error.contains("MRU_DB_CA_FILE /no/such/file"), "{error}");

    // The server refuses connections without TLS.
    let plain = Database { tls: Tls::Disable, ..right };
    let error = migration_error(&plain).await;
    assert!(error.contains("no encryption"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused() {
    let directory = std::env::temp_dir().join(format!("mru-test-plain-{}", std::process::id()));
    let plain = start_on_tcp(&directory, &[]).await;
    plain.create_database("plain").await.unwrap();
    let without_tls = Database { host: "127.0.0.1".to_owned(), ..plain.database("plain") };
    migrate(&without_tls).await.unwrap();
    let ca_file = Some(secure_postgres().await.ca_file.clone());
    let error =
        migration_error(&Database { tls: Tls::VerifyFull { ca_file }, ..without_tls }).await;
    assert!(error.contains("server does not support TLS"), "{error}");
    plain.stop().await;
}
