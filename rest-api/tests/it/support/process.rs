//! The program `rest-api` as a process of its own.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::Read,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{Service, TOKEN, postgres::SERVICE_USER};

/// Environment variables.
pub(crate) type Environment = BTreeMap<&'static str, String>;

/// Returns the program with a subcommand, without any environment or standard input.
pub(crate) fn program(subcommand: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_rest-api"));
    program.arg(subcommand).env_clear().stdin(Stdio::null());
    program
}

/// Returns the environment for a program on the database and the bucket of `service`.
pub(crate) fn environment(service: &Service) -> Environment {
    BTreeMap::from([
        ("AWS_REGION", "eu-west-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", local_stack::s3::ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", local_stack::s3::SECRET_KEY.to_owned()),
        ("AWS_ENDPOINT_URL_S3", format!("http://{}", service.s3_address)),
        ("MRU_DB_HOST", service.database.host.clone()),
        ("MRU_DB_USER", SERVICE_USER.to_owned()),
        ("MRU_DB_PASS", "any".to_owned()),
        ("MRU_DB_NAME", service.database.name.clone()),
        ("MRU_DB_TLS", "disable".to_owned()),
        ("MRU_API_TOKEN", TOKEN.to_owned()),
        ("MRU_LISTEN", "127.0.0.1:0".to_owned()),
        ("MRU_LOG", "warn".to_owned()),
    ])
}

/// `rest-api serve` as a process. Dropping it kills the process.
pub(crate) struct Process(Child);

impl Process {
    /// Serves the database and the bucket of `service`, on a port that the test does not know.
    /// `adjust` changes the environment.
    pub(crate) fn serve(service: &Service, adjust: impl FnOnce(&mut Environment)) -> Self {
        let mut environment = environment(service);
        adjust(&mut environment);
        Self(program("serve").envs(environment).spawn().unwrap())
    }

    /// Serves as [`Self::serve`], with the database and the bucket behind these proxies.
    pub(crate) fn serve_behind(
        service: &Service,
        database: SocketAddr,
        bucket: SocketAddr,
    ) -> Self {
        Self::serve(service, |environment| {
            environment.insert("MRU_DB_HOST", database.ip().to_string());
            environment.insert("MRU_DB_PORT", database.port().to_string());
            environment.insert("AWS_ENDPOINT_URL_S3", format!("http://{bucket}"));
            environment.insert("MRU_WORKERS", "1".to_owned());
        })
    }

    /// Serves as [`Self::serve`], and keeps the log for [`Self::terminate`].
    pub(crate) fn serve_logging(service: &Service, adjust: impl FnOnce(&mut Environment)) -> Self {
        let mut environment = environment(service);
        environment.insert("MRU_LOG", "info".to_owned());
        environment.insert("MRU_LOG_FORMAT", "json".to_owned());
        adjust(&mut environment);
        Self(program("serve").envs(environment).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Serves as [`Self::serve_logging`] with a limit of file descriptors, such as `-S -n 100`: options
    /// of the shell's `ulimit`.
    pub(crate) fn serve_with_descriptors(
        service: &Service,
        limit: &str,
        adjust: impl FnOnce(&mut Environment),
    ) -> Self {
        let mut environment = environment(service);
        environment.insert("MRU_LOG_FORMAT", "json".to_owned());
        adjust(&mut environment);
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" serve")]);
        shell.arg(env!("CARGO_BIN_EXE_rest-api")).env_clear().envs(environment);
        Self(shell.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends SIGKILL, and waits for the end of the process.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Sends SIGTERM, and waits for the end of the process. Returns its log, one value a line.
    pub(crate) async fn terminate(mut self) -> Vec<Value> {
        // The bucket is served by the thread of the test, which therefore must not block.
        let wait = tokio::task::spawn_blocking(move || {
            let id = self.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
            let mut log = String::new();
            self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            self.0.wait().unwrap();
            log
        });
        let log = wait.await.unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The result of a program that has ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Output {
    /// Runs a program to its end, on another thread.
    pub(crate) async fn of(mut program: Command, arguments: &[impl AsRef<OsStr>]) -> Self {
        program.args(arguments);
        let output = tokio::task::spawn_blocking(move || program.output().unwrap());
        Self::from(output.await.unwrap())
    }

    /// Returns the lines of standard output as JSON.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Returns the peak of the resident set of a process (`VmHWM`, `man 5 proc_pid_status`).
#[cfg(target_os = "linux")]
pub(crate) fn peak_resident_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
