//! Many producers that put small files at once, through all of the local stack: S3 endpoint,
//! events, Lambda, API, workers.

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

/// Movies in a file.
const MOVIES: usize = 5;

/// Every so manieth put is a correction of the file before.
const CORRECTIONS: usize = 10;

/// How often the queue is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What the catalogue must say in the end: the genre of each title.
type Truth = HashMap<String, String>;

/// Has `producers` put `files` files in all, waits until all have settled, checks every movie, and
/// says how long that took and how long files waited.
#[expect(clippy::print_stdout, reason = "the figures are what the program is for")]
pub(crate) async fn measure(producers: usize, files: usize) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
    let anywhere = ([127, 0, 0, 1], 0).into();
    let options = Options {
        api: anywhere,
        s3: anywhere,
        bucket: BUCKET.to_owned(),
        data_dir: folder.clone(),
        sample: false,
    };
    let stack = Stack::start(options).await?;
    let outcome = run(&stack, producers, files).await;
    stack.stop().await;
    std::fs::remove_dir_all(&folder)?;
    println!("{}", outcome?);
    Ok(())
}

async fn run(stack: &Stack, producers: usize, files: usize) -> Result<String> {
    let Some(postgres) = &stack.postgres else {
        anyhow::bail!("unset MRU_DB_HOST: the benchmark wants a database of its own");
    };
    let sql = postgres.connect(local_stack::DATABASE).await?;
    let started = Instant::now();
    let mut putting = JoinSet::new();
    for producer in 0..producers {
        let share = files / producers + usize::from(producer < files % producers);
        putting.spawn(produce(client(stack.s3), producer, share));
    }
    let (mut depth, mut age) = (0, 0.0);
    let (mut truth, mut put_in) = (Truth::new(), None);
    loop {
        while let Some(produced) = putting.try_join_next() {
            truth.extend(produced??);
        }
        if putting.is_empty() {
            put_in.get_or_insert(started.elapsed());
        }
        let (ended, waiting, oldest) = queue(&sql).await?;
        (depth, age) = (depth.max(waiting), f64::max(age, oldest));
        if ended == files as i64 {
            break;
        }
        ensure!(started.elapsed() < Duration::from_secs(1800), "{ended} of {files} have ended");
        sleep(LOOK).await;
    }
    let settled = started.elapsed().as_secs_f64();
    let states = states(&sql).await?;
    ensure!(catalogue(&sql).await? == truth, "the catalogue is not what was put: {states}");
    Ok(format!(
        "{producers} producers, {files} files of {MOVIES} movies: put in {:.1} s, settled in \
         {settled:.1} s ({:.0} files/s; {states}); at most {depth} queued, the oldest for {age:.1} s; \
         all {} movies as put last",
        put_in.unwrap_or_default().as_secs_f64(),
        files as f64 / settled,
        truth.len(),
    ))
}

/// Puts files one after the other, some of them again with other content.
async fn produce(s3: Client, producer: usize, files: usize) -> Result<Truth> {
    let mut truth = Truth::new();
    for file in 0..files {
        let correction = file % CORRECTIONS == CORRECTIONS - 1;
        let name = format!("{producer}/{}", if correction { file - 1 } else { file });
        let genre = if correction { "Corrected" } else { "First" };
        let titles = (0..MOVIES).map(|movie| format!("{name}/{movie}"));
        let movies: Vec<Value> = titles
            .clone()
            .map(|title| json!({ "title": title, "year": 2000, "genres": [genre] }))
            .collect();
        let body = ByteStream::from(serde_json::to_vec(&movies)?);
        s3.put_object().bucket(BUCKET).key(format!("{name}.json")).body(body).send().await?;
        truth.extend(titles.map(|title| (title, genre.to_owned())));
    }
    Ok(truth)
}

/// How many ingests have ended, how many wait, and for how many seconds the oldest.
async fn queue(sql: &Sql) -> Result<(i64, i64, f64)> {
    let look = "select count(*) filter (where finished_at is not null), \
            count(*) filter (where state = 'queued'), \
            coalesce(extract(epoch from now() - min(received_at) filter (where state = 'queued')), \
                0)::float8 \
        from ingests";
    let row = sql.query_one(look, &[]).await?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

async fn states(sql: &Sql) -> Result<String> {
    let states = "select string_agg(count || ' ' || state, ', ' order by count desc) \
        from (select state, count(*) from ingests group by state) states";
    Ok(sql.query_one(states, &[]).await?.get(0))
}

async fn catalogue(sql: &Sql) -> Result<Truth> {
    let mut found = Truth::new();
    for row in sql.query("select doc from movies", &[]).await? {
        let movie: Value = serde_json::from_str(row.get(0))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found.insert(text(&movie["title"]), text(&movie["genres"][0]));
    }
    Ok(found)
}
