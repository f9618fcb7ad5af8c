//! What people do to single movies amid a schedule, and what the model must know of it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fastrand::Rng;
use rest_api::store::{Content, Edit, Edited, FoundById, Store};
use serde_json::Value;

use crate::support::{ledger::row, movies::movie};

/// What people have done so far.
#[derive(Debug, Default)]
pub(super) struct People {
    /// The newest edit of each movie, by title.
    edits: BTreeMap<String, Written>,
    /// The movies that are held, by title, and what they were when people last touched them.
    held: BTreeMap<String, Option<Value>>,
}

#[derive(Debug)]
struct Written {
    ordered_at: DateTime<Utc>,
    /// None: the movie is deleted.
    content: Option<Value>,
}

impl People {
    /// Does something to a random movie: posts, replaces, deletes, holds or releases it.
    pub(super) async fn act(
        &mut self,
        store: &Store,
        sql: &tokio_postgres::Client,
        schedule: u64,
        holds: bool,
        random: &mut Rng,
    ) {
        let title = format!("{schedule}-{}", random.u8(0..4));
        let new = movie(&title, ["a", "b", "c"][random.usize(0..3)]);
        let known = "select id, doc from movies where title_lc = $1
            union all
            select id, null from withdrawn_movies where doc::json ->> 'title' = $1";
        let known = sql.query_opt(known, &[&title]).await.unwrap();
        let Some(known) = known else {
            store.post_movies(&[row(&new)], "test").await.unwrap();
            return self.wrote(sql, &title, Some(new)).await;
        };
        let id: i64 = known.get(0);
        let present: Option<Value> =
            known.get::<_, Option<&str>>(1).map(|doc| serde_json::from_str(doc).unwrap());
        match random.u8(0..6) {
            0 => {
                store.post_movies(&[row(&new)], "test").await.unwrap();
                self.wrote(sql, &title, Some(new)).await;
            }
            action @ 1..4 => {
                let FoundById::Movie(found) = store.present_movie(id).await.unwrap() else {
                    return;
                };
                let row = row(&new);
                let (content, written) = if action == 3 {
                    (Content::Deleted, None)
                } else {
                    (Content::Replaced(&row), Some(new))
                };
                let (expected, hold) = (found.state(), holds && random.u8(0..4) == 0);
                let edit = Edit { id, content, expected, hold, by: "test" };
                store.edit_movie(&edit, None, |_| Edited::default()).await.unwrap();
                if hold || self.held.contains_key(&title) {
                    self.held.insert(title.clone(), written.clone());
                }
                self.wrote(sql, &title, written).await;
            }
            4 if holds => {
                assert!(store.hold_movie(id, "test").await.unwrap().unwrap().held);
                self.held.insert(title, present);
            }
            _ => {
                assert!(!store.release_movie(id, "test").await.unwrap().unwrap().held);
                self.held.remove(&title);
            }
        }
    }

    async fn wrote(&mut self, sql: &tokio_postgres::Client, title: &str, content: Option<Value>) {
        let position = "select ordered_at
            from edits join (
                select id, doc from movies union all select id, doc from withdrawn_movies
            ) movie on movie.id = movie_id
            where movie.doc::json ->> 'title' = $1";
        let ordered_at = sql.query_one(position, &[&title]).await.unwrap().get(0);
        self.edits.insert(title.to_owned(), Written { ordered_at, content });
    }

    /// Applies it to what versions say: the time of the newest version of each movie, and its content.
    pub(super) fn apply(
        &self,
        versions: BTreeMap<String, (DateTime<Utc>, Value)>,
    ) -> BTreeMap<String, Value> {
        let mut movies = versions.clone();
        for (title, Written { ordered_at, content }) in &self.edits {
            // Of the same time, a version comes after an edit.
            if versions.get(title).is_some_and(|(version, _)| version >= ordered_at) {
                continue;
            }
            match content {
                Some(content) => movies.insert(title.clone(), (*ordered_at, content.clone())),
                None => movies.remove(title),
            };
        }
        let mut movies: BTreeMap<String, Value> =
            movies.into_iter().map(|(title, (_, content))| (title, content)).collect();
        for (title, content) in &self.held {
            match content {
                Some(content) => movies.insert(title.clone(), content.clone()),
                None => movies.remove(title),
            };
        }
        movies
    }
}
