//! The configuration.

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
