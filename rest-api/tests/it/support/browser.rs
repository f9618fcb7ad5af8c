//! A real browser that uses the page (`page/browser.mjs`).
//!
//! It is an installed Chromium or Chrome, or what `MRU_TEST_BROWSER` names. Where there is none, the tests say so and do
//! nothing, unless `CI` is set.

use std::{env, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::ChildStdin,
    time::timeout,
};

use super::node::node;

const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// How long a browser may take for one flow, on a slow machine.
const FLOW_TIMEOUT: Duration = Duration::from_secs(400);

/// Returns the path of a browser. None if there is none, which must not happen in CI.
fn browser() -> Option<String> {
    let named = env::var("MRU_TEST_BROWSER").ok();
    let directories = env::var_os("PATH").unwrap_or_default();
    let paths = BROWSERS.iter().flat_map(|name| {
        env::split_paths(&directories).map(|directory| directory.join(name)).collect::<Vec<_>>()
    });
    let installed =
        || paths.into_iter().find(|path| path.is_file()).map(|path| path.display().to_string());
    let found = named.or_else(installed);
    if found.is_none() {
        assert!(env::var_os("CI").is_none(), "CI needs one of the browsers {BROWSERS:?}");
        eprintln!("SKIPPED: THE PAGE IS NOT TESTED, because none of {BROWSERS:?} is installed");
    }
    found
}

/// Lets a browser do `flow` at `address`, if there is one. `on_step` does what the flow asks for.
pub(crate) async fn run(
    flow: &str,
    address: &str,
    argument: &str,
    mut on_step: impl AsyncFnMut(&str),
) {
    let Some(browser) = browser() else { return };
    // Another crate of the workspace may use this file.
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rest-api/tests/it/page");
    let mut command = node(&directory, "browser.mjs").await;
    command.args([flow, address, &browser, argument]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input: ChildStdin = child.stdin.take().unwrap();
    let mut steps = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut errors = child.stderr.take().unwrap();
    let mut text = String::new();
    let flowing = async {
        let stepping = async {
            while let Some(step) = steps.next_line().await.unwrap() {
                on_step(&step).await;
                input.write_all(b"\n").await.unwrap();
            }
        };
        let (_, read) = tokio::join!(stepping, errors.read_to_string(&mut text));
        read.unwrap();
        child.wait().await.unwrap()
    };
    let status = timeout(FLOW_TIMEOUT, flowing).await;
    assert!(status.is_ok_and(|status| status.success()), "{flow}: {text}");
}
