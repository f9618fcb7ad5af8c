//! A real S3 endpoint on a directory, which sends an event for every created object.
//!
//! The endpoint is s3s with its file-system backend. This module adds what the backend lacks: the
//! events, etags in listings, and the rejection of keys that it would keep outside the bucket or in
//! the file of another key.

mod event;
mod files;
mod keys;
mod listing;
mod operations;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use hyper::{Request, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, host::SingleDomain, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tracing::warn;

pub use crate::local_aws::{ACCESS_KEY, SECRET_KEY};

use crate::{loopback::HostCheck, private};
use operations::Operations;

/// An S3 endpoint that keeps its objects in a directory.
pub struct Endpoint {
    builder: S3ServiceBuilder,
}

impl Endpoint {
    /// Returns an endpoint on `directory`, which it creates and closes to other accounts. The endpoint sends to `events` what S3
    /// would send to a Lambda for each created object.
    ///
    /// # Errors
    /// If the directory cannot be created or used.
    pub fn new(directory: &Path, events: mpsc::UnboundedSender<Value>) -> Result<Self> {
        private::create_directory(directory)?;
        let files = FileSystem::new(directory)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .with_context(|| format!("cannot use {}", directory.display()))?;
        let mut builder = S3ServiceBuilder::new(Operations::new(files, events));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        Ok(Self { builder })
    }

    /// Serves on `listener` until `shutdown` completes. Buckets are addressed by path, or as virtual
    /// hosts below `localhost`.
    ///
    /// # Errors
    /// If `listener` has no address.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let address = listener.local_addr()?;
        let check = HostCheck::new(address).with_bucket_hosts();
        self.builder.set_host(SingleDomain::new(&format!("localhost:{}", address.port()))?);
        let service = self.builder.build();
        let checked = service_fn(move |request: Request<Incoming>| {
            let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
            // HTTP/2 has the host in the URI.
            let host = host.or_else(|| request.uri().authority().map(|host| host.as_str()));
            let refusal = check.check(host, request.headers()).err();
            let service = service.clone();
            async move {
                match refusal {
                    Some(refusal) => Ok(refusal.to_s3()),
                    None => service.call(request.map(s3s::Body::from)).await,
                }
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
