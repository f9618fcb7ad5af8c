//! Who may do what: whoever signs a request may do everything, others what a canned ACL allows them.

use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    dto::{Grant, Grantee, ObjectCannedACL, Permission, Type},
    path::S3Path,
    s3_error,
};

use crate::{Store, index::VERSIONS, records::owner, versions};

/// The canned ACLs, and what each allows to whom, apart from the owner.
const GRANTS: [(&str, &[(&str, &str)]); 7] = [
    (ObjectCannedACL::PRIVATE, &[]),
    (ObjectCannedACL::PUBLIC_READ, &[("AllUsers", Permission::READ)]),
    (
        ObjectCannedACL::PUBLIC_READ_WRITE,
        &[("AllUsers", Permission::READ), ("AllUsers", Permission::WRITE)],
    ),
    (ObjectCannedACL::AUTHENTICATED_READ, &[("AuthenticatedUsers", Permission::READ)]),
    (ObjectCannedACL::AWS_EXEC_READ, &[]),
    (ObjectCannedACL::BUCKET_OWNER_READ, &[]),
    (ObjectCannedACL::BUCKET_OWNER_FULL_CONTROL, &[]),
];

/// # Errors
/// If there is no such canned ACL.
pub(crate) fn check_acl(acl: Option<&str>) -> S3Result<Option<String>> {
    let is_known = acl.is_none_or(|acl| GRANTS.iter().any(|(known, _)| *known == acl));
    if is_known { Ok(acl.map(str::to_owned)) } else { Err(s3_error!(InvalidArgument)) }
}

fn allows(acl: Option<&str>, permission: &str) -> bool {
    let grants =
        GRANTS.iter().filter(|(known, _)| Some(*known) == acl).flat_map(|(_, grants)| *grants);
    grants.into_iter().any(|(whom, allowed)| *whom == "AllUsers" && *allowed == permission)
}

impl Store {
    /// Returns the grants of a canned ACL.
    pub(crate) fn grants(&self, acl: Option<&str>) -> Vec<Grant> {
        let grant = |grantee: Grantee, permission: &'static str| {
            let permission = Some(Permission::from_static(permission));
            Grant { grantee: Some(grantee), permission }
        };
        let owner = owner(&self.options.owner);
        let owner = Grantee {
            display_name: owner.display_name,
            id: owner.id,
            email_address: None,
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        };
        let others =
            GRANTS.iter().filter(|(known, _)| Some(*known) == acl).flat_map(|(_, grants)| *grants);
        let others = others.map(|(whom, permission)| {
            let uri = Some(format!("http://acs.amazonaws.com/groups/global/{whom}"));
            let type_ = Type::from_static(Type::GROUP);
            grant(
                Grantee { display_name: None, id: None, email_address: None, type_, uri },
                permission,
            )
        });
        others.chain([grant(owner, Permission::FULL_CONTROL)]).collect()
    }
}

#[async_trait::async_trait]
impl S3Access for Store {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = context.s3_op().name();
        if context.credentials().is_some() || operation == "ListBuckets" {
            return Ok(());
        }
        let (bucket, key) = match context.s3_path() {
            S3Path::Root => return Err(s3_error!(AccessDenied)),
            S3Path::Bucket { bucket } => (bucket, None),
            S3Path::Object { bucket, key } => (bucket, Some(key)),
        };
        let acl = self.index.bucket(bucket)?.acl;
        let is_allowed = match (operation, key) {
            ("ListObjects" | "ListObjectsV2" | "ListObjectVersions" | "HeadBucket", _) => {
                allows(acl.as_deref(), Permission::READ)
            }
            ("GetObject" | "HeadObject", Some(key)) => {
                let found = versions::object(&self.index.table(VERSIONS)?, bucket, key, None);
                let object_acl = found.ok().map(|(_, object)| object.headers.acl);
                // Who may list may also learn that there is no such object.
                let is_missing = object_acl.is_none() && allows(acl.as_deref(), Permission::READ);
                is_missing || allows(object_acl.flatten().as_deref(), Permission::READ)
            }
            ("PutObject" | "PostObject" | "DeleteObject" | "DeleteObjects", _) => {
                allows(acl.as_deref(), Permission::WRITE)
            }
            _ => false,
        };
        if is_allowed { Ok(()) } else { Err(s3_error!(AccessDenied, "Access Denied")) }
    }
}
