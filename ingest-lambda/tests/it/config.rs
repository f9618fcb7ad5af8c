//! The configuration.

use std::process::Command;

use ingest_lambda::Config;

#[test]
fn config_error_names_the_variable_and_debug_hides_the_token() {
    let config = |url: Option<&str>, token: Option<&str>| {
        let [url, token] = [url, token].map(|value| value.map(str::to_owned));
        Config::from_lookup(move |name| match name {
            "MRU_API_URL" => url.clone(),
            "MRU_API_TOKEN" => token.clone(),
            _ => None,
        })
    };
    let error = |url, token| config(url, token).err().unwrap().to_string();
    assert_eq!(error(None, Some("t")), "environment variable MRU_API_URL is not set");
    assert_eq!(
        error(Some("http://x/notify"), None),
        "environment variable MRU_API_TOKEN is not set, nor is MRU_API_TOKEN_SECRET_ARN"
    );
    assert_eq!(
        error(Some("x"), Some("t")),
        "environment variable MRU_API_URL is not an http(s) URL: x"
    );
    let debug = format!("{:?}", config(Some("https://x/notify"), Some("to-ken")).unwrap());
    assert!(!debug.contains("to-ken"), "{debug}");
}

#[test]
fn the_function_refuses_a_variable_that_it_does_not_know() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_ingest-lambda"));
    program.env("MRU_API_URL", "http://x/notify").env("MRU_API_TOKEN", "t");
    let output = program.env("MRU_API_TOKEN_ARN", "to-ken").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let expected = "ingest-lambda does not know MRU_API_TOKEN_ARN (did you mean ";
    assert!(!output.status.success() && error.contains(expected), "{error}");
    assert!(!error.contains("to-ken"), "{error}");
}
