//! The Lambda Runtime API, and asynchronous invocations.
//!
//! Source: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>. A failed invocation is
//! retried twice, as on AWS, with shorter delays. Then its event becomes a dead letter, which can be
//! shown and redriven.
//!
//! An event is acknowledged when its invocation has succeeded, or when it can never be delivered. A dead letter
//! is kept in memory, and its event in the outbox of the store: a restart sends it again.

#![expect(
    clippy::disallowed_methods,
    reason = "only the function and the user send requests, over loopback"
)]

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, anyhow};
use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use ingest_lambda::PERMANENT_FAULT;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
    time::sleep,
};
use tracing::{error, info, warn};
use uuid::Uuid;
use warp::{
    Filter, Reply,
    filters::BoxedFilter,
    http::{Response, StatusCode},
    path,
};

use crate::{
    function::Function,
    local_aws::{ACCOUNT_ID, REGION},
    loopback::{HostCheck, SecretPath},
    s3::{Event, Events},
};

/// How long one invocation may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How many events are processed at once: an instance of the function processes one after another, and AWS
/// starts more of them as events arrive.
const INSTANCES: usize = 4;

/// How many events are in flight at most. The others wait in the outbox of the store.
const MAX_EVENTS: usize = 1000;

/// How many dead letters are kept in memory. The events of the others are sent again by the next start.
const MAX_DEAD_LETTERS: usize = 1000;

/// The delays before the second and the third attempt. AWS waits one minute, then two.
///
/// Source: <https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html>
const RETRY_DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// An event whose last attempt failed.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// When the last attempt failed.
    pub failed_at: DateTime<Utc>,
    /// The error of the last attempt.
    pub error: String,
    /// Whether the function reported that the event can never be delivered.
    pub permanent: bool,
    /// The number of attempts since the event was sent or last redriven.
    pub attempts: u32,
    /// The event.
    pub event: Value,
}

/// A dead letter, and its event in the outbox.
struct Kept {
    letter: DeadLetter,
    event: Event,
}

/// The result of an invocation.
type Outcome = Result<(), Failure>;

/// A failed invocation.
struct Failure {
    /// The error message of the function.
    error: String,
    /// Whether the function reported that the event can never be delivered.
    permanent: bool,
}

impl Failure {
    /// Another attempt may succeed.
    fn transient(error: impl Into<String>) -> Self {
        Self { error: error.into(), permanent: false }
    }
}

/// The state that the Runtime API and the invocations share.
#[derive(Clone)]
struct Runtime {
    queue: mpsc::UnboundedSender<Invocation>,
    /// The other end of `queue`.
    queued: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>>,
    /// The invocations that an instance of the function has received and not finished, by id.
    running: Arc<Mutex<HashMap<String, Running>>>,
    /// The oldest is the first.
    dead_letters: Arc<Mutex<VecDeque<Kept>>>,
}

/// A running invocation.
struct Running {
    /// The number of the instance of the function.
    instance: usize,
    outcome: oneshot::Sender<Outcome>,
}

struct Invocation {
    id: String,
    event: Value,
    outcome: oneshot::Sender<Outcome>,
}

/// Starts [`INSTANCES`] of `function`, restarts those that exit, and invokes one for each of `events` of
/// `bucket`. The events of other buckets are acknowledged. Serves their Runtime APIs on `listener` below
/// `path`.
///
/// The same listener serves the dead letters below `path`, at `GET /dead-letters`.
/// `POST /dead-letters/redrive` invokes the function again for all of them, and responds with their
/// number. An event that can never be delivered becomes a dead letter again; the others do not wait
/// for it.
///
/// # Errors
/// If the function cannot be started, or the events cannot be read.
pub async fn run(
    listener: TcpListener,
    path: SecretPath,
    function: Function,
    bucket: String,
    mut events: Events,
) -> Result<()> {
    let (queue, queued) = mpsc::unbounded_channel();
    let runtime = Runtime {
        queue,
        queued: Arc::new(tokio::sync::Mutex::new(queued)),
        running: Arc::default(),
        dead_letters: Arc::default(),
    };
    let address = listener.local_addr()?;
    let routes = HostCheck::new(address).before(path.before(runtime.routes()));
    let serve = warp::serve(routes).incoming(listener).run();
    let runtime_api = format!("http://{address}/{path}");
    let supervise = try_join_all((0..INSTANCES).map(async |instance| {
        let runtime_api = format!("{runtime_api}/{instance}");
        let mut process = function.spawn(&runtime_api)?;
        loop {
            let status = process.wait().await;
            warn!(?status, "function exited, restarting");
            runtime.fail_running(instance, "the function exited");
            sleep(Duration::from_secs(1)).await;
            process = function.spawn(&runtime_api)?;
        }
    }));
    let dispatch = async {
        let places = Arc::new(Semaphore::new(MAX_EVENTS));
        loop {
            let event = events.next().await;
            let event = event.map_err(|error| anyhow!("cannot read the S3 store: {error}"))?;
            let place = Arc::clone(&places).acquire_owned().await?;
            let (runtime, is_ours) = (runtime.clone(), event.bucket() == bucket);
            tokio::spawn(async move {
                if is_ours {
                    runtime.invoke(event).await;
                } else {
                    event.acknowledge().await;
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = serve => Ok(()),
        failed = supervise => failed.map(|_: Vec<()>| ()),
        failed = dispatch => failed,
    }
}

impl Runtime {
    /// Invokes the function until an attempt succeeds or the last one has failed. Returns early if the stack is
    /// stopping.
    async fn invoke(self, event: Event) {
        let mut delays = RETRY_DELAYS.iter();
        for attempts in 1.. {
            let (sender, outcome) = oneshot::channel();
            let id = Uuid::new_v4().to_string();
            let invocation = Invocation { id, event: event.body.clone(), outcome: sender };
            if self.queue.send(invocation).is_err() {
                return;
            }
            let Failure { error, permanent } = match outcome.await {
                Ok(Ok(())) => return event.acknowledge().await,
                Err(_) => return,
                Ok(Err(failure)) => failure,
            };
            let Some(delay) = delays.next() else {
                error!(error, permanent, attempts, "function failed, event is now a dead letter");
                if permanent {
                    event.acknowledge().await;
                }
                let (failed_at, body) = (Utc::now(), event.body.clone());
                let letter = DeadLetter { failed_at, error, permanent, attempts, event: body };
                return self.keep(Kept { letter, event });
            };
            warn!(error, retry_in_ms = delay.as_millis(), "function failed, retrying");
            sleep(*delay).await;
        }
    }

    /// Keeps a dead letter.
    fn keep(&self, kept: Kept) {
        let mut letters = lock(&self.dead_letters);
        if letters.len() == MAX_DEAD_LETTERS
            && let Some(Kept { letter, .. }) = letters.pop_front()
        {
            let object = letter.event["Records"][0]["s3"]["object"]["key"].as_str();
            warn!(object, permanent = letter.permanent, "too many dead letters, oldest dropped");
        }
        letters.push_back(kept);
    }

    /// Invokes the function again for every dead letter. Returns their number.
    fn redrive(&self) -> usize {
        let letters = std::mem::take(&mut *lock(&self.dead_letters));
        let redriven = letters.len();
        if redriven > 0 {
            info!(redriven, "dead letters redriven");
        }
        for letter in letters {
            tokio::spawn(self.clone().invoke(letter.event));
        }
        redriven
    }

    fn dead_letters(&self) -> Vec<DeadLetter> {
        lock(&self.dead_letters).iter().map(|kept| kept.letter.clone()).collect()
    }

    /// Records the outcome of a running invocation. Only the first outcome counts.
    fn finish(&self, id: &str, result: Outcome) {
        if let Some(running) = lock(&self.running).remove(id) {
            // Without a receiver the stack is stopping.
            let _ = running.outcome.send(result);
        }
    }

    /// Fails the running invocations of an instance.
    fn fail_running(&self, instance: usize, error: &str) {
        let mut running = lock(&self.running);
        for (_, failed) in running.extract_if(|_, running| running.instance == instance) {
            let _ = failed.outcome.send(Err(Failure::transient(error)));
        }
    }

    fn routes(&self) -> BoxedFilter<(warp::reply::Response,)> {
        let runtime = self.clone();
        let runtime = warp::any().map(move || runtime.clone()).boxed();
        let accepted = || StatusCode::ACCEPTED.into_response();
        // Each instance has a Runtime API of its own.
        let instance = path::param::<usize>().and(path("2018-06-01")).and(path("runtime")).boxed();
        let invocation = instance.clone().and(path("invocation")).boxed();
        let next = invocation.clone().and(path!("next")).and(warp::get()).and(runtime.clone());
        let next = next.then(|instance: usize, runtime: Self| async move {
            runtime.next_invocation(instance).await
        });
        let response = invocation.clone().and(path!(String / "response")).and(warp::post());
        let response =
            response.and(runtime.clone()).map(move |_: usize, id: String, runtime: Self| {
                runtime.finish(&id, Ok(()));
                accepted()
            });
        let error = invocation.and(path!(String / "error")).and(warp::post()).and(runtime.clone());
        let error = error.and(warp::body::json()).map(
            move |_: usize, id: String, runtime: Self, error: Value| {
                let message = error["errorMessage"].as_str().unwrap_or("no message");
                let permanent = error["errorType"] == PERMANENT_FAULT;
                runtime.finish(&id, Err(Failure { error: message.to_owned(), permanent }));
                accepted()
            },
        );
        let init_error = instance.and(path!("init" / "error")).and(warp::post());
        let init_error = init_error.and(warp::body::json()).map(move |_: usize, error: Value| {
            error!(%error, "function cannot start");
            accepted()
        });
        let redrive = path!("dead-letters" / "redrive").and(warp::post()).and(runtime.clone());
        let redrive = redrive.map(|runtime: Self| {
            let redriven = json!({ "redriven": runtime.redrive() });
            warp::reply::with_status(warp::reply::json(&redriven), StatusCode::ACCEPTED)
                .into_response()
        });
        let dead_letters = path!("dead-letters").and(warp::get()).and(runtime);
        let dead_letters = dead_letters
            .map(|runtime: Self| warp::reply::json(&runtime.dead_letters()).into_response());
        next.or(response)
            .unify()
            .or(error)
            .unify()
            .or(init_error)
            .unify()
            .or(redrive)
            .unify()
            .or(dead_letters)
            .unify()
            .boxed()
    }

    /// Responds to an instance with the next invocation as soon as there is one.
    async fn next_invocation(self, instance: usize) -> warp::reply::Response {
        let invocation = self.queued.lock().await.recv().await;
        let Some(Invocation { id, event, outcome }) = invocation else {
            return StatusCode::GONE.into_response();
        };
        lock(&self.running).insert(id.clone(), Running { instance, outcome });
        let deadline = Utc::now() + TIMEOUT;
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", &id)
            .header("lambda-runtime-deadline-ms", deadline.timestamp_millis())
            .header(
                "lambda-runtime-invoked-function-arn",
                format!("arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:ingest-lambda"),
            )
            .body(event.to_string().into());
        let runtime = self.clone();
        tokio::spawn(async move {
            sleep(TIMEOUT).await;
            let error = format!("no response within {} s", TIMEOUT.as_secs());
            runtime.finish(&id, Err(Failure::transient(error)));
        });
        response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
