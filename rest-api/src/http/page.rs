//! `/`: the page for people, made of the API that everybody has.
//!
//! The program contains the page: plain modules and one style sheet, without a build step. All its files are below one
//! path that names their content, so browsers keep them for ever, and they import each other by their plain names.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    pages::{self, Document, JAVASCRIPT},
    params,
    request::Request,
    response::Answer,
};
use crate::{
    enrich::IMAGE_ORIGIN,
    problem::{Code, Problem},
};
use Load::{First, Later};

/// The page runs and shows its own files and asks its own service, nothing else but for what [`policy`] adds. Text never
/// becomes markup or script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// The page uses none of these.
const PERMISSIONS: &str =
    "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()";

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// When the page loads a file.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Load {
    /// At once: the first view needs it.
    First,
    /// With the view that needs it.
    Later,
}

/// The files that the page loads.
#[rustfmt::skip] // one row a line
const FILES: [(&str, Load, &str); 30] = [
    ("account.js",       Later, include_str!("page/account.js")),
    ("api.js",           First, include_str!("page/api.js")),
    ("app.js",           First, include_str!("page/app.js")),
    ("check.js",         Later, include_str!("page/check.js")),
    ("details.js",       Later, include_str!("page/details.js")),
    ("dialog.js",        Later, include_str!("page/dialog.js")),
    ("edit.js",          Later, include_str!("page/edit.js")),
    ("files.js",         Later, include_str!("page/files.js")),
    ("filters.js",       First, include_str!("page/filters.js")),
    ("find.js",          First, include_str!("page/find.js")),
    ("history.js",       Later, include_str!("page/history.js")),
    ("hooks.js",         First, include_str!("page/vendor/hooks.js")),
    ("htm.js",           First, include_str!("page/vendor/htm.js")),
    ("ingest.js",        Later, include_str!("page/ingest.js")),
    ("ingests.js",       Later, include_str!("page/ingests.js")),
    ("list.js",          First, include_str!("page/list.js")),
    ("live.js",          Later, include_str!("page/live.js")),
    ("messages.js",      First, include_str!("page/messages.js")),
    ("movie.js",         Later, include_str!("page/movie.js")),
    ("operations.js",    Later, include_str!("page/operations.js")),
    ("pages.js",         First, include_str!("page/pages.js")),
    ("preact.js",        First, include_str!("page/vendor/preact.js")),
    ("route.js",         First, include_str!("page/route.js")),
    ("search.js",        First, include_str!("page/search.js")),
    ("style.css",        First, include_str!("page/style.css")),
    ("transfers.js",     Later, include_str!("page/transfers.js")),
    ("ui.js",            First, include_str!("page/ui.js")),
    ("views.css",        First, include_str!("page/views.css")),
    ("violations.js",    Later, include_str!("page/violations.js")),
    ("years.js",         First, include_str!("page/years.js")),
];

/// Changes with the content of any file.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for (name, _, text) in FILES {
        digest.update(format!("{name} {}\n{text}", text.len()));
    }
    URL_SAFE_NO_PAD.encode(&digest.finalize()[..12])
});

/// The files of the page, made when one is first asked for.
static DOCUMENTS: LazyLock<Vec<(&str, Document)>> =
    LazyLock::new(|| FILES.iter().map(|(name, _, text)| (*name, document(name, text))).collect());

/// Which pictures the page shows beside those that it draws.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pictures {
    /// Those of TMDB.
    pub(super) details: bool,
    /// Those that movies name, wherever they are.
    pub(super) thumbnails: bool,
}

/// Returns the document that loads the files. It tells them, and the browser, which pictures there are.
///
/// `upload_prefix` begins the keys of all files that may be put.
pub(super) fn index(
    pictures: Pictures,
    upload_origin: Option<&str>,
    upload_prefix: &str,
) -> Document {
    Document::new("text/html; charset=utf-8", html(pictures, upload_prefix))
        .with(header::CONTENT_SECURITY_POLICY, policy(pictures, upload_origin))
        .with(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))
        .with(
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        )
        .with(HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS))
}

/// Returns [`POLICY`] with where images come from, and with the one other origin that the page sends files to.
fn policy(pictures: Pictures, upload_origin: Option<&str>) -> HeaderValue {
    let images = match pictures {
        Pictures { thumbnails: true, .. } => Some("https:"),
        Pictures { details: true, .. } => Some(IMAGE_ORIGIN),
        _ => None,
    };
    let further = |source: Option<&str>| source.map(|it| format!(" {it}")).unwrap_or_default();
    let (images, uploads) = (further(images), further(upload_origin));
    let policy = format!("{POLICY}; img-src 'self' data:{images}; connect-src 'self'{uploads}");
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static(POLICY))
}

fn html(pictures: Pictures, upload_prefix: &str) -> String {
    let version = &*VERSION;
    let switch = |is_on| if is_on { "on" } else { "off" };
    let first = FILES.iter().filter(|(_, load, _)| *load == First);
    let links = first.map(|(name, ..)| {
        if name.ends_with(".css") {
            format!("<link rel=\"stylesheet\" href=\"page/{version}/{name}\">\n")
        } else {
            format!("<link rel=\"modulepreload\" href=\"page/{version}/{name}\">\n")
        }
    });
    include_str!("page/index.html")
        .replace("{links}\n", &links.collect::<String>())
        .replace("{version}", version)
        .replace("{details}", switch(pictures.details))
        .replace("{thumbnails}", switch(pictures.thumbnails))
        .replace("{upload_prefix}", &attribute(upload_prefix))
}

/// Returns text as the value of an attribute in quotes.
fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

fn document(name: &str, text: &'static str) -> Document {
    let media_type = if name.ends_with(".css") { "text/css; charset=utf-8" } else { JAVASCRIPT };
    // A browser finds no package by its name.
    let text = text.replace(r#"from"preact""#, r#"from"./preact.js""#);
    Document::new(media_type, text).with(header::CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE))
}

/// Returns the names of the files that the page loads.
pub(super) fn file_names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, ..)| *name)
}

/// `GET /`: the page.
pub(super) async fn home(request: Request) -> Answer {
    params::none(&request.query)?;
    Ok(pages::respond(&request.headers, &request.app.index))
}

/// `GET /page/{version}/{file}`: a file that the page loads.
pub(super) async fn file(request: Request) -> Answer {
    params::none(&request.query)?;
    let missing = || Problem::new(Code::NotFound, "no such file; / is the page");
    // The first request waits until they are made and compressed.
    let documents = spawn_blocking(|| LazyLock::force(&DOCUMENTS)).await;
    let documents = documents.map_err(|error| Problem::internal(&error))?;
    let [version, name] = request.path_values() else { return Err(missing()) };
    // A file of another release does not fit to those of this one.
    let mut files = documents.iter().filter(|_| *version == *VERSION);
    let (_, file) = files.find(|(known, _)| known == name).ok_or_else(missing)?;
    Ok(pages::respond(&request.headers, file))
}
