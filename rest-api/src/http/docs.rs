//! `/docs`: the reference, rendered by Swagger UI. `/docs/operations`: the manual for operators.
//!
//! The program contains both and the viewer, which comes from a crate (`build.rs` unpacks it), so that the pages need
//! nothing from elsewhere. Their policies forbid it to them.

mod manual;

use http::{HeaderValue, header};

use super::{
    pages::{self, Document, JAVASCRIPT, Page},
    request::Request,
    response::Answer,
};
use crate::problem::{Code, Problem};

static PAGE: Page = Page::new(|| {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; \
                  img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    Document::new("text/html; charset=utf-8", include_str!("docs/page.html"))
        .with(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy))
});

/// What is below `/docs/`: the files that the page loads, and the manual with its own.
static FILES: [(&str, Page); 5] = [
    (
        "manual.css",
        Page::new(|| Document::new("text/css; charset=utf-8", include_str!("docs/manual.css"))),
    ),
    (
        "operations",
        Page::new(|| {
            let text = include_str!("../../../docs/operations.md");
            let policy = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; \
                          form-action 'none'; frame-ancestors 'none'";
            Document::new("text/html; charset=utf-8", manual::page(text))
                .with(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy))
        }),
    ),
    ("start.js", Page::new(|| Document::new(JAVASCRIPT, include_str!("docs/start.js")))),
    (
        "swagger-ui-bundle.js",
        Page::new(|| {
            let program = include_str!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js"));
            Document::new(JAVASCRIPT, program)
        }),
    ),
    (
        "swagger-ui.css",
        Page::new(|| {
            let style = include_str!(concat!(env!("OUT_DIR"), "/swagger-ui.css"));
            Document::new("text/css; charset=utf-8", style)
        }),
    ),
];

/// Returns the names of the files below `/docs/`.
pub(super) fn file_names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// `GET /docs`: the page.
pub(super) async fn page(request: Request) -> Answer {
    pages::serve(request, &PAGE).await
}

/// `GET /docs/{file}`: a file that the page loads, or the manual.
pub(super) async fn file(request: Request) -> Answer {
    let missing = || Problem::new(Code::NotFound, "no such file; /docs is the reference");
    let name = request.path_value();
    let (_, file) = FILES.iter().find(|(known, _)| Some(*known) == name).ok_or_else(missing)?;
    pages::serve(request, file).await
}
