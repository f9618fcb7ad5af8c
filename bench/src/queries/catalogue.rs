//! The synthetic catalogue: words and names as common as in real titles (Zipf's law), the same in every run.

use fastrand::Rng;
use serde_json::json;

/// How many words and names there are.
const WORDS: usize = 85_000;
const FIRST_NAMES: usize = 3_000;
const LAST_NAMES: usize = 40_000;

/// The most common words of titles, which the synthetic ones follow.
const COMMON: [&str; 16] = [
    "the", "of", "a", "and", "in", "to", "man", "love", "night", "my", "on", "girl", "for", "last",
    "life", "with",
];

/// The share of titles with a word in another script.
const NON_LATIN: f64 = 0.01;

const GENRES: [&str; 14] = [
    "Drama",
    "Comedy",
    "Western",
    "Crime",
    "Horror",
    "Action",
    "Romance",
    "Musical",
    "Thriller",
    "Adventure",
    "Animated",
    "Documentary",
    "War",
    "Mystery",
];

/// Returns `count` movies as JSON.
pub(super) fn synthetic(count: usize) -> Vec<String> {
    let random = &mut Rng::with_seed(2026);
    let mut words: Vec<String> = COMMON.map(str::to_owned).to_vec();
    words.extend((COMMON.len()..WORDS).map(|rank| word(random, rank)));
    let [first_names, last_names] = [FIRST_NAMES, LAST_NAMES]
        .map(|names| (0..names).map(|rank| capital(&word(random, rank + 100))).collect::<Vec<_>>());
    let movie = |number: usize| {
        let mut title: Vec<String> =
            (0..random.usize(1..6)).map(|_| capital(pick::<String>(random, &words))).collect();
        if random.f64() < NON_LATIN {
            title.push(["ночь", "映画", "سينما"][random.usize(0..3)].to_owned());
        }
        let mut name = || format!("{} {}", pick(random, &first_names), pick(random, &last_names));
        let cast: Vec<String> = (0..number % 5 + 1).map(|_| name()).collect();
        let genres: Vec<&str> = (0..random.usize(1..3)).map(|_| *pick(random, &GENRES)).collect();
        let extract: Vec<&String> = (0..20).map(|_| pick::<String>(random, &words)).collect();
        let extract = extract.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        json!({
            "title": title.join(" "), "year": 2026 - random.u32(0..12).pow(2) % 127, "cast": cast,
            "genres": genres, "href": format!("{number}"), "extract": extract,
        })
        .to_string()
    };
    (0..count).map(movie).collect()
}

/// Picks by Zipf's law: the chance of the nth is proportional to 1/n.
fn pick<'a, T>(random: &mut Rng, from: &'a [T]) -> &'a T {
    let rank = ((from.len() + 1) as f64).powf(random.f64()) as usize;
    &from[rank.clamp(1, from.len()) - 1]
}

/// Makes a word. Common words are short.
fn word(random: &mut Rng, rank: usize) -> String {
    let onsets = [
        "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st",
        "th", "br", "ch", "sh", "gr", "",
    ];
    let vowels = ["a", "e", "i", "o", "u", "ea", "ou", "ie"];
    let codas = ["", "n", "r", "s", "t", "l", "nd", "ck", "m", "ng"];
    let most = if rank < 500 { 2 } else { 4 };
    let syllables = random.usize(1..most) + usize::from(rank >= 5_000);
    let mut syllable = || {
        let [onset, vowel, coda] =
            [&onsets[..], &vowels[..], &codas[..]].map(|parts| parts[random.usize(0..parts.len())]);
        format!("{onset}{vowel}{coda}")
    };
    (0..syllables).map(|_| syllable()).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
