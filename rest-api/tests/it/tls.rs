//! TLS to a Postgres with a certificate authority of its own, and which takes nothing less.

use std::path::PathBuf;

use local_stack::postgres::{Postgres, Purpose, restrict_to_postgres};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rest_api::{
    config::{Database, Login, Secret, Tls},
    store,
    telemetry::chain,
};
use tokio::sync::OnceCell;

use crate::service::{Service, no_secrets};

/// A Postgres that listens on `localhost`, over TLS, for users with passwords.
pub(crate) struct Secure {
    pub(crate) postgres: Postgres,
    /// The authority that signed its certificate, and one that did not.
    ca_file: PathBuf,
    other_ca_file: PathBuf,
}

static SECURE: OnceCell<Secure> = OnceCell::const_new();

pub(crate) async fn secure() -> &'static Secure {
    SECURE.get_or_init(start).await
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn start() -> Secure {
    let folder = std::env::temp_dir().join(format!("mru-test-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        restrict_to_postgres(&path).unwrap();
        path
    };
    let (ca, other_ca) = (authority("ours"), authority("another"));
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let setting = |name: &str, path: PathBuf| format!("{name}={}", path.display());
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        "ssl=on".to_owned(),
        setting("ssl_cert_file", file("server.crt", &certificate.pem())),
        setting("ssl_key_file", file("server.key", &key.serialize_pem())),
        setting(
            "hba_file",
            file("hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"),
        ),
    ];
    let data = folder.join("postgres");
    let postgres = Postgres::start_with(&data, Purpose::Test, port, &settings).await.unwrap();
    let (ca_file, other_ca_file) =
        (file("ca.crt", &ca.pem()), file("other-ca.crt", &other_ca.pem()));
    Secure { postgres, ca_file, other_ca_file }
}

impl Secure {
    /// A new database, and its owner with a password; both are called `name`.
    pub(crate) async fn database(&self, name: &str, password: &str) -> Database {
        self.postgres.create_database(name).await.unwrap();
        let sql = self.postgres.connect(name).await.unwrap();
        sql.batch_execute(&format!(
            "create role {name} login password '{password}'; alter database {name} owner to {name};
             alter schema public owner to {name}"
        ))
        .await
        .unwrap();
        Database {
            host: "localhost".to_owned(),
            login: Login::Fixed { user: name.to_owned(), password: Secret::new(password) },
            tls: Tls::VerifyFull { ca_file: Some(self.ca_file.clone()) },
            ..self.postgres.database(name)
        }
    }
}

/// What a migration says that must fail.
async fn refusal(database: &Database) -> String {
    chain(&store::migrate(database, &no_secrets()).await.unwrap_err())
}

#[tokio::test]
async fn every_connection_is_encrypted_and_verified() {
    let secure = secure().await;
    let database = secure.database("encrypted", "pass").await;
    store::migrate(&database, &no_secrets()).await.unwrap();
    let service = Service::start_with(|config| config.database = database).await;
    let ingest = service.ingest("k", r#"{"title":"A","year":2000}"#).await;
    assert_eq!(ingest["state"], "succeeded", "{ingest}");
    assert_eq!(service.movies("title=a").await.len(), 1);
    // The listener's, a worker's, a writer's and a reader's.
    let sql = secure.postgres.connect("encrypted").await.unwrap();
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
async fn a_server_that_cannot_prove_who_it_is_gets_no_password() {
    let secure = secure().await;
    let right = secure.database("prove", "pass").await;

    let ca_file = Some(secure.other_ca_file.clone());
    let wrong_ca = Database { tls: Tls::VerifyFull { ca_file }, ..right.clone() };
    let told = refusal(&wrong_ca).await;
    assert!(told.contains("UnknownIssuer"), "{told}");

    // The certificate is for localhost alone.
    let wrong_host = Database { host: "127.0.0.1".to_owned(), ..right.clone() };
    let told = refusal(&wrong_host).await;
    assert!(told.contains("not valid for name"), "{told}");

    // By the system's authorities, none of whom signed it.
    let system = Database { tls: Tls::VerifyFull { ca_file: None }, ..right.clone() };
    let told = refusal(&system).await;
    assert!(told.contains("UnknownIssuer") || told.contains("MRU_DB_CA_FILE"), "{told}");

    let ca_file = Some(PathBuf::from("/no/such/file"));
    let no_ca = Database { tls: Tls::VerifyFull { ca_file }, ..right.clone() };
    let told = refusal(&no_ca).await;
    assert!(told.contains("MRU_DB_CA_FILE /no/such/file"), "{told}");

    // And without TLS it takes nobody.
    let plain = Database { tls: Tls::Disable, ..right };
    let told = refusal(&plain).await;
    assert!(told.contains("no encryption"), "{told}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to() {
    let folder = std::env::temp_dir().join(format!("mru-test-plain-{}", std::process::id()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let settings = ["listen_addresses=127.0.0.1".to_owned()];
    let plain = Postgres::start_with(&folder, Purpose::Test, port, &settings).await.unwrap();
    plain.create_database("plain").await.unwrap();
    let on_this_machine = Database { host: "127.0.0.1".to_owned(), ..plain.database("plain") };
    store::migrate(&on_this_machine, &no_secrets()).await.unwrap();
    let ca_file = Some(secure().await.ca_file.clone());
    let told = refusal(&Database { tls: Tls::VerifyFull { ca_file }, ..on_this_machine }).await;
    assert!(told.contains("server does not support TLS"), "{told}");
    plain.stop().await;
}
