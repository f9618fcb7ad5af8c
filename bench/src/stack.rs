//! The whole local stack, in a directory of its own.

use std::path::Path;

use anyhow::{Context, Result};
use local_stack::{DATABASE, Options, Stack, postgres::Postgres};
use tokio_postgres::Client as Sql;

/// The bucket of all benchmarks.
pub(crate) const BUCKET: &str = "bench";

/// Runs `run` with a new directory, and removes the directory.
///
/// # Errors
/// As `run`, or if the directory cannot be created or removed.
pub(crate) async fn with_directory<T>(run: impl AsyncFnOnce(&Path) -> Result<T>) -> Result<T> {
    let directory = std::env::temp_dir().join(format!("mru-bench-{}", std::process::id()));
    let outcome = run(&directory).await;
    std::fs::remove_dir_all(&directory)?;
    outcome
}

/// Starts the whole local stack on the data in `directory`, runs `run` with it, and stops it. Its
/// Postgres flushes what it commits.
///
/// # Errors
/// As `run`, or if the stack does not start.
pub(crate) async fn with_stack<T>(
    directory: &Path,
    run: impl AsyncFnOnce(&Stack) -> Result<T>,
) -> Result<T> {
    let any_port = ([127, 0, 0, 1], 0).into();
    let options = Options {
        api: any_port,
        s3: any_port,
        bucket: BUCKET.to_owned(),
        data_dir: directory.to_owned(),
        sample: false,
    };
    let stack = Stack::start(options).await?;
    let outcome = run(&stack).await;
    stack.stop().await;
    outcome
}

/// Returns the Postgres of the stack.
///
/// # Errors
/// If `MRU_DB_HOST` names another one.
pub(crate) fn postgres(stack: &Stack) -> Result<&Postgres> {
    let postgres = stack.postgres.as_ref();
    postgres.context("unset MRU_DB_HOST: the benchmark needs a database of its own")
}

/// Opens a connection to the database of the stack.
///
/// # Errors
/// As [`postgres`], or if Postgres cannot be reached.
pub(crate) async fn connect(stack: &Stack) -> Result<Sql> {
    postgres(stack)?.connect(DATABASE).await
}
