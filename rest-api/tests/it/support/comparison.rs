//! The comparison of the bucket of a service with its ledger.

use rest_api::{
    objects::ObjectStore,
    reconcile::{
        Difference, Event, Options, ReconcileError, Summary, reconcile, reconcile_versions,
    },
};

use super::{BUCKET, Service};

pub(crate) fn apply() -> Options {
    Options { apply: true, ..Options::default() }
}

/// Compares, and calls `on_event` for each event.
pub(crate) async fn compare_with(
    service: &Service,
    options: Options,
    on_event: impl FnMut(Event<'_>) -> std::io::Result<()>,
) -> Result<Summary, ReconcileError> {
    let store = service.store(0).await;
    let objects = ObjectStore::new(service.s3.clone());
    let options = Options { bucket: Some(BUCKET.to_owned()), ..options };
    reconcile(&store, &objects, options, on_event).await
}

/// Returns the differences in the order in which they are found, and the summary.
pub(crate) async fn compare(service: &Service, options: Options) -> (Vec<Difference>, Summary) {
    let mut found = Vec::new();
    let summary = compare_with(service, options, |event| {
        if let Event::Found(difference) = event {
            found.push(difference.clone());
        }
        Ok(())
    });
    let summary = summary.await.unwrap();
    (found, summary)
}

/// Compares all versions. Returns the differences in the order in which they are found, and the summary.
pub(crate) async fn compare_versions(
    service: &Service,
    options: Options,
) -> (Vec<Difference>, Summary) {
    let store = service.store(0).await;
    let objects = ObjectStore::new(service.s3.clone());
    let options = Options { bucket: Some(BUCKET.to_owned()), ..options };
    let mut found = Vec::new();
    let summary = reconcile_versions(&store, &objects, options, |event| {
        if let Event::Found(difference) = event {
            found.push(difference.clone());
        }
        Ok(())
    });
    let summary = summary.await.unwrap();
    (found, summary)
}
