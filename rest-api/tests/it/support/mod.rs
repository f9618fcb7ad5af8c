//! What the tests share: the service, the servers around it, and test data.

pub(crate) mod accounts;
pub(crate) mod browser;
pub(crate) mod builder;
pub(crate) mod comparison;
pub(crate) mod emulator;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod function;
pub(crate) mod ledger;
pub(crate) mod movies;
pub(crate) mod node;
pub(crate) mod notification;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod secure_postgres;
pub(crate) mod service;
pub(crate) mod tmdb;
pub(crate) mod tokens;
pub(crate) mod topic;

use std::{net::SocketAddr, time::Duration};

pub(crate) use service::{BUCKET, Response, Service, TOKEN};

/// Waits until `condition` holds. Panics after two minutes.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    for _ in 0..2400 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the condition did not hold within two minutes");
}

/// Returns a local address on which nothing listens.
///
/// The port was free a moment ago, but another process can bind it at any time.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
