//! What users may be: their names, their roles, the prefixes that bind them.

use unicode_general_category::{GeneralCategory, get_general_category};

use super::{Role, Roles};
use crate::store::canonical;

/// The longest name, in characters.
const MAX_NAME: usize = 64;

/// The largest number of prefixes of a user, and the longest one, in bytes.
const MAX_PREFIXES: usize = 20;
const MAX_PREFIX: usize = 1024;

/// How long all of them may be, in bytes: access tokens contain them.
const MAX_ALL_PREFIXES: usize = 2048;

/// Returns the name of a user in composed form.
///
/// # Errors
/// What a name may be, if this is none.
pub fn user_name(text: &str) -> Result<String, &'static str> {
    let name = canonical(text);
    let is_name = (1..=MAX_NAME).contains(&name.chars().count())
        && name.trim() == name
        && !name.contains(is_unfit)
        // Names in parentheses tell of an outside issuer, and this one is the service's own.
        && !name.contains(['(', ')'])
        && !name.eq_ignore_ascii_case(super::SERVICE.1);
    is_name
        .then(|| name.into_owned())
        .ok_or("1 to 64 visible characters and spaces, without parentheses, nor spaces at the ends")
}

/// Returns whether a character is invisible, looks like a space, or has no meaning that lasts: that of one which
/// Unicode has not assigned may change, and with it which names are equal.
fn is_unfit(character: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Unassigned,
    };
    match get_general_category(character) {
        Control | Format | LineSeparator | ParagraphSeparator | PrivateUse | Unassigned => true,
        SpaceSeparator => character != ' ',
        _ => false,
    }
}

/// Returns the roles of these names, each once and in the order of their declaration.
///
/// # Errors
/// Which roles a user may have, if one of these is another.
pub fn roles_of_user(names: &[String]) -> Result<Vec<String>, &'static str> {
    let role = |name: &String| Role::from_name(name).filter(|role| *role != Role::Service);
    let roles: Option<Roles> = names.iter().map(role).collect();
    let roles = roles.ok_or("producer, editor or admin; service is the role of the API token")?;
    Ok(roles.iter().map(|role| role.name().to_owned()).collect())
}

/// Checks the beginnings of keys that a user is bound to.
///
/// # Errors
/// What they may be, if these are not.
pub fn check_prefixes(prefixes: &[String]) -> Result<(), &'static str> {
    let is_prefix =
        |prefix: &String| (1..=MAX_PREFIX).contains(&prefix.len()) && !prefix.contains('\0');
    let all: usize = prefixes.iter().map(String::len).sum();
    let are_few = prefixes.len() <= MAX_PREFIXES && all <= MAX_ALL_PREFIXES;
    if are_few && prefixes.iter().all(is_prefix) {
        return Ok(());
    }
    Err("at most 20 prefixes of 1 to 1,024 bytes without U+0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_seen_and_lasts() {
        for (text, expected) in [
            ("ann", "ann"),
            ("Zoë Müller", "Zoë Müller"),
            ("Zoe\u{308}", "Zoë"),
            ("映画", "映画"),
            ("o'neil+films@example.com", "o'neil+films@example.com"),
            ("🎬", "🎬"),
        ] {
            assert_eq!(user_name(text).as_deref(), Ok(expected));
        }
        let long = "x".repeat(65);
        for text in [
            "",
            " ",
            " ann",
            "ann ",
            "an\0n",
            "an\nn",
            "an\u{200b}n",
            "\u{202e}nna",
            "ann (example.com)",
            "api token",
            "an\u{a0}n",
            "an\u{2028}n",
            "\u{e000}",
            "\u{378}",
            "\u{10ffff}",
            &long,
        ] {
            assert!(user_name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn roles_are_known_and_not_the_one_of_the_api_token() {
        let roles = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            roles_of_user(&names).map(|roles| roles.join(","))
        };
        assert_eq!(roles(&["admin", "producer", "admin"]).as_deref(), Ok("producer,admin"));
        assert_eq!(roles(&[]).as_deref(), Ok(""));
        for wrong in ["service", "Admin", ""] {
            assert!(roles(&["editor", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes_are_bounded() {
        let prefixes = |prefix: &str, count| vec![prefix.to_owned(); count];
        assert!(check_prefixes(&[]).is_ok());
        assert!(check_prefixes(&prefixes("studio/", 20)).is_ok());
        for wrong in
            [prefixes("", 1), prefixes("a\0", 1), prefixes("a", 21), prefixes(&"a".repeat(1025), 1)]
        {
            assert!(check_prefixes(&wrong).is_err());
        }
    }
}
