//! What an answer shows of a film of TMDB. Whatever TMDB says is text, or an address that is made here.

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tmdb::{Configuration, TmdbFilm};

/// Where all images are. The configuration of TMDB names a path there. The page allows images of no other host.
pub const IMAGE_ORIGIN: &str = "https://image.tmdb.org";

/// The widths at which images are wanted, in pixels: the next larger size that there is.
const POSTER_WIDTH: u32 = 500;
const BACKDROP_WIDTH: u32 = 1280;

/// The longest texts, in characters.
const MAX_TITLE: usize = 1_000;
const MAX_OVERVIEW: usize = 10_000;

/// The longest running time, in minutes.
const MAX_RUNTIME: u32 = 10_000;

/// A film of TMDB.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Film {
    /// How well it fits title, year and cast of the movie, up to 1.
    pub score: f64,
    /// Its number at TMDB.
    pub tmdb_id: u64,
    /// Its page at TMDB.
    pub tmdb_url: String,
    /// Its id at IMDb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub imdb_id: Option<String>,
    /// Its title at TMDB.
    pub title: String,
    /// What it is about, in English. Plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub overview: Option<String>,
    /// The running time in minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32")]
    pub runtime: Option<u32>,
    /// How its viewers at TMDB rate it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Rating")]
    pub rating: Option<Rating>,
    /// The address of its poster, about 500 pixels wide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub poster: Option<String>,
    /// The address of a wide picture, about 1280 pixels wide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub backdrop: Option<String>,
    /// The address of a trailer at YouTube.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub trailer: Option<String>,
}

/// How viewers rate a film.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Rating {
    /// From 0 to 10.
    pub average: f64,
    /// How many have rated it.
    pub votes: u64,
}

/// Where images are, and in which sizes.
#[derive(Clone, Debug)]
pub(super) struct Images {
    /// Ends with a slash.
    base: String,
    poster_size: String,
    backdrop_size: String,
}

impl Images {
    /// Returns what a configuration says; none if it leads to another host, or has no sizes.
    pub(super) fn new(configuration: &Configuration) -> Option<Self> {
        let images = &configuration.images;
        let base = Url::parse(&images.secure_base_url).ok()?;
        let is_plain = base.query().is_none() && base.fragment().is_none();
        let has_no_login = base.username().is_empty() && base.password().is_none();
        let is_ours = base.origin().ascii_serialization() == IMAGE_ORIGIN;
        (is_ours && is_plain && has_no_login && base.path().ends_with('/')).then_some(())?;
        Some(Self {
            base: base.into(),
            poster_size: size(&images.poster_sizes, POSTER_WIDTH)?.to_owned(),
            backdrop_size: size(&images.backdrop_sizes, BACKDROP_WIDTH)?.to_owned(),
        })
    }

    /// Returns the address of an image: `path` is the name of a file behind a slash.
    fn url(&self, size: &str, path: Option<&String>) -> Option<String> {
        let name = path?.strip_prefix('/')?;
        let (stem, extension) = name.split_once('.')?;
        let is_name = (1..=100).contains(&stem.len()) && stem.bytes().all(is_plain);
        let is_image = ["jpg", "jpeg", "png", "webp", "svg"].contains(&extension);
        (is_name && is_image).then(|| format!("{}{size}/{name}", self.base))
    }
}

/// Returns the name of the smallest size that is wide enough, else that of the image as it is.
fn size(names: &[String], wanted: u32) -> Option<&str> {
    let width = |name: &String| name.strip_prefix('w')?.parse::<u32>().ok();
    let widths = names.iter().filter_map(|name| Some((width(name)?, name)));
    let wide_enough = widths.filter(|(width, _)| *width >= wanted).min();
    let name = wide_enough.map(|(_, name)| name);
    name.or_else(|| names.iter().find(|name| *name == "original")).map(String::as_str)
}

impl Film {
    /// Returns what is shown of a film that fits by `score`.
    pub(super) fn new(score: f64, film: &TmdbFilm, images: Option<&Images>) -> Self {
        let image = |size: fn(&Images) -> &str, path: &Option<String>| {
            images.and_then(|images| images.url(size(images), path.as_ref()))
        };
        let imdb_id = film.external_ids.imdb_id.as_ref().or(film.imdb_id.as_ref());
        Self {
            score,
            tmdb_id: film.id,
            tmdb_url: format!("https://www.themoviedb.org/movie/{}", film.id),
            imdb_id: imdb_id.filter(|id| is_imdb_id(id)).cloned(),
            title: text(&film.title, MAX_TITLE),
            overview: film
                .overview
                .as_ref()
                .map(|overview| text(overview, MAX_OVERVIEW))
                .filter(|it| !it.is_empty()),
            runtime: film.runtime.filter(|minutes| (1..=MAX_RUNTIME).contains(minutes)),
            rating: rating(film),
            poster: image(|images| &images.poster_size, &film.poster_path),
            backdrop: image(|images| &images.backdrop_size, &film.backdrop_path),
            trailer: trailer(film),
        }
    }
}

fn rating(film: &TmdbFilm) -> Option<Rating> {
    let (average, votes) = (film.vote_average?, film.vote_count?);
    (votes > 0 && (0.0..=10.0).contains(&average)).then_some(Rating { average, votes })
}

/// Returns the address of a trailer, an official one first.
fn trailer(film: &TmdbFilm) -> Option<String> {
    let is_key = |key: &str| (1..=32).contains(&key.len()) && key.bytes().all(is_plain);
    let trailers =
        film.videos.results.iter().filter(|video| {
            video.site == "YouTube" && video.r#type == "Trailer" && is_key(&video.key)
        });
    let best = trailers.min_by_key(|video| !video.official)?;
    Some(format!("https://www.youtube.com/watch?v={}", best.key))
}

fn is_imdb_id(id: &str) -> bool {
    let digits = id.strip_prefix("tt").unwrap_or_default();
    (7..=10).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether a byte means nothing in an address.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Returns text without control characters but for the ends of lines, cut to `max` characters.
fn text(text: &str, max: usize) -> String {
    let kept = text.trim().chars().filter(|c| !c.is_control() || *c == '\n');
    kept.take(max).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn configuration(base: &str, sizes: &[&str]) -> Configuration {
        let images =
            json!({ "secure_base_url": base, "poster_sizes": sizes, "backdrop_sizes": sizes });
        serde_json::from_value(json!({ "images": images })).unwrap()
    }

    fn film(film: Value) -> Film {
        let images =
            Images::new(&configuration("https://image.tmdb.org/t/p/", &["w92", "original"]));
        Film::new(1.0, &serde_json::from_value(film).unwrap(), images.as_ref())
    }

    #[test]
    fn images_come_from_one_host_alone() {
        let sizes = ["w92", "w500", "w780", "w1280", "original"];
        let images = Images::new(&configuration("https://image.tmdb.org/t/p/", &sizes)).unwrap();
        assert_eq!((&*images.poster_size, &*images.backdrop_size), ("w500", "w1280"));
        for base in [
            "http://image.tmdb.org/t/p/",
            "https://image.tmdb.org.evil.example/t/p/",
            "https://image.tmdb.org:8443/t/p/",
            "https://image.tmdb.org@evil.example/t/p/",
            "https://evil@image.tmdb.org/t/p/",
            "https://image.tmdb.org/t/p",
            "https://image.tmdb.org/?",
            "javascript:alert(1)//",
            "//image.tmdb.org/",
            "",
        ] {
            assert!(Images::new(&configuration(base, &sizes)).is_none(), "{base}");
        }
        let odd = ["w\"><script>", "h632", "w-1", "w0x7d0"];
        assert!(Images::new(&configuration("https://image.tmdb.org/t/p/", &odd)).is_none());
    }

    #[test]
    fn what_is_no_name_of_an_image_is_left_out() {
        let poster = |path: &str| film(json!({ "poster_path": path })).poster;
        let expected = "https://image.tmdb.org/t/p/original/aB-3_x.jpg";
        assert_eq!(poster("/aB-3_x.jpg").as_deref(), Some(expected));
        for path in [
            "",
            "/",
            "/.jpg",
            "aB.jpg",
            "//evil.example/a.jpg",
            "/../a.jpg",
            "/a.jpg?x",
            "/a.jpg#x",
            "/a\"onerror=.jpg",
            "/a.html",
            "/a/b.jpg",
            "/%2e%2e.jpg",
            "/é.jpg",
            "javascript:a.jpg",
        ] {
            assert_eq!(poster(path), None, "{path}");
        }
    }

    #[test]
    fn other_values_are_checked_too() {
        let shown = film(json!({
            "id": 7, "title": " A\u{0}b\u{1b}[31m ", "overview": "One\n<script>two</script>",
            "runtime": 0, "vote_average": 11.0, "vote_count": 3, "imdb_id": "tt12\"34567",
            "external_ids": { "imdb_id": null },
            "videos": { "results": [
                { "site": "YouTube", "type": "Trailer", "key": "x&list=y", "official": true },
                { "site": "Elsewhere", "type": "Trailer", "key": "abc", "official": true },
                { "site": "YouTube", "type": "Clip", "key": "abc", "official": true },
                { "site": "YouTube", "type": "Trailer", "key": "first", "official": false },
                { "site": "YouTube", "type": "Trailer", "key": "best-1_", "official": true },
            ] },
        }));
        let expected = json!({
            "score": 1.0, "tmdb_id": 7, "tmdb_url": "https://www.themoviedb.org/movie/7",
            "title": "Ab[31m", "overview": "One\n<script>two</script>",
            "trailer": "https://www.youtube.com/watch?v=best-1_",
        });
        assert_eq!(json!(shown), expected);
        let long =
            film(json!({ "overview": "é".repeat(20_000), "vote_average": 6.5, "vote_count": 0 }));
        assert_eq!(long.overview.unwrap().chars().count(), MAX_OVERVIEW);
        assert!(long.rating.is_none());
    }
}
