-- Every statement that is sent to Postgres, apart from the schema. $1 is the namespace where there is one.

-- name: inspect
-- Whether this database has a store, and could have one. Not by to_regclass: within a transaction it answers from a
-- cache, which is older than the lock on the schema.
select current_setting('server_encoding') as encoding, exists (
    select from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'localfirst' and c.relname = 'store'
) as installed;

-- name: admit
-- The channel of a namespace, null: the usual one; and whether this role sees the namespace.
select min(t.channel) as channel,
    count(*) > 0 or not row_security_active('localfirst.sessions') as admitted, current_user as role
from localfirst.tenants as t
where t.namespace = $1 and (t.role = current_user or not row_security_active('localfirst.sessions'));

-- name: identify
-- Which store this is, and what its clients must know. parted: each role sees its namespaces only.
select store_id, format, schema_step, (extract(epoch from clock_timestamp()) * 1000)::bigint as now,
    (select c.relrowsecurity from pg_class as c where c.oid = 'localfirst.store'::regclass) as parted
from localfirst.store;

-- name: lock_schema
-- Only one client at a time creates or upgrades the schema; released with the transaction.
select pg_advisory_xact_lock(hashtextextended('localfirst', 0));

-- name: remember_schema
-- Note how far the schema has come; the first time, who the store is.
insert into localfirst.store (store_id, format, schema_step) values ($1, $2, $3)
on conflict (single) do update set format = excluded.format, schema_step = excluded.schema_step;

-- Arrays go as text, but for those of text, and many changes as one: of other arrays the driver has to ask the server
-- first how to write them, on every connection, and it is slow at writing each element.

-- name: push
-- Admit runs, at most one per session.
select run, status, generation, acked, admitted, head, digest, admitted_at, expires_at, ended
from localfirst.push(
    $1, $2, $3, $4::text::boolean[], $5, $6::text::bigint[], $7::text::bigint[], $8::text::bigint[],
    $9::text::bigint[], $10::text::bigint[], $11::text::bigint[], $12::text::text[], $13::text::text[],
    array(
        select substring($14::bytea from c.place for c.length)
        from unnest($15::text::integer[], $16::text::integer[]) with ordinality as c (place, length, n)
        order by c.n
    ),
    $17::text::bigint[], $18::text::bigint[], $19::text::bigint[], $20
);

-- name: notify
-- Tell watchers which sessions moved; one payload each. Without waiting for the disk: a hint may be lost.
select set_config('synchronous_commit', 'off', true), pg_notify($1, payload) from unnest($2::text[]) as payload;

-- name: pull
-- A page of each log: one row per change, or a single row without a change. No head: no such session. What the puller
-- has is the same as the log up to there, or not; null if the log has lost its digest. Who has nothing has none.
select w.n, l.generation, l.head, l.digest,
    case
        when l.generation <> w.generation or w.after not between l.floor and l.head then false
        when w.after = l.head then coalesce(w.digest = l.digest, true)
        else page.same
    end as same,
    page.last,
    case when l.expires_at < 'infinity' then (extract(epoch from l.expires_at) * 1000)::bigint else 0 end as expires_at,
    case
        when w.generation is not null and w.generation is distinct from l.generation
            then localfirst.how_ended($1, w.session_id, w.generation)
    end as ended,
    c.seq, (extract(epoch from c.admitted_at) * 1000)::bigint as admitted_at,
    c.origin, c.counter, c.time, c.base, c.branch, c.kind, c.body, c.turn
from unnest($2::text[], $3::text[], $4::text::bigint[], $5::text::bigint[]) with ordinality
    as w (session_id, generation, after, digest, n)
left join lateral (
    select s.generation, s.head, s.digest, s.floor, s.expires_at from localfirst.sessions as s
    where s.namespace = $1 and s.session_id = w.session_id and s.expires_at > clock_timestamp()
    offset 0
) as l on true
left join lateral (
    select e.same, e.last
    from localfirst.page_end($1, w.session_id, w.after, w.digest, l.floor, l.head, $6) as e
    where l.generation = coalesce(w.generation, l.generation) and w.after >= l.floor and w.after < l.head
    offset 0 -- Called for these only.
) as page on true
left join lateral (
    select * from localfirst.changes as c
    where c.namespace = $1 and c.session_id = w.session_id and c.seq > w.after and c.seq <= page.last
    order by c.seq
) as c on true;

-- name: heads
-- Where the logs of many sessions end.
select w.session_id, l.generation, l.head, l.digest
from unnest($2::text[]) as w (session_id)
cross join lateral (
    select s.generation, s.head, s.digest from localfirst.sessions as s
    where s.namespace = $1 and s.session_id = w.session_id and s.expires_at > clock_timestamp()
    offset 0 -- Looked up one by one, whatever the planner thinks of the table.
) as l;

-- name: checkpoint
-- What stands for the changes up to the floor of a log. No row: no session, or all changes are there.
select s.generation, s.floor, c.seq, c.digest, c.data
from localfirst.sessions as s
left join localfirst.checkpoints as c on c.namespace = s.namespace and c.session_id = s.session_id
where s.namespace = $1 and s.session_id = $2 and s.floor > 0 and s.expires_at > clock_timestamp();

-- name: put_checkpoint
-- Put what stands for the oldest changes of a log, by compare-and-set.
select localfirst.put_checkpoint($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::bigint[], $12, $13);

-- name: delete
-- Delete sessions; which of them were there.
select localfirst.delete_sessions($1, $2, $3, $4);

-- name: sweep
-- Remove some of what expired.
select swept, more, p_last as last from localfirst.sweep($1, $2, $3, $4, $5);

-- name: sessions
-- The next session ids in order.
select session_id from localfirst.sessions
where namespace = $1 and session_id > $2 and expires_at > clock_timestamp()
order by session_id limit $3;

-- name: probe
-- Whether anybody is still there.
select 1;
