//! How a page in the order of ids is read.
//!
//! Postgres plans a query from the text of its filters: that takes longer than to find a few movies, and it assumes that
//! matches are spread evenly over the ids. But movies of a year, an actor or a genre arrive together. So the statements
//! of pages have one plan each, whatever their values are, and a sample of the catalogue says which one is fast
//! (docs/adr/0020-plans-by-sample.md).

use super::{
    MovieQuery,
    filters::{Filter, Years, merged},
    reads::Cost,
    sample::Sample,
};

/// What a step takes, in microseconds: to check a filter of the next movie in the order of ids, the next one of a year,
/// and one that other indexes find.
const WALK: f64 = 0.25;
const NEXT_OF_YEAR: f64 = 0.6;
const FETCH: f64 = 1.0;

/// What an index takes, for each movie that it finds, and for each movie of the catalogue if it is one of trigrams: most
/// texts have some common ones, whose lists are long.
const INDEX: f64 = 30.0;
const FOUND: f64 = 0.06;
const TRIGRAMS: f64 = 0.003;

/// What it takes to begin with another year.
const YEAR: f64 = 2.0;

/// Of how many filters with an index the use is considered.
const MAX_INDEXES: usize = 4;

/// A query that takes longer, in microseconds, waits for its turn.
const MANY: f64 = 100_000.0;

/// How many movies of the sample are assumed to match a filter that none of them matches.
const UNSEEN: f64 = 0.5;

/// A way to read a page.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) path: Path,
    /// What it takes, in microseconds.
    microseconds: f64,
}

/// Where the movies of a page come from. Those that do not match the other filters are left out.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Path {
    /// All movies in the order of ids, until the page is full.
    Walk,
    /// The movies of this year in the order of ids, until the page is full.
    Year(i32),
    /// As many movies as the page has of each of these years, which are then sorted.
    EachYear(Vec<Years>),
    /// All movies that the indexes of one or two filters find, which are then sorted. The filters have these numbers.
    Indexes(Vec<usize>),
}

impl Plan {
    /// For a page of the catalogue without filters.
    pub(super) const WALK: Self = Self { path: Path::Walk, microseconds: 0.0 };

    /// Returns what the query reads.
    pub(super) fn cost(&self) -> Cost {
        if self.microseconds > MANY { Cost::Scan } else { Cost::Index }
    }

    /// Returns the fastest way to read a page of movies that match all of `filters`.
    pub(super) fn choose(query: &MovieQuery, filters: &[Filter<'_>], sample: &Sample) -> Self {
        let estimate = Estimate::new(query, filters, sample);
        let mut fastest = Self { path: Path::Walk, microseconds: estimate.walk() };
        let mut consider = |path, microseconds| {
            if microseconds < fastest.microseconds {
                fastest = Self { path, microseconds };
            }
        };
        for (number, filter) in filters.iter().enumerate() {
            let Filter::Years(years) = filter else { continue };
            let years = merged(years);
            match years[..] {
                [Years(one, last)] if one == last => {
                    consider(Path::Year(one as i32), estimate.year(number));
                }
                _ => consider(Path::EachYear(years), estimate.each_year(number)),
            }
        }
        let rarest = estimate.rarest_with_index();
        for (place, (number, cost)) in rarest.iter().enumerate() {
            consider(Path::Indexes(vec![*number]), cost + estimate.fetch(&[*number]));
            for (other, other_cost) in &rarest[..place] {
                let both = [*other, *number];
                let microseconds = cost + other_cost + estimate.fetch(&both);
                consider(Path::Indexes(both.to_vec()), microseconds);
            }
        }
        fastest
    }
}

/// What the sample says of a query.
struct Estimate<'a> {
    sample: &'a Sample,
    filters: &'a [Filter<'a>],
    /// For each filter, which movies of the sample match it.
    matches: Vec<Vec<bool>>,
    /// Which movies of the sample match all filters.
    all: Vec<bool>,
    /// The first movie of the sample that the page may have.
    start: usize,
    /// How many movies the page has, in movies of the sample: less than one if each stands for many.
    wanted: f64,
}

impl<'a> Estimate<'a> {
    fn new(query: &MovieQuery, filters: &'a [Filter<'a>], sample: &'a Sample) -> Self {
        let matches: Vec<Vec<bool>> = filters.iter().map(|filter| filter.matches(sample)).collect();
        let all = (0..sample.ids.len()).map(|movie| matches.iter().all(|of| of[movie])).collect();
        let start = query.after.map_or(0, |after| sample.ids.partition_point(|id| *id <= after));
        let wanted = (query.limit + 1) as f64 / sample.weight;
        Self { sample, filters, matches, all, start, wanted }
    }

    /// Returns the filters with an index that match the fewest movies, and what their indexes take.
    fn rarest_with_index(&self) -> Vec<(usize, f64)> {
        let with_index = (0..self.filters.len()).filter(|filter| self.filters[*filter].has_index());
        let mut rarest: Vec<usize> = with_index.collect();
        rarest.sort_by_key(|filter| count(&self.matches[*filter]));
        rarest.truncate(MAX_INDEXES);
        rarest.into_iter().map(|filter| (filter, self.index(filter))).collect()
    }

    /// Returns what it takes to read all movies in the order of ids until the page is full.
    fn walk(&self) -> f64 {
        let matches = self.all[self.start..].iter().copied();
        let each = WALK * self.filters.len().max(1) as f64;
        self.read_until_full(matches) * self.sample.weight * each
    }

    /// Returns what it takes to read the movies of one year in the order of ids until the page is full.
    fn year(&self, filter: usize) -> f64 {
        let of_year = self.all.iter().zip(&self.matches[filter]).skip(self.start);
        let of_year = of_year.filter(|(_, is_of_year)| **is_of_year).map(|(matches, _)| *matches);
        (self.read_until_full(of_year) + UNSEEN) * self.sample.weight * NEXT_OF_YEAR
    }

    /// Returns what it takes to read a page of each year.
    fn each_year(&self, filter: usize) -> f64 {
        let in_years = &self.matches[filter];
        let mut years: Vec<i32> = in_years
            .iter()
            .zip(&self.sample.years)
            .filter(|(is_in, _)| **is_in)
            .map(|(_, year)| *year)
            .collect();
        let movies = years.len() as f64;
        years.sort_unstable();
        years.dedup();
        let years = years.len() as f64;
        let matching = count(&self.all) as f64;
        // Of each year until the page is full, or the year ends.
        let read =
            (self.wanted / pessimistic(matching / movies, matching) * years).min(movies) + UNSEEN;
        // The index alone says which movies these are, if there is no other filter.
        let each = if self.filters.len() == 1 { WALK } else { NEXT_OF_YEAR };
        years * YEAR + read * self.sample.weight * each
    }

    /// Returns what it takes to look up a filter by its index.
    fn index(&self, filter: usize) -> f64 {
        let of_filter = self.weight(count(&self.matches[filter]));
        let words = self.filters[filter].indexed_words();
        let movies = self.sample.weight * self.sample.ids.len() as f64;
        INDEX
            + match &words[..] {
                [] => FOUND * of_filter,
                // Mostly it is the whole text.
                [_] => TRIGRAMS * movies + 2.0 * FOUND * of_filter,
                words => {
                    let of_word =
                        |word: &Filter<'_>| self.weight(count(&word.matches(self.sample)));
                    TRIGRAMS * movies + 2.0 * FOUND * words.iter().map(of_word).sum::<f64>()
                }
            }
    }

    /// Returns what it takes to read all movies that match all of these filters, which their indexes have found.
    fn fetch(&self, filters: &[usize]) -> f64 {
        let found = |movie: &usize| filters.iter().all(|filter| self.matches[*filter][*movie]);
        let found = (0..self.sample.ids.len()).filter(found).count();
        // Filters that match nothing of the sample together match less than one alone.
        let share = 1.0 / filters.len() as f64;
        FETCH * self.weight(found) * if found == 0 { share } else { 1.0 }
    }

    /// Returns how many movies so many of the sample stand for.
    fn weight(&self, matching: usize) -> f64 {
        (matching as f64).max(UNSEEN) * self.sample.weight
    }

    /// Returns how many movies of the sample are read until the page is full, all if it never is. The number may have a
    /// fraction: each movie of the sample stands for many.
    ///
    /// A few matches say little: so some more are waited for, and they may be less dense than they seem.
    fn read_until_full(&self, matches: impl Iterator<Item = bool>) -> f64 {
        let wanted = self.wanted + self.wanted.sqrt();
        let (mut read, mut found, mut before, mut full_at) = (0.0, 0.0, 0.0, None);
        for is_match in matches {
            read += 1.0;
            if is_match {
                found += 1.0;
                if found >= wanted && full_at.is_none() {
                    // The matches that it stands for are spread evenly between the one before and this one.
                    full_at = Some(before + (read - before) * (wanted - (found - 1.0)));
                }
                before = read;
            }
        }
        let density = pessimistic(found / read, found);
        full_at.map_or(read, |full_at| full_at.max(self.wanted / density).min(read))
    }
}

fn count(matches: &[bool]) -> usize {
    matches.iter().filter(|matches| **matches).count()
}

/// Returns a share that is likely to be smaller than the real one, of one that was found with so many matches.
fn pessimistic(share: f64, matches: f64) -> f64 {
    if matches > 0.0 { share * (1.0 - 1.0 / matches.sqrt()) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Filters, Sort},
        *,
    };

    /// A catalogue of 100,000 movies, of which each hundredth is in the sample. They came year by year. One in two titles
    /// has "the", one in 500 "sap". All westerns came late.
    fn sample() -> Sample {
        let mut sample = Sample::default();
        sample.weight = 100.0;
        for number in 0..1000 {
            let title = format!(
                "{} {}",
                if number % 2 == 0 { "the" } else { "" },
                if number % 500 == 250 { "sap" } else { "" }
            );
            let genres: &[&str] = if number > 950 { &["western"] } else { &["drama"] };
            let year = 1900 + i32::try_from(number / 10).unwrap();
            sample.push(number * 100, year, &title, "ann lee", genres);
        }
        sample
    }

    fn path(filters: Filters, after: Option<i64>) -> Path {
        let query = MovieQuery { filters, sort: Sort::Id, limit: 20, after };
        Plan::choose(&query, &query.filters.each().unwrap(), &sample()).path
    }

    fn title(title: &str) -> Filters {
        Filters { titles: vec![title.to_owned()], ..Filters::default() }
    }

    fn genre(genre: &str) -> Filters {
        Filters { genres: vec![genre.to_owned()], ..Filters::default() }
    }

    #[test]
    fn what_many_movies_match_is_read_in_the_order_of_ids() {
        assert_eq!(path(Filters::default(), None), Path::Walk);
        assert_eq!(path(title("the"), None), Path::Walk);
        assert_eq!(path(genre("drama"), None), Path::Walk);
        assert_eq!(path(genre("western"), Some(96_000)), Path::Walk);
    }

    #[test]
    fn what_few_or_late_movies_match_is_found_by_an_index() {
        for rare in ["sap", "nothing", "映画"] {
            assert_eq!(path(title(rare), None), Path::Indexes(vec![0]), "{rare}");
        }
        assert_eq!(path(genre("western"), None), Path::Indexes(vec![0]));
        let both = Filters { genres: vec!["western".to_owned()], ..title("the") };
        assert_eq!(path(both, None), Path::Indexes(vec![1]));
    }

    #[test]
    fn years_that_came_late_are_read_by_themselves() {
        let years = |years: &[Years], filters| Filters { years: years.to_vec(), ..filters };
        let (one, several) = ([Years(1980, 1980)], [Years(1980, 1985), Years(1985, 1989)]);
        assert_eq!(path(years(&one, Filters::default()), None), Path::Year(1980));
        assert_eq!(path(years(&one, title("the")), None), Path::Year(1980));
        let merged = Path::EachYear(vec![Years(1980, 1989)]);
        assert_eq!(path(years(&several, Filters::default()), None), merged);
        assert_eq!(path(years(&several, genre("drama")), None), merged);
    }

    #[test]
    fn what_takes_long_waits_for_its_turn() {
        let mut sample = sample();
        sample.weight = 1000.0;
        let cost = |filters| {
            let query = MovieQuery { filters, sort: Sort::Id, limit: 20, after: None };
            Plan::choose(&query, &query.filters.each().unwrap(), &sample).cost()
        };
        assert_eq!(cost(title("%")), Cost::Scan);
        assert_eq!(cost(title("h")), Cost::Index);
        assert_eq!(cost(title("nothing")), Cost::Index);
    }
}
