//! Decoding and validating a file, against serde_json with the whole file in memory.

use std::{convert::Infallible, hint::black_box};

use anyhow::{Result, ensure};
use futures_util::stream;
use rest_api::ingest::{MAX_FILE, decode};
use schema::Movie;

use crate::{
    memory,
    movies::File,
    report::{Line, Report, Stopwatch, median},
};

/// A body comes in pieces of about this size.
const PIECE: usize = 64 << 10;

/// Measures the way from the bytes of `file`, a JSON array, to violations, of which there are none.
pub(crate) async fn measure(
    name: &str,
    file: &File,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let bytes = format!("[{}]", file.movies.join(",\n")).into_bytes();
    let (mut limits, mut ours, mut peak) = (Vec::new(), Vec::new(), None);
    for _ in 0..rounds {
        let mut watch = Stopwatch::default();
        let run = watch.start();
        let movies: Vec<Movie> = serde_json::from_slice(black_box(&bytes))?;
        watch.stop(run);
        ensure!(movies.len() == file.movies.len(), "serde_json lost movies");
        drop(movies);
        limits.push(watch.total());

        let before = memory::peak_now();
        let mut watch = Stopwatch::default();
        let pieces = bytes.chunks(PIECE).map(|piece| Ok::<_, Infallible>(piece.to_vec().into()));
        let run = watch.start();
        let decoded = decode(None, MAX_FILE, stream::iter(pieces), None).await?;
        watch.stop(run);
        ensure!(decoded.movies == file.movies.len() as u64, "movies were lost");
        ours.push(watch.total());
        peak = peak.max(memory::grown_since(before));
    }
    report.add(Line {
        what: format!(
            "decode and validate, {} {name} movies, against serde_json",
            file.movies.len()
        ),
        ours: median(ours),
        limit: median(limits),
        // At least 0.6 of its speed.
        target: 1.0 / 0.6,
        memory_mb: peak,
    });
    Ok(())
}
