//! The load generator: keep-alive connections that send prepared requests and measure each.
//!
//! It shares the processors with what it measures, so it does as little as it can: it writes prepared
//! bytes, and reads no more of a response than its status and the length of its body.
//!
//! In the closed loop each client sends its next request when it has its response. In the open loop the
//! requests are due at a fixed rate, whatever the service does, and the time of each counts from when it
//! was due: a service that stalls is charged for all that waited (no coordinated omission).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    sync::Semaphore,
    task::{LocalSet, spawn_blocking},
};

/// The threads of the generator, each with its share of the clients.
const THREADS: usize = 2;

/// The largest head of a response, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Prepared requests, which clients send one after another, from the first one again after the last.
pub(crate) struct Requests {
    bytes: Vec<Vec<u8>>,
    next: AtomicUsize,
}

impl Requests {
    /// Prepares GET of these paths with the same additional `headers` (each line ends with CR LF).
    pub(crate) fn get(paths: impl IntoIterator<Item = String>, headers: &str) -> Arc<Self> {
        let request =
            |path| format!("GET {path} HTTP/1.1\r\nhost: bench\r\n{headers}\r\n").into_bytes();
        Arc::new(Self {
            bytes: paths.into_iter().map(request).collect(),
            next: AtomicUsize::new(0),
        })
    }

    /// Prepares GET of a path with each of these tokens.
    pub(crate) fn with_tokens(path: &str, tokens: &[String]) -> Arc<Self> {
        let request = |token| {
            format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n")
        };
        let bytes = tokens.iter().map(|token| request(token).into_bytes()).collect();
        Arc::new(Self { bytes, next: AtomicUsize::new(0) })
    }

    fn next(&self) -> &[u8] {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        &self.bytes[number % self.bytes.len()]
    }
}

/// What a load measured.
#[derive(Default)]
pub(crate) struct Outcome {
    /// How long it lasted.
    pub(crate) elapsed: Duration,
    /// The durations of the responses with status 200 or 304.
    pub(crate) served: Vec<Duration>,
    /// The number of responses by status.
    pub(crate) statuses: BTreeMap<u16, usize>,
    /// The number of requests without a response.
    pub(crate) broken: usize,
}

impl Outcome {
    /// Returns the number of responses with status 200 or 304 in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.served.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns the duration that `share` of those of [`Self::served`] are shorter than.
    ///
    /// # Errors
    /// If nothing was served.
    pub(crate) fn quantile(&self, share: f64) -> Result<Duration> {
        let mut sorted = self.served.clone();
        sorted.sort_unstable();
        let place = (sorted.len() as f64 * share) as usize;
        sorted.get(place).copied().context("nothing was served")
    }

    /// Checks that every response had status 200 or 304.
    ///
    /// # Errors
    /// If one had not.
    pub(crate) fn all_served(self) -> Result<Self> {
        let total: usize = self.statuses.values().sum();
        let is_served = self.broken == 0 && total == self.served.len();
        ensure!(is_served, "not all were served: {:?}, {} broken", self.statuses, self.broken);
        Ok(self)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.served.extend(other.served);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.broken += other.broken;
    }

    pub(super) fn record(&mut self, status: u16, duration: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        if matches!(status, 200 | 304) {
            self.served.push(duration);
        }
    }
}

/// Lets `clients` clients send requests for `duration`, each as soon as it has its response.
///
/// # Errors
/// If the generator cannot be started.
pub(crate) async fn closed(
    address: SocketAddr,
    requests: &Arc<Requests>,
    clients: usize,
    duration: Duration,
) -> Result<Outcome> {
    let (requests, end) = (Arc::clone(requests), Instant::now() + duration);
    run(clients, move || send_until(end, address, Arc::clone(&requests))).await
}

async fn send_until(end: Instant, address: SocketAddr, requests: Arc<Requests>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut connection = None;
    while Instant::now() < end {
        exchange(&mut connection, address, requests.next(), Instant::now(), &mut outcome).await;
    }
    outcome
}

/// Sends requests at `rate` a second for `duration`, over at most `clients` connections. Their times count
/// from when they were due.
///
/// # Errors
/// If the generator cannot be started.
pub(crate) async fn open(
    address: SocketAddr,
    requests: &Arc<Requests>,
    clients: usize,
    rate: f64,
    duration: Duration,
) -> Result<Outcome> {
    let schedule = Arc::new(Schedule {
        start: Instant::now(),
        rate,
        total: (rate * duration.as_secs_f64()) as usize,
        due: Semaphore::new(0),
        taken: AtomicUsize::new(0),
    });
    // A thread of its own: tokio's timer has a resolution of a millisecond.
    let clock = thread::spawn({
        let schedule = Arc::clone(&schedule);
        move || schedule.announce(clients)
    });
    let requests = Arc::clone(requests);
    let client = move || send_when_due(Arc::clone(&schedule), address, Arc::clone(&requests));
    let outcome = run(clients, client).await;
    clock.join().map_err(|_| anyhow::anyhow!("the clock of the load panicked"))?;
    outcome
}

/// When the requests of an open loop are due.
struct Schedule {
    start: Instant,
    rate: f64,
    total: usize,
    /// One permit a request that is due, and at the end one a client.
    due: Semaphore,
    /// The number of requests that clients have taken.
    taken: AtomicUsize,
}

impl Schedule {
    fn due(&self, number: usize) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// Adds a permit whenever a request is due.
    fn announce(&self, clients: usize) {
        for number in 0..self.total {
            thread::sleep(self.due(number).saturating_duration_since(Instant::now()));
            self.due.add_permits(1);
        }
        self.due.add_permits(clients);
    }
}

async fn send_when_due(
    schedule: Arc<Schedule>,
    address: SocketAddr,
    requests: Arc<Requests>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut connection = None;
    while let Ok(permit) = schedule.due.acquire().await {
        permit.forget();
        let number = schedule.taken.fetch_add(1, Ordering::Relaxed);
        if number >= schedule.total {
            break;
        }
        let due = schedule.due(number);
        exchange(&mut connection, address, requests.next(), due, &mut outcome).await;
    }
    outcome
}

/// Sends a request, over `connection` if there is one.
async fn exchange(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    request: &[u8],
    started: Instant,
    outcome: &mut Outcome,
) {
    let sent = async {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(address).await?,
        };
        let response = open.exchange(request).await?;
        anyhow::Ok((response, open))
    };
    match sent.await {
        Ok((response, open)) => {
            outcome.record(response.status, started.elapsed());
            *connection = response.keeps_alive.then_some(open);
        }
        Err(_) => outcome.broken += 1,
    }
}

/// Runs `clients` clients on the threads of the generator.
pub(super) async fn run<F>(
    clients: usize,
    client: impl Fn() -> F + Clone + Send + 'static,
) -> Result<Outcome>
where
    F: Future<Output = Outcome> + 'static,
{
    let started = Instant::now();
    let mut threads = Vec::new();
    for thread in 0..THREADS {
        let share = clients / THREADS + usize::from(thread < clients % THREADS);
        let client = client.clone();
        threads.push(spawn_blocking(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let local = LocalSet::new();
            let clients: Vec<_> = (0..share).map(|_| local.spawn_local(client())).collect();
            let mut outcome = Outcome::default();
            for client in clients {
                outcome.add(runtime.block_on(local.run_until(client))?);
            }
            anyhow::Ok(outcome)
        }));
    }
    let mut outcome = Outcome::default();
    for thread in threads {
        outcome.add(thread.await??);
    }
    outcome.elapsed = started.elapsed();
    Ok(outcome)
}

/// One connection.
struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What the generator reads of a response.
struct Response {
    status: u16,
    keeps_alive: bool,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(64 << 10) })
    }

    /// Sends a request, and reads the response to its last byte.
    async fn exchange(&mut self, request: &[u8]) -> Result<Response> {
        self.stream.write_all(request).await?;
        let head = loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break self.buffer.split_to(end + 4);
            }
            ensure!(self.buffer.len() < MAX_HEAD, "the head of the response is too long");
            self.read().await?;
        };
        let status = std::str::from_utf8(head.get(9..12).context("no status")?)?.parse()?;
        let keeps_alive = header(&head, b"\r\nconnection: close").is_none();
        let mut missing = match header(&head, b"\r\ncontent-length: ") {
            Some(length) => std::str::from_utf8(length)?.parse()?,
            None if status == 304 => 0_usize,
            None => bail!("the response has no content-length"),
        };
        loop {
            let read = missing.min(self.buffer.len());
            self.buffer.advance(read);
            missing -= read;
            if missing == 0 {
                return Ok(Response { status, keeps_alive });
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.buffer.reserve(16 << 10);
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "the connection was closed");
        Ok(())
    }
}

/// Returns what follows `start` on its line, if the head has it. hyper writes names in lower case.
fn header<'a>(head: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    let rest = &head[memmem::find(head, start)? + start.len()..];
    Some(&rest[..memchr::memchr(b'\r', rest)?])
}
