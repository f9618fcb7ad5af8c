//! The rules of versions: which one a key has, and what a put or a delete makes of them.

use redb::ReadableTable;
use s3s::{S3Result, header, s3_error};

use crate::{
    checksums::Algorithm,
    conditions::WriteConditions,
    contents::Content,
    events::{self, Change},
    index::{RowKey, Transaction, VERSIONS, decode, encode, internal},
    records::{Headers, Object, Time, Version, Versioning, parse_id},
};

/// What a delete has done.
pub(crate) struct Deletion {
    /// The version that is gone, or the delete marker that is new.
    pub(crate) version_id: Option<String>,
    /// Whether that is a delete marker.
    pub(crate) is_marker: bool,
}

/// Returns the newest version of a key, which may be a delete marker.
pub(crate) fn newest(
    table: &impl ReadableTable<RowKey, &'static [u8]>,
    bucket: &str,
    key: &str,
) -> S3Result<Option<Version>> {
    all(table, bucket, key)?.next().transpose()
}

/// Returns the version with an id, or the newest one. `None` if there is none.
pub(crate) fn find(
    table: &impl ReadableTable<RowKey, &'static [u8]>,
    bucket: &str,
    key: &str,
    id: Option<&str>,
) -> S3Result<Option<Version>> {
    match id {
        None => newest(table, bucket, key),
        Some("null") => {
            let is_null = |version: &S3Result<Version>| {
                version.as_ref().map_or(true, |version| version.is_null)
            };
            all(table, bucket, key)?.find(is_null).transpose()
        }
        Some(id) => {
            let wrong = || s3_error!(InvalidArgument, "Invalid version id specified");
            let place = !parse_id(id).ok_or_else(wrong)?;
            let row = table.get((bucket, key.as_bytes(), place)).map_err(internal)?;
            let version = row.map(|row| decode::<Version>(row.value())).transpose()?;
            Ok(version.filter(|version| !version.is_null))
        }
    }
}

/// Returns the place after which a listing continues that ended with a version. The version may be gone.
pub(crate) fn place(
    table: &impl ReadableTable<RowKey, &'static [u8]>,
    bucket: &str,
    key: &str,
    id: &str,
) -> S3Result<u64> {
    if let Some(sequence) = parse_id(id) {
        return Ok(!sequence);
    }
    // The id of a null version does not tell its place. If it is gone, the versions of the key are listed
    // again rather than left out.
    let version = find(table, bucket, key, Some(id))?;
    Ok(version.map_or(0, |version| !version.sequence))
}

/// Returns the versions of a key, the newest first.
pub(crate) fn all<'a>(
    table: &'a impl ReadableTable<RowKey, &'static [u8]>,
    bucket: &str,
    key: &str,
) -> S3Result<impl Iterator<Item = S3Result<Version>> + 'a> {
    let key = key.as_bytes();
    let rows = table.range((bucket, key, 0)..=(bucket, key, u64::MAX)).map_err(internal)?;
    Ok(rows.map(|row| decode(row.map_err(internal)?.1.value())))
}

/// Returns an object to read, and its version.
///
/// # Errors
/// If there is none, or it is a delete marker.
pub(crate) fn object(
    table: &impl ReadableTable<RowKey, &'static [u8]>,
    bucket: &str,
    key: &str,
    id: Option<&str>,
) -> S3Result<(Version, Object)> {
    match (find(table, bucket, key, id)?, id) {
        (None, None) => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
        (None, Some(_)) => Err(s3_error!(NoSuchVersion, "The specified version does not exist.")),
        (Some(Version { object: Some(object), sequence, is_null, modified }), _) => {
            Ok((Version { sequence, is_null, modified, object: None }, object))
        }
        (Some(marker), id) => {
            let mut error = match id {
                None => s3_error!(NoSuchKey, "The specified key does not exist."),
                Some(_) => s3_error!(MethodNotAllowed, "The specified version is a delete marker."),
            };
            let mut headers = http::HeaderMap::new();
            headers.insert(header::X_AMZ_DELETE_MARKER, http::HeaderValue::from_static("true"));
            headers.insert(header::X_AMZ_VERSION_ID, marker.id().parse().map_err(internal)?);
            error.set_headers(headers);
            Err(error)
        }
    }
}

/// Makes `object` the newest version of a key, and records the event. `None` makes a delete marker.
pub(crate) fn put(
    transaction: &Transaction,
    bucket: &str,
    key: &str,
    object: Option<Object>,
    change: Change,
) -> S3Result<Version> {
    let versioning = transaction.bucket(bucket)?.versioning;
    let is_null = versioning != Versioning::Enabled;
    let mut table = transaction.table(VERSIONS)?;
    if is_null && let Some(replaced) = find(&table, bucket, key, Some("null"))? {
        table.remove((bucket, key.as_bytes(), !replaced.sequence)).map_err(internal)?;
        if let Some(object) = replaced.object {
            transaction.remove_content(object.content)?;
        }
    }
    let sequence = transaction.next_sequence();
    let version = Version { sequence, is_null, modified: Time::now(), object };
    let record = encode(&version)?;
    table.insert((bucket, key.as_bytes(), !sequence), record.as_slice()).map_err(internal)?;
    events::record(transaction, change, (bucket, key), &version, sequence, versioning)?;
    Ok(version)
}

/// Makes `content` the only version of a key, unless the key has one.
pub(crate) fn import(
    transaction: &Transaction,
    (bucket, key): (&str, &str),
    content: &Content,
    headers: Headers,
    modified: Time,
) -> S3Result<()> {
    let is_null = transaction.bucket(bucket)?.versioning != Versioning::Enabled;
    let mut table = transaction.table(VERSIONS)?;
    if newest(&table, bucket, key)?.is_some() {
        return Ok(());
    }
    let sequence = transaction.next_sequence();
    let object = Some(Object::whole(content, Algorithm::Crc64nvme, headers));
    let record = encode(&Version { sequence, is_null, modified, object })?;
    table.insert((bucket, key.as_bytes(), !sequence), record.as_slice()).map_err(internal)?;
    content.keep(transaction)?;
    Ok(())
}

/// Deletes a version, or hides the key behind a delete marker. A key or version that does not exist is no
/// error.
pub(crate) fn delete(
    transaction: &Transaction,
    (bucket, key): (&str, &str),
    id: Option<&str>,
    conditions: &WriteConditions,
) -> S3Result<Deletion> {
    let version = find(&transaction.table(VERSIONS)?, bucket, key, id)?;
    // Without a version there is nothing to match.
    if let Some(version) = &version {
        conditions.check_deletion(version)?;
    }
    let versioning = transaction.bucket(bucket)?.versioning;
    if id.is_none() && versioning != Versioning::Never {
        let marker = put(transaction, bucket, key, None, Change::MarkerCreated)?;
        return Ok(Deletion { version_id: Some(marker.id()), is_marker: true });
    }
    let mut table = transaction.table(VERSIONS)?;
    let Some(version) = version else {
        return Ok(Deletion { version_id: id.map(str::to_owned), is_marker: false });
    };
    table.remove((bucket, key.as_bytes(), !version.sequence)).map_err(internal)?;
    let (is_marker, version_id) = (version.object.is_none(), id.map(|_| version.id()));
    if let Some(object) = &version.object {
        transaction.remove_content(object.content.clone())?;
    }
    // The event has the time of the delete.
    let gone = Version { object: None, modified: Time::now(), ..version };
    let sequence = transaction.next_sequence();
    events::record(transaction, Change::Deleted, (bucket, key), &gone, sequence, versioning)?;
    Ok(Deletion { version_id, is_marker })
}
