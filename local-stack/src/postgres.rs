//! A real Postgres under our supervision, found or fetched, reachable by a Unix socket alone.
//!
//! It never outlives us. A shell stands guard over it, holding the other end of a pipe from us:
//! when the pipe closes, because we want that or because we are dead, it stops Postgres.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rest_api::config::{Database, Login, Secret, Tls};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::binaries::{self, Binaries};

/// How long a start may take; a predecessor that is still shutting down is waited for.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The account that Postgres runs under when we are root, which it refuses: "nobody".
pub(crate) const NOBODY: u32 = 65534;

/// The superuser of every cluster of ours.
pub const USER: &str = "movies_r_us";

/// The guard: starts Postgres, waits for the pipe to close, removes what is named in `$REMOVE`.
/// It asks more than once: a shell's background job ignores SIGINT until Postgres handles it.
const GUARD: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
postgres=$!
{ cat <&3 >/dev/null; while kill -INT $postgres 2>/dev/null; do sleep 0.2; done; } &
watcher=$!
exec 3<&-
wait $postgres
status=$?
kill $watcher 2>/dev/null
[ -z "$REMOVE" ] || printf '%s\n' "$REMOVE" | while IFS= read -r folder; do rm -rf "$folder"; done
exit $status
"#;

/// A running Postgres.
#[derive(Debug)]
pub struct Postgres {
    guard: Child,
    socket_dir: PathBuf,
    port: u16,
    log: PathBuf,
}

/// What a cluster is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Its data stays, and survives a crash of the machine.
    Keep,
    /// Its data is deleted when it stops; nothing is flushed to disk.
    Test,
}

impl Postgres {
    /// Starts the cluster in `folder`, which is made on first use.
    ///
    /// # Errors
    /// If no Postgres can be found or fetched, or it does not start.
    pub async fn start(folder: &Path, purpose: Purpose) -> Result<Self> {
        Self::start_with(folder, purpose, 5432, &[]).await
    }

    /// Starts the cluster in `folder` with further `settings` (`name=value`), its socket named
    /// after `port`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        folder: &Path,
        purpose: Purpose,
        port: u16,
        settings: &[String],
    ) -> Result<Self> {
        let binaries = tokio::task::spawn_blocking(binaries::find).await??;
        let folder = std::path::absolute(folder)?;
        let folder = place_for(&folder)?;
        if !folder.exists() {
            initialise(&binaries, &folder, purpose)?;
        }
        check_version(&binaries, &folder)?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let mut postgres = Self::spawn(&binaries, &folder, purpose, port, settings)?;
            match postgres.wait_until_ready(deadline).await? {
                Started::Ready => return Ok(postgres),
                Started::Ended(log) if log.contains("lock file") && Instant::now() < deadline => {
                    // Our predecessor was killed, and its Postgres is still shutting down.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Started::Ended(log) => bail!("Postgres in {} ended:\n{log}", folder.display()),
            }
        }
    }

    /// How to connect to the database `name` of this cluster.
    pub fn database(&self, name: &str) -> Database {
        Database {
            host: self.socket_dir.display().to_string(),
            port: self.port,
            login: Login::Fixed {
                user: USER.to_owned(),
                password: Secret::new("the socket's folder is private"),
            },
            name: name.to_owned(),
            read_host: None,
            tls: Tls::Disable,
        }
    }

    /// The folder of the socket: `psql -h FOLDER -U movies_r_us`.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Creates the database `name` unless it exists.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let client = self.connect("postgres").await?;
        let exists = "select from pg_database where datname = $1";
        if client.query_opt(exists, &[&name]).await?.is_none() {
            client.batch_execute(&format!("create database \"{name}\"")).await?;
        }
        Ok(())
    }

    /// A connection of one's own, for looking behind the service.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket_dir).port(self.port).user(USER).dbname(database);
        config.connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Waits for its end, which should not come by itself.
    pub async fn ended(&mut self) {
        while matches!(self.guard.try_wait(), Ok(None)) {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops it, and waits until it has ended.
    pub async fn stop(mut self) {
        drop(self.guard.stdin.take());
        let ended = tokio::task::spawn_blocking(move || self.guard.wait());
        let _ = ended.await;
    }

    fn spawn(
        binaries: &Binaries,
        folder: &Path,
        purpose: Purpose,
        port: u16,
        further: &[String],
    ) -> Result<Self> {
        let socket_dir = std::env::temp_dir().join(format!("mru-{}", Uuid::new_v4().simple()));
        private_folder(&socket_dir)?;
        let log_path = folder.with_extension("log");
        let log = File::create(&log_path)?;
        if is_root() {
            // The guard, which removes it after a test, is not root.
            chown(&log_path, Some(NOBODY), Some(NOBODY))?;
        }
        let mut remove = socket_dir.display().to_string();
        let mut settings = vec![
            "listen_addresses=".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", socket_dir.display()),
            "max_connections=400".to_owned(),
            "shared_buffers=256MB".to_owned(),
            "max_wal_size=4GB".to_owned(),
        ];
        if purpose == Purpose::Test {
            remove = format!("{remove}\n{}\n{}", folder.display(), log_path.display());
            let unsafe_but_fast = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"];
            settings.extend(unsafe_but_fast.map(str::to_owned));
        }
        settings.extend_from_slice(further);
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "postgres-guard"]).arg(binaries.program("postgres"));
        guard.arg("-D").arg(folder).args(settings.iter().flat_map(|setting| ["-c", setting]));
        guard.env("REMOVE", remove).current_dir("/");
        guard.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C goes to our whole group; Postgres shall stop after us, not with us.
        guard.process_group(0);
        as_postgres_user(&mut guard);
        let guard = guard.spawn().context("cannot start /bin/sh")?;
        Ok(Self { guard, socket_dir, port, log: log_path })
    }

    async fn wait_until_ready(&mut self, deadline: Instant) -> Result<Started> {
        loop {
            if let Ok(client) = self.connect("postgres").await {
                client.simple_query("select 1").await?;
                return Ok(Started::Ready);
            }
            if self.guard.try_wait()?.is_some() {
                return Ok(Started::Ended(fs::read_to_string(&self.log)?));
            }
            if Instant::now() > deadline {
                bail!("Postgres did not start within {} s", START_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

enum Started {
    Ready,
    /// With what it logged.
    Ended(String),
}

/// Where the cluster goes: `folder`, or, when we are root and `nobody` cannot get there, a folder
/// of the system's that a file beside `folder` names.
fn place_for(folder: &Path) -> Result<PathBuf> {
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent)?;
    let reachable = parent
        .ancestors()
        .all(|ancestor| fs::metadata(ancestor).is_ok_and(|metadata| metadata.mode() & 0o001 != 0));
    if !is_root() || reachable {
        return Ok(folder.to_owned());
    }
    let marker = folder.with_extension("is-elsewhere");
    if let Ok(elsewhere) = fs::read_to_string(&marker) {
        return Ok(PathBuf::from(elsewhere));
    }
    let root = Path::new("/var/lib/movies-r-us");
    fs::create_dir_all(root)?;
    let elsewhere = root.join(Uuid::new_v4().simple().to_string());
    fs::write(marker, elsewhere.as_os_str().as_encoded_bytes())?;
    Ok(elsewhere)
}

fn initialise(binaries: &Binaries, folder: &Path, purpose: Purpose) -> Result<()> {
    // Made beside, and moved when it is whole: an interrupted start leaves nothing in the way, even
    // if its initdb is still at work.
    let unfinished = folder.with_extension(format!("unfinished-{}", Uuid::new_v4().simple()));
    private_folder(&unfinished)?;
    let mut initdb = Command::new(binaries.program("initdb"));
    initdb.arg("-D").arg(&unfinished).args(["-U", USER, "-A", "trust", "-E", "UTF8"]);
    // The locale decides what counts as a letter in searches.
    initdb.arg(if cfg!(target_os = "macos") { "--locale=en_US.UTF-8" } else { "--locale=C.UTF-8" });
    if purpose == Purpose::Test {
        initdb.arg("--no-sync");
    }
    initdb.current_dir("/").stdin(Stdio::null());
    as_postgres_user(&mut initdb);
    let output = initdb.output().context("cannot run initdb")?;
    if !output.status.success() {
        bail!("initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(fs::rename(unfinished, folder)?)
}

/// Data of another major version cannot be read.
fn check_version(binaries: &Binaries, folder: &Path) -> Result<()> {
    let of_data = fs::read_to_string(folder.join("PG_VERSION"))?;
    let of_data = of_data.trim();
    let of_program = binaries.major_version()?;
    if of_data != of_program {
        bail!(
            "the data in {} is of Postgres {of_data}, and the one found is {of_program} ({}).\n\
             Set PG_BIN_DIR to the programs of Postgres {of_data}, or start afresh with another \
             --data-dir.",
            folder.display(),
            binaries.folder().display(),
        );
    }
    Ok(())
}

fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    // Whatever the umask says.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    if is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}

/// Gives a file to the account that Postgres runs under, for it alone.
///
/// # Errors
/// If the file system refuses.
pub fn give(file: &Path) -> io::Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    if is_root() { chown(file, Some(NOBODY), Some(NOBODY)) } else { Ok(()) }
}

fn as_postgres_user(command: &mut Command) {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
