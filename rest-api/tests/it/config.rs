//! The configuration: defaults, checks, and messages that name what is wrong.

use std::{collections::HashMap, time::Duration};

use rest_api::config::{
    ApiToken, Budget, Config, ConfigError, JwtKey, LogFormat, Login, MaxWithdraw, OutsideIssuer,
    ServerLimits, Snapshots, Tls, TmdbToken, TokenDigest,
};

const COMPLETE: [(&str, &str); 6] = [
    ("AWS_REGION", "eu-west-1"),
    ("MRU_DB_HOST", "db.example.com"),
    ("MRU_DB_USER", "user"),
    ("MRU_DB_PASS", "pass-word"),
    ("MRU_DB_NAME", "movies"),
    ("MRU_API_TOKEN", "to-ken"),
];

fn read(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables: HashMap<&str, &str> = COMPLETE.iter().chain(changes).copied().collect();
    Config::from_lookup(|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn error(changes: &[(&str, &str)]) -> String {
    read(changes).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_safe() {
    let config = read(&[]).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.probe_listen, None);
    assert_eq!(config.server, ServerLimits::MAIN);
    assert_eq!(config.database.port, 5432);
    assert_eq!(config.database.tls, Tls::VerifyFull { ca_file: None });
    assert_eq!(config.log_format, LogFormat::Json);
    assert!(config.buckets.is_empty());
    assert_eq!(read(&[("MRU_BUCKETS", "a-b, c.d,")]).unwrap().buckets, ["a-b", "c.d"]);
    let budget = Budget { records: 20_000_000, staged_bytes: 32 << 30 };
    assert_eq!(config.budget, budget);
    assert_eq!(config.snapshots, Snapshots::default());
    assert!(
        matches!(config.api_token, ApiToken::Fixed(token) if token == TokenDigest::of("to-ken"))
    );
}

#[test]
fn all_missing_and_malformed_variables_are_named() {
    let nothing = Config::from_lookup(|_| None).unwrap_err().to_string();
    for (name, _) in COMPLETE {
        let named = |line: &str| line.starts_with(&format!("{name} is not set"));
        assert!(nothing.lines().any(named), "{name}: {nothing}");
    }
    assert_eq!(error(&[("MRU_DB_PASS", "")]), "MRU_DB_PASS is not set, nor is MRU_DB_SECRET_ARN");
    assert_eq!(
        error(&[("MRU_API_TOKEN_SECRET_ARN", "arn")]),
        "MRU_API_TOKEN and MRU_API_TOKEN_SECRET_ARN are both set: choose one"
    );
    assert_eq!(error(&[("MRU_DB_HOST", "")]), "MRU_DB_HOST is not set");
    assert_eq!(error(&[("MRU_DB_PORT", "70000")]), "MRU_DB_PORT must be a port: 70000");
    assert_eq!(error(&[("MRU_LISTEN", "8080")]), "MRU_LISTEN must be an address and a port: 8080");
    assert_eq!(
        error(&[("MRU_PROBE_LISTEN", "8081")]),
        "MRU_PROBE_LISTEN must be an address and a port: 8081"
    );
    assert_eq!(error(&[("MRU_WORKERS", "-1")]), "MRU_WORKERS must be a number: -1");
    for wrong in ["0", "-1", "many"] {
        for name in ["MRU_MAX_RECORDS", "MRU_MAX_STAGED_MB"] {
            let expected = format!("{name} must be a number from 1: {wrong}");
            assert_eq!(error(&[(name, wrong)]), expected);
        }
    }
    assert!(
        error(&[("MRU_IGNORE_KEYS", "a,b[")]).starts_with("MRU_IGNORE_KEYS must be glob patterns")
    );
    let ignores = |patterns: &str| read(&[("MRU_IGNORE_KEYS", patterns)]).unwrap().ignored_keys;
    assert_eq!(ignores("").reason("_SUCCESS", None), None);
    assert!(ignores("*.tmp").reason("a.tmp", Some(1)).is_some());
    assert!(read(&[]).unwrap().ignored_keys.reason("_SUCCESS", None).is_some());
    assert_eq!(read(&[]).unwrap().upload_prefix, "");
    assert_eq!(read(&[("MRU_UPLOAD_PREFIX", "in/")]).unwrap().upload_prefix, "in/");
    let budget = read(&[("MRU_MAX_RECORDS", "7"), ("MRU_MAX_STAGED_MB", "3")]).unwrap().budget;
    assert_eq!(budget, Budget { records: 7, staged_bytes: 3 << 20 });
    assert_eq!(
        error(&[("MRU_DB_TLS", "prefer")]),
        "MRU_DB_TLS must be verify-full or disable: prefer"
    );
    assert_eq!(error(&[("MRU_LOG_FORMAT", "xml")]), "MRU_LOG_FORMAT must be json or text: xml");
    for wrong in ["s3://movies", "arn:aws:s3:::movies", "movies..r", "Movies"] {
        assert_eq!(
            error(&[("MRU_BUCKETS", &format!("good,{wrong}"))]),
            format!(
                "MRU_BUCKETS must be bucket names separated by commas, without ARN or s3://: {wrong}"
            )
        );
    }
}

#[test]
fn snapshots_are_in_the_buckets_of_the_service() {
    const PREFIXES: &str = "MRU_SNAPSHOT_PREFIXES";
    let with = |buckets, prefixes| [("MRU_BUCKETS", buckets), (PREFIXES, prefixes)];
    for (buckets, prefixes) in [("", "a/daily/, b/"), ("b,a", "a/daily/,b/")] {
        let Snapshots { prefixes, .. } = read(&with(buckets, prefixes)).unwrap().snapshots;
        assert!(prefixes.covers("a", "daily/1.json") && prefixes.covers("b", "1.json"));
        assert!(!prefixes.covers("a", "1.json"));
    }
    assert_eq!(
        error(&with("a,b", "a/,c/daily/")),
        "MRU_SNAPSHOT_PREFIXES names a bucket that is not in MRU_BUCKETS: c"
    );
    for wrong in ["a/,b", "s3://a/daily/"] {
        let form = "bucket/prefix entries separated by commas, without s3://";
        let expected = format!("MRU_SNAPSHOT_PREFIXES must be {form}: {wrong}");
        assert_eq!(error(&with("a,b", wrong)), expected);
    }
    let max_withdraw = |text| read(&[("MRU_MAX_WITHDRAW", text)]).unwrap().snapshots.max_withdraw;
    assert_eq!(max_withdraw("10%"), MaxWithdraw::Percent(10));
    assert_eq!(max_withdraw("1000"), MaxWithdraw::Movies(1000));
    assert_eq!(
        error(&[("MRU_MAX_WITHDRAW", "200%")]),
        "MRU_MAX_WITHDRAW must be a percentage from 0% to 100%, or a number of movies: 200%"
    );
}

#[test]
fn secrets_can_be_read_from_secrets_manager() {
    let managed = [
        ("MRU_DB_PASS", ""),
        ("MRU_DB_USER", ""),
        ("MRU_DB_SECRET_ARN", "arn:db"),
        ("MRU_API_TOKEN", ""),
        ("MRU_API_TOKEN_SECRET_ARN", "movies-r-us/api-token"),
    ];
    let config = read(&managed).unwrap();
    assert!(
        matches!(config.database.login, Login::Managed { secret_id, user: None } if secret_id == "arn:db")
    );
    assert!(matches!(config.api_token, ApiToken::Managed(id) if id == "movies-r-us/api-token"));
}

#[test]
fn accounts_are_configured_by_a_key_and_an_outside_issuer() {
    let config = read(&[]).unwrap();
    assert!(config.jwt_key.is_none() && config.outside_issuer.is_none() && !config.public_ledger);
    let key = "-----BEGIN PRIVATE KEY-----";
    let config = read(&[("MRU_JWT_KEY", key), ("MRU_PUBLIC_LEDGER", "true")]).unwrap();
    assert!(matches!(&config.jwt_key, Some(JwtKey::Fixed(text)) if text.expose() == key));
    assert!(config.public_ledger && !format!("{config:?}").contains(key));
    let config = read(&[("MRU_JWT_KEY_SECRET_ARN", "arn")]).unwrap();
    assert!(matches!(config.jwt_key, Some(JwtKey::Managed(id)) if id == "arn"));
    assert_eq!(
        error(&[("MRU_JWT_KEY_SECRET_ARN", "arn"), ("MRU_JWT_KEY", key)]),
        "MRU_JWT_KEY and MRU_JWT_KEY_SECRET_ARN are both set: choose one"
    );
    assert_eq!(
        error(&[("MRU_PUBLIC_LEDGER", "yes")]),
        "MRU_PUBLIC_LEDGER must be true or false: yes"
    );

    let issuer = "https://id.example.com/realms/movies";
    let outside = |changes: &[(&str, &str)]| {
        let known = [("MRU_OIDC_ISSUER", issuer), ("MRU_OIDC_AUDIENCE", "movies, api")];
        read(&[&known[..], changes].concat())
    };
    let read_issuer = outside(&[]).unwrap().outside_issuer.unwrap();
    let expected = OutsideIssuer {
        issuer: issuer.to_owned(),
        audiences: vec!["movies".to_owned(), "api".to_owned()],
        roles_claim: "roles".to_owned(),
        name_claim: "preferred_username".to_owned(),
        min_fetch_interval: Duration::from_secs(60),
    };
    assert_eq!(read_issuer, expected);
    for (wrong, named) in [
        (("MRU_OIDC_ISSUER", "http://id.example.com"), "MRU_OIDC_ISSUER must be an address"),
        (("MRU_OIDC_ISSUER", "https://id.example.com?x"), "MRU_OIDC_ISSUER must be an address"),
        (("MRU_OIDC_ISSUER", "id.example.com"), "MRU_OIDC_ISSUER must be an address"),
        (("MRU_OIDC_ISSUER", ""), "MRU_OIDC_AUDIENCE is set, but MRU_OIDC_ISSUER is not"),
        (("MRU_OIDC_AUDIENCE", ""), "MRU_OIDC_AUDIENCE is not set"),
        (("MRU_OIDC_AUDIENCE", " , "), "MRU_OIDC_AUDIENCE names no audience"),
    ] {
        let message = outside(&[wrong]).unwrap_err().to_string();
        assert!(message.starts_with(named), "{message}");
    }
    assert!(outside(&[("MRU_OIDC_ISSUER", "http://127.0.0.1:8090")]).is_ok());
}

#[test]
fn tmdb_is_asked_only_with_a_token() {
    assert!(read(&[]).unwrap().tmdb.is_none());
    let config = read(&[("MRU_TMDB_TOKEN", "read-me")]).unwrap();
    assert!(!format!("{config:?}").contains("read-me"));
    let tmdb = config.tmdb.unwrap();
    assert_eq!(tmdb.url, "https://api.themoviedb.org/3");
    assert!(matches!(tmdb.token, TmdbToken::Fixed(token) if token.expose() == "read-me"));
    let secret = ("MRU_TMDB_TOKEN_SECRET_ARN", "movies-r-us/tmdb-token");
    let tmdb =
        read(&[secret, ("MRU_TMDB_URL", "https://proxy.example.com/3/")]).unwrap().tmdb.unwrap();
    assert_eq!(tmdb.url, "https://proxy.example.com/3");
    assert!(matches!(tmdb.token, TmdbToken::Managed(id) if id == "movies-r-us/tmdb-token"));
    assert_eq!(
        error(&[secret, ("MRU_TMDB_TOKEN", "read-me")]),
        "MRU_TMDB_TOKEN and MRU_TMDB_TOKEN_SECRET_ARN are both set: choose one"
    );
    assert_eq!(
        error(&[("MRU_TMDB_URL", "https://proxy.example.com/3")]),
        "MRU_TMDB_URL is set, but MRU_TMDB_TOKEN is not"
    );
    for wrong in ["http://proxy.example.com/3", "proxy.example.com", "https://a.example.com/?x"] {
        let message = error(&[secret, ("MRU_TMDB_URL", wrong)]);
        assert!(message.starts_with("MRU_TMDB_URL must be an address with https"), "{message}");
    }
}

#[test]
fn pictures_of_other_hosts_are_switched_on() {
    assert!(!read(&[]).unwrap().images);
    assert!(!read(&[("MRU_IMAGES", "off")]).unwrap().images);
    assert!(read(&[("MRU_IMAGES", "on")]).unwrap().images);
    assert_eq!(error(&[("MRU_IMAGES", "true")]), "MRU_IMAGES must be on or off: true");
}

#[test]
fn the_topic_for_results_is_a_standard_topic_of_the_configured_region() {
    const NAME: &str = "MRU_RESULTS_TOPIC_ARN";
    assert_eq!(read(&[]).unwrap().results_topic_arn, None);
    let arn = "arn:aws:sns:eu-west-1:111122223333:movies-r-us-results";
    assert_eq!(read(&[(NAME, arn)]).unwrap().results_topic_arn.as_deref(), Some(arn));
    for wrong in
        ["movies-r-us-results", "arn:aws:sqs:eu-west-1:1:a", "arn:aws:sns:eu-west-1:1:a.fifo"]
    {
        let message = error(&[(NAME, wrong)]);
        assert!(message.starts_with("MRU_RESULTS_TOPIC_ARN must be arn:aws:sns:"), "{message}");
    }
    assert_eq!(
        error(&[(NAME, "arn:aws:sns:us-east-1:1:a")]),
        "MRU_RESULTS_TOPIC_ARN is in us-east-1, but AWS_REGION is eu-west-1: arn:aws:sns:us-east-1:1:a"
    );
}

#[test]
fn tls_can_be_disabled_only_for_a_database_on_this_machine() {
    for host in ["127.0.0.1", "::1", "localhost", "/run/postgresql"] {
        assert!(read(&[("MRU_DB_TLS", "disable"), ("MRU_DB_HOST", host)]).is_ok(), "{host}");
    }
    for (name, host) in [
        ("MRU_DB_HOST", "db.example.com"),
        ("MRU_DB_HOST", "10.0.0.1"),
        ("MRU_DB_READ_HOST", "reader"),
    ] {
        let local = [("MRU_DB_HOST", "localhost"), ("MRU_DB_TLS", "disable"), (name, host)];
        assert!(error(&local).contains(host));
    }
}

#[test]
fn secrets_are_not_in_debug_output() {
    let printed = format!("{:?}", read(&[]).unwrap());
    assert!(!printed.contains("pass-word") && !printed.contains("to-ken"), "{printed}");
}

#[test]
fn the_login_of_the_service_is_read_like_that_of_the_owner() {
    assert!(read(&[]).unwrap().database.service_login.is_none());
    let [user, password, secret] =
        ["MRU_DB_SERVICE_USER", "MRU_DB_SERVICE_PASS", "MRU_DB_SERVICE_SECRET_ARN"];
    let login = |changes: &[_]| read(changes).unwrap().database.service_login;
    let fixed = login(&[(user, "service"), (password, "pass")]);
    assert!(matches!(fixed, Some(Login::Fixed { user, .. }) if user == "service"));
    let managed = login(&[(secret, "name"), (password, "")]);
    assert!(
        matches!(managed, Some(Login::Managed { secret_id, user: None }) if secret_id == "name")
    );
    let neither = "MRU_DB_SERVICE_PASS is not set, nor is MRU_DB_SERVICE_SECRET_ARN";
    assert_eq!(error(&[(user, "service")]), neither);
    assert_eq!(error(&[(password, "pass")]), "MRU_DB_SERVICE_USER is not set");
}
