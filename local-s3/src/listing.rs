//! Listings: objects, versions and uploads by prefix, delimiter and marker.

use redb::ReadableTable;
use s3s::{
    S3Result,
    dto::{CommonPrefix, EncodingType},
    s3_error,
};

use crate::{
    events::encode_key,
    index::{RowKey, internal},
};

/// The most entries of a page.
const MAX_PAGE: usize = 1000;

/// What to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub(crate) bucket: String,
    pub(crate) prefix: String,
    /// Never empty.
    pub(crate) delimiter: Option<String>,
    /// List what comes after this key, or after this place among the rows of the key.
    pub(crate) after: Option<(String, Option<u64>)>,
    pub(crate) max: usize,
    /// Whether only the first row of each key counts.
    pub(crate) first_only: bool,
}

/// A page of a listing.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<(String, T)>,
    pub(crate) prefixes: Vec<String>,
    /// Where the next page continues: after this key or prefix, and this place among its rows.
    pub(crate) next: Option<(String, Option<u64>)>,
}

impl Query {
    pub(crate) fn new(
        bucket: &str,
        prefix: &Option<String>,
        delimiter: &Option<String>,
        max: Option<i32>,
    ) -> S3Result<Self> {
        let wrong = |_| s3_error!(InvalidArgument, "The number of entries cannot be negative");
        let max = max.map(usize::try_from).transpose().map_err(wrong)?;
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.clone().unwrap_or_default(),
            delimiter: delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
            after: None,
            max: max.unwrap_or(MAX_PAGE).min(MAX_PAGE),
            first_only: false,
        })
    }

    /// Returns the query for only the first row of each key.
    pub(crate) fn first_rows(self) -> Self {
        Self { first_only: true, ..self }
    }

    /// Reads a page. `read` returns the item of a row, or `None` if the row is not listed.
    pub(crate) fn page<T>(
        &self,
        table: &impl ReadableTable<RowKey, &'static [u8]>,
        mut read: impl FnMut(&[u8]) -> S3Result<Option<T>>,
    ) -> S3Result<Page<T>> {
        let (mut items, mut prefixes, mut last) = (Vec::new(), Vec::new(), None);
        let (mut from, mut place) = self.start();
        loop {
            if self.max == 0 {
                break;
            }
            let start = (self.bucket.as_str(), from.as_slice(), place);
            let row =
                table.range(start..).map_err(internal)?.next().transpose().map_err(internal)?;
            let Some((row_key, record)) = row else { break };
            let (bucket, key, row_place) = row_key.value();
            if bucket != self.bucket || !key.starts_with(self.prefix.as_bytes()) {
                break;
            }
            let text = str::from_utf8(key).map_err(internal)?;
            let item = read(record.value())?;
            (from, place) =
                if self.first_only { after_key(key) } else { (key.to_vec(), row_place + 1) };
            let Some(item) = item else { continue };
            if items.len() + prefixes.len() == self.max {
                return Ok(Page { items, prefixes, next: last });
            }
            if let Some(prefix) = self.common_prefix(text) {
                (from, place) = (after_prefix(prefix), 0);
                prefixes.push(prefix.to_owned());
                last = Some((prefix.to_owned(), None));
            } else {
                last = Some((text.to_owned(), Some(row_place)));
                items.push((text.to_owned(), item));
            }
        }
        Ok(Page { items, prefixes, next: None })
    }

    /// Returns the first row to read.
    fn start(&self) -> (Vec<u8>, u64) {
        let prefix = (self.prefix.clone().into_bytes(), 0);
        let Some((key, place)) = &self.after else { return prefix };
        let start = match (self.common_prefix(key), place) {
            // The page before ended with this common prefix.
            (Some(common), _) if common == key => (after_prefix(common), 0),
            (_, place) => match place.and_then(|place| place.checked_add(1)) {
                Some(place) => (key.clone().into_bytes(), place),
                None => after_key(key.as_bytes()),
            },
        };
        start.max(prefix)
    }

    /// Returns the start of `key` up to the first delimiter after the prefix.
    fn common_prefix<'a>(&self, key: &'a str) -> Option<&'a str> {
        let rest = key.strip_prefix(&self.prefix)?;
        let delimiter = self.delimiter.as_ref()?;
        let end = self.prefix.len() + rest.find(delimiter)? + delimiter.len();
        Some(&key[..end])
    }
}

/// Returns the first row after all rows of `key`.
fn after_key(key: &[u8]) -> (Vec<u8>, u64) {
    ([key, &[0]].concat(), 0)
}

/// Returns the first key after all that begin with `prefix`. UTF-8 has no byte 255, so the last byte of
/// `prefix` can be raised.
fn after_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Encodes names for a client that asks for it: XML cannot hold every character.
pub(crate) struct Encoding(pub(crate) bool);

impl Encoding {
    /// # Errors
    /// If the client asks for another encoding than `url`.
    pub(crate) fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some(EncodingType::URL) => Ok(Self(true)),
            Some(_) => {
                Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request"))
            }
        }
    }

    pub(crate) fn name(&self, name: impl Into<String>) -> Option<String> {
        let name = name.into();
        // Every client decodes this, while not every client takes a plus for a space.
        Some(if self.0 { encode_key(&name).replace('+', "%20") } else { name })
    }

    pub(crate) fn prefixes(&self, prefixes: Vec<String>) -> Option<Vec<CommonPrefix>> {
        let prefixes =
            prefixes.into_iter().map(|prefix| CommonPrefix { prefix: self.name(prefix) });
        Some(prefixes.collect()).filter(|prefixes: &Vec<_>| !prefixes.is_empty())
    }
}
