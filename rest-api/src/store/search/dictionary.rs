//! The words of all titles and names, for the correction of typing errors.
//!
//! A word is found by what is left of it when letters are deleted (Garbe's symmetric deletion, SymSpell): two
//! words that differ by few edits have such a rest in common. The rests are stored as hashes, of the beginning
//! of a word alone; what they find is compared in full.
//!
//! A word that no movie has any more remains. Its corrections find nothing.

use std::collections::{BTreeSet, HashSet};

use deadpool_postgres::{GenericClient, Transaction};
use futures_util::pin_mut;
use tokio_postgres::{binary_copy::BinaryCopyInWriter, types::Type};

use crate::store::{
    StoreError,
    sql::{execute, query_one},
};

/// The shortest word that typing errors are corrected to, in characters.
const MIN_WORD: usize = 3;

/// Letters are deleted from so many characters at the beginning of a word.
const PREFIX: usize = 7;

/// Adding at least this many words to an empty dictionary builds its index afterwards.
const FIRST_LOAD: usize = 1000;

/// The largest number of words of one statement.
const MAX_WORDS: usize = 10_000;

/// Returns how many edits may lead from what was typed to `word`: to insert, delete or replace a letter, or to
/// exchange two neighbours. None of a number: another number is another title.
pub(super) fn max_edits(word: &str) -> usize {
    match word.chars().count() {
        _ if word.chars().all(char::is_numeric) => 0,
        0..MIN_WORD => 0,
        MIN_WORD..8 => 1,
        _ => 2,
    }
}

/// Returns the hashes of what is left of the beginning of `word` after up to `edits` deletions.
fn keys(word: &str, edits: usize) -> BTreeSet<i32> {
    let prefix: Vec<char> = word.chars().take(PREFIX).collect();
    let mut rests = HashSet::from([prefix.clone()]);
    let mut last = vec![prefix];
    for _ in 0..edits {
        let deleted = last.iter().flat_map(|rest| {
            (0..rest.len()).map(|position| {
                let mut rest = rest.clone();
                rest.remove(position);
                rest
            })
        });
        last = deleted.collect::<HashSet<_>>().into_iter().collect();
        rests.extend(last.iter().cloned());
    }
    let hash = |rest: Vec<char>| crc32fast::hash(String::from_iter(rest).as_bytes());
    rests.into_iter().map(|rest| hash(rest).cast_signed()).collect()
}

/// A word of the dictionary that may have been meant.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Correction {
    /// How many edits lead to it.
    pub(super) edits: usize,
    pub(super) word: String,
}

/// Returns for each typed word those of the dictionary that may have been meant, the nearest first.
pub(super) async fn corrections(
    client: &impl GenericClient,
    typed: &[String],
) -> Result<Vec<Vec<Correction>>, StoreError> {
    let find = "
        /* dictionary::corrections */
        select word from words where keys && $1";
    let wanted: BTreeSet<i32> = typed.iter().flat_map(|word| keys_of_typed(word)).collect();
    let wanted: Vec<i32> = wanted.into_iter().collect();
    let found = client.query(&client.prepare_cached(find).await?, &[&wanted]).await?;
    let corrections = |typed: &String| {
        let correction = |row| {
            let word: &str = tokio_postgres::Row::get(row, 0);
            let edits = strsim::osa_distance(typed, word);
            (1..=max_edits(word))
                .contains(&edits)
                .then(|| Correction { edits, word: word.to_owned() })
        };
        let mut corrections: Vec<Correction> = found.iter().filter_map(correction).collect();
        corrections.sort();
        corrections
    };
    Ok(typed.iter().map(corrections).collect())
}

/// Returns the keys of what was typed. What was meant may be longer by as many letters as it may have edits.
fn keys_of_typed(word: &str) -> BTreeSet<i32> {
    match word.chars().count() {
        _ if word.chars().all(char::is_numeric) => BTreeSet::new(),
        0..2 => BTreeSet::new(),
        2..6 => keys(word, 1),
        _ => keys(word, 2),
    }
}

/// Adds words to the dictionary, if it lacks them. The caller holds the merge lock.
pub(in crate::store) async fn add_words(
    transaction: &Transaction<'_>,
    words: &BTreeSet<&str>,
) -> Result<(), StoreError> {
    let unknown = "
        /* dictionary::add_words */
        select word
        from unnest($1::text[]) as word
        where not exists (select from words w where w.word = word.word)";
    let words: Vec<&str> = words.iter().copied().filter(|word| max_edits(word) > 0).collect();
    for words in words.chunks(MAX_WORDS) {
        let statement = transaction.prepare_cached(unknown).await?;
        let rows = transaction.query(&statement, &[&words]).await?;
        insert(transaction, rows.iter().map(|row| row.get(0)).collect()).await?;
    }
    Ok(())
}

/// Adds the words of the staged movies, if the dictionary lacks them. The caller holds the merge lock.
pub(in crate::store) async fn add_staged(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    // Packed into few values, which take less memory than rows.
    let unknown = r#"
        /* dictionary::add_staged */
        select string_agg(word, ' ')
        from (
            select word, row_number() over () / $2 as batch
            from (
                select distinct substr(term, 2) collate "C" as word
                from staging s, unnest(string_to_array(s.terms, ' ')) as term
                where left(term, 1) = any(array['t', 'c'])
            ) staged
            where length(word) >= $1 and word !~ '^[0-9]+$'
                and not exists (select from words w where w.word = staged.word)
        ) unknown
        group by batch"#;
    let (shortest, batch) = (MIN_WORD as i32, MAX_WORDS as i64);
    let statement = transaction.prepare_cached(unknown).await?;
    let batches = transaction.query(&statement, &[&shortest, &batch]).await?;
    for words in &batches {
        let words = words.get::<_, &str>(0).split(' ').filter(|word| max_edits(word) > 0);
        insert(transaction, words.collect()).await?;
    }
    Ok(())
}

/// Inserts words that the dictionary lacks.
async fn insert(transaction: &Transaction<'_>, words: Vec<&str>) -> Result<(), StoreError> {
    if words.is_empty() {
        return Ok(());
    }
    let is_empty = "
        /* dictionary::insert */
        select not exists (select from words)";
    let is_first =
        words.len() >= FIRST_LOAD && query_one(transaction, is_empty, &[]).await?.get::<_, bool>(0);
    if is_first {
        let drop = "
            /* dictionary::insert */
            select drop_indexes('words')";
        execute(transaction, drop, &[]).await?;
    }
    let copy = "
        /* dictionary::insert */
        copy words (word, keys) from stdin (format binary)";
    let copy = transaction.prepare_cached(copy).await?;
    let copy = transaction.copy_in(&copy).await?;
    let writer = BinaryCopyInWriter::new(copy, &[Type::TEXT, Type::INT4_ARRAY]);
    pin_mut!(writer);
    for word in words {
        let keys: Vec<i32> = keys(word, max_edits(word)).into_iter().collect();
        writer.as_mut().write(&[&word, &keys]).await?;
    }
    writer.finish().await?;
    if is_first {
        let create = "
            /* dictionary::insert */
            select create_indexes('words')";
        execute(transaction, create, &[]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any word is found by what is left of it after the edits that it may have.
    #[test]
    fn a_word_and_its_typing_errors_have_a_key_in_common() {
        let mut random = fastrand::Rng::with_seed(15);
        let letter = |random: &mut fastrand::Rng| random.char('a'..'h');
        for _ in 0..50_000 {
            let word: String = (0..random.usize(3..14)).map(|_| letter(&mut random)).collect();
            let mut typed: Vec<char> = word.chars().collect();
            for _ in 0..max_edits(&word) {
                let at = random.usize(..typed.len());
                match random.u8(..4) {
                    0 => typed.insert(at, letter(&mut random)),
                    1 if typed.len() > 2 => drop(typed.remove(at)),
                    2 if at > 0 => typed.swap(at - 1, at),
                    _ => typed[at] = letter(&mut random),
                }
            }
            let typed = String::from_iter(typed);
            let edits = strsim::osa_distance(&typed, &word);
            if (1..=max_edits(&word)).contains(&edits) {
                let stored = keys(&word, max_edits(&word));
                assert!(!stored.is_disjoint(&keys_of_typed(&typed)), "{typed} {word}");
            }
        }
    }

    #[test]
    fn numbers_and_short_words_are_not_corrected_to() {
        for (word, edits) in [("1984", 0), ("of", 0), ("cat", 1), ("matrix", 1), ("terminator", 2)]
        {
            assert_eq!(max_edits(word), edits, "{word}");
        }
    }
}
