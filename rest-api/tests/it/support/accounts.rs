//! Users of a service under test, and their tokens.

use reqwest::{Method, StatusCode};
use rest_api::{accounts::Password, store::User, users};
use serde_json::{Value, json};

use super::{Response, Service, eventually};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// The tokens of a session.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Tokens {
    pub(crate) fn of(response: &Response) -> Self {
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        let text = |name: &str| response.json()[name].as_str().unwrap().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

impl Service {
    /// Adds a user with [`PASSWORD`].
    pub(crate) async fn add_user(&self, name: &str, roles: &[&str], prefixes: &[&str]) -> User {
        let owned =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let password = Password::chosen(PASSWORD).unwrap();
        let store = self.store(0).await;
        users::add(&store, name, &password, &owned(roles), owned(prefixes)).await.unwrap()
    }

    /// A request without a token, with a JSON body.
    pub(crate) fn json(&self, method: Method, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.request(method, path).header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) async fn login(&self, name: &str, password: &str) -> Response {
        let body = json!({ "name": name, "password": password });
        self.send(self.json(Method::POST, "/auth/login", &body)).await
    }

    /// Signs a user in who has [`PASSWORD`].
    pub(crate) async fn sign_in(&self, name: &str) -> Tokens {
        self.sign_in_with(name, PASSWORD).await
    }

    pub(crate) async fn sign_in_with(&self, name: &str, password: &str) -> Tokens {
        Tokens::of(&self.login(name, password).await)
    }

    pub(crate) async fn refresh(&self, token: &str) -> Response {
        let body = json!({ "refresh_token": token });
        self.send(self.json(Method::POST, "/auth/refresh", &body)).await
    }

    /// Sends a request with an access token.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        access: &str,
        body: Option<&Value>,
    ) -> Response {
        let request = match body {
            Some(body) => self.json(method, path, body),
            None => self.request(method, path),
        };
        self.send(request.bearer_auth(access)).await
    }

    /// Waits until an access token is refused.
    pub(crate) async fn refuses(&self, access: &str) {
        eventually(async || {
            let answer = self.call(Method::GET, "/movies?limit=1", access, None).await;
            answer.status == StatusCode::UNAUTHORIZED
        })
        .await;
    }
}
