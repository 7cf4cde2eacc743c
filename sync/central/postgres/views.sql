-- For people: what sessions hold, as plain SQL. Steps of the schema, as in schema.sql; no client reads these.
--
--     select item ->> 'content' from localfirst.items where session_id = 'user-123' order by seq, index;
--     select key, value from localfirst.metadata where session_id = 'user-123';
--
-- Sealed sessions show that there is something, and not what. Nothing that a client may have written makes a view fail.


-- name: views
-- The fold of the log in SQL; localfirst.history and localfirst.metadata are the originals.

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

create view localfirst.items as
select c.namespace, c.session_id, c.seq, i.index, c.branch, c.origin, c.counter,
    to_timestamp((c.time >> 16) / 1000.0) as created_at, i.item
from localfirst.changes as c
-- A clear takes what its author had seen: all up to its base,
left join (
    select namespace, session_id, max(least(base, seq - 1)) as base
    from localfirst.changes where kind in ('remove', 'clear') and kind = 'clear'
    group by namespace, session_id
) as seen on seen.namespace = c.namespace and seen.session_id = c.session_id
-- and what it wrote itself before.
left join (
    select namespace, session_id, origin, max(counter) as counter
    from localfirst.changes where kind in ('remove', 'clear') and kind = 'clear'
    group by namespace, session_id, origin
) as own on own.namespace = c.namespace and own.session_id = c.session_id and own.origin = c.origin
cross join lateral localfirst.items_of(c.body) as i
where c.kind = 'append'
    and c.seq > coalesce(seen.base, 0)
    and c.counter > coalesce(own.counter, 0)
    and not exists (
        select from (
            select namespace, session_id, localfirst.json_of(body) as target
            from localfirst.changes where kind in ('remove', 'clear') and kind = 'remove'
        ) as removal
        where removal.namespace = c.namespace and removal.session_id = c.session_id
            and removal.target ->> 'origin' = c.origin
            and removal.target ->> 'counter' = c.counter::text
            and removal.target ->> 'index' = i.index::text
    );
comment on view localfirst.items is 'Items that are visible now; order by seq, index. item is null where it can''t be read.';
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
    order by w.body ->> 'key' collate "C", w.seq
$$;

create function localfirst.metadata_of(p_namespace text, p_session_id text)
returns table (key text, value jsonb, updated_at timestamptz)
language plpgsql stable
as $$
declare
    w record;
    current localfirst.register;
begin
    for w in select * from localfirst.writes_of(p_namespace, p_session_id) loop
        if key is distinct from w.key then
            if current.exists then
                return next;
            end if;
            current := null;
        end if;
        current := localfirst.written(current, w.by_register, w.rule, w.gone, w.base);
        key := w.key;
        value := current.value;
        updated_at := to_timestamp((current.time >> 16) / 1000.0);
    end loop;
    if current.exists then
        return next;
    end if;
end $$;
comment on function localfirst.metadata_of is 'The metadata of one session, folded from its log.';

create view localfirst.metadata as
select s.namespace, s.session_id, m.key, m.value, m.updated_at
from localfirst.sessions as s
cross join lateral localfirst.metadata_of(s.namespace, s.session_id) as m;
comment on view localfirst.metadata is
    'Metadata as it is now. Rule merge is approximate where two replicas wrote a field at once; all else is exact.';
