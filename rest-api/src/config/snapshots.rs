//! Which files are snapshots, and how much one may withdraw.

use std::str::FromStr;

use super::reader::is_bucket_name;

/// How snapshots are recognised and limited. A snapshot is a file whose newest version is all that the object
/// says: movies that it no longer names are withdrawn.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshots {
    /// The objects that are snapshots (`MRU_SNAPSHOT_PREFIXES`).
    pub prefixes: SnapshotPrefixes,
    /// How many movies a snapshot may withdraw before it is blocked (`MRU_MAX_WITHDRAW`).
    pub max_withdraw: MaxWithdraw,
}

/// Prefixes of the keys whose objects are snapshots, each in a bucket; none by default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SnapshotPrefixes(Vec<SnapshotPrefix>);

/// A prefix of keys in a bucket. An empty one covers the whole bucket.
#[derive(Clone, Debug, Eq, PartialEq)]
struct SnapshotPrefix {
    bucket: String,
    prefix: String,
}

impl SnapshotPrefixes {
    /// Returns whether the object is a snapshot.
    pub fn covers(&self, bucket: &str, key: &str) -> bool {
        self.0.iter().any(|entry| entry.bucket == bucket && key.starts_with(&entry.prefix))
    }

    /// Returns the buckets, one for each prefix.
    pub fn buckets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.bucket.as_str())
    }
}

impl FromStr for SnapshotPrefixes {
    type Err = ();

    /// Parses entries of the form `bucket/prefix`, separated by commas.
    fn from_str(text: &str) -> Result<Self, ()> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let parse = |entry: &str| {
            let (bucket, prefix) = entry.split_once('/').ok_or(())?;
            if bucket.is_empty() || !is_bucket_name(bucket) {
                return Err(());
            }
            Ok(SnapshotPrefix { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
        };
        entries.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// The largest number of movies that a snapshot may withdraw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MaxWithdraw {
    /// This percentage, 0 to 100, of the movies that the object named before, and at least
    /// [`MaxWithdraw::MIN_SHARE`] movies.
    Percent(u8),
    /// This number of movies.
    Movies(u64),
}

impl MaxWithdraw {
    /// A percentage allows at least this number of movies, so that small files may change as a whole.
    pub const MIN_SHARE: u64 = 100;

    /// Returns whether a snapshot may withdraw `withdrawn` movies of an object that named `named` before.
    pub fn allows(self, withdrawn: u64, named: u64) -> bool {
        match self {
            Self::Percent(percent) => {
                let share = u128::from(named) * u128::from(percent) / 100;
                u128::from(withdrawn) <= share.max(Self::MIN_SHARE.into())
            }
            Self::Movies(movies) => withdrawn <= movies,
        }
    }
}

impl Default for MaxWithdraw {
    fn default() -> Self {
        Self::Percent(50)
    }
}

impl FromStr for MaxWithdraw {
    type Err = ();

    /// Parses a percentage such as `50%`, or a number of movies.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse().ok().filter(|percent| *percent <= 100);
                percent.map(Self::Percent).ok_or(())
            }
            None => text.parse().map(Self::Movies).map_err(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_the_keys_that_begin_with_it_in_its_bucket() {
        let prefixes: SnapshotPrefixes = "a/daily/, b/, c/x/y".parse().unwrap();
        for (bucket, key, expected) in [
            ("a", "daily/1.json", true),
            ("a", "daily", false),
            ("a", "x/daily/1.json", false),
            ("b", "daily/1.json", true),
            ("c", "x/yz.json", true),
            ("c", "X/y.json", false),
            ("d", "daily/1.json", false),
        ] {
            assert_eq!(prefixes.covers(bucket, key), expected, "{bucket}/{key}");
        }
        assert!(prefixes.buckets().eq(["a", "b", "c"]));
        assert!(!SnapshotPrefixes::default().covers("a", "daily/1.json"));
        assert_eq!(" , ".parse(), Ok(SnapshotPrefixes::default()));
        for wrong in ["a", "a/,b", "/daily", "s3://a/daily", "A/daily"] {
            assert_eq!(wrong.parse::<SnapshotPrefixes>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_percentage_allows_its_share_and_at_least_100_movies() {
        for (limit, withdrawn, named, expected) in [
            ("50%", 500, 1000, true),
            ("50%", 501, 1000, false),
            ("50%", 500, 1001, true),
            ("50%", 501, 1001, false),
            ("50%", 100, 100, true),
            ("50%", 101, 150, false),
            ("0%", 100, 1_000_000, true),
            ("0%", 101, 1_000_000, false),
            ("100%", u64::MAX, u64::MAX, true),
            ("99%", u64::MAX, u64::MAX, false),
            ("1000", 1000, 1000, true),
            ("1000", 1001, 1_000_000, false),
            ("0", 0, 10, true),
            ("0", 1, 10, false),
        ] {
            let allowed = limit.parse::<MaxWithdraw>().unwrap().allows(withdrawn, named);
            assert_eq!(allowed, expected, "{limit}: {withdrawn} of {named}");
        }
        assert_eq!("50%".parse(), Ok(MaxWithdraw::default()));
        for wrong in ["101%", "-1", "-1%", "0.5", "%", "50 %", "half"] {
            assert_eq!(wrong.parse::<MaxWithdraw>(), Err(()), "{wrong}");
        }
    }
}
