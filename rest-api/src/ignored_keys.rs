//! Keys that are no files: markers and temporary names of other programs.

use globset::{GlobBuilder, GlobMatcher};

/// The patterns of `MRU_IGNORE_KEYS` if it is not set: a last segment that begins with `_` or `.` (as
/// Hadoop, Spark and editors name what is not to be read), Hadoop's `name_$folder$`, and folder markers.
pub const DEFAULT_IGNORED_KEYS: &str = "**/_*,**/.*,**/*$folder$,**/*/";

/// Glob patterns of object keys whose notifications are ignored.
///
/// `*` and `?` match within a segment of a key, `**/` any number of segments.
#[derive(Clone, Debug)]
pub struct IgnoredKeys(Vec<GlobMatcher>);

impl Default for IgnoredKeys {
    /// Returns the patterns of [`DEFAULT_IGNORED_KEYS`].
    #[expect(clippy::expect_used, reason = "the patterns are a constant, and tests parse them")]
    fn default() -> Self {
        Self::parse(DEFAULT_IGNORED_KEYS).expect("the default patterns are valid")
    }
}

impl IgnoredKeys {
    /// Parses patterns that are separated by commas. Without any pattern no key is ignored.
    ///
    /// # Errors
    /// If a pattern is malformed. The error names it.
    pub fn parse(patterns: &str) -> Result<Self, globset::Error> {
        let patterns = patterns.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        let compile = |pattern| {
            let mut builder = GlobBuilder::new(pattern);
            // A backslash makes the next character literal, on every platform.
            builder.literal_separator(true).backslash_escape(true);
            builder.build().map(|glob| glob.compile_matcher())
        };
        patterns.map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Returns why the object of this key is ignored; none if it is a file. A pattern that ends in `/` is for
    /// folder markers, which are empty: it does not match an object whose `size`, in bytes, is known and not 0.
    pub fn reason(&self, key: &str, size: Option<i64>) -> Option<String> {
        let has_content = size.is_some_and(|size| size > 0);
        let matches = |pattern: &&GlobMatcher| {
            pattern.is_match(key) && !(has_content && pattern.glob().glob().ends_with('/'))
        };
        let pattern = self.0.iter().find(matches)?.glob();
        Some(format!("the key matches the pattern \"{pattern}\" of MRU_IGNORE_KEYS"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_segments_of_a_key() {
        let ignored = |patterns: &str, key: &str| {
            IgnoredKeys::parse(patterns).unwrap().reason(key, None).is_some()
        };
        for (patterns, key, expected) in [
            ("", "_a", false),
            (" , ", "_a", false),
            ("*.tmp", "a.tmp", true),
            ("*.tmp", "a/b.tmp", false),
            ("**/*.tmp", "a/b.tmp", true),
            ("**/_temporary/**", "out/_temporary/0/part.json", true),
            ("a, b/?", "b/c", true),
            ("a, b/?", "b/cc", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("**/_*", "a\nb/_\u{202e}é", true),
            ("**/_*", "_a/b", false),
        ] {
            assert_eq!(ignored(patterns, key), expected, "{patterns:?}: {key:?}");
        }
        let patterns = IgnoredKeys::parse("**/*/,tmp/**").unwrap();
        assert!(patterns.reason("a/", None).is_some() && patterns.reason("a/", Some(0)).is_some());
        assert!(patterns.reason("a/", Some(1)).is_none());
        assert!(patterns.reason("tmp/a/", Some(1)).is_some(), "another pattern matches it");
        let error = IgnoredKeys::parse("a,b[").unwrap_err().to_string();
        assert!(error.contains("b["), "{error}");
    }
}
