//! Which texts are equal.
//!
//! - Canonically equivalent texts are the same text everywhere (Unicode Standard Annex 15). For the identity
//!   of a movie that is all: [`canonical`].
//! - For filters, sort orders and genres, case is ignored as well: [`fold`].
//!
//! Both are compared in composed form, so that a part of a text never matches half of a letter that has a
//! composed form: `cafe` is not part of `café`. No rule depends on a language. So the dotless ı of Turkish
//! equals neither i nor I (docs/adr/0010-equal-text.md).

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_normalizer::{
    ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed,
    properties::CanonicalCombiningClassMapBorrowed,
};

/// The version of these rules, of the Unicode tables behind them, and of the terms of movies. The database records the version that
/// its columns were computed with: `rest-api migrate` computes them anew if it differs.
///
/// Tests fail if the tables or the terms change and this does not.
pub(super) const FOLDING: &str = "4-unicode-18.0";

/// The dot that remains of İ when its case is folded.
const DOT_ABOVE: char = '\u{307}';

/// The combining class of marks above a letter.
const ABOVE: u8 = 230;

/// Returns text in composed form (NFC). Canonically equivalent texts give the same.
pub fn canonical(text: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfc().normalize(text)
}

/// Returns text in a form in which case makes no difference: with full case folding, without the dot that
/// İ leaves, and composed.
///
/// Source: Unicode Standard, section 3.13, "canonical caseless matching".
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(text);
    let folded = CaseMapper::new().fold_string(&decomposed);
    let folded = if folded.contains(DOT_ABOVE) { without_dots(&folded).into() } else { folded };
    canonical(&folded).into_owned()
}

/// Removes the dot above each i. Other marks may be between them, but none above the letter
/// (`After_I` in the Unicode file SpecialCasing.txt).
fn without_dots(text: &str) -> String {
    let classes = CanonicalCombiningClassMapBorrowed::new();
    let mut is_after_i = false;
    let is_kept = |c: &char| {
        if *c == DOT_ABOVE && is_after_i {
            return false;
        }
        let class = classes.get_u8(*c);
        is_after_i = *c == 'i' || is_after_i && class != 0 && class != ABOVE;
        true
    };
    text.chars().filter(is_kept).collect()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_version_changes_with_the_unicode_tables() {
        let (nfd, classes) =
            (DecomposingNormalizerBorrowed::new_nfd(), CanonicalCombiningClassMapBorrowed::new());
        let mut hasher = Sha256::new();
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let decomposed = nfd.normalize(&text);
            // The last text has all compositions.
            for text in [&fold(&text), &*canonical(&text), &decomposed, &canonical(&decomposed)] {
                hasher.update(text);
                hasher.update([0xff]);
            }
            hasher.update([classes.get_u8(c)]);
        }
        let tables = format!("{:x}", hasher.finalize());
        assert_eq!(
            (FOLDING, &tables[..16]),
            ("4-unicode-18.0", "e69c66c44f8a54d8"),
            "the tables have changed: change FOLDING, too, so that existing catalogues are migrated"
        );
    }

    #[test]
    fn case_and_normal_form_make_no_difference() {
        for (one, other) in [
            ("Klaußner", "KLAUSSNER"),
            ("ﬁlm", "FILM"),
            ("İstanbul", "istanbul"),
            ("I\u{307}stanbul", "ISTANBUL"),
            ("I\u{323}\u{307}x", "ị\u{307}X"),
            ("ΟΔΟΣ", "οδος"),
            ("Dolores del Río", "DOLORES DEL RI\u{301}O"),
            ("ᾳ\u{301}", "\u{391}\u{301}\u{345}"),
            ("\u{212b}", "a\u{30a}"),
            ("한", "\u{1112}\u{1161}\u{11ab}"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} {other}");
        }
        assert_eq!(fold("İ"), "i");
        assert_ne!(fold("ı"), fold("I"));
        assert!(!fold("cafe\u{301}").contains("cafe"));
        assert_eq!(canonical("e\u{301}"), canonical("é"));
        assert_ne!(canonical("É"), canonical("é"));
    }

    /// Other crates, with tables of an older Unicode version, come to the same.
    #[test]
    fn other_implementations_agree() {
        use caseless::Caseless;
        use unicode_normalization::UnicodeNormalization;

        let mut random = fastrand::Rng::with_seed(13);
        let singles = ('\0'..'\u{a640}').map(String::from);
        let several = (0..200_000).map(|_| {
            (0..random.usize(2..5)).map(|_| random.char('\0'..'\u{a640}')).collect::<String>()
        });
        for text in singles.chain(several) {
            let other: String = text.nfd().default_case_fold().nfc().collect();
            // Only this module removes the dot of İ.
            if !other.nfd().any(|c| c == DOT_ABOVE) {
                assert_eq!(fold(&text), other, "{text:?}");
            }
            assert_eq!(canonical(&text), text.nfc().collect::<String>(), "{text:?}");
        }
    }

    /// Folding folded text changes nothing, and the normal form of text makes no difference, for letters
    /// with several marks in any order.
    #[test]
    fn folding_is_the_same_for_all_normal_forms() {
        let mut random = fastrand::Rng::with_seed(12);
        let marks = ['\u{307}', '\u{323}', '\u{301}', '\u{345}', '\u{328}', '\u{30a}', '\u{3099}'];
        let nfd = DecomposingNormalizerBorrowed::new_nfd();
        for _ in 0..200_000 {
            let mut text = String::new();
            for _ in 0..random.usize(1..4) {
                text.push(if random.bool() {
                    random.choice(['i', 'I', 'ß', 'ΐ', 'İ', 'か']).unwrap()
                } else {
                    random.char(..)
                });
                for _ in 0..random.usize(0..4) {
                    text.push(random.choice(marks).unwrap());
                }
            }
            let folded = fold(&text);
            assert_eq!(fold(&folded), folded, "{text:?}");
            assert_eq!(fold(&nfd.normalize(&text)), folded, "{text:?}");
            assert_eq!(fold(&canonical(&text)), folded, "{text:?}");
        }
    }
}
