//! Listings of the versions of objects, delete markers among them.
//!
//! S3 lists the entries of a key newest first. The SDK returns the versions and the delete markers of a page apart,
//! so their order is that of their times. Where these do not tell it (they have whole seconds, and that of a multipart
//! upload is when it began), S3 is asked which entry follows a marker.

use std::collections::BTreeMap;

use aws_sdk_s3::{
    operation::list_object_versions::{
        ListObjectVersionsOutput, builders::ListObjectVersionsFluentBuilder,
    },
    types::{BucketVersioningStatus, EncodingType},
};
use futures_util::{Stream, stream};

use super::{ObjectError, ObjectStore, classify, decode_key, observed_version};
use crate::store::{NULL_VERSION, ObservedVersion};

/// A version of an object or a delete marker, in a listing.
#[derive(Clone, Debug)]
pub struct ListedVersion {
    /// The key of its object.
    pub key: String,
    /// What S3 reports about it. Without an id it is the one that S3 keeps without versioning.
    pub version: ObservedVersion,
    /// Whether it is the newest of its key.
    pub is_latest: bool,
    /// Whether it is a delete marker.
    pub is_marker: bool,
}

/// Where a page of a listing begins: after this entry, or at the beginning.
#[derive(Clone, Debug, Default)]
struct Place {
    key: Option<String>,
    version_id: Option<String>,
}

impl ObjectStore {
    /// Returns whether a bucket keeps versions at present; none if it may not be asked.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub async fn keeps_versions(&self, bucket: &str) -> Result<Option<bool>, ObjectError> {
        match self.client.get_bucket_versioning().bucket(bucket).send().await.map_err(classify) {
            Ok(versioning) => Ok(Some(versioning.status == Some(BucketVersioningStatus::Enabled))),
            Err(ObjectError::Refused(cause)) if cause.code != "NoSuchBucket" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the versions and delete markers of the objects whose keys begin with `prefix`, in pages of up to 1,000:
    /// ordered by key, those of a key newest first.
    pub fn list_versions(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> impl Stream<Item = Result<Vec<ListedVersion>, ObjectError>> + Send + use<> {
        let listing = Listing { objects: self.clone(), bucket: bucket.to_owned() };
        let state = (listing, prefix.to_owned(), Some(Place::default()));
        stream::try_unfold(state, async |(listing, prefix, place)| {
            let Some(place) = place else { return Ok(None) };
            let page = listing.request(&prefix, place).send().await.map_err(classify)?;
            let next = next_place(&page)?;
            let entries = listing.in_order(page).await?;
            Ok(Some((entries, (listing, prefix, next))))
        })
    }
}

/// A listing of the versions of a bucket.
struct Listing {
    objects: ObjectStore,
    bucket: String,
}

impl Listing {
    fn request(&self, prefix: &str, place: Place) -> ListObjectVersionsFluentBuilder {
        let request =
            self.objects.client.list_object_versions().bucket(&self.bucket).prefix(prefix);
        // A key may contain characters that XML cannot.
        let request = request.encoding_type(EncodingType::Url);
        request.set_key_marker(place.key).set_version_id_marker(place.version_id)
    }

    /// Returns the entries of a page in the order of the listing.
    async fn in_order(
        &self,
        page: ListObjectVersionsOutput,
    ) -> Result<Vec<ListedVersion>, ObjectError> {
        let mut by_key: BTreeMap<String, [Vec<ListedVersion>; 2]> = BTreeMap::new();
        for entry in entries(page)? {
            let [versions, markers] = by_key.entry(entry.key.clone()).or_default();
            if entry.is_marker { markers.push(entry) } else { versions.push(entry) }
        }
        let mut in_order = Vec::new();
        for [versions, markers] in by_key.into_values() {
            in_order.extend(self.join(versions, markers).await?);
        }
        Ok(in_order)
    }

    /// Puts the delete markers of a key between its versions. Both are newest first.
    async fn join(
        &self,
        mut entries: Vec<ListedVersion>,
        markers: Vec<ListedVersion>,
    ) -> Result<Vec<ListedVersion>, ObjectError> {
        // The oldest marker first: each is newer than those that are in already.
        let mut end = entries.len();
        for marker in markers.into_iter().rev() {
            let place = match place_by_time(&entries[..end], &marker) {
                Some(place) => place,
                None => {
                    let next = self.next(&marker).await?;
                    let is_next = |entry: &ListedVersion| {
                        next.as_ref()
                            .is_some_and(|next| entry.version.version_id == next.version.version_id)
                    };
                    entries[..end].iter().position(is_next).unwrap_or(end)
                }
            };
            entries.insert(place, marker);
            end = place;
        }
        Ok(entries)
    }

    /// Returns the entry that the bucket lists after this one, if it is one of the same key.
    async fn next(&self, entry: &ListedVersion) -> Result<Option<ListedVersion>, ObjectError> {
        let version_id = entry.version.version_id.clone();
        let place = Place {
            key: Some(entry.key.clone()),
            version_id: Some(version_id.unwrap_or_else(|| NULL_VERSION.to_owned())),
        };
        let request = self.request(&entry.key, place).max_keys(1);
        let page = request.send().await.map_err(classify)?;
        Ok(entries(page)?.into_iter().find(|next| next.key == entry.key))
    }
}

/// Returns where among the versions of its key a delete marker is; none if their times do not tell.
fn place_by_time(versions: &[ListedVersion], marker: &ListedVersion) -> Option<usize> {
    if marker.is_latest {
        return Some(0);
    }
    let removed = marker.version.last_modified?;
    let mut place = 0;
    for ListedVersion { version, .. } in versions {
        let written = version.last_modified?;
        let is_multipart = version.etag.as_ref().is_some_and(|etag| etag.contains('-'));
        if written == removed || written < removed && is_multipart {
            return None;
        }
        place += usize::from(written > removed);
    }
    Some(place)
}

/// Returns where the next page begins; none if this is the last one.
fn next_place(page: &ListObjectVersionsOutput) -> Result<Option<Place>, ObjectError> {
    if page.is_truncated != Some(true) {
        return Ok(None);
    }
    let Some(key) = page.next_key_marker.clone() else {
        return Err(ObjectError::invalid_response("the listing does not say where it continues"));
    };
    let key = Some(decode_key(key, page.encoding_type.as_ref())?);
    Ok(Some(Place { key, version_id: page.next_version_id_marker.clone() }))
}

/// Returns the versions of a page, and then its delete markers.
fn entries(page: ListObjectVersionsOutput) -> Result<Vec<ListedVersion>, ObjectError> {
    let encoding = page.encoding_type;
    let versions = page.versions.unwrap_or_default().into_iter().map(|version| ListedVersion {
        key: version.key.unwrap_or_default(),
        version: observed_version(
            version.e_tag,
            version.version_id,
            version.last_modified,
            version.size,
        ),
        is_latest: version.is_latest == Some(true),
        is_marker: false,
    });
    let markers = page.delete_markers.unwrap_or_default().into_iter().map(|marker| ListedVersion {
        key: marker.key.unwrap_or_default(),
        version: observed_version(None, marker.version_id, marker.last_modified, None),
        is_latest: marker.is_latest == Some(true),
        is_marker: true,
    });
    let decoded = versions
        .chain(markers)
        .map(|entry| Ok(ListedVersion { key: decode_key(entry.key, encoding.as_ref())?, ..entry }));
    decoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(second: i64, etag: Option<&str>) -> ListedVersion {
        ListedVersion {
            key: "k".to_owned(),
            version: ObservedVersion {
                etag: etag.map(str::to_owned),
                last_modified: chrono::DateTime::from_timestamp_secs(second),
                ..ObservedVersion::default()
            },
            is_latest: false,
            is_marker: etag.is_none(),
        }
    }

    #[test]
    fn times_tell_the_place_of_a_marker_unless_they_are_equal_or_of_uploads_in_parts() {
        let versions = [entry(9, Some("a")), entry(5, Some("b-2")), entry(3, Some("c"))];
        let place = |second| place_by_time(&versions, &entry(second, None));
        assert_eq!([1, 2, 4].map(place), [Some(3), Some(3), Some(2)]);
        assert_eq!([3, 5, 6, 9, 10].map(place), [None; 5]);
        let latest = ListedVersion { is_latest: true, ..entry(9, None) };
        assert_eq!(place_by_time(&versions, &latest), Some(0));
        assert_eq!(place_by_time(&versions[2..], &entry(4, None)), Some(0));
    }
}
