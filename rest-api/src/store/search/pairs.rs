//! Pairs of neighbouring characters, for filters without three letters or digits in a row: `TV`, `映画`, `S.O.S.`.
//!
//! The trigram indexes of title and cast do not serve such a filter. A movie has the pairs of its texts as terms, but
//! for the most common ones: those are found quickly by reading movies in the order of the page.

use std::collections::BTreeSet;

use super::condition::Condition;

/// A text of a movie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::store) enum Field {
    /// Its title.
    Title,
    /// The names of its cast.
    Cast,
}

/// The term of a movie whose cast has more pairs than its terms.
pub(super) const MORE_PAIRS: &str = "P";

/// Pairs of letters: for each letter from `a` to `z` those that follow it.
type Pairs = [&'static [u8]; 26];

/// The pairs of letters that at least 1 in 200 of 29,759 real titles has.
const COMMON_IN_TITLES: Pairs = [
    b"bcdfghiklmnprstuvwyz",
    b"aeiloruy",
    b"aehiklortu",
    b"adeilnorsuwy",
    b"abcdefgilmnoprstvwxy",
    b"aefilortu",
    b"aeghilorsu",
    b"aeiortu",
    b"acdefglmnoprstv",
    b"aeou",
    b"aeinsy",
    b"adefilostuy",
    b"abeimoprsuy",
    b"acdegiknostuy",
    b"abcdefgiklmnoprstuvwy",
    b"aehiloprstu",
    b"u",
    b"abcdefgiklmnorstuy",
    b"acehiklmopstuw",
    b"acehilorstuwy",
    b"abcdegilmnprst",
    b"aeio",
    b"aehinos",
    b"",
    b"eos",
    b"",
];

/// The pairs of letters that the casts of at least 1 in 200 of these movies have.
const COMMON_IN_CASTS: Pairs = [
    b"abcdefghiklmnprstuvwxyz",
    b"abeilorsuy",
    b"acdeghikloqrtuy",
    b"adegilmnorsuwy",
    b"abcdefghiklmnoprstuvwxyz",
    b"aefilortu",
    b"aeghilnorstuwy",
    b"abeilmnortuy",
    b"abcdefgklmnoprstvxz",
    b"aeioru",
    b"aehilmnorsuwy",
    b"abcdefhiklmopstuvy",
    b"abceimopsuy",
    b"abcdegijklnorstuwyz",
    b"abcdefghiklmnoprstuvwxy",
    b"abehiloprs",
    b"u",
    b"abcdeghijklmnoprstuvwy",
    b"abcehiklmopstuwy",
    b"aceghilmnorstuwyz",
    b"abcdefgiklmnprstyz",
    b"aeioy",
    b"aefhilnorsy",
    b"aiot",
    b"acdelmnorstw",
    b"aeiz",
];

impl Field {
    /// Returns the terms of the pairs of a folded text.
    pub(super) fn pairs(self, text: &str) -> BTreeSet<String> {
        let (prefix, common) = match self {
            Self::Title => ('p', &COMMON_IN_TITLES),
            Self::Cast => ('P', &COMMON_IN_CASTS),
        };
        let pairs = text.chars().zip(text.chars().skip(1));
        let is_term = |(first, second): &(char, char)| {
            // Terms are separated by spaces.
            !first.is_whitespace() && !second.is_whitespace() && !contains(common, *first, *second)
        };
        pairs
            .filter(is_term)
            .map(|(first, second)| String::from_iter([prefix, first, second]))
            .collect()
    }

    /// Returns a condition, as a `tsquery`, that the movies meet whose text contains this folded part. Others may meet
    /// it, too. None if the part has no pair that is a term.
    pub(in crate::store) fn condition(self, part: &str) -> Option<String> {
        let pairs = self.pairs(part);
        let all = Condition::all(pairs.into_iter().map(Condition::Term));
        if self == Self::Title {
            return all.to_tsquery();
        }
        all.to_tsquery()?;
        Condition::Any(vec![all, Condition::Term(MORE_PAIRS.to_owned())]).to_tsquery()
    }
}

fn contains(pairs: &Pairs, first: char, second: char) -> bool {
    let (Ok(first), Ok(second)) = (u8::try_from(first), u8::try_from(second)) else { return false };
    let after = first.checked_sub(b'a').and_then(|letter| pairs.get(usize::from(letter)));
    after.is_some_and(|letters| letters.contains(&second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_without_trigrams_has_a_condition_unless_its_pairs_are_common() {
        for (part, condition) in [
            ("tv", Some("('ptv')")),
            ("映画", Some("('p映画')")),
            ("s.o.", Some("('p.o'&'po.'&'ps.')")),
            ("he's", Some(r"('p''s'&'pe''')")),
            (r"a\", Some(r"('pa\\')")),
            ("3 d", None),
            ("an", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(Field::Title.condition(part).as_deref(), condition, "{part}");
        }
        assert_eq!(Field::Cast.condition("j.").as_deref(), Some("(('Pj.')|'P')"));
        // Common in casts, but not in titles.
        assert_eq!(Field::Cast.condition("hn"), None);
        assert_eq!(Field::Title.condition("hn").as_deref(), Some("('phn')"));
    }

    #[test]
    fn text_has_the_pairs_of_each_of_its_parts() {
        let mut random = fastrand::Rng::with_seed(20);
        let letters: Vec<char> = "abtxz09.'\\-& \u{3000}éя映画\u{301}\u{10400}".chars().collect();
        for _ in 0..20_000 {
            let text: Vec<char> =
                (0..random.usize(2..12)).map(|_| letters[random.usize(..letters.len())]).collect();
            let start = random.usize(..text.len());
            let part = String::from_iter(&text[start..random.usize(start..text.len())]);
            let text = String::from_iter(text);
            for field in [Field::Title, Field::Cast] {
                assert!(field.pairs(&text).is_superset(&field.pairs(&part)), "{text:?} {part:?}");
            }
        }
    }
}
