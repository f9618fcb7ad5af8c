//! Keeps the leases of claimed ingests.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};
use tracing::{Instrument, warn};

use crate::{
    store::{Claim, Store},
    telemetry::chain,
};

/// Renews the leases of `claims` until the returned set is dropped. It does so in a task of its own,
/// so that decoding does not delay it.
///
/// A lost lease ends nothing here: a worker without a lease cannot change anything, and learns of
/// it when it tries.
pub(super) fn renew_until_dropped(store: &Store, claims: &[Claim], lease: Duration) -> JoinSet<()> {
    let (store, claims) = (store.clone(), claims.to_vec());
    let renew = async move {
        loop {
            sleep(lease / 3).await;
            if let Err(error) = store.renew(&claims, lease).await {
                warn!(error = chain(&error), "lease renewal failed");
            }
        }
    };
    let mut renewing = JoinSet::new();
    renewing.spawn(renew.in_current_span());
    renewing
}
