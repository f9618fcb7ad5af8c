//! What TMDB says of movies, and when the next request may go there (migration 17, docs/adr/0018-details.md).

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::{Row, types::ToSql};

use super::{
    MovieDocument, Store, StoreError,
    reads::{self, Cost},
    sql::{execute, query_one, query_opt},
};

/// What is kept of a movie.
#[derive(Clone, Debug)]
pub struct KeptDetails {
    /// What the answer shows, as JSON; none if there is nothing to show.
    pub json: Option<String>,
    /// That there is nothing to show because the answer of TMDB was of no use.
    pub unusable: bool,
    /// When TMDB was asked.
    pub asked_at: DateTime<Utc>,
    /// Whether it is too early to ask again.
    pub is_fresh: bool,
}

/// What TMDB has answered.
#[derive(Clone, Copy, Debug)]
pub struct NewDetails<'a> {
    /// What the answer shows, as JSON; none if no film matches.
    pub json: Option<&'a str>,
    /// After how long TMDB is asked again.
    pub ask_after: TimeDelta,
    /// For how long this is shown if that fails.
    pub keep_for: TimeDelta,
}

/// When a request may go to TMDB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// After this time: nobody else has this turn.
    In(Duration),
    /// Not now, but perhaps after this time.
    NotWithin(Duration),
}

impl Store {
    /// Returns what is kept of a movie.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn kept_details(&self, movie_id: i64) -> Result<Option<KeptDetails>, StoreError> {
        let kept = "
            /* details::kept_details */
            select details::text as json, unusable, asked_at, ask_at > now() as is_fresh
            from movie_details
            where movie_id = $1 and keep_until > now()";
        // What another request has just stored, a reader endpoint may not have yet.
        let connection = self.primary_reader(Cost::Index).await?;
        let row = query_opt(&*connection, kept, &[&movie_id]).await?;
        reads::finish(connection);
        Ok(row.map(|row| KeptDetails {
            json: row.get("json"),
            unusable: row.get("unusable"),
            asked_at: row.get("asked_at"),
            is_fresh: row.get("is_fresh"),
        }))
    }

    /// Keeps what TMDB has answered about a movie, instead of what is there. Returns when that was.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn keep_details(
        &self,
        movie_id: i64,
        new: NewDetails<'_>,
    ) -> Result<DateTime<Utc>, StoreError> {
        let keep = "
            /* details::keep_details */
            insert into movie_details
                (movie_id, details, unusable, asked_at, ask_at, keep_until)
            values ($1, $2::text::json, false, now(), now() + make_interval(secs => $3),
                now() + make_interval(secs => $4))
            on conflict (movie_id) do update
            set details = excluded.details, unusable = false, asked_at = excluded.asked_at,
                ask_at = excluded.ask_at, keep_until = excluded.keep_until
            returning asked_at";
        let (ask_after, keep_for) = (new.ask_after.as_seconds_f64(), new.keep_for.as_seconds_f64());
        let params: [&(dyn ToSql + Sync); 4] = [&movie_id, &new.json, &ask_after, &keep_for];
        Ok(query_one(&self.writer().await?, keep, &params).await?.get("asked_at"))
    }

    /// Notes that what TMDB has answered about a movie is of no use, so that it is not asked again for some time. What
    /// is kept of the movie stays.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn note_unusable(
        &self,
        movie_id: i64,
        ask_after: TimeDelta,
    ) -> Result<(), StoreError> {
        let note = "
            /* details::note_unusable */
            with kept as (
                update movie_details
                set ask_at = now() + make_interval(secs => $2)
                where movie_id = $1 and keep_until > now()
                returning movie_id
            )
            insert into movie_details (movie_id, unusable, asked_at, ask_at, keep_until)
            select $1, true, now(), now() + make_interval(secs => $2),
                now() + make_interval(secs => $2)
            where not exists (select from kept)
            on conflict (movie_id) do update
            set details = null, unusable = true, asked_at = excluded.asked_at,
                ask_at = excluded.ask_at, keep_until = excluded.keep_until";
        execute(&self.writer().await?, note, &[&movie_id, &ask_after.as_seconds_f64()]).await?;
        Ok(())
    }

    /// Takes the next turn to send a request to TMDB, if it comes within `longest`. The turns of all replicas are
    /// `apart` from each other.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn next_turn(&self, apart: Duration, longest: Duration) -> Result<Turn, StoreError> {
        let take = "
            /* details::next_turn */
            update tmdb_requests
            set next_at = greatest(next_at, clock_timestamp()) + make_interval(secs => $1)
            where paused_until <= clock_timestamp()
                and next_at <= clock_timestamp() + make_interval(secs => $2)
            returning extract(epoch from next_at - clock_timestamp())::float8 - $1 as wait";
        let wait = "
            /* details::next_turn */
            select extract(epoch from
                greatest(paused_until, next_at - make_interval(secs => $1)) - clock_timestamp()
            )::float8 as wait
            from tmdb_requests";
        let (apart, longest) = (apart.as_secs_f64(), longest.as_secs_f64());
        let connection = self.writer().await?;
        if let Some(row) = query_opt(&connection, take, &[&apart, &longest]).await? {
            return Ok(Turn::In(seconds(row.get("wait"))));
        }
        let row = query_one(&connection, wait, &[&longest]).await?;
        Ok(Turn::NotWithin(seconds(row.get("wait"))))
    }

    /// Lets no request go to TMDB for some time, from any replica.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn pause_requests(&self, pause: Duration) -> Result<(), StoreError> {
        let set = "
            /* details::pause_requests */
            update tmdb_requests
            set paused_until = greatest(paused_until, clock_timestamp() + make_interval(secs => $1))";
        execute(&self.writer().await?, set, &[&pause.as_secs_f64()]).await?;
        Ok(())
    }

    /// Returns for how long no request goes to TMDB; none if requests may go there.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn request_pause(&self) -> Result<Option<Duration>, StoreError> {
        let left = "
            /* details::request_pause */
            select extract(epoch from paused_until - clock_timestamp())::float8 as left
            from tmdb_requests
            where paused_until > clock_timestamp()";
        let row = query_opt(&self.writer().await?, left, &[]).await?;
        Ok(row.map(|row| seconds(row.get("left"))))
    }

    /// Returns the next movies behind the number `after` that TMDB is to be asked about, by their numbers.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn movies_to_ask_about(
        &self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<MovieDocument>, StoreError> {
        let movies = "
            /* details::movies_to_ask_about */
            select id, doc
            from movies m
            where id > $1 and not exists (
                select from movie_details d where d.movie_id = m.id and d.ask_at > now()
            )
            order by id
            limit $2";
        let connection = self.bulk().await?;
        let statement = connection.prepare_cached(movies).await?;
        let rows = connection.query(&statement, &[&after, &limit]).await?;
        let movie = |row: &Row| MovieDocument { id: row.get("id"), json: row.get("doc") };
        Ok(rows.iter().map(movie).collect())
    }

    /// Returns how many movies the catalogue has.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn count_movies(&self) -> Result<i64, StoreError> {
        let count = "
            /* details::count_movies */
            select count(*) from movies";
        Ok(query_one(&self.bulk().await?, count, &[]).await?.get(0))
    }
}

/// Returns a duration; a negative one is none.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
