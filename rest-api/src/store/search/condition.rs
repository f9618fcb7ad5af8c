//! Conditions on the terms of a movie, as a `tsquery` of Postgres.

/// A condition on the terms of a movie.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    /// It has this term.
    Term(String),
    /// It has a term that begins with this text.
    Beginning(String),
    /// It meets all of these.
    All(Vec<Condition>),
    /// It meets any of these; none can be met if there are none.
    Any(Vec<Condition>),
}

impl Condition {
    /// Returns the condition that all of these are met.
    pub(super) fn all(conditions: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for condition in conditions {
            if !all.contains(&condition) {
                all.push(condition);
            }
        }
        Self::All(all)
    }

    /// Returns the condition that a movie has any of these terms.
    pub(super) fn any_term(terms: impl IntoIterator<Item = String>) -> Self {
        Self::Any(terms.into_iter().map(Self::Term).collect())
    }

    /// Returns the number of its terms.
    pub(super) fn terms(&self) -> usize {
        match self {
            Self::Term(_) | Self::Beginning(_) => 1,
            Self::All(parts) | Self::Any(parts) => parts.iter().map(Self::terms).sum(),
        }
    }

    /// Whether all of several conditions must be met, in some part of it.
    pub(super) fn has_all(&self) -> bool {
        match self {
            Self::Term(_) | Self::Beginning(_) => false,
            Self::All(_) => true,
            Self::Any(any) => any.iter().any(Self::has_all),
        }
    }

    /// Returns the condition as text that Postgres reads as a `tsquery`. None if no movie can meet it.
    pub(super) fn to_tsquery(&self) -> Option<String> {
        match self {
            Self::Term(term) => Some(quoted(term)),
            Self::Beginning(term) => Some(format!("{}:*", quoted(term))),
            Self::All(all) => joined(all.iter().map(Self::to_tsquery).collect::<Option<_>>()?, "&"),
            // A part that no movie can meet does not keep others from being met.
            Self::Any(any) => joined(any.iter().filter_map(Self::to_tsquery).collect(), "|"),
        }
    }
}

/// Joins `parts` in parentheses. Returns none if there are none.
fn joined(parts: Vec<String>, operator: &str) -> Option<String> {
    (!parts.is_empty()).then(|| format!("({})", parts.join(operator)))
}

/// Returns a term in quotes. Within them, quotes and backslashes are doubled.
fn quoted(term: &str) -> String {
    format!("'{}'", term.replace('\\', r"\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_as_a_tsquery() {
        let term = |term: &str| Condition::Term(term.to_owned());
        let none = Condition::Any(Vec::new());
        let condition = Condition::All(vec![
            Condition::Any(vec![term("tstar"), none.clone(), term("cstar")]),
            Condition::Beginning("twa".to_owned()),
        ]);
        assert_eq!(condition.to_tsquery().unwrap(), "(('tstar'|'cstar')&'twa':*)");
        assert_eq!(term(r"t\'").to_tsquery().unwrap(), r"'t\\'''");
        assert_eq!(Condition::All(vec![term("tstar"), none]).to_tsquery(), None);
    }
}
