-- What TMDB says of movies (GET /movies/{id}/details). It is no part of the catalogue: all of it can be asked for again.

create table movie_details (
    -- No reference: a movie that is withdrawn and comes back keeps its number.
    movie_id bigint primary key,
    -- Null if TMDB has no film that matches, or if what it answered was of no use.
    details json,
    -- That it was of no use.
    unusable boolean not null,
    asked_at timestamptz not null,
    -- From then on TMDB is asked again, and what is here is only shown if that fails.
    ask_at timestamptz not null,
    -- From then on it is not shown, and it is removed. The terms of TMDB allow six months.
    keep_until timestamptz not null check (keep_until <= asked_at + interval '181 days'),
    check (details is null or not unusable)
);

create index movie_details_by_end on movie_details (keep_until);

-- The only row: when the next request may go to TMDB. All replicas share it, and so its limit.
create table tmdb_requests (
    only_row boolean primary key default true check (only_row),
    next_at timestamptz not null default '-infinity',
    -- TMDB has asked for a pause, or does not answer.
    paused_until timestamptz not null default '-infinity'
);

insert into tmdb_requests default values;
