//! Environment variables that a program does not know: mostly misspelt ones, whose defaults would
//! apply in silence.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

/// What the names of all variables of these programs begin with.
const PREFIX: &str = "MRU_";

/// What the names of variables of the tests begin with. The programs that they start inherit them.
const TESTS: &str = "MRU_TEST_";

/// How alike a name and its suggestion must be, from 0 to 1.
const ALIKE: f64 = 0.5;

/// Variables that a program does not know are set.
#[derive(Debug, thiserror::Error)]
#[error("{program} does not know {}: correct or unset them", list(.unknown))]
pub struct UnknownVariables {
    program: &'static str,
    /// The nearest known name of each, if one is near.
    unknown: BTreeMap<String, Option<String>>,
}

/// Returns the names that `read` looks up, when all variables are set and when none is.
pub fn names(read: impl Fn(&dyn Fn(&str) -> Option<String>)) -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    for value in [None, Some("http://localhost/1".to_owned())] {
        read(&|name| {
            names.borrow_mut().insert(name.to_owned());
            value.clone()
        });
    }
    names.into_inner()
}

/// Checks that `program` knows every variable whose name begins with `MRU_`, except those of the tests
/// (`MRU_TEST_*`). An empty variable counts as not set.
///
/// # Errors
/// If there are others. The error names all of them.
pub fn check(
    program: &'static str,
    known: &BTreeSet<String>,
    set: impl IntoIterator<Item = (String, String)>,
) -> Result<(), UnknownVariables> {
    let unknown: BTreeMap<_, _> = set
        .into_iter()
        .filter(|(name, value)| {
            name.starts_with(PREFIX)
                && !value.is_empty()
                && !name.starts_with(TESTS)
                && !known.contains(name)
        })
        .map(|(name, _)| {
            let nearest = nearest(&name, known).map(str::to_owned);
            (name, nearest)
        })
        .collect();
    if unknown.is_empty() { Ok(()) } else { Err(UnknownVariables { program, unknown }) }
}

/// Returns the variables of this process. One that is not UTF-8 has replacement characters.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    let text = |it: std::ffi::OsString| it.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// Returns the known name that is most like `name`, if it is like it at all. The prefix does not count.
fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let name = name.strip_prefix(PREFIX)?;
    let likeness = |known: &'a String| {
        let rest = known.strip_prefix(PREFIX)?;
        Some((strsim::normalized_damerau_levenshtein(name, rest), known.as_str()))
    };
    let near = known.iter().filter_map(likeness).filter(|(likeness, _)| *likeness >= ALIKE);
    near.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

fn list(unknown: &BTreeMap<String, Option<String>>) -> String {
    let entry = |(name, nearest): (&String, &Option<String>)| match nearest {
        Some(nearest) => format!("{name} (did you mean {nearest}?)"),
        None => name.clone(),
    };
    unknown.iter().map(entry).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(set: &[(&str, &str)]) -> Option<String> {
        let known = ["AWS_REGION", "MRU_DB_HOST", "MRU_DB_PASS", "MRU_DB_READ_HOST", "MRU_WORKERS"];
        let known = known.map(str::to_owned).into();
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        check("program", &known, set).err().map(|error| error.to_string())
    }

    #[test]
    fn all_unknown_variables_are_named_in_one_line_with_the_nearest() {
        let set = [
            ("MRU_READ_HOST", "replica"),
            ("MRU_DB_HOST", "primary"),
            ("MRU_DB_PASSWORD", "hunter2"),
            ("MRU_ADMIN_NAME", "ann"),
            ("MRU_WORKER", "2"),
            ("mru_db_host", "other"),
        ];
        let expected = "program does not know MRU_ADMIN_NAME, \
             MRU_DB_PASSWORD (did you mean MRU_DB_PASS?), \
             MRU_READ_HOST (did you mean MRU_DB_READ_HOST?), \
             MRU_WORKER (did you mean MRU_WORKERS?): correct or unset them";
        assert_eq!(refusal(&set).as_deref(), Some(expected));
    }

    #[test]
    fn known_empty_and_foreign_variables_pass_and_so_do_those_of_tests() {
        let set = [
            ("MRU_DB_HOST", "primary"),
            ("MRU_READ_HOST", ""),
            ("MRU_TEST_SEED", "1"),
            ("MRUX_A", "1"),
            ("AWS_REGIO", "1"),
        ];
        assert_eq!(refusal(&set), None);
        assert!(refusal(&[("MRU_TESTS", "1")]).is_some());
    }

    #[test]
    fn names_are_found_on_both_ways_through_a_reader() {
        let found = names(|lookup| {
            drop(match lookup("A") {
                Some(_) => lookup("B"),
                None => lookup("C"),
            });
        });
        assert_eq!(found, ["A", "B", "C"].map(str::to_owned).into());
    }
}
