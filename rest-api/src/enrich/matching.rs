//! Which film of TMDB a movie is: the best one by points, or none (docs/adr/0018-details.md has the rule).
//!
//! | | points |
//! | --- | --- |
//! | the title is that of the film, or its original title | 60 |
//! | it is an alternative or translated title | 55 |
//! | it is nearly one: an article, spaces, one letter, a subtitle | 35 |
//! | the year is the same; one away | 30; 10 |
//! | one name of the cast is the same; two; more | 10; 25; 30 |
//! | both have a cast, and not even a surname is the same | -30 |
//!
//! The best film needs 85 points, and 10 more than the next. So the same title and year are enough if nothing speaks
//! against them; another year, or nearly the title, needs two people. If there are more films than are looked at, it
//! needs 100 points: also a name of the cast.

use std::{collections::BTreeSet, ops::RangeInclusive};

use strsim::osa_distance;

use crate::store::search_key;

/// The points that a film needs, and how many more than the next one.
const NEEDED: i32 = 85;
const LEAD: i32 = 10;

/// Points beyond these do not make a match any better. Title and year alone give fewer.
const BEST: i32 = 100;

/// The length of words, in letters, in which one may be wrong. Roman numbers are shorter.
const MISSPELT: RangeInclusive<usize> = 5..=50;

/// What tells parts of a work apart: a title that has more of these is another one.
const PARTS: [&str; 8] = ["part", "parts", "vol", "volume", "chapter", "episode", "book", "season"];

/// How many characters of a title are compared: all of one of the catalogue.
const MAX_TITLE: usize = 1_000;

/// What may follow a surname.
const SUFFIXES: [&str; 4] = ["jr", "sr", "ii", "iii"];

/// What stands in front of a subtitle.
const SUBTITLES: [&str; 5] = [":", " (", " – ", " — ", " - "];

/// Articles that a title may begin with.
const ARTICLES: [&str; 14] =
    ["a", "an", "the", "le", "la", "les", "un", "une", "der", "die", "das", "el", "il", "los"];

/// A movie of the catalogue, as far as it is compared.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) year: i32,
    title: Title,
    cast: Vec<Name>,
}

/// A film of TMDB, as far as it is compared.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidate {
    pub(super) year: Option<i32>,
    /// Its title and its original title.
    pub(super) titles: Vec<String>,
    /// Other titles, and those in other languages.
    pub(super) other_titles: Vec<String>,
    pub(super) cast: Vec<String>,
}

/// How a title fits, the best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Fit {
    Same,
    Near,
    Another,
}

/// A title in the form in which titles are compared: that of search (docs/adr/0012-search.md).
#[derive(Clone, Debug)]
struct Title {
    words: Vec<String>,
    /// What may be the title without its subtitle.
    main: Vec<Vec<String>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Name {
    whole: String,
    surname: String,
}

/// The best film so far, and what the next one has.
#[derive(Debug)]
pub(super) struct Best<T> {
    best: Option<(i32, T)>,
    next: i32,
    /// Whether films were left out that may fit as well.
    has_unseen: bool,
}

impl Subject {
    pub(super) fn new(title: &str, year: i32, cast: &[String]) -> Self {
        Self { year, title: Title::new(title), cast: names(cast) }
    }

    /// Returns whether a film of another year can be this movie: that takes two people.
    pub(super) fn may_be_of_another_year(&self) -> bool {
        self.cast.len() >= 2
    }

    /// Returns how well the best of `titles` fits.
    pub(super) fn fit<'a>(&self, titles: impl IntoIterator<Item = &'a String>) -> Fit {
        let fits = titles.into_iter().map(|title| self.title.fit(&Title::new(title)));
        fits.min().unwrap_or(Fit::Another)
    }

    /// Returns the points of a film; none if its title or its year is another.
    pub(super) fn points(&self, film: &Candidate) -> Option<i32> {
        let year = match (film.year? - self.year).abs() {
            0 => 30,
            1 => 10,
            _ => return None,
        };
        let title = match (self.fit(&film.titles), self.fit(&film.other_titles)) {
            (Fit::Same, _) => 60,
            (_, Fit::Same) => 55,
            (Fit::Near, _) | (_, Fit::Near) => 35,
            _ => return None,
        };
        Some(title + year + self.cast_points(&names(&film.cast)))
    }

    fn cast_points(&self, others: &[Name]) -> i32 {
        let shared = self.cast.iter().filter(|name| others.contains(name)).count();
        let has_relative = |name: &Name| others.iter().any(|other| other.surname == name.surname);
        match shared {
            0 if self.cast.is_empty() || others.is_empty() => 0,
            0 if self.cast.iter().any(has_relative) => 0,
            0 => -30,
            1 => 10,
            2 => 25,
            _ => 30,
        }
    }
}

impl Title {
    fn new(title: &str) -> Self {
        let end = title.char_indices().nth(MAX_TITLE).map_or(title.len(), |(at, _)| at);
        let title = &title[..end];
        let ends = SUBTITLES.iter().filter_map(|mark| title.find(mark));
        let main = ends.map(|at| words(&title[..at])).filter(|words| !words.is_empty());
        Self { words: words(title), main: main.collect() }
    }

    fn fit(&self, other: &Self) -> Fit {
        if self.words == other.words {
            return Fit::Same;
        }
        let (one, two) = (without_article(&self.words), without_article(&other.words));
        let is_near = one == two
            || one.concat() == two.concat()
            || is_misspelt(one, two)
            || self.is_main_of(other)
            || other.is_main_of(self);
        if is_near { Fit::Near } else { Fit::Another }
    }

    /// Returns whether the other title is this one with a subtitle, which names no part of it.
    fn is_main_of(&self, other: &Self) -> bool {
        other.main.contains(&self.words)
            && !other.words.iter().skip(self.words.len()).any(|word| is_part(word))
    }
}

/// Returns the words of a text as search compares them.
fn words(text: &str) -> Vec<String> {
    search_key(text).split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn without_article(words: &[String]) -> &[String] {
    match words {
        [first, rest @ ..] if !rest.is_empty() && ARTICLES.contains(&first.as_str()) => rest,
        _ => words,
    }
}

/// Returns whether one letter of one long word is wrong.
fn is_misspelt(one: &[String], two: &[String]) -> bool {
    let mut differing = one.iter().zip(two).filter(|(one, two)| one != two);
    let (Some((one_word, two_word)), None) = (differing.next(), differing.next()) else {
        return false;
    };
    let may_be_misspelt = |word: &String| {
        MISSPELT.contains(&word.chars().count()) && !word.chars().any(|c| c.is_ascii_digit())
    };
    one.len() == two.len()
        && may_be_misspelt(one_word)
        && may_be_misspelt(two_word)
        && osa_distance(one_word, two_word) == 1
}

/// Returns whether a word of a title tells parts of a work apart.
fn is_part(word: &str) -> bool {
    let is_roman = word.chars().all(|c| "ivx".contains(c));
    PARTS.contains(&word) || is_roman || word.chars().any(|c| c.is_ascii_digit())
}

fn names(cast: &[String]) -> Vec<Name> {
    let keys: BTreeSet<String> = cast.iter().map(|name| words(name).join(" ")).collect();
    let name = |whole: String| {
        let surname = whole.rsplit(' ').find(|word| !SUFFIXES.contains(word));
        Name { surname: surname.unwrap_or(&whole).to_owned(), whole }
    };
    keys.into_iter().filter(|key| !key.is_empty()).map(name).collect()
}

impl<T> Best<T> {
    pub(super) fn new() -> Self {
        Self { best: None, next: 0, has_unseen: false }
    }

    /// Notes that there are more films than are looked at.
    pub(super) fn note_unseen(&mut self) {
        self.has_unseen = true;
    }

    pub(super) fn add(&mut self, points: i32, film: T) {
        match &self.best {
            Some((best, _)) if points <= *best => self.next = self.next.max(points),
            _ => {
                let former = self.best.replace((points, film));
                self.next = self.next.max(former.map_or(0, |(points, _)| points));
            }
        }
    }

    /// Returns whether no film that follows can come near: the best one has more than title and year alone give.
    pub(super) fn is_certain(&self) -> bool {
        self.best.as_ref().is_some_and(|(best, _)| *best >= BEST)
    }

    /// Returns whether any film has the points that it needs. It may not be the only one.
    pub(super) fn has_any(&self) -> bool {
        self.best.as_ref().is_some_and(|(best, _)| *best >= NEEDED)
    }

    /// Returns the film that it is, and a score from 0 to 1; none if no one is good enough, or no one the best.
    pub(super) fn film(self) -> Option<(f64, T)> {
        let (points, film) = self.best?;
        let needed = if self.has_unseen { BEST } else { NEEDED };
        let is_it = points >= needed && points - self.next >= LEAD;
        is_it.then(|| (f64::from(points.min(BEST)) / f64::from(BEST), film))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn points(movie: (&str, i32, &[&str]), film: (&[&str], &[&str], i32, &[&str])) -> Option<i32> {
        let (title, year, cast) = movie;
        let (titles, other_titles, film_year, film_cast) = film;
        let candidate = Candidate {
            year: Some(film_year),
            titles: strings(titles),
            other_titles: strings(other_titles),
            cast: strings(film_cast),
        };
        Subject::new(title, year, &strings(cast)).points(&candidate)
    }

    #[test]
    fn the_points_are_those_of_the_table() {
        let cast: &[&str] = &["Ann A", "Bob B", "Cy C"];
        let movie = ("The Film", 1950, cast);
        let of =
            |title: &str, year, film_cast: &[&str]| points(movie, (&[title], &[], year, film_cast));
        assert_eq!(of("the film!", 1950, &[]), Some(90));
        assert_eq!(of("The Film", 1951, &[]), Some(70));
        assert_eq!(of("The Film", 1952, cast), None);
        assert_eq!(of("A Film", 1950, &[]), Some(65));
        assert_eq!(of("The Film: A Story", 1950, &[]), Some(65));
        assert_eq!(of("The Film: Part One", 1950, cast), None);
        assert_eq!(of("Another", 1950, cast), None);
        assert_eq!(of("The Film", 1950, &["X Y", "Ann A"]), Some(100));
        assert_eq!(of("The Film", 1950, &["Bob B", "Ann A"]), Some(115));
        assert_eq!(of("The Film", 1950, cast), Some(120));
        assert_eq!(of("The Film", 1950, &["X Y"]), Some(60));
        assert_eq!(of("The Film", 1950, &["X Y", "Dan A, Jr."]), Some(90));
        assert_eq!(points(movie, (&["Le Film"], &["The Film"], 1950, &[])), Some(85));
        // A name that is there twice counts once.
        let twice = ("The Film", 1950, &["Ann A", "ann a"][..]);
        assert_eq!(points(twice, (&["The Film"], &[], 1950, &["Ann A"])), Some(100));
    }

    #[test]
    fn titles_are_near_that_differ_in_little() {
        let fit = |one: &str, two: &str| {
            let fit = Title::new(one).fit(&Title::new(two));
            assert_eq!(Title::new(two).fit(&Title::new(one)), fit, "{one} {two}");
            fit
        };
        for (one, two) in [
            ("Amélie", "AMELIE"),
            ("Pride & Prejudice", "Pride and Prejudice"),
            ("WALL·E", "Wall-E"),
            ("$", "$"),
            ("Ocean's Eleven", "Ocean’s Eleven"),
        ] {
            assert_eq!(fit(one, two), Fit::Same, "{one} {two}");
        }
        for (one, two) in [
            ("Spiderman", "Spider-Man"),
            ("8½", "8 1/2"),
            ("The Gold Rush", "Gold Rush"),
            ("Le Samouraï", "The Samourai"),
            ("Borat", "Borat: Cultural Learnings"),
            ("Night of the Hunter", "The Night of the Huntre"),
        ] {
            assert_eq!(fit(one, two), Fit::Near, "{one} {two}");
        }
        for (one, two) in [
            ("Rocky II", "Rocky III"),
            ("Film 2001", "Film 2010"),
            ("Alien", "Alien 3"),
            ("The Kiss", "The Kit"),
            ("$", "%"),
            ("Kill Bill", "Kill Bill: Vol. 1"),
            ("Dune", "Dune: Part Two"),
            ("Star Wars", "Star Wars: Episode I"),
            ("Spider", "Spider-Man"),
            ("The", "A"),
            ("Saw", "Saw V"),
            ("Hannah", "Hannah and Her Sisters"),
        ] {
            assert_eq!(fit(one, two), Fit::Another, "{one} {two}");
        }
    }

    #[test]
    fn the_best_film_needs_enough_points_and_a_lead() {
        let best = |points: &[i32]| {
            let mut best = Best::new();
            for (film, points) in points.iter().enumerate() {
                best.add(*points, film);
            }
            best.film()
        };
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[80]), None);
        assert_eq!(best(&[85]), Some((0.85, 0)));
        assert_eq!(best(&[60, 120, 90]), Some((1.0, 1)));
        assert_eq!(best(&[90, 90]), None);
        assert_eq!(best(&[90, 85, 95]), None);
        assert_eq!(best(&[120, 60, 111]), None);
        assert_eq!(best(&[100, 90]), Some((1.0, 0)));
        for (points, film) in [(90, None), (100, Some((1.0, ())))] {
            let mut crowded = Best::new();
            crowded.note_unseen();
            crowded.add(points, ());
            assert_eq!(crowded.film(), film);
        }
    }
}
