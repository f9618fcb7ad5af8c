//! Measures decoding and validation of a file. The limit is serde_json with the whole file in memory.

use std::{convert::Infallible, hint::black_box};

use anyhow::{Result, ensure};
use futures_util::stream;
use movie_file::{DecodePool, Limits, Reader, limits::MAX_FILE};
use schema::Movie;

use crate::{
    memory,
    movies::File,
    report::{Line, Report, Stopwatch, median},
};

/// The size of the chunks in which a body arrives, in bytes.
const CHUNK: usize = 64 << 10;

/// Measures the service's decoding and validation of `file`, as a JSON array without violations.
pub(crate) async fn measure(
    name: &str,
    file: &File,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let bytes = format!("[{}]", file.movies.join(",\n")).into_bytes();
    let pool = DecodePool::default();
    let (mut limits, mut times, mut growth) = (Vec::new(), Vec::new(), None);
    for _ in 0..rounds {
        let mut watch = Stopwatch::default();
        let run = watch.start();
        let movies: Vec<Movie> = serde_json::from_slice(black_box(&bytes))?;
        watch.stop(run);
        ensure!(movies.len() == file.movies.len(), "serde_json returned a wrong number of movies");
        drop(movies);
        limits.push(watch.total());

        let before = memory::reset_peak();
        let mut watch = Stopwatch::default();
        let chunks = bytes.chunks(CHUNK).map(|chunk| Ok::<_, Infallible>(chunk.to_vec().into()));
        let run = watch.start();
        let file_limits = Limits::with_max_file(MAX_FILE);
        let reader = Reader::new(None, file_limits, stream::iter(chunks), &pool);
        let decoded = reader.finish().await?;
        watch.stop(run);
        ensure!(
            decoded.movies == file.movies.len() as u64,
            "the service decoded a wrong number of movies"
        );
        times.push(watch.total());
        growth = growth.max(memory::peak_growth(before));
    }
    report.add(Line {
        name: format!(
            "decode and validate, {} {name} movies, against serde_json",
            file.movies.len()
        ),
        measured: median(times),
        limit: median(limits),
        // At least 0.6 of the speed of serde_json.
        target: 1.0 / 0.6,
        memory_growth_mb: growth,
    });
    Ok(())
}
