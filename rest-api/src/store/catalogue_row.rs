//! A movie as a row of the catalogue.

use std::collections::HashSet;

use schema::Movie;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    MovieWithProvenance, StoreError,
    folding::{canonical, fold},
};

/// Separates the names of the cast in one column. The schema forbids it within a name.
pub(super) const NAME_SEPARATOR: char = '\u{1f}';

/// A longer genre, in bytes, is indexed by its digest: an index entry holds at most 2.7 kB.
const MAX_INDEXED_GENRE: usize = 500;

/// What a row takes beside its text, in bytes. `staging::deduplicate` counts the same.
pub(super) const ROW_OVERHEAD: usize = 100;

/// A movie with the columns that are computed from it.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueRow {
    pub(super) folded: FoldedText,
    pub(super) year: i32,
    pub(super) content_hash: i64,
    pub(super) doc: String,
}

/// The columns that follow from the rules of equal text, and change with [`super::folding::FOLDING`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoldedText {
    pub(super) identity: Uuid,
    pub(super) title_lc: String,
    pub(super) cast_lc: String,
    pub(super) genres_lc: Vec<String>,
}

impl FoldedText {
    /// Computes the columns of a movie with these properties.
    pub(super) fn new<'a>(
        title: &str,
        year: i64,
        href: Option<&str>,
        cast: impl Iterator<Item = &'a str>,
        genres: impl Iterator<Item = &'a str>,
    ) -> Self {
        let names: Vec<String> = cast.map(fold).collect();
        let mut genres_lc: Vec<String> = genres.map(fold_genre).collect();
        if genres_lc.len() > 1 {
            let mut known = HashSet::with_capacity(genres_lc.len());
            genres_lc.retain(|genre| known.insert(genre.clone()));
        }
        Self {
            identity: identity(title, year, href),
            title_lc: fold(title),
            cast_lc: names.join("\u{1f}"),
            genres_lc,
        }
    }

    /// Returns the genres as one text, joined by the separator of names, which no genre contains.
    pub(super) fn joined_genres(&self) -> String {
        self.genres_lc.join(NAME_SEPARATOR.encode_utf8(&mut [0; 4]))
    }
}

impl CatalogueRow {
    /// Computes the row of `movie`.
    #[expect(
        clippy::expect_used,
        reason = "strings, integers and lists of strings can always be written as JSON"
    )]
    pub fn new(movie: &Movie) -> Self {
        let doc = serde_json::to_string(movie).expect("a movie is JSON");
        let Movie { title, href, cast, genres, .. } = movie;
        let year = movie.year.get();
        let [cast, genres] = [cast, genres].map(|names| names.iter().map(|name| &***name));
        Self {
            folded: FoldedText::new(title, year, href.as_deref(), cast, genres),
            year: i32::try_from(year).unwrap_or_default(),
            content_hash: i64::from_be_bytes(digest_prefix(Sha256::digest(&doc).as_ref())),
            doc,
        }
    }

    /// Computes the row of a movie that the catalogue has.
    ///
    /// # Errors
    /// If the document is no movie.
    pub(super) fn from_doc(doc: &str) -> Result<Self, StoreError> {
        let malformed =
            |error| StoreError::Setup(format!("the document of a movie is malformed: {error}"));
        Ok(Self::new(&serde_json::from_str(doc).map_err(malformed)?))
    }

    /// Whether it is content of this movie: title, year and href are equal.
    pub fn is_content_of(&self, movie: &MovieWithProvenance) -> bool {
        self.folded.identity == movie.identity
    }

    /// Returns the bytes that the row takes, uncompressed.
    pub fn size(&self) -> u64 {
        let Self { folded: FoldedText { title_lc, cast_lc, genres_lc, .. }, doc, .. } = self;
        let genres: usize = genres_lc.iter().map(String::len).sum();
        (ROW_OVERHEAD + title_lc.len() + cast_lc.len() + genres + doc.len()) as u64
    }
}

/// Folds a genre, and shortens it to what an index entry holds.
pub(super) fn fold_genre(genre: &str) -> String {
    let folded = fold(genre);
    if folded.len() <= MAX_INDEXED_GENRE {
        return folded;
    }
    format!("sha256:{:x}", Sha256::digest(folded))
}

/// Returns the identity of a movie: a digest of title, year and href, the texts in composed form. U+0000
/// ends the title, which cannot contain it. A missing href differs from an empty one.
fn identity(title: &str, year: i64, href: Option<&str>) -> Uuid {
    let mut hasher = Sha256::new();
    hasher.update(canonical(title).as_bytes());
    hasher.update([0]);
    hasher.update(year.to_be_bytes());
    if let Some(href) = href {
        hasher.update([1]);
        hasher.update(canonical(href).as_bytes());
    }
    Uuid::from_bytes(digest_prefix(hasher.finalize().as_ref()))
}

fn digest_prefix<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut prefix = [0; N];
    prefix.copy_from_slice(&digest[..N]);
    prefix
}
