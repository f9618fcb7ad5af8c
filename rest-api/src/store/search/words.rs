//! The words of a text, in a form that search compares.
//!
//! Beside case, a word forgives accents, the width of letters, apostrophes, and everything that separates
//! words: hyphens, spaces, quotation marks (docs/adr/0010-equal-text.md, the third degree).

use icu_normalizer::{
    ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed,
    properties::CanonicalCombiningClassMapBorrowed,
};

use crate::store::folding::fold;

/// The longest word, in characters. The rest of a longer one is ignored.
const MAX_WORD: usize = 64;

/// The combining classes of marks that distinguish letters: of the sounds of kana, and of the virama of Indic
/// scripts. Marks of class 0 are vowels.
const DISTINGUISHING: [u8; 3] = [0, 8, 9];

/// Returns the words of a text in their order.
///
/// Scripts that do not separate words (Chinese, Japanese, Thai and others) give each two neighbouring characters
/// as a word. A text without letters and digits is one word.
pub(super) fn words(text: &str) -> Vec<String> {
    let simple = simplify(&fold(text));
    let mut words = Vec::new();
    let mut word = Vec::new();
    for c in simple.chars().chain([' ']) {
        if c == '&' {
            end_word(&mut words, &mut word);
            words.push("and".to_owned());
        } else if is_part_of_word(c) {
            if word.last().is_some_and(|last| is_unspaced(*last) != is_unspaced(c)) {
                end_word(&mut words, &mut word);
            }
            word.push(c);
        } else if !is_apostrophe(c) {
            end_word(&mut words, &mut word);
        }
    }
    if words.is_empty() {
        let rest = simple.chars().filter(|c| !c.is_whitespace() && !c.is_control());
        let rest: String = rest.take(MAX_WORD).collect();
        words.extend(Some(rest).filter(|rest| !rest.is_empty()));
    }
    words
}

/// Returns folded text without accents, in letters of the usual width.
fn simplify(folded: &str) -> String {
    if folded.is_ascii() {
        return folded.to_owned();
    }
    let decomposed = DecomposingNormalizerBorrowed::new_nfkd().normalize(folded);
    let classes = CanonicalCombiningClassMapBorrowed::new();
    let mut plain = String::with_capacity(decomposed.len());
    for c in decomposed.chars() {
        match plain_letters(c) {
            Some(letters) => plain.push_str(letters),
            None if DISTINGUISHING.contains(&classes.get_u8(c)) => plain.push(c),
            None => {}
        }
    }
    // Letters of other widths have cases, too. Hangul and kana are composed again.
    let folded = fold(&plain);
    ComposingNormalizerBorrowed::new_nfc().normalize(&folded).into_owned()
}

/// Returns the letters that people type for one that has no decomposition.
fn plain_letters(c: char) -> Option<&'static str> {
    Some(match c {
        'æ' => "ae",
        'œ' => "oe",
        'ø' => "o",
        'đ' | 'ð' => "d",
        'ħ' => "h",
        'ı' => "i",
        'ł' => "l",
        'þ' => "th",
        _ => return None,
    })
}

/// Whether `c` is part of a word: a letter, a digit, or a mark that distinguishes letters.
fn is_part_of_word(c: char) -> bool {
    use unicode_general_category::{GeneralCategory, get_general_category};
    c.is_alphanumeric()
        || matches!(
            get_general_category(c),
            GeneralCategory::NonspacingMark | GeneralCategory::SpacingMark
        )
}

/// Whether `c` is left out within a word: an apostrophe, or what is written in its place.
fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '`' | '´' | '\u{2bb}'..='\u{2bd}' | '‘' | '’' | '‛' | '′' | '＇')
}

/// Whether `c` belongs to a script that does not separate words.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' // Thai, Lao
        | '\u{1000}'..='\u{109f}' // Myanmar
        | '\u{1780}'..='\u{17ff}' // Khmer
        | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' // kana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}' // Chinese characters
    )
}

/// Appends the word that has ended, if there is one.
fn end_word(words: &mut Vec<String>, word: &mut Vec<char>) {
    match &word[..] {
        [] => {}
        [first, _, ..] if is_unspaced(*first) => {
            words.extend(word.windows(2).map(|pair| pair.iter().collect()));
        }
        word => words.push(word.iter().take(MAX_WORD).collect()),
    }
    word.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_differently_is_one_word() {
        for (one, other) in [
            ("Amélie", "AMELIE"),
            ("Spider-Man: No Way Home", "spider man no way home"),
            ("Spider\u{2010}Man", "Spider\u{2014}Man"),
            ("Ocean’s Eleven", "oceans 'Eleven'"),
            ("Ocean`s", "ocean's"),
            ("“Crocodile” Dundee", "\"crocodile\" dundee"),
            ("Ｔｏｋｙｏ", "tokyo"),
            ("ﾄﾄﾛ", "トトロ"),
            ("Łódź", "lodz"),
            ("Æon Flux", "aeon flux"),
            ("Straße", "STRASSE"),
            ("Fast & Furious", "fast and furious"),
            ("WALL·E", "wall e"),
            ("½", "1 2"),
            ("  a\u{a0}b ", "a b"),
            ("한국", "\u{1112}\u{1161}\u{11ab}국"),
        ] {
            assert_eq!(words(one), words(other), "{one} {other}");
        }
    }

    #[test]
    fn letters_that_differ_stay_different() {
        assert_ne!(words("が"), words("か"));
        assert_ne!(words("ไม"), words("มา"));
        assert_ne!(words("की"), words("का"));
    }

    #[test]
    fn scripts_without_spaces_give_pairs_of_characters() {
        assert_eq!(words("君の名は。"), ["君の", "の名", "名は"]);
        assert_eq!(words("乱"), ["乱"]);
        assert_eq!(words("Ghost in 攻殻"), ["ghost", "in", "攻殻"]);
        assert_eq!(words("東京Story"), ["東京", "story"]);
    }

    #[test]
    fn text_without_letters_is_one_word() {
        assert_eq!(words("???"), ["???"]);
        assert_eq!(words("🎬 🎬"), ["🎬🎬"]);
        assert!(words(" \u{3000}\0\u{1f}").is_empty());
    }

    #[test]
    fn long_words_are_truncated() {
        assert_eq!(words(&"a".repeat(1000))[0].len(), MAX_WORD);
        assert_eq!(words(&"?".repeat(1000))[0].len(), MAX_WORD);
    }

    /// Words that were computed from stored folded text equal those of the text itself.
    #[test]
    fn folded_text_has_the_same_words() {
        let mut random = fastrand::Rng::with_seed(14);
        for _ in 0..100_000 {
            let text: String = (0..random.usize(1..5)).map(|_| random.char(..)).collect();
            assert_eq!(words(&fold(&text)), words(&text), "{text:?}");
        }
    }
}
