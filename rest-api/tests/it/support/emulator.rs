//! An emulator of AWS: Secrets Manager, SNS, SQS and S3 with versions. Fetched from PyPI once.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use aws_config::SdkConfig;
use tokio::sync::OnceCell;

use super::{eventually, free_address, python};

/// Runs the emulator until standard input closes, which it does when the test program ends.
const GUARD: &str = r#""$@" </dev/null & emulator=$!; cat >/dev/null; kill $emulator"#;

struct Emulator {
    address: SocketAddr,
    _guard: Child,
}

/// One emulator for the whole run.
static EMULATOR: OnceCell<Emulator> = OnceCell::const_new();

/// Returns the configuration of clients for the emulator.
pub(crate) async fn sdk() -> SdkConfig {
    local_stack::sdk(address().await)
}

pub(crate) async fn address() -> SocketAddr {
    EMULATOR.get_or_init(start).await.address
}

async fn start() -> Emulator {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let packages = python::packages("ministack").await;
    let address = free_address();
    let guard = Command::new("/bin/sh")
        .args(["-c", GUARD, "emulator", "python3", "-m", "ministack"])
        .env("PYTHONPATH", packages)
        .envs([("BIND_HOST", "127.0.0.1"), ("LOG_LEVEL", "WARNING")])
        .env("GATEWAY_PORT", address.port().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let health = format!("http://{address}/_localstack/health");
    eventually(async || reqwest::get(&health).await.is_ok_and(|r| r.status().is_success())).await;
    Emulator { address, _guard: guard }
}
