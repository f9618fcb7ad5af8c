//! Which texts are equal: normal forms, and case.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::Service;

/// Returns one film, whose text is composed or decomposed.
fn film(is_composed: bool) -> Value {
    let e = if is_composed { "é" } else { "e\u{301}" };
    json!({ "title": format!("Le Caf{e}"), "year": 1933, "cast": [format!("Ren{e}e Ad")],
        "genres": [format!("Com{e}die")], "href": format!("Caf{e}_(1933)") })
}

/// Returns the titles that a query finds.
async fn titles(service: &Service, query: &[(&str, &str)]) -> Vec<String> {
    let request = service.request(reqwest::Method::GET, "/movies").query(query);
    let response = service.send(request).await;
    assert_eq!(response.status, StatusCode::OK, "{query:?}: {}", response.text);
    let title = |movie: &Value| movie["title"].as_str().unwrap().to_owned();
    response.json().as_array().unwrap().iter().map(title).collect()
}

#[tokio::test]
async fn canonically_equivalent_movies_are_one_movie_with_the_text_of_the_newest_file() {
    let service = Service::start().await;
    let first = service.ingest("nfc.json", json!([film(true)]).to_string()).await;
    assert_eq!(first["inserted"], 1, "{first}");
    let second = service.ingest("nfd.json", json!([film(false)]).to_string()).await;
    assert_eq!((&second["inserted"], &second["updated"]), (&json!(0), &json!(1)), "{second}");
    let stored = service.movies("").await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0]["title"], film(false)["title"], "not the form of the newest file");
    assert_eq!(stored[0]["href"], film(false)["href"]);

    let other = json!({ "title": "Le CAFÉ", "year": 1933, "href": "Café_(1933)" });
    service.ingest("case.json", json!([other]).to_string()).await;
    assert_eq!(service.movies("").await.len(), 2, "identity ignores the normal form, not case");
}

#[tokio::test]
async fn canonically_equivalent_records_of_one_file_are_one_movie() {
    for records in [2, 2 + 20_000] {
        let service = Service::start().await;
        let mut movies = vec![film(true), film(false)];
        let fillers = (2..records).map(|n| json!({ "title": format!("Filler {n}"), "year": 2000 }));
        movies.extend(fillers);
        let ingest = service.ingest("k", json!(movies).to_string()).await;
        assert_eq!(ingest["inserted"], records - 1, "{ingest}");
        let found = service.movies("year=1933").await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["title"], film(false)["title"], "the later record wins");
    }
}

#[tokio::test]
async fn filters_find_text_in_each_normal_form() {
    for is_composed in [true, false] {
        let service = Service::start().await;
        service.ingest("k", json!([film(is_composed)]).to_string()).await;
        for form in ["é", "e\u{301}", "É", "E\u{301}"] {
            for (name, value) in [("title", "le caf"), ("actor", "ren"), ("genre", "com")] {
                let rest = if name == "genre" { "die" } else { "" };
                let value = format!("{value}{form}{rest}");
                assert_eq!(titles(&service, &[(name, &value)]).await.len(), 1, "{name}={value:?}");
            }
        }
        for (name, half) in [("title", "cafe"), ("actor", "rene"), ("title", "\u{301}")] {
            assert!(titles(&service, &[(name, half)]).await.is_empty(), "{name}={half:?}");
        }
    }
}

#[tokio::test]
async fn filters_ignore_case_by_full_folding() {
    let service = Service::start().await;
    let movies = [
        ("Der Klaußner", "x"),
        ("ﬁlm", "FILM"),
        ("İstanbul", "İbrahim"),
        ("Isparta", "x"),
        ("Iğdır", "x"),
        ("ΟΔΟΣ", "ᾳδης"),
    ];
    let movies = movies.map(|(title, actor)| json!({ "title": title, "year": 2000, "cast": [actor], "genres": [title] }));
    service.ingest("k", json!(movies).to_string()).await;
    for (filter, value, expected) in [
        ("title", "KLAUSSNER", "Der Klaußner"),
        ("title", "klaußner", "Der Klaußner"),
        ("genre", "DER KLAUSSNER", "Der Klaußner"),
        ("title", "FILM", "ﬁlm"),
        ("actor", "ﬁlm", "ﬁlm"),
        ("title", "istanbul", "İstanbul"),
        ("title", "ISTANBUL", "İstanbul"),
        ("title", "I\u{307}STANBUL", "İstanbul"),
        ("actor", "ibrahim", "İstanbul"),
        ("title", "İsparta", "Isparta"),
        ("title", "IĞDıR", "Iğdır"),
        ("title", "οδος", "ΟΔΟΣ"),
        ("actor", "ΑΙΔΗΣ", "ΟΔΟΣ"),
    ] {
        assert_eq!(titles(&service, &[(filter, value)]).await, [expected], "{filter}={value}");
    }
    // Only the rules of Turkish know that these are equal.
    assert!(titles(&service, &[("title", "IĞDIR")]).await.is_empty());
}

#[tokio::test]
async fn sort_orders_ignore_normal_form_and_case() {
    let service = Service::start().await;
    let sorted = ["Straßa", "STRASSB", "strassc", "Zoe\u{308}a", "ZOËB", "zoëc"];
    let mut movies = sorted.map(|title| json!({ "title": title, "year": 2000 }));
    movies.reverse();
    service.ingest("k", json!(movies).to_string()).await;
    assert_eq!(titles(&service, &[("sort", "title")]).await, sorted);
}

#[tokio::test]
async fn a_filter_has_256_characters_in_composed_form() {
    let service = Service::start().await;
    let (longest, too_long) = ("e\u{301}".repeat(256), "e\u{301}".repeat(257));
    assert!(titles(&service, &[("title", &longest)]).await.is_empty());
    let request = service.request(reqwest::Method::GET, "/movies").query(&[("title", too_long)]);
    assert_eq!(service.send(request).await.status, StatusCode::BAD_REQUEST);
}
