//! The splitter finds the same records however chunks are cut, and those that serde_json finds.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Item, Limits, Splitter};

/// Index and offset; the record, or its fault.
type Found = (Option<u64>, u64, Result<Vec<u8>, String>);

/// Returns the items of a file whose chunks have the sizes that `size` returns.
fn split(file: &[u8], mut size: impl FnMut() -> usize) -> Vec<Found> {
    let mut items = Vec::new();
    let mut emit = |item: Item<'_>| {
        items.push(match item {
            Item::Record { index, offset, bytes } => (Some(index), offset, Ok(bytes.to_vec())),
            Item::Fault { index, offset, fault } => (index, offset, Err(fault.found)),
        });
    };
    let mut splitter = Splitter::new(Limits::with_max_file(1 << 30));
    let mut rest = file;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(size().min(rest.len()));
        splitter.push(chunk, &mut emit);
        rest = behind;
    }
    splitter.finish(&mut emit);
    items
}

fn random_value(random: &mut Rng, depth: u32) -> Value {
    let text = |random: &mut Rng| -> String {
        let letters = ['a', '"', '\\', '[', ']', '{', '}', ',', ':', 'é', '\n', '🎬', ' ', '\u{1}'];
        (0..random.usize(0..8)).map(|_| *random.choice(&letters).unwrap()).collect()
    };
    match random.u8(0..if depth > 3 { 3 } else { 6 }) {
        0 => json!(random.i32(..)),
        1 => json!(text(random)),
        2 => Value::Null,
        3 => (0..random.usize(0..4)).map(|_| random_value(random, depth + 1)).collect(),
        _ => (0..random.usize(0..4))
            .map(|_| (text(random), random_value(random, depth + 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn random_file(random: &mut Rng) -> (Vec<Value>, Vec<u8>) {
    let records: Vec<Value> = (0..random.usize(0..6)).map(|_| random_value(random, 0)).collect();
    let pretty = random.bool();
    let text = match pretty {
        true => serde_json::to_string_pretty(&records),
        false => serde_json::to_string(&records),
    };
    let mark = if random.bool() { "\u{feff}" } else { "" };
    (records, format!("{mark}{}\n", text.unwrap()).into_bytes())
}

#[test]
fn finds_the_records_that_serde_json_finds() {
    let mut random = Rng::with_seed(1);
    for _ in 0..3000 {
        let (records, file) = random_file(&mut random);
        let items = split(&file, || 5);
        let found: Vec<Value> = items
            .iter()
            .map(|(_, _, bytes)| serde_json::from_slice(bytes.as_ref().unwrap()).unwrap())
            .collect();
        assert_eq!(found, records, "{}", String::from_utf8_lossy(&file));
        for (number, (index, offset, bytes)) in items.iter().enumerate() {
            let bytes = bytes.as_ref().unwrap();
            let offset = usize::try_from(*offset).unwrap();
            assert_eq!(*index, Some(number as u64));
            assert_eq!(&file[offset..offset + bytes.len()], bytes);
        }
    }
}

#[test]
fn finds_the_same_records_in_damaged_files_however_chunks_are_cut() {
    let mut random = Rng::with_seed(2);
    for round in 0..3000 {
        let (records, mut file) = random_file(&mut random);
        if round % 2 == 0 {
            file = records.iter().flat_map(|record| format!("{record}\n").into_bytes()).collect();
        }
        for _ in 0..random.usize(0..4) {
            if file.is_empty() {
                break;
            }
            let at = random.usize(0..file.len());
            match random.u8(0..3) {
                0 => drop(file.remove(at)),
                1 => file.insert(at, *random.choice(b"{}[],\"\\\n \x00\xff1").unwrap()),
                _ => file.truncate(at),
            }
        }
        let whole = split(&file, || usize::MAX);
        assert_eq!(split(&file, || 1), whole, "{}", String::from_utf8_lossy(&file));
        let mut sizes = random.fork();
        assert_eq!(split(&file, || sizes.usize(1..9)), whole);
        // serde_json decides whether an array is sound.
        let sound = serde_json::from_slice::<Vec<Value>>(
            file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&file),
        );
        let accepted = whole.iter().all(|(_, _, bytes)| {
            bytes.as_ref().is_ok_and(|bytes| serde_json::from_slice::<Value>(bytes).is_ok())
        });
        if file.first() == Some(&b'[') || sound.is_ok() {
            assert_eq!(accepted, sound.is_ok(), "{}", String::from_utf8_lossy(&file));
        }
    }
}

#[test]
fn an_oversized_record_is_reported_once_and_skipped() {
    let file = format!("[{{\"a\":\"{}\"}},{{}}]", "x".repeat(1 << 20));
    for size in [64 << 10, usize::MAX] {
        let items = split(file.as_bytes(), || size);
        assert_eq!(items.len(), 2);
        assert_eq!((items[0].0, items[0].1, items[0].2.is_err()), (Some(0), 1, true));
        assert_eq!((items[1].0, &items[1].2), (Some(1), &Ok(b"{}".to_vec())));
    }
}
