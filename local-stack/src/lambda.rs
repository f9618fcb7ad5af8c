//! The Lambda Runtime API, and the asynchronous invocations behind it.
//!
//! Source: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>. The function itself
//! runs as a process of its own, under the real runtime. An invocation that fails is tried twice
//! more, as AWS does it, with shorter pauses; then its event goes to the dead letters.

#![expect(
    clippy::disallowed_methods,
    reason = "warp's shortcuts do here: only our own function calls, over loopback"
)]

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{error, warn};

use crate::s3::REGION;
use uuid::Uuid;
use warp::{
    Filter, Reply,
    filters::BoxedFilter,
    http::{Response, StatusCode},
    path,
};

/// How long one invocation may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// AWS waits one minute, then two.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// The command that makes the program be the function: see [`Function`].
pub const FUNCTION_COMMAND: &str = "lambda";

/// Is the function, for as long as there are invocations: what a program does whose one argument is
/// [`FUNCTION_COMMAND`].
///
/// # Errors
/// If its environment is not that of the function.
pub async fn be_the_function() -> Result<()> {
    let config = ingest_lambda::Config::from_lookup(|name| std::env::var(name).ok())?;
    ingest_lambda::run(config).await.map_err(|error| anyhow::anyhow!(error))
}

/// How to start the function.
#[derive(Clone, Debug)]
pub struct Function {
    /// A program that serves as the function when its one argument is [`FUNCTION_COMMAND`].
    pub program: PathBuf,
    /// The URL of the API's `/notify`.
    pub api_url: String,
    /// The API's token.
    pub api_token: String,
}

/// An event that could not be handled.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// When its last attempt failed.
    pub failed_at: DateTime<Utc>,
    /// How that failed.
    pub error: String,
    /// The event.
    pub event: Value,
}

/// How an invocation ended: with a message if it failed.
type Ended = Result<(), String>;

/// What the Runtime API and the invocations share.
#[derive(Clone)]
struct Runtime {
    queue: mpsc::UnboundedSender<Invocation>,
    /// Where the function gets its next invocation from.
    next: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>>,
    /// Invocations that the function works on, by id.
    running: Arc<Mutex<HashMap<String, oneshot::Sender<Ended>>>>,
    dead_letters: Arc<Mutex<Vec<DeadLetter>>>,
}

struct Invocation {
    id: String,
    event: Value,
    done: oneshot::Sender<Ended>,
}

/// Runs `function` for every event that comes, with its Runtime API on `listener`. Ends when the
/// events do.
///
/// The dead letters are at `GET /dead-letters` of the same listener.
///
/// # Errors
/// If the function cannot be started.
pub async fn run(
    listener: TcpListener,
    function: Function,
    mut events: mpsc::UnboundedReceiver<Value>,
) -> Result<()> {
    let (queue, next) = mpsc::unbounded_channel();
    let runtime = Runtime {
        queue,
        next: Arc::new(tokio::sync::Mutex::new(next)),
        running: Arc::default(),
        dead_letters: Arc::default(),
    };
    let address = listener.local_addr()?;
    let serving = warp::serve(runtime.routes()).incoming(listener).run();
    let mut process = function.spawn(&address.to_string())?;
    let supervise = async {
        loop {
            let ended = process.wait().await;
            warn!(?ended, "the function ended and is started again");
            runtime.fail_running("the function ended");
            sleep(Duration::from_secs(1)).await;
            process = function.spawn(&address.to_string())?;
        }
    };
    let dispatch = async {
        while let Some(event) = events.recv().await {
            tokio::spawn(runtime.clone().invoke(event));
        }
    };
    tokio::select! {
        () = serving => Ok(()),
        failed = supervise => failed,
        () = dispatch => Ok(()),
    }
}

impl Function {
    fn spawn(&self, runtime_api: &str) -> Result<Child> {
        let variables = [
            ("AWS_REGION", REGION),
            ("AWS_LAMBDA_RUNTIME_API", runtime_api),
            ("AWS_LAMBDA_FUNCTION_NAME", "ingest-lambda"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/ingest-lambda"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "local"),
            // A proxy of the environment has no business between the two.
            ("NO_PROXY", "*"),
            ("MRU_API_URL", &self.api_url),
            ("MRU_API_TOKEN", &self.api_token),
        ];
        Command::new(&self.program)
            .arg(FUNCTION_COMMAND)
            .envs(variables)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            // Ctrl-C is for us, who then end the function.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }
}

impl Runtime {
    /// Invokes the function until it succeeds, or has failed once too often.
    async fn invoke(self, event: Value) {
        let mut pauses = RETRY_AFTER.iter();
        loop {
            let (done, result) = oneshot::channel();
            let id = Uuid::new_v4().to_string();
            if self.queue.send(Invocation { id, event: event.clone(), done }).is_err() {
                return;
            }
            let error = match result.await {
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(error)) => error,
            };
            let Some(pause) = pauses.next() else {
                error!(error, "the function failed for good: see the dead letters");
                let letter = DeadLetter { failed_at: Utc::now(), error, event };
                return locked(&self.dead_letters).push(letter);
            };
            warn!(error, retry_in_s = pause.as_secs(), "the function failed, will try again");
            sleep(*pause).await;
        }
    }

    fn end(&self, id: &str, result: Ended) {
        if let Some(done) = locked(&self.running).remove(id) {
            // The other side is gone only while all of it is stopping.
            let _ = done.send(result);
        }
    }

    fn fail_running(&self, error: &str) {
        for (_, done) in locked(&self.running).drain() {
            let _ = done.send(Err(error.to_owned()));
        }
    }

    fn routes(&self) -> BoxedFilter<(warp::reply::Response,)> {
        let runtime = self.clone();
        let runtime = warp::any().map(move || runtime.clone()).boxed();
        let accepted = || StatusCode::ACCEPTED.into_response();
        let invocation = path("2018-06-01").and(path("runtime")).and(path("invocation")).boxed();
        let next = invocation.clone().and(path!("next")).and(warp::get()).and(runtime.clone());
        let next = next.then(|runtime: Self| async move { runtime.next().await });
        let response = invocation.clone().and(path!(String / "response")).and(warp::post());
        let response = response.and(runtime.clone()).map(move |id: String, runtime: Self| {
            runtime.end(&id, Ok(()));
            accepted()
        });
        let error = invocation.and(path!(String / "error")).and(warp::post()).and(runtime.clone());
        let error =
            error.and(warp::body::json()).map(move |id: String, runtime: Self, error: Value| {
                let message = error["errorMessage"].as_str().unwrap_or("no message");
                runtime.end(&id, Err(message.to_owned()));
                accepted()
            });
        let init_error = path!("2018-06-01" / "runtime" / "init" / "error").and(warp::post());
        let init_error = init_error.and(warp::body::json()).map(move |error: Value| {
            error!(%error, "the function cannot start");
            accepted()
        });
        let dead_letters = path!("dead-letters").and(warp::get()).and(runtime);
        let dead_letters = dead_letters.map(|runtime: Self| {
            warp::reply::json(&*locked(&runtime.dead_letters)).into_response()
        });
        next.or(response)
            .unify()
            .or(error)
            .unify()
            .or(init_error)
            .unify()
            .or(dead_letters)
            .unify()
            .boxed()
    }

    /// Hands the next invocation to the function, which waits here for it.
    async fn next(self) -> warp::reply::Response {
        let invocation = self.next.lock().await.recv().await;
        let Some(Invocation { id, event, done }) = invocation else {
            return StatusCode::GONE.into_response();
        };
        locked(&self.running).insert(id.clone(), done);
        let deadline = Utc::now() + TIMEOUT;
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", &id)
            .header("lambda-runtime-deadline-ms", deadline.timestamp_millis())
            .header(
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:eu-west-1:000000000000:function:ingest-lambda",
            )
            .body(event.to_string().into());
        let runtime = self.clone();
        tokio::spawn(async move {
            sleep(TIMEOUT).await;
            runtime.end(&id, Err(format!("no answer within {} s", TIMEOUT.as_secs())));
        });
        response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
