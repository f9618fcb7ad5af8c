//! Queries of the catalogue, compared with a model without SQL.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    rc::Rc,
};

use caseless::Caseless;
use fastrand::Rng;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::StatusCode;
use rest_api::store::{fold, is_indexable};
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use crate::support::{
    Service,
    movies::{large_movie, without_id},
};

/// Returns movies whose titles and names are difficult to search for.
fn unusual_movies() -> Vec<Value> {
    let movie = |title: &str, actor: &str| json!({ "title": title, "year": 1999, "cast": [actor, "Zoë Ångström"], "genres": ["Sci-Fi", "Film-Noir"] });
    vec![
        movie("100% Wolf", "O'Neil \"Quote\" D'Arc"),
        movie("under_score", "back\\slash"),
        movie("C:\\Temp\\%d_%s", "%"),
        movie("Москва слезам не верит", "Вера Алентова"),
        movie("七人の侍", "三船敏郎"),
        movie("ΟΔΟΣ", "Θόδωρος"),
        movie("Straße", "İbrahim Ünal"),
        movie("ﬁlm de\u{301}compose\u{301}", "Dolores del Ri\u{301}o"),
        movie("M", "x"),
        movie("...", "'; drop table movies; --"),
        movie("日", "🎬🎥"),
    ]
}

/// Returns the files in the directory `MRU_TEST_DATA`, or the sample of this repository.
fn files() -> Vec<(String, Vec<u8>)> {
    let sample = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../local-stack/sample");
    let directory = std::env::var_os("MRU_TEST_DATA").map_or(sample, PathBuf::from);
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

/// Returns a movie as the API returns it: without nulls, and with both lists.
fn normalised(movie: &Value) -> Value {
    let mut movie = movie.clone();
    let fields = movie.as_object_mut().unwrap();
    fields.retain(|_, value| !value.is_null());
    for list in ["cast", "genres"] {
        fields.entry(list).or_insert_with(|| json!([]));
    }
    movie
}

fn identity(movie: &Value) -> String {
    json!([movie["title"], movie["year"], movie["href"]]).to_string()
}

/// Starts a service and ingests the files. Returns it with the expected movies by identity.
async fn start_with_files() -> (Service, BTreeMap<String, Value>) {
    let service = Service::start().await;
    let mut expected_movies = BTreeMap::new();
    let mut files = files();
    files.push(("unusual.json".to_owned(), json!(unusual_movies()).to_string().into()));
    for (name, body) in files {
        let records: Vec<Value> = serde_json::from_slice(&body).unwrap();
        let distinct: std::collections::HashSet<String> = records.iter().map(identity).collect();
        expected_movies.extend(records.iter().map(|movie| (identity(movie), normalised(movie))));
        let ingest = service.ingest(&name, body).await;
        assert_eq!(ingest["state"], "succeeded", "{name}: {ingest}");
        let counts =
            ["inserted", "updated", "unchanged"].map(|count| ingest[count].as_u64().unwrap());
        assert_eq!(counts.iter().sum::<u64>(), distinct.len() as u64, "{name}: {ingest}");
    }
    (service, expected_movies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_of_real_files_is_stored_and_random_queries_match_a_model() {
    let (service, expected_movies) = start_with_files().await;
    let stored = service.movies("limit=1000").await;
    let by_identity: BTreeMap<String, Value> =
        stored.iter().map(|movie| (identity(movie), without_id(movie))).collect();
    assert_eq!(stored.len(), expected_movies.len());
    assert!(by_identity == expected_movies, "a field differs");
    assert!(stored.is_sorted_by_key(|movie| movie["id"].as_i64()), "not in the order of ids");

    let seed = std::env::var("MRU_TEST_SEED").map_or(20_261_121, |seed| seed.parse().unwrap());
    let mut random = Rng::with_seed(seed);
    let mut with_movies = 0;
    for _ in 0..600 {
        let filters = random_filters(&mut random, &stored);
        let sort = random.choice(["id", "title", "-title", "year", "-year"]).unwrap();
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let query: Vec<String> =
            filters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let query = format!("{}&sort={sort}&limit=1000", query.join("&"));
        let mut expected: Vec<&Value> = stored
            .iter()
            .filter(|movie| {
                // Any of the years, and all other filters.
                let (years, others): (Vec<_>, Vec<_>) =
                    filters.iter().partition(|(name, _)| *name == "year");
                others.into_iter().all(|filter| matches(movie, filter))
                    && (years.is_empty() || years.into_iter().any(|year| matches(movie, year)))
            })
            .collect();
        expected.sort_by(|a, b| order(sort, a, b));
        let is_unindexed = |(name, value): &&(&str, String)| {
            matches!(*name, "title" | "actor") && !is_indexable(value)
        };
        if filters.iter().filter(is_unindexed).count() > 2 {
            let refused = service.get(&format!("/movies?{query}")).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
            continue;
        }
        let found = service.movies(&query).await;
        assert!(
            found.iter().eq(expected.iter().copied()),
            "MRU_TEST_SEED={seed}, {filters:?}: found {}, expected {}",
            found.len(),
            expected.len(),
        );
        with_movies += usize::from(!found.is_empty());
    }
    assert!(with_movies > 200, "only {with_movies} queries found a movie");
}

/// Returns one to four filters, mostly substrings of stored values in another case.
fn random_filters(random: &mut Rng, movies: &[Value]) -> Vec<(&'static str, String)> {
    let mut filters = Vec::new();
    // Mostly of one movie, so that a movie matches.
    let mut movie = random.choice(movies).unwrap();
    for _ in 0..random.usize(1..=4) {
        if random.u8(..) < 40 {
            movie = random.choice(movies).unwrap();
        }
        let name = |list: &str, random: &mut Rng| {
            let names = movie[list].as_array().unwrap();
            random.choice(names).map_or("Nobody", |name| name.as_str().unwrap()).to_owned()
        };
        let (filter, value) = match random.u8(0..10) {
            0..4 => ("title", substring(random, movie["title"].as_str().unwrap())),
            4..7 => {
                let whole = name("cast", random);
                ("actor", substring(random, &whole))
            }
            7 => ("genre", name("genres", random)),
            8 => ("year", movie["year"].to_string()),
            _ => {
                let odd = [
                    "%", "_", "\\", "'", "\"", "%%", "a%b", "_a", "\\%", "ß", "É", " ", "\u{1f}",
                    "\0",
                ];
                let filter = random.choice(["title", "actor", "genre"]).unwrap();
                (filter, (*random.choice(odd.iter()).unwrap()).to_owned())
            }
        };
        let value = match random.u8(0..3) {
            0 => value.to_uppercase(),
            1 => value.to_lowercase(),
            _ => value,
        };
        let value = if random.bool() { value.nfd().collect() } else { value };
        filters.push((filter, value));
    }
    filters
}

fn substring(random: &mut Rng, text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let start = random.usize(0..letters.len());
    let end = random.usize(start..letters.len()) + 1;
    letters[start..end].iter().collect()
}

/// Folds text with other tables than the service. Remembers the results: each query folds all movies.
fn folded(text: &str) -> Rc<str> {
    thread_local! {
        static KNOWN: RefCell<HashMap<String, Rc<str>>> = RefCell::default();
    }
    let fold = || -> String {
        let folded: String = text.nfd().default_case_fold().collect();
        folded.replace("i\u{307}", "i").nfc().collect()
    };
    KNOWN.with_borrow_mut(|known| {
        if let Some(folded) = known.get(text) {
            return Rc::clone(folded);
        }
        let folded: Rc<str> = fold().into();
        known.insert(text.to_owned(), Rc::clone(&folded));
        folded
    })
}

fn matches(movie: &Value, (filter, value): &(&str, String)) -> bool {
    let value = folded(value);
    let any = |list: &str, test: &dyn Fn(Rc<str>) -> bool| {
        movie[list].as_array().unwrap().iter().any(|name| test(folded(name.as_str().unwrap())))
    };
    match *filter {
        "title" => folded(movie["title"].as_str().unwrap()).contains(&*value),
        "actor" => any("cast", &|name| name.contains(&*value)),
        "genre" => any("genres", &|name| name == value),
        _ => movie["year"] == value.parse::<i64>().unwrap(),
    }
}

fn order(sort: &str, a: &Value, b: &Value) -> std::cmp::Ordering {
    let title = |movie: &Value| folded(movie["title"].as_str().unwrap());
    let year = |movie: &Value| movie["year"].as_i64();
    let first = match sort {
        "title" => title(a).cmp(&title(b)),
        "-title" => title(b).cmp(&title(a)),
        "year" => year(a).cmp(&year(b)),
        "-year" => year(b).cmp(&year(a)),
        _ => std::cmp::Ordering::Equal,
    };
    first.then(a["id"].as_i64().cmp(&b["id"].as_i64()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_any_size_contain_each_movie_once() {
    let service = Service::start().await;
    let movies: Vec<Value> = (0..750)
        .map(|n| json!({ "title": format!("Title {}", n % 40), "year": 1900 + n % 7, "href": n.to_string() }))
        .collect();
    service.ingest("k", json!(movies).to_string()).await;
    let all = service.movies("limit=1000").await;
    assert_eq!(all.len(), movies.len());
    for sort in ["id", "title", "-title", "year", "-year"] {
        let mut expected = all.clone();
        expected.sort_by(|a, b| order(sort, a, b));
        for limit in [1, 7, 750, 1000] {
            let found = service.movies(&format!("sort={sort}&limit={limit}")).await;
            assert!(found == expected, "sort={sort}&limit={limit}: {} movies", found.len());
        }
    }
    let filtered = service.movies("title=title+3&year=1901&limit=1").await;
    assert!(filtered.iter().all(|movie| movie["year"] == 1901));
    assert_eq!(
        filtered.len(),
        all.iter()
            .filter(|m| matches(m, &("title", "title 3".into())) && m["year"] == 1901)
            .count()
    );
}

#[tokio::test]
async fn a_page_of_large_movies_is_shorter_and_links_to_the_next_page() {
    let service = Service::start().await;
    let movies: Vec<Value> = (0..24).map(|n| large_movie(&n.to_string(), 900)).collect();
    service.ingest("k", json!(movies).to_string()).await;
    let first = service.get("/movies").await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    // The page ends after 2 MiB, with the movie that exceeds them.
    assert_eq!(first.json().as_array().unwrap().len(), 3);
    assert!(first.header("link").contains("rel=\"next\""));
    assert_eq!(service.movies("").await.len(), movies.len());
}

#[tokio::test]
async fn values_that_were_stored_before_they_had_a_greatest_length_stay_readable() {
    let service = Service::start().await;
    let long = "x".repeat(1_000_000);
    let doc = json!({ "title": "Old", "year": 2000, "cast": [long], "genres": [], "href": long,
        "extract": long, "thumbnail": long });
    let insert = "insert into movies (identity, title_lc, year, cast_lc, genres_lc, content_hash, doc) \
        values (gen_random_uuid(), 'old', 2000, $1, '{}', 0, $2)";
    service.sql().await.execute(insert, &[&long, &doc.to_string()]).await.unwrap();
    let found = service.movies("title=old&actor=xxx").await;
    assert_eq!(without_id(&found[0]), doc);
    let one = service.get(&format!("/movies/{}", found[0]["id"])).await.json();
    assert_eq!(one["extract"], doc["extract"]);
}

#[tokio::test]
async fn filters_match_as_documented() {
    let service = Service::start().await;
    service.ingest("k", json!(unusual_movies()).to_string()).await;
    let titles = async |query: &str| -> Vec<String> {
        let movies = service.movies(query).await;
        movies.iter().map(|movie| movie["title"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(titles("title=100%25").await, ["100% Wolf"]);
    assert_eq!(titles("title=_").await, ["under_score", "C:\\Temp\\%d_%s"]);
    assert_eq!(titles("actor=%5C").await, ["under_score"]);
    assert_eq!(titles("title=москва+СЛЕЗАМ").await, ["Москва слезам не верит"]);
    assert_eq!(titles("title=侍").await, ["七人の侍"]);
    assert_eq!(titles("title=οδος").await, ["ΟΔΟΣ"]);
    assert_eq!(titles("title=οδοσ").await, ["ΟΔΟΣ"]);
    assert_eq!(titles("genre=SCI-FI&limit=1000").await.len(), 11);
    assert_eq!(titles("genre=sci").await.len(), 0, "a genre matches as a whole");
    assert_eq!(
        titles("title=1&title=w").await,
        ["100% Wolf"],
        "every filter of a repeated parameter must match"
    );
    assert_eq!(titles("year=1999&year=2000").await.len(), 11, "any of the years");
    assert_eq!(titles("year=2000&year=99999999999").await.len(), 0);
    assert_eq!(titles("title=&actor=&year=&genre=").await.len(), 11, "an empty value is no filter");
    assert_eq!(titles("year=99999999999").await.len(), 0);
    assert_eq!(titles("actor=quote\"+d'arc").await, ["100% Wolf"]);
    assert_eq!(titles("actor=x%1Fzo").await.len(), 0, "no match across two names");
    assert_eq!(titles("title=%00").await.len(), 0);
}

#[tokio::test]
async fn text_is_indexable_only_if_the_index_has_trigrams_of_it() {
    for text in ["abc", "1999", "Ōta", "Жар", "中国人", "서울역", "राम्"] {
        assert!(is_indexable(text), "{text}");
    }
    for text in ["ab", "a-b-c", "²²²", "½½½", "①①①", "\u{363}\u{363}\u{363}"] {
        assert!(!is_indexable(text), "{text}");
    }
    let service = Service::start_without_workers().await;
    let texts = ('\u{1}'..=char::MAX).map(|c| fold(&c.to_string().repeat(3)));
    let texts: Vec<String> = texts.filter(|text| is_indexable(text)).collect();
    assert!(texts.len() > 30_000, "{}", texts.len());
    let not_indexed = "select text from unnest($1::text[]) text where show_trgm(text) = '{}'";
    let not_indexed = service.sql().await.query(not_indexed, &[&texts]).await.unwrap();
    let not_indexed: Vec<String> = not_indexed.iter().map(|row| row.get(0)).collect();
    assert!(not_indexed.is_empty(), "{}: {not_indexed:?}", not_indexed.len());
}
