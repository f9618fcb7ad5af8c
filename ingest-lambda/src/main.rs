//! The Lambda's bootstrap, for the runtime `provided.al2023`.

use ingest_lambda::Config;
use lambda_runtime::Error;
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // JSON lines, as CloudWatch Logs reads them; the service stamps the time.
    let filter = EnvFilter::try_from_env("MRU_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().without_time().with_env_filter(filter).init();
    ingest_lambda::run(Config::from_lookup(|name| std::env::var(name).ok())?).await
}
