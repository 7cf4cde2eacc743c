-- For people: what sessions hold, as plain SQL. Steps of the schema, as in schema.sql; no client reads these.
--
--     select item ->> 'content' from localfirst.items where session_id = 'user-123' order by seq, index;
--     select key, value from localfirst.metadata where session_id = 'user-123';
--
-- Items are those of the main branch. What another branch shows is for its replicas to tell: localfirst.branches.
-- What is sealed is not in them. Nothing that a client may have written makes a view fail.


-- name: views
-- The fold of the log in SQL, from its checkpoint on; localfirst.history and localfirst.metadata are the originals.

create function localfirst.json_of(p_body bytea) returns jsonb
language plpgsql immutable strict
as $$
begin
    return convert_from(p_body, 'UTF8')::jsonb;
exception when others then
    return null; -- Sealed, or what jsonb can't hold: NaN, lone surrogates, \u0000, nesting without end.
end $$;
comment on function localfirst.json_of is 'A body as JSON; null if it is none.';

create function localfirst.items_of(p_body bytea) returns table (index integer, item jsonb)
language plpgsql immutable rows 1
as $$
declare
    items constant jsonb := localfirst.json_of(p_body);
begin
    if jsonb_typeof(items) = 'array' then
        return query select i.n::integer - 1, i.item from jsonb_array_elements(items) with ordinality as i (item, n);
    else
        return query select 0, null::jsonb;
    end if;
end $$;
comment on function localfirst.items_of is 'The items in the body of an append; one row with null if it can''t be read.';

create function localfirst.whole(p_text text) returns bigint
language sql immutable
as $$
    select case when p_text ~ '^[0-9]{1,18}$' then p_text::bigint end
$$;
comment on function localfirst.whole is 'The number in decimal digits; null if it is none, or too great.';

-- A checkpoint is {"format", "items", "metadata", "removed", "cleared", ...}, see localfirst.checkpoint. Items, keys and
-- values are JSON texts inside strings, so that what jsonb can't hold in one of them spoils nothing else.
create function localfirst.folded(p_data bytea, p_part text) returns setof jsonb
language plpgsql immutable strict
as $$
declare
    state constant jsonb := localfirst.json_of(p_data);
begin
    if state ->> 'format' = '1' and jsonb_typeof(state -> p_part) = 'array' then
        return query select jsonb_array_elements(state -> p_part);
    end if;
end $$;
comment on function localfirst.folded is 'The elements of a list in a checkpoint; none if there is no such list.';

create function localfirst.counters_in(p_object jsonb) returns table (origin text, counter bigint)
language sql immutable
as $$
    select e.key, localfirst.whole(e.value)
    from jsonb_each_text(case jsonb_typeof(p_object) when 'object' then p_object else '{}' end) as e
$$;
comment on function localfirst.counters_in is 'Origins and counters of a JSON object; none if it is none.';

create view localfirst.removed as
select c.namespace, c.session_id, t.target ->> 'origin' as origin, t.target ->> 'counter' as counter,
    t.target ->> 'index' as index
from localfirst.changes as c
cross join lateral (select localfirst.json_of(c.body) as target) as t
where c.kind in ('remove', 'clear') and c.kind = 'remove' and c.branch = 'main'
union all
select k.namespace, k.session_id, r.item ->> 0, r.item ->> 1, r.item ->> 2
from localfirst.checkpoints as k
cross join lateral localfirst.folded(k.data, 'removed') as r (item);
comment on view localfirst.removed is 'Items that were removed one by one from the main branch. Those that a checkpoint dropped are not in it.';

create view localfirst.cleared as
select e.namespace, e.session_id, e.origin, max(e.counter) as counter
from (
    -- A clear takes what its author had seen,
    select c.namespace, c.session_id, s.origin, s.counter
    from localfirst.changes as c
    cross join lateral localfirst.counters_in(localfirst.json_of(c.body) -> 'seen') as s
    where c.kind in ('remove', 'clear') and c.kind = 'clear' and c.branch = 'main'
    union all
    -- and what it wrote itself before.
    select c.namespace, c.session_id, c.origin, c.counter
    from localfirst.changes as c
    where c.kind in ('remove', 'clear') and c.kind = 'clear' and c.branch = 'main'
    union all
    select k.namespace, k.session_id, s.origin, s.counter
    from localfirst.checkpoints as k
    cross join lateral localfirst.counters_in(localfirst.json_of(k.data) -> 'cleared') as s
) as e
group by e.namespace, e.session_id, e.origin;
comment on view localfirst.cleared is 'By origin, the counter up to which all items of the main branch were cleared.';

create view localfirst.items as
select a.namespace, a.session_id, a.seq, a.first + i.index as index, a.branch, a.origin, a.counter,
    to_timestamp((a.time >> 16) / 1000.0) as created_at, i.item
from (
    select c.namespace, c.session_id, c.seq, 0::bigint as first, c.branch, c.origin, c.counter, c.time, c.body
    from localfirst.changes as c
    where c.kind = 'append' and c.branch = 'main'
    union all
    select k.namespace, k.session_id, f.seq, f.first, 'main', f.origin, f.counter, f.time, f.body
    from localfirst.checkpoints as k
    cross join lateral (
        select localfirst.whole(n.item ->> 3) as seq, localfirst.whole(n.item ->> 2) as first,
            n.item ->> 0 as origin, localfirst.whole(n.item ->> 1) as counter, localfirst.whole(n.item ->> 4) as time,
            convert_to('[' || (n.item ->> 5) || ']', 'UTF8') as body
        from localfirst.folded(k.data, 'items') as n (item)
    ) as f
    where not (f.origin is null or f.seq is null or f.first is null or f.body is null)
) as a
join localfirst.sessions as s
    on s.namespace = a.namespace and s.session_id = a.session_id and s.expires_at > clock_timestamp()
left join localfirst.cleared as gone
    on gone.namespace = a.namespace and gone.session_id = a.session_id and gone.origin = a.origin
cross join lateral localfirst.items_of(a.body) as i
where a.counter > coalesce(gone.counter, 0)
    and not exists (
        select from localfirst.removed as removal
        where removal.namespace = a.namespace and removal.session_id = a.session_id
            and removal.origin = a.origin
            and removal.counter = a.counter::text
            and removal.index = (a.first + i.index)::text
    );
comment on view localfirst.items is 'Items that are visible now on the main branch; order by seq, index. item is null where it can''t be read.';
comment on column localfirst.items.created_at is 'By the clock of its author.';

create type localfirst.register as (exists boolean, value jsonb, time bigint, origin text, seq bigint);
comment on type localfirst.register is 'The value of a metadata key while it is folded; not exists: deleted.';

-- What a write makes of a key: localfirst.metadata.resolve in SQL. Exact for last, first, counters, and max and min of
-- numbers. union compares elements as jsonb does, and merge lets the later write win field by field, whoever saw what.
create function localfirst.written(
    p_is localfirst.register, p_by localfirst.register, p_rule text, p_gone jsonb, p_base bigint
) returns localfirst.register
language plpgsql immutable
as $$
declare
    seen constant boolean := p_is.origin = p_by.origin or p_is.seq <= p_base;
    newer constant boolean := p_by.time > p_is.time
        or p_by.time = p_is.time and p_by.origin collate "C" > p_is.origin collate "C";
    numbers constant boolean := jsonb_typeof(p_is.value) = 'number' and jsonb_typeof(p_by.value) = 'number';
begin
    if p_is is null then
        return p_by;
    elsif p_rule = 'last' then
        return case when seen or newer then p_by else p_is end;
    elsif not p_is.exists or p_rule = 'counter' and p_is.value = 'null' then
        return p_by;
    elsif p_rule = 'counter' and numbers then
        p_by.value := to_jsonb(p_is.value::numeric + p_by.value::numeric);
        return p_by;
    elsif p_rule = 'max' and numbers and p_by.value > p_is.value
        or p_rule = 'min' and numbers and p_by.value < p_is.value then
        return p_by;
    elsif p_rule = 'merge' then
        p_by.value := localfirst.merge_of(p_is.value, p_by.value, p_gone);
        return p_by;
    elsif p_rule = 'union' then
        p_by.value := localfirst.union_of(p_is.value, p_by.value);
        return p_by;
    end if;
    return p_is;
end $$;

create function localfirst.merge_of(p_is jsonb, p_by jsonb, p_gone jsonb) returns jsonb
language sql immutable
as $$
    select (case jsonb_typeof(p_is) when 'object' then p_is else '{}' end
        - array(select jsonb_array_elements_text(case jsonb_typeof(p_gone) when 'array' then p_gone else '[]' end)))
        || p_by
$$;

create function localfirst.union_of(p_is jsonb, p_by jsonb) returns jsonb
language sql immutable
as $$
    select coalesce(jsonb_agg(element order by place), '[]') from (
        select e.element, min(e.place) as place
        from jsonb_array_elements(case jsonb_typeof(p_is) when 'array' then p_is else jsonb_build_array(p_is) end || p_by)
            with ordinality as e (element, place)
        group by e.element, e.element::text -- 1 and 1.0 differ.
    ) as distinct_elements
$$;

-- The writes to metadata in a session's log that can be read, each as a register.
create function localfirst.writes_of(p_namespace text, p_session_id text)
returns table (key text, rule text, gone jsonb, base bigint, by_register localfirst.register)
language sql stable
as $$
    select w.body ->> 'key', w.rule, w.body -> 'gone', w.base,
        row(w.kind <> 'delete', w.value, w.time, w.origin, w.seq)::localfirst.register
    from (
        select c.seq, c.base, c.origin, c.kind, b.body,
            -- A change is never newer than its admission.
            least(c.time, (extract(epoch from c.admitted_at) * 1000)::bigint << 16 | 65535) as time,
            case c.kind when 'put' then b.body ->> 'rule' when 'delete' then 'last' else 'counter' end as rule,
            case c.kind when 'put' then b.body -> 'value' when 'increment' then b.body -> 'by' end as value
        from localfirst.changes as c
        cross join lateral (select localfirst.json_of(c.body) as body offset 0) as b
        where c.namespace = p_namespace and c.session_id = p_session_id
            and c.kind in ('put', 'delete', 'increment')
            and jsonb_typeof(b.body -> 'key') = 'string'
    ) as w
    where case
        when w.kind = 'delete' then true
        when w.value is null then false
        when w.rule = 'counter' then w.kind = 'increment' and jsonb_typeof(w.value) = 'number'
        when w.rule = 'merge' then jsonb_typeof(w.value) = 'object'
        when w.rule = 'union' then jsonb_typeof(w.value) = 'array'
        else w.rule in ('last', 'first', 'max', 'min')
    end
$$;

-- The registers that writes made which a checkpoint stands for.
create function localfirst.registers_of(p_namespace text, p_session_id text)
returns table (key text, folded_register localfirst.register)
language sql stable
as $$
    select f.key #>> '{}',
        row(m.item ->> 1 is not null, localfirst.json_of(convert_to(m.item ->> 1, 'UTF8')),
            localfirst.whole(m.item ->> 2), m.item ->> 3, localfirst.whole(m.item ->> 4))::localfirst.register
    from localfirst.checkpoints as k
    cross join lateral localfirst.folded(k.data, 'metadata') as m (item)
    cross join lateral (select localfirst.json_of(convert_to(m.item ->> 0, 'UTF8')) as key offset 0) as f
    where k.namespace = p_namespace and k.session_id = p_session_id and jsonb_typeof(f.key) = 'string'
$$;

create function localfirst.metadata_of(p_namespace text, p_session_id text)
returns table (key text, value jsonb, updated_at timestamptz)
language plpgsql stable
as $$
declare
    w record;
    current localfirst.register;
begin
    for w in
        select r.key, 0::bigint as seq, null as rule, null::jsonb as gone, 0::bigint as base,
            r.folded_register as by_register
        from localfirst.registers_of(p_namespace, p_session_id) as r
        union all
        select l.key, (l.by_register).seq, l.rule, l.gone, l.base, l.by_register
        from localfirst.writes_of(p_namespace, p_session_id) as l
        order by 1, 2
    loop
        if key is distinct from w.key then
            if current.exists and current.value is not null then
                return next;
            end if;
            current := null;
        end if;
        current := localfirst.written(current, w.by_register, w.rule, w.gone, w.base);
        key := w.key;
        value := current.value;
        updated_at := to_timestamp((current.time >> 16) / 1000.0);
    end loop;
    if current.exists and current.value is not null then
        return next;
    end if;
end $$;
comment on function localfirst.metadata_of is 'The metadata of one session, folded from its checkpoint and its log.';

create view localfirst.metadata as
select s.namespace, s.session_id, m.key, m.value, m.updated_at
from localfirst.sessions as s
cross join lateral localfirst.metadata_of(s.namespace, s.session_id) as m
where s.expires_at > clock_timestamp();
comment on view localfirst.metadata is
    'Metadata as it is now. Rule merge is approximate where two replicas wrote a field at once; all else is exact.';


-- name: sealed
-- What begins with a byte 1 is sealed, and JSON never does: the views pass over it, and nothing tries to read it.

create or replace function localfirst.json_of(p_body bytea) returns jsonb
language plpgsql immutable strict
as $$
begin
    if substr(p_body, 1, 1) = '\x01'::bytea then
        return null;
    end if;
    return convert_from(p_body, 'UTF8')::jsonb;
exception when others then
    return null; -- What jsonb can't hold: NaN, lone surrogates, \u0000, nesting without end.
end $$;

create or replace function localfirst.items_of(p_body bytea) returns table (index integer, item jsonb)
language plpgsql immutable rows 1
as $$
declare
    items constant jsonb := localfirst.json_of(p_body);
begin
    if jsonb_typeof(items) = 'array' then
        return query select i.n::integer - 1, i.item from jsonb_array_elements(items) with ordinality as i (item, n);
    elsif substr(p_body, 1, 1) <> '\x01'::bytea then
        return query select 0, null::jsonb;
    end if;
end $$;
comment on function localfirst.items_of is
    'The items in the body of an append; one row with null if it can''t be read, none if it is sealed.';
