//! Multipart uploads.

use redb::ReadableTable;
use s3s::{
    S3Result,
    crypto::{Checksum as _, Md5},
    dto::{Checksum, CompletedPart},
    s3_error,
};

use crate::{
    Store,
    checksums::{Algorithm, Sum, hex},
    conditions::WriteConditions,
    contents::{Content, retry},
    events::Change,
    index::{PARTS, RowKey, Transaction, UPLOADS, VERSIONS, decode, encode, internal},
    objects::{Body, Selection, check},
    records::{Headers, Object, Part, Time, Upload, Version, parse_id},
    versions,
};

/// The highest part number.
pub(crate) const MAX_PARTS: u16 = 10_000;

/// The least bytes of a part that is not the last.
const MIN_PART: u64 = 5 << 20;

/// Bucket, key and id of an upload.
#[derive(Clone)]
pub(crate) struct UploadPath {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) id: String,
}

/// What a client says about the object that parts become.
pub(crate) struct Expected {
    pub(crate) size: Option<i64>,
    pub(crate) sums: Checksum,
    pub(crate) conditions: WriteConditions,
}

impl UploadPath {
    fn find(&self, table: &impl ReadableTable<RowKey, &'static [u8]>) -> S3Result<Upload> {
        let missing = || s3_error!(NoSuchUpload, "The specified multipart upload does not exist");
        let place = parse_id(&self.id).ok_or_else(missing)?;
        let row =
            table.get((self.bucket.as_str(), self.key.as_bytes(), place)).map_err(internal)?;
        decode(row.ok_or_else(missing)?.value())
    }

    /// Returns the object that the upload has become.
    fn completed(
        &self,
        table: &impl ReadableTable<RowKey, &'static [u8]>,
    ) -> S3Result<Option<(Version, Object)>> {
        for version in versions::all(table, &self.bucket, &self.key)? {
            let version = version?;
            if let Some(object) = version
                .object
                .clone()
                .filter(|object| object.upload.is_some() && object.upload == parse_id(&self.id))
            {
                return Ok(Some((version, object)));
            }
        }
        Ok(None)
    }

    /// Removes the upload and its parts. Their contents go, too.
    fn remove(&self, transaction: &Transaction, upload: &Upload) -> S3Result<()> {
        let place = (self.bucket.as_str(), self.key.as_bytes(), upload.sequence);
        transaction.table(UPLOADS)?.remove(place).map_err(internal)?;
        let mut parts = transaction.table(PARTS)?;
        let range = (upload.sequence, 0)..=(upload.sequence, u16::MAX);
        for row in parts.extract_from_if(range, |_, _| true).map_err(internal)? {
            let part: Part = decode(row.map_err(internal)?.1.value())?;
            transaction.remove_content(part.content)?;
        }
        Ok(())
    }
}

impl Store {
    /// Returns an upload.
    pub(crate) fn upload(&self, path: &UploadPath) -> S3Result<Upload> {
        self.index.bucket(&path.bucket)?;
        path.find(&self.index.table(UPLOADS)?)
    }

    /// Returns the parts of an upload, by number.
    pub(crate) fn parts(&self, upload: &Upload) -> S3Result<Vec<Part>> {
        let table = self.index.table(PARTS)?;
        let range = (upload.sequence, 0)..=(upload.sequence, u16::MAX);
        let rows = table.range(range).map_err(internal)?;
        rows.map(|row| decode(row.map_err(internal)?.1.value())).collect()
    }

    /// Begins an upload. `algorithm` is that of the object's checksum.
    pub(crate) async fn begin_upload(
        &self,
        (bucket, key): (String, String),
        headers: Headers,
        algorithm: Option<Algorithm>,
        is_composite: Option<bool>,
    ) -> S3Result<Upload> {
        check(&key, &headers)?;
        let is_named = algorithm.is_some();
        let algorithm = algorithm.unwrap_or(Algorithm::Crc64nvme);
        let is_composite = is_composite.unwrap_or(algorithm.is_composite());
        let is_crc = !matches!(algorithm, Algorithm::Sha1 | Algorithm::Sha256);
        if (is_composite && algorithm == Algorithm::Crc64nvme) || (!is_composite && !is_crc) {
            return Err(s3_error!(
                InvalidRequest,
                "The checksum algorithm does not have this checksum type"
            ));
        }
        let begin = move |transaction: &Transaction| {
            transaction.bucket(&bucket)?;
            let (sequence, initiated) = (transaction.next_sequence(), Time::now());
            let headers = headers.clone();
            let upload = Upload { sequence, initiated, headers, algorithm, is_composite, is_named };
            let mut uploads = transaction.table(UPLOADS)?;
            let place = (bucket.as_str(), key.as_bytes(), sequence);
            uploads.insert(place, encode(&upload)?.as_slice()).map_err(internal)?;
            Ok(upload)
        };
        self.index.write(begin).await
    }

    /// Stores a part that a client sends.
    pub(crate) async fn receive_part(
        &self,
        path: UploadPath,
        number: i32,
        given: Option<Algorithm>,
        body: Body,
    ) -> S3Result<Part> {
        let number = check_number(number)?;
        let mut algorithms = vec![self.upload(&path)?.algorithm];
        algorithms.extend(given);
        let content = self.receive(body, &mut algorithms).await?;
        self.add_part(path, Part::new(number, &content, &algorithms), content).await
    }

    /// Stores a part that is a range of an object.
    pub(crate) async fn copy_part(
        &self,
        path: UploadPath,
        number: i32,
        source: &Selection,
    ) -> S3Result<(Part, Version)> {
        let number = check_number(number)?;
        let algorithms = [self.upload(&path)?.algorithm];
        let (selected, content) = self.copy_content(source, &algorithms).await?;
        let part = Part::new(number, &content, &algorithms);
        Ok((self.add_part(path, part, content).await?, selected.version))
    }

    async fn add_part(&self, path: UploadPath, part: Part, content: Content) -> S3Result<Part> {
        let add = move |transaction: &Transaction| {
            let upload = path.find(&transaction.table(UPLOADS)?)?;
            let mut parts = transaction.table(PARTS)?;
            let place = (upload.sequence, part.number);
            let record = encode(&part)?;
            if let Some(replaced) = parts.insert(place, record.as_slice()).map_err(internal)? {
                transaction.remove_content(decode::<Part>(replaced.value())?.content)?;
            }
            content.keep(transaction)?;
            Ok(part.clone())
        };
        self.index.write(add).await
    }

    /// Makes an object of the parts that a client names.
    pub(crate) async fn complete_upload(
        &self,
        path: UploadPath,
        named: &[CompletedPart],
        expected: Expected,
    ) -> S3Result<(Version, Object)> {
        let (upload, parts, content) =
            match retry(|| self.assemble(&path, named, expected.size)).await {
                Ok(assembled) => assembled,
                // Another request may have ended the upload.
                Err(error) => {
                    return path.completed(&self.index.table(VERSIONS)?)?.ok_or(error);
                }
            };
        let size = content.size;
        let sum = object_sum(&upload, &parts, &content)?;
        let given = upload.algorithm.of(&expected.sums);
        if given.is_some_and(|given| base(&given) != sum.as_ref().map_or("", base)) {
            return Err(s3_error!(
                BadDigest,
                "The checksum you specified did not match the calculated one"
            ));
        }
        let digests: Vec<u8> = parts.iter().flat_map(|part| part.md5).collect();
        let etag = format!("{}-{}", hex(&Md5::checksum(&digests)), parts.len());
        let complete = move |transaction: &Transaction| {
            transaction.bucket(&path.bucket)?;
            let upload = match path.find(&transaction.table(UPLOADS)?) {
                Ok(upload) => upload,
                // Another request has ended the upload meanwhile.
                Err(error) => {
                    return path.completed(&transaction.table(VERSIONS)?)?.ok_or(error);
                }
            };
            let newest = versions::newest(&transaction.table(VERSIONS)?, &path.bucket, &path.key)?;
            expected.conditions.check(newest.as_ref())?;
            check_unchanged(transaction, &upload, &parts)?;
            path.remove(transaction, &upload)?;
            let object = Object {
                content: content.id.clone(),
                size,
                etag: etag.clone(),
                sum: sum.clone(),
                parts: parts.clone(),
                upload: Some(upload.sequence),
                headers: upload.headers,
            };
            let (made, change) = (Some(object.clone()), Change::Completed);
            let version = versions::put(transaction, &path.bucket, &path.key, made, change)?;
            content.keep(transaction)?;
            tracing::info!(bucket = path.bucket, key = path.key, size, "object created");
            Ok((version, object))
        };
        self.index.write(complete).await
    }

    /// Copies the parts that a client names into one content.
    async fn assemble(
        &self,
        path: &UploadPath,
        named: &[CompletedPart],
        expected_size: Option<i64>,
    ) -> S3Result<(Upload, Vec<Part>, Content)> {
        let upload = self.upload(path)?;
        let parts = chosen_parts(named, &self.parts(&upload)?)?;
        let size: u64 = parts.iter().map(|part| part.size).sum();
        if expected_size.is_some_and(|expected| u64::try_from(expected) != Ok(size)) {
            return Err(s3_error!(
                InvalidRequest,
                "The size of the object is not the one you specified"
            ));
        }
        let sources =
            parts.iter().map(|part| self.index.source(part.content.clone(), 0..part.size));
        let sources = sources.collect::<S3Result<_>>()?;
        let content = self.contents.copy(sources, &[upload.algorithm]).await?;
        Ok((upload, parts, content))
    }

    /// Removes an upload and its parts.
    pub(crate) async fn abort_upload(&self, path: UploadPath) -> S3Result<()> {
        self.index.bucket(&path.bucket)?;
        let abort = move |transaction: &Transaction| {
            let upload = path.find(&transaction.table(UPLOADS)?)?;
            path.remove(transaction, &upload)
        };
        self.index.write(abort).await
    }
}

/// Returns the parts that a client names.
///
/// # Errors
/// If one is missing, is not what the client believes, is too small, or stands before its predecessor.
fn chosen_parts(named: &[CompletedPart], parts: &[Part]) -> S3Result<Vec<Part>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let numbers = named.iter().map(|part| part.part_number.unwrap_or_default());
    if !numbers.is_sorted() {
        return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order"));
    }
    // A client that has sent a part twice may name both: the last counts.
    let is_last = |index: &usize| {
        named.get(index + 1).is_none_or(|next| next.part_number != named[*index].part_number)
    };
    let named = (0..named.len()).filter(is_last).map(|index| &named[index]);
    let find = |named: &CompletedPart| {
        let is_named = |part: &&Part| named.part_number == Some(part.number.into());
        let part = parts.iter().find(is_named)?;
        let is_right = named.e_tag.as_ref().is_some_and(|etag| etag.value() == part.etag().value());
        let sums = crate::checksums::sums_of!(named);
        let mut given =
            Algorithm::all_of(&sums).into_iter().filter_map(|algorithm| algorithm.of(&sums));
        let has = |given: Sum| part.sum(given.algorithm).is_none_or(|sum| *sum == given);
        (is_right && given.all(has)).then(|| part.clone())
    };
    let wrong = || s3_error!(InvalidPart, "One or more of the specified parts could not be found");
    let chosen: Vec<Part> =
        named.map(|part| find(part).ok_or_else(wrong)).collect::<S3Result<_>>()?;
    if chosen[..chosen.len() - 1].iter().any(|part| part.size < MIN_PART) {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        ));
    }
    Ok(chosen)
}

/// Checks that no part was replaced while its bytes were copied.
fn check_unchanged(transaction: &Transaction, upload: &Upload, parts: &[Part]) -> S3Result<()> {
    let table = transaction.table(PARTS)?;
    for part in parts {
        let row = table.get((upload.sequence, part.number)).map_err(internal)?;
        let now = row.map(|row| decode::<Part>(row.value())).transpose()?;
        if now.is_none_or(|now| now.content != part.content) {
            return Err(s3_error!(
                InvalidPart,
                "A part was replaced while the upload was completed"
            ));
        }
    }
    Ok(())
}

fn object_sum(upload: &Upload, parts: &[Part], content: &Content) -> S3Result<Option<Sum>> {
    if !upload.is_composite {
        return Ok(upload.algorithm.of(&content.sums));
    }
    let sums: Vec<&str> = parts
        .iter()
        .filter_map(|part| part.sum(upload.algorithm))
        .map(|sum| sum.value.as_str())
        .collect();
    upload.algorithm.combine(sums.into_iter()).map(Some)
}

/// Returns the checksum without the number of parts.
fn base(sum: &Sum) -> &str {
    sum.value.split('-').next().unwrap_or_default()
}

fn check_number(number: i32) -> S3Result<u16> {
    let wrong = || {
        s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
    };
    u16::try_from(number).ok().filter(|number| (1..=MAX_PARTS).contains(number)).ok_or_else(wrong)
}
