-- Everything that localfirst keeps in Postgres: the schema `localfirst` of one database.
--
-- Each named part is one step of the schema's history, applied once and in this order; `localfirst.store` remembers
-- how many were. A published step is never edited: what must change is changed by a new step below. A step that old
-- clients can't work with raises FORMAT_VERSION in sync/central/base.py too, and drops the functions that they call.
--
-- Who may not create a schema can use one that exists:
--     grant usage on schema localfirst to app;
--     grant select on all tables in schema localfirst to app;
--     grant insert, delete on localfirst.changes to app;
--     grant insert, update, delete on localfirst.sessions, localfirst.origins, localfirst.checkpoints,
--         localfirst.endings to app;
-- Roles that see one namespace only: tenants.sql.
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
    ttl        bigint not null default 0,
    expires_at timestamptz not null default 'infinity',
    primary key (namespace, session_id)
) with (fillfactor = 80); -- Each push updates one row: with room in its page, no index has to change, unless it expires.
create index sessions_expiry on localfirst.sessions (namespace, expires_at) where expires_at < 'infinity';
comment on table localfirst.sessions is 'One row per session: where its log ends.';
comment on column localfirst.sessions.generation is 'Random id of this life of the session; a session made anew has another.';
comment on column localfirst.sessions.head is 'seq of its last change; the log is floor + 1, ... head, without gaps.';
comment on column localfirst.sessions.digest is 'Fingerprint of the whole log, changes and times, by which replicas notice that it was rewritten.';
comment on column localfirst.sessions.floor is
    'Changes up to this seq are no longer kept: a row of checkpoints stands for them. 0: all are there.';
comment on column localfirst.sessions.updated_at is 'When its last change was admitted; never goes backwards.';
comment on column localfirst.sessions.ttl is 'Milliseconds from its last change until it expires; 0: it does not.';
comment on column localfirst.sessions.expires_at is
    'From then on it is missing to everybody. What is left of it is removed when a worker sweeps, or it is made anew.';

create table localfirst.endings (
    namespace  text collate "C" not null,
    session_id text collate "C" not null,
    generation text not null,
    how        text not null check (how in ('expired', 'deleted')),
    forget_at  timestamptz not null,
    primary key (namespace, session_id, generation)
);
create index endings_forget on localfirst.endings (namespace, forget_at);
comment on table localfirst.endings is
    'How lives of sessions ended: by it, a replica that was away for long knows that a session is not merely lost.';
comment on column localfirst.endings.forget_at is 'When the row may go.';

create table localfirst.origins (
    namespace  text collate "C" not null,
    session_id text collate "C" not null,
    origin     text collate "C" not null,
    acked      bigint not null,
    primary key (namespace, session_id, origin)
) with (fillfactor = 80);
comment on table localfirst.origins is 'One row per session and replica that ever wrote to it.';
comment on column localfirst.origins.acked is
    'The highest counter of this replica in the log or below its floor; what is pushed again is known by it.';

create table localfirst.checkpoints (
    namespace  text collate "C" not null,
    session_id text collate "C" not null,
    seq        bigint not null,
    digest     bigint not null,
    created_at timestamptz not null default now(),
    data       bytea not null,
    primary key (namespace, session_id)
);
-- Compressing 50 MB would take longer than all else that is done while the session is locked.
alter table localfirst.checkpoints alter column data set storage external;
comment on table localfirst.checkpoints is 'One row per session whose oldest changes were folded into one value.';
comment on column localfirst.checkpoints.seq is 'It stands for all changes up to this one: the floor of the session.';
comment on column localfirst.checkpoints.digest is 'Fingerprint of the log up to seq.';
comment on column localfirst.checkpoints.data is 'JSON in UTF-8, or sealed; the view items shows what is in it.';

create table localfirst.changes (
    namespace   text collate "C" not null,
    session_id  text collate "C" not null,
    seq         bigint not null,
    admitted_at timestamptz not null,
    digest      bigint not null,
    origin      text collate "C" not null,
    counter     bigint not null,
    time        bigint,
    base        bigint,
    turn        bigint,
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
comment on column localfirst.changes.digest is
    'Fingerprint of the log up to this change, by which a replica that has so much of it knows that it is the same log.';
comment on column localfirst.changes.origin is 'The replica that made the change.';
comment on column localfirst.changes.counter is '1, 2, 3, ... among the changes of this origin to this session.';
comment on column localfirst.changes.time is 'Clock of the author: Unix milliseconds << 16 | logical count.';
comment on column localfirst.changes.base is 'The highest seq that the author had seen.';
comment on column localfirst.changes.turn is 'Names the turn that it is part of, among those of its origin; 0: none.';
comment on column localfirst.changes.kind is
    'append, remove, clear, put, delete, increment or end (of a turn). Null: the body is the whole change, in an encoding '
    'that the client which pushed it did not know; then time, base, turn and branch are null too.';
comment on column localfirst.changes.body is 'JSON in UTF-8, or sealed: convert_from(body, ''UTF8'') shows it.';


-- name: functions
-- What clients call, one round trip each. A session is missing from the moment on at which it expires, by this server's
-- clock; its rows may still be there.

-- End a life: remember how, and remove all rows of it.
create function localfirst.end_life(
    p_namespace text, p_session_id text, p_generation text, p_how text, p_forget_at timestamptz
) returns void
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    insert into localfirst.endings (namespace, session_id, generation, how, forget_at)
    values (p_namespace, p_session_id, p_generation, p_how, p_forget_at)
    on conflict (namespace, session_id, generation) do update
    set how = excluded.how, forget_at = greatest(endings.forget_at, excluded.forget_at);
    delete from localfirst.changes as c where c.namespace = p_namespace and c.session_id = p_session_id;
    delete from localfirst.origins as o where o.namespace = p_namespace and o.session_id = p_session_id;
    delete from localfirst.checkpoints as k where k.namespace = p_namespace and k.session_id = p_session_id;
    delete from localfirst.sessions as s where s.namespace = p_namespace and s.session_id = p_session_id;
end $$;
comment on function localfirst.end_life is 'Removes a session and remembers how its life ended.';

-- How a life ended that is not there; null: that is not known.
create function localfirst.how_ended(p_namespace text, p_session_id text, p_generation text) returns text
language sql stable
as $$
    select how from (
        select e.how, 1 as rank from localfirst.endings as e
        where e.namespace = p_namespace and e.session_id = p_session_id and e.generation = p_generation
            and e.forget_at > clock_timestamp()
        union all
        select 'expired', 2 from localfirst.sessions as s
        where s.namespace = p_namespace and s.session_id = p_session_id and s.generation = p_generation
            and s.expires_at <= clock_timestamp()
    ) as found
    order by rank limit 1
$$;
comment on function localfirst.how_ended is 'How a life of a session ended: expired, deleted, or null.';

-- Admit runs, at most one per session; see CentralStore.push. Run n consists of p_sessions[n], p_generations[n], ...;
-- its changes stand one after the other from index p_starts[n] on, up to where the next run's begin.
create function localfirst.push(
    p_namespace text,
    p_sessions text[], p_generations text[], p_fresh boolean[], p_origins text[],
    p_starts bigint[], p_firsts bigint[], p_lasts bigint[],
    p_time bigint[], p_base bigint[], p_turn bigint[], p_branch text[], p_kind text[], p_body bytea[],
    p_hash0 bigint[], p_hash1 bigint[], p_ttls bigint[], p_keep bigint
) returns table (
    run integer, status text, generation text, acked bigint, admitted bigint, head bigint, digest bigint,
    admitted_at bigint, expires_at bigint, ended text
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
    new_head bigint[] := array_fill(null::bigint, array[runs]);
    new_digest bigint[] := array_fill(null::bigint, array[runs]);
    new_time timestamptz[] := array_fill(null::timestamptz, array[runs]);
    new_ttl bigint[] := array_fill(null::bigint, array[runs]);
    new_expiry timestamptz[] := array_fill(null::timestamptz, array[runs]);
    -- Per change; null for those that are not admitted.
    digests bigint[] := array_fill(null::bigint, array[cardinality(p_body)]);
    now_ms timestamptz;
    lane0 bigint;
    lane1 bigint;
    s record;
begin
    -- What expired gives way to what is made anew.
    for s in
        select l.session_id, l.generation, l.expires_at
        from unnest(p_sessions, p_fresh, p_firsts) as r (session_id, fresh, first)
        cross join lateral (
            select * from localfirst.sessions as l
            where l.namespace = p_namespace and l.session_id = r.session_id and l.expires_at <= clock_timestamp()
            for update
        ) as l
        where r.fresh and r.first = 1
        order by r.session_id collate "C"
    loop
        perform localfirst.end_life(
            p_namespace, s.session_id, s.generation, 'expired', s.expires_at + p_keep * interval '1 ms'
        );
    end loop;

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
            coalesce(l.floor, 0) as floor, greatest(l.updated_at, now_ms) as admitted_at, coalesce(l.ttl, 0) as ttl,
            coalesce(l.expires_at, 'infinity') as expires_at,
            case when l.generation is null then 0 else coalesce(o.acked, 0) end as acked
        from unnest(p_sessions, p_origins) with ordinality as r (session_id, origin, n)
        left join lateral (
            select * from localfirst.sessions as l
            where l.namespace = p_namespace and l.session_id = r.session_id and l.expires_at > now_ms
            offset 0
        ) as l on true
        left join lateral (
            select * from localfirst.origins as o
            where o.namespace = p_namespace and o.session_id = r.session_id and o.origin = r.origin offset 0
        ) as o on true
        order by r.n
    loop
        if s.floor = 0 and s.acked > s.head then -- Above a floor a client chose both.
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
            when p_firsts[run] <= acked and p_lasts[run] > acked then 'overlap'
            else 'ok'
        end;
        if status = 'ok' and p_lasts[run] > acked then
            -- The same arithmetic as localfirst.change.extend_digest.
            lane0 := digest >> 32;
            lane1 := digest & 4294967295;
            for i in p_starts[run] .. p_starts[run] + p_lasts[run] - p_firsts[run] loop
                lane0 := (lane0 * 1299709 + p_hash0[i] + admitted_at) % 2147483647;
                lane1 := (lane1 * 1299721 + p_hash1[i] + admitted_at) % 2147483629;
                digests[i] := lane0 << 32 | lane1;
            end loop;
            admitted := p_lasts[run] - acked;
            acked := p_lasts[run];
            head := head + admitted;
            digest := lane0 << 32 | lane1;
            new_head[run] := head;
            new_digest[run] := digest;
            new_time[run] := s.admitted_at;
            new_ttl[run] := coalesce(p_ttls[run], s.ttl);
            new_expiry[run] := case
                when new_ttl[run] > 0 then s.admitted_at + new_ttl[run] * interval '1 ms' else 'infinity'
            end;
            s.expires_at := new_expiry[run];
        end if;
        expires_at := case
            when s.expires_at < 'infinity' then (extract(epoch from s.expires_at) * 1000)::bigint else 0
        end;
        ended := case
            when status in ('missing', 'generation')
                then localfirst.how_ended(p_namespace, p_sessions[run], p_generations[run])
        end;
        return next;
    end loop;

    insert into localfirst.changes
        (namespace, session_id, seq, admitted_at, digest, origin, counter, time, base, turn, branch, kind, body)
    select p_namespace, p_sessions[r.run], new_head[r.run] - p_lasts[r.run] + r.counter, new_time[r.run], c.digest,
        p_origins[r.run], r.counter, c.time, c.base, c.turn, c.branch, c.kind, c.body
    from unnest(digests, p_time, p_base, p_turn, p_branch, p_kind, p_body) with ordinality
        as c (digest, time, base, turn, branch, kind, body, n)
    cross join lateral (select width_bucket(c.n, p_starts) as n) as at
    cross join lateral (select at.n as run, p_firsts[at.n] + c.n - p_starts[at.n] as counter) as r
    where new_head[r.run] is not null;

    insert into localfirst.sessions (namespace, session_id, generation, head, digest, updated_at, ttl, expires_at)
    select p_namespace, p_sessions[r.n], p_generations[r.n], new_head[r.n], new_digest[r.n], new_time[r.n],
        new_ttl[r.n], new_expiry[r.n]
    from generate_series(1, runs) as r (n)
    where new_head[r.n] is not null -- Then the row exists: this is an update by primary key.
    on conflict (namespace, session_id) do update
    set head = excluded.head, digest = excluded.digest, updated_at = excluded.updated_at, ttl = excluded.ttl,
        expires_at = excluded.expires_at;

    insert into localfirst.origins (namespace, session_id, origin, acked)
    select p_namespace, p_sessions[r.n], p_origins[r.n], p_lasts[r.n]
    from generate_series(1, runs) as r (n)
    where new_head[r.n] is not null
    on conflict (namespace, session_id, origin) do update set acked = excluded.acked;
end $$;
comment on function localfirst.push is 'Admits runs of changes, each in one atomic step.';

-- The seq at which a page ends that begins after p_after: where it holds p_max_bytes, else the end of the log. Reads
-- no further than that, however long the log is. And whether p_digest is that of the log up to p_after, which lies
-- between its floor and its end; null: it is lost. If it isn't the same, there is no page.
create function localfirst.page_end(
    p_namespace text, p_session_id text, p_after bigint, p_digest bigint, p_floor bigint, p_head bigint,
    p_max_bytes bigint, out same boolean, out last bigint
)
language plpgsql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off -- Rows must come one by one, not all before the first.
as $$
declare
    c record;
    total bigint := 0;
begin
    if p_digest is null then -- Of one who has nothing.
        same := true;
    elsif p_after = 0 then
        same := p_digest = 0;
    elsif p_after = p_floor then
        select k.digest = p_digest into same from localfirst.checkpoints as k
        where k.namespace = p_namespace and k.session_id = p_session_id and k.seq = p_floor;
    end if;
    for c in
        select l.seq, l.digest, octet_length(l.body) + octet_length(l.origin) + coalesce(octet_length(l.branch || l.kind), 0)
            + 24 as size -- And the numbers; near enough to the wire encoding.
        from localfirst.changes as l
        where l.namespace = p_namespace and l.session_id = p_session_id and l.seq >= p_after and l.seq <= p_head
        order by l.seq
    loop
        if c.seq = p_after then
            same := c.digest = p_digest;
            continue when same;
        end if;
        if same is not true then
            return;
        end if;
        total := total + c.size;
        if total >= p_max_bytes then
            last := c.seq;
            return;
        end if;
    end loop;
    last := p_head;
end $$;
comment on function localfirst.page_end is
    'Whether a log is the one that a puller has, and the seq of the last change in a page of it.';

-- Put a checkpoint by compare-and-set; see CentralStore.put_checkpoint. p_expected is null: the session must be missing.
create function localfirst.put_checkpoint(
    p_namespace text, p_session_id text, p_expected text, p_expected_head bigint, p_expected_digest bigint,
    p_generation text, p_seq bigint, p_digest bigint, p_data bytea, p_origins text[], p_acked bigint[],
    p_ttl bigint, p_keep bigint
) returns boolean
language plpgsql
set plan_cache_mode = force_generic_plan -- As in push.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off -- As in page_end.
set jit = off
as $$
declare
    found_as localfirst.sessions;
    now_ms timestamptz;
begin
    if p_seq < 1 then
        return false;
    end if;
    select * into found_as from localfirst.sessions as s
    where s.namespace = p_namespace and s.session_id = p_session_id and s.expires_at <= clock_timestamp()
    for update;
    if found and p_expected is not null then
        return false;
    elsif found then
        perform localfirst.end_life(
            p_namespace, p_session_id, found_as.generation, 'expired', found_as.expires_at + p_keep * interval '1 ms'
        );
    end if;
    if p_expected is null then
        insert into localfirst.sessions (namespace, session_id, generation) values (p_namespace, p_session_id, '')
        on conflict do nothing;
        if not found then
            return false;
        end if;
    end if;
    select * into found_as from localfirst.sessions as s
    where s.namespace = p_namespace and s.session_id = p_session_id
    for no key update;
    if p_expected is not null
        and (found_as.generation, found_as.head, found_as.digest) is distinct from (p_expected, p_expected_head, p_expected_digest) then
        return false;
    end if;

    if found_as.generation = p_generation then
        if p_seq < found_as.floor or p_seq > found_as.head then
            return false;
        end if;
        -- Found in their order, that is by the primary key: another index would lead to the whole log.
        delete from localfirst.changes as c
        using (
            select l.ctid as place from localfirst.changes as l
            where l.namespace = p_namespace and l.session_id = p_session_id and l.seq <= p_seq
            order by l.seq offset 0
        ) as folded
        where c.ctid = folded.place;
        update localfirst.sessions as s set floor = p_seq
        where s.namespace = p_namespace and s.session_id = p_session_id;
    else
        now_ms := date_trunc('milliseconds', clock_timestamp());
        delete from localfirst.changes as c where c.namespace = p_namespace and c.session_id = p_session_id;
        delete from localfirst.origins as o where o.namespace = p_namespace and o.session_id = p_session_id;
        insert into localfirst.origins (namespace, session_id, origin, acked)
        select p_namespace, p_session_id, o.origin, o.acked from unnest(p_origins, p_acked) as o (origin, acked);
        update localfirst.sessions as s
        set generation = p_generation, head = p_seq, digest = p_digest, floor = p_seq,
            updated_at = greatest(s.updated_at, now_ms), ttl = p_ttl,
            expires_at = case
                when p_ttl > 0 then greatest(s.updated_at, now_ms) + p_ttl * interval '1 ms' else 'infinity'
            end
        where s.namespace = p_namespace and s.session_id = p_session_id;
    end if;
    insert into localfirst.checkpoints (namespace, session_id, seq, digest, data)
    values (p_namespace, p_session_id, p_seq, p_digest, p_data)
    on conflict (namespace, session_id) do update
    set seq = excluded.seq, digest = excluded.digest, data = excluded.data, created_at = now();
    return true;
end $$;
comment on function localfirst.put_checkpoint is 'Puts what stands for the oldest changes of a session, and drops them.';

-- Delete sessions; see CentralStore.delete. A generation that is null: whichever is there. Returns the ids of those that
-- were there.
create function localfirst.delete_sessions(
    p_namespace text, p_sessions text[], p_generations text[], p_keep bigint
) returns setof text
language plpgsql
set plan_cache_mode = force_generic_plan -- As in push.
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    forget timestamptz := clock_timestamp() + p_keep * interval '1 ms';
    s record;
begin
    for s in -- In the order of push.
        select r.session_id, r.generation as named, l.generation as found
        from unnest(p_sessions, p_generations) as r (session_id, generation)
        left join lateral (
            select * from localfirst.sessions as l
            where l.namespace = p_namespace and l.session_id = r.session_id
            offset 0
        ) as l on true
        order by r.session_id collate "C"
    loop
        if s.named is not null then
            insert into localfirst.endings (namespace, session_id, generation, how, forget_at)
            values (p_namespace, s.session_id, s.named, 'deleted', forget)
            on conflict (namespace, session_id, generation) do update
            set how = 'deleted', forget_at = greatest(endings.forget_at, excluded.forget_at);
        end if;
        -- What the lock waits for may have been another life by now.
        select l.generation into s.found from localfirst.sessions as l
        where l.namespace = p_namespace and l.session_id = s.session_id
            and (s.named is null or l.generation = s.named)
        for update;
        if found then
            perform localfirst.end_life(p_namespace, s.session_id, s.found, 'deleted', forget);
            return next s.session_id;
        end if;
    end loop;
end $$;
comment on function localfirst.delete_sessions is 'Deletes sessions and remembers that.';

-- Remove up to p_sessions expired sessions, and about p_changes changes at most, so that locks are held for a moment
-- only; and endings that need not be known any more. What others hold is left to them. more: there may be more now.
-- They expired at p_after or later, the last one at p_last: who goes on from there does not walk over what was removed.
create function localfirst.sweep(
    p_namespace text, p_sessions integer, p_changes integer, p_keep bigint, p_after timestamptz,
    out swept integer, out more boolean, out p_last timestamptz
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    room integer := p_changes;
    gone integer;
    s record;
begin
    -- Nobody minds if it has to be done again; and no lock waits for the disk.
    perform set_config('synchronous_commit', 'off', true);
    swept := 0;
    more := false;
    p_last := p_after;
    for s in
        select l.session_id, l.generation, l.expires_at from localfirst.sessions as l
        where l.namespace = p_namespace and l.expires_at >= p_after and l.expires_at <= statement_timestamp()
            and l.expires_at < 'infinity'
        order by l.expires_at limit p_sessions
        for update skip locked
    loop
        more := true;
        p_last := s.expires_at;
        delete from localfirst.changes as c
        where c.ctid = any (array(
            select l.ctid from localfirst.changes as l
            where l.namespace = p_namespace and l.session_id = s.session_id
            order by l.seq limit room
        ));
        get diagnostics gone = row_count;
        room := room - gone;
        exit when room <= 0;
        perform localfirst.end_life(
            p_namespace, s.session_id, s.generation, 'expired', s.expires_at + p_keep * interval '1 ms'
        );
        swept := swept + 1;
    end loop;
    delete from localfirst.endings as e
    where e.ctid = any (array(
        select l.ctid from localfirst.endings as l
        where l.namespace = p_namespace and l.forget_at <= clock_timestamp()
        order by l.forget_at limit p_changes
        for update skip locked
    ));
end $$;
comment on function localfirst.sweep is 'Removes some of what expired.';
