//! What it costs to check a token: one request from memory with and without one, in turn.

use std::{convert::Infallible, fs::File, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local_stack::postgres::Postgres;
use rest_api::accounts::{Issuer, KeyPrefixes, Role, Roles, Subject, generate_key};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    DATABASE,
    load::{Requests, closed},
    uncached::Effort,
};
use crate::{
    process::{TOKEN, start_service},
    report::{Figures, median},
};

/// A page of 10 movies, which is in memory.
const PAGE: &str = "/movies?title=the&limit=10";

/// How much longer a request may take at the median because it has a token.
const TARGET: Duration = Duration::from_micros(60);

/// How many new tokens there are for each second of a load.
const NEW_TOKENS: usize = 12_000;

const AUDIENCE: &str = "bench";

/// Measures each kind of token beside requests without one, by one client.
pub(super) async fn measure(
    postgres: &Postgres,
    directory: &Path,
    effort: Effort,
    figures: &mut Figures,
) -> Result<()> {
    let key = generate_key()?;
    let own = Issuer::new([key.expose()])?;
    let outside = OutsideIssuer::start().await?;
    let log = File::create(directory.join("tokens.log"))?;
    let variables = [
        ("MRU_JWT_KEY", key.expose()),
        ("MRU_OIDC_ISSUER", &outside.address),
        ("MRU_OIDC_AUDIENCE", AUDIENCE),
    ];
    let service =
        start_service(postgres, DATABASE, "http://127.0.0.1:1", &variables, Stdio::from(log))
            .await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let keys: Value = http.get(service.url("/.well-known/jwks.json")).send().await?.json().await?;
    outside.publish(keys);
    let of_outside = outside.token(key.expose())?;
    // The service asks for the keys again some seconds after it has found none.
    for _ in 0..60 {
        let me = http.get(service.url("/auth/me")).bearer_auth(&of_outside).send().await?;
        if me.status().is_success() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    let with = |tokens: Vec<String>| Requests::with_tokens(PAGE, &tokens);
    let issue = || anyhow::Ok(own.issue(&subject())?.token);
    let number = NEW_TOKENS * usize::try_from(effort.duration.as_secs())?;
    let none = Requests::get([PAGE.to_owned()], "");
    let kinds = [
        ("the API token", with(vec![TOKEN.to_owned()])),
        ("a token of ours", with(vec![issue()?])),
        ("a token of an outside issuer", with(vec![of_outside])),
    ];
    let time = async |requests: &Arc<Requests>| {
        let outcome = closed(service.address, requests, 1, effort.duration).await?;
        outcome.all_served()?.quantile(0.5)
    };
    // Once each, so that all answers and tokens are known.
    for (_, requests) in &kinds {
        time(requests).await?;
    }
    let mut without = Vec::new();
    let mut times = vec![Vec::new(); kinds.len() + 1];
    for _ in 0..effort.rounds {
        without.push(time(&none).await?);
        for ((_, requests), times) in kinds.iter().zip(&mut times) {
            times.push(time(requests).await?);
        }
        let new: Result<Vec<String>> = (0..number).map(|_| issue()).collect();
        times[kinds.len()].push(time(&with(new?)).await?);
    }
    let base = median(without);
    figures.state("a page from memory without a token, p50", &micros(base));
    let names = kinds.iter().map(|(name, _)| *name).chain(["a new token of ours each time"]);
    for (name, times) in names.zip(times) {
        let measured = median(times);
        let more = measured.saturating_sub(base);
        let measured = format!("{} more: {}", micros(more), micros(measured));
        let target = format!("at most {} more", micros(TARGET));
        figures.check(&format!("the same with {name}, p50"), &measured, &target, more <= TARGET);
    }
    let statements = statements(postgres, async || {
        let new: Result<Vec<String>> = (0..number).map(|_| issue()).collect();
        time(&with(new?)).await.map(drop)
    })
    .await?;
    figures.state(&format!("transactions while {number} new tokens are checked"), &statements);
    Ok(())
}

/// Returns the number of transactions during `work`, and during the same time without it.
async fn statements(postgres: &Postgres, work: impl AsyncFn() -> Result<()>) -> Result<String> {
    let sql = postgres.connect("postgres").await?;
    let count = async || {
        // Postgres reports with a delay.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let count = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        anyhow::Ok(sql.query_one(count, &[&DATABASE]).await?.get::<_, i64>(0))
    };
    let started = std::time::Instant::now();
    let before = count().await?;
    work().await?;
    let busy = count().await? - before;
    let elapsed = started.elapsed() - Duration::from_secs(2);
    let before = count().await?;
    tokio::time::sleep(elapsed.saturating_sub(Duration::from_secs(2))).await;
    let idle = count().await? - before;
    Ok(format!("{busy}; {idle} in the same time without requests"))
}

fn micros(duration: Duration) -> String {
    format!("{} µs", duration.as_micros())
}

fn subject() -> Subject {
    Subject {
        subject: "a-user-of-the-benchmark".to_owned(),
        name: "ada".to_owned(),
        roles: Roles::of(&[Role::Producer, Role::Editor]),
        prefixes: KeyPrefixes::ALL,
        session: "a-session-of-the-benchmark".to_owned(),
    }
}

/// An outside issuer with one key.
struct OutsideIssuer {
    address: String,
    keys: tokio::sync::watch::Sender<Value>,
}

impl OutsideIssuer {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let (keys, published) = tokio::sync::watch::channel(json!({}));
        let discovery = json!({ "issuer": address, "jwks_uri": format!("{address}/keys") });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (published, discovery) = (published.clone(), discovery.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let is_discovery = request.uri().path().starts_with("/.well-known/");
                    let body =
                        if is_discovery { discovery.clone() } else { published.borrow().clone() };
                    let response = Response::new(Full::new(Bytes::from(body.to_string())));
                    async { Ok::<_, Infallible>(response) }
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { address, keys })
    }

    /// Publishes these keys, the first one under the name of this issuer.
    fn publish(&self, mut keys: Value) {
        keys["keys"][0]["kid"] = "outside".into();
        self.keys.send_replace(keys);
    }

    /// Returns a token that is signed with `key`.
    fn token(&self, key: &str) -> Result<String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes())?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("outside".to_owned());
        let end = chrono::Utc::now().timestamp() + 3600;
        let claims = json!({
            "iss": self.address, "aud": AUDIENCE, "sub": "ada", "exp": end, "roles": ["editor"],
        });
        let key = EncodingKey::from_ed_der(der.secret_pkcs8_der());
        jsonwebtoken::encode(&header, &claims, &key).context("the token cannot be signed")
    }
}
