//! A TCP proxy that injects faults, between the service and its database or its bucket.
//!
//! It knows no protocol. A fault affects all connections at once, or the connection whose bytes
//! contain a pattern. Neither side uses TLS in these tests, so that patterns can match statements
//! and requests.

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

/// How long a test waits for a match before it fails.
const MATCH_TIMEOUT: Duration = Duration::from_secs(100);

/// The direction in which bytes flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// What happens where a pattern begins. All bytes before it have been forwarded.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Forwards nothing more in this direction until [`Rule::release`].
    Hold,
    /// Closes the connection, as a server that ends.
    Close,
    /// Sends these bytes to the client and closes the connection. For [`Direction::ToServer`] only.
    Respond(Vec<u8>),
    /// Forwards these bytes instead of the pattern.
    Replace(Vec<u8>),
    /// From here on, forwards chunks of this many bytes with this delay after each.
    Throttle(usize, Duration),
}

/// A pattern, and the action that it triggers.
#[derive(Debug)]
pub(crate) struct Rule {
    direction: Direction,
    pattern: Vec<u8>,
    action: Action,
    /// How many more matches trigger the action.
    remaining: AtomicUsize,
    matches: watch::Sender<Vec<Instant>>,
    released: watch::Sender<bool>,
}

impl Rule {
    /// Waits until the pattern has matched `times` times.
    pub(crate) async fn wait_for_matches(&self, times: usize) {
        let mut matches = self.matches.subscribe();
        let waited =
            timeout(MATCH_TIMEOUT, matches.wait_for(|matches| matches.len() >= times)).await;
        assert!(waited.is_ok(), "no match of {}", String::from_utf8_lossy(&self.pattern));
    }

    /// Returns the time of each match so far.
    pub(crate) fn matches(&self) -> Vec<Instant> {
        self.matches.borrow().clone()
    }

    /// Ignores the pattern from now on.
    pub(crate) fn disarm(&self) {
        self.remaining.store(0, Ordering::Relaxed);
    }

    /// Forwards what is held, now and in the future.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    fn applies(&self, direction: Direction) -> bool {
        self.direction == direction && self.remaining.load(Ordering::Relaxed) > 0
    }
}

/// The server that the proxy connects to.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    Tcp(SocketAddr),
    /// The directory of the socket of a Postgres.
    Postgres(PathBuf),
}

/// The proxy. Dropping it resets its connections.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    listening: Listening,
}

enum Listening {
    Yes(JoinHandle<()>),
    /// The port stays reserved.
    No(TcpSocket),
    /// Between the two.
    Changing,
}

struct Shared {
    upstream: Mutex<Option<Upstream>>,
    rules: Mutex<Vec<Arc<Rule>>>,
    frozen: watch::Sender<bool>,
    resets: watch::Sender<()>,
}

impl Proxy {
    /// Starts a proxy without a server: it closes each connection until [`Self::lead_to`].
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    /// Starts a proxy at this address.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let socket = bind(address);
        let address = socket.local_addr().unwrap();
        let shared = Shared {
            upstream: Mutex::default(),
            rules: Mutex::default(),
            frozen: watch::Sender::default(),
            resets: watch::Sender::default(),
        };
        let listening = Listening::No(socket);
        let mut proxy = Self { address, shared: Arc::new(shared), listening };
        proxy.accept().await;
        proxy
    }

    /// Starts a proxy that connects to `upstream`.
    pub(crate) async fn to(upstream: Upstream) -> Self {
        let proxy = Self::start().await;
        proxy.lead_to(upstream);
        proxy
    }

    /// Connects new connections to `upstream` from now on.
    pub(crate) fn lead_to(&self, upstream: Upstream) {
        *self.shared.upstream.lock().unwrap() = Some(upstream);
    }

    /// Does `action` at the next `times` matches of `pattern`.
    ///
    /// Bytes that can be the beginning of a pattern are held until more arrive, so a message must
    /// not end with such bytes.
    pub(crate) fn on(
        &self,
        direction: Direction,
        pattern: &str,
        times: usize,
        action: Action,
    ) -> Arc<Rule> {
        let rule = Arc::new(Rule {
            direction,
            pattern: pattern.into(),
            action,
            remaining: AtomicUsize::new(times),
            matches: watch::Sender::default(),
            released: watch::Sender::default(),
        });
        self.shared.rules.lock().unwrap().push(Arc::clone(&rule));
        rule
    }

    /// Forwards nothing. Connections stay open, and new ones are accepted.
    pub(crate) fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Ends [`Self::freeze`].
    pub(crate) fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Resets every connection.
    pub(crate) fn reset(&self) {
        self.shared.resets.send_replace(());
    }

    /// Refuses new connections.
    pub(crate) async fn refuse(&mut self) {
        if let Listening::Yes(accepting) =
            std::mem::replace(&mut self.listening, Listening::Changing)
        {
            accepting.abort();
            let _ = accepting.await;
            self.listening = Listening::No(bind(self.address));
        }
    }

    /// Accepts new connections.
    pub(crate) async fn accept(&mut self) {
        if let Listening::No(socket) = std::mem::replace(&mut self.listening, Listening::Changing) {
            let listener = socket.listen(1024).unwrap();
            self.listening = Listening::Yes(tokio::spawn(accept(listener, self.shared.clone())));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Listening::Yes(accepting) = &self.listening {
            accepting.abort();
        }
        self.reset();
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
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
    Responded(Vec<u8>),
}

impl Shared {
    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let mut resets = self.resets.subscribe();
        let end = tokio::select! {
            end = self.forward(&mut client) => end.unwrap_or(End::Closed),
            _ = resets.changed() => {
                let _ = client.set_zero_linger();
                return;
            }
        };
        if let End::Responded(response) = end {
            let _ = client.write_all(&response).await;
            let _ = client.shutdown().await;
        }
    }

    /// Forwards bytes in both directions until either side closes.
    async fn forward(&self, client: &mut TcpStream) -> io::Result<End> {
        self.unless_frozen().await;
        let upstream = self.upstream.lock().unwrap().clone();
        let (from_client, to_client) = client.split();
        match upstream {
            None => Ok(End::Closed),
            Some(Upstream::Tcp(address)) => {
                let (from_server, to_server) = TcpStream::connect(address).await?.into_split();
                tokio::select! {
                    end = self.pump(Direction::ToServer, from_client, to_server) => end,
                    end = self.pump(Direction::ToClient, from_server, to_client) => end,
                }
            }
            Some(Upstream::Postgres(directory)) => {
                let socket = directory.join(".s.PGSQL.5432");
                let (from_server, to_server) = UnixStream::connect(socket).await?.into_split();
                tokio::select! {
                    end = self.pump(Direction::ToServer, from_client, to_server) => end,
                    end = self.pump(Direction::ToClient, from_server, to_client) => end,
                }
            }
        }
    }

    async fn pump(
        &self,
        direction: Direction,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<End> {
        let mut pending = Vec::new();
        let mut throttle = (usize::MAX, Duration::ZERO);
        while from.read_buf(&mut pending).await? > 0 {
            self.unless_frozen().await;
            while let Some((start, rule)) = self.find(direction, &pending) {
                write(&mut to, &pending[..start], throttle).await?;
                pending.drain(..start);
                rule.matches.send_modify(|matches| matches.push(Instant::now()));
                let mut pattern: Vec<u8> = pending.drain(..rule.pattern.len()).collect();
                match &rule.action {
                    Action::Hold => {
                        let _ = rule.released.subscribe().wait_for(|released| *released).await;
                    }
                    Action::Close => return Ok(End::Closed),
                    Action::Respond(response) => return Ok(End::Responded(response.clone())),
                    Action::Replace(other) => pattern.clone_from(other),
                    Action::Throttle(size, delay) => throttle = (*size, *delay),
                }
                write(&mut to, &pattern, throttle).await?;
            }
            let complete = pending.len() - self.partial_match(direction, &pending);
            write(&mut to, &pending[..complete], throttle).await?;
            pending.drain(..complete);
        }
        write(&mut to, &pending, throttle).await?;
        Ok(End::Closed)
    }

    async fn unless_frozen(&self) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    /// Returns the first match of a rule, and counts it against the rule's remaining matches.
    fn find(&self, direction: Direction, bytes: &[u8]) -> Option<(usize, Arc<Rule>)> {
        let rules = self.rules.lock().unwrap();
        let matches = rules.iter().filter(|rule| rule.applies(direction)).filter_map(|rule| {
            let mut windows = bytes.windows(rule.pattern.len());
            Some((windows.position(|window| window == rule.pattern)?, rule))
        });
        let (start, rule) = matches.min_by_key(|(start, _)| *start)?;
        let order = Ordering::Relaxed;
        let _ = rule.remaining.fetch_update(order, order, |remaining| remaining.checked_sub(1));
        Some((start, Arc::clone(rule)))
    }

    /// Returns how many bytes at the end can be the beginning of a pattern.
    fn partial_match(&self, direction: Direction, bytes: &[u8]) -> usize {
        let rules = self.rules.lock().unwrap();
        let lengths = rules.iter().filter(|rule| rule.applies(direction)).map(|rule| {
            let mut lengths = (1..rule.pattern.len()).rev();
            lengths.find(|length| bytes.ends_with(&rule.pattern[..*length])).unwrap_or(0)
        });
        lengths.max().unwrap_or(0)
    }
}

/// Writes `bytes` in chunks of this size, with this delay after each.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    (size, delay): (usize, Duration),
) -> io::Result<()> {
    for chunk in bytes.chunks(size) {
        to.write_all(chunk).await?;
        to.flush().await?;
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }
    Ok(())
}
