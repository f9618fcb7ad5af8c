//! `/auth`: users of the service's own sign in, stay signed in, sign out, and change their passwords.

use aws::Secret;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schema::Fault;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    App, in_time, params,
    request::Request,
    response::{Answer, NO_STORE, empty, field, json},
};
use crate::{
    accounts::{
        AccessToken, Checked, Issuer, KeyPrefixes, Password, RefreshToken, Role, Subject, user_name,
    },
    metrics::SignIn,
    problem::{Code, Problem},
    store::{Credentials, MAX_IDLE, Refreshed, StoreError, User, UserChange, fold},
};

/// The largest body, in bytes: a name and two passwords, of which JSON may escape each byte.
pub(super) const MAX_BODY: usize = 16 << 10;

/// The cookie with the refresh token, for pages.
const COOKIE: &str = "mru_refresh";

/// The body of `POST /auth/login`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    name: String,
    password: String,
    #[serde(default)]
    cookie: bool,
}

/// The body of `POST /auth/refresh` and `POST /auth/logout`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    refresh_token: String,
}

/// The body of `POST /auth/password`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    old_password: String,
    password: String,
}

/// The tokens of a session.
#[derive(JsonSchema, Serialize)]
pub(super) struct Tokens {
    /// Goes into the header `Authorization` of other requests.
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// For how many seconds the access token holds.
    expires_in: u64,
    /// Gets the next tokens, once. Absent if it is in the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    refresh_token: Option<String>,
}

/// `POST /auth/login`: starts a session.
pub(super) async fn login(mut request: Request) -> Answer {
    params::none(&request.query)?;
    let expected = "an object with name and password, and perhaps cookie";
    let Login { name, password, cookie } = request.json(expected).await?;
    if cookie {
        require_same_site(&request.headers)?;
    }
    let app = &request.app;
    let issuer = issuer(app)?;
    let name = field("name", user_name(&name))?;
    let password = field("password", Password::new(&password))?;
    let credentials = app.store.credentials(&name);
    let credentials = check(&request, &name, &password, credentials).await?;
    let token = RefreshToken::first().map_err(|error| Problem::internal(&error))?;
    let started = app.store.start_session(&credentials, token.session, token.digests());
    let user = in_time(started).await?.ok_or_else(Problem::wrong_credentials)?;
    info!(user = user.id, session = %token.session, "signed in");
    tokens(issuer, &request.headers, &user, &token, cookie)
}

/// `POST /auth/refresh`: goes on with a session.
pub(super) async fn refresh(mut request: Request) -> Answer {
    params::none(&request.query)?;
    let (sent, cookie) = refresh_token(&mut request).await?.ok_or_else(|| {
        let expected = "an object with refresh_token, or the cookie that login has set";
        Problem::violations(&[Fault::at_root(expected, "neither")], 1)
    })?;
    let app = &request.app;
    let issuer = issuer(app)?;
    let sent = RefreshToken::parse(sent.expose()).ok_or_else(Problem::session_ended)?;
    let next = sent.next().map_err(|error| Problem::internal(&error))?;
    let refreshed = app.store.refresh_session(sent.session, sent.digests(), next.digests().token);
    match in_time(refreshed).await? {
        Refreshed::Rotated(user) => tokens(issuer, &request.headers, &user, &next, cookie),
        Refreshed::Replayed { user_id } => {
            warn!(user = user_id, session = %sent.session, "a refresh token was used twice; its session has ended");
            Err(Problem::session_ended())
        }
        Refreshed::Ended => Err(Problem::session_ended()),
    }
}

/// `POST /auth/logout`: ends the session of the refresh token, or else of the access token.
pub(super) async fn logout(mut request: Request) -> Answer {
    params::none(&request.query)?;
    let sent = refresh_token(&mut request).await?;
    if let Some((sent, _)) = &sent {
        if let Some(sent) = RefreshToken::parse(sent.expose()) {
            let store = &request.app.store;
            in_time(store.end_session_of_token(sent.session, sent.digests())).await?;
        }
    } else if let Some(session) = session_of_access_token(&mut request).await? {
        in_time(request.app.store.end_session(session)).await?;
    }
    let mut response = empty(StatusCode::NO_CONTENT);
    if sent.is_some_and(|(_, cookie)| cookie) {
        let cookie = set_cookie(&request.headers, "", 0);
        response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    }
    Ok(response)
}

/// `POST /auth/password`: a user changes the own password. All sessions of the user end.
pub(super) async fn change_password(mut request: Request) -> Answer {
    params::none(&request.query)?;
    let expected = "an object with old_password and password";
    let NewPassword { old_password, password } = request.json(expected).await?;
    session(&request)?;
    let caller = request.caller()?;
    let id = caller.subject.parse().map_err(|_| no_user())?;
    let old = field("old_password", Password::new(&old_password))?;
    let new = field("password", Password::chosen(&password))?;
    let app = &request.app;
    let credentials = app.store.credentials_by_id(id);
    check(&request, &caller.name, &old, credentials).await.map_err(|problem| {
        if problem.status() != StatusCode::UNAUTHORIZED {
            return problem;
        }
        // The token holds: the client must not take this for the end of the session.
        let fault = Fault::new(&["old_password"], "the present password", "another one");
        Problem::violations(&[fault], 1)
    })?;
    let hash = app.passwords.hash(&new).await?;
    let change = UserChange { password_hash: Some(hash), ..UserChange::default() };
    in_time(app.store.change_user(id, &change)).await?.ok_or_else(no_user)?;
    info!(user = id, "the user has changed the password");
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Returns the session that is to end by the access token of a request; none if the token does not hold any more.
///
/// # Errors
/// If there is no token of a session, or it cannot be checked.
async fn session_of_access_token(request: &mut Request) -> Result<Option<Uuid>, Problem> {
    match request.authenticate().await {
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => return Ok(None),
        authenticated => authenticated?,
    }
    session(request).map(Some).map_err(|_| {
        let expected =
            "an object with refresh_token, or its cookie, or an access token of a session here";
        Problem::violations(&[Fault::at_root(expected, "neither")], 1)
    })
}

/// Returns the session that the access token of a request belongs to.
fn session(request: &Request) -> Result<Uuid, Problem> {
    let session = request.caller()?.session.as_deref().and_then(|session| session.parse().ok());
    session.ok_or_else(|| {
        Problem::forbidden("this token belongs to no session of a user here".to_owned())
    })
}

fn no_user() -> Problem {
    Problem::forbidden("this token belongs to no active user here".to_owned())
}

/// Returns the issuer of access tokens.
fn issuer(app: &App) -> Result<&Issuer, Problem> {
    let detail = "this service has no users of its own, because MRU_JWT_KEY is not set";
    app.access.accounts.issuer().ok_or_else(|| Problem::new(Code::NotFound, detail))
}

/// Checks the password of the user whom `credentials` finds under `name`. Returns the credentials with the hash that
/// is stored now.
///
/// # Errors
/// `wrong_credentials` if it is wrong, or there is no user; `too_many_attempts` if that was so too often.
async fn check(
    request: &Request,
    name: &str,
    password: &Password,
    credentials: impl Future<Output = Result<Option<Credentials>, StoreError>>,
) -> Result<Credentials, Problem> {
    let (app, address) = (&request.app, request.client_address());
    let attempt = app.attempts.begin(&fold(name), address).map_err(|wait| {
        app.metrics.signed_in(SignIn::Limited);
        info!(%address, "attempt refused: too many wrong passwords");
        Problem::too_many_attempts(wait)
    })?;
    let checked = async {
        let credentials = in_time(credentials).await?;
        let hash = credentials.as_ref().map(|credentials| &credentials.password_hash);
        let checked = app.passwords.check(password, hash).await?;
        Ok::<_, Problem>((checked, credentials))
    };
    let (checked, credentials) = match checked.await {
        Ok(checked) => checked,
        Err(problem) => {
            attempt.take_back();
            return Err(problem);
        }
    };
    let mut credentials = match credentials {
        Some(credentials) if checked != Checked::Wrong => credentials,
        other => {
            app.metrics.signed_in(SignIn::Refused);
            // Not the name: people type passwords into the wrong field.
            let user = other.map(|credentials| credentials.user_id);
            info!(user, %address, "wrong password, or no such user");
            return Err(Problem::wrong_credentials());
        }
    };
    attempt.succeeded();
    app.metrics.signed_in(SignIn::Succeeded);
    if checked == Checked::RightButOld {
        // If there is no place for it now, then at the next time.
        if let Ok(hash) = app.passwords.hash(password).await {
            in_time(app.store.rehash(&credentials, &hash)).await?;
            credentials.password_hash = hash;
        }
    }
    Ok(credentials)
}

/// Returns the refresh token of the body, or else of the cookie, and whether it is of the cookie.
///
/// # Errors
/// If the body is malformed, or another site sends the cookie.
async fn refresh_token(request: &mut Request) -> Result<Option<(Secret, bool)>, Problem> {
    let expected = "an object with refresh_token";
    if let Some(Sent { refresh_token }) = request.optional_json(expected).await? {
        return Ok(Some((Secret::new(refresh_token), false)));
    }
    let Some(token) = cookie(&request.headers) else { return Ok(None) };
    require_same_site(&request.headers)?;
    Ok(Some((token, true)))
}

/// Returns the value of the cookie.
fn cookie(headers: &HeaderMap) -> Option<Secret> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        values.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| name.trim() == COOKIE).map(|(_, value)| Secret::new(value.trim()))
}

/// Checks that no page of another site has sent the request. A browser says where it comes from; other clients have
/// no cookies that a page could use.
fn require_same_site(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_own = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text("host")
        }
        (None, None) => true,
    };
    if is_own {
        Ok(())
    } else {
        Err(Problem::forbidden("a page of another site sends this".to_owned()))
    }
}

/// Returns the header that sets the cookie. It is `Secure` unless the client reaches the service on its own machine.
fn set_cookie(headers: &HeaderMap, value: &str, max_age: u64) -> Option<HeaderValue> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_local = ["localhost", "127.0.0.1", "[::1]"].contains(&name);
    let secure = if is_local { "" } else { "; Secure" };
    let cookie = format!(
        "{COOKIE}={value}; Path=/auth; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}"
    );
    let mut cookie = HeaderValue::try_from(cookie).ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// Returns the answer with the tokens of a session.
fn tokens(
    issuer: &Issuer,
    headers: &HeaderMap,
    user: &User,
    refresh: &RefreshToken,
    cookie: bool,
) -> Answer {
    let roles = user.roles.iter().filter_map(|name| Role::from_name(name)).collect();
    let subject = Subject {
        subject: user.id.to_string(),
        name: user.name.clone(),
        roles,
        prefixes: KeyPrefixes::new(user.prefixes.clone()),
        session: refresh.session.to_string(),
    };
    let AccessToken { token, lifetime } =
        issuer.issue(&subject).map_err(|error| Problem::internal(&error))?;
    let refresh = refresh.text();
    let tokens = Tokens {
        access_token: token,
        token_type: "Bearer",
        expires_in: lifetime.as_secs(),
        refresh_token: (!cookie).then(|| refresh.expose().to_owned()),
    };
    let mut response = json(StatusCode::OK, &tokens)?;
    let added = response.headers_mut();
    added.insert(header::CACHE_CONTROL, NO_STORE);
    if cookie {
        let cookie = set_cookie(headers, refresh.expose(), MAX_IDLE.as_secs());
        added.extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    }
    Ok(response)
}
