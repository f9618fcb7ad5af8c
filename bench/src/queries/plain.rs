//! The limit of the mix: a service whose statements are as plain as its code. Postgres chooses the plans
//! (`plan_cache_mode = auto`), and rows of columns become JSON by serde.
//!
//! It does less than the service: no checks, no cache, no entity tags, no bounds.

use std::{
    convert::Infallible,
    io::{Read, stdin},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use deadpool_postgres::{Manager, Pool};
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use local_stack::postgres::USER;
use reqwest::Url;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_postgres::{NoTls, Row, types::ToSql};

use super::DATABASE;

/// The hidden command that runs it.
pub(crate) const COMMAND: &str = "plain";

/// The number of connections to Postgres.
const CONNECTIONS: usize = 8;

/// Responds to queries on the Postgres whose socket is in the directory that standard input names, until it is killed.
pub(crate) async fn run(address: SocketAddr) -> Result<()> {
    let mut socket = String::new();
    stdin().read_to_string(&mut socket)?;
    let mut config = tokio_postgres::Config::new();
    config.host_path(socket).user(USER).dbname(DATABASE).options("-c plan_cache_mode=auto");
    let pool = Pool::builder(Manager::new(config, NoTls)).max_size(CONNECTIONS).build()?;
    let pool = Arc::new(pool);
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = Arc::clone(&pool);
        let service = service_fn(move |request| {
            let pool = Arc::clone(&pool);
            async move { Ok::<_, Infallible>(respond(&pool, &request).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn respond(pool: &Pool, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let page = page(pool, &request.uri().to_string()).await;
    let mut response = Response::new(Full::default());
    match page {
        Ok(json) => {
            *response.body_mut() = Full::new(json.into());
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        Err(error) => {
            eprintln!("{}: {error:#}", request.uri());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
    }
    response
}

/// Returns the movies of a path with a query, as a JSON array.
async fn page(pool: &Pool, path: &str) -> Result<Vec<u8>> {
    let Statement { text, params } = compose(&Url::parse("http://bench")?.join(path)?)?;
    let client = pool.get().await?;
    let statement = client.prepare_cached(&text).await?;
    let params: Vec<&(dyn ToSql + Sync)> =
        params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect();
    json(&client.query(&statement, &params).await?)
}

/// A statement and its parameters.
struct Statement {
    text: String,
    params: Vec<Box<dyn ToSql + Send + Sync>>,
}

/// Composes the statement from the filters that are present.
fn compose(url: &Url) -> Result<Statement> {
    let text = "select id, title_lc, year, cast_lc, genres_lc from movies where true".to_owned();
    let mut sql = Statement { text, params: Vec::new() };
    let mut limit = 100;
    for (name, value) in url.query_pairs() {
        match &*name {
            "title" => sql.push_contains("title_lc", &value),
            "actor" => sql.push_contains("cast_lc", &value),
            "genre" => sql.push(" and genres_lc @> ?", vec![value.to_lowercase()]),
            "year" => {
                let (first, last) = value.split_once("..").context("no years")?;
                if first == last {
                    sql.push(" and year = ?", first.parse::<i32>()?);
                } else {
                    sql.push(" and year >= ?", first.parse::<i32>()?);
                    sql.push(" and year <= ?", last.parse::<i32>()?);
                }
            }
            "after" => {
                let cursor = String::from_utf8(URL_SAFE_NO_PAD.decode(value.as_bytes())?)?;
                let (_, id) = cursor.split_once(':').context("no id")?;
                sql.push(" and id > ?", id.parse::<i64>()?);
            }
            _ => limit = value.parse()?,
        }
    }
    sql.push(" order by id limit ?", limit + 1_i64);
    Ok(sql)
}

impl Statement {
    /// Adds text with one parameter.
    fn push(&mut self, text: &str, param: impl ToSql + Send + Sync + 'static) {
        self.params.push(Box::new(param));
        self.text += &text.replace('?', &format!("${}", self.params.len()));
    }

    /// Adds a filter. Without three letters or digits in a row, the trigram index must not be read.
    fn push_contains(&mut self, column: &str, part: &str) {
        let part = part.to_lowercase();
        let mut runs = part.split(|c: char| !c.is_alphanumeric());
        let no_index = if runs.any(|run| run.chars().count() >= 3) { "" } else { " || ''" };
        self.push(&format!(" and {column}{no_index} like ?"), containing(&part));
    }
}

/// Returns a pattern of LIKE for what contains this text.
pub(super) fn containing(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    format!("%{escaped}%")
}

fn json(rows: &[Row]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Movie<'a> {
        id: i64,
        title: &'a str,
        year: i32,
        cast: Vec<&'a str>,
        genres: Vec<&'a str>,
    }
    let movie = |row: &'_ Row| {
        let cast: &str = row.get("cast_lc");
        let movie = Movie {
            id: row.get("id"),
            title: row.get("title_lc"),
            year: row.get("year"),
            cast: cast.split('\u{1f}').collect(),
            genres: row.get("genres_lc"),
        };
        Ok(serde_json::to_vec(&movie)?)
    };
    let movies: Vec<Vec<u8>> = rows.iter().map(movie).collect::<Result<_>>()?;
    Ok([b"[", &*movies.join(&b','), b"]"].concat())
}
