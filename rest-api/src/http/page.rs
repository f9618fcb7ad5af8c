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
use crate::problem::{Code, Problem};
use Load::{First, Later};

/// The page runs and shows its own files and asks its own service, nothing else. Text never becomes markup or script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'; connect-src 'self'";

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

/// The page and its files, made when it is first asked for.
static PAGE: LazyLock<Built> = LazyLock::new(Built::new);

struct Built {
    /// Changes with the content of any file.
    version: String,
    index: Document,
    files: Vec<(&'static str, Document)>,
}

impl Built {
    fn new() -> Self {
        let mut digest = Sha256::new();
        for (name, _, text) in FILES {
            digest.update(format!("{name} {}\n{text}", text.len()));
        }
        let version = URL_SAFE_NO_PAD.encode(&digest.finalize()[..12]);
        let index = Document::new("text/html; charset=utf-8", index(&version))
            .with(header::REFERRER_POLICY, "no-referrer")
            .with(HeaderName::from_static("cross-origin-opener-policy"), "same-origin")
            .with(HeaderName::from_static("permissions-policy"), PERMISSIONS);
        let files = FILES.iter().map(|(name, _, text)| (*name, document(name, text)));
        Self { version, index, files: files.collect() }
    }
}

/// Returns the document that loads the files of this version.
fn index(version: &str) -> String {
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
}

fn document(name: &str, text: &'static str) -> Document {
    let media_type = if name.ends_with(".css") { "text/css; charset=utf-8" } else { JAVASCRIPT };
    // A browser finds no package by its name.
    let text = text.replace(r#"from"preact""#, r#"from"./preact.js""#);
    Document::new(media_type, text).with(header::CACHE_CONTROL, IMMUTABLE)
}

/// Returns the names of the files that the page loads.
pub(super) fn file_names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, ..)| *name)
}

/// `GET /`: the page.
pub(super) async fn home(request: Request) -> Answer {
    params::none(&request.query)?;
    let mut response = pages::respond(&request.headers, &built().await?.index);
    let policy = policy(request.app.access.upload_origin.as_deref());
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// Returns [`POLICY`] with the one other origin that the page sends files to.
fn policy(upload_origin: Option<&str>) -> HeaderValue {
    let policy = upload_origin.map(|origin| HeaderValue::try_from(format!("{POLICY} {origin}")));
    policy.and_then(Result::ok).unwrap_or(HeaderValue::from_static(POLICY))
}

/// `GET /page/{version}/{file}`: a file that the page loads.
pub(super) async fn file(request: Request) -> Answer {
    params::none(&request.query)?;
    let missing = || Problem::new(Code::NotFound, "no such file; / is the page");
    let built = built().await?;
    let [version, name] = request.path_values() else { return Err(missing()) };
    // A file of another release does not fit to those of this one.
    let mut files = built.files.iter().filter(|_| *version == built.version);
    let (_, file) = files.find(|(known, _)| known == name).ok_or_else(missing)?;
    Ok(pages::respond(&request.headers, file))
}

/// Returns the page. The first request waits until it is made and compressed.
async fn built() -> Result<&'static Built, Problem> {
    let built = spawn_blocking(|| LazyLock::force(&PAGE)).await;
    built.map_err(|error| Problem::internal(&error))
}
