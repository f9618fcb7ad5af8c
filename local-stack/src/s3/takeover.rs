//! Takes over the objects of earlier releases, which kept each in a file named by its key.
//!
//! A file is removed when its object is in the store, so a takeover that was interrupted goes on. The
//! objects send no events: the comparison of the bucket with the ledger finds those that were not ingested.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use local_s3::{Import, Store};
use serde::Deserialize;

/// What the earlier releases kept beside an object.
#[derive(Default, Deserialize)]
struct Attributes {
    user_metadata: Option<HashMap<String, String>>,
    content_encoding: Option<String>,
    content_type: Option<String>,
}

/// Moves all objects of an earlier release from `directory` to `store`. Returns their number.
///
/// # Errors
/// If a file cannot be read or removed, or the store cannot be written.
pub(super) async fn run(directory: &Path, store: &Store) -> Result<usize> {
    let mut taken_over = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // No bucket has such a name: the first are files of the store, the second of an earlier release.
        if name.starts_with(['_', '.']) || !entry.file_type()?.is_dir() {
            continue;
        }
        let created = store.create_bucket_if_missing(&name).await;
        created.with_context(|| format!("cannot create the bucket {name}"))?;
        for file in files_below(&entry.path())? {
            let key = file.strip_prefix(entry.path())?.to_str();
            let key = key.with_context(|| format!("{} is no key", file.display()))?;
            take_over(directory, store, (&name, key), &file).await?;
            taken_over += 1;
        }
        fs::remove_dir_all(entry.path())?;
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(taken_over)
}

async fn take_over(
    directory: &Path,
    store: &Store,
    (bucket, key): (&str, &str),
    file: &Path,
) -> Result<()> {
    let encode = |name: &str| BASE64_URL_SAFE_NO_PAD.encode(name);
    let attributes = format!(".bucket-{}.object-{}.metadata.json", encode(bucket), encode(key));
    let attributes = fs::read(directory.join(attributes)).ok();
    let attributes = attributes.and_then(|json| serde_json::from_slice(&json).ok());
    let Attributes { user_metadata, content_encoding, content_type } =
        attributes.unwrap_or_default();
    let import = Import {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        file: file.to_owned(),
        modified: fs::metadata(file)?.modified()?,
        content_encoding,
        content_type,
        metadata: user_metadata,
    };
    let imported = store.import(import).await;
    imported.map_err(|error| anyhow::anyhow!("{error}")).with_context(|| {
        format!("cannot take over {}: remove it, or choose another --data-dir", file.display())
    })?;
    fs::remove_file(file)?;
    Ok(())
}

/// Returns the files below `directory`.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}
