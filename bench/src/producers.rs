//! Measures many producers that put small files concurrently through the whole local stack: S3
//! endpoint, events, Lambda, API, workers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aws_sdk_s3::{Client, primitives::ByteStream};
use local_stack::{Options, Stack, client};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::Client as Sql;

const BUCKET: &str = "bench";

/// The number of movies in a file.
const MOVIES_PER_FILE: usize = 5;

/// One of this many puts is a new version of the previous file.
const CORRECTION_INTERVAL: usize = 10;

/// The delay between two queries of the ledger.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The genre of each title.
type Genres = HashMap<String, String>;

/// Lets `producers` put `files` files in all, waits until every ingest has ended, and checks every
/// movie. Prints the durations and the depth of the queue.
#[expect(clippy::print_stdout, reason = "the figures are the output of the program")]
pub(crate) async fn measure(producers: usize, files: usize) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
    let any_port = ([127, 0, 0, 1], 0).into();
    let options = Options {
        api: any_port,
        s3: any_port,
        bucket: BUCKET.to_owned(),
        data_dir: directory.clone(),
        sample: false,
    };
    let stack = Stack::start(options).await?;
    let outcome = run(&stack, producers, files).await;
    stack.stop().await;
    std::fs::remove_dir_all(&directory)?;
    println!("{}", outcome?);
    Ok(())
}

async fn run(stack: &Stack, producers: usize, files: usize) -> Result<String> {
    let Some(postgres) = &stack.postgres else {
        anyhow::bail!("unset MRU_DB_HOST: the benchmark needs a database of its own");
    };
    let sql = postgres.connect(local_stack::DATABASE).await?;
    let started = Instant::now();
    let mut putting = JoinSet::new();
    for producer in 0..producers {
        let share = files / producers + usize::from(producer < files % producers);
        putting.spawn(produce(client(stack.s3), producer, share));
    }
    let (mut depth, mut age) = (0, 0.0);
    let (mut expected, mut put_time) = (Genres::new(), None);
    loop {
        while let Some(produced) = putting.try_join_next() {
            expected.extend(produced??);
        }
        if putting.is_empty() {
            put_time.get_or_insert(started.elapsed());
        }
        let Queue { ended, queued, oldest_s } = read_queue(&sql).await?;
        (depth, age) = (depth.max(queued), f64::max(age, oldest_s));
        if ended == files as i64 {
            break;
        }
        ensure!(
            started.elapsed() < Duration::from_secs(1800),
            "only {ended} of {files} ingests have ended"
        );
        sleep(POLL_INTERVAL).await;
    }
    let settled = started.elapsed().as_secs_f64();
    let states = count_states(&sql).await?;
    let is_correct = read_catalogue(&sql).await? == expected;
    ensure!(is_correct, "the catalogue differs from the files put last: {states}");
    Ok(format!(
        "{producers} producers, {files} files of {MOVIES_PER_FILE} movies: put in {:.1} s, settled in \
         {settled:.1} s ({:.0} files/s; {states}); at most {depth} queued, the oldest for {age:.1} s; \
         all {} movies as put last",
        put_time.unwrap_or_default().as_secs_f64(),
        files as f64 / settled,
        expected.len(),
    ))
}

/// Puts `files` files one after the other. Returns the genre of each title put last.
async fn produce(s3: Client, producer: usize, files: usize) -> Result<Genres> {
    let mut genres = Genres::new();
    for file in 0..files {
        let is_correction = file % CORRECTION_INTERVAL == CORRECTION_INTERVAL - 1;
        let name = format!("{producer}/{}", if is_correction { file - 1 } else { file });
        let genre = if is_correction { "Corrected" } else { "First" };
        let titles = (0..MOVIES_PER_FILE).map(|movie| format!("{name}/{movie}"));
        let movies: Vec<Value> = titles
            .clone()
            .map(|title| json!({ "title": title, "year": 2000, "genres": [genre] }))
            .collect();
        let body = ByteStream::from(serde_json::to_vec(&movies)?);
        s3.put_object().bucket(BUCKET).key(format!("{name}.json")).body(body).send().await?;
        genres.extend(titles.map(|title| (title, genre.to_owned())));
    }
    Ok(genres)
}

/// The state of the queue.
struct Queue {
    ended: i64,
    queued: i64,
    /// How long the oldest queued ingest has waited, in seconds.
    oldest_s: f64,
}

async fn read_queue(sql: &Sql) -> Result<Queue> {
    let query = "select count(*) filter (where finished_at is not null), \
            count(*) filter (where state = 'queued'), \
            coalesce(extract(epoch from now() - min(received_at) filter (where state = 'queued')), \
                0)::float8 \
        from ingests";
    let row = sql.query_one(query, &[]).await?;
    Ok(Queue { ended: row.get(0), queued: row.get(1), oldest_s: row.get(2) })
}

/// Returns the number of ingests in each state, as text.
async fn count_states(sql: &Sql) -> Result<String> {
    let query = "select string_agg(count || ' ' || state, ', ' order by count desc) \
        from (select state, count(*) from ingests group by state) states";
    Ok(sql.query_one(query, &[]).await?.get(0))
}

async fn read_catalogue(sql: &Sql) -> Result<Genres> {
    let mut genres = Genres::new();
    for row in sql.query("select doc from movies", &[]).await? {
        let movie: Value = serde_json::from_str(row.get(0))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        genres.insert(text(&movie["title"]), text(&movie["genres"][0]));
    }
    Ok(genres)
}
