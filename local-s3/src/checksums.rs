//! Checksums: which one an object has, and whether those that a client sends are right.

use base64::{Engine, prelude::BASE64_STANDARD};
use s3s::{
    S3Result,
    checksum::ChecksumHasher,
    dto::{Checksum, ChecksumType},
    s3_error,
};
use serde::{Deserialize, Serialize};

/// A checksum algorithm.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64nvme,
    Sha1,
    Sha256,
}

use Algorithm::{Crc32, Crc32c, Crc64nvme, Sha1, Sha256};

/// All algorithms, and the name of each.
const NAMES: [(Algorithm, &str); 5] = [
    (Crc32, "CRC32"),
    (Crc32c, "CRC32C"),
    (Crc64nvme, "CRC64NVME"),
    (Sha1, "SHA1"),
    (Sha256, "SHA256"),
];

/// A checksum in base64. That of several parts together ends with their number: `...-3`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) algorithm: Algorithm,
    pub(crate) value: String,
}

/// Returns the checksums in `$input` as a [`Checksum`].
macro_rules! sums_of {
    ($input:expr) => {
        s3s::dto::Checksum {
            checksum_crc32: $input.checksum_crc32.clone(),
            checksum_crc32c: $input.checksum_crc32c.clone(),
            checksum_crc64nvme: $input.checksum_crc64nvme.clone(),
            checksum_sha1: $input.checksum_sha1.clone(),
            checksum_sha256: $input.checksum_sha256.clone(),
            checksum_type: None,
        }
    };
}

/// Sets the fields of `$output` to the checksums of a [`Checksum`].
macro_rules! set_sums {
    ($output:expr, $sums:expr) => {
        let sums: s3s::dto::Checksum = $sums;
        $output.checksum_crc32 = sums.checksum_crc32;
        $output.checksum_crc32c = sums.checksum_crc32c;
        $output.checksum_crc64nvme = sums.checksum_crc64nvme;
        $output.checksum_sha1 = sums.checksum_sha1;
        $output.checksum_sha256 = sums.checksum_sha256;
    };
}

pub(crate) use {set_sums, sums_of};

impl Algorithm {
    /// # Errors
    /// If there is no such algorithm.
    pub(crate) fn parse(name: &str) -> S3Result<Self> {
        let found = NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        let unknown = || s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported.");
        found.map(|(algorithm, _)| *algorithm).ok_or_else(unknown)
    }

    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// Whether the parts of an upload have a checksum together rather than the whole object, if the
    /// client does not say.
    pub(crate) fn is_composite(self) -> bool {
        self != Crc64nvme
    }

    pub(crate) fn add_to(self, hasher: &mut ChecksumHasher) {
        match self {
            Crc32 => hasher.crc32 = Some(Default::default()),
            Crc32c => hasher.crc32c = Some(Default::default()),
            Crc64nvme => hasher.crc64nvme = Some(Default::default()),
            Sha1 => hasher.sha1 = Some(Default::default()),
            Sha256 => hasher.sha256 = Some(Default::default()),
        }
    }

    /// Returns the algorithms that the header `x-amz-trailer` names.
    pub(crate) fn declared(headers: &http::HeaderMap) -> S3Result<Vec<Self>> {
        let values = headers.get_all("x-amz-trailer").into_iter();
        let names = values.filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(','));
        let names = names.filter_map(|name| name.trim().strip_prefix("x-amz-checksum-"));
        names.map(Self::parse).collect()
    }

    /// Returns the checksum of this algorithm in `sums`.
    pub(crate) fn of(self, sums: &Checksum) -> Option<Sum> {
        let mut sums = sums.clone();
        let value = self.slot(&mut sums).take()?;
        Some(Sum { algorithm: self, value })
    }

    fn slot(self, sums: &mut Checksum) -> &mut Option<String> {
        match self {
            Crc32 => &mut sums.checksum_crc32,
            Crc32c => &mut sums.checksum_crc32c,
            Crc64nvme => &mut sums.checksum_crc64nvme,
            Sha1 => &mut sums.checksum_sha1,
            Sha256 => &mut sums.checksum_sha256,
        }
    }

    /// Returns the algorithms of the checksums in `sums`.
    pub(crate) fn all_of(sums: &Checksum) -> Vec<Self> {
        let is_given = |(algorithm, _): &(Self, _)| algorithm.of(sums).is_some();
        NAMES.into_iter().filter(is_given).map(|(algorithm, _)| algorithm).collect()
    }

    /// Returns the checksum of the checksums of parts.
    pub(crate) fn combine<'a>(
        self,
        parts: impl ExactSizeIterator<Item = &'a str>,
    ) -> S3Result<Sum> {
        let count = parts.len();
        let mut hasher = ChecksumHasher::default();
        self.add_to(&mut hasher);
        for part in parts {
            hasher.update(&BASE64_STANDARD.decode(part).map_err(crate::index::internal)?);
        }
        let value = self.of(&hasher.finalize()).map(|sum| sum.value).unwrap_or_default();
        Ok(Sum { algorithm: self, value: format!("{value}-{count}") })
    }
}

impl Sum {
    /// Whether it is of several parts together.
    pub(crate) fn is_composite(&self) -> bool {
        self.value.contains('-')
    }

    pub(crate) fn kind(&self) -> ChecksumType {
        let kind =
            if self.is_composite() { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
        ChecksumType::from_static(kind)
    }

    /// Returns this checksum with its type, without the number of parts.
    pub(crate) fn to_bare_dto(&self) -> Checksum {
        let value = self.value.split('-').next().unwrap_or_default().to_owned();
        Checksum { checksum_type: Some(self.kind()), ..Self { value, ..*self }.to_dto() }
    }

    /// Returns this checksum with its type.
    pub(crate) fn to_dto(&self) -> Checksum {
        let mut sums = Checksum { checksum_type: Some(self.kind()), ..Default::default() };
        *self.algorithm.slot(&mut sums) = Some(self.value.clone());
        sums
    }
}

/// Checks the checksums that a client sent with a body.
///
/// # Errors
/// If one of them is malformed, was not computed, or is not that of the body.
pub(crate) fn verify(given: &Checksum, computed: &Checksum) -> S3Result<()> {
    for (algorithm, name) in NAMES {
        let Some(given) = algorithm.of(given) else { continue };
        let Some(computed) = algorithm.of(computed) else {
            return Err(s3_error!(InvalidRequest, "The {} checksum was not declared.", name));
        };
        if given.value.len() != computed.value.len()
            || BASE64_STANDARD.decode(&given.value).is_err()
        {
            let header = format!("x-amz-checksum-{}", name.to_lowercase());
            return Err(s3_error!(InvalidRequest, "Value for {} header is invalid.", header));
        }
        if given != computed {
            return Err(s3_error!(
                BadDigest,
                "The {} you specified did not match the calculated checksum.",
                name
            ));
        }
    }
    Ok(())
}

/// Checks the header `Content-MD5` that a client sent with a body.
///
/// # Errors
/// If it is malformed, or not that of the body.
pub(crate) fn verify_md5(given: Option<&str>, computed: [u8; 16]) -> S3Result<()> {
    let Some(given) = given else { return Ok(()) };
    match BASE64_STANDARD.decode(given) {
        Ok(given) if given == computed => Ok(()),
        Ok(given) if given.len() == 16 => Err(s3_error!(
            BadDigest,
            "The Content-MD5 you specified did not match what we received."
        )),
        _ => Err(s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid.")),
    }
}

/// Returns bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
