//! Refresh tokens: the number of their session, a secret that all tokens of the session share, and a secret of their
//! own.

use aws::Secret;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::Digests;

/// The length of each secret, in bytes.
const LENGTH: usize = 32;

/// The system has no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system has no random numbers")]
pub(crate) struct NoRandomNumbers;

/// A refresh token.
pub(crate) struct RefreshToken {
    pub(crate) session: Uuid,
    family: [u8; LENGTH],
    own: [u8; LENGTH],
}

impl RefreshToken {
    /// Returns the first token of a new session.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn first() -> Result<Self, NoRandomNumbers> {
        Ok(Self { session: Uuid::new_v4(), family: random()?, own: random()? })
    }

    /// Returns the next token of the same session.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn next(&self) -> Result<Self, NoRandomNumbers> {
        Ok(Self { own: random()?, ..*self })
    }

    /// Reads a token that a client sends. None if it cannot be one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (session, secrets) = bytes.split_first_chunk::<16>()?;
        let (family, own) = secrets.split_first_chunk::<LENGTH>()?;
        let own = own.try_into().ok()?;
        Some(Self { session: Uuid::from_bytes(*session), family: *family, own })
    }

    /// Returns the token as the client gets it.
    pub(crate) fn text(&self) -> Secret {
        let bytes = [self.session.as_bytes(), &self.family[..], &self.own[..]].concat();
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Returns what the database keeps of the token.
    pub(crate) fn digests(&self) -> Digests {
        Digests {
            family: Sha256::digest(self.family).into(),
            token: Sha256::digest(self.own).into(),
        }
    }
}

fn random() -> Result<[u8; LENGTH], NoRandomNumbers> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomNumbers)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_token_is_of_the_same_family() {
        let first = RefreshToken::first().unwrap();
        let read = RefreshToken::parse(first.text().expose()).unwrap();
        let next = read.next().unwrap();
        assert_eq!((first.session, first.digests().family), (next.session, next.digests().family));
        assert_eq!(first.digests().token, read.digests().token);
        assert_ne!(first.digests().token, next.digests().token);
        for text in
            ["", "x", "a.b.c", &first.text().expose()[1..], &format!("{}AA", first.text().expose())]
        {
            assert!(RefreshToken::parse(text).is_none(), "{text}");
        }
    }
}
