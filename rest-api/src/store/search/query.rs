//! Composes the statement of a search from its tiers.
//!
//! One expression computes the rank of a movie. Each branch of the statement finds the movies of some ranks by
//! the index that suits them. Postgres runs the branches one after another, until the page is full.

use super::{
    SearchQuery,
    condition::Condition,
    frequencies::Frequencies,
    terms,
    tiers::{self, MAX_EDITS, TITLE_BEGINS, Tier},
};
use crate::store::sql::ListQuery;

/// Up to about so many movies are ranked together and sorted. More are found in the order of their ids, rank
/// by rank.
const MAX_SORTED: f64 = 2_000.0;

/// Up to about so many movies of one rank are looked up. Of more, those that come first are read.
const MAX_FOUND: f64 = 10_000.0;

/// The smallest and the largest number of movies that are read in the order of their ids, before all that match
/// are looked up.
const MIN_WALK: f64 = 1_000.0;
const MAX_WALK: f64 = 10_000.0;

/// The largest number of comparisons of a term while movies are read in the order of their ids.
const MAX_COMPARISONS: f64 = 1_000_000.0;

/// How many times as many movies are read in the order of their ids as should be needed.
const WALK_RESERVE: f64 = 5.0;

/// Follows the key of a title in the order of keys, and all keys that begin with it.
const AFTER_KEY: char = char::MAX;

/// A position in the order of results.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SearchPosition {
    /// The rank of the movie there.
    pub rank: i32,
    /// The id of the movie.
    pub id: i64,
    /// Whether movies with the last word only begun are results of this search.
    pub is_begun: bool,
}

/// The order of a branch.
enum Order {
    /// In which an index finds the movies: no more of them are ranked than are needed.
    Found(&'static str),
    /// In which the ranked movies are sorted.
    Sorted(&'static str),
}

/// A statement under composition.
pub(super) struct Composer<'a> {
    sql: ListQuery,
    /// The expression of the rank of a movie.
    rank: String,
    query: &'a SearchQuery,
    frequencies: &'a Frequencies,
    /// The largest number of movies.
    limit: i64,
    /// The placeholders of the first key that begins with the text, and of the one after the last.
    keys: [String; 2],
    has_branch: bool,
}

impl<'a> Composer<'a> {
    /// Returns a statement without branches, of up to `limit` movies and one more. It ranks movies by all
    /// `tiers`.
    pub(super) fn new<'t>(
        query: &'a SearchQuery,
        tiers: impl Iterator<Item = &'t Tier>,
        frequencies: &'a Frequencies,
        limit: i64,
    ) -> Self {
        let mut sql = ListQuery::new(
            "
            /* query::new */
            (select revision as id, tag::text as doc, 0 as rank from catalogue)",
        );
        let keys = bind_keys(&mut sql, query);
        let rank = rank_expression(&mut sql, &keys, tiers);
        Self { sql, rank, query, frequencies, limit: limit + 1, keys, has_branch: false }
    }

    /// Adds the branches of the titles that begin with the text. Returns none if the filters match no movie.
    pub(super) fn push_beginnings(&mut self) -> Option<()> {
        if self.is_before(TITLE_BEGINS) {
            return Some(());
        }
        let found = begins(&self.keys);
        let start = self.query.after.filter(|after| after.rank == TITLE_BEGINS).map(|after| {
            let id = self.sql.bind(after.id);
            format!("(title_key, id) > ((select title_key from movies where id = {id}), {id})")
        });
        let condition = format!("{found} and {}", start.as_deref().unwrap_or("true"));
        let ranks = format!("rank = {TITLE_BEGINS}");
        // The inner order is that of the index. So no more titles are ranked than are needed.
        self.push_branch("movies", &condition, &ranks, Order::Found("title_key, id"))
    }

    /// Adds the branches of some tiers, whose ranks follow those of the branches before. Returns none if the
    /// filters match no movie.
    pub(super) fn push_tiers(&mut self, tiers: &[Tier]) -> Option<()> {
        let all = |tier: &Tier| tier.condition(tier.max_edits());
        let found: Vec<_> = tiers.iter().filter(|tier| !tier.is_covered).map(all).collect();
        let movies: f64 = found.iter().map(|condition| self.frequencies.movies(condition)).sum();
        if tiers.len() > 1 && movies <= MAX_SORTED {
            return self.push_sorted(&found, tiers);
        }
        let levels = tiers.iter().flat_map(|tier| {
            let fewest = usize::from(tier.rank >= tiers::CORRECTED && tier.max_edits() > 0);
            (fewest..=tier.max_edits())
                .map(move |edits| (tier.rank_with(edits), tier.condition(edits)))
        });
        let mut levels: Vec<(i32, Condition)> = levels.collect();
        levels.sort_by_key(|(rank, _)| *rank);
        for (rank, condition) in levels {
            self.push_level(rank, &condition)?;
        }
        Some(())
    }

    /// Adds a branch that finds all movies of some tiers, which meet any of the conditions, and sorts them.
    /// Each condition is looked up on its own: one that has all their terms would be slow.
    fn push_sorted(&mut self, found: &[Condition], tiers: &[Tier]) -> Option<()> {
        let ranks = tiers.iter().flat_map(|tier| [tier.rank, tier.rank_with(tier.max_edits())]);
        let (Some(first), Some(last)) = (ranks.clone().min(), ranks.max()) else { return Some(()) };
        if self.is_before(last) {
            return Some(());
        }
        let Self { sql, frequencies, .. } = self;
        let found = found.iter().filter_map(|condition| predicate(sql, condition, frequencies));
        let found: Vec<String> = found.collect();
        if found.is_empty() {
            return Some(());
        }
        let condition = format!("({})", found.join(" or "));
        let mut ranks = format!("rank between {first} and {last}");
        if let Some(SearchPosition { rank, id, .. }) =
            self.query.after.filter(|after| after.rank >= first)
        {
            let (rank, id) = (self.sql.bind(rank), self.sql.bind(id));
            ranks.push_str(&format!(" and (rank, id) > ({rank}, {id})"));
        }
        self.push_branch("movies", &condition, &ranks, Order::Sorted("rank, id"))
    }

    /// Adds the branches of one rank: of the movies that come first, if many match, and of all others. The
    /// sum `id + 0` keeps the planner from reading the others in the order of their ids.
    fn push_level(&mut self, rank: i32, condition: &Condition) -> Option<()> {
        if self.is_before(rank) {
            return Some(());
        }
        let Some(matches) = predicate(&mut self.sql, condition, self.frequencies) else {
            return Some(());
        };
        let start = self.query.after.filter(|after| after.rank == rank).map_or(0, |after| after.id);
        let start = self.sql.bind(start);
        let ranks = format!("rank = {rank}");
        let movies = self.frequencies.movies(condition);
        if movies <= MAX_FOUND {
            return self.push_found(&format!("{matches} and id + 0 > {start}"), rank);
        }
        let needed = WALK_RESERVE * self.limit as f64 / self.frequencies.share_of(movies);
        let affordable = MAX_COMPARISONS / condition.terms() as f64;
        let walk = needed.min(affordable).clamp(MIN_WALK, MAX_WALK) as i64;
        let (walk, before_last) = (self.sql.bind(walk), self.sql.bind(walk - 1));
        let window =
            format!("(select * from movies where id > {start} order by id limit {walk}) w");
        self.push_branch(&window, &matches, &ranks, Order::Found("id"))?;
        let end = format!(
            "(select id from movies where id > {start} order by id offset {before_last} limit 1)"
        );
        self.push_found(&format!("{end} is not null and id + 0 > {end} and {matches}"), rank)
    }

    /// Adds a branch that finds all movies that match, and ranks them in the order of their ids until there are
    /// enough of this rank.
    fn push_found(&mut self, found: &str, rank: i32) -> Option<()> {
        self.has_branch = true;
        self.sql.push(&format!(
            "
            union all
            (select f.id, m.doc, {rank} as rank
            from (select id from movies where {found}"
        ));
        self.query.filters.push_to(&mut self.sql)?;
        let limit = self.sql.bind(self.limit);
        self.sql.push(&format!(
            " order by id + 0 offset 0) f
            cross join lateral (
                select doc, title_key, terms from movies m where m.id = f.id offset 0
            ) m
            where {} = {rank} limit {limit})",
            self.rank
        ));
        Some(())
    }

    /// Adds a branch of the movies that are found and have one of these ranks.
    fn push_branch(&mut self, from: &str, found: &str, ranks: &str, order: Order) -> Option<()> {
        self.has_branch = true;
        // The inner query ends with an offset, so that the rank is computed once for each movie.
        self.sql.push(&format!(
            "
            union all
            (select id, doc, rank from (
                select id, doc, title_key, {rank} as rank from {from} where {found}",
            rank = self.rank
        ));
        self.query.filters.push_to(&mut self.sql)?;
        let limit = self.sql.bind(self.limit);
        let order = match order {
            Order::Found(order) => {
                self.sql.push(&format!(" order by {order}"));
                order
            }
            Order::Sorted(order) => order,
        };
        self.sql.push(&format!(
            " offset 0) ranked
            where {ranks} order by {order} limit {limit})"
        ));
        Some(())
    }

    /// Whether the page begins after this rank.
    fn is_before(&self, rank: i32) -> bool {
        self.query.after.is_some_and(|after| rank < after.rank)
    }

    /// Returns the statement. Its first row is the revision, the others are the movies. None if it has no
    /// branch.
    pub(super) fn finish(mut self) -> Option<ListQuery> {
        if !self.has_branch {
            return None;
        }
        let limit = self.sql.bind(self.limit + 1);
        self.sql.push(&format!(" limit {limit}"));
        Some(self.sql)
    }
}

/// Returns the predicate of a condition. None if no movie can meet it.
///
/// Conditions that must all be met are predicates of their own, the rarest first: the index then compares
/// each movie with the terms of one of them at a time.
fn predicate(
    sql: &mut ListQuery,
    condition: &Condition,
    frequencies: &Frequencies,
) -> Option<String> {
    match condition {
        Condition::All(all) => {
            let mut all: Vec<&Condition> = all.iter().collect();
            all.sort_by(|one, other| frequencies.movies(one).total_cmp(&frequencies.movies(other)));
            let all = all.into_iter().map(|condition| predicate(sql, condition, frequencies));
            Some(format!("({})", all.collect::<Option<Vec<String>>>()?.join(" and ")))
        }
        Condition::Any(any) if any.iter().any(Condition::has_all) => {
            let any = any.iter().filter_map(|condition| predicate(sql, condition, frequencies));
            let any: Vec<String> = any.collect();
            (!any.is_empty()).then(|| format!("({})", any.join(" or ")))
        }
        _ => Some(format!("terms @@ {}", tsquery(sql.bind(condition.to_tsquery()?)))),
    }
}

fn tsquery(placeholder: String) -> String {
    format!("{placeholder}::text::tsquery")
}

/// Adds the first key that begins with the text, and the one after the last. Returns their placeholders.
fn bind_keys(sql: &mut ListQuery, query: &SearchQuery) -> [String; 2] {
    let key = terms::key(&query.words);
    [sql.bind(key.clone()), sql.bind(format!("{key}{AFTER_KEY}"))]
}

/// Returns the predicate that a title begins with the text of these keys.
fn begins([first, end]: &[String; 2]) -> String {
    format!("title_key >= {first} and title_key < {end}")
}

/// Adds the condition to a query on `movies` that a movie matches in the way of any of these tiers, or has a title
/// that begins with the text.
pub(super) fn push_condition<'t>(
    sql: &mut ListQuery,
    query: &SearchQuery,
    tiers: impl Iterator<Item = &'t Tier>,
    frequencies: &Frequencies,
) {
    let begins = begins(&bind_keys(sql, query));
    let tiers = tiers.filter(|tier| !tier.is_covered);
    let conditions = tiers.map(|tier| tier.condition(tier.max_edits()));
    let any = conditions.filter_map(|condition| predicate(sql, &condition, frequencies));
    let any = any.fold(begins, |any, predicate| format!("{any} or {predicate}"));
    sql.push(&format!(" and ({any})"));
}

/// Returns the expression of the best rank of a movie among `tiers`.
fn rank_expression<'t>(
    sql: &mut ListQuery,
    keys: &[String; 2],
    tiers: impl Iterator<Item = &'t Tier>,
) -> String {
    let mut exact = String::new();
    let mut corrected = String::new();
    for tier in tiers {
        let Some(condition) = tier.condition(tier.max_edits()).to_tsquery() else { continue };
        let condition = tsquery(sql.bind(condition));
        let rank = tier.rank;
        if rank > TITLE_BEGINS && !exact.contains("title_key") {
            exact.push_str(&format!(" when {} then {TITLE_BEGINS}", begins(keys)));
        }
        if rank < tiers::CORRECTED {
            exact.push_str(&format!(" when terms @@ {condition} then {rank}"));
            continue;
        }
        let mut edits = String::from("0");
        for slot in tier.slots_with_edits() {
            let largest = slot.len();
            edits.push_str(" + case");
            for (number, with) in slot.iter().enumerate() {
                if let Some(with) = with.to_tsquery() {
                    let with = tsquery(sql.bind(with));
                    edits.push_str(&format!(" when terms @@ {with} then {number}"));
                }
            }
            edits.push_str(&format!(" else {largest} end"));
        }
        let per_edit = tier.rank_with(1) - rank;
        corrected.push_str(&format!(
            ", case when terms @@ {condition} then {rank} + {per_edit} * least({edits}, {MAX_EDITS}) end"
        ));
    }
    format!("coalesce(case{exact} end, least(null::int{corrected}))")
}
