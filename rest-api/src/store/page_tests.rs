//! Tests of the paths of pages, on a real database.

use std::collections::BTreeSet;

use fastrand::Rng;
use schema::Movie;
use serde_json::json;
use tokio_postgres::Client;

use super::{
    CatalogueRow, Filters, MovieQuery, Revision, Sort, Years,
    filters::{Filter, merged},
    fold, page,
    plan::Path,
    reads::{Cost, finish},
    search::SearchText,
    sql::query,
    statements::with_database,
};

/// Titles, names and filters are made of these, so that many match.
const PARTS: [&str; 16] = [
    "night", "the", "a", "tv", "x", "'", ".", "-30-", " ", "ann", "映", "画", "ß", "100%", "_",
    r"\",
];
const GENRES: [&str; 3] = ["Drama", "Noir", "Thriller"];

fn text(random: &mut Rng, most: usize) -> String {
    (0..random.usize(1..=most)).map(|_| PARTS[random.usize(..PARTS.len())]).collect()
}

fn movie(random: &mut Rng) -> Movie {
    let cast: Vec<String> = (0..random.usize(0..3)).map(|_| text(random, 5)).collect();
    let genre = GENRES[random.usize(..GENRES.len())];
    let movie = json!({
        "title": text(random, 6), "year": random.i64(1990..2000), "cast": cast, "genres": [genre],
        "href": random.u64(..).to_string(),
    });
    serde_json::from_value(movie).unwrap()
}

async fn insert(client: &Client, movie: &Movie) -> i64 {
    let row = CatalogueRow::new(movie);
    let search = SearchText::new(&row.folded.title_lc, row.year, &row.folded.cast_lc);
    let insert = "
        insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc, title_key, terms)
        values ($1, $2, $3, $4, $5, $6, $7, $8, array_to_tsvector(string_to_array($9, ' ')))
        returning id";
    let folded = &row.folded;
    let inserted = client
        .query_one(
            insert,
            &[
                &folded.identity,
                &folded.title_lc,
                &row.year,
                &folded.cast_lc,
                &folded.genres_lc,
                &row.content_hash,
                &row.doc,
                &search.title_key,
                &search.terms,
            ],
        )
        .await;
    inserted.unwrap().get(0)
}

fn random_query(random: &mut Rng, last: i64) -> MovieQuery {
    let mut texts = |most| (0..random.usize(0..=most)).map(|_| text(random, 3)).collect();
    let (titles, actors) = (texts(2), texts(1));
    let genres = (0..random.usize(0..2)).map(|_| GENRES[random.usize(..3)].to_owned()).collect();
    let mut year = || random.i64(1988..2002);
    let mut years = vec![Years(year(), year()), Years(year(), year())];
    years.truncate(random.usize(0..3));
    for Years(first, last) in &mut years {
        *last = if random.bool() { *first } else { *last };
    }
    let after = random.bool().then(|| random.i64(0..=last));
    let filters = Filters { titles, actors, genres, years };
    MovieQuery { filters, sort: Sort::Id, limit: random.i64(1..20), after }
}

/// Whether a movie matches, by other means than the statement.
fn is_match(movie: &Movie, filters: &Filters) -> bool {
    let contains = |text: &str, part: &String| fold(text).contains(&fold(part));
    let year = movie.year.get();
    filters.titles.iter().all(|part| contains(&movie.title, part))
        && filters.actors.iter().all(|part| movie.cast.iter().any(|name| contains(name, part)))
        && filters.genres.iter().all(|genre| movie.genres.iter().any(|of| fold(of) == fold(genre)))
        && (filters.years.is_empty()
            || filters.years.iter().any(|Years(first, last)| (*first..=*last).contains(&year)))
}

/// Returns all paths that a page can be read on.
fn paths(filters: &[Filter<'_>]) -> Vec<Path> {
    let mut paths = vec![Path::Walk];
    for (number, filter) in filters.iter().enumerate() {
        if let Filter::Years(years) = filter {
            let years = merged(years);
            if let [Years(first, last)] = years[..]
                && first == last
            {
                paths.push(Path::Year(first as i32));
            }
            paths.push(Path::EachYear(years));
        }
        if filter.has_index() {
            paths.push(Path::Indexes(vec![number]));
            let others = (0..number).filter(|other| filters[*other].has_index());
            paths.extend(others.map(|other| Path::Indexes(vec![other, number])));
        }
    }
    paths
}

#[tokio::test]
async fn each_path_leads_to_the_movies_that_match() {
    with_database("paths", async |client, store| {
        let random = &mut Rng::with_seed(13);
        let mut movies = Vec::new();
        for number in 0..400 {
            let mut movie = movie(random);
            if number == 200 {
                // More names than its terms have.
                let names: Vec<String> = (0..6000).map(|n| format!("name {n} x.")).collect();
                let cast = serde_json::to_value([names, vec!["tv".to_owned()]].concat()).unwrap();
                movie.cast = serde_json::from_value(cast).unwrap();
            }
            movies.push((insert(client, &movie).await, movie));
        }
        let last = movies[movies.len() - 1].0;
        let reader = store.reader(Cost::Index).await.unwrap();
        let (mut read, mut found) = (BTreeSet::new(), 0);
        for _ in 0..400 {
            let wanted = random_query(random, last);
            let Some(filters) = wanted.filters.each() else { continue };
            let after = wanted.after.unwrap_or(0);
            let matching =
                movies.iter().filter(|(id, movie)| *id > after && is_match(movie, &wanted.filters));
            let expected: Vec<i64> =
                matching.map(|(id, _)| *id).take(wanted.limit as usize + 1).collect();
            for path in paths(&filters) {
                let rows = query(&*reader, &page::page_on(&path, &wanted, &filters)).await.unwrap();
                let ids: Vec<i64> = rows[1..].iter().map(|row| row.get("id")).collect();
                assert_eq!(ids, expected, "{path:?} {wanted:?}");
                read.insert(format!("{path:?}").split('(').next().unwrap().to_owned());
            }
            found += expected.len();
        }
        finish(reader);
        assert_eq!(Vec::from_iter(read), ["EachYear", "Indexes", "Walk", "Year"]);
        assert!(found > 500, "{found}");
    })
    .await;
}

/// A part of the title, a pair of the cast, a genre, and years, each with the index that serves it.
fn indexed() -> (Filters, [&'static str; 4]) {
    let filters = Filters {
        titles: vec!["night".to_owned()],
        actors: vec!["x.".to_owned()],
        genres: vec!["Noir".to_owned()],
        years: vec![Years(1990, 1995)],
    };
    (filters, ["movies_title_search", "movies_terms", "movies_genres", "movies_by_year"])
}

#[tokio::test]
async fn the_form_of_a_statement_leaves_one_plan() {
    with_database("forms", async |client, store| {
        let version: String = client.query_one("show server_version_num", &[]).await.unwrap().get(0);
        if version.parse::<i32>().unwrap() < 160_000 {
            eprintln!("this Postgres does not show generic plans; those of later ones are tested");
            return;
        }
        for size in [100_i64, 50_000] {
            let generate = format!(
                "insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc, terms)
                 select gen_random_uuid(), md5(n::text) || ' night', 1900 + n % 100, md5(n::text),
                    array['g' || n % 20], n, repeat(md5(n::text), 20), array_to_tsvector(array['y' || n % 100])
                 from generate_series(1, {size}) n"
            );
            client.batch_execute(&generate).await.unwrap();
            client.batch_execute("analyze movies").await.unwrap();
            let reader = store.reader(Cost::Index).await.unwrap();
            check_forms(&reader, size).await;
            finish(reader);
        }
    })
    .await;
}

/// Checks which indexes the plan of each path uses.
async fn check_forms(client: &Client, size: i64) {
    let (filters, indexes) = indexed();
    let filters_of =
        |after| MovieQuery { filters: filters.clone(), sort: Sort::Id, limit: 10, after };
    for after in [None, Some(7)] {
        let wanted = filters_of(after);
        let each = wanted.filters.each().unwrap();
        let mut expected = vec![
            (Path::Walk, vec!["movies_pkey"]),
            (Path::Year(1990), vec!["movies_by_year"]),
            (Path::EachYear(vec![Years(1990, 1995)]), vec!["movies_by_year", "movies_pkey"]),
        ];
        for (number, index) in indexes.iter().enumerate() {
            expected.push((Path::Indexes(vec![number]), vec![*index]));
            let pairs = (0..number)
                .map(|other| (Path::Indexes(vec![other, number]), vec![indexes[other], *index]));
            expected.extend(pairs);
        }
        for (path, expected) in expected {
            let text = page::page_on(&path, &wanted, &each).text;
            let explain = format!("explain (generic_plan) {text}");
            let rows = client.simple_query(&explain).await.unwrap();
            let lines = rows.iter().filter_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            let plan = Vec::from_iter(lines).join("\n");
            let used =
                ["movies_pkey"].iter().chain(&indexes).filter(|index| plan.contains(**index));
            let used: BTreeSet<&str> = used.copied().collect();
            let expected = BTreeSet::from_iter(expected);
            // On a small catalogue the second index would save nothing.
            let is_enough = size < 1000 && !used.is_empty() && used.is_subset(&expected);
            assert!(used == expected || is_enough, "{path:?} {used:?}\n{plan}");
            assert!(!plan.contains("Seq Scan on movies"), "{path:?}\n{plan}");
        }
    }
}

/// An older release that is rolled back to computes the terms anew, without pairs.
#[tokio::test]
async fn terms_of_another_release_are_not_relied_on() {
    with_database("other-terms", async |client, store| {
        let generate = "
            insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc)
            select gen_random_uuid(), 'night ' || n, 1999, '', '{}', n, '{}' from generate_series(1, 5000) n;
            insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc)
            values (gen_random_uuid(), 'a tv play', 1999, '', '{}', 0, '{}')";
        client.batch_execute(generate).await.unwrap();
        store.read_sample(Revision::default()).await.unwrap();
        let filters = Filters { titles: vec!["TV".to_owned()], ..Filters::default() };
        let wanted = MovieQuery { filters, sort: Sort::Id, limit: 10, after: None };
        let found = async || {
            let page = store.movies(&wanted, Revision::default()).await.unwrap();
            assert!(page.revision.tag != 0);
            page.movies.len()
        };
        assert_eq!(found().await, 0, "the terms of this release are relied on");
        client.batch_execute("update catalogue set folding = null").await.unwrap();
        assert_eq!(found().await, 1);
        client.batch_execute("update catalogue set folding = '2-unicode-18.0'").await.unwrap();
        assert_eq!(found().await, 1);
    })
    .await;
}
