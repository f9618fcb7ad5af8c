//! What needs no query: cached answers, 304 and `/healthz`. The limit is hyper with the same body.

use std::{fs::File, path::Path, sync::Arc};

use anyhow::Result;

use super::{
    bare,
    load::{Requests, closed},
    uncached::Effort,
};
use crate::{
    process::{Process, start_helper},
    report::{Figures, Rounds},
};

/// The number of clients at once.
const CLIENTS: usize = 32;

/// A page of 10 movies.
const PAGE: &str = "/movies?title=the&limit=10";

/// The least share of the limit that answers from memory are to have.
const TARGET: f64 = 0.8;

/// Measures each kind beside the limit.
pub(super) async fn measure(
    service: &Process,
    directory: &Path,
    effort: Effort,
    figures: &mut Figures,
) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    for (name, path) in [("a cached page of 10 movies", PAGE), ("/healthz", "/healthz")] {
        let response = http.get(service.url(path)).send().await?.error_for_status()?;
        let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok());
        let unchanged = etag.map(|etag| format!("if-none-match: {etag}\r\n"));
        let body = response.bytes().await?;
        let bytes = body.len();
        let file = directory.join("body");
        std::fs::write(&file, body)?;
        let limit = start_helper(bare::COMMAND, File::open(&file)?).await?;
        let requests = Requests::get([path.to_owned()], "");
        let limit = (&limit, &requests);
        let ratio = compare((service, &requests), limit, effort).await?;
        figures.share(&format!("{name}, {bytes} bytes, against bare hyper"), &ratio, Some(TARGET));
        if let Some(headers) = unchanged {
            let requests = Requests::get([path.to_owned()], &headers);
            let ratio = compare((service, &requests), limit, effort).await?;
            let name = format!("304 for {name}, against bare hyper with the page");
            figures.share(&name, &ratio, None);
        }
    }
    Ok(())
}

async fn compare(
    (service, requests): (&Process, &Arc<Requests>),
    (limit, limit_requests): (&Process, &Arc<Requests>),
    Effort { rounds, duration }: Effort,
) -> Result<Rounds> {
    let mut compared = Rounds::default();
    for _ in 0..rounds {
        let bare = closed(limit.address, limit_requests, CLIENTS, duration).await?.all_served()?;
        let served = closed(service.address, requests, CLIENTS, duration).await?.all_served()?;
        compared.limit.push(bare.rate());
        compared.measured.push(served.rate());
    }
    Ok(compared)
}
