//! The Lambda function as a process: this program, started a second time, runs the real function
//! under the real Lambda runtime.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

use crate::local_aws::REGION;

/// The one argument with which a [`Function::program`] runs the function.
pub const FUNCTION_COMMAND: &str = "lambda";

/// Runs the function, configured by the environment. Programs do this for [`FUNCTION_COMMAND`].
///
/// # Errors
/// If the environment lacks a variable, or the runtime fails.
pub async fn run_function() -> Result<()> {
    let config = ingest_lambda::Config::from_lookup(|name| std::env::var(name).ok())?;
    ingest_lambda::run(config).await.map_err(|error| anyhow::anyhow!(error))
}

/// How to start the function.
#[derive(Clone, Debug)]
pub struct Function {
    /// A program that calls [`run_function`] when its one argument is [`FUNCTION_COMMAND`].
    pub program: PathBuf,
    /// The URL of the API's `/notify`.
    pub api_url: String,
    /// The API's token.
    pub api_token: String,
}

impl Function {
    /// Starts the function, which gets its invocations from the Runtime API at the URL
    /// `runtime_api`. Dropping the process kills it.
    pub(crate) fn spawn(&self, runtime_api: &str) -> Result<Child> {
        let variables = [
            ("AWS_REGION", REGION),
            ("AWS_LAMBDA_RUNTIME_API", runtime_api),
            ("AWS_LAMBDA_FUNCTION_NAME", "ingest-lambda"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/ingest-lambda"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "local"),
            // The function must reach the API directly, even if the environment sets a proxy.
            ("NO_PROXY", "*"),
            ("MRU_API_URL", &self.api_url),
            ("MRU_API_TOKEN", &self.api_token),
        ];
        Command::new(&self.program)
            .arg(FUNCTION_COMMAND)
            .envs(variables)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            // Ctrl-C reaches the whole process group of this process, which stops the function
            // itself.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }
}
