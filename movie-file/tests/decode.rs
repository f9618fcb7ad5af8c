//! The end of the search for faults, and the threads that decode.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashSet, convert::Infallible, thread, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, future::join_all, stream};
use movie_file::{DecodePool, Decoder, Limits, MAX_LISTED, Reader, Summary};

const MOVIE: &str = r#"{"title":"M","year":1931}"#;

fn limits() -> Limits {
    Limits::with_max_file(1 << 30)
}

fn decode(file: &str, chunk: usize) -> Summary {
    let mut decoder = Decoder::new(None, limits()).unwrap();
    for mut chunk in file.as_bytes().chunks(chunk) {
        while !chunk.is_empty() {
            chunk = &chunk[decoder.push(chunk, |_, _| {})..];
        }
    }
    decoder.finish(|_, _| {})
}

type Chunk = Result<Bytes, Infallible>;

fn reader(file: String, pool: &DecodePool) -> Reader<impl Stream<Item = Chunk> + Unpin + use<>> {
    Reader::new(None, limits(), stream::iter([Ok(file.into())]), pool)
}

#[test]
fn violations_are_exact_until_the_list_is_full() {
    // Two violations each.
    for (records, count) in [(1, 2), (499, 998), (500, 1000)] {
        let file = "{}\n".repeat(records);
        assert_eq!(decode(&file, 1000).violations.count(), count);
    }
}

#[test]
fn a_bad_record_counts_once_after_the_list_is_full() {
    let file = "{}\n".repeat(1500);
    for chunk in [1, 7, 100_000] {
        let Summary { movies, violations } = decode(&file, chunk);
        assert_eq!((movies, violations.listed().len()), (0, MAX_LISTED));
        assert_eq!(violations.count(), 1000 + 1000);
    }
    // The record that fills the list is searched to its end. Valid records are still counted.
    let bad = format!(r#"{{"title":"M","year":1931,"cast":[{}1]}}"#, "1,".repeat(1199));
    let file = [&bad, MOVIE, &bad, "{", "{}"].join("\n");
    let Summary { movies, violations } = decode(&file, 1000);
    assert_eq!((movies, violations.listed().len(), violations.count()), (1, 1000, 1203));
}

#[tokio::test]
async fn decoding_and_conversion_run_off_the_thread_of_the_caller() {
    let pool = DecodePool::new(1);
    let mut reader = reader(format!("{MOVIE}\n").repeat(100_000), &pool);
    let mut movies = 0;
    while let Some(threads) = reader.next_batch(|_| thread::current().id()).await.unwrap() {
        assert!(!threads.contains(&thread::current().id()));
        movies += threads.len();
    }
    assert_eq!(movies, 100_000);
    assert_eq!(reader.finish().await.unwrap().movies, 100_000);
}

#[tokio::test]
async fn any_chunks_give_the_same_movies() {
    let pool = DecodePool::new(1);
    let file = format!("{MOVIE}\n").repeat(5_000);
    for size in [1, 100, 8 << 10, 1 << 20] {
        let chunks = file.as_bytes().chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
        // Empty chunks mean nothing.
        let chunks: Vec<Chunk> = chunks.flat_map(|chunk| [Ok(Bytes::new()), chunk]).collect();
        let mut reader = Reader::new(None, limits(), stream::iter(chunks), &pool);
        let mut titles = Vec::new();
        while let Some(batch) = reader.next_batch(|movie| movie.title.to_string()).await.unwrap() {
            titles.extend(batch);
        }
        assert_eq!(titles, vec!["M"; 5_000]);
        assert_eq!(reader.finish().await.unwrap().movies, 5_000);
    }
}

#[tokio::test]
async fn a_large_file_gives_other_files_their_turn() {
    let pool = DecodePool::new(1);
    // One chunk of 64 MiB.
    let large = reader(format!("[{}", "1,".repeat(32 << 20)), &pool);
    let large = tokio::spawn(large.finish());
    tokio::task::yield_now().await;
    let small = reader(MOVIE.to_owned(), &pool).finish().await.unwrap();
    assert_eq!(small.movies, 1);
    assert!(!large.is_finished(), "the small file has waited for the large one");
    large.abort();
}

#[tokio::test]
async fn the_reader_measures_the_processor_time_of_decoding() {
    let pool = DecodePool::new(1);
    let mut reader = reader(format!("{MOVIE}\n").repeat(100_000), &pool);
    let mut before = reader.processor_time();
    assert_eq!(before, Duration::ZERO);
    let mut steps = 0;
    while reader.skip().await.unwrap() {
        assert!(reader.processor_time() > before);
        before = reader.processor_time();
        steps += 1;
    }
    assert!(steps > 5, "{steps} steps");
}

#[tokio::test]
async fn a_pool_has_no_more_threads_than_it_was_given() {
    let pool = DecodePool::new(2);
    let read = async || {
        let mut reader = reader(format!("{MOVIE}\n").repeat(50_000), &pool);
        let mut threads = HashSet::new();
        while let Some(batch) = reader.next_batch(|_| thread::current().id()).await.unwrap() {
            threads.extend(batch);
            // Threads of the runtime become idle meanwhile.
            tokio::task::yield_now().await;
        }
        threads
    };
    let threads: HashSet<_> =
        join_all((0..8).map(|_| read())).await.into_iter().flatten().collect();
    assert!(threads.len() <= 2, "{} threads", threads.len());
}
