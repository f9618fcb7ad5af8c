//! The API token, the key of access tokens, the token for TMDB and the database credentials, which may be secrets in
//! Secrets Manager.

use std::time::{Duration, Instant};

use aws::{Secret, SecretError, SecretsManager, Stage};
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use crate::config::{ApiToken, JwtKey, Login, TmdbToken, TokenDigest};

/// Returns the digests of the accepted API tokens. Of a secret, these are the current and the
/// previous version, so that clients may use the old token during a rotation.
///
/// # Errors
/// If the secret cannot be read, or is empty.
pub(crate) async fn api_tokens(
    token: &ApiToken,
    secrets: &SecretsManager,
) -> Result<Vec<TokenDigest>, SecretError> {
    let id = match token {
        ApiToken::Fixed(digest) => return Ok(vec![digest.clone()]),
        ApiToken::Managed(id) => id,
    };
    let texts = versions(id, secrets).await?;
    Ok(texts.iter().map(|text| TokenDigest::of(text.expose().trim())).collect())
}

/// Returns the keys of access tokens, as PEM. The first one signs. Of a secret, these are the current and the previous
/// version.
///
/// # Errors
/// If the secret cannot be read, or is empty.
pub(crate) async fn jwt_keys(
    key: &JwtKey,
    secrets: &SecretsManager,
) -> Result<Vec<Secret>, SecretError> {
    match key {
        JwtKey::Fixed(text) => Ok(vec![text.clone()]),
        JwtKey::Managed(id) => versions(id, secrets).await,
    }
}

/// Returns the token for TMDB.
///
/// # Errors
/// If the secret cannot be read, or is empty.
pub(crate) async fn tmdb_token(
    token: &TmdbToken,
    secrets: &SecretsManager,
) -> Result<Secret, SecretError> {
    let id = match token {
        TmdbToken::Fixed(text) => return Ok(text.clone()),
        TmdbToken::Managed(id) => id,
    };
    let text = secrets.current(id).await?;
    if text.expose().trim().is_empty() {
        return Err(SecretError::new(id, "it is empty"));
    }
    Ok(text)
}

/// Returns the current and the previous version of a secret, without those that are empty.
async fn versions(id: &str, secrets: &SecretsManager) -> Result<Vec<Secret>, SecretError> {
    let current = secrets.current(id).await?;
    let previous = secrets.get(id, Stage::Previous).await?;
    let texts = [Some(current), previous].into_iter().flatten();
    let texts: Vec<Secret> = texts.filter(|text| !text.expose().trim().is_empty()).collect();
    if texts.is_empty() {
        return Err(SecretError::new(id, "it is empty"));
    }
    Ok(texts)
}

/// A user of the database, and the password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// The database credentials that new connections use. They are read again after a rotation.
#[derive(Debug)]
pub(crate) struct CurrentCredentials {
    current: watch::Sender<Credentials>,
    /// None if the credentials are fixed.
    secret: Option<DatabaseSecret>,
}

/// The secret that holds the credentials.
#[derive(Debug)]
struct DatabaseSecret {
    secrets: SecretsManager,
    secret_id: String,
    /// The user, if it is not the secret's `username`.
    user: Option<String>,
    /// When the secret was last read. Locked during a read, so that many refused connections cause
    /// one read.
    last_read: Mutex<Instant>,
}

impl CurrentCredentials {
    /// The shortest time between two reads. A rotation changes the password in the database shortly
    /// before the secret, so that one read may be too early.
    const MIN_READ_INTERVAL: Duration = Duration::from_millis(300);

    /// Returns the credentials of `login`. A secret is read now.
    ///
    /// # Errors
    /// If the secret cannot be read.
    pub(crate) async fn new(login: &Login, secrets: &SecretsManager) -> Result<Self, SecretError> {
        match login {
            Login::Fixed { user, password } => {
                let fixed = Credentials { user: user.clone(), password: password.clone() };
                Ok(Self { current: watch::Sender::new(fixed), secret: None })
            }
            Login::Managed { secret_id, user } => {
                let secret = DatabaseSecret {
                    secrets: secrets.clone(),
                    secret_id: secret_id.clone(),
                    user: user.clone(),
                    last_read: Mutex::new(Instant::now()),
                };
                Ok(Self { current: watch::Sender::new(secret.read().await?), secret: Some(secret) })
            }
        }
    }

    /// Returns the credentials as last read.
    pub(crate) fn get(&self) -> Credentials {
        self.current.borrow().clone()
    }

    /// Reads the credentials again after the database has refused `refused`, unless another task has
    /// replaced them meanwhile. Returns whether the connection should be attempted again.
    pub(crate) async fn refresh(&self, refused: &Credentials) -> bool {
        let Some(secret) = &self.secret else { return false };
        let mut last_read = secret.last_read.lock().await;
        if *self.current.borrow() != *refused {
            return true;
        }
        tokio::time::sleep(Self::MIN_READ_INTERVAL.saturating_sub(last_read.elapsed())).await;
        let read = secret.read().await;
        *last_read = Instant::now();
        match read {
            Ok(read) if read == *refused => true,
            Ok(read) => {
                info!(user = read.user, "database credentials have changed, using the new ones");
                self.current.send_replace(read);
                true
            }
            Err(error) => {
                warn!(%error, "database refused the credentials, reading them again failed");
                false
            }
        }
    }
}

impl DatabaseSecret {
    async fn read(&self) -> Result<Credentials, SecretError> {
        /// The format of RDS.
        ///
        /// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html>
        #[derive(Deserialize)]
        struct Content {
            username: Option<String>,
            password: String,
        }

        let text = self.secrets.current(&self.secret_id).await?;
        // The error of serde_json could quote the secret, so it is dropped.
        let content: Content = serde_json::from_str(text.expose()).map_err(|_| {
            SecretError::new(&self.secret_id, r#"expected {"username": "...", "password": "..."}"#)
        })?;
        let user = self.user.clone().or(content.username).ok_or_else(|| {
            SecretError::new(&self.secret_id, "it has no username: add one, or set the user")
        })?;
        Ok(Credentials { user, password: Secret::new(content.password) })
    }
}
