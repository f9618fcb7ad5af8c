//! The signal that asks the parts of the service to stop.

use tokio::sync::watch;

/// Ends when the service is asked to stop.
pub(crate) async fn requested(stop: &mut watch::Receiver<bool>) {
    // A dropped sender asks for it, too.
    let _ = stop.wait_for(|stop| *stop).await;
}
