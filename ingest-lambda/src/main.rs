//! The function's bootstrap program, for the Lambda runtime `provided.al2023`.

use aws::environment;
use ingest_lambda::Config;
use lambda_runtime::Error;
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let checked =
        environment::check("ingest-lambda", &Config::variables(), environment::variables());
    checked.map_err(|error| error.to_string())?;
    let config = Config::from_lookup(|name| std::env::var(name).ok())?;
    let filter = EnvFilter::try_new(&config.log_filter)?;
    // CloudWatch Logs parses JSON lines, and adds the time.
    tracing_subscriber::fmt().json().without_time().with_env_filter(filter).init();
    ingest_lambda::run(config).await
}
