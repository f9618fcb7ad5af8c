//! Who may call what: each route by each role, key prefixes, and the ledger.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use rest_api::{accounts::Role, config::Config};
use serde_json::Value;

use crate::support::{
    Response, Service, TOKEN,
    movies::MOVIE,
    notification,
    tokens::{bound_token, token},
};

/// Who may call each operation. README.md has the same table in words. A new route fails until it is here.
const RULES: &[(&str, Rule)] = &[
    ("GET /", Rule::Anybody),
    ("GET /.well-known/jwks.json", Rule::Unchecked),
    ("GET /auth/me", Rule::SignedIn),
    ("POST /auth/login", Rule::Unchecked),
    ("POST /auth/logout", Rule::Unchecked),
    ("POST /auth/password", Rule::SignedIn),
    ("POST /auth/refresh", Rule::Unchecked),
    ("GET /docs", Rule::Anybody),
    ("GET /docs/{file}", Rule::Anybody),
    ("GET /events", Rule::Anybody),
    ("GET /genres", Rule::Anybody),
    ("GET /healthz", Rule::Unchecked),
    ("GET /ingests", LEDGER),
    ("GET /ingests/{id}", LEDGER),
    ("POST /ingests/{id}/approve", DECIDE),
    ("POST /ingests/{id}/redo", DECIDE),
    ("POST /ingests/{id}/retry", PRODUCE),
    ("POST /ingests/{id}/undo", DECIDE),
    ("GET /metrics", Rule::Unchecked),
    ("GET /movies", Rule::Anybody),
    ("POST /movies", PRODUCE),
    ("GET /movies/{id}", Rule::Anybody),
    ("PUT /movies/{id}", EDIT),
    ("PATCH /movies/{id}", EDIT),
    ("DELETE /movies/{id}", EDIT),
    ("GET /movies/{id}/details", Rule::Anybody),
    ("GET /movies/{id}/history", LEDGER),
    ("PUT /movies/{id}/hold", EDIT),
    ("DELETE /movies/{id}/hold", EDIT),
    ("POST /notify", Rule::Roles(&["service"])),
    ("GET /openapi.json", Rule::Anybody),
    ("GET /page/{version}/{file}", Rule::Anybody),
    ("GET /readyz", Rule::Unchecked),
    ("GET /schema/movies.json", Rule::Anybody),
    ("GET /suggest", Rule::Anybody),
    ("POST /uploads", PRODUCE),
    ("GET /users", ADMINISTER),
    ("POST /users", ADMINISTER),
    ("GET /users/{id}", ADMINISTER),
    ("PATCH /users/{id}", ADMINISTER),
    ("POST /validate", Rule::Anybody),
    ("GET /years", Rule::Anybody),
];

const LEDGER: Rule = Rule::Roles(&["producer", "editor", "admin", "service"]);
const PRODUCE: Rule = Rule::Roles(&["producer", "editor", "service"]);
const EDIT: Rule = Rule::Roles(&["editor"]);
const ADMINISTER: Rule = Rule::Roles(&["admin"]);
const DECIDE: Rule = Rule::Roles(&["editor", "service"]);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// Everybody, and a token is not looked at.
    Unchecked,
    /// Everybody, but not with a token that does not hold.
    Anybody,
    /// Whoever has a token.
    SignedIn,
    Roles(&'static [&'static str]),
}

/// What a request is answered.
#[derive(Debug, PartialEq)]
enum Admission {
    Admitted,
    Unauthorized,
    Forbidden,
}

impl Rule {
    /// Returns what a caller with these roles is answered; none is nobody.
    fn admits(self, roles: Option<&[Role]>) -> Admission {
        let Some(roles) = roles else {
            return match self {
                Self::Unchecked | Self::Anybody => Admission::Admitted,
                Self::SignedIn | Self::Roles(_) => Admission::Unauthorized,
            };
        };
        match self {
            Self::Roles(allowed) if !roles.iter().any(|role| allowed.contains(&role.name())) => {
                Admission::Forbidden
            }
            _ => Admission::Admitted,
        }
    }
}

fn admission(response: &Response) -> Admission {
    let code = serde_json::from_str(&response.text).map(|problem: Value| problem["code"].clone());
    match code.unwrap_or_default().as_str() {
        Some("unauthorized") => {
            assert_eq!(response.status, StatusCode::UNAUTHORIZED);
            assert!(response.header("www-authenticate").starts_with("Bearer realm="));
            Admission::Unauthorized
        }
        Some("forbidden") => {
            assert_eq!(response.status, StatusCode::FORBIDDEN);
            let challenge = response.header("www-authenticate");
            assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
            Admission::Forbidden
        }
        _ => Admission::Admitted,
    }
}

/// Returns the operations of the document, each with what its `security` says.
async fn operations(service: &Service) -> BTreeMap<String, Value> {
    let document = service.get("/openapi.json").await.json();
    let mut operations = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = format!("{} {path}", method.to_uppercase());
            operations.insert(name, operation["security"].clone());
        }
    }
    operations
}

/// Sends a request of an operation without a body, with this token if there is one.
async fn call(service: &Service, operation: &str, token: Option<&str>) -> Response {
    let (method, path) = operation.split_once(' ').unwrap();
    // No movie, ingest or user has this number.
    let path = path.replace("{id}", "999999").replace("{file}", "start.js");
    let mut request = service.request(method.parse().unwrap(), &path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    service.send(request).await
}

async fn private_service() -> Service {
    let private = |config: &mut Config| config.public_ledger = false;
    Service::builder().config(private).start().await
}

#[tokio::test]
async fn each_route_admits_the_roles_of_its_rule() {
    let service = private_service().await;
    let documented = operations(&service).await;
    let ruled: BTreeMap<String, Rule> =
        RULES.iter().map(|(operation, rule)| ((*operation).to_owned(), *rule)).collect();
    assert_eq!(Vec::from_iter(documented.keys()), Vec::from_iter(ruled.keys()));

    let roles: Vec<Role> = Role::all().collect();
    let mut callers: Vec<Option<&[Role]>> = vec![None, Some(&[])];
    callers.extend(roles.chunks(1).map(Some));
    for (operation, rule) in &ruled {
        let security = &documented[operation];
        match rule {
            Rule::Roles(allowed) => {
                assert_eq!(*security, serde_json::json!([{ "bearer": allowed }]), "{operation}");
            }
            Rule::SignedIn => assert_eq!(*security, serde_json::json!([{ "bearer": [] }])),
            Rule::Unchecked | Rule::Anybody => assert!(security.is_null(), "{operation}"),
        }
        for caller in &callers {
            let token = caller.map(token);
            let response = call(&service, operation, token.as_deref()).await;
            let context = format!("{operation} by {caller:?}: {}", response.text);
            assert_eq!(admission(&response), rule.admits(*caller), "{context}");
        }
        let broken = call(&service, operation, Some("broken")).await;
        let expected = match rule {
            Rule::Unchecked => Admission::Admitted,
            _ => Admission::Unauthorized,
        };
        assert_eq!(admission(&broken), expected, "{operation} with a broken token");
        // The API token has the role `service`.
        let response = call(&service, operation, Some(TOKEN)).await;
        assert_eq!(admission(&response), rule.admits(Some(&[Role::Service])), "{operation}");
    }
}

#[tokio::test]
async fn the_ledger_is_for_roles_unless_it_is_public() {
    let service = private_service().await;
    let id = service.ingest("k", MOVIE).await["id"].clone();
    let paths = ["/ingests".to_owned(), format!("/ingests/{id}")];
    for path in &paths {
        assert_eq!(service.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
        let read = call(&service, &format!("GET {path}"), Some(&token(&[Role::Producer]))).await;
        assert_eq!(read.status, StatusCode::OK, "{path}");
        assert_eq!(read.header("cache-control"), "no-store");
        let without_role = call(&service, &format!("GET {path}"), Some(&token(&[]))).await;
        assert_eq!(without_role.status, StatusCode::FORBIDDEN, "{path}");
    }
    let public = |config: &mut Config| config.public_ledger = true;
    let service = service.successor().config(public).start().await;
    for path in &paths {
        assert_eq!(service.get(path).await.status, StatusCode::OK, "{path}");
        let without_role = call(&service, &format!("GET {path}"), Some(&token(&[]))).await;
        assert_eq!(without_role.status, StatusCode::OK, "{path}");
    }
    // To change something still needs a role.
    let retry = call(&service, &format!("POST /ingests/{id}/retry"), None).await;
    assert_eq!(retry.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_bound_producer_sees_and_retries_only_its_keys() {
    let service = private_service().await;
    let keys = ["studio/a.json", "studio/b.json", "studiO/c.json", "other/d.json", "studio"];
    let mut ids = Vec::new();
    for key in keys {
        // The object is not there: the ingest ends as `gone`, and can be retried.
        let ingest = service.notify(&notification::bare(key)).await;
        assert_eq!(ingest["state"], "gone", "{ingest}");
        ids.push(ingest["id"].clone());
    }
    let list = async |token: &str, query: &str| -> Vec<String> {
        let page = call(&service, &format!("GET /ingests{query}"), Some(token)).await.json();
        let key = |ingest: &Value| ingest["key"].as_str().unwrap().to_owned();
        page.as_array().unwrap().iter().map(key).collect()
    };
    let bound = bound_token(&[Role::Producer], &["studio/", "nothing/"]);
    assert_eq!(list(&bound, "").await, ["studio/b.json", "studio/a.json"]);
    assert_eq!(list(&bound, "?limit=1").await, ["studio/b.json"]);
    assert_eq!(list(&bound, "?state=gone&key=studio/a.json").await, ["studio/a.json"]);
    assert!(list(&bound, "?key=other/d.json").await.is_empty());
    assert_eq!(list(&token(&[Role::Producer]), "").await.len(), keys.len());

    let editor = bound_token(&[Role::Editor], &["studio/"]);
    for (id, key) in ids.iter().zip(keys) {
        let is_own = key.starts_with("studio/");
        let read = call(&service, &format!("GET /ingests/{id}"), Some(&bound)).await;
        let expected = if is_own { StatusCode::OK } else { StatusCode::NOT_FOUND };
        assert_eq!(read.status, expected, "{key}");
        for decision in ["undo", "redo", "approve"] {
            let path = format!("POST /ingests/{id}/{decision}");
            let decided = call(&service, &path, Some(&editor)).await;
            let expected = if is_own { StatusCode::CONFLICT } else { StatusCode::NOT_FOUND };
            assert_eq!(decided.status, expected, "{decision} of {key}: {}", decided.text);
        }
        let retried = call(&service, &format!("POST /ingests/{id}/retry"), Some(&bound)).await;
        let expected = if is_own { StatusCode::ACCEPTED } else { StatusCode::NOT_FOUND };
        assert_eq!(retried.status, expected, "{key}");
    }

    // Movies have no key.
    for operation in ["PUT /movies/999999/hold", "GET /movies/999999/history"] {
        let refused = call(&service, operation, Some(&editor)).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{operation}");
    }
    let post = service.request(Method::POST, "/movies").bearer_auth(&bound);
    let post = service.send(post.header("content-type", "application/json").body(MOVIE)).await;
    assert_eq!(post.status, StatusCode::FORBIDDEN);
    assert!(post.json()["detail"].as_str().unwrap().contains("put a file"));
}
