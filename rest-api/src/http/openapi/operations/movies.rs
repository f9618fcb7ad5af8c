//! `/movies`, `/genres`, `/years` and `/validate`.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    super::Schemas, Answer, CACHED, MOVIES, Operation, Parameter, if_none_match, not_modified,
    paging,
};
use crate::{
    http::{
        movies::{MAX_BODY, sort_names},
        params::MAX_TEXT,
        query::FIELDS,
        validate::ValidFile,
    },
    problem::Code,
    store::{GenreCount, Merged, Sort, Suggestion, YearCount},
};

/// `GET /movies`.
pub(in crate::http) fn list_movies(_: &mut Schemas) -> Operation {
    let description = "\
        Lists the movies that match all filters. Without filters it lists all movies.\n\n\
        With `q` it lists the movies whose title and cast match a text, the best match first.\n\n\
        With `Accept: application/x-ndjson` the answer is the whole result in its order, one movie a line, of one \
        state of the catalogue. It then takes neither `limit` nor `after`.";
    let sort = json!({
        "type": "string",
        "enum": sort_names().map(|(name, _)| name).collect::<Vec<_>>(),
        "default": sort_names().find(|(_, sort)| *sort == Sort::default()).map(|(name, _)| name),
    });
    let fields = json!({ "type": "array", "items": { "type": "string", "enum": FIELDS } });
    let own = [
        search_text(
            "Words of the title, of names, and the year. Case, accents, punctuation and typing errors are \
             forgiven. The best match comes first: the exact title, then titles that begin so, titles and names \
             with all words, and last those with typing errors. Not with `sort`.",
        ),
        Parameter::query("sort", "The order. A minus sign turns it round.", sort).example("-year"),
        Parameter::query(
            "fields",
            "The properties of each movie, separated by commas: these and `id`. Without it, all of them.",
            fields,
        )
        .with_commas(),
    ];
    let movies = json!({
        "description": "The movies. In NDJSON one movie a line.",
        "type": "array",
        "items": { "$ref": "#/components/schemas/CatalogueMovie" },
    });
    let page = Answer::new("A page of the movies that match, or all of them as NDJSON.")
        .headers(&CACHED)
        .headers(&["Link"])
        .json(movies.clone())
        .content("application/x-ndjson", movies);
    Operation::new("listMovies", MOVIES, "Find movies", description)
        .parameters(filters())
        .parameters(own)
        .parameters(paging())
        .parameters([if_none_match()])
        .answer(StatusCode::OK, page)
        .answer(StatusCode::NOT_MODIFIED, not_modified())
}

/// `GET /suggest`.
pub(in crate::http) fn suggest(schemas: &mut Schemas) -> Operation {
    let description =
        "Completes what is being typed: at most 10 titles and names, the best match first.";
    let suggestions = schemas.of::<Vec<Suggestion>>();
    let answer = Answer::new("The titles and names.").headers(&CACHED).json(suggestions);
    Operation::new("suggest", MOVIES, "Complete a title or a name", description)
        .parameters([search_text("What was typed so far."), if_none_match()])
        .answer(StatusCode::OK, answer)
        .answer(StatusCode::NOT_MODIFIED, not_modified())
}

/// The parameter of text that is searched for.
fn search_text(description: &str) -> Parameter {
    let text = json!({ "type": "string", "maxLength": MAX_TEXT });
    Parameter::query("q", description, text).example("spiderman")
}

/// `POST /movies`.
pub(in crate::http) fn create_movies(schemas: &mut Schemas) -> Operation {
    let description = "\
        Adds movies, and changes those that the catalogue has: title, year and `href` identify a movie. The \
        movies are taken all or not at all. They count as a file of the present time. A movie that is held stays \
        as it is.";
    let merged = Answer::new("The movies are in the catalogue.").json(schemas.of::<Merged>());
    Operation::new("createMovies", MOVIES, "Add movies", description)
        .parameters([content_encoding()])
        .body(&file_description(), file_content())
        .answer(StatusCode::CREATED, merged)
        .fails(&[Code::MalformedJson, Code::Violations])
}

/// `GET /genres`.
pub(in crate::http) fn count_genres(schemas: &mut Schemas) -> Operation {
    let description = "\
        Counts the movies of each genre, among those that match all filters. It lists the 1,000 most common \
        genres, the most common one first.\n\n\
        With `q` it counts the movies that `GET /movies` lists with the same parameters on all its pages.";
    let counts = schemas.of::<Vec<GenreCount>>();
    counted("countGenres", "Count the movies of each genre", description, counts.into())
}

/// `GET /years`.
pub(in crate::http) fn count_years(schemas: &mut Schemas) -> Operation {
    let description = "\
        Counts the movies of each year, among those that match all filters. The years go upwards.\n\n\
        With `q` it counts the movies that `GET /movies` lists with the same parameters on all its pages.";
    let counts = schemas.of::<Vec<YearCount>>();
    counted("countYears", "Count the movies of each year", description, counts.into())
}

fn counted(name: &str, summary: &str, description: &str, counts: Value) -> Operation {
    Operation::new(name, MOVIES, summary, description)
        .parameters(filters())
        .parameters([
            search_text("Words that the movies match, as in `GET /movies`."),
            if_none_match(),
        ])
        .answer(StatusCode::OK, Answer::new("The counts.").headers(&CACHED).json(counts))
        .answer(StatusCode::NOT_MODIFIED, not_modified())
}

/// `POST /validate`.
pub(in crate::http) fn validate_file(schemas: &mut Schemas) -> Operation {
    let description = "\
        Checks a file as the service checks one of the bucket, and stores nothing. Check larger files with the \
        command `rest-api validate`.";
    let valid = Answer::new("The file has no violation.").json(schemas.of::<ValidFile>());
    Operation::new("validateFile", MOVIES, "Check a file", description)
        .parameters([content_encoding()])
        .body(&file_description(), file_content())
        .answer(StatusCode::OK, valid)
        .fails(&[Code::MalformedJson, Code::Violations, Code::CheckTooExpensive])
}

/// The filters of queries on the catalogue. Each may be repeated.
fn filters() -> [Parameter; 4] {
    let text = json!({ "type": "array", "items": { "type": "string", "maxLength": MAX_TEXT } });
    let year = r"^(-?[0-9]{1,18}|-?[0-9]{1,18}\.\.(-?[0-9]{1,18})?|\.\.-?[0-9]{1,18})?$";
    let years = json!({ "type": "array", "items": { "type": "string", "pattern": year } });
    [
        Parameter::query(
            "title",
            "Movies whose title contains this text, in any case. Repeated: it contains all of them.",
            text.clone(),
        )
        .example(json!(["hands"])),
        Parameter::query(
            "year",
            "Movies of this year, or of a range of years: `1990..1999`, `2000..`, `..1950`. Repeated: of any of \
             them.",
            years,
        )
        .example(json!(["1931", "1935..1940"])),
        Parameter::query(
            "genre",
            "Movies of this genre, in any case. Repeated: of all of them.",
            text.clone(),
        )
        .example(json!(["crime"])),
        Parameter::query(
            "actor",
            "Movies with an actor whose name contains this text, in any case. Repeated: with actors for all of \
             them.",
            text,
        )
        .example(json!(["barrymore"])),
    ]
}

/// The header that tells of a compressed body.
fn content_encoding() -> Parameter {
    Parameter::header(
        "Content-Encoding",
        "`gzip` if the body is compressed. It may be left out: the first bytes tell. Another coding (`br`, `zstd`, \
         `deflate`) is a violation; a text that names no coding means nothing.",
        json!({ "type": "string" }),
    )
}

fn file_description() -> String {
    format!(
        "An array of movies, one movie, or NDJSON; plain or gzip; UTF-8. At most {} MiB, also after \
         decompression: a larger file goes through the bucket.",
        MAX_BODY >> 20
    )
}

/// The media types of a file in a request.
fn file_content() -> Value {
    let one = example();
    let two = json!({ "title": "Hell's Island", "year": 1930 });
    json!({
        "application/json": {
            "schema": { "$ref": "#/components/schemas/MoviesFile" },
            "examples": {
                "array": { "summary": "Several movies", "value": [one, two] },
                "movie": { "summary": "One movie", "value": one },
            },
        },
        "application/x-ndjson": {
            // NDJSON has the schema of an array of its lines, as in OpenAPI 3.2.
            "schema": {
                "description": "One movie a line.",
                "type": "array",
                "items": { "$ref": "#/components/schemas/Movie" },
                "minItems": 1,
            },
            "example": [one, two],
        },
    })
}

/// A movie of the sample.
pub(in crate::http::openapi) fn example() -> Value {
    json!({
        "title": "Guilty Hands",
        "year": 1931,
        "cast": ["Lionel Barrymore", "Kay Francis"],
        "genres": ["Drama", "Crime"],
    })
}
