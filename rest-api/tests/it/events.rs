//! `GET /events`: what followers are told, across replicas and outages.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use rest_api::{accounts::Role, config::Config};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::{
    Service, TOKEN,
    events::{Event, EventStream, request},
    eventually,
    movies::MOVIE,
    notification,
    tokens::{KEY, Parts, bound_token, seconds_from_now, token},
};

/// How many clients may follow from one address, and in all.
const MAX_FROM_ADDRESS: usize = 64;
const MAX_FOLLOWERS: usize = 512;

async fn follow(service: &Service) -> EventStream {
    EventStream::open(service.address, Some(TOKEN), None).await
}

/// Waits until so many services listen to the database of `service`.
async fn listening(service: &Service, services: i64) {
    let sql = service.sql().await;
    let count = "
        select count(*) from pg_stat_activity
        where datname = current_database() and state = 'idle'
            and (query like 'listen %' or query like '%listen::forward%')";
    eventually(async || sql.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == services)
        .await;
    // They learn of it a moment later.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn metric(service: &Service, name: &str) -> String {
    let text = service.get("/metrics").await.text;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_ingest_is_told_when_it_begins_and_ends_on_every_replica() {
    let service = Service::start_without_workers().await;
    let replica = service.replica(|config| config.workers = 0).await;
    let mut streams =
        [follow(&service).await, EventStream::open(replica.address, Some(TOKEN), None).await];
    let mut first = Vec::new();
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().name, "revision");
        first.push(stream.revision);
    }
    service.put("studio/a.json", MOVIE).await;
    let recorded = service.post("/notify", notification::bare("studio/a.json").to_string());
    let id = service.send(recorded).await.json()["id"].clone();
    // As a worker does that has claimed it, and is busy.
    let sql = service.sql().await;
    let claim = "
        update ingests
        set state = 'running', attempts = 1, started_at = now(), lease_token = gen_random_uuid(),
            lease_expires_at = now() + interval '3 seconds'";
    sql.batch_execute(claim).await.unwrap();
    for stream in &mut streams {
        let begun = stream.next_of("ingest").await;
        assert_eq!((&begun.data["id"], &begun.data["state"]), (&id, &json!("running")));
        assert_eq!(begun.id, None);
    }
    // Somebody who comes later is told, too.
    let mut late = follow(&service).await;
    assert_eq!(late.next_of("ingest").await.data["state"], "running");
    // A worker takes over once the lease has ended.
    let _worker = service.replica(|_| {}).await;
    let mut ids = Vec::new();
    for (stream, first) in streams.iter_mut().zip(first) {
        let end = stream.next_end().await;
        assert_eq!(end.data["state"], "succeeded", "{end:?}");
        assert_eq!((&end.data["id"], &end.data["inserted"]), (&id, &json!(1)));
        assert_eq!(end.data["key"], "studio/a.json");
        assert!(end.data.get("violations").is_none(), "{end:?}");
        ids.push(end.id);
        // It comes before or after.
        while stream.revision <= first {
            stream.next().await.unwrap();
        }
    }
    assert!(ids[0].is_some() && ids[0] == ids[1], "{ids:?}");
}

/// Ends an ingest by a file that is not right. Returns its number.
async fn reject(service: &Service, key: &str) -> Value {
    service.ingest(key, "{}").await["id"].clone()
}

#[tokio::test]
async fn a_client_that_comes_back_is_told_what_it_has_missed_by_any_replica() {
    let service = Service::start().await;
    let replica = service.replica(|config| config.workers = 0).await;
    listening(&service, 2).await;
    let mut others = EventStream::open(replica.address, Some(TOKEN), None).await;
    let mut stream = follow(&service).await;
    let first = reject(&service, "first").await;
    assert_eq!(stream.next_end().await.data["id"], first);
    assert_eq!(others.next_end().await.data["id"], first);
    let last_id = stream.last_id.clone().unwrap();
    drop(stream);
    let mut missed = Vec::new();
    for key in ["second", "third"] {
        missed.push(reject(&service, key).await);
        others.next_end().await;
    }
    for (address, key) in [(service.address, "fourth"), (replica.address, "fifth")] {
        let mut stream = EventStream::open(address, Some(TOKEN), Some(&last_id)).await;
        for id in &missed {
            assert_eq!(stream.next_end().await.data["id"], *id);
        }
        assert_eq!(stream.last_id, others.last_id);
        // Nothing twice: a client that has the last end is told the next one.
        let newest = stream.last_id.clone();
        let mut stream = EventStream::open(address, Some(TOKEN), newest.as_deref()).await;
        missed.push(reject(&service, key).await);
        assert_eq!(Some(&stream.next_end().await.data["id"]), missed.last());
        others.next_end().await;
    }
}

#[tokio::test]
async fn a_client_whose_place_is_not_known_is_told_to_ask_again() {
    let mut service = Service::start().await;
    listening(&service, 1).await;
    let mut stream = follow(&service).await;
    let hello = stream.next().await.unwrap();
    assert!(hello.id.is_some(), "{hello:?}");
    reject(&service, "a").await;
    let last_id = stream.next_end().await.id.unwrap();
    service.stop().await;
    let service = service.successor().start().await;
    listening(&service, 1).await;
    for unknown in [last_id.as_str(), "1-1", "", "x"] {
        let mut stream = EventStream::open(service.address, Some(TOKEN), Some(unknown)).await;
        let reset = stream.next().await.unwrap();
        assert_eq!((&reset.name[..], &reset.data), ("reset", &json!({})), "{unknown}");
        // From here on the place is known.
        let mut again =
            EventStream::open(service.address, Some(TOKEN), stream.last_id.as_deref()).await;
        assert_eq!(again.next().await.unwrap().name, "revision");
    }
}

#[tokio::test]
async fn ends_that_may_have_been_missed_reset_whoever_follows() {
    let service = Service::start().await;
    listening(&service, 1).await;
    let mut stream = follow(&service).await;
    let id = reject(&service, "a").await;
    assert_eq!(stream.next_end().await.data["id"], id);
    let sql = service.sql().await;
    // The connection that listens ends. The service opens another one.
    let cut = "
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    let count: i64 = sql.query_one(cut, &[]).await.unwrap().get(0);
    assert!(count > 0);
    let reset = stream.next_of("reset").await;
    assert!(reset.id.is_some(), "{reset:?}");
    eventually(async || service.get("/readyz").await.status == StatusCode::OK).await;
    listening(&service, 1).await;
    let id = reject(&service, "b").await;
    assert_eq!(stream.next_end().await.data["id"], id);
}

#[tokio::test]
async fn ingests_are_for_those_who_read_them() {
    let private = |config: &mut Config| config.public_ledger = false;
    let service = Service::builder().config(private).start().await;
    listening(&service, 1).await;
    let open = async |token: Option<String>| {
        EventStream::open(service.address, token.as_deref(), None).await
    };
    let bound = &["studio/", "nothing/"];
    let mut producer = open(Some(bound_token(&[Role::Producer], bound))).await;
    let mut admin = open(Some(token(&[Role::Admin]))).await;
    let mut without_role = open(Some(token(&[]))).await;
    let mut anybody = open(None).await;
    let other = reject(&service, "other/a").await;
    let own = reject(&service, "studio/a").await;
    assert_eq!(admin.next_end().await.data["id"], other);
    assert_eq!(admin.next_end().await.data["id"], own);
    assert_eq!(producer.next_end().await.data["id"], own);
    // It changes the catalogue, which everybody may know.
    service.ingest("studio/b", MOVIE).await;
    let last = |event: &Event| event.data["revision"].as_i64();
    for stream in [&mut anybody, &mut without_role] {
        let before = stream.next().await.unwrap();
        let after = stream.next().await.unwrap();
        for event in [&before, &after] {
            assert_eq!((&event.name[..], &event.id), ("revision", &None));
        }
        assert!(last(&after) > last(&before), "{before:?} {after:?}");
    }
    let broken = request(service.address, Some("broken"), None).send().await.unwrap();
    assert_eq!(broken.status(), StatusCode::UNAUTHORIZED);
    let public = |config: &mut Config| config.public_ledger = true;
    let replica = service.replica(public).await;
    listening(&service, 2).await;
    let mut anybody = EventStream::open(replica.address, None, None).await;
    let mut bound =
        EventStream::open(replica.address, Some(&bound_token(&[Role::Producer], bound)), None)
            .await;
    let other = reject(&service, "other/b").await;
    let own = reject(&service, "studio/c").await;
    assert_eq!(anybody.next_end().await.data["id"], other);
    assert_eq!(bound.next_end().await.data["id"], own);
}

#[tokio::test]
async fn a_stream_ends_when_the_service_stops_or_the_token_ends() {
    let mut service = Service::start().await;
    let short = Parts::of(&token(&[Role::Editor])).claim("exp", seconds_from_now(3));
    let short = short.signed_with(&KEY);
    let mut ending = EventStream::open(service.address, Some(&short), None).await;
    service.add_user("ann", &["editor"], &[]).await;
    let session = service.sign_in("ann").await.access;
    let mut signed_out = EventStream::open(service.address, Some(&session), None).await;
    let mut stream = follow(&service).await;
    stream.next().await.unwrap();
    let started = Instant::now();
    ending.end().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let answer = service.call(Method::POST, "/auth/logout", &session, None).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    // With the next event or comment.
    signed_out.end().await;
    let took = service.stop().await;
    // A request in flight would have 12 s.
    assert!(took < Duration::from_secs(8), "{took:?}");
    stream.end().await;
}

#[tokio::test]
async fn streams_are_bounded_in_all_and_for_each_address() {
    let service = Service::builder().config(|config| config.trusted_proxies = 1).start().await;
    let from = |number: usize| {
        let address = format!("10.0.{}.1", number / MAX_FROM_ADDRESS);
        request(service.address, Some(TOKEN), None).header("x-forwarded-for", address)
    };
    let mut open = Vec::new();
    for number in 0..MAX_FROM_ADDRESS {
        open.push(from(number).send().await.unwrap());
    }
    let refused = from(0).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "30");
    assert!(refused.text().await.unwrap().contains("your address"));
    for number in MAX_FROM_ADDRESS..MAX_FOLLOWERS {
        open.push(from(number).send().await.unwrap());
    }
    assert!(open.iter().all(|response| response.status() == StatusCode::OK));
    let refused = from(MAX_FOLLOWERS).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    // Others are served meanwhile.
    assert_eq!(service.get("/movies").await.status, StatusCode::OK);
    assert_eq!(metric(&service, "mru_event_streams").await, MAX_FOLLOWERS.to_string());
    open.clear();
    eventually(async || metric(&service, "mru_event_streams").await == "0").await;
    assert_eq!(from(0).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_and_holds_nobody_up() {
    let service = Service::start_without_workers().await;
    listening(&service, 1).await;
    let head = format!("GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    let mut slow = service.connect_and_send(head).await;
    let mut stream = follow(&service).await;
    eventually(async || metric(&service, "mru_event_streams").await == "2").await;
    let sql = service.sql().await;
    // Each end has some 4 KB, so that no buffer of a socket holds them all.
    let end = "
        insert into ingests (bucket, key, state, finished_at, violation_count, error)
        select 'movies', repeat('k', 1000) || n, 'failed', clock_timestamp(), null,
            json_build_object('detail', repeat('x', 3000))
        from generate_series(1, 250) n
        returning id";
    let started = Instant::now();
    let mut told = 0;
    while metric(&service, "mru_event_streams").await == "2" {
        assert!(started.elapsed() < Duration::from_secs(90), "the slow client is still there");
        let rows = sql.query(end, &[]).await.unwrap();
        let ids: Vec<String> = rows.iter().map(|row| row.get::<_, i64>(0).to_string()).collect();
        let notify = "select pg_notify('movies_r_us_finished', $1)";
        sql.query_one(notify, &[&ids.join(",")]).await.unwrap();
        // The other one gets them all.
        for id in ids {
            assert_eq!(stream.next_end().await.data["id"].to_string(), id);
            told += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(told > 1000, "{told}");
    // What it can still read is what the sockets hold.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut rest)).await;
    assert!(rest.len() < told * 4_000, "{} bytes of {told} events", rest.len());
}

#[tokio::test]
async fn a_comment_keeps_the_connection_and_other_methods_open_no_stream() {
    let service = Service::start_without_workers().await;
    let head = service.send(service.request(Method::HEAD, "/events")).await;
    assert_eq!((head.status, head.header("content-type")), (StatusCode::OK, "text/event-stream"));
    let parameter = service.get("/events?x=1").await;
    assert_eq!(parameter.status, StatusCode::BAD_REQUEST);
    eventually(async || metric(&service, "mru_event_streams").await == "0").await;
    let started = Instant::now();
    let mut stream = follow(&service).await;
    loop {
        let block = stream.block().await.unwrap();
        if block == ":" {
            break;
        }
    }
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
}
