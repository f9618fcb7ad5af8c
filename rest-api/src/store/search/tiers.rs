//! The ways in which a movie can match what was typed, best first.
//!
//! | rank | the movie has |
//! | ---: | --- |
//! | 0 | exactly this title |
//! | 10 | a title that begins with this text |
//! | 20 | all words in its title |
//! | 30 | all words in one name |
//! | 40 | all words in title, cast and year |
//! | 50 | all words in one name, the last one begun |
//! | 60 | all words in title, cast and year, the last one begun |
//! | 70 + 2 e | exactly this title, with e edits |
//! | 71 + 2 e | all words in one name, with e edits |
//! | 110 + 2 e | all words in its title, with e edits |
//! | 111 + 2 e | all words in title, cast and year, with e edits |
//! | 200 | all of these but one word |
//!
//! Movies of rank 50 and 60 are results only if there are none of a better one, and so are those from 110 on; those
//! of rank 200 only if there are no others.
//!
//! A movie has the best rank of those that it matches. Of equal rank, the movie that came first is first;
//! titles with the same beginning are in alphabetical order.

use super::{condition::Condition, dictionary::Correction, terms};

/// The ranks of the tiers that are referred to by name.
pub(super) const EXACT: i32 = 0;
pub(super) const TITLE_BEGINS: i32 = 10;
const TITLE: i32 = 20;
const NAME: i32 = 30;
const WORDS: i32 = 40;
pub(super) const NAME_BEGUN: i32 = 50;
const WORD_BEGUN: i32 = 60;
pub(super) const CORRECTED: i32 = 70;
pub(super) const WORDS_CORRECTED: i32 = 110;
pub(super) const ONE_MISSING: i32 = 200;

/// The distance of the ranks of two successive numbers of edits.
const PER_EDIT: i32 = 2;

/// More edits count as so many.
pub(super) const MAX_EDITS: usize = 4;

/// The shortest beginning of a word that other words are found by, in characters. A shorter one would find much of
/// the catalogue.
const MIN_BEGINNING: usize = 3;

/// The largest number of words whose typing errors are corrected.
pub(super) const MAX_CORRECTED: usize = 20;

/// The largest number of words of which one may be missing.
const MAX_INCOMPLETE: usize = 8;

/// The largest number of corrections of one word, and of two neighbouring words.
const MAX_CORRECTIONS: usize = 60;
const MAX_PAIRS: usize = 300;

/// The largest number of corrections of a word while another one is missing.
const MAX_WITH_MISSING: usize = 20;

/// A way to match. A movie meets each slot by one of its options.
#[derive(Clone, Debug)]
pub(super) struct Tier {
    /// The rank of a match without edits.
    pub(super) rank: i32,
    /// Whether another tier of the same list finds all its movies.
    pub(super) is_covered: bool,
    slots: Vec<Slot>,
}

/// What a word or two may stand for: terms, each with the edits that lead to it, the fewest first.
type Slot = Vec<(usize, Condition)>;

impl Tier {
    fn new(rank: i32, slots: Vec<Slot>) -> Self {
        Self { rank, is_covered: false, slots }
    }

    /// Returns the same tier, whose movies another tier of the list finds, too.
    fn covered(self) -> Self {
        Self { is_covered: true, ..self }
    }

    fn exact(rank: i32, conditions: impl IntoIterator<Item = Condition>) -> Self {
        Self::new(rank, conditions.into_iter().map(|condition| vec![(0, condition)]).collect())
    }

    /// Returns the condition that each slot is met with at most so many edits.
    pub(super) fn condition(&self, edits: usize) -> Condition {
        let met = |slot: &Slot| {
            let near = slot.iter().filter(|(needed, _)| *needed <= edits);
            Condition::Any(near.map(|(_, condition)| condition.clone()).collect())
        };
        Condition::all(self.slots.iter().map(met))
    }

    /// Returns the largest number of edits that is distinguished.
    pub(super) fn max_edits(&self) -> usize {
        self.slots.iter().map(largest_edits).sum::<usize>().min(MAX_EDITS)
    }

    /// Returns the rank of a match with so many edits.
    pub(super) fn rank_with(&self, edits: usize) -> i32 {
        self.rank + PER_EDIT * edits.min(MAX_EDITS) as i32
    }

    /// Returns for each slot that needs edits the conditions to meet it with none, with one, and so on.
    pub(super) fn slots_with_edits(&self) -> impl Iterator<Item = Vec<Condition>> {
        self.slots.iter().filter(|slot| largest_edits(slot) > 0).map(|slot| {
            let with = |edits: usize| {
                let options = slot.iter().filter(|(needed, _)| *needed == edits);
                Condition::Any(options.map(|(_, condition)| condition.clone()).collect())
            };
            (0..largest_edits(slot)).map(with).collect()
        })
    }
}

/// Returns the largest number of edits of an option.
fn largest_edits(slot: &Slot) -> usize {
    slot.iter().map(|(edits, _)| *edits).max().unwrap_or_default()
}

/// Returns the score of a movie of this rank: at most 1, larger is better.
pub(in crate::store) fn score(rank: i32) -> f64 {
    let hundredths = match rank {
        ..CORRECTED => 100 - rank,
        CORRECTED..WORDS_CORRECTED => 30 - (rank - CORRECTED) / 2,
        WORDS_CORRECTED..ONE_MISSING => (20 - (rank - WORDS_CORRECTED) / 4).max(6),
        _ => 5,
    };
    f64::from(hundredths) / 100.0
}

/// Returns the tiers of words as they were typed, but for the beginning of the title, which is no condition on
/// terms.
pub(super) fn exact(words: &[String]) -> Vec<Tier> {
    let all = 0..words.len();
    let in_titles = all.clone().map(|at| Condition::any_term(in_title(words, at)));
    vec![
        Tier::exact(EXACT, [Condition::Term(terms::whole(words))]),
        Tier::exact(TITLE, in_titles).covered(),
        Tier::exact(NAME, in_name(words)),
        Tier::exact(WORDS, all.map(|at| anywhere(words, at))),
    ]
}

/// Returns the tiers of words as they were typed, the last one only begun.
pub(super) fn begun(words: &[String]) -> Vec<Tier> {
    let Some((last, first)) = words.split_last() else { return Vec::new() };
    let mut tiers = Vec::new();
    if let Some(before) = first.last() {
        let before_last = if first.len() > 1 { in_name(first) } else { Vec::new() };
        let last = Condition::Beginning(format!("C{before}{last}"));
        tiers.push(Tier::exact(NAME_BEGUN, before_last.into_iter().chain([last])));
    }
    if last.chars().count() >= MIN_BEGINNING {
        let last = ["t", "c"].map(|family| Condition::Beginning(format!("{family}{last}")));
        let before_last = (0..first.len()).map(|at| anywhere(words, at));
        tiers.push(Tier::exact(WORD_BEGUN, before_last.chain([Condition::Any(last.into())])));
    }
    tiers
}

/// Returns the condition that the word at `at` is in title, cast or year.
fn anywhere(words: &[String], at: usize) -> Condition {
    Condition::any_term([in_title(words, at), in_cast(words, at)].concat())
}

/// Returns the tiers of whole titles and names of which some words were mistyped, given the corrections of each.
pub(super) fn corrected(words: &[String], corrections: &[Vec<Correction>]) -> Vec<Tier> {
    if corrections.iter().all(Vec::is_empty) {
        return Vec::new();
    }
    let titles = Tier::new(CORRECTED, vec![whole_titles(words, corrections)]);
    // A single word is no whole name.
    let names = || Tier::new(CORRECTED + 1, names(words, corrections));
    [titles].into_iter().chain((words.len() > 1).then(names)).collect()
}

/// Returns the tiers of words of which some were mistyped, given the corrections of each.
pub(super) fn words_corrected(words: &[String], corrections: &[Vec<Correction>]) -> Vec<Tier> {
    if corrections.iter().all(Vec::is_empty) {
        return Vec::new();
    }
    let slot = |at: usize, exact: Vec<String>, families: &[&str]| -> Slot {
        let near = corrections[at].iter().take(MAX_CORRECTIONS);
        let near = near.map(|Correction { edits, word }| {
            let terms = families.iter().map(|family| format!("{family}{word}"));
            (*edits, Condition::any_term(terms))
        });
        [(0, Condition::any_term(exact))].into_iter().chain(near).collect()
    };
    let all = 0..words.len();
    let in_titles = all.clone().map(|at| slot(at, in_title(words, at), &["t"])).collect();
    let either = |at| [in_title(words, at), in_cast(words, at)].concat();
    let in_either = all.map(|at| slot(at, either(at), &["t", "c"])).collect();
    let titles = Tier::new(WORDS_CORRECTED, in_titles).covered();
    vec![titles, Tier::new(WORDS_CORRECTED + 1, in_either)]
}

/// Returns the tier of all words but one, some of them corrected.
pub(super) fn one_missing(words: &[String], corrections: &[Vec<Correction>]) -> Vec<Tier> {
    if !(2..=MAX_INCOMPLETE).contains(&words.len()) {
        return Vec::new();
    }
    let any = |at: usize| {
        let exact = [in_title(words, at), in_cast(words, at)].concat();
        let near = corrections[at].iter().take(MAX_WITH_MISSING);
        let near =
            near.flat_map(|Correction { word, .. }| [format!("t{word}"), format!("c{word}")]);
        Condition::any_term(exact.into_iter().chain(near))
    };
    let all_but =
        |missing: usize| Condition::all((0..words.len()).filter(|at| *at != missing).map(any));
    let missing = (0..words.len()).map(all_but).collect();
    vec![Tier::exact(ONE_MISSING, [Condition::Any(missing)])]
}

/// Returns the condition that all words are in one name.
pub(super) fn name(words: &[String]) -> Condition {
    Condition::All(in_name(words))
}

/// Returns the terms of a title that the word at `at` stands for: the word, or one that it is joined with a
/// neighbour to.
fn in_title(words: &[String], at: usize) -> Vec<String> {
    in_text(words, at, ["t", "T"])
}

/// Returns the terms of a cast that the word at `at` stands for, and the year.
fn in_cast(words: &[String], at: usize) -> Vec<String> {
    let mut terms = in_text(words, at, ["c", "C"]);
    if words[at].len() == 4 && words[at].bytes().all(|byte| byte.is_ascii_digit()) {
        terms.push(format!("y{}", words[at]));
    }
    terms
}

fn in_text(words: &[String], at: usize, [single, joined]: [&str; 2]) -> Vec<String> {
    let word = &words[at];
    let mut terms = vec![format!("{single}{word}"), format!("{joined}{word}")];
    if let Some(before) = at.checked_sub(1).map(|at| &words[at]) {
        terms.push(format!("{single}{before}{word}"));
    }
    if let Some(after) = words.get(at + 1) {
        terms.push(format!("{single}{word}{after}"));
    }
    terms
}

/// Returns the conditions that all words are in one name: each two neighbours are neighbours there.
fn in_name(words: &[String]) -> Vec<Condition> {
    if let [word] = words {
        return vec![Condition::any_term([format!("c{word}"), format!("C{word}")])];
    }
    let pairs = words.windows(2).map(|pair| pair.concat());
    pairs.map(|pair| Condition::any_term([format!("C{pair}"), format!("c{pair}")])).collect()
}

/// Returns the slot of a whole title with one or two words corrected.
fn whole_titles(words: &[String], corrections: &[Vec<Correction>]) -> Slot {
    let mut titles: Vec<(usize, Vec<&str>)> = vec![(0, words.iter().map(|word| &**word).collect())];
    let mut last = titles.clone();
    for _ in 0..2 {
        let corrected = last.iter().flat_map(|(edits, title)| {
            let corrections = corrections.iter().enumerate();
            corrections.flat_map(move |(at, corrections)| {
                let is_new =
                    title[at..].iter().zip(&words[at..]).all(|(word, typed)| word == typed);
                let corrections = corrections.iter().take(if is_new { MAX_CORRECTIONS } else { 0 });
                corrections.map(move |Correction { edits: more, word }| {
                    let mut title = title.clone();
                    title[at] = word;
                    (edits + more, title)
                })
            })
        });
        last = corrected.collect();
        last.sort();
        last.truncate(MAX_PAIRS);
        titles.extend(last.iter().cloned());
    }
    titles.sort_by_key(|(edits, _)| *edits);
    let whole = |(edits, title): (usize, Vec<&str>)| {
        let title: Vec<String> = title.into_iter().map(str::to_owned).collect();
        (edits, Condition::Term(terms::whole(&title)))
    };
    titles.into_iter().map(whole).collect()
}

/// Returns the slots of two or more words in one name, some of them corrected.
fn names(words: &[String], corrections: &[Vec<Correction>]) -> Vec<Slot> {
    let options = |at: usize| -> Vec<(usize, &str)> {
        let near = corrections[at].iter().take(MAX_CORRECTIONS);
        let near = near.map(|correction| (correction.edits, correction.word.as_str()));
        [(0, words[at].as_str())].into_iter().chain(near).collect()
    };
    let term = |edits: usize, term: String| (edits, Condition::Term(term));
    let pair = |at: usize| {
        let seconds = options(at + 1);
        let pairs = options(at).into_iter().flat_map(|(edits, first)| {
            let seconds = seconds.iter();
            seconds.map(move |(more, second)| (edits + more, format!("C{first}{second}")))
        });
        let mut pairs: Vec<(usize, String)> = pairs.collect();
        pairs.sort();
        pairs.truncate(MAX_PAIRS);
        pairs.into_iter().map(|(edits, pair)| term(edits, pair)).collect()
    };
    (0..words.len() - 1).map(pair).collect()
}
