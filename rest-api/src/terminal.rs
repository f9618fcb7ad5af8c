//! Text from outside, made safe for a terminal or a message.

use std::borrow::Cow;

use unicode_general_category::{GeneralCategory, get_general_category};

/// Returns `text` with its control and format characters escaped: a terminal would obey them, or turn
/// the direction of writing. Object keys and files may contain them.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_invisible) {
        return text.into();
    }
    let mut printable = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_invisible(character) {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable.into()
}

/// Returns `text` as [`printable`] does, cut to `max` characters, with `…` for the rest.
pub(crate) fn excerpt(text: &str, max: usize) -> String {
    if text.len() <= max && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return text.to_owned();
    }
    // No more than needed: the text may be long.
    let start: String = text.chars().take(max + 1).collect();
    let excerpt = printable(&start);
    if excerpt.chars().count() <= max {
        return excerpt.into_owned();
    }
    excerpt.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

fn is_invisible(character: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    let category = get_general_category(character);
    matches!(category, Control | Format | LineSeparator | ParagraphSeparator)
}

#[cfg(test)]
mod tests {
    use super::{excerpt, printable};

    #[test]
    fn characters_that_a_terminal_obeys_are_escaped() {
        for (text, expected) in [
            ("plain é 映画 🎬", "plain é 映画 🎬"),
            ("line\nend\ttab", "line\\nend\\ttab"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}e", "a\\u{202e}b\\u{2066}c\\u{200b}d\\u{feff}e"),
            ("a\u{2028}b\u{2029}c\u{85}d", "a\\u{2028}b\\u{2029}c\\u{85}d"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }
    #[test]
    fn an_excerpt_is_short() {
        assert_eq!(excerpt("/movies", 7), "/movies");
        assert_eq!(excerpt("/movies/1", 7), "/movie…");
        assert_eq!(excerpt("a\u{202e}b\nc", 20), "a\\u{202e}b\\nc");
        assert_eq!(excerpt(&"\u{202e}".repeat(60_000), 512).chars().count(), 512);
    }
}
