//! What people decide about versions: the commands `undo`, `redo`, `approve` and `decisions`.

use rest_api::{
    config::MaxWithdraw,
    store::{FoundById, Mode},
};
use serde_json::{Value, json};

use crate::support::{
    BUCKET, Service, eventually,
    ledger::row,
    movies::{movie, ndjson},
    postgres::migrated_database,
    process::{Output, environment, program},
};

/// Runs `rest-api` on the database of `service`.
async fn run(service: &Service, arguments: &[&str]) -> Output {
    let mut program = program(arguments[0]);
    program.envs(environment(service)).env("USER", "ann");
    Output::of(program, &arguments[1..]).await
}

async fn succeeds(service: &Service, arguments: &[&str]) -> Output {
    let ran = run(service, arguments).await;
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{arguments:?}: {}", ran.stdout);
    ran
}

/// Imports `lines`.
async fn import(service: &Service, lines: &str) -> Output {
    let path = service.scratch_path("decisions.ndjson");
    std::fs::write(&path, lines).unwrap();
    run(service, &["decisions", "import", "--json", path.to_str().unwrap()]).await
}

async fn export(service: &Service) -> String {
    succeeds(service, &["decisions", "export"]).await.stdout
}

/// Returns a service whose snapshots may withdraw one movie.
async fn start() -> Service {
    let service = Service::builder().config(|config| {
        config.snapshots.max_withdraw = MaxWithdraw::Movies(1);
    });
    let service = service.start().await;
    service.enable_versioning().await;
    service
}

/// Replaces the database by an empty one, with a service that has the same configuration.
async fn with_empty_database(mut service: Service) -> Service {
    service.stop().await;
    service.database = migrated_database().await;
    let successor = service.successor();
    successor.config(|config| config.snapshots.max_withdraw = MaxWithdraw::Movies(1)).start().await
}

async fn titles(service: &Service) -> Vec<String> {
    let movies = service.movies("sort=title").await;
    movies.iter().map(|movie| movie["title"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_ingest_is_undone_and_redone_on_the_command_line() {
    let service = start().await;
    let many: Vec<Value> = (0..150).map(|number| movie(&format!("M {number:03}"), "new")).collect();
    let first = service.put_version("k", Mode::Upsert, ndjson(&[movie("M 000", "old")])).await;
    assert_eq!(service.notify(&first).await["state"], "succeeded");
    let second = service.put_version("k", Mode::Upsert, ndjson(&many)).await;
    let id = service.notify(&second).await["id"].to_string();

    let dry = succeeds(&service, &["undo", &id, "--dry-run"]).await.stdout;
    let version = second["version_id"].as_str().unwrap();
    let lines: Vec<&str> = dry.lines().collect();
    assert_eq!(lines[0], format!("ingest {id} would be undone: {BUCKET}/k, version {version}"));
    assert!(lines[1].starts_with("withdrawn  ") && lines[1].ends_with("  M 001 (2000)"), "{dry}");
    assert_eq!(lines[101], "and 50 more");
    assert_eq!(lines[102..], ["149 movies withdrawn, 0 restored, 1 changed"]);
    assert_eq!(service.movies("").await.len(), 150);
    let none = run(&service, &["decisions", "export"]).await;
    assert_eq!((&*none.stdout, &*none.stderr), ("", "there are no decisions\n"));

    let undone = succeeds(&service, &["undo", &id, "--json"]).await.json_lines().remove(0);
    assert_eq!((&undone["id"].to_string(), &undone["undone_by"]), (&id, &json!("ann")));
    assert_eq!(undone["effect"]["withdrawn"], 149);
    let old = [movie("M 000", "old")];
    eventually(async || service.movies_without_ids("").await == old).await;
    let again = succeeds(&service, &["undo", &id]).await.stdout;
    assert!(again.ends_with("0 movies withdrawn, 0 restored, 0 changed\n"), "{again}");
    let redone = succeeds(&service, &["redo", &id, "--by", "Bob"]).await.stdout;
    assert!(redone.contains("149 restored, 1 changed\nThe running service reads"), "{redone}");
    eventually(async || service.movies_without_ids("sort=title").await == many).await;

    let exported = export(&service).await;
    let decisions: Vec<Value> =
        exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by: Vec<_> = decisions.iter().map(|it| (&it["decision"], &it["decided_by"])).collect();
    assert_eq!(by, [(&json!("undo"), &json!("ann")), (&json!("redo"), &json!("Bob"))]);
    assert_eq!(decisions[0]["version_id"], version);

    for (arguments, message) in [
        (["undo", "999"], "no such ingest: GET /ingests lists them\n"),
        (["approve", &id], "the ingest is succeeded; only a blocked one can be approved\n"),
    ] {
        let ran = run(&service, &arguments).await;
        assert_eq!((ran.status, &*ran.stdout, &*ran.stderr), (1, "", message));
    }
    assert_eq!(run(&service, &["undo", &id, "--by", ""]).await.status, 2);
}

#[tokio::test]
async fn imported_decisions_hold_for_versions_that_are_merged_before_and_later() {
    let service = start().await;
    let both = ndjson(&[movie("A", "x"), movie("B", "x"), movie("C", "x")]);
    let mut versions = vec![service.put_version("snapshot", Mode::Snapshot, both).await];
    assert_eq!(service.notify(&versions[0]).await["state"], "succeeded");
    let short = ndjson(&[movie("A", "y")]);
    versions.push(service.put_version("snapshot", Mode::Snapshot, short).await);
    let blocked = service.notify(&versions[1]).await;
    assert_eq!(blocked["state"], "blocked", "{blocked}");
    let approved = succeeds(&service, &["approve", &blocked["id"].to_string()]).await.stdout;
    assert!(approved.ends_with("The running service ingests it\n"), "{approved}");
    service.reaches(&blocked["id"], "succeeded").await;
    versions.push(service.put_version("k", Mode::Upsert, ndjson(&[movie("D", "x")])).await);
    let undone = service.notify(&versions[2]).await["id"].to_string();
    succeeds(&service, &["undo", &undone]).await;
    assert_eq!(titles(&service).await, ["A"]);
    let exported = export(&service).await;
    assert_eq!(exported.lines().count(), 2);

    // Before the versions are merged.
    let service = with_empty_database(service).await;
    let imported = import(&service, &exported).await.json_lines().remove(0);
    assert_eq!(
        imported,
        json!({ "added": 2, "known": 0, "changed": 0, "approved": 0, "movies": 0 })
    );
    for version in &versions {
        let state = service.notify(version).await["state"].clone();
        assert!(state == "succeeded" || state == "superseded", "{state}");
    }
    assert_eq!(titles(&service).await, ["A"]);
    assert_eq!(export(&service).await, exported);

    // Afterwards.
    let service = with_empty_database(service).await;
    let mut ids = Vec::new();
    for version in &versions {
        ids.push(service.notify(version).await["id"].clone());
    }
    assert_eq!(service.get_ingest(&ids[1]).await["state"], "blocked");
    assert_eq!(titles(&service).await, ["A", "B", "C", "D"]);
    let imported = import(&service, &exported).await.json_lines().remove(0);
    assert_eq!(
        imported,
        json!({ "added": 2, "known": 0, "changed": 1, "approved": 1, "movies": 0 })
    );
    service.reaches(&ids[1], "succeeded").await;
    assert_eq!(titles(&service).await, ["A"]);
    assert_eq!(service.get_ingest(&ids[2]).await["undone_by"], "ann");

    // Nothing is added twice, and what was decided since holds.
    succeeds(&service, &["redo", &ids[2].to_string()]).await;
    let imported = import(&service, &format!("{exported}{exported}")).await.json_lines().remove(0);
    assert_eq!(
        imported,
        json!({ "added": 0, "known": 4, "changed": 0, "approved": 0, "movies": 0 })
    );
    service.idle().await;
    assert_eq!(titles(&service).await, ["A", "D"]);
    let reversed: Vec<&str> = exported.lines().rev().collect();
    let service = with_empty_database(service).await;
    let twice = [&reversed[..], &reversed[..]].concat().join("\n");
    let imported = import(&service, &twice).await.json_lines().remove(0);
    assert_eq!((&imported["added"], &imported["known"]), (&json!(2), &json!(2)));
    assert_eq!(export(&service).await, exported);
}

/// Waits until the only movie has this genre: the writer is another process than the reader.
async fn has_genre(service: &Service, genre: &str) {
    eventually(async || service.movies("").await[0]["genres"] == json!([genre])).await;
}

#[tokio::test]
async fn a_held_movie_keeps_its_content_though_it_was_posted_since() {
    let service = start().await;
    service.ingest("k", ndjson(&[movie("A", "file")])).await;
    let id = service.movies("").await[0]["id"].as_i64().unwrap();
    let store = service.store(1).await;
    store.hold_movie(id, "Ann").await.unwrap();
    let posted = row(&movie("A", "posted"));
    assert_eq!(store.post_movies(std::slice::from_ref(&posted), "Ann").await.unwrap().held, 1);
    let exported = export(&service).await;
    let mut reversed: Vec<&str> = exported.lines().collect();
    reversed.reverse();
    assert_eq!(reversed.len(), 2, "{exported}");

    let mut service = service;
    for lines in [exported.clone(), reversed.join("\n")] {
        service = with_empty_database(service).await;
        assert_eq!(import(&service, &lines).await.status, 0);
        has_genre(&service, "file").await;
        assert_eq!(export(&service).await, exported);
        let id = service.movies("").await[0]["id"].as_i64().unwrap();
        service.store(1).await.release_movie(id, "Ann").await.unwrap();
        has_genre(&service, "posted").await;
    }
    // What was written since the export is not overwritten.
    let store = service.store(1).await;
    store.post_movies(&[row(&movie("A", "since"))], "Ann").await.unwrap();
    has_genre(&service, "since").await;
    assert_eq!(import(&service, &exported).await.status, 0);
    let id = service.movies("").await[0]["id"].as_i64().unwrap();
    let FoundById::Movie(kept) = store.present_movie(id).await.unwrap() else { panic!() };
    assert!(kept.movie.json.contains("since"), "{}", kept.movie.json);
    assert!(kept.hold.is_some());
}

#[tokio::test]
async fn the_newest_decision_holds_whatever_the_order_of_the_lines() {
    let service = Service::start().await;
    // In a bucket without versions the content tells which version it is.
    let ingest = service.ingest("k", ndjson(&[movie("A", "x")])).await;
    let line = |decision: &str, minute: u32| {
        json!({ "decision": decision, "bucket": BUCKET, "key": "k", "version_id": null,
            "etag": ingest["etag"], "decided_at": format!("2026-01-01T00:{minute:02}:00Z"),
            "decided_by": "Ann" })
    };
    let changed = async |lines: &str| {
        let imported = import(&service, lines).await;
        assert_eq!(imported.status, 0, "{}", imported.stderr);
        let count = imported.json_lines()[0]["changed"].as_u64().unwrap();
        service.idle().await;
        (count, titles(&service).await.len())
    };
    assert_eq!(changed(&format!("{}\n{}", line("redo", 2), line("undo", 1))).await, (0, 1));
    assert_eq!(changed(&line("undo", 3).to_string()).await, (1, 0));
    assert_eq!(changed(&line("redo", 0).to_string()).await, (0, 0));
    assert_eq!(changed(&line("redo", 4).to_string()).await, (1, 1));
    let other = line("undo", 5).to_string().replace(ingest["etag"].as_str().unwrap(), "other");
    assert_eq!(changed(&other).await, (0, 1));
}

#[tokio::test]
async fn an_import_with_an_error_changes_nothing() {
    let service = Service::start().await;
    service.ingest("k", ndjson(&[movie("A", "x")])).await;
    let good = json!({ "decision": "undo", "bucket": BUCKET, "key": "k", "version_id": "v",
        "decided_at": "2026-01-01T00:00:00Z", "decided_by": "Ann" });
    let mut bad = good.clone();
    bad["version"] = "v".into();
    let failed = import(&service, &format!("{good}\n{bad}\n{good}")).await;
    assert_eq!((failed.status, &*failed.stdout), (1, ""));
    let message = failed.stderr;
    assert!(message.starts_with("line 2: unknown field `version`"), "{message}");
    assert!(message.ends_with("; nothing was imported\n"), "{message}");
    assert_eq!(run(&service, &["decisions", "export"]).await.stdout, "");
    let missing = run(&service, &["decisions", "import", "/no/such/file"]).await;
    assert_eq!(missing.status, 1);
    assert!(missing.stderr.starts_with("/no/such/file: "), "{}", missing.stderr);
    // Standard input, which is empty here.
    let empty = succeeds(&service, &["decisions", "import"]).await.stdout;
    assert!(empty.starts_with("0 decisions added, 0 known already; "), "{empty}");
}
