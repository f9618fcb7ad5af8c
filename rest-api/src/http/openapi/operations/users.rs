//! `/auth`: sessions of users of the service's own; and `/users`.

use http::StatusCode;
use serde_json::{Value, json};

use super::{super::Schemas, ACCOUNTS, Answer, Operation, id, paging};
use crate::{http::sessions::Tokens, problem::Code, store::User};

/// `POST /auth/login`.
pub(in crate::http) fn login(schemas: &mut Schemas) -> Operation {
    let description = "\
        Signs a user of the service's own in. The access token goes into the header `Authorization` of other requests; \
        it holds for 15 minutes. The refresh token gets the next tokens.\n\n\
        With `cookie`, which is for pages of the service's own origin, the refresh token comes as the cookie \
        `mru_refresh` (`HttpOnly`, `SameSite=Strict`) instead.\n\n\
        Wrong passwords are limited for each name and address: `429`.";
    let properties = json!({
        "name": { "type": "string", "description": "The name; case makes no difference." },
        "password": password("The password."),
        "cookie": { "type": "boolean", "default": false },
    });
    let example = json!({ "name": "ann", "password": "correct horse battery" });
    Operation::new("login", ACCOUNTS, "Sign in", description)
        .body("The name and the password.", object(&["name", "password"], properties, example))
        .answer(StatusCode::OK, tokens(schemas))
        .fails(&[
            Code::MalformedJson,
            Code::WrongCredentials,
            Code::Forbidden,
            Code::NotFound,
            Code::Violations,
            Code::TooManyAttempts,
        ])
}

/// `POST /auth/refresh`.
pub(in crate::http) fn refresh(schemas: &mut Schemas) -> Operation {
    let description = "\
        Gets the next tokens of a session. A refresh token can be used once: the next one comes with the answer. If it \
        comes a second time, the session ends, because somebody may have stolen it. So send one refresh at a time, and \
        sign in again if an answer was lost.\n\n\
        A session ends 30 days after it began, or 7 days after its last refresh. Without a body the cookie is used.";
    Operation::new("refresh", ACCOUNTS, "Stay signed in", description)
        .optional_body("The refresh token, unless it is in the cookie.", refresh_token())
        .answer(StatusCode::OK, tokens(schemas))
        .fails(&[
            Code::MalformedJson,
            Code::SessionEnded,
            Code::Forbidden,
            Code::NotFound,
            Code::Violations,
        ])
}

/// `POST /auth/logout`.
pub(in crate::http) fn logout(_: &mut Schemas) -> Operation {
    let description = "\
        Ends the session of the refresh token in the body, or else in the cookie, or else of the access token in the \
        header `Authorization`. The refresh token is refused at once, access tokens of the session within a few \
        seconds. A token that does not hold any more is no error.";
    Operation::new("logout", ACCOUNTS, "Sign out", description)
        .optional_body("The refresh token, unless it is in the cookie.", refresh_token())
        .answer(StatusCode::NO_CONTENT, Answer::new("The session has ended."))
        .fails(&[Code::MalformedJson, Code::Forbidden, Code::Violations])
}

/// `POST /auth/password`.
pub(in crate::http) fn change_password(_: &mut Schemas) -> Operation {
    let description = "\
        Changes the password of the user who sends the request. All sessions of the user end, also this one: sign in \
        again. Wrong old passwords are limited as those of `POST /auth/login`.";
    let properties = json!({
        "old_password": password("The present password."),
        "password": password(NEW_PASSWORD),
    });
    let example = json!({
        "old_password": "correct horse battery", "password": "another horse battery",
    });
    let body = object(&["old_password", "password"], properties, example);
    Operation::new("changePassword", ACCOUNTS, "Change the own password", description)
        .body("The old password and the new one.", body)
        .answer(StatusCode::NO_CONTENT, Answer::new("The password was changed."))
        .fails(&[Code::MalformedJson, Code::Forbidden, Code::Violations, Code::TooManyAttempts])
}

/// `GET /users`.
pub(in crate::http) fn list_users(schemas: &mut Schemas) -> Operation {
    let page = Answer::new("A page of users.").headers(&["Link"]).json(schemas.of::<Vec<User>>());
    let description = "Lists the users of the service's own, in the order of their numbers.";
    Operation::new("listUsers", ACCOUNTS, "List users", description)
        .parameters(paging())
        .answer(StatusCode::OK, page)
}

/// `POST /users`.
pub(in crate::http) fn create_user(schemas: &mut Schemas) -> Operation {
    let mut properties = changeable();
    properties["name"] = json!({
        "type": "string", "minLength": 1, "maxLength": 64,
        "description": "1 to 64 visible characters and spaces, without parentheses. Case makes no difference.",
    });
    let example = json!({
        "name": "studio", "password": "correct horse battery",
        "roles": ["producer"], "prefixes": ["studio/"],
    });
    let added = Answer::new("The user.").headers(&["Location"]).json(schemas.of::<User>());
    Operation::new("createUser", ACCOUNTS, "Add a user", "Adds a user of the service's own.")
        .body("The user.", object(&["name", "password"], properties, example))
        .answer(StatusCode::CREATED, added)
        .fails(&[Code::MalformedJson, Code::NameTaken, Code::Violations])
}

/// `GET /users/{id}`.
pub(in crate::http) fn read_user(schemas: &mut Schemas) -> Operation {
    Operation::new("readUser", ACCOUNTS, "Read a user", "Returns one user.")
        .parameters([id("The number of the user.")])
        .answer(StatusCode::OK, Answer::new("The user.").json(schemas.of::<User>()))
        .fails(&[Code::NotFound])
}

/// `PATCH /users/{id}`.
pub(in crate::http) fn change_user(schemas: &mut Schemas) -> Operation {
    let description = "\
        Changes what the body names; the rest stays. To set a password, to disable the user, or to change its roles or \
        prefixes ends its sessions: refresh tokens are refused at once, access tokens within a few seconds. A user is \
        never removed, because the history names it.";
    let mut properties = changeable();
    properties["disabled"] =
        json!({ "type": "boolean", "description": "Whether the user is kept from signing in." });
    let body = object(&[], properties, json!({ "disabled": true }));
    Operation::new("changeUser", ACCOUNTS, "Change a user", description)
        .parameters([id("The number of the user.")])
        .body("What changes.", body)
        .answer(StatusCode::OK, Answer::new("The user.").json(schemas.of::<User>()))
        .fails(&[Code::MalformedJson, Code::NotFound, Code::LastAdmin, Code::Violations])
}

const NEW_PASSWORD: &str = "At least 12 characters, at most 1,024 bytes.";

/// The properties of a user that can be changed.
fn changeable() -> Value {
    json!({
        "password": password(NEW_PASSWORD),
        "roles": {
            "type": "array",
            "items": { "type": "string", "enum": ["producer", "editor", "admin"] },
            "description": "All roles of the user.",
        },
        "prefixes": {
            "type": "array",
            "items": { "type": "string", "minLength": 1, "maxLength": 1024 },
            "maxItems": 20,
            "description": "The beginnings of the object keys that the user is bound to. None for all keys.",
        },
    })
}

fn password(description: &str) -> Value {
    json!({
        "type": "string", "format": "password", "writeOnly": true, "maxLength": 1024,
        "description": description,
    })
}

/// A body that is an object.
fn object(required: &[&str], properties: Value, example: Value) -> Value {
    let mut schema = json!({
        "type": "object", "additionalProperties": false, "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    json!({ "application/json": { "schema": schema, "example": example } })
}

fn refresh_token() -> Value {
    let properties = json!({ "refresh_token": { "type": "string" } });
    object(&["refresh_token"], properties, json!({ "refresh_token": "2Kz0GcYwRbK9..." }))
}

fn tokens(schemas: &mut Schemas) -> Answer {
    Answer::new("The tokens.")
        .headers(&["Cache-Control", "Set-Cookie"])
        .json(schemas.of::<Tokens>())
}
