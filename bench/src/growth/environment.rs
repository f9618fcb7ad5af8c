//! The Postgres and the S3 endpoint of the benchmark.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use local_stack::{
    client,
    postgres::{Postgres, Purpose},
    s3::Endpoint,
};
use rest_api::{
    config::Database,
    store::{self, Store},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_postgres::Client as Sql;

use crate::{
    ledger,
    service::{Service, no_secrets},
    stack::BUCKET,
};

/// How many ingests the service works on at once.
const WORKERS: usize = 2;

/// A Postgres that flushes what it commits, and an S3 endpoint that notifies nobody.
pub(crate) struct Environment {
    postgres: Postgres,
    s3_address: SocketAddr,
    pub(crate) s3: Client,
    serving: JoinHandle<Result<()>>,
}

/// A migrated database.
pub(crate) struct Part {
    pub(crate) database: Database,
    pub(crate) sql: Sql,
}

impl Environment {
    /// Starts both with their data in `directory`.
    pub(crate) async fn start(directory: &Path) -> Result<Self> {
        // The purpose "test" deletes the data at the end. It flushes nothing, unless told otherwise.
        let settings = ["fsync=on", "synchronous_commit=on", "full_page_writes=on"];
        let settings = settings.map(str::to_owned);
        std::fs::create_dir_all(directory)?;
        let cluster = directory.join("postgres");
        let postgres = Postgres::start_with(&cluster, Purpose::Test, 5432, &settings).await?;
        let endpoint = Endpoint::new(&directory.join("s3"))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let s3_address = listener.local_addr()?;
        let serving = tokio::spawn(endpoint.serve(listener, std::future::pending()));
        let s3 = client(s3_address);
        s3.create_bucket().bucket(BUCKET).send().await?;
        Ok(Self { postgres, s3_address, s3, serving })
    }

    pub(crate) async fn stop(self) {
        self.serving.abort();
        self.postgres.stop().await;
    }

    /// Returns the settings of Postgres as text.
    pub(crate) async fn durability(&self) -> Result<String> {
        ledger::durability(&self.postgres.connect("postgres").await?).await
    }

    /// Creates the database `name` with all migrations.
    pub(crate) async fn create(&self, name: &str) -> Result<Part> {
        self.postgres.create_database(name).await?;
        let database = self.postgres.database(name);
        store::migrate(&database, &no_secrets()).await?;
        let sql = self.postgres.connect(name).await?;
        // For the indexes that are built after the rows were written, and to write versions without a
        // service.
        sql.batch_execute(
            "set maintenance_work_mem = '512MB'; set mru.folding = 'any'; set mru.counting = '2'",
        )
        .await?;
        Ok(Part { database, sql })
    }

    /// Opens a further connection to the database of `part`.
    pub(crate) async fn connect(&self, part: &Part) -> Result<Sql> {
        self.postgres.connect(&part.database.name).await
    }

    /// Starts a service on `part` that works on ingests.
    pub(crate) async fn service(&self, part: &Part) -> Result<Service> {
        Service::start(&part.database, self.s3_address, WORKERS).await
    }

    /// Starts a service on `part` that records ingests and claims none.
    pub(crate) async fn service_without_workers(&self, part: &Part) -> Result<Service> {
        Service::start(&part.database, self.s3_address, 0).await
    }
}

impl Part {
    /// Returns the store of a service with as many workers.
    pub(crate) async fn store(&self) -> Result<Store> {
        Ok(Store::new(&self.database, &no_secrets(), WORKERS).await?)
    }

    /// Runs `statements`, which write many rows into `table`, without its indexes. Builds the indexes
    /// afterwards, which takes a fraction of the time, then vacuums and analyzes the table.
    pub(crate) async fn fill(&self, table: &str, statements: &str) -> Result<()> {
        let indexes = "select coalesce(string_agg(format('drop index %s', indexrelid::regclass), ';'), ''), \
                coalesce(string_agg(pg_get_indexdef(indexrelid), ';'), '') \
            from pg_index \
            where indrelid = $1::text::regclass and not indisprimary \
                and not exists (select from pg_constraint where conindid = indexrelid)";
        let indexes = self.sql.query_one(indexes, &[&table]).await?;
        let run = async |statements: &str| {
            let failed = || format!("cannot run {statements}");
            self.sql.batch_execute(statements).await.with_context(failed)
        };
        run(indexes.get(0)).await?;
        run(statements).await?;
        run(indexes.get(1)).await?;
        run(&format!("vacuum (analyze) {table}")).await
    }
}
