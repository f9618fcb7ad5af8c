//! The guard: a shell that stops Postgres when this process stops or dies.
//!
//! The shell reads from a pipe whose other end this process holds. The kernel closes that end when
//! the process dies, however it dies, so Postgres never outlives it.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use super::account::run_as_postgres;

/// Starts its arguments as Postgres, waits for the pipe to close or for Postgres to exit, and
/// removes the paths in `$REMOVE`, one a line.
///
/// It sends SIGINT repeatedly: a background job of a shell ignores SIGINT until Postgres has
/// installed its handler.
const SCRIPT: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
postgres=$!
{ cat <&3 >/dev/null; while kill -INT $postgres 2>/dev/null; do sleep 0.2; done; } &
watcher=$!
exec 3<&-
wait $postgres
status=$?
kill $watcher 2>/dev/null
[ -z "$REMOVE" ] || printf '%s\n' "$REMOVE" | while IFS= read -r path; do rm -rf "$path"; done
exit $status
"#;

/// A running guard and its Postgres. Dropping it stops Postgres without waiting.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    /// Starts `postgres` under a guard. Both write to `log`. The guard removes the paths in `remove`
    /// after Postgres has exited.
    pub(super) fn start(postgres: &Command, log: File, remove: &[&Path]) -> Result<Self> {
        let remove: Vec<String> = remove.iter().map(|path| path.display().to_string()).collect();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "postgres-guard"]);
        shell.arg(postgres.get_program()).args(postgres.get_args());
        shell.env("REMOVE", remove.join("\n")).current_dir("/");
        shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C reaches the whole process group of this process. Postgres must stop after the
        // service, not with it.
        shell.process_group(0);
        run_as_postgres(&mut shell);
        Ok(Self(shell.spawn().context("cannot start /bin/sh")?))
    }

    pub(super) fn has_exited(&mut self) -> io::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Waits until Postgres and the guard have exited.
    pub(super) async fn wait_for_exit(&mut self) {
        while matches!(self.has_exited(), Ok(false)) {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops Postgres, and waits until it and the guard have exited.
    pub(super) async fn stop(mut self) {
        drop(self.0.stdin.take());
        let exited = tokio::task::spawn_blocking(move || self.0.wait());
        let _ = exited.await;
    }
}
