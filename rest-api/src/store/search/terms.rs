//! What the search index has of a movie: its terms, and the key of its title.
//!
//! A term is one letter and a word or two joined words:
//!
//! | term | of |
//! | --- | --- |
//! | `=spiderman` | the whole title, joined |
//! | `tspider`, `tman` | each word of the title |
//! | `Tspiderman` | each two neighbouring words of the title |
//! | `ctom`, `chanks` | each word of the cast |
//! | `Ctomhanks` | each two neighbouring words of one name |
//! | `y2002` | the year |
//! | `pr-`, `p-m` | each two neighbouring characters of the title, but common ones ([`super::pairs`]) |
//! | `Pj.` | each two neighbouring characters of a name, but common ones |
//! | `P` | a cast whose end has no terms |
//!
//! Two joined words stand for a space that is missing or too many, and keep the words of one name together:
//! without them, "john smith" would find whoever played with a John and a Smith.

use std::collections::BTreeSet;

use super::{
    pairs::{Field, MORE_PAIRS},
    words::words,
};
use crate::store::catalogue_row::NAME_SEPARATOR;

/// The largest key of a title, in bytes. An index entry holds 2.7 kB.
const MAX_KEY: usize = 1024;

/// The largest size of the terms of a movie, in bytes. A tsvector holds 1 MiB. The last names of a longer cast are
/// not searched for; filters find them.
const MAX_TERMS: usize = 200_000;

/// What the search index has of a movie.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store) struct SearchText {
    /// The words of the title, separated by spaces.
    pub(in crate::store) title_key: String,
    /// The terms, separated by spaces. No term contains one.
    pub(in crate::store) terms: String,
}

impl SearchText {
    /// Computes what the index has of a movie, from its folded columns.
    pub(in crate::store) fn new(title_lc: &str, year: i32, cast_lc: &str) -> Self {
        let title = words(title_lc);
        let mut terms = BTreeSet::from([whole(&title), format!("y{year}")]);
        add(&mut terms, ["t", "T"], &title);
        terms.extend(Field::Title.pairs(title_lc));
        let mut size = 0;
        for name in cast_lc.split(NAME_SEPARATOR) {
            size += 4 * name.len();
            if size > MAX_TERMS {
                terms.insert(MORE_PAIRS.to_owned());
                break;
            }
            terms.extend(Field::Cast.pairs(name));
            add(&mut terms, ["c", "C"], &words(name));
        }
        let terms = terms.into_iter().collect::<Vec<_>>().join(" ");
        Self { title_key: key(&title), terms }
    }
}

/// Returns the key of a title with these words.
pub(super) fn key(words: &[String]) -> String {
    let mut key = words.join(" ");
    key.truncate(key.floor_char_boundary(MAX_KEY));
    key
}

/// Returns the term of a whole title with these words.
pub(super) fn whole(words: &[String]) -> String {
    let mut term = format!("={}", words.concat());
    term.truncate(term.floor_char_boundary(MAX_KEY));
    term
}

/// Adds the terms of a text with these words: each, and each two neighbours.
fn add(terms: &mut BTreeSet<String>, [single, joined]: [&str; 2], words: &[String]) {
    terms.extend(words.iter().map(|word| format!("{single}{word}")));
    terms.extend(words.windows(2).map(|pair| format!("{joined}{}{}", pair[0], pair[1])));
}

/// Returns the words of these terms, each once.
pub(in crate::store) fn words_of_terms(terms: &[impl AsRef<str>]) -> BTreeSet<&str> {
    let words = terms.iter().flat_map(|terms| terms.as_ref().split(' '));
    words.filter_map(|term| term.strip_prefix(['t', 'c'])).collect()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::store::folding::FOLDING;

    #[test]
    fn a_movie_has_the_terms_of_its_title_its_year_and_each_name() {
        let text = SearchText::new("spider-man", 2002, "tobey maguire\u{1f}j. k. simmons\u{1f}");
        assert_eq!(text.title_key, "spider man");
        assert_eq!(
            text.terms,
            "=spiderman Cjk Cksimmons Ctobeymaguire Pj. Pk. Tspiderman cj ck cmaguire csimmons ctobey \
             p-m pr- tman tspider y2002"
        );
        let terms = [text.terms];
        let words = words_of_terms(&terms);
        let expected = ["j", "k", "maguire", "man", "simmons", "spider", "tobey"];
        assert_eq!(words.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_movie_without_words_has_terms() {
        let text = SearchText::new(" ", 1999, "");
        assert_eq!((text.title_key.as_str(), text.terms.as_str()), ("", "= y1999"));
    }

    #[test]
    fn what_an_index_holds_is_bounded() {
        let names: Vec<String> = (0..100_000).map(|n| format!("name{n} é{n}")).collect();
        let text = SearchText::new(&"ab ".repeat(1000), 1999, &names.join("\u{1f}"));
        assert!(text.terms.len() < 1 << 20, "{}", text.terms.len());
        assert_eq!(text.title_key.len(), MAX_KEY);
        let longest = SearchText::new(&"\u{10400}".repeat(1000), 1999, "");
        let longest = longest.terms.split(' ').map(str::len).max();
        assert!(longest.unwrap() < 2046);
    }

    /// Filters depend on the terms of stored movies: without a pair that a newer release looks up, a movie is not found.
    #[test]
    fn other_terms_have_another_folding() {
        let mut hasher = Sha256::new();
        for (first, second) in
            ('\0'..='\u{17f}').flat_map(|a| ('\0'..='\u{17f}').map(move |b| (a, b)))
        {
            let text = format!("{first}{second}");
            hasher.update(SearchText::new(&text, 1999, &text).terms);
        }
        let names: Vec<String> = (0..10_000).map(|n| format!("ann-{n} o'neil")).collect();
        hasher.update(SearchText::new("七人の侍", 1954, &names.join("\u{1f}")).terms);
        let digest = format!("{:x}", hasher.finalize());
        assert_eq!(
            (FOLDING, &digest[..16]),
            ("4-unicode-18.0", "21145723f623170f"),
            "the terms have changed: change FOLDING, too, so that existing catalogues are migrated"
        );
    }
}
