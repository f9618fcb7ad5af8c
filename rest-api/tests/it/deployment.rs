//! The deployment files set the variables that the programs read, the programs refuse others, and the health
//! check works.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use reqwest::StatusCode;

use crate::support::{
    Service,
    process::{Output, program},
};

/// Variables that the chart does not set, and why.
const UNSET_IN_CHART: [&str; 0] = [];

/// Variables that Terraform does not set, and why.
const UNSET_IN_TERRAFORM: [&str; 2] = [
    "MRU_API_TOKEN", // it would be in the state of Terraform, which sets the name of a secret instead
    "MRU_LOG",       // the default, info, is right
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns every variable in the files of `directory`, outside comments.
fn variables_in(directory: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(repository().join(directory)).unwrap() {
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

fn without(names: &BTreeSet<String>, omitted: &[&str]) -> BTreeSet<String> {
    names.iter().filter(|name| !omitted.contains(&name.as_str())).cloned().collect()
}

#[test]
fn the_chart_sets_exactly_the_variables_that_the_service_reads() {
    let read = rest_api::config::Config::variables();
    assert!(read.len() > 10, "{read:?}");
    assert_eq!(variables_in("helm/movies-r-us/templates"), without(&read, &UNSET_IN_CHART));
}

#[test]
fn terraform_sets_exactly_the_variables_that_the_lambda_reads() {
    let read = ingest_lambda::Config::variables();
    let set = variables_in("infrastructure/3-s3-lambda");
    // AWS Lambda sets the region.
    assert_eq!(without(&set, &["AWS_REGION"]), without(&read, &UNSET_IN_TERRAFORM));
}

#[tokio::test]
async fn the_health_check_succeeds_or_says_what_failed() {
    let service = Service::start().await;
    let check = async |arguments: &[&str], listen: &str| {
        let mut program = program("healthcheck");
        program.env("MRU_LISTEN", listen);
        let output = Output::of(program, arguments).await;
        (output.status == 0, output.stderr)
    };
    let listen = format!("0.0.0.0:{}", service.address.port());
    assert_eq!(check(&[], &listen).await, (true, String::new()));
    let ready = service.url("/readyz");
    assert_eq!(check(&["--url", &ready], "").await, (true, String::new()));
    let (healthy, stderr) = check(&["--url", &service.url("/nowhere")], "").await;
    assert!(!healthy && stderr.contains(StatusCode::NOT_FOUND.as_str()), "{stderr}");
    let (healthy, stderr) = check(&[], "127.0.0.1:1").await;
    assert!(!healthy && stderr.contains("127.0.0.1:1"), "{stderr}");
    // The listener for probes responds also while clients hold all connections of the other one.
    let mut program = program("healthcheck");
    program.env("MRU_LISTEN", "127.0.0.1:1").env("MRU_PROBE_LISTEN", &listen);
    assert_eq!(Output::of(program, &[""; 0]).await.status, 0);
}

#[tokio::test]
async fn every_subcommand_refuses_a_variable_that_it_does_not_know() {
    let subcommands: [&[&str]; 11] = [
        &["serve"],
        &["migrate"],
        &["openapi"],
        &["healthcheck"],
        &["reconcile"],
        &["undo", "1"],
        &["redo", "1"],
        &["approve", "1"],
        &["decisions", "export"],
        &["users", "list"],
        &["enrich"],
    ];
    let validate = ["validate", "Cargo.toml"];
    for arguments in subcommands.into_iter().chain([&validate[..]]) {
        let mut program = program(arguments[0]);
        program.env("MRU_READ_HOST", "replica").env("MRU_DB_USERNAME", "hunter2");
        let output = Output::of(program, &arguments[1..]).await;
        let expected = "rest-api does not know MRU_DB_USERNAME (did you mean MRU_DB_USER?), \
             MRU_READ_HOST (did you mean MRU_DB_READ_HOST?): correct or unset them\n";
        assert_eq!((output.status, output.stderr.as_str()), (2, expected), "{arguments:?}");
        assert_eq!(output.stdout, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn empty_variables_and_those_of_tests_are_no_reason_to_refuse() {
    let mut program = program("openapi");
    program.env("MRU_READ_HOST", "").env("MRU_TEST_SEED", "1").env("MRU_DB_HOST", "known");
    let output = Output::of(program, &[""; 0]).await;
    assert_eq!((output.status, output.stderr.as_str()), (0, ""));
}
