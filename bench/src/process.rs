//! The service, and other programs of the benchmarks, as processes of their own: so that their memory can be
//! measured, and the processor time of the benchmark is not theirs.

use std::{
    env, fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use local_stack::{
    postgres::{Postgres, USER},
    s3::{ACCESS_KEY, SECRET_KEY},
};
use tokio::{net::TcpListener, net::TcpStream, time::sleep};

/// The hidden command that runs the service alone.
pub(crate) const SERVICE_COMMAND: &str = "service";

/// The API token of the service.
pub(crate) const TOKEN: &str = "a-token-for-the-benchmark";

/// A process, which is killed at the end.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the service as its environment says, until it is killed.
pub(crate) async fn run_service() -> Result<()> {
    let config = rest_api::config::Config::from_lookup(|name| env::var(name).ok())?;
    let listener = TcpListener::bind(config.listen).await?;
    rest_api::telemetry::init(&config.log_filter, config.log_format)
        .map_err(|error| anyhow::anyhow!(error))?;
    let aws = rest_api::Aws::from_env().await;
    Ok(rest_api::run(config, aws, listener, std::future::pending()).await?)
}

/// Starts the service in this program on the database `name`, which exists and has its schema, and on the objects of
/// the endpoint `s3`. `variables` are added to those that it needs. Its log goes to `log`.
///
/// # Errors
/// If it does not become ready.
pub(crate) async fn start_service(
    postgres: &Postgres,
    name: &str,
    s3: &str,
    variables: &[(&str, &str)],
    log: Stdio,
) -> Result<Process> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(SERVICE_COMMAND);
    start_program(command, postgres, name, s3, variables, log).await
}

/// Starts the service as [`start_service`] does, by another command.
///
/// # Errors
/// If it does not become ready.
pub(crate) async fn start_program(
    mut command: Command,
    postgres: &Postgres,
    name: &str,
    s3: &str,
    variables: &[(&str, &str)],
    log: Stdio,
) -> Result<Process> {
    let database = postgres.database(name);
    let address = free_address().await?;
    command
        .env_clear()
        .env("MRU_LISTEN", address.to_string())
        .env("MRU_DB_HOST", database.host)
        .env("MRU_DB_PORT", database.port.to_string())
        .env("MRU_DB_NAME", database.name)
        .env("MRU_DB_USER", USER)
        .env("MRU_DB_PASS", "unused")
        .env("MRU_DB_TLS", "disable")
        .env("MRU_API_TOKEN", TOKEN)
        .env("MRU_PUBLIC_LEDGER", "true")
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_ENDPOINT_URL_S3", s3)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stderr(log);
    let child = command.spawn().context("cannot start the service")?;
    let service = Process { child, address };
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ready = format!("http://{address}/readyz");
    for _ in 0..200 {
        if http.get(&ready).send().await.is_ok_and(|response| response.status().is_success()) {
            return Ok(service);
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("the service did not become ready")
}

/// Starts this program with a hidden command and the address to listen at as its argument. Its standard input is
/// the file `input`.
///
/// # Errors
/// If it does not accept connections.
pub(crate) async fn start_helper(command: &str, input: fs::File) -> Result<Process> {
    let address = free_address().await?;
    let mut program = Command::new(env::current_exe()?);
    let program = program.args([command, &address.to_string()]).stdin(input);
    let helper = Process { child: program.spawn()?, address };
    for _ in 0..200 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(helper);
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("{command} did not start")
}

impl Process {
    /// Returns the URL of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the resident memory, in MB: now, and at its peak (`VmRSS` and `VmHWM` of proc_pid_status(5)).
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub(crate) fn memory_mb(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            kilobytes.map(|kilobytes: u64| kilobytes / 1024).context("no figure of memory")
        };
        Ok((figure("VmRSS:")?, figure("VmHWM:")?))
    }
}

/// Returns an address of this machine that nothing listens at.
async fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
