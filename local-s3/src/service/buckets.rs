//! Operations on buckets.

use redb::ReadableTable;
use s3s::{S3Request, S3Result, dto::*, s3_error};

use super::{Answer, answer};
use crate::{
    Store,
    access::check_acl,
    index::{BUCKETS, Transaction, UPLOADS, VERSIONS, decode, encode, internal},
    records::{Bucket as BucketRecord, Versioning, owner},
};

impl Store {
    pub(super) async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> Answer<CreateBucketOutput> {
        let CreateBucketInput { bucket: name, acl, .. } = request.input;
        let acl = check_acl(acl.as_ref().map(BucketCannedACL::as_str))?;
        // s3s checks the other rules.
        if name.contains("-.") {
            return Err(s3_error!(InvalidBucketName));
        }
        // As in the oldest region of AWS: to create a bucket that exists changes nothing.
        self.add_bucket(&name, Versioning::Never, acl).await?;
        answer(CreateBucketOutput { location: Some(format!("/{name}")) })
    }

    pub(super) async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> Answer<HeadBucketOutput> {
        self.index.bucket(&request.input.bucket)?;
        let bucket_region = Some(self.options.region.clone());
        answer(HeadBucketOutput { bucket_region, ..Default::default() })
    }

    pub(super) async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> Answer<ListBucketsOutput> {
        let ListBucketsInput { prefix, continuation_token, max_buckets, .. } = request.input;
        let table = self.index.table(BUCKETS)?;
        let after = continuation_token.as_deref().unwrap_or_default();
        let max = max_buckets.and_then(|max| usize::try_from(max).ok()).unwrap_or(10_000);
        let mut buckets = Vec::new();
        let mut next = None;
        // Nobody else owns a bucket.
        let max = if request.credentials.is_some() { max } else { 0 };
        for row in table.range(after..).map_err(internal)? {
            let (name, record) = row.map_err(internal)?;
            let name = name.value().to_owned();
            if name == after || prefix.as_ref().is_some_and(|prefix| !name.starts_with(prefix)) {
                continue;
            }
            if buckets.len() == max {
                next = buckets.last().and_then(|last: &Bucket| last.name.clone());
                break;
            }
            let record: BucketRecord = decode(record.value())?;
            let creation_date = Some(record.created.to_dto());
            buckets.push(Bucket { name: Some(name), creation_date, ..Default::default() });
        }
        let owner = Some(owner(&self.options.owner));
        answer(ListBucketsOutput {
            buckets: Some(buckets),
            owner,
            prefix,
            continuation_token: next,
        })
    }

    pub(super) async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> Answer<DeleteBucketOutput> {
        let name = request.input.bucket;
        let delete = move |transaction: &Transaction| {
            transaction.bucket(&name)?;
            for table in [VERSIONS, UPLOADS] {
                let table = transaction.table(table)?;
                let mut rows =
                    table.range((name.as_str(), [].as_slice(), 0)..).map_err(internal)?;
                let row = rows.next().transpose().map_err(internal)?;
                if row.is_some_and(|(key, _)| key.value().0 == name) {
                    return Err(s3_error!(
                        BucketNotEmpty,
                        "The bucket you tried to delete is not empty"
                    ));
                }
            }
            transaction.table(BUCKETS)?.remove(name.as_str()).map_err(internal)?;
            Ok(())
        };
        self.index.write(delete).await?;
        answer(DeleteBucketOutput::default())
    }

    pub(super) async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        self.index.bucket(&request.input.bucket)?;
        let region = Some(self.options.region.clone()).filter(|region| region != "us-east-1");
        answer(GetBucketLocationOutput { location_constraint: region.map(Into::into) })
    }

    pub(super) async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> Answer<GetBucketVersioningOutput> {
        let status = match self.index.bucket(&request.input.bucket)?.versioning {
            Versioning::Never => None,
            Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
            Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
        };
        let status = status.map(BucketVersioningStatus::from_static);
        answer(GetBucketVersioningOutput { status, mfa_delete: None })
    }

    pub(super) async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> Answer<PutBucketVersioningOutput> {
        let PutBucketVersioningInput { bucket, versioning_configuration, .. } = request.input;
        let status = versioning_configuration.status.as_ref().map(BucketVersioningStatus::as_str);
        let versioning = match status {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => return Err(s3_error!(MalformedXML, "The status is Enabled or Suspended")),
        };
        self.change_bucket(bucket, move |bucket| bucket.versioning = versioning).await?;
        answer(PutBucketVersioningOutput::default())
    }

    pub(super) async fn get_bucket_acl(
        &self,
        request: S3Request<GetBucketAclInput>,
    ) -> Answer<GetBucketAclOutput> {
        let acl = self.index.bucket(&request.input.bucket)?.acl;
        let (owner, grants) = (Some(owner(&self.options.owner)), Some(self.grants(acl.as_deref())));
        answer(GetBucketAclOutput { owner, grants })
    }

    pub(super) async fn put_bucket_acl(
        &self,
        request: S3Request<PutBucketAclInput>,
    ) -> Answer<PutBucketAclOutput> {
        let PutBucketAclInput { bucket, acl, .. } = request.input;
        let acl = check_acl(acl.as_ref().map(BucketCannedACL::as_str))?;
        self.change_bucket(bucket, move |bucket| bucket.acl = acl.clone().or(bucket.acl.take()))
            .await?;
        answer(PutBucketAclOutput::default())
    }

    async fn change_bucket(
        &self,
        name: String,
        change: impl Fn(&mut BucketRecord) + Send + 'static,
    ) -> S3Result<()> {
        let put = move |transaction: &Transaction| {
            let mut bucket = transaction.bucket(&name)?;
            change(&mut bucket);
            let record = encode(&bucket)?;
            let mut buckets = transaction.table(BUCKETS)?;
            buckets.insert(name.as_str(), record.as_slice()).map_err(internal)?;
            Ok(())
        };
        self.index.write(put).await
    }
}
