//! `q=`: ranked, typo-tolerant search.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Service, eventually};

fn movie(title: &str, year: i64, cast: &[&str]) -> Value {
    json!({ "title": title, "year": year, "cast": cast })
}

/// Returns the titles of the movies that are found.
async fn titles(service: &Service, query: &str) -> Vec<String> {
    let found = service.movies(&format!("q={query}")).await;
    found.iter().map(|movie| movie["title"].as_str().unwrap().to_owned()).collect()
}

async fn service_with(movies: &[Value]) -> Service {
    let service = Service::start().await;
    service.ingest("k", json!(movies).to_string()).await;
    service
}

#[tokio::test]
async fn the_best_match_is_first() {
    let service = service_with(&[
        movie("Untold", 2001, &["Alan Starr", "Bob Wars"]),
        movie("Stat Wars", 2002, &[]),
        movie("Star Warship", 2003, &[]),
        movie("Wars of a Star", 2004, &[]),
        movie("The Other", 2005, &["Star Wars"]),
        movie("A Film", 2006, &["Star Smith", "John Wars"]),
        movie("Star Wars: Return", 2007, &[]),
        movie("Star-Wars", 2008, &[]),
        movie("Nothing", 2009, &["Nobody"]),
    ])
    .await;
    let expected = [
        "Star-Wars",
        "Star Wars: Return",
        "Star Warship",
        "Wars of a Star",
        "The Other",
        "A Film",
        "Stat Wars",
    ];
    assert_eq!(titles(&service, "star+wars").await, expected);
    // Words with typing errors, and movies that lack a word, are results only if there are no others.
    assert_eq!(titles(&service, "starr+alan+wras").await, ["Untold"]);
    assert_eq!(titles(&service, "nothing+but+nobody").await, ["Nothing"]);
    let found = service.movies("q=star+wars").await;
    let scores: Vec<f64> = found.iter().map(|movie| movie["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|one, next| one >= next) && scores[0] == 1.0, "{scores:?}");
}

#[tokio::test]
async fn what_people_type_is_found() {
    let movies = [
        movie("Amélie", 2001, &["Audrey Tautou"]),
        movie("Spider-Man", 2002, &["Tobey Maguire"]),
        movie("Ocean’s Eleven", 2001, &["George Clooney", "Brad Pitt"]),
        movie("君の名は。", 2016, &["神木隆之介"]),
        movie("Dune", 1984, &["Kyle MacLachlan"]),
        movie("Dune", 2021, &["Timothée Chalamet"]),
        movie("M*A*S*H", 1970, &["Donald Sutherland"]),
        movie("$", 1971, &["Warren Beatty"]),
        movie("Fast & Furious", 2009, &["Vin Diesel"]),
        movie("The Terminator", 1984, &["Arnold Schwarzenegger"]),
    ];
    let service = service_with(&movies).await;
    for (query, expected) in [
        ("amelie", "Amélie"),
        ("AMÉLIE", "Amélie"),
        ("spiderman", "Spider-Man"),
        ("spider man", "Spider-Man"),
        ("spidre man", "Spider-Man"),
        ("oceans eleven", "Ocean’s Eleven"),
        ("ocean's", "Ocean’s Eleven"),
        ("Ｏｃｅａｎ’ｓ", "Ocean’s Eleven"),
        ("eleven oceans", "Ocean’s Eleven"),
        ("clooney", "Ocean’s Eleven"),
        ("george clooney", "Ocean’s Eleven"),
        ("georgeclooney", "Ocean’s Eleven"),
        ("george cl", "Ocean’s Eleven"),
        ("gerge cloney", "Ocean’s Eleven"),
        ("clo", "Ocean’s Eleven"),
        ("名は", "君の名は。"),
        ("隆之介", "君の名は。"),
        ("mash", "M*A*S*H"),
        ("$", "$"),
        ("fast and furious", "Fast & Furious"),
        ("terminatro", "The Terminator"),
        ("trminatro", "The Terminator"),
        ("schwarzeneger", "The Terminator"),
        ("the best terminator", "The Terminator"),
        ("terminator schwarzenegger", "The Terminator"),
    ] {
        assert_eq!(
            titles(&service, query).await.first().map_or("", |title| title),
            expected,
            "{query}"
        );
    }
    let dune = service.movies("q=dune 1984").await;
    assert_eq!(dune[0]["year"], 1984);
    for query in ["qwertyuiop", "%00", "🎬", "%20", "terminatorrrr"] {
        assert!(titles(&service, query).await.is_empty(), "{query}");
    }
}

#[tokio::test]
async fn corrections_and_filters_are_those_of_the_catalogue() {
    let service = service_with(&[
        movie("Night Train", 1959, &["Lucyna Winnicka"]),
        movie("Night Train", 1999, &["John Hurt"]),
    ])
    .await;
    assert_eq!(service.movies("q=nihgt+train&year=1999").await.len(), 1);
    assert_eq!(service.movies("q=winicka&title=night").await.len(), 1);
    assert_eq!(service.movies("q=winicka&title=none").await.len(), 0);
    // A movie that loses a name is no longer found by it; one that gets another is.
    service.ingest("k", json!([movie("Night Train", 1959, &["Leon Niemczyk"])]).to_string()).await;
    assert_eq!(service.movies("q=winnicka").await.len(), 0);
    assert_eq!(service.movies("q=nimczyk").await.len(), 1);
}

/// Returns a service with movies of few words, so that each search finds many, in each way.
async fn service_of_few_words() -> Service {
    let mut random = fastrand::Rng::with_seed(16);
    let words = ["star", "stars", "start", "tsar", "wars", "war", "ware", "the", "a", "stara"];
    let movies: Vec<Value> = (0..400)
        .map(|number| {
            let mut text = |count: usize| {
                let words = (0..count).map(|_| random.choice(words).unwrap());
                words.collect::<Vec<_>>().join(" ")
            };
            let (title, name) = (text(2), text(2));
            let genres = &["Drama", "Crime", "War"][number % 4..];
            json!({ "title": title, "year": 1900 + number % 100, "href": number.to_string(),
                "cast": [name], "genres": genres })
        })
        .collect();
    service_with(&movies).await
}

/// Searches in [`service_of_few_words`], of each way to match and of none.
const SEARCHES: [&str; 20] = [
    "q=star",
    "q=star+wars",
    "q=the+star+wars",
    "q=a",
    "q=stra+wras",
    "q=st",
    "q=wars+sta+wara",
    "q=ware+x",
    "q=sta",
    "q=starwars",
    "q=strat",
    "q=the+tsar+sta",
    "q=wares+tzar&year=1950..",
    "q=tsar+1931",
    "q=tsar&year=1931",
    "q=stars+wart&genre=crime",
    "q=the+ware&title=the&actor=war",
    "q=the+ware+a+stars&genre=war&title=tsar",
    "q=star&genre=none",
    "q=nothingofthis",
];

/// Each result of a search comes once, in the same order, whatever the size of a page.
#[tokio::test]
async fn pages_have_each_result_once() {
    let service = service_of_few_words().await;
    for query in &SEARCHES[..8] {
        let all = service.movies(&format!("{query}&limit=1000")).await;
        assert!(all.len() > 7, "{query}: {}", all.len());
        for limit in [1, 7, 100] {
            let pages = service.movies(&format!("{query}&limit={limit}")).await;
            assert_eq!(pages.len(), all.len(), "{query} {limit}");
            assert_eq!(pages, all, "{query} {limit}");
        }
    }
}

/// Genres and years are counted over the movies of all pages.
#[tokio::test]
async fn counts_are_of_all_results() {
    let service = service_of_few_words().await;
    let mut best = BTreeSet::new();
    for query in SEARCHES.iter().chain(&["q=", "q=%20", "q=%00", "q=star&genre=%00"]) {
        let movies = service.movies(&format!("{query}&limit=1000")).await;
        // Without a text it is no search.
        let score = movies.first().and_then(|movie| movie["score"].as_f64());
        best.extend(score.map(|score| (score * 100.0).round() as i64));
        let (mut genres, mut years) = (BTreeMap::new(), BTreeMap::new());
        for movie in &movies {
            *years.entry(movie["year"].as_i64().unwrap()).or_insert(0) += 1;
            for genre in movie["genres"].as_array().unwrap() {
                *genres.entry(genre.as_str().unwrap().to_owned()).or_insert(0) += 1;
            }
        }
        let mut genres: Vec<(String, i64)> = genres.into_iter().collect();
        genres.sort_by_key(|(genre, count)| (-count, genre.to_lowercase()));
        let genres = genres.iter().map(|(genre, count)| json!({ "genre": genre, "count": count }));
        let years = years.iter().map(|(year, count)| json!({ "year": year, "count": count }));
        for (path, expected) in
            [("genres", genres.collect::<Vec<_>>()), ("years", years.collect::<Vec<_>>())]
        {
            let counted = service.get(&format!("/{path}?{query}")).await;
            assert_eq!(counted.status, 200, "{path} {query}: {}", counted.text);
            assert_eq!(counted.json(), json!(expected), "{path} {query}");
        }
    }
    // The best results are of each stage: as typed, begun, corrected, words corrected, one missing.
    for stage in [60..=100, 40..=50, 22..=30, 6..=20, 5..=5] {
        assert!(best.iter().any(|score| stage.contains(score)), "{stage:?} {best:?}");
    }
    for refused in ["q=a&q=b", &format!("q={}", "a".repeat(1000)), "limit=1"] {
        assert_eq!(service.get(&format!("/years?{refused}")).await.status, 400, "{refused}");
    }
}

/// A whole result has the movies of all pages, in their order, each with its score.
#[tokio::test]
async fn exports_have_all_results_in_their_order() {
    let service = service_of_few_words().await;
    for query in SEARCHES.iter().chain(&["q=", "q=%20", "q=star&genre=%00", "q=tsar&fields=title"])
    {
        let request = service.request(Method::GET, &format!("/movies?{query}"));
        let exported = service.send(request.header("accept", "application/x-ndjson")).await;
        assert_eq!(exported.status, 200, "{query}: {}", exported.text);
        let lines = exported.text.lines().map(|line| serde_json::from_str(line).unwrap());
        let pages = service.movies(&format!("{query}&limit=7")).await;
        assert_eq!(lines.collect::<Vec<Value>>(), pages, "{query}");
    }
    let sql = service.sql().await;
    let open = "select count(*) from pg_stat_activity
        where datname = current_database() and state like 'idle in transaction%'";
    eventually(async || sql.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
}

#[tokio::test]
async fn malformed_searches_are_refused() {
    let service = Service::start().await;
    for (query, named) in [
        ("q=a&q=b", "q"),
        ("q=a&sort=title", "sort"),
        ("q=a&after=eA", "after"),
        (&format!("q={}", "a".repeat(1000)), "q"),
        ("q=a&limit=0", "limit"),
    ] {
        let refused = service.get(&format!("/movies?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.text.contains(named), "{}", refused.text);
    }
    assert_eq!(service.movies("q=").await.len(), 0);
}

#[tokio::test]
async fn titles_and_names_complete_what_is_typed() {
    let service = service_with(&[
        movie("The Terminator", 1984, &["Arnold Schwarzenegger", "Linda Hamilton"]),
        movie("The terminator", 2030, &[]),
        movie("Twins", 1988, &["Arnold Schwarzenegger", "Danny DeVito"]),
        movie("Arnold", 1973, &["Stella Stevens"]),
        // Has the word "s", and no text that "arnold s" completes.
        movie("Hard Times", 1991, &["Arnold Vosloo", "Mary S. Jones"]),
    ])
    .await;
    let suggest = async |text: &str| service.get(&format!("/suggest?q={text}")).await.json();
    let title = |text: &str, count: i64| json!({ "text": text, "kind": "title", "count": count });
    let actor = |text: &str, count: i64| json!({ "text": text, "kind": "actor", "count": count });
    assert_eq!(suggest("the te").await, json!([title("The Terminator", 2)]));
    assert_eq!(suggest("termi").await, json!([title("The Terminator", 2)]));
    assert_eq!(suggest("arnold s").await, json!([actor("Arnold Schwarzenegger", 2)]));
    assert_eq!(suggest("schwarzeneger").await, json!([actor("Arnold Schwarzenegger", 2)]));
    let all = [title("Arnold", 1), actor("Arnold Schwarzenegger", 2), actor("Arnold Vosloo", 1)];
    assert_eq!(suggest("arnold").await, json!(all));
    for nothing in ["", "%00", "qqqq"] {
        assert_eq!(suggest(nothing).await, json!([]), "{nothing}");
    }
    for wrong in ["query=a", "q=a&q=b"] {
        assert_eq!(service.get(&format!("/suggest?{wrong}")).await.status, 400, "{wrong}");
    }
}
