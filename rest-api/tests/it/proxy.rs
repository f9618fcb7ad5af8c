//! A TCP proxy that goes wrong on demand, between the service and its database or its bucket.
//!
//! It knows no protocol: what it does, it does to all connections at once, or to the one whose
//! bytes hold a pattern. Neither side uses TLS in these tests, so that statements and requests can
//! be read as they pass.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long a test waits for something to pass, before it says what it waited for.
const PATIENCE: Duration = Duration::from_secs(100);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens where a pattern begins. All bytes before it have been passed on.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// This way, nothing more passes until [`Rule::release`].
    Hold,
    /// The connection is closed, as by a server that ends.
    Cut,
    /// The connection is closed, and the client is answered this instead (on the way up alone).
    Answer(Vec<u8>),
    /// These bytes pass instead of the pattern.
    Replace(Vec<u8>),
    /// From here on this way, so many bytes pass at a time, with a pause between.
    Pace(usize, Duration),
}

/// What to do when a pattern passes.
#[derive(Debug)]
pub(crate) struct Rule {
    way: Way,
    pattern: Vec<u8>,
    act: Act,
    /// To how many passings it still applies.
    left: AtomicUsize,
    passed: watch::Sender<Vec<Instant>>,
    released: watch::Sender<bool>,
}

impl Rule {
    /// Waits until the pattern has passed `times` times.
    pub(crate) async fn passed(&self, times: usize) {
        let mut passed = self.passed.subscribe();
        let waited = timeout(PATIENCE, passed.wait_for(|passed| passed.len() >= times)).await;
        assert!(waited.is_ok(), "{} did not pass", String::from_utf8_lossy(&self.pattern));
    }

    /// When it passed.
    pub(crate) fn passings(&self) -> Vec<Instant> {
        self.passed.borrow().clone()
    }

    /// From now on it applies no more.
    pub(crate) fn disarm(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Lets all pass that it holds, and will hold.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }
}

/// Where the proxy leads.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    Tcp(SocketAddr),
    /// The folder of a Postgres's socket.
    Postgres(PathBuf),
}

/// The proxy. Its end is the end of its connections.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    door: Door,
}

enum Door {
    Open(JoinHandle<()>),
    /// Nobody listens; the port stays ours.
    Closed(TcpSocket),
    /// Between the two.
    Ajar,
}

struct Shared {
    upstream: Mutex<Option<Upstream>>,
    rules: Mutex<Vec<Arc<Rule>>>,
    frozen: watch::Sender<bool>,
    resets: watch::Sender<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    /// A proxy at this address.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let socket = socket(address);
        let address = socket.local_addr().unwrap();
        let shared = Shared {
            upstream: Mutex::default(),
            rules: Mutex::default(),
            frozen: watch::Sender::default(),
            resets: watch::Sender::default(),
        };
        let mut proxy = Self { address, shared: Arc::new(shared), door: Door::Closed(socket) };
        proxy.accept().await;
        proxy
    }

    /// A proxy that leads to `upstream`.
    pub(crate) async fn to(upstream: Upstream) -> Self {
        let proxy = Self::start().await;
        proxy.lead_to(upstream);
        proxy
    }

    /// New connections lead there from now on.
    pub(crate) fn lead_to(&self, upstream: Upstream) {
        *self.shared.upstream.lock().unwrap() = Some(upstream);
    }

    /// The next `times` times that `pattern` comes `way`, `act` happens.
    ///
    /// Bytes that may be the beginning of a pattern wait for those behind them; a message must not
    /// end like that.
    pub(crate) fn on(&self, way: Way, pattern: &str, times: usize, act: Act) -> Arc<Rule> {
        let rule = Arc::new(Rule {
            way,
            pattern: pattern.into(),
            act,
            left: AtomicUsize::new(times),
            passed: watch::Sender::default(),
            released: watch::Sender::default(),
        });
        self.shared.rules.lock().unwrap().push(Arc::clone(&rule));
        rule
    }

    /// No byte passes any more; connections stay open, and new ones are accepted.
    pub(crate) fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// What was frozen goes on.
    pub(crate) fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Every connection is reset.
    pub(crate) fn reset(&self) {
        self.shared.resets.send_replace(());
    }

    /// New connections are refused.
    pub(crate) async fn refuse(&mut self) {
        if let Door::Open(accepting) = std::mem::replace(&mut self.door, Door::Ajar) {
            accepting.abort();
            let _ = accepting.await;
            self.door = Door::Closed(socket(self.address));
        }
    }

    /// New connections are accepted.
    pub(crate) async fn accept(&mut self) {
        if let Door::Closed(socket) = std::mem::replace(&mut self.door, Door::Ajar) {
            let listener = socket.listen(1024).unwrap();
            self.door = Door::Open(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Door::Open(accepting) = &self.door {
            accepting.abort();
        }
        self.reset();
    }
}

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(Arc::clone(&shared).serve(client));
    }
}

/// How a connection ends.
enum End {
    Closed,
    Answered(Vec<u8>),
}

impl Shared {
    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let mut resets = self.resets.subscribe();
        let end = tokio::select! {
            end = self.carry(&mut client) => end.unwrap_or(End::Closed),
            _ = resets.changed() => {
                let _ = client.set_zero_linger();
                return;
            }
        };
        if let End::Answered(answer) = end {
            let _ = client.write_all(&answer).await;
            let _ = client.shutdown().await;
        }
    }

    /// Carries bytes both ways until either side closes.
    async fn carry(&self, client: &mut TcpStream) -> io::Result<End> {
        self.unless_frozen().await;
        let upstream = self.upstream.lock().unwrap().clone();
        let (from_client, to_client) = client.split();
        match upstream {
            None => Ok(End::Closed),
            Some(Upstream::Tcp(address)) => {
                let (from_server, to_server) = TcpStream::connect(address).await?.into_split();
                tokio::select! {
                    end = self.pump(Way::Up, from_client, to_server) => end,
                    end = self.pump(Way::Down, from_server, to_client) => end,
                }
            }
            Some(Upstream::Postgres(folder)) => {
                let socket = folder.join(".s.PGSQL.5432");
                let (from_server, to_server) = UnixStream::connect(socket).await?.into_split();
                tokio::select! {
                    end = self.pump(Way::Up, from_client, to_server) => end,
                    end = self.pump(Way::Down, from_server, to_client) => end,
                }
            }
        }
    }

    async fn pump(
        &self,
        way: Way,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<End> {
        let mut pending = Vec::new();
        let mut pace = (usize::MAX, Duration::ZERO);
        while from.read_buf(&mut pending).await? > 0 {
            self.unless_frozen().await;
            while let Some((start, rule)) = self.find(way, &pending) {
                pass(&mut to, &pending[..start], pace).await?;
                pending.drain(..start);
                rule.passed.send_modify(|passed| passed.push(Instant::now()));
                let mut pattern: Vec<u8> = pending.drain(..rule.pattern.len()).collect();
                match &rule.act {
                    Act::Hold => {
                        let _ = rule.released.subscribe().wait_for(|released| *released).await;
                    }
                    Act::Cut => return Ok(End::Closed),
                    Act::Answer(answer) => return Ok(End::Answered(answer.clone())),
                    Act::Replace(other) => pattern.clone_from(other),
                    Act::Pace(piece, pause) => pace = (*piece, *pause),
                }
                pass(&mut to, &pattern, pace).await?;
            }
            let sure = pending.len() - self.begun(way, &pending);
            pass(&mut to, &pending[..sure], pace).await?;
            pending.drain(..sure);
        }
        pass(&mut to, &pending, pace).await?;
        Ok(End::Closed)
    }

    async fn unless_frozen(&self) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    /// The first place where a rule applies; the rule has then been used once.
    fn find(&self, way: Way, bytes: &[u8]) -> Option<(usize, Arc<Rule>)> {
        let rules = self.rules.lock().unwrap();
        let places = rules.iter().filter(|rule| rule.applies(way)).filter_map(|rule| {
            let place = bytes.windows(rule.pattern.len()).position(|part| part == rule.pattern);
            Some((place?, rule))
        });
        let (place, rule) = places.min_by_key(|(place, _)| *place)?;
        let order = Ordering::Relaxed;
        let _ = rule.left.fetch_update(order, order, |left| left.checked_sub(1));
        Some((place, Arc::clone(rule)))
    }

    /// How many bytes at the end may be the beginning of a pattern.
    fn begun(&self, way: Way, bytes: &[u8]) -> usize {
        let rules = self.rules.lock().unwrap();
        let begun = rules.iter().filter(|rule| rule.applies(way)).map(|rule| {
            let lengths = (1..rule.pattern.len()).rev();
            lengths
                .into_iter()
                .find(|length| bytes.ends_with(&rule.pattern[..*length]))
                .unwrap_or(0)
        });
        begun.max().unwrap_or(0)
    }
}

impl Rule {
    fn applies(&self, way: Way) -> bool {
        self.way == way && self.left.load(Ordering::Relaxed) > 0
    }
}

/// Writes `bytes`, so many at a time with a pause behind each.
async fn pass(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    (piece, pause): (usize, Duration),
) -> io::Result<()> {
    for piece in bytes.chunks(piece) {
        to.write_all(piece).await?;
        to.flush().await?;
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    Ok(())
}
