//! Opens connections: TLS, and credentials that may change.

use std::{pin::Pin, sync::Arc, time::Duration};

use deadpool_postgres::Connect;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio::task::JoinHandle;
use tokio_postgres::{
    Client, Connection, Error, Socket,
    config::{Config, SslMode},
    error::SqlState,
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;
use crate::{
    config::{Database, Tls},
    secrets::{Credentials, CurrentCredentials},
};

/// How long a caller waits for a connection before the database counts as unavailable.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// Opens connections with the present credentials.
#[derive(Clone)]
pub(super) struct Connector {
    credentials: Arc<CurrentCredentials>,
    pub(super) tls: MakeRustlsConnect,
}

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

impl Connector {
    /// Returns a connector.
    ///
    /// # Errors
    /// If the certificate authorities that `tls` names cannot be read.
    pub(super) fn new(tls: &Tls, credentials: CurrentCredentials) -> Result<Self, StoreError> {
        Ok(Self {
            credentials: Arc::new(credentials),
            tls: MakeRustlsConnect::new(tls_config(tls)?),
        })
    }

    /// Opens a connection to the database of `config`. If the database refuses the credentials, and
    /// they have changed since they were read, it tries the new ones.
    pub(super) async fn open(
        &self,
        config: &Config,
    ) -> Result<(Client, Connection<Socket, TlsStream>), Error> {
        loop {
            let credentials = self.credentials.get();
            let Credentials { user, password } = &credentials;
            let mut config = config.clone();
            config.user(user).password(password.expose());
            match config.connect(self.tls.clone()).await {
                Err(error)
                    if is_refused(&error) && self.credentials.refresh(&credentials).await => {}
                result => return result,
            }
        }
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = self.open(&config).await?;
            // The client reports an error of the connection to its user.
            let task = tokio::spawn(async {
                let _ = connection.await;
            });
            Ok((client, task))
        })
    }
}

/// Whether the database refused the credentials.
fn is_refused(error: &Error) -> bool {
    let refusals = [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
    error.code().is_some_and(|code| refusals.contains(code))
}

/// Returns the settings that all connections to `database` have in common.
pub(super) fn config(database: &Database, host: &str, options: &str) -> Config {
    let mut config = Config::new();
    config
        .host(host)
        .port(database.port)
        .dbname(&database.name)
        .application_name("movies-r-us")
        .options(options)
        .ssl_mode(match database.tls {
            Tls::Disable => SslMode::Disable,
            Tls::VerifyFull { .. } => SslMode::Require,
        })
        // Detects a failover within seconds, not when TCP gives up.
        .connect_timeout(TIMEOUT)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(15));
    config
}

fn tls_config(tls: &Tls) -> Result<ClientConfig, StoreError> {
    let mut roots = RootCertStore::empty();
    if let Tls::VerifyFull { ca_file } = tls {
        let certificates = match ca_file {
            None => rustls_native_certs::load_native_certs().certs,
            Some(path) => {
                let fault = |error| {
                    StoreError::Setup(format!("MRU_DB_CA_FILE {}: {error}", path.display()))
                };
                let certificates = CertificateDer::pem_file_iter(path).map_err(fault)?;
                certificates.collect::<Result<_, _>>().map_err(fault)?
            }
        };
        let (added, _unusable) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(StoreError::Setup(
                "no certificate authority was found: set MRU_DB_CA_FILE".into(),
            ));
        }
    }
    let provider = rustls::crypto::ring::default_provider().into();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Setup(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
