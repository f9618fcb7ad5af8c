//! `/genres` and `/years`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::Service;

fn movie(title: &str, year: i64, genres: &[&str]) -> Value {
    json!({ "title": title, "year": year, "genres": genres })
}

#[tokio::test]
async fn genres_and_years_are_counted_under_the_same_filters() {
    let service = Service::start().await;
    let movies = [
        movie("One", 1990, &["drama", "Comédie"]),
        movie("Two", 1990, &["Drama", "Come\u{301}die", "COMÉDIE"]),
        movie("Three", 1991, &["DRAMA"]),
        movie("Four", 2000, &[]),
    ];
    service.ingest("k", json!(movies).to_string()).await;
    let get = async |path: &str| service.get(path).await.json();
    assert_eq!(
        get("/genres").await,
        json!([{ "genre": "DRAMA", "count": 3 }, { "genre": "Come\u{301}die", "count": 2 }]),
        "in the spelling of the movie that was inserted last"
    );
    assert_eq!(
        get("/years").await,
        json!([{ "year": 1990, "count": 2 }, { "year": 1991, "count": 1 }, { "year": 2000, "count": 1 }])
    );
    assert_eq!(get("/genres?year=..1990&title=o").await[0]["count"], 2);
    assert_eq!(get("/genres?genre=com%C3%A9die").await[1], json!({ "genre": "Drama", "count": 2 }));
    assert_eq!(get("/years?genre=drama&year=1991..").await, json!([{ "year": 1991, "count": 1 }]));
    for path in ["/genres?title=nothing", "/years?title=nothing", "/genres?title=%00"] {
        assert_eq!(get(path).await, json!([]), "{path}");
    }
    let refused = service.get("/genres?limit=1").await;
    assert!(refused.text.contains("limit") && refused.status == 400, "{}", refused.text);
}

#[tokio::test]
async fn ranges_of_years_match_what_lies_within() {
    let service = Service::start().await;
    let movies: Vec<Value> = (1980..2020).map(|year| movie(&year.to_string(), year, &[])).collect();
    service.ingest("k", json!(movies).to_string()).await;
    let count = async |query: &str| service.movies(query).await.len();
    for (query, expected) in [
        ("year=1990..1999", 10),
        ("year=..1989", 10),
        ("year=2010..", 10),
        ("year=1999..1999", 1),
        ("year=1990..1999&year=1995..2004&year=1980", 16),
        ("year=-5..99999999999999", 40),
        ("year=99999999999999..", 0),
        ("year=..-99999999999999", 0),
    ] {
        assert_eq!(count(query).await, expected, "{query}");
    }
    for malformed in ["..", "1999..1990", "1990...1999", "1990..x", "1990-1999", "1e3"] {
        let refused = service.get(&format!("/movies?year={malformed}")).await;
        assert_eq!(refused.status.as_u16(), 400, "{malformed}");
        assert!(refused.text.contains("1990..1999"), "{malformed}: {}", refused.text);
    }
}

#[tokio::test]
async fn fields_select_the_properties_of_movies() {
    let service = Service::start().await;
    let whole = json!({ "title": "A \"b\"", "year": 2000, "cast": ["X, Y"], "genres": [],
        "href": "h", "extract": "long" });
    service.ingest("k", json!([whole]).to_string()).await;
    let stored = service.movies("").await.remove(0);
    for fields in
        ["title", "title,year", "cast,title", "id", "href,extract,thumbnail", "title, year,"]
    {
        let query = format!("fields={}", fields.replace(' ', "%20"));
        let found = service.movies(&query).await.remove(0);
        let named: Vec<&str> = fields.split(',').map(str::trim).chain(["id"]).collect();
        let expected: BTreeMap<&String, &Value> = stored
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| named.contains(&name.as_str()))
            .collect();
        assert_eq!(found, json!(expected), "{fields}");
    }
    let refused = service.get("/movies?fields=title,titel").await;
    assert_eq!(refused.status.as_u16(), 400);
    assert!(refused.text.contains("thumbnail_width"), "{}", refused.text);
}
