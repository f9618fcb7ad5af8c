//! The limit of the database: a raw COPY.

use std::{pin::pin, time::Duration};

use anyhow::Result;
use local_stack::postgres::Postgres;
use schema::Movie;
use tokio_postgres::{
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

use crate::{
    movies::{BATCH, parse},
    report::Stopwatch,
};

/// Returns how long a binary COPY of title, year, cast and genres into a table without an index
/// takes: the least work that brings movies into Postgres.
pub(crate) async fn copy(postgres: &Postgres, movies: &[String]) -> Result<Duration> {
    let client = postgres.connect("postgres").await?;
    let create = "drop table if exists bare; \
        create table bare (title text, year int, movie_cast text[], genres text[])";
    client.batch_execute(create).await?;
    let mut watch = Stopwatch::default();
    for batch in movies.chunks(BATCH) {
        let rows: Vec<Movie> = batch.iter().filter_map(|movie| parse(movie)).collect();
        let rows: Vec<_> = rows.iter().map(Row::of).collect();
        let run = watch.start();
        let types = [Type::TEXT, Type::INT4, Type::TEXT_ARRAY, Type::TEXT_ARRAY];
        let sink = client.copy_in("copy bare from stdin (format binary)").await?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for Row { title, year, cast, genres } in &rows {
            let row: [&(dyn ToSql + Sync); 4] = [title, year, cast, genres];
            writer.as_mut().write(&row).await?;
        }
        writer.finish().await?;
        watch.stop(run);
    }
    Ok(watch.total())
}

struct Row<'a> {
    title: &'a str,
    year: i32,
    cast: Vec<&'a str>,
    genres: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn of(movie: &'a Movie) -> Self {
        Self {
            title: &movie.title,
            year: i32::try_from(movie.year.get()).unwrap_or_default(),
            cast: movie.cast.iter().map(|name| &***name).collect(),
            genres: movie.genres.iter().map(|name| &***name).collect(),
        }
    }
}
