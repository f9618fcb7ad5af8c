//! Access tokens of the service: who they stand for, attacks on them, and the rotation of their key.

use aws::Secret;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use rest_api::{
    accounts::{Role, generate_key},
    config::{Config, JwtKey},
};
use ring::hmac;
use serde_json::{Value, json};

use crate::support::{
    Response, Service, TOKEN,
    movies::MOVIE,
    tokens::{KEY, Parts, bound_token, seconds_from_now, token, token_of},
};

async fn get(service: &Service, path: &str, token: &str) -> Response {
    service.send(service.request(Method::GET, path).bearer_auth(token)).await
}

/// Checks that a token is refused for a reason with these words.
async fn assert_refused(service: &Service, token: &str, reason: &str) {
    let response = get(service, "/auth/me", token).await;
    assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{reason}: {}", response.text);
    assert_eq!(response.json()["code"], "unauthorized");
    let challenge = response.header("www-authenticate");
    assert!(challenge.starts_with("Bearer realm=\"movies-r-us\", error=\"invalid_token\""));
    assert!(challenge.contains(reason), "{challenge} lacks: {reason}");
}

#[tokio::test]
async fn a_token_tells_who_has_it_and_until_when() {
    let service = Service::start_without_workers().await;
    let bound = bound_token(&[Role::Producer, Role::Editor], &["studio/"]);
    let me = get(&service, "/auth/me", &bound).await;
    assert_eq!(me.header("cache-control"), "no-store");
    let mut me = me.json();
    let ends_at: chrono::DateTime<chrono::Utc> =
        serde_json::from_value(me["expires_at"].take()).unwrap();
    let lifetime = (ends_at - chrono::Utc::now()).num_seconds();
    assert!((840..=900).contains(&lifetime), "{lifetime}");
    let expected = json!({
        "name": "ada", "roles": ["producer", "editor"], "expires_at": null, "prefixes": ["studio/"],
    });
    assert_eq!(me, expected);

    let me = get(&service, "/auth/me", TOKEN).await.json();
    let expected =
        json!({ "name": "API token", "roles": ["service"], "expires_at": null, "prefixes": [] });
    assert_eq!(me, expected);
    let nobody = service.get("/auth/me").await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.header("www-authenticate"), "Bearer realm=\"movies-r-us\"");
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let service = Service::start_without_workers().await;
    let good = token(&[Role::Editor]);
    assert_eq!(get(&service, "/auth/me", &good).await.status, StatusCode::OK);
    let parts = || Parts::of(&good);
    // Changed in nothing, to show that the forger can sign.
    let resigned = parts().signed_with(&KEY);
    assert_eq!(get(&service, "/auth/me", &resigned).await.status, StatusCode::OK);

    let public = service.get("/.well-known/jwks.json").await.json()["keys"][0].clone();
    let public = URL_SAFE_NO_PAD.decode(public["x"].as_str().unwrap()).unwrap();
    let hmac = |secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        parts().header("alg", "HS256").signed(|message| hmac::sign(&key, message).as_ref().to_vec())
    };
    let other = generate_key().unwrap();
    let claim = |name: &str, value: Value| parts().claim(name, value).signed_with(&KEY);
    let (unsigned, _) = good.rsplit_once('.').unwrap();
    let mut tampered: Vec<&str> = good.split('.').collect();
    let admin = Parts::of(&token(&[Role::Admin])).signed_with(&KEY);
    tampered[1] = admin.split('.').nth(1).unwrap();
    let wrong_type = "missing, or has a wrong type";

    for (token, reason) in [
        (parts().header("alg", "none").signed(|_| Vec::new()), "unknown"),
        (parts().header("alg", "NONE").signed_with(&KEY), "unknown"),
        (format!("{unsigned}."), "signature"),
        (unsigned.to_owned(), "unknown"),
        (hmac(&public), "algorithm"),
        (hmac(KEY.expose().as_bytes()), "algorithm"),
        (parts().header("alg", "ES256").signed_with(&KEY), "algorithm"),
        (parts().header("kid", "another").signed_with(&KEY), "key that is not known"),
        (parts().header("kid", Value::Null).signed_with(&KEY), "key that is not known"),
        (parts().header("kid", 7).signed_with(&KEY), "unknown"),
        (parts().signed_with(&other), "signature"),
        (token_of(&other), "key that is not known"),
        (parts().header("typ", "JWT").signed_with(&KEY), "no access token"),
        (parts().header("crit", json!(["b64"])).signed_with(&KEY), "critical"),
        (tampered.join("."), "signature"),
        (claim("exp", seconds_from_now(-20)), "expired"),
        (claim("nbf", seconds_from_now(60)), "not valid yet"),
        (claim("aud", json!("another")), "audience"),
        (claim("iss", json!("another")), "issuer"),
        (claim("exp", Value::Null), wrong_type),
        (claim("exp", json!("4102444800")), wrong_type),
        (claim("exp", json!([4_102_444_800_u64])), wrong_type),
        (claim("exp", json!(-1)), wrong_type),
        (claim("exp", json!(u64::MAX)), "out of range"),
        (claim("iat", json!(1e300)), "out of range"),
        (claim("nbf", json!("0")), wrong_type),
        (claim("aud", json!(["movies-r-us"])), wrong_type),
        (claim("iss", json!(["movies-r-us"])), wrong_type),
        (claim("sub", json!(7)), wrong_type),
        (claim("sub", Value::Null), wrong_type),
        (claim("roles", json!("admin")), wrong_type),
        (claim("prefixes", json!("")), wrong_type),
        (claim("sid", Value::Null), wrong_type),
        (format!("{good}.{good}"), "unknown"),
        ("x".repeat(9 << 10), "longer than 8 KiB"),
        ("\u{e9}".to_owned(), "not ASCII"),
        (String::new(), "unknown"),
        ("..".to_owned(), "unknown"),
    ] {
        assert_refused(&service, &token, reason).await;
    }
    // Still: what was refused has not become known.
    assert_eq!(get(&service, "/auth/me", &good).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_doubled_header_and_a_token_of_100_kb_are_refused() {
    let service = Service::start_without_workers().await;
    let good = token(&[Role::Editor]);
    for first in [&good, "wrong"] {
        let request = service.request(Method::GET, "/auth/me").bearer_auth(first);
        let response = service.send(request.bearer_auth(&good)).await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED);
        assert!(response.header("www-authenticate").contains("more than one header"));
    }
    let response = get(&service, "/auth/me", &"x".repeat(100 << 10)).await;
    assert_eq!(response.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn a_wrong_token_is_refused_where_none_is_needed() {
    let service = Service::start_without_workers().await;
    for path in ["/movies", "/movies/1", "/ingests", "/genres", "/"] {
        // Also when the answer is in memory.
        for _ in 0..2 {
            service.get(path).await;
            assert_eq!(
                get(&service, path, "wrong").await.status,
                StatusCode::UNAUTHORIZED,
                "{path}"
            );
        }
    }
    // A client with an old token can still ask for the keys, and a probe for the state.
    for path in ["/healthz", "/readyz", "/metrics", "/.well-known/jwks.json"] {
        assert_eq!(get(&service, path, "wrong").await.status, StatusCode::OK, "{path}");
    }
    // Another scheme is not for us.
    let other = service.request(Method::GET, "/movies").basic_auth("proxy", Some("password"));
    assert_eq!(service.send(other).await.status, StatusCode::OK);
}

#[tokio::test]
async fn answers_to_callers_are_private() {
    let service = Service::start_without_workers().await;
    assert_eq!(service.send(service.post("/movies", MOVIE)).await.status, StatusCode::CREATED);
    let editor = token(&[Role::Editor]);
    for path in ["/movies", "/movies?limit=1", "/genres"] {
        for _ in 0..2 {
            let public = service.get(path).await;
            assert_eq!(public.header("cache-control"), "public, no-cache", "{path}");
            let private = get(&service, path, &editor).await;
            assert_eq!(private.header("cache-control"), "private, no-cache", "{path}");
            assert_eq!(private.text, public.text);
        }
    }
}

#[tokio::test]
async fn a_token_does_not_outlive_its_end_in_memory() {
    let service = Service::start_without_workers().await;
    let ends = Parts::of(&token(&[Role::Editor])).claim("exp", seconds_from_now(2));
    let ends = ends.signed_with(&KEY);
    for _ in 0..2 {
        assert_eq!(get(&service, "/auth/me", &ends).await.status, StatusCode::OK);
    }
    // The end, and how much clocks may differ.
    tokio::time::sleep(std::time::Duration::from_secs(14)).await;
    assert_refused(&service, &ends, "expired").await;
}

#[tokio::test]
async fn tokens_of_both_keys_hold_while_the_key_is_rotated() {
    let (old, new) = (generate_key().unwrap(), generate_key().unwrap());
    let with = |keys: &[&Secret]| {
        let pem: String = keys.iter().map(|key| key.expose()).collect();
        move |config: &mut Config| config.jwt_key = Some(JwtKey::Fixed(Secret::new(pem)))
    };
    let key_ids = async |service: &Service| -> Vec<String> {
        let keys = service.get("/.well-known/jwks.json").await.json()["keys"].clone();
        let id = |key: &Value| key["kid"].as_str().unwrap().to_owned();
        keys.as_array().unwrap().iter().map(id).collect()
    };
    let (of_old, of_new) = (token_of(&old), token_of(&new));
    let status =
        async |service: &Service, token: &str| get(service, "/auth/me", token).await.status;
    let (ok, unauthorized) = (StatusCode::OK, StatusCode::UNAUTHORIZED);

    let service = Service::builder().config(with(&[&old])).start().await;
    let before = key_ids(&service).await;
    assert_eq!(
        [status(&service, &of_old).await, status(&service, &of_new).await],
        [ok, unauthorized]
    );
    let mut service = service;
    for keys in [[&old, &new], [&new, &old]] {
        service = service.successor().config(with(&keys)).start().await;
        assert_eq!([status(&service, &of_old).await, status(&service, &of_new).await], [ok, ok]);
    }
    let both = key_ids(&service).await;
    assert_eq!((both.len(), &both[1..]), (2, &before[..]));
    let service = service.successor().config(with(&[&new])).start().await;
    assert_eq!(
        [status(&service, &of_old).await, status(&service, &of_new).await],
        [unauthorized, ok]
    );
    assert_eq!(key_ids(&service).await, both[..1]);
    // The API token has nothing to do with it.
    assert_eq!(status(&service, TOKEN).await, ok);
}

#[tokio::test]
async fn without_a_key_the_api_token_still_works() {
    let without = |config: &mut Config| config.jwt_key = None;
    let service = Service::builder().config(without).start().await;
    assert_eq!(service.get("/.well-known/jwks.json").await.json(), json!({ "keys": [] }));
    assert_refused(&service, &token(&[Role::Editor]), "key that is not known").await;
    assert_eq!(service.send(service.post("/movies", MOVIE)).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_of_openssl_is_taken_and_another_text_is_not() {
    let generate = |arguments: &[&str]| {
        let made = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap()
    };
    let key = Secret::new(generate(&["genpkey", "-algorithm", "ed25519"]));
    let own = |config: &mut Config| config.jwt_key = Some(JwtKey::Fixed(key.clone()));
    let service = Service::builder().config(own).start().await;
    assert_eq!(get(&service, "/auth/me", &token_of(&key)).await.status, StatusCode::OK);

    let rsa = generate(&["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"]);
    for text in ["", "secret", &rsa, &key.expose()[..80]] {
        let error = rest_api::accounts::Issuer::new([text]).err().unwrap().to_string();
        assert!(error.contains("openssl genpkey -algorithm ed25519"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
