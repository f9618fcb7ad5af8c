//! A real Postgres, found or fetched, reachable by a Unix socket only. It never outlives this
//! process.

mod account;
mod binaries;
mod cluster;
mod guard;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rest_api::config::{Database, Login, Secret, Tls};
use tokio_postgres::NoTls;
use uuid::Uuid;

pub(crate) use account::close_to_others;
pub use account::restrict_to_postgres;
pub use binaries::cache_dir;
pub use cluster::{Purpose, USER};

use crate::private;
use binaries::Binaries;
use guard::Guard;

/// How long a start may take, including the wait for a previous Postgres that still shuts down.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running Postgres. Dropping it stops Postgres without waiting.
#[derive(Debug)]
pub struct Postgres {
    guard: Guard,
    socket_dir: PathBuf,
    port: u16,
    log_path: PathBuf,
}

/// The result of a start.
enum Startup {
    Ready,
    Exited { log: String },
}

impl Postgres {
    /// Starts the cluster in `directory`, which is created on first use.
    ///
    /// # Errors
    /// If no Postgres can be found or fetched, or it does not start.
    pub async fn start(directory: &Path, purpose: Purpose) -> Result<Self> {
        Self::start_with(directory, purpose, 5432, &[]).await
    }

    /// Starts the cluster in `directory` with additional `settings` (`name=value`). The name of its
    /// socket contains `port`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        directory: &Path,
        purpose: Purpose,
        port: u16,
        settings: &[String],
    ) -> Result<Self> {
        let directory = directory.to_owned();
        let find = move || cluster::prepare(&directory, purpose, binaries::find);
        let (binaries, directory) = tokio::task::spawn_blocking(find).await??;
        Self::start_in(&binaries, &directory, purpose, port, settings).await
    }

    /// Starts the cluster as [`Self::start_with`] does, by the Postgres whose programs are in `programs`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_from(
        programs: &Path,
        directory: &Path,
        purpose: Purpose,
        port: u16,
        settings: &[String],
    ) -> Result<Self> {
        let given = |_: &str| Ok(Binaries::from(programs));
        let (binaries, directory) = cluster::prepare(directory, purpose, given)?;
        Self::start_in(&binaries, &directory, purpose, port, settings).await
    }

    async fn start_in(
        binaries: &Binaries,
        directory: &Path,
        purpose: Purpose,
        port: u16,
        settings: &[String],
    ) -> Result<Self> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let mut postgres = Self::spawn(binaries, directory, purpose, port, settings)?;
            match postgres.wait_until_ready(deadline).await? {
                Startup::Ready => return Ok(postgres),
                Startup::Exited { log }
                    if log.contains("lock file") && Instant::now() < deadline =>
                {
                    // The Postgres of a killed process still shuts down.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Startup::Exited { log } => {
                    bail!("Postgres in {} exited; it logged:\n{log}", directory.display())
                }
            }
        }
    }

    /// Returns the configuration by which the service connects to the database `name`.
    pub fn database(&self, name: &str) -> Database {
        Database {
            host: self.socket_dir.display().to_string(),
            port: self.port,
            login: Login::Fixed {
                user: USER.to_owned(),
                password: Secret::new("unused: the socket's directory is private"),
            },
            service_login: None,
            name: name.to_owned(),
            read_host: None,
            tls: Tls::Disable,
        }
    }

    /// Returns the directory of the socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Returns the path of the log.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// Creates the database `name` unless it exists.
    ///
    /// # Errors
    /// If Postgres cannot be reached or refuses.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let client = self.connect("postgres").await?;
        let exists = "select from pg_database where datname = $1";
        if client.query_opt(exists, &[&name]).await?.is_none() {
            client.batch_execute(&format!("create database \"{name}\"")).await?;
        }
        Ok(())
    }

    /// Opens a connection that is independent of the service's pool.
    ///
    /// # Errors
    /// If Postgres cannot be reached or refuses.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket_dir).port(self.port).user(USER).dbname(database);
        config.connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Waits until Postgres exits. It does so only after a fault, or if it is stopped from outside.
    pub async fn wait_for_exit(&mut self) {
        self.guard.wait_for_exit().await;
    }

    /// Stops Postgres, and waits until it has exited.
    pub async fn stop(self) {
        self.guard.stop().await;
    }

    fn spawn(
        binaries: &Binaries,
        directory: &Path,
        purpose: Purpose,
        port: u16,
        settings: &[String],
    ) -> Result<Self> {
        let socket_dir = std::env::temp_dir().join(format!("mru-{}", Uuid::new_v4().simple()));
        account::create_private_directory(&socket_dir)?;
        let log_path = directory.with_extension("log");
        let log = private::create_file(&log_path)?;
        // The guard removes the log after a test, and it is not root.
        account::chown_to_postgres(&log_path)?;

        let mut postgres = Command::new(binaries.program("postgres"));
        postgres.arg("-D").arg(directory);
        let mut set = |setting: &str| {
            postgres.args(["-c", setting]);
        };
        set("listen_addresses=");
        set(&format!("port={port}"));
        set(&format!("unix_socket_directories={}", socket_dir.display()));
        set("max_connections=400");
        set("shared_buffers=256MB");
        set("max_wal_size=4GB");
        let mut remove = vec![socket_dir.as_path()];
        if purpose == Purpose::Test {
            remove.extend([directory, &log_path]);
            for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off"] {
                set(setting);
            }
        }
        for setting in settings {
            set(setting);
        }
        let guard = Guard::start(&postgres, log, &remove)?;
        Ok(Self { guard, socket_dir, port, log_path })
    }

    async fn wait_until_ready(&mut self, deadline: Instant) -> Result<Startup> {
        loop {
            if let Ok(client) = self.connect("postgres").await {
                client.simple_query("select 1").await?;
                return Ok(Startup::Ready);
            }
            if self.guard.has_exited()? {
                return Ok(Startup::Exited { log: fs::read_to_string(&self.log_path)? });
            }
            if Instant::now() > deadline {
                let (seconds, log) = (START_TIMEOUT.as_secs(), fs::read_to_string(&self.log_path)?);
                bail!("Postgres did not start within {seconds} s; it logged:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
