-- Everything that localfirst keeps in Postgres: the schema `localfirst` of one database.
--
-- Each named part is one step of the schema's history, applied once and in this order; `localfirst.store` remembers
-- how many were. A published step is never edited: what must change is changed by a new step below. A step that old
-- clients can't work with raises FORMAT_VERSION in sync/central/base.py too, and drops the functions that they call.
--
-- Who may not create a schema can use one that exists:
--     grant usage on schema localfirst to app;
--     grant select, insert, update, delete on all tables in schema localfirst to app;
--
-- Every key starts with (namespace, session_id), and no statement of push, pull or heads reads across sessions: the
-- tables can be partitioned or distributed by it.


-- name: tables
-- The log. Session ids collate by code point ("C"), as clients sort them.
do $$ begin
    -- "create schema if not exists" asks for the right to create even when the schema exists.
    if not exists (select from pg_namespace where nspname = 'localfirst') then
        create schema localfirst;
    end if;
end $$;

create table localfirst.store (
    single      boolean primary key default true check (single),
    store_id    text not null,
    format      integer not null,
    schema_step integer not null,
    created_at  timestamptz not null default now()
);
comment on table localfirst.store is 'One row: which store this is, and how far its schema has come.';
comment on column localfirst.store.store_id is 'Random. Clients that find another one know that this is another store.';
comment on column localfirst.store.format is 'Clients that know only lower numbers leave this store alone.';
comment on column localfirst.store.schema_step is 'How many steps of the schema were applied.';

create table localfirst.sessions (
    namespace  text collate "C" not null,
    session_id text collate "C" not null,
    generation text not null,
    head       bigint not null default 0,
    digest     bigint not null default 0,
    floor      bigint not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default '-infinity',
    primary key (namespace, session_id)
) with (fillfactor = 80); -- Each push updates one row: with room in its page, no index has to change.
comment on table localfirst.sessions is 'One row per session: where its log ends.';
comment on column localfirst.sessions.generation is 'Random id of this life of the session; a session made anew has another.';
comment on column localfirst.sessions.head is 'seq of its last change; the log is 1, 2, ... head, without gaps.';
comment on column localfirst.sessions.digest is 'Fingerprint of the whole log, by which replicas notice that it was rewritten.';
comment on column localfirst.sessions.floor is 'Changes up to this seq are no longer kept; 0: all are there.';
comment on column localfirst.sessions.updated_at is 'When its last change was admitted; never goes backwards.';

create table localfirst.origins (
    namespace  text collate "C" not null,
    session_id text collate "C" not null,
    origin     text collate "C" not null,
    acked      bigint not null,
    primary key (namespace, session_id, origin)
) with (fillfactor = 80);
comment on table localfirst.origins is 'One row per session and replica that ever wrote to it.';
comment on column localfirst.origins.acked is 'The highest counter of this replica in the log; what is pushed again is dropped by it.';

create table localfirst.changes (
    namespace   text collate "C" not null,
    session_id  text collate "C" not null,
    seq         bigint not null,
    admitted_at timestamptz not null,
    origin      text collate "C" not null,
    counter     bigint not null,
    time        bigint,
    base        bigint,
    branch      text,
    kind        text,
    body        bytea not null,
    primary key (namespace, session_id, seq),
    unique (namespace, session_id, origin, counter)
);
-- Few rows are in it; they are all that the views need to know about what was taken away.
create index changes_removals on localfirst.changes (namespace, session_id) where kind in ('remove', 'clear');
comment on table localfirst.changes is 'The log of every session. Rows are written once and never updated.';
comment on column localfirst.changes.seq is 'Place in the log of its session.';
comment on column localfirst.changes.admitted_at is 'Clock of this server, in whole milliseconds.';
comment on column localfirst.changes.origin is 'The replica that made the change.';
comment on column localfirst.changes.counter is '1, 2, 3, ... among the changes of this origin to this session.';
comment on column localfirst.changes.time is 'Clock of the author: Unix milliseconds << 16 | logical count.';
comment on column localfirst.changes.base is 'The highest seq that the author had seen.';
comment on column localfirst.changes.kind is
    'append, remove, clear, put, delete or increment. Null: the body is the whole change, in an encoding that the client '
    'which pushed it did not know; then time, base and branch are null too.';
comment on column localfirst.changes.body is 'JSON in UTF-8, or sealed: convert_from(body, ''UTF8'') shows it.';


-- name: functions
-- What clients call, one round trip each.

-- Admit runs, at most one per session; see CentralStore.push. Run n consists of p_sessions[n], p_generations[n], ...;
-- its changes are those with p_run = n, in order, the first of them at index p_starts[n].
create function localfirst.push(
    p_namespace text,
    p_sessions text[], p_generations text[], p_fresh boolean[], p_origins text[],
    p_starts bigint[], p_firsts bigint[], p_lasts bigint[],
    p_run integer[], p_counter bigint[], p_time bigint[], p_base bigint[], p_branch text[], p_kind text[], p_body bytea[],
    p_hash0 bigint[], p_hash1 bigint[]
) returns table (
    run integer, status text, generation text, acked bigint, admitted bigint, head bigint, digest bigint,
    admitted_at bigint
)
language plpgsql
-- Rows are found one by one through the primary keys (hence every lateral below), whatever a table held or the planner
-- knew of it when the plan was made; and a plan is not made anew for every array.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    runs constant integer := cardinality(p_sessions);
    -- Per run; null where nothing is to be written.
    skip_to bigint[] := array_fill(null::bigint, array[runs]);      -- The counter up to which the log has it.
    new_head bigint[] := array_fill(null::bigint, array[runs]);
    new_digest bigint[] := array_fill(null::bigint, array[runs]);
    new_time timestamptz[] := array_fill(null::timestamptz, array[runs]);
    now_ms timestamptz;
    lane0 bigint;
    lane1 bigint;
    s record;
begin
    insert into localfirst.sessions (namespace, session_id, generation)
    select p_namespace, r.session_id, r.generation
    from unnest(p_sessions, p_generations, p_fresh, p_firsts) as r (session_id, generation, fresh, first)
    where r.fresh and r.first = 1
    order by r.session_id collate "C"
    on conflict do nothing;

    -- In the order of their ids, as everybody does it, so that no two pushes wait for each other.
    perform from (
        select r.session_id from unnest(p_sessions) as r (session_id) order by r.session_id collate "C"
    ) as r
    cross join lateral (
        select from localfirst.sessions as l
        where l.namespace = p_namespace and l.session_id = r.session_id
        for no key update
    ) as locked;
    now_ms := date_trunc('milliseconds', clock_timestamp());

    -- A statement of its own: only now that the rows are locked does a snapshot show where the logs end.
    for s in
        select r.n::integer as n, l.generation, coalesce(l.head, 0) as head, coalesce(l.digest, 0) as digest,
            greatest(l.updated_at, now_ms) as admitted_at, coalesce(o.acked, 0) as acked
        from unnest(p_sessions, p_origins) with ordinality as r (session_id, origin, n)
        left join lateral (
            select * from localfirst.sessions as l
            where l.namespace = p_namespace and l.session_id = r.session_id offset 0
        ) as l on true
        left join lateral (
            select * from localfirst.origins as o
            where o.namespace = p_namespace and o.session_id = r.session_id and o.origin = r.origin offset 0
        ) as o on true
        order by r.n
    loop
        if s.acked > s.head then
            raise exception 'session % is damaged: its log ends at % but % changes of one replica were admitted',
                p_sessions[s.n], s.head, s.acked;
        end if;
        run := s.n;
        generation := coalesce(s.generation, '');
        acked := s.acked;
        admitted := 0;
        head := s.head;
        digest := s.digest;
        admitted_at := (extract(epoch from s.admitted_at) * 1000)::bigint;
        status := case
            when s.generation is null and not p_fresh[run] then 'missing'
            when s.generation <> p_generations[run] and not p_fresh[run] then 'generation'
            when p_firsts[run] > acked + 1 then 'gap'
            else 'ok'
        end;
        if status = 'ok' and p_lasts[run] > acked then
            -- The same arithmetic as localfirst.change.extend_digest.
            lane0 := digest >> 32;
            lane1 := digest & 4294967295;
            for i in p_starts[run] + acked + 1 - p_firsts[run] .. p_starts[run] + p_lasts[run] - p_firsts[run] loop
                lane0 := (lane0 * 1299709 + p_hash0[i]) % 2147483647;
                lane1 := (lane1 * 1299721 + p_hash1[i]) % 2147483629;
            end loop;
            skip_to[run] := acked;
            admitted := p_lasts[run] - acked;
            acked := p_lasts[run];
            head := head + admitted;
            digest := lane0 << 32 | lane1;
            new_head[run] := head;
            new_digest[run] := digest;
            new_time[run] := s.admitted_at;
        end if;
        return next;
    end loop;

    insert into localfirst.changes
        (namespace, session_id, seq, admitted_at, origin, counter, time, base, branch, kind, body)
    select p_namespace, p_sessions[c.run], new_head[c.run] - p_lasts[c.run] + c.counter, new_time[c.run],
        p_origins[c.run], c.counter, c.time, c.base, c.branch, c.kind, c.body
    from unnest(p_run, p_counter, p_time, p_base, p_branch, p_kind, p_body)
        as c (run, counter, time, base, branch, kind, body)
    where c.counter > skip_to[c.run];

    insert into localfirst.sessions (namespace, session_id, generation, head, digest, updated_at)
    select p_namespace, p_sessions[r.n], p_generations[r.n], new_head[r.n], new_digest[r.n], new_time[r.n]
    from generate_series(1, runs) as r (n)
    where skip_to[r.n] is not null -- Then the row exists: this is an update by primary key.
    on conflict (namespace, session_id) do update
    set head = excluded.head, digest = excluded.digest, updated_at = excluded.updated_at;

    insert into localfirst.origins (namespace, session_id, origin, acked)
    select p_namespace, p_sessions[r.n], p_origins[r.n], p_lasts[r.n]
    from generate_series(1, runs) as r (n)
    where skip_to[r.n] is not null
    on conflict (namespace, session_id, origin) do update set acked = excluded.acked;
end $$;
comment on function localfirst.push is 'Admits runs of changes, each in one atomic step.';

-- The seq at which a page ends that begins after p_after: where it holds p_max_bytes, else the end of the log. Reads
-- no further than that, however long the log is.
create function localfirst.page_end(
    p_namespace text, p_session_id text, p_after bigint, p_head bigint, p_max_bytes bigint
) returns bigint
language plpgsql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off -- Rows must come one by one, not all before the first.
as $$
declare
    c record;
    total bigint := 0;
begin
    for c in
        select l.seq, octet_length(l.body) + octet_length(l.origin) + coalesce(octet_length(l.branch || l.kind), 0)
            + 24 as size -- And the numbers; near enough to the wire encoding.
        from localfirst.changes as l
        where l.namespace = p_namespace and l.session_id = p_session_id and l.seq > p_after and l.seq <= p_head
        order by l.seq
    loop
        total := total + c.size;
        if total >= p_max_bytes then
            return c.seq;
        end if;
    end loop;
    return p_head;
end $$;
comment on function localfirst.page_end is 'The seq of the last change in a page of a log.';
