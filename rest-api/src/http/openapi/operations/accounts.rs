//! `/auth/me` and `/.well-known/jwks.json`.

use http::StatusCode;
use serde_json::json;

use super::{super::Schemas, ACCOUNTS, Answer, Operation};
use crate::http::accounts::Me;

/// `GET /auth/me`.
pub(in crate::http) fn read_me(schemas: &mut Schemas) -> Operation {
    let description = "\
        Tells who the token of the request stands for, and until when it holds. A client can check a token like this.";
    Operation::new("readMe", ACCOUNTS, "Read who is calling", description)
        .answer(StatusCode::OK, Answer::new("Who is calling.").json(schemas.of::<Me<'_>>()))
}

/// `GET /.well-known/jwks.json`.
pub(in crate::http) fn read_keys(_: &mut Schemas) -> Operation {
    let description = "\
        Returns the public keys of the access tokens that the service issues (RFC 7517). During a rotation there are \
        several; without a signing key there is none.";
    let key = json!({
        "type": "object",
        "required": ["kty", "kid", "crv", "x", "alg", "use"],
        "properties": {
            "kty": { "type": "string", "const": "OKP" },
            "crv": { "type": "string", "const": "Ed25519" },
            "x": { "type": "string", "description": "The public key, base64url." },
            "kid": { "type": "string", "description": "The thumbprint of the key (RFC 7638)." },
            "alg": { "type": "string", "const": "EdDSA" },
            "use": { "type": "string", "const": "sig" },
        },
    });
    let keys = Answer::new("The keys.").headers(&["Cache-Control"]).json(json!({
        "type": "object",
        "required": ["keys"],
        "properties": { "keys": { "type": "array", "items": key } },
    }));
    Operation::new("readKeys", ACCOUNTS, "Read the keys of access tokens", description)
        .answer(StatusCode::OK, keys)
}
