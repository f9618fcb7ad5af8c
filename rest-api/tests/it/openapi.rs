//! The OpenAPI document, and the reference at `/docs`.
//!
//! Tools from PyPI read the document as clients do: a validator, schemathesis, which makes requests of it and
//! compares the answers with it, and a generator of clients.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use reqwest::{Method, StatusCode};
use rest_api::config::Config;
use serde_json::{Value, json};

use crate::support::{
    Service, TOKEN,
    process::{Output, program},
    python,
};

/// The directory of a test, with copies of `files`. It is removed with the service.
fn directory(service: &Service, files: &[&str]) -> PathBuf {
    let directory = service.scratch_path("tools");
    std::fs::create_dir_all(&directory).unwrap();
    let originals = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/openapi");
    for file in files {
        std::fs::copy(originals.join(file), directory.join(file)).unwrap();
    }
    directory
}

/// Runs a program of `.ci/requirements/openapi.txt` in a directory.
async fn run_python(directory: &Path, arguments: &[&str]) {
    let packages = python::packages("openapi").await;
    let path = std::env::join_paths([directory, &packages]).unwrap();
    let mut python = Command::new("python3");
    python.args(arguments).env("PYTHONPATH", path);
    python.current_dir(directory).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || python.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
}

#[tokio::test]
async fn the_committed_document_is_current() {
    let printed = Output::of(program("openapi"), &[""; 0]).await;
    assert_eq!(printed.status, 0, "{}", printed.stderr);
    let committed = include_str!("../../openapi.json");
    assert!(
        printed.stdout == committed,
        "the API has changed: cargo run -p rest-api -- openapi > rest-api/openapi.json"
    );
    let service = Service::start_without_workers().await;
    let served = service.get("/openapi.json").await;
    assert_eq!(served.json(), serde_json::from_str::<Value>(committed).unwrap());
}

#[tokio::test]
async fn movies_are_defined_by_the_schema_file() {
    let service = Service::start_without_workers().await;
    let (file, document) =
        (service.get("/schema/movies.json").await, service.get("/openapi.json").await);
    let file = file.text.replace("\"#/$defs/", "\"#/components/schemas/");
    let (file, document): (Value, _) = (serde_json::from_str(&file).unwrap(), document.json());
    let schemas = &document["components"]["schemas"];
    for (name, definition) in file["$defs"].as_object().unwrap() {
        assert_eq!(&schemas[name], definition, "{name}");
    }
    let answered = schemas["CatalogueMovie"]["properties"].as_object().unwrap();
    let mut names: Vec<&str> = answered.keys().map(String::as_str).collect();
    names.retain(|name| !["id", "score"].contains(name));
    let defined = schemas["Movie"]["properties"].as_object().unwrap();
    assert_eq!(names, defined.keys().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_document_is_valid() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    run_python(package, &["-m", "openapi_spec_validator", "openapi.json"]).await;
}

/// schemathesis fails on an answer of 5xx, on one whose status, media type, headers or body the document does
/// not have, and on a request against the document that is accepted.
#[tokio::test]
async fn every_answer_is_in_the_document() {
    let private = |config: &mut Config| config.public_ledger = false;
    let service = Service::builder().config(private).start().await;
    // What the examples of the document find.
    let movies = json!([{
        "title": "Guilty Hands", "year": 1931, "genres": ["Crime"], "cast": ["Lionel Barrymore"],
    }]);
    service.ingest("my/movies.json", movies.to_string()).await;
    service.ingest("my/rejected.json", r#"{"title": "Guilty Hands"}"#).await;
    let directory = directory(&service, &["ndjson.py", "schemathesis.toml"]);
    let (url, token) = (service.url("/openapi.json"), format!("Authorization: Bearer {TOKEN}"));
    let run = ["-m", "schemathesis.cli", "run", &url, "--header", &token];
    run_python(&directory, &run).await;
}

#[tokio::test]
async fn a_generated_client_gets_typed_movies() {
    let service = Service::start().await;
    let directory = directory(&service, &["client.py"]);
    let program = "from openapi_generator_cli import cli; cli()";
    let url = service.url("/openapi.json");
    let generate = ["-c", program, "generate", "--input-spec", &url, "--generator-name", "python"];
    let output = ["--package-name", "movies_r_us", "--output", "."];
    run_python(&directory, &[&generate[..], &output].concat()).await;
    run_python(&directory, &["client.py", &service.url(""), TOKEN]).await;
    // Of the generated code the types alone matter; mypy does not look for the packages that it imports.
    let options = ["--strict", "--follow-imports=silent", "--ignore-missing-imports"];
    run_python(&directory, &[&["-m", "mypy"][..], &options, &["client.py"]].concat()).await;
}

#[tokio::test]
async fn documents_have_entity_tags() {
    let service = Service::start_without_workers().await;
    for path in [
        "/",
        "/docs",
        "/docs/operations",
        "/docs/swagger-ui.css",
        "/openapi.json",
        "/schema/movies.json",
    ] {
        let plain = service.get(path).await;
        assert_eq!(plain.status, StatusCode::OK, "{path}");
        assert_eq!(plain.header("cache-control"), "public, no-cache");
        let held = service.request(Method::GET, path).header("if-none-match", plain.header("etag"));
        let held = service.send(held).await;
        assert_eq!((held.status, &held.text[..]), (StatusCode::NOT_MODIFIED, ""), "{path}");
        let packed = service.request(Method::GET, path).header("accept-encoding", "gzip");
        let packed = service.send(packed).await;
        assert_eq!(packed.header("content-encoding"), "gzip", "{path}");
        assert_ne!(packed.header("etag"), plain.header("etag"), "{path}");
    }
}

#[tokio::test]
async fn the_reference_needs_nothing_from_elsewhere() {
    let service = Service::start_without_workers().await;
    let page = service.get("/docs").await;
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    let attributes = page.text.split(['"']).skip(1).step_by(2);
    let files: Vec<&str> = attributes.filter(|value| value.starts_with("docs/")).collect();
    assert_eq!(files, ["docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js"]);
    for (file, media_type) in
        files.into_iter().zip(["text/css", "text/javascript", "text/javascript"])
    {
        let response = service.get(&format!("/{file}")).await;
        assert_eq!(response.status, StatusCode::OK, "{file}");
        assert!(response.header("content-type").starts_with(media_type), "{file}");
        assert!(!response.text.is_empty(), "{file}");
    }
    let missing = service.get("/docs/index.html").await;
    assert_eq!(missing.json()["code"], "not_found");
}

#[tokio::test]
async fn the_manual_has_the_sections_that_the_page_refers_to() {
    let service = Service::start_without_workers().await;
    let manual = service.get("/docs/operations").await;
    assert!(manual.header("content-type").starts_with("text/html"));
    let policy = manual.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{policy}");
    assert_eq!(service.get("/docs/manual.css").await.status, StatusCode::OK);
    let view = include_str!("../../src/http/page/operations.js");
    let names = view.split(r#"section: ""#).chain(view.split(r#"section=""#)).filter_map(|rest| {
        let (name, _) = rest.split_once('"')?;
        name.chars().all(|c| c.is_ascii_lowercase() || c == '-').then_some(name)
    });
    let names: std::collections::BTreeSet<&str> = names.collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert!(manual.text.contains(&format!(r#" id="{name}""#)), "{name}");
    }
}
