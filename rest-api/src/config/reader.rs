//! Reads the variables.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use reqwest::Url;

use super::{
    ApiToken, Budget, Config, CorsOrigins, DEFAULT_CACHE, Database, IgnoredKeys, JwtKey, LogFormat,
    Login, MaxWithdraw, OutsideIssuer, Retry, Secret, ServerLimits, SnapshotPrefixes, Snapshots,
    Tls, Tmdb, TmdbToken, TokenDigest,
};

/// What [`is_protected`] demands.
const PROTECTED: &str = "an address with https, or with http on loopback";

/// Reads variables, and collects all errors. A variable with an error gets a substitute value.
pub(super) struct Reader<L> {
    lookup: L,
    errors: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    pub(super) fn new(lookup: L) -> Self {
        Self { lookup, errors: Vec::new() }
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// Each missing or malformed variable, a line each.
    pub(super) fn read(mut self) -> Result<Config, Vec<String>> {
        let config = self.config();
        if self.errors.is_empty() { Ok(config) } else { Err(self.errors) }
    }

    fn config(&mut self) -> Config {
        // The AWS SDK reads it. Without it, every request to S3 would fail later.
        self.required("AWS_REGION");
        let buckets = self.buckets("MRU_BUCKETS");
        Config {
            listen: self.parsed(
                "MRU_LISTEN",
                SocketAddr::from(([0, 0, 0, 0], 8080)),
                "an address and a port",
            ),
            probe_listen: self.parsed_optional("MRU_PROBE_LISTEN", "an address and a port"),
            server: ServerLimits::MAIN,
            database: self.database(),
            api_token: match self.value_or_secret_id("MRU_API_TOKEN", "MRU_API_TOKEN_SECRET_ARN") {
                ValueOrSecretId::Value(token) => ApiToken::Fixed(TokenDigest::of(&token)),
                ValueOrSecretId::SecretId(id) => ApiToken::Managed(id),
            },
            jwt_key: self.jwt_key(),
            outside_issuer: self.outside_issuer(),
            tmdb: self.tmdb(),
            images: self.is_on("MRU_IMAGES"),
            public_ledger: self.parsed("MRU_PUBLIC_LEDGER", false, "true or false"),
            trusted_proxies: self.parsed("MRU_TRUSTED_PROXIES", 0, "a number of proxies"),
            ignored_keys: self.ignored_keys("MRU_IGNORE_KEYS"),
            upload_prefix: self.optional("MRU_UPLOAD_PREFIX").unwrap_or_default(),
            snapshots: self.snapshots(&buckets),
            buckets,
            workers: self.parsed("MRU_WORKERS", 2, "a number"),
            budget: self.budget(),
            ledger_days: Some(self.parsed("MRU_LEDGER_DAYS", 365, "a number of days"))
                .filter(|days| *days > 0),
            history_days: Some(self.parsed("MRU_HISTORY_DAYS", 365, "a number of days"))
                .filter(|days| *days > 0),
            cors_origins: self.cors_origins("MRU_CORS_ORIGINS"),
            cache_bytes: self.cache_bytes("MRU_CACHE_MB"),
            retry: Retry::default(),
            lease: Duration::from_secs(15),
            results_topic_arn: self.topic_arn("MRU_RESULTS_TOPIC_ARN"),
            log_filter: self.optional("MRU_LOG").unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format(),
        }
    }

    fn cache_bytes(&mut self, name: &str) -> u64 {
        let megabytes = u32::try_from(DEFAULT_CACHE >> 20).unwrap_or(u32::MAX);
        u64::from(self.parsed(name, megabytes, "a number of MiB")) << 20
    }

    /// Reads origins, separated by commas. An empty value is no origin.
    fn cors_origins(&mut self, name: &str) -> CorsOrigins {
        let Some(text) = (self.lookup)(name) else { return CorsOrigins::Any };
        let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        let origins: Vec<String> = origins.map(str::to_owned).collect();
        if origins == ["*"] {
            return CorsOrigins::Any;
        }
        let is_origin = |origin: &String| {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            host.is_some_and(|host| {
                let is_allowed =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
                !host.is_empty() && host.chars().all(is_allowed)
            })
        };
        if !origins.iter().all(is_origin) {
            self.errors.push(format!(
                "{name} must be * or origins like https://films.example.com, separated by commas: {text}"
            ));
        }
        CorsOrigins::Listed(origins)
    }

    fn jwt_key(&mut self) -> Option<JwtKey> {
        let (key, secret_id) = ("MRU_JWT_KEY", "MRU_JWT_KEY_SECRET_ARN");
        // Neither is needed.
        self.optional(key).or_else(|| self.optional(secret_id))?;
        Some(match self.value_or_secret_id(key, secret_id) {
            ValueOrSecretId::Value(key) => JwtKey::Fixed(Secret::new(key)),
            ValueOrSecretId::SecretId(id) => JwtKey::Managed(id),
        })
    }

    fn outside_issuer(&mut self) -> Option<OutsideIssuer> {
        let name = "MRU_OIDC_ISSUER";
        let Some(issuer) = self.optional(name) else {
            for name in ["MRU_OIDC_AUDIENCE", "MRU_OIDC_ROLES_CLAIM", "MRU_OIDC_NAME_CLAIM"] {
                if self.optional(name).is_some() {
                    self.errors.push(format!("{name} is set, but MRU_OIDC_ISSUER is not"));
                }
            }
            return None;
        };
        if !Url::parse(&issuer).is_ok_and(|url| is_protected(&url) && is_plain(&url)) {
            self.errors.push(format!("{name} must be {PROTECTED}: {issuer}"));
        }
        let text = self.required("MRU_OIDC_AUDIENCE");
        let audiences = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        let audiences: Vec<String> = audiences.map(str::to_owned).collect();
        if audiences.is_empty() && !text.is_empty() {
            self.errors.push("MRU_OIDC_AUDIENCE names no audience".to_owned());
        }
        let claim = |name, default: &str| self.optional(name).unwrap_or_else(|| default.to_owned());
        Some(OutsideIssuer {
            audiences,
            roles_claim: claim("MRU_OIDC_ROLES_CLAIM", "roles"),
            name_claim: claim("MRU_OIDC_NAME_CLAIM", "preferred_username"),
            issuer,
            min_fetch_interval: Duration::from_secs(60),
        })
    }

    fn tmdb(&mut self) -> Option<Tmdb> {
        let (token, secret_id, url) =
            ("MRU_TMDB_TOKEN", "MRU_TMDB_TOKEN_SECRET_ARN", "MRU_TMDB_URL");
        if self.optional(token).or_else(|| self.optional(secret_id)).is_none() {
            if self.optional(url).is_some() {
                self.errors.push(format!("{url} is set, but {token} is not"));
            }
            return None;
        }
        let token = match self.value_or_secret_id(token, secret_id) {
            ValueOrSecretId::Value(token) => TmdbToken::Fixed(Secret::new(token)),
            ValueOrSecretId::SecretId(id) => TmdbToken::Managed(id),
        };
        let mut tmdb = Tmdb::new(token);
        if let Some(text) = self.optional(url) {
            if !Url::parse(&text).is_ok_and(|url| is_protected(&url) && is_plain(&url)) {
                self.errors.push(format!("{url} must be {PROTECTED}: {text}"));
            }
            tmdb.url = text.trim_end_matches('/').to_owned();
        }
        Some(tmdb)
    }

    /// Reads a switch, which is off by default.
    fn is_on(&mut self, name: &str) -> bool {
        match self.optional(name).as_deref() {
            None | Some("off") => false,
            Some("on") => true,
            Some(other) => {
                self.errors.push(format!("{name} must be on or off: {other}"));
                false
            }
        }
    }

    fn budget(&mut self) -> Budget {
        let Budget { records, staged_bytes } = Budget::default();
        let staged_mb = u32::try_from(staged_bytes >> 20).unwrap_or(u32::MAX);
        Budget {
            records: self.positive("MRU_MAX_RECORDS", records),
            staged_bytes: u64::from(self.positive("MRU_MAX_STAGED_MB", staged_mb)) << 20,
        }
    }

    fn positive<T: std::str::FromStr + Default + PartialOrd>(
        &mut self,
        name: &str,
        default: T,
    ) -> T {
        let Some(text) = self.optional(name) else { return default };
        text.parse().ok().filter(|number| *number > T::default()).unwrap_or_else(|| {
            self.errors.push(format!("{name} must be a number from 1: {text}"));
            default
        })
    }

    fn database(&mut self) -> Database {
        let host = self.required("MRU_DB_HOST");
        let read_host = self.optional("MRU_DB_READ_HOST");
        Database {
            tls: self.tls([Some(&host), read_host.as_ref()].into_iter().flatten()),
            host,
            port: self.parsed("MRU_DB_PORT", 5432, "a port"),
            login: self.login(["MRU_DB_USER", "MRU_DB_PASS", "MRU_DB_SECRET_ARN"]),
            service_login: self.service_login(),
            name: self.required("MRU_DB_NAME"),
            read_host,
        }
    }

    /// Reads a login from the variables of the user, of the password and of the secret.
    fn login(&mut self, [user, password, secret_id]: [&str; 3]) -> Login {
        match self.value_or_secret_id(password, secret_id) {
            ValueOrSecretId::Value(password) => {
                Login::Fixed { user: self.required(user), password: Secret::new(password) }
            }
            ValueOrSecretId::SecretId(secret_id) => {
                Login::Managed { secret_id, user: self.optional(user) }
            }
        }
    }

    fn service_login(&mut self) -> Option<Login> {
        let names = ["MRU_DB_SERVICE_USER", "MRU_DB_SERVICE_PASS", "MRU_DB_SERVICE_SECRET_ARN"];
        let set = names.map(|name| self.optional(name));
        set.iter().any(Option::is_some).then(|| self.login(names))
    }

    fn tls<'a>(&mut self, mut hosts: impl Iterator<Item = &'a String>) -> Tls {
        let ca_file = self.optional("MRU_DB_CA_FILE").map(PathBuf::from);
        match self.optional("MRU_DB_TLS").as_deref() {
            None | Some("verify-full") => Tls::VerifyFull { ca_file },
            Some("disable") => {
                if let Some(host) = hosts.find(|host| !is_local(host)) {
                    self.errors.push(format!(
                        "MRU_DB_TLS=disable is allowed for loopback and Unix sockets only, not for \
                         {host}: use verify-full"
                    ));
                }
                Tls::Disable
            }
            Some(other) => {
                self.errors.push(format!("MRU_DB_TLS must be verify-full or disable: {other}"));
                Tls::Disable
            }
        }
    }

    /// Reads the ARN of a standard SNS topic. A FIFO topic would require a message group id.
    fn topic_arn(&mut self, name: &str) -> Option<String> {
        let arn = self.optional(name)?;
        let region = self.optional("AWS_REGION").unwrap_or_default();
        match arn.split(':').collect::<Vec<_>>()[..] {
            ["arn", _, "sns", topic_region, _, topic] if !topic.ends_with(".fifo") => {
                if topic_region != region {
                    self.errors.push(format!(
                        "{name} is in {topic_region}, but AWS_REGION is {region}: {arn}"
                    ));
                }
            }
            _ => {
                let form = "arn:aws:sns:REGION:ACCOUNT:NAME, of a standard topic";
                self.errors.push(format!("{name} must be {form}: {arn}"));
            }
        }
        Some(arn)
    }

    /// Reads bucket names that are separated by commas.
    fn buckets(&mut self, name: &str) -> Vec<String> {
        let text = self.optional(name).unwrap_or_default();
        let buckets: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(Into::into)
            .collect();
        if let Some(wrong) = buckets.iter().find(|bucket| !is_bucket_name(bucket)) {
            let form = "bucket names separated by commas, without ARN or s3://";
            self.errors.push(format!("{name} must be {form}: {wrong}"));
        }
        buckets
    }

    /// Reads glob patterns. An empty variable is set: it has none.
    fn ignored_keys(&mut self, name: &str) -> IgnoredKeys {
        let Some(text) = (self.lookup)(name) else { return IgnoredKeys::default() };
        IgnoredKeys::parse(&text).unwrap_or_else(|error| {
            self.errors.push(format!("{name} must be glob patterns separated by commas: {error}"));
            IgnoredKeys::default()
        })
    }

    /// Reads what concerns snapshots. Their buckets must be among `buckets`, unless these are all.
    fn snapshots(&mut self, buckets: &[String]) -> Snapshots {
        let name = "MRU_SNAPSHOT_PREFIXES";
        let form = "bucket/prefix entries separated by commas, without s3://";
        let prefixes = self.parsed(name, SnapshotPrefixes::default(), form);
        let is_allowed = |bucket: &str| buckets.is_empty() || buckets.iter().any(|b| b == bucket);
        if let Some(wrong) = prefixes.buckets().find(|bucket| !is_allowed(bucket)) {
            self.errors.push(format!("{name} names a bucket that is not in MRU_BUCKETS: {wrong}"));
        }
        let form = "a percentage from 0% to 100%, or a number of movies";
        let max_withdraw = self.parsed("MRU_MAX_WITHDRAW", MaxWithdraw::default(), form);
        Snapshots { prefixes, max_withdraw }
    }

    fn log_format(&mut self) -> LogFormat {
        match self.optional("MRU_LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("text") => LogFormat::Text,
            Some(other) => {
                self.errors.push(format!("MRU_LOG_FORMAT must be json or text: {other}"));
                LogFormat::Text
            }
        }
    }

    /// Reads a variable. An empty one counts as not set.
    fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.errors.push(format!("{name} is not set"));
            String::new()
        })
    }

    /// Reads the one that is set of two variables: `value` holds a sensitive value, `secret_id` the
    /// ARN or name of the secret that holds it.
    fn value_or_secret_id(&mut self, value: &str, secret_id: &str) -> ValueOrSecretId {
        match (self.optional(value), self.optional(secret_id)) {
            (Some(value), None) => ValueOrSecretId::Value(value),
            (None, Some(id)) => ValueOrSecretId::SecretId(id),
            (Some(_), Some(_)) => {
                self.errors.push(format!("{value} and {secret_id} are both set: choose one"));
                ValueOrSecretId::Value(String::new())
            }
            (None, None) => {
                self.errors.push(format!("{value} is not set, nor is {secret_id}"));
                ValueOrSecretId::Value(String::new())
            }
        }
    }

    /// Reads and parses a variable. `expected` describes valid values.
    fn parsed<T: std::str::FromStr>(&mut self, name: &str, default: T, expected: &str) -> T {
        let Some(text) = self.optional(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.errors.push(format!("{name} must be {expected}: {text}"));
            default
        })
    }

    fn parsed_optional<T: std::str::FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.optional(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.errors.push(format!("{name} must be {expected}: {text}"));
        }
        parsed
    }
}

/// A sensitive value, or the ARN or name of the secret that holds it.
enum ValueOrSecretId {
    Value(String),
    SecretId(String),
}

/// Returns whether `bucket` may be the name of a bucket, and is no URL or ARN.
pub(super) fn is_bucket_name(bucket: &str) -> bool {
    bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b))
        && !bucket.contains("..")
}

/// Returns whether an address has neither query nor fragment.
fn is_plain(url: &Url) -> bool {
    url.query().is_none() && url.fragment().is_none()
}

/// Returns whether nobody can change on its way what is fetched from `url`.
pub(crate) fn is_protected(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    url.scheme() == "https" || (url.scheme() == "http" && is_local(host))
}

/// Returns whether a connection to `host` stays on this machine.
fn is_local(host: &str) -> bool {
    let loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    host.starts_with('/') || host == "localhost" || loopback
}
