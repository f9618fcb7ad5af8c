//! The signatures of tokens, by ring. `jsonwebtoken` has no backend for it: those that it has are aws-lc, which is
//! banned here, and pure Rust, whose RSA has a known timing side channel (docs/adr/0014-accounts.md).
//!
//! Only signatures by a private key are known, so that no public key can serve as a shared secret.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    jwk::ThumbprintHash,
    signature::{self, Signer, Verifier},
};
use ring::{
    digest,
    error::Unspecified,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, Ed25519KeyPair, KeyPair,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
        RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
        RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};

/// The algorithms of tokens that are accepted.
pub(super) const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::EdDSA,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
];

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match algorithm {
        Algorithm::EdDSA => Ok(Box::new(Ed25519Signer(key_pair(key.as_bytes())?))),
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
    verifier_factory: |algorithm, key| {
        if !ALGORITHMS.contains(algorithm) || algorithm.family() != key.family() {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() }))
    },
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ed_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        compute_digest: |data, hash| match hash {
            ThumbprintHash::SHA256 => Ok(digest::digest(&digest::SHA256, data).as_ref().to_vec()),
            _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
        },
    },
};

/// Makes this the provider of the process, unless there is one.
pub(super) fn install() {
    // Fails if it is the provider already: a process may run several services.
    let _ = PROVIDER.install_default();
}

/// Returns the public key of an Ed25519 private key.
///
/// # Errors
/// If it is not one.
pub(super) fn public_key(pkcs8: &[u8]) -> Result<DecodingKey, Error> {
    Ok(DecodingKey::from_ed_der(key_pair(pkcs8)?.public_key().as_ref()))
}

/// Returns a new Ed25519 private key, in PKCS #8.
///
/// # Errors
/// If the system has no randomness.
pub(super) fn generate() -> Result<Vec<u8>, Unspecified> {
    Ok(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())?.as_ref().to_vec())
}

/// Reads a private key. OpenSSL writes it without the public key.
fn key_pair(pkcs8: &[u8]) -> Result<Ed25519KeyPair, Error> {
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
    pair.map_err(|_| ErrorKind::InvalidEddsaKey.into())
}

struct Ed25519Signer(Ed25519KeyPair);

impl Signer<Vec<u8>> for Ed25519Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for Ed25519Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl RingVerifier {
    fn verify_rsa(
        &self,
        parameters: &'static RsaParameters,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), signature::Error> {
        let DecodingKeyKind::RsaModulusExponent { n, e } = self.key.kind() else {
            return Err(signature::Error::new());
        };
        let verified = RsaPublicKeyComponents { n, e }.verify(parameters, message, signature);
        verified.map_err(|_| signature::Error::new())
    }

    fn verify_curve(
        &self,
        algorithm: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), signature::Error> {
        let key = self.key.try_get_as_bytes().map_err(|_| signature::Error::new())?;
        let verified = UnparsedPublicKey::new(algorithm, key).verify(message, signature);
        verified.map_err(|_| signature::Error::new())
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        match self.algorithm {
            Algorithm::EdDSA => self.verify_curve(&ED25519, message, signature),
            Algorithm::ES256 => self.verify_curve(&ECDSA_P256_SHA256_FIXED, message, signature),
            Algorithm::ES384 => self.verify_curve(&ECDSA_P384_SHA384_FIXED, message, signature),
            Algorithm::PS256 => self.verify_rsa(&RSA_PSS_2048_8192_SHA256, message, signature),
            Algorithm::PS384 => self.verify_rsa(&RSA_PSS_2048_8192_SHA384, message, signature),
            Algorithm::PS512 => self.verify_rsa(&RSA_PSS_2048_8192_SHA512, message, signature),
            Algorithm::RS256 => self.verify_rsa(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Algorithm::RS384 => self.verify_rsa(&RSA_PKCS1_2048_8192_SHA384, message, signature),
            Algorithm::RS512 => self.verify_rsa(&RSA_PKCS1_2048_8192_SHA512, message, signature),
            _ => Err(signature::Error::new()),
        }
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
