//! Access tokens of an outside issuer.
//!
//! `oidc-provider` from npm, which is certified by the OpenID Foundation, signs users in by the authorization code
//! flow. `Hostile` is a server that a test controls: it counts how often its keys are fetched, and may lie.

#![expect(clippy::disallowed_methods, reason = "limits and timeouts do not matter in a test")]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws::Secret;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use rest_api::{
    accounts::{Role, generate_key},
    config::{Config, OutsideIssuer},
};
use ring::hmac;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
};
use warp::Filter;

use crate::support::{
    Response, Service, TOKEN, eventually, free_address,
    movies::MOVIE,
    node::node,
    tokens::{Parts, seconds_from_now, token, token_of},
};

const AUDIENCE: &str = "https://movies.example.com";

fn programs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/oidc")
}

/// A running provider. It stops when this is dropped.
struct Provider {
    issuer: String,
    _child: Child,
    /// Open, because the provider goes on writing.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Provider {
    /// Starts a provider that signs with this algorithm.
    async fn start(algorithm: &str) -> Self {
        let mut command = node(&programs(), "provider.mjs").await;
        command.arg(algorithm).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let issuer = lines.next_line().await.unwrap().unwrap();
        Self { issuer, _child: child, _output: lines }
    }

    /// Signs a user in, and returns the access token for a resource.
    async fn sign_in(&self, user: &str, resource: &str) -> String {
        run_node("sign-in.mjs", &[&self.issuer, user, resource]).await
    }
}

async fn run_node(program: &str, arguments: &[&str]) -> String {
    let mut command = node(&programs(), program).await;
    let output = command.args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn outside_issuer(issuer: &str) -> OutsideIssuer {
    OutsideIssuer {
        issuer: issuer.to_owned(),
        audiences: vec!["another".to_owned(), AUDIENCE.to_owned()],
        roles_claim: "realm_access.roles".to_owned(),
        name_claim: "preferred_username".to_owned(),
        min_fetch_interval: Duration::from_secs(60),
    }
}

/// Starts a service that accepts the tokens of `issuer`.
async fn service(issuer: &str) -> Service {
    let outside = |config: &mut Config| {
        config.outside_issuer = Some(outside_issuer(issuer));
        config.public_ledger = false;
    };
    Service::builder().config(outside).start().await
}

async fn get(service: &Service, path: &str, token: &str) -> Response {
    service.send(service.request(Method::GET, path).bearer_auth(token)).await
}

async fn status(service: &Service, token: &str) -> StatusCode {
    get(service, "/auth/me", token).await.status
}

async fn assert_refused(service: &Service, token: &str, reason: &str) {
    let response = get(service, "/auth/me", token).await;
    assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{reason}: {}", response.text);
    let challenge = response.header("www-authenticate");
    assert!(challenge.contains(reason), "{challenge} lacks: {reason}");
}

#[tokio::test]
async fn a_provider_signs_users_in_and_their_roles_count() {
    let provider = Provider::start("RS256").await;
    let service = service(&provider.issuer).await;
    let ada = provider.sign_in("ada", AUDIENCE).await;
    let me = get(&service, "/auth/me", &ada).await.json();
    let name = format!("ada ({})", provider.issuer.trim_start_matches("http://"));
    assert_eq!((&me["name"], &me["roles"]), (&json!(name), &json!(["editor"])), "{me}");

    // An editor posts a movie, edits it, and reads the ledger; it does not notify.
    let post = |token: &str| {
        let request = service.request(Method::POST, "/movies").bearer_auth(token);
        service.send(request.header("content-type", "application/json").body(MOVIE))
    };
    assert_eq!(post(&ada).await.status, StatusCode::CREATED);
    let mut movie = service.movies("").await.remove(0);
    let path = format!("/movies/{}", movie["id"]);
    let present = get(&service, &path, &ada).await;
    movie["extract"] = "Edited by Ada.".into();
    let put = |token: &str| {
        let request = service.request(Method::PUT, &path).bearer_auth(token);
        let request = request.header("if-match", present.header("etag"));
        let request = request.header("content-type", "application/json");
        service.send(request.body(movie.to_string()))
    };
    let edited = put(&ada).await;
    assert_eq!(edited.status, StatusCode::OK, "{}", edited.text);
    let now = get(&service, &path, &ada).await.json();
    assert_eq!(
        (&now["extract"], &now["provenance"]["edited_by"]),
        (&json!("Edited by Ada."), &json!(name)),
        "{now}"
    );
    assert_eq!(get(&service, "/ingests", &ada).await.status, StatusCode::OK);
    let notify = service.request(Method::POST, "/notify").bearer_auth(&ada).body("{}");
    assert_eq!(service.send(notify).await.status, StatusCode::FORBIDDEN);

    // A role that is not one of ours is none.
    let bob = provider.sign_in("bob", AUDIENCE).await;
    assert_eq!(get(&service, "/auth/me", &bob).await.json()["roles"], json!([]));
    assert_eq!(post(&bob).await.status, StatusCode::FORBIDDEN);
    assert_eq!(put(&bob).await.status, StatusCode::FORBIDDEN);
    assert_eq!(get(&service, "/ingests", &bob).await.status, StatusCode::FORBIDDEN);

    let elsewhere = provider.sign_in("ada", "https://elsewhere.example.com").await;
    assert_refused(&service, &elsewhere, "audience").await;
    // Ours and the API token hold beside it.
    for own in [&token(&[Role::Editor]), TOKEN] {
        assert_eq!(status(&service, own).await, StatusCode::OK);
    }
}

#[tokio::test]
async fn tokens_of_each_algorithm_hold() {
    for algorithm in ["PS256", "ES256", "EdDSA"] {
        let provider = Provider::start(algorithm).await;
        let service = service(&provider.issuer).await;
        let token = provider.sign_in("ada", AUDIENCE).await;
        assert_eq!(Parts::of(&token).header["alg"], algorithm);
        assert_eq!(status(&service, &token).await, StatusCode::OK, "{algorithm}");
        // The roles of one, and the signature of another.
        let bob = provider.sign_in("bob", AUDIENCE).await;
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = bob.rsplit_once('.').unwrap();
        assert_refused(&service, &format!("{unsigned}.{signature}"), "signature").await;
    }
}

#[tokio::test]
async fn another_library_verifies_our_tokens() {
    let service = Service::start_without_workers().await;
    let own = token(&[Role::Editor, Role::Admin]);
    let claims = run_node("verify.mjs", &[&service.url("/.well-known/jwks.json"), &own]).await;
    let claims: Value = serde_json::from_str(&claims).unwrap();
    assert_eq!(claims["roles"], json!(["editor", "admin"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), 900);
}

/// An issuer that a test controls.
struct Hostile {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// How often the keys were asked for.
    fetched: AtomicUsize,
    keys: Mutex<Value>,
    /// What discovery says, if that is not the truth.
    discovery: Mutex<Option<Value>>,
}

impl Hostile {
    async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    async fn start_at(address: SocketAddr) -> Self {
        let state = Arc::new(State {
            fetched: AtomicUsize::new(0),
            keys: Mutex::new(json!([])),
            discovery: Mutex::new(None),
        });
        let socket = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (asked, counted) = (Arc::clone(&state), Arc::clone(&state));
        let discovery = warp::path!(".well-known" / "openid-configuration").map(move || {
            let issuer = format!("http://{address}");
            let truth = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") });
            warp::reply::json(&asked.discovery.lock().unwrap().clone().unwrap_or(truth))
        });
        let keys = warp::path!("keys").map(move || {
            counted.fetched.fetch_add(1, Ordering::SeqCst);
            warp::reply::json(&json!({ "keys": *counted.keys.lock().unwrap() }))
        });
        tokio::spawn(warp::serve(discovery.or(keys)).incoming(socket).run());
        Self { address, state }
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn fetched(&self) -> usize {
        self.state.fetched.load(Ordering::SeqCst)
    }

    fn publish(&self, keys: &[Value]) {
        *self.state.keys.lock().unwrap() = keys.into();
    }

    /// Returns a token of this issuer that names a key.
    fn parts(&self, kid: &str) -> Parts {
        let own = Parts::of(&token(&[]));
        let header = json!({ "alg": "EdDSA", "kid": kid });
        let claims = json!({
            "iss": self.issuer(), "aud": AUDIENCE, "sub": "eve", "exp": own.claims["exp"],
            "realm_access": { "roles": ["editor"] },
        });
        Parts { header, claims }
    }
}

/// Returns a private key, and the public key with this id.
async fn key(kid: &str) -> (Secret, Value) {
    let key = generate_key().unwrap();
    // As the service publishes it.
    let own = |config: &mut Config| {
        config.jwt_key = Some(rest_api::config::JwtKey::Fixed(key.clone()));
    };
    let service = Service::builder().config(own).start().await;
    let mut public = service.get("/.well-known/jwks.json").await.json()["keys"][0].take();
    public["kid"] = kid.into();
    (key, public)
}

#[tokio::test]
async fn forged_tokens_of_an_outside_issuer_are_refused() {
    let hostile = Hostile::start().await;
    let (private, public) = key("one").await;
    let mut for_encryption = public.clone();
    for_encryption["kid"] = "encryption".into();
    for_encryption["use"] = "enc".into();
    let shared = json!({ "kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256" });
    let unknown = json!({ "kty": "LATTICE", "kid": "unknown", "crv": 7 });
    hostile.publish(&[unknown, shared, for_encryption, public.clone()]);
    let service = service(&hostile.issuer()).await;
    let parts = || hostile.parts("one");
    let good = parts().signed_with(&private);
    assert_eq!(status(&service, &good).await, StatusCode::OK);

    let claim = |name: &str, value: Value| parts().claim(name, value).signed_with(&private);
    let hmac = |kid: &str, secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let parts = hostile.parts(kid).header("alg", "HS256");
        parts.signed(|message| hmac::sign(&key, message).as_ref().to_vec())
    };
    let issuer = hostile.issuer();
    let public = public["x"].as_str().unwrap().as_bytes();
    for (token, reason) in [
        (parts().header("alg", "none").signed(|_| Vec::new()), "unknown"),
        (hmac("one", public), "not for the algorithm"),
        (hmac("shared", b"secret"), "key that is not known"),
        (hostile.parts("encryption").signed_with(&private), "key that is not known"),
        (hostile.parts("two").signed_with(&private), "key that is not known"),
        (parts().header("alg", "RS256").signed_with(&private), "not for the algorithm"),
        (parts().signed_with(&generate_key().unwrap()), "signature"),
        // Ours, with its key named like one of theirs.
        (Parts::of(&token_of(&private)).header("kid", "one").signed_with(&private), "issuer"),
        (claim("iss", json!(format!("{issuer}/"))), "issuer"),
        (claim("iss", json!([issuer])), "issuer"),
        (claim("aud", json!("elsewhere")), "audience"),
        (claim("aud", json!(["elsewhere"])), "audience"),
        (claim("aud", Value::Null), "audience"),
        (claim("exp", seconds_from_now(-70)), "expired"),
        (claim("exp", Value::Null), "wrong type"),
        (claim("exp", json!("4102444800")), "wrong type"),
        (claim("nbf", seconds_from_now(90)), "not valid yet"),
        (claim("nbf", json!("0")), "wrong type"),
        (claim("sub", Value::Null), "wrong type"),
        (claim("token_use", json!("id")), "ID token"),
        (claim("typ", json!("ID")), "ID token"),
        (claim("sub", json!(["eve"])), "wrong type"),
    ] {
        assert_refused(&service, &token, reason).await;
    }
    // Within what clocks may differ; in an array; and as Amazon Cognito names the audience.
    for token in [
        claim("exp", seconds_from_now(-30)),
        claim("nbf", seconds_from_now(30)),
        claim("aud", json!(["elsewhere", AUDIENCE])),
        parts().claim("aud", Value::Null).claim("client_id", AUDIENCE).signed_with(&private),
    ] {
        assert_eq!(status(&service, &token).await, StatusCode::OK);
    }
    // Roles of a wrong type are none.
    for roles in
        [json!(7), json!({ "editor": true }), json!([7, null, ["editor"]]), json!("viewer")]
    {
        let token = claim("realm_access", json!({ "roles": roles }));
        assert_eq!(get(&service, "/auth/me", &token).await.json()["roles"], json!([]), "{roles}");
    }
    let name = claim("preferred_username", json!("e\u{202e}ve\n"));
    assert_eq!(
        get(&service, "/auth/me", &name).await.json()["name"],
        format!("e\\u{{202e}}ve\\n ({})", hostile.address)
    );
    assert_eq!(hostile.fetched(), 1);
}

#[tokio::test]
async fn a_flood_of_key_ids_fetches_the_keys_once_a_minute() {
    let hostile = Hostile::start().await;
    let (private, public) = key("one").await;
    hostile.publish(std::slice::from_ref(&public));
    let service = service(&hostile.issuer()).await;
    eventually(async || hostile.fetched() == 1).await;
    let tokens: Vec<String> =
        (0..200).map(|n| hostile.parts(&format!("kid-{n}")).signed_with(&private)).collect();
    for statuses in [
        join_all(tokens[..100].iter().map(|token| status(&service, token))).await,
        join_all(tokens[100..].iter().map(|token| status(&service, token))).await,
    ] {
        assert!(statuses.iter().all(|status| *status == StatusCode::UNAUTHORIZED));
    }
    assert_eq!(hostile.fetched(), 1);
    assert_eq!(status(&service, &hostile.parts("one").signed_with(&private)).await, StatusCode::OK);
}

#[tokio::test]
async fn keys_are_fetched_again_for_a_key_that_is_not_known() {
    let hostile = Hostile::start().await;
    let ((old, old_public), (new, new_public)) = (key("old").await, key("new").await);
    hostile.publish(&[old_public]);
    let outside = |config: &mut Config| {
        let min_fetch_interval = Duration::from_millis(500);
        let issuer = outside_issuer(&hostile.issuer());
        config.outside_issuer = Some(OutsideIssuer { min_fetch_interval, ..issuer });
    };
    let service = Service::builder().config(outside).start().await;
    let (of_old, of_new) =
        (hostile.parts("old").signed_with(&old), hostile.parts("new").signed_with(&new));
    assert_eq!(status(&service, &of_old).await, StatusCode::OK);
    hostile.publish(&[new_public]);
    eventually(async || status(&service, &of_new).await == StatusCode::OK).await;
    assert_eq!(hostile.fetched(), 2);
    // Another token of the old key: the first one is remembered for a few minutes.
    let another = hostile.parts("old").claim("jti", "another").signed_with(&old);
    assert_refused(&service, &another, "key that is not known").await;
}

#[tokio::test]
async fn without_its_keys_tokens_cannot_be_checked_and_all_else_works() {
    let address = free_address();
    let issuer = format!("http://{address}");
    let service = service(&issuer).await;
    let (private, public) = key("one").await;
    let parts = || {
        let own = Parts::of(&token(&[]));
        let claims = json!({
            "iss": issuer, "aud": AUDIENCE, "sub": "eve", "exp": own.claims["exp"],
        });
        Parts { header: json!({ "alg": "EdDSA", "kid": "one" }), claims }.signed_with(&private)
    };
    let response = get(&service, "/auth/me", &parts()).await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.text);
    assert_eq!(response.header("retry-after"), "10");
    assert_eq!(service.send(service.post("/movies", MOVIE)).await.status, StatusCode::CREATED);
    assert_eq!(status(&service, &token(&[Role::Editor])).await, StatusCode::OK);

    let hostile = Hostile::start_at(address).await;
    hostile.publish(&[public]);
    eventually(async || status(&service, &parts()).await == StatusCode::OK).await;
}

#[tokio::test]
async fn an_issuer_with_another_name_or_unprotected_keys_is_not_believed() {
    for discovery in [
        json!({ "issuer": "http://127.0.0.1:1", "jwks_uri": "KEYS" }),
        json!({ "issuer": "ISSUER", "jwks_uri": "http://192.0.2.1/keys" }),
        json!({ "issuer": "ISSUER", "jwks_uri": "file:///etc/passwd" }),
        json!({ "issuer": "ISSUER" }),
        json!("x".repeat(2 << 20)),
    ] {
        let hostile = Hostile::start().await;
        let (private, public) = key("one").await;
        hostile.publish(&[public]);
        let issuer = hostile.issuer();
        let discovery = discovery.to_string().replace("ISSUER", &issuer);
        let discovery = discovery.replace("KEYS", &format!("{issuer}/keys"));
        *hostile.state.discovery.lock().unwrap() = Some(serde_json::from_str(&discovery).unwrap());
        let service = service(&issuer).await;
        let token = hostile.parts("one").signed_with(&private);
        assert_eq!(status(&service, &token).await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(hostile.fetched(), 0);
    }
}
