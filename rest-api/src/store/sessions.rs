//! Sessions: families of refresh tokens of which only the newest can be used.
//!
//! All tokens of a family share a secret. Who sends it with anything but the newest token has had a token of the
//! family: the token was used twice, perhaps by a thief, and the session ends. No used token has to be kept for that.

use std::time::Duration;

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::{
    Store, StoreError, User, listen,
    sql::{execute, query_opt},
    users::{self, Credentials},
};

/// How long a session lasts at most.
pub(crate) const MAX_AGE: Duration = Duration::from_hours(30 * 24);

/// How long a session lasts without a refresh.
pub(crate) const MAX_IDLE: Duration = Duration::from_hours(7 * 24);

/// How many sessions a user can have. The one that was refreshed the longest ago makes place for another one.
const MAX_SESSIONS: i64 = 20;

/// For how long an ended session is listed: longer than its access tokens hold.
const LISTED: Duration = Duration::from_mins(30);

/// The digests of a refresh token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digests {
    /// Of the part that all tokens of the session have in common.
    pub(crate) family: [u8; 32],
    /// Of the token.
    pub(crate) token: [u8; 32],
}

/// What has become of a session whose refresh token was sent.
#[derive(Debug)]
pub(crate) enum Refreshed {
    /// The next token holds. This is the user as it is now.
    Rotated(User),
    /// The token had been used before. The session has ended now.
    Replayed {
        /// Whose session it was.
        user_id: i64,
    },
    /// There is no such session, or it has ended.
    Ended,
}

impl Store {
    /// Starts a session of a user whose password was checked. Returns the user; none if it was disabled or got
    /// another password meanwhile.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn start_session(
        &self,
        checked: &Credentials,
        session: Uuid,
        digests: Digests,
    ) -> Result<Option<User>, StoreError> {
        let user = "
            /* sessions::start_session */
            select id, name, roles, prefixes, created_at, disabled_at
            from users
            where id = $1 and password_hash = $2 and disabled_at is null
            for no key update";
        let start = "
            /* sessions::start_session */
            insert into sessions (id, user_id, family_digest, token_digest) values ($1, $2, $3, $4)";
        let end_oldest = "
            /* sessions::start_session */
            update sessions set ended_at = now()
            where id in (
                select id from sessions
                where user_id = $1 and ended_at is null
                order by refreshed_at desc
                offset $2
            )";
        let id = checked.user_id;
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        // Locked, so that the user is not disabled before the session is there to be ended.
        let user = query_opt(&transaction, user, &[&id, &checked.password_hash.expose()]).await?;
        let Some(user) = user.map(|row| users::read(&row)) else { return Ok(None) };
        let Digests { family, token } = digests;
        execute(&transaction, start, &[&session, &id, &&family[..], &&token[..]]).await?;
        let ended = execute(&transaction, end_oldest, &[&id, &MAX_SESSIONS]).await? > 0;
        if ended {
            listen::announce_revoked(&transaction).await?;
        }
        transaction.commit().await?;
        if ended {
            self.hints().announce_revoked();
        }
        Ok(Some(user))
    }

    /// Replaces the newest refresh token of a session by the one with the digest `next`. If the token that was sent
    /// is an older one, the session ends. Of two requests with the same token at most one gets the next one.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn refresh_session(
        &self,
        session: Uuid,
        sent: Digests,
        next: [u8; 32],
    ) -> Result<Refreshed, StoreError> {
        let rotate = "
            /* sessions::refresh_session */
            update sessions s
            set token_digest = $4, refreshed_at = now()
            from users u
            where s.id = $1 and s.family_digest = $2 and s.token_digest = $3 and s.ended_at is null
                and s.created_at > now() - make_interval(secs => $5)
                and s.refreshed_at > now() - make_interval(secs => $6)
                and u.id = s.user_id and u.disabled_at is null
            returning u.id, u.name, u.roles, u.prefixes, u.created_at, u.disabled_at";
        let end = "
            /* sessions::refresh_session */
            update sessions
            set ended_at = now()
            where id = $1 and family_digest = $2 and token_digest <> $3 and ended_at is null
            returning user_id";
        let (family, token) = (&sent.family[..], &sent.token[..]);
        let (age, idle) = (MAX_AGE.as_secs_f64(), MAX_IDLE.as_secs_f64());
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&session, &family, &token, &&next[..], &age, &idle];
        if let Some(row) = query_opt(&transaction, rotate, params).await? {
            let user = users::read(&row);
            transaction.commit().await?;
            return Ok(Refreshed::Rotated(user));
        }
        let Some(row) = query_opt(&transaction, end, &[&session, &family, &token]).await? else {
            return Ok(Refreshed::Ended);
        };
        listen::announce_revoked(&transaction).await?;
        transaction.commit().await?;
        self.hints().announce_revoked();
        Ok(Refreshed::Replayed { user_id: row.get("user_id") })
    }

    /// Ends the session that a refresh token belongs to.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn end_session_of_token(
        &self,
        session: Uuid,
        sent: Digests,
    ) -> Result<(), StoreError> {
        let end = "
            /* sessions::end_session_of_token */
            update sessions set ended_at = now()
            where id = $1 and family_digest = $2 and ended_at is null";
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        let ended = execute(&transaction, end, &[&session, &&sent.family[..]]).await?;
        self.commit_end(transaction, ended).await
    }

    /// Ends a session.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn end_session(&self, session: Uuid) -> Result<(), StoreError> {
        let end = "
            /* sessions::end_session */
            update sessions set ended_at = now() where id = $1 and ended_at is null";
        let mut connection = self.writer().await?;
        let transaction = connection.transaction().await?;
        let ended = execute(&transaction, end, &[&session]).await?;
        self.commit_end(transaction, ended).await
    }

    async fn commit_end(&self, transaction: Transaction<'_>, ended: u64) -> Result<(), StoreError> {
        if ended > 0 {
            listen::announce_revoked(&transaction).await?;
        }
        transaction.commit().await?;
        if ended > 0 {
            self.hints().announce_revoked();
        }
        Ok(())
    }

    /// Returns the sessions that have ended while access tokens of theirs may hold.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub(crate) async fn ended_sessions(&self) -> Result<Vec<Uuid>, StoreError> {
        let ended = "
            /* sessions::ended_sessions */
            select id from sessions where ended_at > now() - make_interval(secs => $1)";
        let connection = self.worker().await?;
        let statement = connection.prepare_cached(ended).await?;
        let rows = connection.query(&statement, &[&LISTED.as_secs_f64()]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Removes the sessions that are over, and of which no access token holds any more. Returns their number.
    pub(super) async fn remove_sessions(&self) -> Result<u64, StoreError> {
        let remove = "
            /* sessions::remove_sessions */
            delete from sessions
            where ended_at < now() - make_interval(secs => $1)
                or created_at < now() - make_interval(secs => $1 + $2)
                or refreshed_at < now() - make_interval(secs => $1 + $3)";
        let (listed, age, idle) =
            (LISTED.as_secs_f64(), MAX_AGE.as_secs_f64(), MAX_IDLE.as_secs_f64());
        Ok(execute(&self.bulk().await?, remove, &[&listed, &age, &idle]).await?)
    }
}

/// Ends all sessions of a user. Returns their number. The other processes learn of it when the transaction commits.
pub(super) async fn end_all(
    transaction: &Transaction<'_>,
    user_id: i64,
) -> Result<u64, StoreError> {
    let end = "
        /* sessions::end_all */
        update sessions set ended_at = now() where user_id = $1 and ended_at is null";
    let ended = execute(transaction, end, &[&user_id]).await?;
    if ended > 0 {
        listen::announce_revoked(transaction).await?;
    }
    Ok(ended)
}
