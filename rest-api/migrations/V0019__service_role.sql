-- The service may serve with a role that does not own the tables (docs/adr/0019-service-role.md). What it does to
-- indexes and statistics takes the owner, so it calls functions that run as the owner and do that alone.
set local lock_timeout = '5s';

-- The indexes that this transaction has dropped, and builds again before it commits. The service has no access.
create table dropped_indexes (
    table_name text not null,
    definition text not null
);

create function refuse_dropped_indexes() returns trigger language plpgsql security definer as $$
begin
    if exists (select from dropped_indexes) then
        raise exception 'the indexes of % were not built again', new.table_name;
    end if;
    return null;
end $$;
create constraint trigger refuse_dropped_indexes after insert on dropped_indexes
    deferrable initially deferred
    for each row execute function refuse_dropped_indexes();

-- A first load drops all indexes but that of the primary key. The table must be empty.
create function drop_indexes(of_table text) returns void language plpgsql security definer as $$
declare
    is_empty bool;
    index record;
begin
    if of_table not in ('movies', 'words') then
        raise exception 'the indexes of % stay', of_table using errcode = 'insufficient_privilege';
    end if;
    execute format('lock table %I in access exclusive mode', of_table);
    execute format('select not exists (select from %I)', of_table) into is_empty;
    if not is_empty then
        raise exception '% is not empty, so its indexes stay', of_table
            using errcode = 'insufficient_privilege';
    end if;
    for index in
        select indexrelid::regclass as name, pg_get_indexdef(indexrelid) as definition
        from pg_index
        where indrelid = of_table::regclass and not indisprimary
    loop
        insert into dropped_indexes values (of_table, index.definition);
        execute format('drop index %s', index.name);
    end loop;
end $$;

create function create_indexes(of_table text) returns void language plpgsql security definer as $$
declare
    statement text;
begin
    for statement in
        delete from dropped_indexes where table_name = of_table returning definition
    loop
        execute statement;
    end loop;
end $$;

-- Every search reads the pending lists.
create function clean_search_indexes() returns void language sql security definer as $$
    select gin_clean_pending_list(index::regclass)
    from unnest(array['movies_title_search', 'movies_cast_search', 'movies_genres', 'movies_terms']) index
$$;

-- The planner sees how rare a word is by many values, which it reads for each plan.
create function analyze_movies(detailed bool) returns void language plpgsql security definer as $$
declare
    target constant int := case when detailed then 1000 else 100 end;
begin
    if exists (
        select from pg_attribute
        where attrelid = 'movies'::regclass and attname in ('title_lc', 'cast_lc')
            and attstattarget is distinct from target
    ) then
        execute format('alter table movies alter title_lc set statistics %s,
            alter cast_lc set statistics %s', target, target);
    end if;
    analyze movies;
end $$;

-- No object of the caller is found under the names in these functions: temporary ones come last.
do $$
declare
    signature regprocedure;
begin
    foreach signature in array array['refuse_dropped_indexes()', 'drop_indexes(text)', 'create_indexes(text)',
        'clean_search_indexes()', 'analyze_movies(bool)']::regprocedure[]
    loop
        execute format('alter function %s set search_path = pg_catalog, %I, pg_temp', signature,
            current_schema());
        execute format('revoke all on function %s from public', signature);
    end loop;
end $$;
