//! The S3 endpoint: the store of `local-s3` behind HTTP, for requests to this machine alone.

mod page;
mod takeover;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use hyper::{Request, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use local_s3::{Options, Store};
use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    host::SingleDomain,
    s3_error,
    service::S3ServiceBuilder,
};
use tokio::{net::TcpListener, task::JoinSet};
use tracing::warn;

pub use crate::local_aws::{ACCESS_KEY, SECRET_KEY};
pub use local_s3::{Event, Events};

use crate::{local_aws::REGION, loopback::HostCheck, private};
use page::PageOrigins;

/// The id and the name of the owner of all buckets and objects.
const OWNER: &str = "local";

/// The only credentials.
struct Credentials;

#[async_trait::async_trait]
impl S3Auth for Credentials {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == ACCESS_KEY {
            Ok(SECRET_KEY.into())
        } else {
            Err(s3_error!(InvalidAccessKeyId))
        }
    }
}

/// An S3 endpoint that keeps its objects in a directory.
pub struct Endpoint {
    store: Store,
    page: PageOrigins,
}

impl Endpoint {
    /// Returns an endpoint on `directory`, which it creates and closes to other accounts.
    ///
    /// # Errors
    /// If the directory cannot be created or used.
    pub fn new(directory: &Path) -> Result<Self> {
        private::create_directory(directory)?;
        let options = Options { region: REGION.to_owned(), owner: OWNER.to_owned() };
        let store = Store::open(directory, options);
        let store = store.with_context(|| format!("cannot use {}", directory.display()))?;
        Ok(Self { store, page: PageOrigins::default() })
    }

    /// Lets the page of the API at `address` put files from a browser. Other pages send nothing.
    pub fn with_page_of(self, address: SocketAddr) -> Self {
        Self { page: PageOrigins::of(address), ..self }
    }

    /// Takes over the objects that an earlier release has left in `directory`. Returns their number.
    ///
    /// # Errors
    /// If an object cannot be taken over.
    pub async fn take_over(&self, directory: &Path) -> Result<usize> {
        takeover::run(directory, &self.store).await
    }

    /// Returns the store of the endpoint.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Returns what S3 would send to a Lambda for each change of an object, beginning with what earlier runs
    /// have not delivered.
    pub fn events(&self) -> Events {
        self.store.events()
    }

    /// Serves on `listener` until `shutdown` completes. Buckets are addressed by path, or as virtual
    /// hosts below `localhost`.
    ///
    /// # Errors
    /// If `listener` has no address.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let address = listener.local_addr()?;
        let check = HostCheck::new(address).with_bucket_hosts();
        let mut builder = S3ServiceBuilder::new(self.store.clone());
        builder.set_access(self.store);
        builder.set_auth(Credentials);
        builder.set_host(SingleDomain::new(&format!("localhost:{}", address.port()))?);
        let service = builder.build();
        let checked = service_fn(move |request: Request<Incoming>| {
            let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
            // HTTP/2 has the host in the URI.
            let host = host.or_else(|| request.uri().authority().map(|host| host.as_str()));
            let page = self.page.allowed(&request);
            let checked = match page {
                Some(_) => check.check_host(host),
                None => check.check(host, request.headers()),
            };
            let service = service.clone();
            async move {
                if let Err(refusal) = checked {
                    return Ok(refusal.to_s3());
                }
                let Some(origin) = page else {
                    return local_s3::call(&service, request.map(s3s::Body::from)).await;
                };
                if page::is_preflight(&request) {
                    return Ok(page::preflight_response(origin));
                }
                let mut response = local_s3::call(&service, request.map(s3s::Body::from)).await?;
                page::expose(response.headers_mut(), origin);
                Ok(response)
            }
        });
        let http = auto::Builder::new(TokioExecutor::new());
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // A response is two writes: without this the second waits for the client's ACK.
                        let _ = stream.set_nodelay(true);
                        let (http, service) = (http.clone(), checked.clone());
                        connections.spawn(async move {
                            // An error is one of the connection, and the client receives it too.
                            let _ = http.serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                    Err(error) => {
                        warn!(%error, "the S3 endpoint cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        connections.shutdown().await;
        Ok(())
    }
}
