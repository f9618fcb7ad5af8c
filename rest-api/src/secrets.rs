//! What the service reads from Secrets Manager, and reads again when it changes.

use std::time::{Duration, Instant};

use aws::{Secret, SecretError, SecretsManager, Stage};
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use crate::config::{ApiToken, Login, TokenDigest};

/// The tokens that writes may carry: of a secret the current text, and the one before, so that a
/// rotation finds no client unprepared.
pub(crate) async fn api_tokens(
    token: &ApiToken,
    secrets: &SecretsManager,
) -> Result<Vec<TokenDigest>, SecretError> {
    let id = match token {
        ApiToken::Fixed(digest) => return Ok(vec![digest.clone()]),
        ApiToken::Managed(id) => id,
    };
    let current = secrets.current(id).await?;
    let previous = secrets.get(id, Stage::Previous).await?;
    let texts = [Some(current), previous].into_iter().flatten();
    let texts: Vec<Secret> = texts.filter(|text| !text.expose().trim().is_empty()).collect();
    if texts.is_empty() {
        return Err(SecretError::new(id, "it is empty"));
    }
    Ok(texts.iter().map(|text| TokenDigest::of(text.expose().trim())).collect())
}

/// A database user and the password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// The database's credentials as they are now.
#[derive(Debug)]
pub(crate) struct CurrentCredentials {
    current: watch::Sender<Credentials>,
    source: Option<Source>,
}

/// Where they can be read again.
#[derive(Debug)]
struct Source {
    secrets: SecretsManager,
    secret_id: String,
    user: Option<String>,
    /// Held while somebody reads, so that a hundred refused connections ask once.
    last_read: Mutex<Instant>,
}

impl CurrentCredentials {
    /// In a rotation the database knows the new password a moment before the secret shows it: the
    /// secret is read again after this long.
    const PAUSE: Duration = Duration::from_millis(300);

    /// # Errors
    /// If the secret cannot be read.
    pub(crate) async fn new(login: &Login, secrets: &SecretsManager) -> Result<Self, SecretError> {
        match login {
            Login::Fixed { user, password } => {
                let fixed = Credentials { user: user.clone(), password: password.clone() };
                Ok(Self { current: watch::Sender::new(fixed), source: None })
            }
            Login::Managed { secret_id, user } => {
                let source = Source {
                    secrets: secrets.clone(),
                    secret_id: secret_id.clone(),
                    user: user.clone(),
                    last_read: Mutex::new(Instant::now()),
                };
                Ok(Self { current: watch::Sender::new(source.read().await?), source: Some(source) })
            }
        }
    }

    pub(crate) fn get(&self) -> Credentials {
        self.current.borrow().clone()
    }

    /// The database has refused `refused`: reads the credentials again, unless somebody else just
    /// has. Returns whether another attempt makes sense.
    pub(crate) async fn refresh(&self, refused: &Credentials) -> bool {
        let Some(source) = &self.source else { return false };
        let mut last_read = source.last_read.lock().await;
        if *self.current.borrow() != *refused {
            return true;
        }
        tokio::time::sleep(Self::PAUSE.saturating_sub(last_read.elapsed())).await;
        let read = source.read().await;
        *last_read = Instant::now();
        match read {
            Ok(read) if read == *refused => true,
            Ok(read) => {
                info!(user = read.user, "the database's credentials have changed");
                self.current.send_replace(read);
                true
            }
            Err(error) => {
                warn!(%error, "the database refuses the credentials known");
                false
            }
        }
    }
}

impl Source {
    async fn read(&self) -> Result<Credentials, SecretError> {
        /// As RDS writes it.
        ///
        /// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html>
        #[derive(Deserialize)]
        struct DatabaseSecret {
            username: Option<String>,
            password: String,
        }

        let text = self.secrets.current(&self.secret_id).await?;
        // Without serde's own words, which could quote the secret.
        let secret: DatabaseSecret = serde_json::from_str(text.expose()).map_err(|_| {
            SecretError::new(&self.secret_id, r#"expected {"username": "...", "password": "..."}"#)
        })?;
        let user = self.user.clone().or(secret.username).ok_or_else(|| {
            SecretError::new(&self.secret_id, "it has no username, and MRU_DB_USER is not set")
        })?;
        Ok(Credentials { user, password: Secret::new(secret.password) })
    }
}
