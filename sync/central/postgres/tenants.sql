-- Roles that see one namespace only, by row-level security. A step of the schema, as in schema.sql.
--
--     create role alice login password '...';
--     select localfirst.confine('alice', 'team-a');
--
-- Until the first call of confine all this costs nothing: nobody looks at the policies of a table whose row-level security
-- is off. From then on who does not own the tables sees what localfirst.tenants says, and without a row nothing.
-- A step that adds a table with namespaces gives it the policy, too, and row-level security where sessions has it.


-- name: tenants
create table localfirst.tenants (
    role      name not null,
    namespace text collate "C" not null,
    channel   text not null,
    primary key (role, namespace)
);
comment on table localfirst.tenants is 'Which roles see which namespaces, if row-level security is on: localfirst.confine turns it on.';
comment on column localfirst.tenants.channel is
    'Of hints of the namespace. Random, for a channel has no other protection than that nobody else knows its name.';

-- Everybody may look for his own rows, and nobody but the owner write any, whatever was granted.
alter table localfirst.tenants enable row level security;
grant select on localfirst.tenants to public;
create policy own on localfirst.tenants for select using (role = current_user);

create policy everybody on localfirst.store for select using (true);

do $$
declare
    name text;
begin
    foreach name in array array['sessions', 'endings', 'origins', 'checkpoints', 'changes'] loop
        -- Asked once in a statement, as it depends on no row; and it is no condition that could lead to an index, so the
        -- primary keys lead to the rows as before.
        execute format($policy$
            create policy tenants on localfirst.%I using (
                namespace in (select t.namespace from localfirst.tenants as t where t.role = current_user)
            )
        $policy$, name);
    end loop;
end $$;

create function localfirst.confine(p_role name, p_namespace text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    sessions constant pg_class := (select c from pg_class as c where c.oid = 'localfirst.sessions'::regclass);
begin
    if exists (
        select from pg_roles as r
        where r.rolname = p_role
            and (r.rolsuper or r.rolbypassrls or r.rolcreaterole or pg_has_role(r.oid, sessions.relowner, 'member'))
    ) then
        raise exception 'row-level security does not bind the role %', p_role
            using hint = 'Use one that is no superuser, has neither bypassrls nor createrole, and is no member of the owner.';
    end if;
    if not sessions.relrowsecurity then -- Once: it waits for everybody who uses the tables.
        alter table localfirst.store enable row level security;
        alter table localfirst.sessions enable row level security;
        alter table localfirst.endings enable row level security;
        alter table localfirst.origins enable row level security;
        alter table localfirst.checkpoints enable row level security;
        alter table localfirst.changes enable row level security;
        -- Else they show what their owner may see.
        alter view localfirst.items set (security_invoker = true);
        alter view localfirst.metadata set (security_invoker = true);
        alter view localfirst.removed set (security_invoker = true);
        alter view localfirst.cleared set (security_invoker = true);
    end if;
    execute format(
        'revoke all on all tables in schema localfirst from %1$I;
        grant usage on schema localfirst to %1$I;
        grant select on all tables in schema localfirst to %1$I;
        grant insert, delete on localfirst.changes to %1$I;
        grant insert, update, delete on localfirst.sessions, localfirst.endings, localfirst.origins,
            localfirst.checkpoints to %1$I', p_role
    );
    lock table localfirst.tenants in share row exclusive mode; -- One channel for all roles of a namespace.
    insert into localfirst.tenants (role, namespace, channel)
    values (
        p_role, p_namespace,
        coalesce(
            (select min(t.channel) from localfirst.tenants as t where t.namespace = p_namespace),
            'localfirst_' || replace(gen_random_uuid()::text, '-', '')
        )
    )
    on conflict (role, namespace) do nothing;
end $$;
revoke execute on function localfirst.confine from public;
comment on function localfirst.confine is
    'Lets a role use one more namespace, and sees to it that it uses no other: for who owns the tables. Needs Postgres 15.';
