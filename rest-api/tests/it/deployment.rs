//! What the deployment files say must be what the programs read.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use reqwest::StatusCode;
use tokio::process::Command;

use crate::service::Service;

/// What the chart leaves to its default, and why.
const CHART_LEAVES: [&str; 0] = [];

/// What terraform leaves to its default, and why.
const TERRAFORM_LEAVES: [&str; 2] = [
    "MRU_API_TOKEN", // it would be in terraform's state; the name of a secret is set instead
    "MRU_LOG",       // info is right
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every name that `read` asks its lookup for, whether it finds something or not.
fn asked(read: impl Fn(&dyn Fn(&str) -> Option<String>)) -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    for found in [None, Some("http://localhost/1".to_owned())] {
        read(&|name| {
            names.borrow_mut().insert(name.to_owned());
            found.clone()
        });
    }
    names.into_inner()
}

/// Every variable that the files of `folder` name outside of comments.
fn named(folder: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', '/', '*']));
        for line in lines {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let variables = words.filter(|word| word.starts_with("MRU_") || *word == "AWS_REGION");
            names.extend(variables.map(str::to_owned));
        }
    }
    names
}

fn without(names: &BTreeSet<String>, left: &[&str]) -> BTreeSet<String> {
    names.iter().filter(|name| !left.contains(&name.as_str())).cloned().collect()
}

#[test]
fn the_chart_sets_every_variable_that_the_service_reads_and_no_other() {
    let read = asked(|lookup| drop(rest_api::config::Config::from_lookup(lookup)));
    assert!(read.len() > 10, "{read:?}");
    assert_eq!(named("helm/movies-r-us/templates"), without(&read, &CHART_LEAVES));
}

#[test]
fn terraform_sets_every_variable_that_the_function_reads_and_no_other() {
    let read = asked(|lookup| drop(ingest_lambda::Config::from_lookup(lookup)));
    let set = named("infrastructure/3-s3-lambda");
    // AWS itself sets the region.
    assert_eq!(without(&set, &["AWS_REGION"]), without(&read, &TERRAFORM_LEAVES));
}

#[tokio::test]
async fn the_health_check_says_what_a_container_needs_to_know() {
    let service = Service::start().await;
    let ask = async |arguments: &[&str], listen: &str| {
        let program = Command::new(env!("CARGO_BIN_EXE_rest-api"))
            .arg("healthcheck")
            .args(arguments)
            .env("MRU_LISTEN", listen)
            .output()
            .await
            .unwrap();
        (program.status.success(), String::from_utf8(program.stderr).unwrap())
    };
    let listen = format!("0.0.0.0:{}", service.address.port());
    assert_eq!(ask(&[], &listen).await, (true, String::new()));
    let ready = service.url("/readyz");
    assert_eq!(ask(&["--url", &ready], "").await, (true, String::new()));
    let (healthy, told) = ask(&["--url", &service.url("/nowhere")], "").await;
    assert!(!healthy && told.contains(StatusCode::NOT_FOUND.as_str()), "{told}");
    let (healthy, told) = ask(&[], "127.0.0.1:1").await;
    assert!(!healthy && told.contains("127.0.0.1:1"), "{told}");
}
