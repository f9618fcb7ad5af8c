//! Sessions: access tokens, refresh tokens that hold once, cookies, and what ends a session.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use rest_api::store::{Retention, UserChange};
use serde_json::json;

use crate::support::{
    Response, Service, TOKEN,
    accounts::{PASSWORD, Tokens},
    eventually,
    movies::MOVIE,
};

/// Within this time the access tokens of an ended session are refused, with the time that a slow machine needs.
const BOUND: Duration = Duration::from_secs(10);

fn assert_ended(response: &Response) {
    assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{}", response.text);
    assert_eq!(response.json()["code"], "session_ended");
    assert!(response.header("www-authenticate").starts_with("Bearer "), "{response:?}");
}

async fn logout(service: &Service, refresh: &str) -> Response {
    let body = json!({ "refresh_token": refresh });
    service.send(service.json(Method::POST, "/auth/logout", &body)).await
}

#[tokio::test]
async fn a_user_signs_in_and_stays_signed_in() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let answer = service.login("ann", PASSWORD).await;
    let first = Tokens::of(&answer);
    let body = answer.json();
    let members: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["access_token", "expires_in", "refresh_token", "token_type"];
    assert_eq!(members, BTreeSet::from(expected));
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(900)));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("set-cookie"), "");

    let movie = serde_json::from_str(MOVIE).unwrap();
    let posted = service.call(Method::POST, "/movies", &first.access, Some(&movie)).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{}", posted.text);
    let refused = service.call(Method::GET, "/users", &first.access, None).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);

    let second = Tokens::of(&service.refresh(&first.refresh).await);
    let third = Tokens::of(&service.refresh(&second.refresh).await);
    let all = [&first, &second, &third].map(|tokens| [&tokens.access, &tokens.refresh]);
    assert_eq!(BTreeSet::from_iter(all.as_flattened()).len(), 6);
    let posted = service.call(Method::POST, "/movies", &third.access, Some(&movie)).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{}", posted.text);
}

#[tokio::test]
async fn a_refresh_token_that_comes_twice_ends_the_session() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let (stolen, other) = (service.sign_in("ann").await, service.sign_in("ann").await);
    let successor = Tokens::of(&service.refresh(&stolen.refresh).await);
    let last = Tokens::of(&service.refresh(&successor.refresh).await);
    assert_ended(&service.refresh(&stolen.refresh).await);
    for token in [&successor, &last] {
        assert_ended(&service.refresh(&token.refresh).await);
        service.refuses(&token.access).await;
    }
    // Another session of the user goes on.
    Tokens::of(&service.refresh(&other.refresh).await);
}

#[tokio::test]
async fn of_requests_with_the_same_refresh_token_at_most_one_succeeds() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    for _ in 0..10 {
        let tokens = service.sign_in("ann").await;
        let answers = join_all((0..8).map(|_| service.refresh(&tokens.refresh))).await;
        let succeeded: Vec<_> =
            answers.iter().filter(|answer| answer.status.is_success()).collect();
        assert_eq!(succeeded.len(), 1, "{answers:?}");
        // Two have had the token, and nobody knows which is the thief.
        assert_ended(&service.refresh(&Tokens::of(succeeded[0]).refresh).await);
    }
}

#[tokio::test]
async fn a_made_up_refresh_token_ends_no_session() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let tokens = service.sign_in("ann").await;
    // The first characters are the number of the session, which access tokens show.
    let (session, secrets) = tokens.refresh.split_at(22);
    let forged = format!("{session}{}", "A".repeat(secrets.len()));
    for wrong in [forged.as_str(), "", "x", "a.b.c", &tokens.access] {
        assert_ended(&service.refresh(wrong).await);
    }
    Tokens::of(&service.refresh(&tokens.refresh).await);
}

#[tokio::test]
async fn signing_out_ends_the_session_on_every_replica() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let replica = service.replica(|_| {}).await;
    let on_replica = async |access: &str| {
        let url = format!("http://{}/movies?limit=1", replica.address);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(url).bearer_auth(access).send().await.unwrap().status()
    };
    let (by_refresh, by_access, other) =
        (service.sign_in("ann").await, service.sign_in("ann").await, service.sign_in("ann").await);
    for tokens in [&by_refresh, &by_access] {
        assert_eq!(on_replica(&tokens.access).await, StatusCode::OK);
    }
    let started = Instant::now();
    let answer = logout(&service, &by_refresh.refresh).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::NO_CONTENT, ""));
    let answer = service.call(Method::POST, "/auth/logout", &by_access.access, None).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    for tokens in [&by_refresh, &by_access] {
        assert_ended(&service.refresh(&tokens.refresh).await);
        service.refuses(&tokens.access).await;
        let refused = async || on_replica(&tokens.access).await == StatusCode::UNAUTHORIZED;
        eventually(refused).await;
    }
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    // To sign out again is no error. Without any token it is.
    assert_eq!(logout(&service, &by_refresh.refresh).await.status, StatusCode::NO_CONTENT);
    let again = service.call(Method::POST, "/auth/logout", &by_access.access, None).await;
    assert_eq!(again.status, StatusCode::NO_CONTENT, "{}", again.text);
    let nobody = service.send(service.request(Method::POST, "/auth/logout")).await;
    let program =
        service.send(service.request(Method::POST, "/auth/logout").bearer_auth(TOKEN)).await;
    for answer in [nobody, program] {
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
    }
    assert_eq!(on_replica(&other.access).await, StatusCode::OK);
}

#[tokio::test]
async fn an_access_token_is_refused_although_the_hint_is_lost() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let tokens = service.sign_in("ann").await;
    // As another process does whose notification is lost.
    let end = "update sessions set ended_at = now()";
    service.sql().await.execute(end, &[]).await.unwrap();
    let started = Instant::now();
    service.refuses(&tokens.access).await;
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_change_of_the_user_ends_its_sessions() {
    let service = Service::start().await;
    let user = service.add_user("ann", &["producer", "editor"], &[]).await;
    let other = service.add_user("bob", &["producer"], &[]).await;
    let store = service.store(0).await;
    let owned = |text: &str| Some(vec![text.to_owned()]);
    let none = UserChange::default;
    for change in [
        UserChange { roles: owned("producer"), ..none() },
        UserChange { prefixes: owned("studio/"), ..none() },
        UserChange { disabled: Some(true), ..none() },
    ] {
        let (tokens, others) = (service.sign_in("ann").await, service.sign_in("bob").await);
        let changed = store.change_user(user.id, &change).await.unwrap().unwrap();
        assert_ended(&service.refresh(&tokens.refresh).await);
        service.refuses(&tokens.access).await;
        Tokens::of(&service.refresh(&others.refresh).await);
        let enable = UserChange { disabled: Some(false), ..none() };
        if changed.disabled_at.is_some() {
            let answer = service.login("ann", PASSWORD).await;
            assert_eq!(answer.json()["code"], "wrong_credentials");
            let enabled = store.change_user(user.id, &enable).await.unwrap().unwrap();
            assert_eq!(enabled.disabled_at, None);
        }
        // What has ended does not come back.
        assert_ended(&service.refresh(&tokens.refresh).await);
        service.refuses(&tokens.access).await;
    }
    // What takes nothing away ends nothing.
    let tokens = service.sign_in("bob").await;
    let same = UserChange { roles: owned("producer"), disabled: Some(false), ..none() };
    store.change_user(other.id, &same).await.unwrap().unwrap();
    Tokens::of(&service.refresh(&tokens.refresh).await);
}

#[tokio::test]
async fn a_session_ends_by_its_age_and_when_it_is_idle() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let sql = service.sql().await;
    for (column, days, ends) in [
        ("created_at", 29, false),
        ("created_at", 30, true),
        ("refreshed_at", 6, false),
        ("refreshed_at", 7, true),
    ] {
        let tokens = service.sign_in("ann").await;
        let age = format!(
            "update sessions set {column} = now() - interval '{days} days 1 minute'
             where id = (select id from sessions order by created_at desc limit 1)"
        );
        assert_eq!(sql.execute(&age, &[]).await.unwrap(), 1);
        let answer = service.refresh(&tokens.refresh).await;
        if ends {
            assert_ended(&answer);
        } else {
            Tokens::of(&answer);
        }
    }
}

#[tokio::test]
async fn the_oldest_session_of_a_user_makes_place() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(service.sign_in("ann").await);
    }
    // The first one is in use.
    sessions[0] = Tokens::of(&service.refresh(&sessions[0].refresh).await);
    for _ in 0..2 {
        sessions.push(service.sign_in("ann").await);
    }
    for (number, tokens) in sessions.iter().enumerate() {
        let answer = service.refresh(&tokens.refresh).await;
        let has_ended = [1, 2].contains(&number);
        assert_eq!(answer.status.is_success(), !has_ended, "{number}: {}", answer.text);
        if has_ended {
            service.refuses(&tokens.access).await;
        }
    }
}

#[tokio::test]
async fn the_cookie_is_for_pages_of_the_own_origin() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let body = json!({ "name": "ann", "password": PASSWORD, "cookie": true });
    let login = || service.json(Method::POST, "/auth/login", &body);
    let answer = service.send(login()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json()["refresh_token"], json!(null), "it is in the cookie alone");
    let cookie = answer.header("set-cookie").to_owned();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/auth; Max-Age=604800; HttpOnly; SameSite=Strict");
    let elsewhere = service.send(login().header("host", "films.example.com")).await;
    assert!(elsewhere.header("set-cookie").ends_with("; SameSite=Strict; Secure"), "{elsewhere:?}");

    let origin = format!("http://{}", service.address);
    let post = |path: &str, cookie: &str| {
        service.request(Method::POST, path).header("cookie", format!("a=b; {cookie}; c=d"))
    };
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", ""),
    ] {
        for path in ["/auth/refresh", "/auth/logout"] {
            let answer = service.send(post(path, pair).header(name, value)).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {value}: {}", answer.text);
        }
        // Nor may another site sign its visitors in.
        let answer = service.send(login().header(name, value)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{value}: {}", answer.text);
    }
    let mut pair = pair.to_owned();
    for (name, value) in [("sec-fetch-site", "same-origin"), ("origin", &origin), ("x-none", "")] {
        let answer = service.send(post("/auth/refresh", &pair).header(name, value)).await;
        assert_eq!(answer.status, StatusCode::OK, "{value}: {}", answer.text);
        assert_eq!(answer.json()["refresh_token"], json!(null));
        let next = answer.header("set-cookie").split_once("; ").unwrap().0.to_owned();
        assert_ne!(next, pair);
        pair = next;
    }
    let answer = service.send(post("/auth/logout", &pair)).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    assert!(answer.header("set-cookie").starts_with("mru_refresh=; Path=/auth; Max-Age=0; "));
    assert_ended(&service.send(post("/auth/refresh", &pair)).await);
}

#[tokio::test]
async fn sessions_that_are_over_are_removed() {
    let service = Service::start().await;
    service.add_user("ann", &["producer"], &[]).await;
    let sql = service.sql().await;
    let mut kept = Vec::new();
    for (change, is_removed) in [
        ("ended_at = now() - interval '31 minutes'", true),
        ("ended_at = now() - interval '29 minutes'", false),
        ("created_at = now() - interval '31 days'", true),
        ("refreshed_at = now() - interval '8 days'", true),
        ("refreshed_at = now() - interval '6 days'", false),
    ] {
        service.sign_in("ann").await;
        let newest = "select id from sessions order by created_at desc limit 1";
        let id: uuid::Uuid = sql.query_one(newest, &[]).await.unwrap().get(0);
        let update = format!("update sessions set {change} where id = $1");
        sql.execute(&update, &[&id]).await.unwrap();
        if !is_removed {
            kept.push(id);
        }
    }
    let removed = service.store(0).await.remove_unneeded(Retention::default()).await.unwrap();
    assert_eq!(removed.sessions, 3);
    let rows = sql.query("select id from sessions", &[]).await.unwrap();
    let left = BTreeSet::from_iter(rows.iter().map(|row| row.get::<_, uuid::Uuid>(0)));
    assert_eq!(left, BTreeSet::from_iter(kept));
}
