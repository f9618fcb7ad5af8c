//! Users: signing in with a password, limits of wrong ones, `/users`, and the command `rest-api users`.

use std::{collections::BTreeSet, fs::File, io::Write, process::Stdio};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use futures_util::future::{join, join_all};
use reqwest::{Method, StatusCode, header::HeaderMap};
use rest_api::store::{StoreError, UserChange};
use serde_json::{Value, json};

use crate::support::{
    Response, Service,
    accounts::{PASSWORD, Tokens},
    eventually, free_address,
    process::{Output, environment, program},
    tokens::KEY,
};

const WRONG: &str = "incorrect horse battery";

/// Starts a service that believes one proxy in front of it.
async fn behind_proxy() -> Service {
    let change = |config: &mut rest_api::config::Config| config.trusted_proxies = 1;
    Service::builder().config(change).start().await
}

/// Signs in from an address behind the proxy.
async fn login_from(service: &Service, address: &str, name: &str, password: &str) -> Response {
    let body = json!({ "name": name, "password": password });
    let request = service.json(Method::POST, "/auth/login", &body);
    service.send(request.header("x-forwarded-for", address)).await
}

/// Returns the headers of a response but for those that are its own.
fn comparable(response: &Response) -> HeaderMap {
    let mut headers = response.headers.clone();
    headers.remove("x-request-id");
    headers.remove("date");
    headers
}

fn assert_code(response: &Response, status: StatusCode, code: &str) {
    assert_eq!(response.status, status, "{}", response.text);
    assert_eq!(response.json()["code"], code, "{}", response.text);
}

/// Starts a service with the user `admin`. Returns it and an access token of the user.
async fn with_admin() -> (Service, String) {
    let service = Service::start().await;
    service.add_user("admin", &["admin"], &[]).await;
    let tokens = service.sign_in("admin").await;
    (service, tokens.access)
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_get_the_same_answer() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let user = service.add_user("gone", &["producer"], &[]).await;
    let disable = UserChange { disabled: Some(true), ..UserChange::default() };
    service.store(0).await.change_user(user.id, &disable).await.unwrap();
    let hashes = async || {
        let metrics = service.get("/metrics").await.text;
        let line = metrics.lines().find_map(|line| line.strip_prefix("mru_password_hashes_total "));
        line.unwrap().parse::<f64>().unwrap()
    };
    let before = hashes().await;
    let wrong = service.login("ann", WRONG).await;
    let work = hashes().await - before;
    assert_eq!(work, 1.0);
    assert_code(&wrong, StatusCode::UNAUTHORIZED, "wrong_credentials");
    assert_eq!(wrong.header("www-authenticate"), "Bearer realm=\"movies-r-us\"");
    for (name, password) in [("nobody", WRONG), ("nobody", PASSWORD), ("gone", PASSWORD)] {
        let before = hashes().await;
        let other = service.login(name, password).await;
        assert_eq!(hashes().await - before, work, "{name}");
        assert_eq!((&other.text, comparable(&other)), (&wrong.text, comparable(&wrong)), "{name}");
    }
}

#[tokio::test]
async fn a_name_signs_in_in_any_case_and_normal_form() {
    let service = Service::start().await;
    for (name, other) in [
        ("Zoë Müller", "ZOE\u{308} MU\u{308}LLER"),
        ("straße", "STRASSE"),
        ("İbrahim", "ibrahim"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
        ("映画🎬", "映画🎬"),
    ] {
        service.add_user(name, &["producer"], &[]).await;
        service.sign_in(other).await;
    }
    // Passwords in any normal form, but not in any case.
    let (service, access) = with_admin().await;
    let composed = json!({ "name": "ann", "password": "caf\u{e9} au lait!!", "roles": [] });
    let added = service.call(Method::POST, "/users", &access, Some(&composed)).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    Tokens::of(&service.login("ann", "cafe\u{301} au lait!!").await);
    let other_case = service.login("ann", "Caf\u{e9} au lait!!").await;
    assert_code(&other_case, StatusCode::UNAUTHORIZED, "wrong_credentials");
}

#[tokio::test]
async fn bodies_that_are_not_right_are_refused_clearly() {
    let (service, access) = with_admin().await;
    let long = "x".repeat(1025);
    for (path, body, pointer) in [
        ("/auth/login", json!({ "name": "ann" }), ""),
        ("/auth/login", json!({ "name": "ann", "password": 1 }), ""),
        ("/auth/login", json!({ "name": "ann", "password": PASSWORD, "token": "" }), ""),
        ("/auth/login", json!(["ann", PASSWORD, 0, 0]), ""),
        ("/auth/login", json!({ "name": "a\0", "password": PASSWORD }), "/name"),
        ("/auth/login", json!({ "name": "", "password": PASSWORD }), "/name"),
        ("/auth/login", json!({ "name": "ann", "password": "a\0bcdefghijklmn" }), "/password"),
        ("/auth/login", json!({ "name": "ann", "password": long }), "/password"),
        ("/auth/login", json!({ "name": "ann", "password": "" }), "/password"),
        ("/auth/refresh", json!({}), ""),
        ("/auth/refresh", json!({ "refresh_token": null }), ""),
        ("/users", json!({ "name": "an\0n", "password": PASSWORD }), "/name"),
        ("/users", json!({ "name": "a\u{202e}b", "password": PASSWORD }), "/name"),
        ("/users", json!({ "name": "ann", "password": "elevenchars" }), "/password"),
        ("/users", json!({ "name": "ann", "password": "twelve\0chars" }), "/password"),
        ("/users", json!({ "name": "ann", "password": PASSWORD, "roles": ["root"] }), "/roles"),
        ("/users", json!({ "name": "ann", "password": PASSWORD, "roles": ["service"] }), "/roles"),
        ("/users", json!({ "name": "ann", "password": PASSWORD, "prefixes": [""] }), "/prefixes"),
    ] {
        let request = service.json(Method::POST, path, &body);
        let request = if path == "/users" { request.bearer_auth(&access) } else { request };
        let answer = service.send(request).await;
        assert_code(&answer, StatusCode::UNPROCESSABLE_ENTITY, "violations");
        assert_eq!(answer.json()["violations"][0]["pointer"], pointer, "{body}: {}", answer.text);
        assert!(!answer.text.contains("elevenchars"), "{}", answer.text);
    }
    let none = service.send(service.request(Method::POST, "/auth/refresh")).await;
    assert_code(&none, StatusCode::UNPROCESSABLE_ENTITY, "violations");
    for path in ["/auth/login", "/auth/refresh", "/auth/logout", "/users"] {
        let post = || service.request(Method::POST, path).bearer_auth(&access);
        let json = || post().header("content-type", "application/json");
        let broken = service.send(json().body("{")).await;
        assert_code(&broken, StatusCode::BAD_REQUEST, "malformed_json");
        let form = post().header("content-type", "text/plain").body("{}");
        let form = service.send(form).await;
        assert_code(&form, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
        let large = service.send(json().body("x".repeat(1 << 20))).await;
        assert_code(&large, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
    }
}

#[tokio::test]
async fn wrong_passwords_are_limited_for_a_name_and_address() {
    let service = behind_proxy().await;
    service.add_user("ann", &["producer"], &[]).await;
    service.add_user("bob", &["producer"], &[]).await;
    for number in 0..10 {
        // The proxy appends. What a client claims before that changes nothing.
        let address = format!("203.0.113.{number}, 192.0.2.1");
        let answer = login_from(&service, &address, "Ann", WRONG).await;
        assert_code(&answer, StatusCode::UNAUTHORIZED, "wrong_credentials");
    }
    for password in [WRONG, PASSWORD] {
        let answer = login_from(&service, "192.0.2.1", "ann", password).await;
        assert_code(&answer, StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
        let seconds: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=61).contains(&seconds), "{seconds}");
    }
    // The user signs in from elsewhere, and others from there.
    Tokens::of(&login_from(&service, "192.0.2.2", "ann", PASSWORD).await);
    Tokens::of(&login_from(&service, "192.0.2.1", "bob", PASSWORD).await);
    // A name that does not exist is limited in the same way.
    for _ in 0..10 {
        let answer = login_from(&service, "192.0.2.3", "nobody", WRONG).await;
        assert_code(&answer, StatusCode::UNAUTHORIZED, "wrong_credentials");
    }
    let answer = login_from(&service, "192.0.2.3", "nobody", WRONG).await;
    assert_code(&answer, StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
}

#[tokio::test]
async fn without_a_trusted_proxy_an_address_cannot_be_claimed() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    for number in 0..10 {
        let answer = login_from(&service, &format!("192.0.2.{number}"), "ann", WRONG).await;
        assert_code(&answer, StatusCode::UNAUTHORIZED, "wrong_credentials");
    }
    let answer = login_from(&service, "192.0.2.99", "ann", PASSWORD).await;
    assert_code(&answer, StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
}

#[tokio::test]
async fn others_sign_in_during_a_flood() {
    let service = behind_proxy().await;
    service.add_user("ann", &["producer"], &[]).await;
    let flood = async {
        let attempt = |number: u32| {
            let (name, service) = (format!("user {}", number % 200), &service);
            async move { login_from(service, "192.0.2.1", &name, WRONG).await.status }
        };
        let mut statuses = Vec::new();
        for round in 0..10 {
            statuses.extend(join_all((0..40).map(|number| attempt(round * 40 + number))).await);
        }
        statuses
    };
    let others = async {
        let mut refused = 0;
        for number in 0..20 {
            let address = format!("198.51.100.{number}");
            // When all hashes are taken the client is told to try again soon.
            while login_from(&service, &address, "ann", PASSWORD).await.status != StatusCode::OK {
                refused += 1;
                assert!(refused < 100, "nobody else signs in");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    };
    let (statuses, ()) = join(flood, others).await;
    let count = |status| statuses.iter().filter(|other| **other == status).count();
    // Attempts that were not checked do not count.
    assert!(count(StatusCode::UNAUTHORIZED) <= 50 + 5, "{statuses:?}");
    assert!(count(StatusCode::TOO_MANY_REQUESTS) >= 200, "{statuses:?}");
    let checked =
        [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    assert!(statuses.iter().all(|status| checked.contains(status)), "{statuses:?}");
}

#[tokio::test]
async fn admins_manage_users() {
    let (service, access) = with_admin().await;
    let add = json!({
        "name": "Studio", "password": PASSWORD,
        "roles": ["editor", "producer"], "prefixes": ["studio/"],
    });
    let added = service.call(Method::POST, "/users", &access, Some(&add)).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    let user = added.json();
    let path = format!("/users/{}", user["id"]);
    assert_eq!(added.header("location"), path);
    assert_eq!((&user["name"], &user["roles"]), (&json!("Studio"), &json!(["producer", "editor"])));
    assert_eq!(user["prefixes"], json!(["studio/"]));
    assert!(!added.text.contains("argon2") && !added.text.contains(PASSWORD), "{}", added.text);
    for name in ["studio", "STUDIO"] {
        let again = json!({ "name": name, "password": PASSWORD });
        let again = service.call(Method::POST, "/users", &access, Some(&again)).await;
        assert_code(&again, StatusCode::CONFLICT, "name_taken");
    }
    let read = service.call(Method::GET, &path, &access, None).await;
    assert_eq!(read.json(), user);

    let listed = service.call(Method::GET, "/users?limit=1", &access, None).await;
    assert_eq!(listed.json()[0]["name"], "admin");
    let next = listed.header("link").split_once('>').unwrap().0.trim_start_matches('<');
    let listed = service.call(Method::GET, next, &access, None).await;
    assert_eq!((listed.json(), listed.header("link")), (json!([user]), ""));

    let change =
        json!({ "roles": [], "prefixes": [], "disabled": true, "password": "another horse" });
    let changed = service.call(Method::PATCH, &path, &access, Some(&change)).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    assert_eq!((&changed.json()["roles"], &changed.json()["prefixes"]), (&json!([]), &json!([])));
    assert!(changed.json()["disabled_at"].is_string(), "{}", changed.text);
    let enabled =
        service.call(Method::PATCH, &path, &access, Some(&json!({ "disabled": false }))).await;
    assert_eq!(enabled.json().get("disabled_at"), None);
    assert_eq!(service.login("studio", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    Tokens::of(&service.login("studio", "another horse").await);

    for (path, change, code) in [
        ("/users/999", json!({ "disabled": true }), "not_found"),
        ("/users/studio", json!({ "disabled": true }), "not_found"),
        (&path, json!({}), "violations"),
        (&path, json!({ "name": "other" }), "violations"),
        (&path, json!({ "password": "short" }), "violations"),
    ] {
        let answer = service.call(Method::PATCH, path, &access, Some(&change)).await;
        assert_eq!(answer.json()["code"], code, "{path} {change}: {}", answer.text);
    }
    let producer = service.sign_in_with("studio", "another horse").await;
    for (method, path) in
        [(Method::GET, "/users"), (Method::POST, "/users"), (Method::PATCH, &*path)]
    {
        let answer = service.call(method.clone(), path, &producer.access, Some(&json!({}))).await;
        assert_code(&answer, StatusCode::FORBIDDEN, "forbidden");
        let answer = service.send(service.json(method, path, &json!({}))).await;
        assert_code(&answer, StatusCode::UNAUTHORIZED, "unauthorized");
    }
}

#[tokio::test]
async fn the_last_active_admin_stays() {
    let (service, access) = with_admin().await;
    let change = async |id: i64, change: Value| {
        service.call(Method::PATCH, &format!("/users/{id}"), &access, Some(&change)).await
    };
    for last in [json!({ "roles": ["editor"] }), json!({ "disabled": true })] {
        assert_code(&change(1, last).await, StatusCode::CONFLICT, "last_admin");
    }
    // The refused change has ended no session, and the password can be set.
    assert_eq!(change(1, json!({ "roles": ["admin"] })).await.status, StatusCode::OK);
    let second = service.add_user("second", &["admin"], &[]).await;
    let store = service.store(0).await;
    let disable = |disabled| UserChange { disabled: Some(disabled), ..UserChange::default() };
    for _ in 0..10 {
        let (on, off) = (disable(true), disable(false));
        let both = join(store.change_user(1, &on), store.change_user(second.id, &on)).await;
        let results = [both.0, both.1];
        let refused = results.iter().filter(|r| matches!(r, Err(StoreError::LastAdmin))).count();
        assert_eq!(refused, 1, "{results:?}");
        for id in [1, second.id] {
            store.change_user(id, &off).await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_user_changes_the_own_password() {
    let service = Service::start().await;
    service.add_user("ann", &[], &[]).await;
    let (one, other) = (service.sign_in("ann").await, service.sign_in("ann").await);
    let change = async |access: &str, old: &str, new: &str| {
        let body = json!({ "old_password": old, "password": new });
        service.call(Method::POST, "/auth/password", access, Some(&body)).await
    };
    let wrong = change(&one.access, WRONG, "another horse").await;
    assert_code(&wrong, StatusCode::UNPROCESSABLE_ENTITY, "violations");
    assert_eq!(wrong.json()["violations"][0]["pointer"], "/old_password");
    let short = change(&one.access, PASSWORD, "elevenchars").await;
    assert_eq!(short.json()["violations"][0]["pointer"], "/password", "{}", short.text);
    let changed = change(&one.access, PASSWORD, "another horse").await;
    assert_eq!((changed.status, &*changed.text), (StatusCode::NO_CONTENT, ""));
    for tokens in [&one, &other] {
        assert_eq!(service.refresh(&tokens.refresh).await.status, StatusCode::UNAUTHORIZED);
        service.refuses(&tokens.access).await;
    }
    assert_eq!(service.login("ann", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    let tokens = service.sign_in_with("ann", "another horse").await;
    // Wrong guesses are limited here as at the sign-in.
    for _ in 0..20 {
        let answer = change(&tokens.access, WRONG, "another horse").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_code(&answer, StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
            break;
        }
    }
    let answer = change(&tokens.access, "another horse", PASSWORD).await;
    assert_code(&answer, StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    // The API token is no user.
    let body = json!({ "old_password": PASSWORD, "password": PASSWORD });
    let answer = service.send(service.post("/auth/password", body.to_string())).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
}

#[tokio::test]
async fn a_hash_of_another_cost_is_replaced_at_the_next_sign_in() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let sql = service.sql().await;
    // The same password at the lowest cost.
    let params = Params::new(8, 1, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let cheap = argon2.hash_password(PASSWORD.as_bytes()).unwrap().to_string();
    sql.execute("update users set password_hash = $1", &[&cheap]).await.unwrap();
    assert_eq!(service.login("ann", WRONG).await.status, StatusCode::UNAUTHORIZED);
    let hash = async || -> String {
        sql.query_one("select password_hash from users", &[]).await.unwrap().get(0)
    };
    assert_eq!(hash().await, cheap);
    service.sign_in("ann").await;
    let present = hash().await;
    assert!(present.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{present}");
    service.sign_in("ann").await;
    assert_eq!(hash().await, present);
}

/// Runs `rest-api users` with these arguments and standard input.
async fn users(service: &Service, arguments: &[&str], input: &str) -> Output {
    let mut program = program("users");
    program.envs(environment(service)).args(arguments);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = program.spawn().unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    });
    Output::from(run.await.unwrap())
}

#[tokio::test]
async fn the_command_manages_users() {
    let service = Service::start().await;
    let add = ["add", "Ann", "--role", "admin", "--role", "editor"];
    let added = users(&service, &add, &format!("{PASSWORD}\n")).await;
    assert_eq!((added.status, &*added.stdout), (0, "1  Ann  editor,admin\n"), "{added:?}");
    service.sign_in("ann").await;
    let bound =
        ["add", "studio", "--role", "producer", "--prefix", "a/", "--prefix", "b/", "--json"];
    let added = users(&service, &bound, PASSWORD).await;
    assert_eq!(added.status, 0, "{added:?}");
    assert_eq!(added.json_lines()[0]["prefixes"], json!(["a/", "b/"]));
    let listed = users(&service, &["list", "--json"], "").await.json_lines();
    let names: Vec<&Value> = listed.iter().map(|user| &user["name"]).collect();
    assert_eq!(names, ["Ann", "studio"]);

    let tokens = service.sign_in("studio").await;
    let changed = users(&service, &["roles", "STUDIO", "editor", "--json"], "").await;
    assert_eq!(changed.json_lines()[0]["roles"], json!(["editor"]), "{changed:?}");
    assert_eq!(service.refresh(&tokens.refresh).await.status, StatusCode::UNAUTHORIZED);
    service.refuses(&tokens.access).await;
    let changed = users(&service, &["prefixes", "studio", "--json"], "").await;
    assert_eq!(changed.json_lines()[0]["prefixes"], json!([]), "{changed:?}");
    let changed = users(&service, &["password", "studio"], "another horse\r\n").await;
    assert_eq!(changed.status, 0, "{changed:?}");
    let tokens = service.sign_in_with("studio", "another horse").await;
    let disabled = users(&service, &["disable", "studio"], "").await;
    assert!(disabled.stdout.starts_with("2  studio  editor  disabled since 20"), "{disabled:?}");
    service.refuses(&tokens.access).await;
    assert_eq!(service.login("studio", "another horse").await.status, StatusCode::UNAUTHORIZED);
    let enabled = users(&service, &["enable", "studio"], "").await;
    assert_eq!(&*enabled.stdout, "2  studio  editor\n", "{enabled:?}");
    service.sign_in_with("studio", "another horse").await;

    for (arguments, input, status, message) in [
        (&["add", "ANN"][..], PASSWORD, 1, "there is a user of this name already"),
        (&["add", "bob"], "elevenchars", 1, "password: expected at least 12 characters"),
        (&["add", "bob"], "", 1, "password: expected at least 12 characters"),
        (&["add", "b\u{202e}ob"], PASSWORD, 1, "name: expected"),
        (
            &["add", "bob", "--role", "root"],
            PASSWORD,
            1,
            "role: expected producer, editor or admin",
        ),
        (&["add", "bob", "--prefix", ""], PASSWORD, 1, "prefix: expected"),
        (&["add", "bob", PASSWORD], "", 2, "unexpected argument"),
        (&["roles", "bob", "editor"], "", 1, "no such user"),
        (&["disable", "ann"], "", 1, "this is the last active admin"),
        (&["roles", "ann", "editor"], "", 1, "this is the last active admin"),
    ] {
        let output = users(&service, arguments, input).await;
        assert_eq!(output.status, status, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(message), "{arguments:?}: {output:?}");
        assert!(!output.stderr.contains("elevenchars"), "{output:?}");
    }
}

#[tokio::test]
async fn no_password_and_no_token_is_logged() {
    let mut service = Service::start().await;
    service.add_user("admin", &["admin"], &[]).await;
    service.stop().await;
    let (address, log) = (free_address(), service.scratch_path("log"));
    let mut environment = environment(&service);
    environment.insert("MRU_LISTEN", address.to_string());
    environment.insert("MRU_LOG", "trace".to_owned());
    environment.insert("MRU_JWT_KEY", KEY.expose().to_owned());
    // Not to a pipe: nobody would read it before the end.
    let mut process = program("serve");
    let mut process =
        process.envs(environment).stderr(File::create(&log).unwrap()).spawn().unwrap();
    service.address = address;
    let up = async || tokio::net::TcpStream::connect(address).await.is_ok();
    eventually(up).await;
    let mut secrets = vec![PASSWORD.to_owned(), WRONG.to_owned(), "a new horse battery".to_owned()];
    let tokens = service.sign_in("admin").await;
    let cookie = json!({ "name": "admin", "password": PASSWORD, "cookie": true });
    let cookie = service.send(service.json(Method::POST, "/auth/login", &cookie)).await;
    let cookie = cookie.header("set-cookie").split(['=', ';']).nth(1).unwrap().to_owned();
    assert_eq!(service.login("admin", WRONG).await.status, StatusCode::UNAUTHORIZED);
    // A password in the field of the name.
    assert_eq!(service.login(WRONG, WRONG).await.status, StatusCode::UNAUTHORIZED);
    let add = json!({ "name": "ann", "password": "a new horse battery" });
    let added = service.call(Method::POST, "/users", &tokens.access, Some(&add)).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    let next = Tokens::of(&service.refresh(&tokens.refresh).await);
    assert_eq!(service.refresh(&tokens.refresh).await.status, StatusCode::UNAUTHORIZED);
    secrets.extend([tokens.access, tokens.refresh, next.access, next.refresh, cookie]);
    process.kill().unwrap();
    process.wait().unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    let said = |message: &str| log.contains(message);
    for message in ["signed in", "wrong password, or no such user", "user added", "used twice"] {
        assert!(said(message), "{message}");
    }
    for secret in BTreeSet::from_iter(secrets) {
        assert!(secret.len() > 11 && !said(&secret), "the log has {secret}");
    }
    assert!(!said("$argon2id$"), "the log has a hash");
}
