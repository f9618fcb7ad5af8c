-- Users of the service's own, and the sessions in which they are signed in (docs/adr/0014-accounts.md). A release
-- before this one does not know these tables.

create table users (
    id            bigint generated always as identity primary key,
    name          text not null check (name <> ''),
    -- The name in a form in which case makes no difference. A name has no character that Unicode has not assigned,
    -- so its form stays the same in later versions of Unicode.
    name_key      text collate "C" not null,
    -- As a PHC string: algorithm, parameters, salt and hash.
    password_hash text not null,
    roles         text[] not null default '{}',
    -- The beginnings of the keys that a producer is bound to; none for all keys.
    prefixes  text[] not null default '{}',
    created_at    timestamptz not null default now(),
    disabled_at   timestamptz
);
create unique index users_by_name on users (name_key);

-- A session is a family of refresh tokens of which only the newest can be used. The tokens themselves are not here.
create table sessions (
    id            uuid primary key,
    user_id       bigint not null references users,
    -- SHA-256 of the part that all tokens of the family have in common, and of the newest token.
    family_digest bytea not null,
    token_digest  bytea not null,
    created_at    timestamptz not null default now(),
    refreshed_at  timestamptz not null default now(),
    -- The row stays until no access token of the session holds any more.
    ended_at      timestamptz
);
create index sessions_of_user on sessions (user_id, refreshed_at) where ended_at is null;
create index sessions_ended on sessions (ended_at) where ended_at is not null;
