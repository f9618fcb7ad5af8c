//! `/users`: admins manage the users of the service's own.

use http::{HeaderValue, StatusCode, header};
use schema::Fault;
use serde::Deserialize;
use tracing::info;

use super::{
    in_time, params,
    request::Request,
    response::{Answer, field, json, link_next},
};
use crate::{
    accounts::{Password, check_prefixes, roles_of_user, user_name},
    problem::{Code, Problem},
    store::{NewUser, UserChange},
};

/// The largest body, in bytes: the largest prefixes, of which JSON may escape each byte.
pub(super) const MAX_BODY: usize = 160 << 10;

/// The order of the list, in its cursors.
const ORDER: &str = "users";

/// The body of `POST /users`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Created {
    name: String,
    password: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    prefixes: Vec<String>,
}

/// The body of `PATCH /users/{id}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    roles: Option<Vec<String>>,
    prefixes: Option<Vec<String>>,
    disabled: Option<bool>,
    password: Option<String>,
}

/// `GET /users`: a page of users, in the order of their numbers.
pub(super) async fn list(request: Request) -> Answer {
    let (mut limit, mut after) = (params::DEFAULT_LIMIT, 0);
    for (name, value) in params::parse(&request.query, &["limit", "after"])? {
        match name {
            "limit" => limit = params::limit(&value)?,
            _ => after = params::parse_cursor(&value, ORDER)?,
        }
    }
    let mut users = in_time(request.app.store.users(after, limit + 1)).await?;
    let page = usize::try_from(limit).unwrap_or_default();
    let more = users.len() > page;
    users.truncate(page);
    let mut response = json(StatusCode::OK, &users)?;
    if let Some(last) = users.last().filter(|_| more) {
        let link = link_next("/users", &request.query, &params::cursor(ORDER, last.id))?;
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// `POST /users`: adds a user.
pub(super) async fn create(mut request: Request) -> Answer {
    params::none(&request.query)?;
    let expected = "an object with name and password, and perhaps roles and prefixes";
    let Created { name, password, roles, prefixes } = request.json(expected).await?;
    let name = field("name", user_name(&name))?;
    let password = field("password", Password::chosen(&password))?;
    let roles = field("roles", roles_of_user(&roles))?;
    field("prefixes", check_prefixes(&prefixes))?;
    let app = &request.app;
    let password_hash = app.passwords.hash(&password).await?;
    let user = NewUser { name, password_hash, roles, prefixes };
    let user = in_time(app.store.add_user(&user)).await?.ok_or_else(|| {
        Problem::new(
            Code::NameTaken,
            "there is a user of this name already, perhaps in another case",
        )
    })?;
    info!(user = user.id, by = &*request.caller()?.name, "user added");
    let mut response = json(StatusCode::CREATED, &user)?;
    let location = HeaderValue::try_from(format!("/users/{}", user.id)).ok();
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    Ok(response)
}

/// `GET /users/{id}`: one user.
pub(super) async fn read(request: Request) -> Answer {
    params::none(&request.query)?;
    let user = match request.id() {
        Some(id) => in_time(request.app.store.user(id)).await?,
        None => None,
    };
    json(StatusCode::OK, &user.ok_or_else(not_found)?)
}

/// `PATCH /users/{id}`: changes a user. What takes something away ends the sessions of the user.
pub(super) async fn change(mut request: Request) -> Answer {
    params::none(&request.query)?;
    let expected = "an object with some of roles, prefixes, disabled, password";
    let Changed { roles, prefixes, disabled, password } = request.json(expected).await?;
    let roles = roles.map(|roles| field("roles", roles_of_user(&roles))).transpose()?;
    if let Some(prefixes) = &prefixes {
        field("prefixes", check_prefixes(prefixes))?;
    }
    let password = password.map(|text| field("password", Password::chosen(&text))).transpose()?;
    if roles.is_none() && prefixes.is_none() && disabled.is_none() && password.is_none() {
        return Err(Problem::violations(&[Fault::at_root(expected, "none of them")], 1));
    }
    let id = request.id().ok_or_else(not_found)?;
    let app = &request.app;
    let password_hash = match &password {
        Some(password) => Some(app.passwords.hash(password).await?),
        None => None,
    };
    let sets_password = password_hash.is_some();
    let change = UserChange { roles, prefixes, disabled, password_hash };
    let user = in_time(app.store.change_user(id, &change)).await?.ok_or_else(not_found)?;
    let by = &*request.caller()?.name;
    let (roles, is_disabled) = (user.roles.join(","), user.disabled_at.is_some());
    info!(user = id, by, roles, is_disabled, sets_password, "user changed");
    json(StatusCode::OK, &user)
}

fn not_found() -> Problem {
    Problem::new(Code::NotFound, "no such user; GET /users lists them")
}
