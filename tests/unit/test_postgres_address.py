"""Postgres URLs: what goes to asyncpg, what is ours, and what people get to see."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest

from localfirst.errors import ConfigurationError
from sync.central.postgres.address import parse_address
from sync.central.postgres.store import PostgresStore

SECRET = "hunter2"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_all_usual_schemes_are_taken(scheme: str) -> None:
    address = parse_address(f"{scheme}://me:{SECRET}@db:6432/app")
    assert address.dsn.startswith(f"postgresql://me:{SECRET}@db:6432/app")
    assert address.server == "postgresql://db:6432/app"
    assert (address.notify, address.statement_cache_size) == (True, 100)


def test_our_options_are_taken_out_and_others_passed_on() -> None:
    address = parse_address("postgresql://db/app?notify=off&sslmode=require&statement_cache_size=0&options=-c%20a%3Db")
    assert (address.notify, address.statement_cache_size) == (False, 0)
    options = dict(parse_qsl(urlsplit(address.dsn).query))
    assert options == {"application_name": "localfirst", "sslmode": "require", "options": "-c a=b"}


def test_all_passwords_are_hidden() -> None:
    address = parse_address("postgresql://me:p%40ss@db/app?password=second&sslpassword=third")
    assert address.hide("p%40ss p@ss second third") == "*** *** *** ***"


def test_the_application_may_have_a_name_of_its_own() -> None:
    address = parse_address("postgresql://db/app?application_name=mine")
    assert dict(parse_qsl(urlsplit(address.dsn).query)) == {"application_name": "mine"}


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("postgresql:///app", "postgresql:///app"),
        ("postgresql://", "postgresql://"),
        ("postgresql://[::1]:5433/app", "postgresql://[::1]:5433/app"),
        ("postgresql://a:1,b:2/app", "postgresql://a:1,b:2/app"),
        ("postgresql://me:p%40ss@%2Frun%2Fpg/app", "postgresql://%2Frun%2Fpg/app"),
        ("postgresql:///app?host=/run/pg", "postgresql:///run/pg/app"),
        ("postgresql://me@db/caf%C3%A9", "postgresql://db/café"),
    ],
)
def test_the_server_is_described_by_hosts_and_database(url: str, server: str) -> None:
    assert parse_address(url).server == server


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me:{SECRET}@db/app",
        SECRET,
        f"postgresql://me:12/{SECRET}@db/app",
        f"postgresql://me:12?{SECRET}@db/app",
        f"postgresql://me:12#{SECRET}@db/app",
        f"postgresql://me:12#{SECRET}",
        f"postgresql://me:{SECRET}",
        f"postgresql://me:{SECRET}/app",
        f"postgresql://me:{SECRET}@db:port/app",
        f"postgresql://me:{SECRET}@[db/app",
        f"postgresql://me:{SECRET}@db/app?notify=maybe",
        f"postgresql://me:{SECRET}@db/app?statement_cache_size=-1",
    ],
)
def test_a_wrong_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresStore(url, "namespace")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("password", ["a@1/2", "a/b", "a?b", "a#b", "1/2@3"])
def test_a_password_that_is_not_escaped_never_becomes_something_to_show(password: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_address(f"postgresql://me:{password}@db/app")


@pytest.mark.parametrize("namespace", ["", "a\0b", "\ud800", "x" * 513])
def test_a_namespace_that_no_column_can_hold_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError):
        PostgresStore("postgresql://db/app", namespace)
