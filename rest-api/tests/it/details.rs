//! `GET /movies/{id}/details` and `rest-api enrich`, against a stand-in for TMDB that answers as documented, or badly.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use http::StatusCode;
use rest_api::{config::Config, enrich::IMAGE_ORIGIN};
use serde_json::{Value, json};

use crate::support::{
    Response, Service, eventually,
    process::{Environment, Output, environment, program},
    tmdb::{Behaviour, Standin, TMDB_TOKEN, TmdbFilm},
};

/// What must be shown with details.
fn attribution() -> Value {
    let text = "This product uses TMDB and the TMDB APIs but is not endorsed, certified, or otherwise approved by TMDB.";
    let logos = "https://www.themoviedb.org/about/logos-attribution";
    json!({ "text": text, "url": "https://www.themoviedb.org", "logos": logos })
}

fn films() -> Vec<TmdbFilm> {
    vec![
        TmdbFilm::new(
            1,
            "The Maltese Falcon",
            1941,
            &["Humphrey Bogart", "Mary Astor", "Peter Lorre"],
        ),
        TmdbFilm::new(
            2,
            "The Maltese Falcon",
            1931,
            &["Ricardo Cortez", "Bebe Daniels", "Una Merkel"],
        ),
    ]
}

fn falcon() -> Value {
    json!({ "title": "The Maltese Falcon", "year": 1941, "cast": ["Humphrey Bogart", "Mary Astor"] })
}

/// A service that asks a stand-in, with these movies. Their numbers begin with 1.
async fn service_with(tmdb: &Standin, movies: &[Value]) -> Service {
    let service = Service::builder().config(|config| tmdb.configure(config)).start().await;
    post(&service, movies).await;
    service
}

async fn post(service: &Service, movies: &[Value]) {
    let posted = service.send(service.post("/movies", json!(movies).to_string())).await;
    assert_eq!(posted.status, StatusCode::CREATED, "{}", posted.text);
}

async fn start() -> (Standin, Service) {
    let tmdb = Standin::start(films()).await;
    let service = service_with(&tmdb, &[falcon()]).await;
    (tmdb, service)
}

async fn details(service: &Service, id: i64) -> Response {
    service.get(&format!("/movies/{id}/details")).await
}

/// Returns the details that a replica at this address has.
async fn details_at(address: SocketAddr, id: usize) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/movies/{id}/details");
    http.get(url).send().await.unwrap().json().await.unwrap()
}

/// Checks that there are no details now, and for how long. Returns that.
fn assert_unavailable(response: &Response) -> u64 {
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    assert_eq!(response.header("cache-control"), "no-store");
    let mut shown = response.json();
    let after = shown["retry_after"].take().as_u64().unwrap();
    let expected =
        json!({ "state": "unavailable", "retry_after": null, "attribution": attribution() });
    assert_eq!(shown, expected);
    after
}

/// Moves all that is kept to an earlier time.
async fn let_days_pass(service: &Service, days: i32) {
    let earlier = "update movie_details set asked_at = asked_at - make_interval(days => $1),
        ask_at = ask_at - make_interval(days => $1), keep_until = keep_until - make_interval(days => $1)";
    service.sql().await.execute(earlier, &[&days]).await.unwrap();
}

/// Ends the pause of requests.
async fn end_pause(service: &Service) {
    let end = "update tmdb_requests set paused_until = '-infinity'";
    service.sql().await.execute(end, &[]).await.unwrap();
}

#[tokio::test]
async fn details_show_the_film_with_its_images_and_the_attribution() {
    let (tmdb, service) = start().await;
    let response = details(&service, 1).await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    assert_eq!(response.header("cache-control"), "public, max-age=3600");
    let mut shown = response.json();
    let asked_at: DateTime<Utc> = serde_json::from_value(shown["asked_at"].take()).unwrap();
    assert!((Utc::now() - asked_at).num_seconds().abs() < 60);
    let expected = json!({
        "state": "found", "score": 1.0, "tmdb_id": 1, "tmdb_url": "https://www.themoviedb.org/movie/1",
        "imdb_id": "tt0123456", "title": "The Maltese Falcon", "overview": "About The Maltese Falcon.",
        "runtime": 97, "rating": { "average": 6.1, "votes": 12 },
        "poster": "https://image.tmdb.org/t/p/w500/aPoster.jpg",
        "backdrop": "https://image.tmdb.org/t/p/w1280/aBackdrop.jpg",
        "trailer": "https://www.youtube.com/watch?v=a-trailer",
        "asked_at": null,
        "attribution": attribution(),
    });
    assert_eq!(shown, expected);
    let paths: Vec<String> = tmdb.received().into_iter().map(|received| received.path).collect();
    assert_eq!(paths, ["/3/search/movie", "/3/movie/1", "/3/configuration"]);
    let query = tmdb.received()[0].query.clone();
    for expected in [
        ("query", "The Maltese Falcon"),
        ("primary_release_year", "1941"),
        ("include_adult", "false"),
    ] {
        assert!(query.contains(&(expected.0.to_owned(), expected.1.to_owned())), "{query:?}");
    }
    // Kept, also for other replicas and after a restart.
    assert_eq!(details(&service, 1).await.text, response.text);
    let service = service.successor().config(|config| tmdb.configure(config)).start().await;
    assert_eq!(details(&service, 1).await.text, response.text);
    assert_eq!(tmdb.count(), 3);
    // It does not belong to the movie.
    assert!(service.get("/movies/1").await.json().get("overview").is_none());
}

#[tokio::test]
async fn without_a_token_nothing_is_asked() {
    let service = Service::start_without_workers().await;
    post(&service, &[falcon()]).await;
    for id in [1, 999] {
        let off = details(&service, id).await;
        assert_eq!(
            (off.status, &off.json()["code"]),
            (StatusCode::NOT_FOUND, &json!("details_off"))
        );
    }
}

#[tokio::test]
async fn the_page_may_load_images_of_other_hosts_only_where_they_are_switched_on() {
    let tmdb = Standin::start(Vec::new()).await;
    for (details, thumbnails, images) in [
        (false, false, String::new()),
        (true, false, format!(" {IMAGE_ORIGIN}")),
        (false, true, " https:".to_owned()),
        (true, true, " https:".to_owned()),
    ] {
        let configure = |config: &mut Config| {
            config.images = thumbnails;
            if details {
                tmdb.configure(config);
            }
        };
        let service = Service::builder().config(configure).start().await;
        let home = service.get("/").await;
        let policy = home.header("content-security-policy");
        assert!(policy.contains(&format!("; img-src 'self' data:{images};")), "{policy}");
        assert!(policy.contains("; connect-src 'self'"), "{policy}");
        let switch = |is_on| if is_on { "on" } else { "off" };
        let (details, thumbnails) = (switch(details), switch(thumbnails));
        let app = format!("id=\"app\" data-details=\"{details}\" data-thumbnails=\"{thumbnails}\"");
        assert!(home.text.contains(&app), "{}", home.text);
    }
    assert_eq!(tmdb.count(), 0);
}

#[tokio::test]
async fn a_movie_that_is_not_there_is_not_asked_about() {
    let (tmdb, service) = start().await;
    for path in ["/movies/999/details", "/movies/x/details"] {
        let missing = service.get(path).await;
        assert_eq!(
            (missing.status, &missing.json()["code"]),
            (StatusCode::NOT_FOUND, &json!("not_found"))
        );
    }
    assert_eq!(service.get("/movies/1/details?x=1").await.status, StatusCode::BAD_REQUEST);
    let editor = crate::support::tokens::token(&[rest_api::accounts::Role::Editor]);
    let delete = service.request(http::Method::DELETE, "/movies/1").header("if-match", "*");
    let deleted = service.send(delete.bearer_auth(editor)).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{}", deleted.text);
    assert_eq!(details(&service, 1).await.status, StatusCode::GONE);
    assert_eq!(tmdb.count(), 0);
}

#[tokio::test]
async fn no_match_is_kept_for_a_week() {
    let tmdb = Standin::start(Vec::new()).await;
    let service = service_with(&tmdb, &[falcon()]).await;
    let none = details(&service, 1).await;
    assert_eq!((none.status, &none.json()["code"]), (StatusCode::NOT_FOUND, &json!("no_details")));
    // The year, and those beside it.
    assert_eq!(tmdb.count(), 3);
    tmdb.set_films(films());
    let_days_pass(&service, 6).await;
    assert_eq!(details(&service, 1).await.status, StatusCode::NOT_FOUND);
    assert_eq!(tmdb.count(), 3);
    let_days_pass(&service, 1).await;
    assert_eq!(details(&service, 1).await.json()["tmdb_id"], 1);
}

#[tokio::test]
async fn details_are_asked_for_again_after_a_month_and_never_kept_for_more_than_six() {
    let (tmdb, service) = start().await;
    details(&service, 1).await;
    let_days_pass(&service, 29).await;
    details(&service, 1).await;
    assert_eq!(tmdb.count(), 3);
    let_days_pass(&service, 1).await;
    // While TMDB is away, what is kept is shown.
    tmdb.behave(Behaviour::Status(StatusCode::SERVICE_UNAVAILABLE, String::new()));
    assert_eq!(details(&service, 1).await.json()["state"], "found");
    tmdb.behave(Behaviour::Normal);
    let_days_pass(&service, 1).await;
    let mut film = films().remove(0);
    film.changes = json!({ "overview": "New." });
    tmdb.set_films(vec![film]);
    assert_eq!(details(&service, 1).await.json()["overview"], "New.");
    // As long as it is away: 180 days, fewer than any six months have.
    tmdb.behave(Behaviour::Status(StatusCode::SERVICE_UNAVAILABLE, String::new()));
    let_days_pass(&service, 179).await;
    assert_eq!(details(&service, 1).await.json()["state"], "found");
    let_days_pass(&service, 1).await;
    assert_unavailable(&details(&service, 1).await);
    let_days_pass(&service, 1).await;
    let store = service.store(0).await;
    let removed = store.remove_unneeded(rest_api::store::Retention::default()).await.unwrap();
    assert_eq!(removed.details, 1);
    let left = service.sql().await.query_one("select count(*) from movie_details", &[]).await;
    assert_eq!(left.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn equal_questions_at_once_are_one() {
    let (tmdb, service) = start().await;
    tmdb.behave(Behaviour::Held);
    let ask = || details(&service, 1);
    let all = futures_util::future::join_all((0..50).map(|_| ask()));
    let release = async {
        eventually(async || tmdb.count() > 0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        tmdb.release();
    };
    let (all, ()) = tokio::join!(all, release);
    assert!(all.iter().all(|response| response.json()["tmdb_id"] == 1));
    assert_eq!(tmdb.count(), 3);
}

#[tokio::test]
async fn a_refused_token_is_tried_once() {
    let tmdb = Standin::start(films()).await;
    let service =
        Service::builder().config(|config| tmdb.configure_with(config, "wrong")).start().await;
    post(&service, &[falcon(), json!({ "title": "Another", "year": 2000 })]).await;
    assert_eq!(assert_unavailable(&details(&service, 1).await), 600);
    for id in [1, 2] {
        assert!(assert_unavailable(&details(&service, id).await) > 500);
    }
    assert_eq!(tmdb.count(), 1);
    let metrics = service.get("/metrics").await.text;
    assert!(metrics.contains("mru_tmdb_requests_total{outcome=\"refused\"} 1\n"), "{metrics}");
    // The other routes do not care.
    assert_eq!(service.get("/movies/1").await.status, StatusCode::OK);
    // Another replica, with the right token, does not suffer.
    let right = service.replica(|config| tmdb.configure(config)).await;
    assert_eq!(details_at(right.address, 1).await["tmdb_id"], 1);
}

#[tokio::test]
async fn too_many_requests_pause_all_replicas_as_long_as_tmdb_says() {
    let (tmdb, service) = start().await;
    let other = service.replica(|config| tmdb.configure(config)).await;
    let ask_other = async || details_at(other.address, 1).await;
    tmdb.behave(Behaviour::TooMany("3"));
    assert_eq!(assert_unavailable(&details(&service, 1).await), 3);
    let paused_at = Instant::now();
    tmdb.behave(Behaviour::Normal);
    while paused_at.elapsed() < Duration::from_millis(2500) {
        assert_eq!(ask_other().await["state"], "unavailable");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(tmdb.count(), 1);
    eventually(async || ask_other().await["state"] == "found").await;
    assert!(paused_at.elapsed() > Duration::from_millis(2500));
    // A pause that makes no sense is bounded.
    for (after, longest) in [("999999999", 3600), ("soon", 10), ("-5", 10), ("0", 1)] {
        end_pause(&service).await;
        service.sql().await.execute("delete from movie_details", &[]).await.unwrap();
        tmdb.behave(Behaviour::TooMany(after));
        assert_eq!(assert_unavailable(&details(&service, 1).await), longest, "{after}");
    }
}

#[tokio::test]
async fn a_pause_also_holds_for_those_who_wait_for_their_turn() {
    let movies: Vec<Value> =
        (0..80).map(|n| json!({ "title": format!("Film {n}"), "year": 1950 })).collect();
    let tmdb = Standin::start(Vec::new()).await;
    let service = service_with(&tmdb, &movies).await;
    tmdb.behave(Behaviour::TooMany("30"));
    let all = futures_util::future::join_all((1..=80).map(|id| details(&service, id))).await;
    for response in &all {
        assert_unavailable(response);
    }
    // Their turns are 30 ms apart. The answer to the first comes sooner than most of them.
    assert!(tmdb.count() < 40, "{} requests", tmdb.count());
}

#[tokio::test]
async fn of_more_films_than_are_seen_only_one_with_a_known_name_is_the_movie() {
    // They fill more than a page. What was added last is found first.
    let mut films: Vec<TmdbFilm> =
        (0..25).map(|n| TmdbFilm::new(n, &format!("Home {n}"), 2008, &[])).collect();
    films.push(TmdbFilm::new(100, "Home", 2008, &["Isabelle Huppert"]));
    let tmdb = Standin::start(films).await;
    let nobody = json!({ "title": "Home", "year": 2008, "href": "1" });
    let known = json!({ "title": "Home", "year": 2008, "href": "2", "cast": ["Isabelle Huppert"] });
    let service = service_with(&tmdb, &[nobody, known]).await;
    for movie in service.movies("").await {
        let shown = details(&service, movie["id"].as_i64().unwrap()).await.json();
        if movie["href"] == "1" {
            assert_eq!(shown["code"], "no_details", "{shown}");
        } else {
            assert_eq!(shown["tmdb_id"], 100, "{shown}");
        }
    }
}

#[tokio::test]
async fn outages_leave_movies_without_details_and_pause_all_requests() {
    let (tmdb, service) = start().await;
    let other = |year: i32| json!({ "title": "The Maltese Falcon", "year": year, "cast": [] });
    post(&service, &[other(1998), other(1999), other(1931)]).await;
    tmdb.behave(Behaviour::Slow(Duration::from_secs(60)));
    let started = Instant::now();
    assert_unavailable(&details(&service, 1).await);
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert_eq!(service.get("/movies/1").await.status, StatusCode::OK);
    for (id, behaviour) in [
        (2, Behaviour::Status(StatusCode::BAD_GATEWAY, "<html>".to_owned())),
        (3, Behaviour::Status(StatusCode::INTERNAL_SERVER_ERROR, "{}".to_owned())),
    ] {
        tmdb.behave(behaviour);
        assert_unavailable(&details(&service, id).await);
    }
    // After the third failure nobody asks for some seconds.
    let count = tmdb.count();
    tmdb.behave(Behaviour::Normal);
    assert_unavailable(&details(&service, 4).await);
    assert_eq!(tmdb.count(), count);
    end_pause(&service).await;
    assert_eq!(details(&service, 4).await.json()["tmdb_id"], 2);
}

#[tokio::test]
async fn a_film_for_which_tmdb_fails_does_not_keep_others_from_their_details() {
    let (tmdb, service) = start().await;
    let other = json!({ "title": "The Maltese Falcon", "year": 1931, "cast": ["Una Merkel"] });
    post(&service, &[other]).await;
    tmdb.behave(Behaviour::Status(StatusCode::INTERNAL_SERVER_ERROR, String::new()));
    assert_unavailable(&details(&service, 1).await);
    tmdb.behave(Behaviour::Normal);
    assert_eq!(details(&service, 2).await.json()["tmdb_id"], 2);
    let count = tmdb.count();
    assert_unavailable(&details(&service, 1).await);
    assert_eq!(tmdb.count(), count, "it was asked about again at once");
}

#[tokio::test]
async fn one_property_that_is_not_as_documented_does_not_cost_the_answer() {
    let (tmdb, service) = start().await;
    let mut film = films().remove(0);
    film.changes = json!({ "original_title": null, "runtime": -1, "alternative_titles": null,
        "vote_average": "high", "credits": { "cast": [null, { "name": "Mary Astor" }] } });
    tmdb.set_films(vec![film]);
    let shown = details(&service, 1).await.json();
    assert_eq!((&shown["tmdb_id"], &shown["runtime"]), (&json!(1), &Value::Null), "{shown}");
}

#[tokio::test]
async fn answers_that_are_of_no_use_are_not_asked_for_again_at_once() {
    let evil = Standin::start(films()).await;
    let endless = format!("{{\"results\": [{}]}}", " ".repeat(3 << 20));
    for behaviour in [
        Behaviour::Status(StatusCode::OK, "{\"results\": [{\"id\":".to_owned()),
        Behaviour::Status(StatusCode::OK, "[]".to_owned()),
        Behaviour::Status(StatusCode::OK, "{\"results\": [{\"id\": \"one\"}]}".to_owned()),
        Behaviour::Status(StatusCode::OK, "[".repeat(100_000)),
        Behaviour::Status(StatusCode::OK, endless),
        Behaviour::Status(StatusCode::UNPROCESSABLE_ENTITY, "{}".to_owned()),
        Behaviour::Redirect(format!("{}/configuration", evil.url())),
    ] {
        let (tmdb, service) = start().await;
        tmdb.behave(behaviour.clone());
        assert_unavailable(&details(&service, 1).await);
        tmdb.behave(Behaviour::Normal);
        assert_unavailable(&details(&service, 1).await);
        assert_eq!(tmdb.count(), 1, "{behaviour:?}");
        // An hour later. Other movies need not wait.
        let later = "update movie_details set ask_at = now(), keep_until = now()";
        service.sql().await.execute(later, &[]).await.unwrap();
        assert_eq!(details(&service, 1).await.json()["state"], "found", "{behaviour:?}");
    }
    assert_eq!(evil.count(), 0, "a redirect was followed");
}

#[tokio::test]
async fn what_tmdb_says_is_text_and_its_images_come_from_its_own_host() {
    let mut film = films().remove(0);
    film.changes = json!({
        "overview": "<script>alert(1)</script>\u{0}\u{1b}[0m", "title": "The Maltese Falcon",
        "poster_path": "//evil.example/a.jpg", "backdrop_path": "/a.jpg\" onerror=\"alert(1)",
        "imdb_id": "javascript:alert(1)", "external_ids": { "imdb_id": "<b>" },
        "vote_average": 1e300, "videos": { "results": [{ "site": "YouTube", "type": "Trailer", "key": "\"><script>" }] },
    });
    let tmdb = Standin::start(vec![film.clone()]).await;
    let service = service_with(&tmdb, &[falcon()]).await;
    let shown = details(&service, 1).await.json();
    assert_eq!(shown["overview"], "<script>alert(1)</script>[0m");
    for name in ["poster", "backdrop", "imdb_id", "trailer", "rating"] {
        assert!(shown.get(name).is_none(), "{shown}");
    }

    film.changes = json!({});
    let tmdb = Standin::start(vec![film]).await;
    let images = json!({ "secure_base_url": "https://evil.example/", "poster_sizes": ["w500"], "backdrop_sizes": ["w1280"] });
    tmdb.set_configuration(json!({ "images": images }));
    let service = service_with(&tmdb, &[falcon()]).await;
    let shown = details(&service, 1).await.json();
    assert_eq!(shown["state"], "found");
    assert!(shown.get("poster").is_none() && !shown.to_string().contains("evil"), "{shown}");
}

fn enriching(service: &Service, tmdb: &Standin) -> Environment {
    let mut environment = environment(service);
    environment.insert("MRU_TMDB_TOKEN", TMDB_TOKEN.to_owned());
    environment.insert("MRU_TMDB_URL", tmdb.url());
    environment
}

async fn enrich(environment: &Environment, arguments: &[&str]) -> Output {
    let mut program = program("enrich");
    program.envs(environment);
    Output::of(program, arguments).await
}

#[tokio::test]
async fn enrich_asks_about_all_movies_once_and_goes_on_where_it_ended() {
    let mut films: Vec<TmdbFilm> =
        (0..60).map(|n| TmdbFilm::new(n, &format!("Film {n}"), 1950, &[])).collect();
    let movies: Vec<Value> =
        (0..60).map(|n| json!({ "title": format!("Film {n}"), "year": 1950 })).collect();
    // One has no film, of another the answer is of no use.
    films.remove(7);
    films[20].changes = json!({ "runtime": "long" });
    let tmdb = Standin::start(films).await;
    let service = service_with(&tmdb, &movies).await;
    let environment = enriching(&service, &tmdb);

    // It is killed on its way.
    let mut killed = program("enrich").envs(&environment).spawn().unwrap();
    let kept = async || {
        let row = service.sql().await.query_one("select count(*) from movie_details", &[]).await;
        row.unwrap().get::<_, i64>(0)
    };
    eventually(async || kept().await >= 10).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (known, asked_before) = (kept().await, tmdb.count());

    // TMDB wants a pause meanwhile.
    tmdb.behave(Behaviour::TooMany("1"));
    let (output, ()) = tokio::join!(enrich(&environment, &["--json"]), async {
        eventually(async || tmdb.count() > asked_before).await;
        tmdb.behave(Behaviour::Normal);
    });
    assert_eq!(output.status, 0, "{output:?}");
    let filled = output.json_lines().remove(0);
    // What was being asked when it was killed may still have been kept.
    assert!((1..=60 - known).contains(&filled["asked"].as_i64().unwrap()), "{known} {filled}");
    let is_there = |count: &str| filled[count].as_u64().unwrap() <= 1;
    assert!(filled["movies"] == 60 && is_there("none") && is_there("unusable"), "{filled}");
    assert_eq!(kept().await, 60);

    // Now all is known: no request.
    let count = tmdb.count();
    let output = enrich(&environment, &[]).await;
    let expected = "60 movies: 60 were known; 0 asked about: 0 found, 0 without a film, 0 without an answer of use\n";
    assert_eq!((output.status, output.stdout.as_str()), (0, expected), "{output:?}");
    let film = &service.movies("title=film+59").await[0];
    let id = film["id"].as_i64().unwrap();
    assert_eq!(details(&service, id).await.json()["state"], "found");
    assert_eq!(tmdb.count(), count);
}

#[tokio::test]
async fn enrich_says_what_is_missing_or_refused() {
    let (tmdb, service) = start().await;
    let mut environment = enriching(&service, &tmdb);
    environment.insert("MRU_TMDB_TOKEN", "wrong".to_owned());
    let output = enrich(&environment, &[]).await;
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("TMDB refuses the token: check MRU_TMDB_TOKEN"), "{output:?}");
    assert!(!output.stderr.contains("wrong"), "{output:?}");
    // What is old is not taken for an answer.
    assert_eq!(details(&service, 1).await.json()["state"], "found");
    let_days_pass(&service, 31).await;
    let output = enrich(&environment, &[]).await;
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("TMDB refuses the token"), "{output:?}");
    environment.insert("MRU_TMDB_TOKEN", "two\nlines".to_owned());
    let output = enrich(&environment, &[]).await;
    assert!(output.status == 1 && output.stderr.contains("is not one"), "{output:?}");
    environment.remove("MRU_TMDB_TOKEN");
    environment.remove("MRU_TMDB_URL");
    let output = enrich(&environment, &[]).await;
    assert_eq!((output.status, output.stderr.as_str()), (1, "MRU_TMDB_TOKEN is not set\n"));
}

/// Returns the largest number of requests within one second.
fn busiest_second(tmdb: &Standin) -> usize {
    let times: Vec<Instant> = tmdb.received().iter().map(|received| received.at).collect();
    let within = |start: &Instant| {
        let is_within =
            |at: &&Instant| **at >= *start && at.duration_since(*start) < Duration::from_secs(1);
        times.iter().filter(is_within).count()
    };
    times.iter().map(within).max().unwrap_or_default()
}

#[tokio::test]
async fn all_replicas_together_send_at_most_40_requests_a_second() {
    let films = (0..120).map(|n| TmdbFilm::new(n, &format!("Film {n}"), 1950, &[])).collect();
    let movies: Vec<Value> =
        (0..120).map(|n| json!({ "title": format!("Film {n}"), "year": 1950 })).collect();
    let tmdb = Standin::start(films).await;
    let service = service_with(&tmdb, &movies).await;
    let configure = |config: &mut Config| tmdb.configure(config);
    let others = [service.replica(configure).await, service.replica(configure).await];
    let addresses = [service.address, others[0].address, others[1].address];
    let ask = async |id: usize| details_at(addresses[id % 3], id).await["state"].clone();
    let states = futures_util::future::join_all((1..=120).map(ask)).await;
    // Some are turned away: the turns of 5 s are taken.
    let found = states.iter().filter(|state| *state == "found").count();
    assert!(found > 20, "{found} of 120");
    assert!(tmdb.count() > 100);
    assert!(busiest_second(&tmdb) <= 40, "{} requests in a second", busiest_second(&tmdb));
}
