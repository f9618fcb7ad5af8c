//! TLS to the database.

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio_postgres::NoTls;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;
use crate::config::Tls;

/// How connections are made.
#[derive(Clone)]
pub(super) enum DbTls {
    Disabled(NoTls),
    Rustls(MakeRustlsConnect),
}

impl DbTls {
    /// Loads the certificate authorities that `tls` names.
    pub(super) fn new(tls: &Tls) -> Result<Self, StoreError> {
        let ca_file = match tls {
            Tls::Disable => return Ok(Self::Disabled(NoTls)),
            Tls::VerifyFull { ca_file } => ca_file,
        };
        let certificates = match ca_file {
            None => rustls_native_certs::load_native_certs().certs,
            Some(path) => {
                let fault = |error| StoreError::Setup(format!("{}: {error}", path.display()));
                let certificates = CertificateDer::pem_file_iter(path).map_err(fault)?;
                certificates.collect::<Result<_, _>>().map_err(fault)?
            }
        };
        let mut roots = RootCertStore::empty();
        let (added, _unusable) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(StoreError::Setup("no certificate authority: set MRU_DB_CA_FILE".into()));
        }
        let config =
            ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .map_err(|error| StoreError::Setup(error.to_string()))?
                .with_root_certificates(roots)
                .with_no_client_auth();
        Ok(Self::Rustls(MakeRustlsConnect::new(config)))
    }
}
