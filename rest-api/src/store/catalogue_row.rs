//! A movie as a row of the catalogue.

use schema::Movie;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Separates the names of the cast in one column. The schema forbids it within a name.
pub(super) const NAME_SEPARATOR: char = '\u{1f}';

/// A longer genre, in bytes, is indexed by its digest: an index entry holds at most 2.7 kB.
const MAX_INDEXED_GENRE: usize = 500;

/// What a row takes beside its text, in bytes. `staging::deduplicate` counts the same.
pub(super) const ROW_OVERHEAD: usize = 100;

/// A movie with the columns that are computed from it.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueRow {
    pub(super) identity: Uuid,
    pub(super) title_lc: String,
    pub(super) year: i32,
    pub(super) cast_lc: String,
    pub(super) genres_lc: Vec<String>,
    pub(super) content_hash: i64,
    pub(super) doc: String,
}

impl CatalogueRow {
    /// Computes the row of `movie`.
    #[expect(
        clippy::expect_used,
        reason = "strings, integers and lists of strings can always be written as JSON"
    )]
    pub fn new(movie: &Movie) -> Self {
        let doc = serde_json::to_string(movie).expect("a movie is JSON");
        let names: Vec<String> = movie.cast.iter().map(|name| fold(name)).collect();
        Self {
            identity: identity(movie),
            title_lc: fold(&movie.title),
            year: i32::try_from(movie.year.get()).unwrap_or_default(),
            cast_lc: names.join("\u{1f}"),
            genres_lc: movie.genres.iter().map(|genre| fold_genre(genre)).collect(),
            content_hash: i64::from_be_bytes(digest_prefix(Sha256::digest(&doc).as_ref())),
            doc,
        }
    }

    /// Returns the bytes that the row takes, uncompressed.
    pub fn size(&self) -> u64 {
        let Self { title_lc, cast_lc, genres_lc, doc, .. } = self;
        let genres: usize = genres_lc.iter().map(String::len).sum();
        (ROW_OVERHEAD + title_lc.len() + cast_lc.len() + genres + doc.len()) as u64
    }
}

/// Lowers text, so that comparisons ignore case.
///
/// The final sigma of Greek becomes the other one. Otherwise a substring of a word might not match
/// the word, because lowering chooses the sigma by what follows it.
pub(super) fn fold(text: &str) -> String {
    let lowered = text.to_lowercase();
    if lowered.contains('ς') { lowered.replace('ς', "σ") } else { lowered }
}

/// Lowers a genre, and shortens it to what an index entry holds.
pub(super) fn fold_genre(genre: &str) -> String {
    let folded = fold(genre);
    if folded.len() <= MAX_INDEXED_GENRE {
        return folded;
    }
    format!("sha256:{:x}", Sha256::digest(folded))
}

/// Returns the identity of a movie: a digest of title, year and href. U+0000 ends the title, which
/// cannot contain it. A missing href differs from an empty one.
fn identity(movie: &Movie) -> Uuid {
    let mut hasher = Sha256::new();
    hasher.update(&*movie.title);
    hasher.update([0]);
    hasher.update(movie.year.get().to_be_bytes());
    if let Some(href) = &movie.href {
        hasher.update([1]);
        hasher.update(&**href);
    }
    Uuid::from_bytes(digest_prefix(hasher.finalize().as_ref()))
}

fn digest_prefix<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut prefix = [0; N];
    prefix.copy_from_slice(&digest[..N]);
    prefix
}
