"""The faces of pyai: what its documentation shows runs with its import line changed, and real agents remember."""

from __future__ import annotations

import inspect
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from openstackai.core.agent import Agent
from openstackai.core.llm import LLMProvider, LLMResponse
from openstackai.instructions import Instruction

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.pyai import InMemorySession, PostgresSession, RedisSession, SessionEvent, SQLiteSession
from tests.conftest import OwnPostgres, OwnRedis
from tests.faults.tls import Authority, postgres_with_tls, redis_with_tls
from tests.polling import eventually

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there!"}]


class Parrot(LLMProvider):
    """A model that says how much it was told, and the last name that it heard."""

    async def complete(self, system_prompt: str, messages: list[dict[str, str]], **kwargs: Any) -> str:
        names = [message["content"].rpartition(" ")[2] for message in messages if "name is" in message["content"]]
        return f"{len(messages)}: {names[-1] if names else 'nobody'}"

    async def complete_with_tools(
        self, system_prompt: str, messages: list[dict[str, str]], tools: list[dict[str, Any]], **kwargs: Any
    ) -> LLMResponse:
        raise NotImplementedError

    async def stream(self, system_prompt: str, messages: list[dict[str, str]], **kwargs: Any) -> None:
        raise NotImplementedError


def agent(memory: Any, instructions: str = "Remember user preferences") -> Agent:
    """One that runs without a key. The package calls `memory=` what its documentation calls `session=`."""
    return Agent(name="Assistant", instructions=Instruction(content=instructions), llm=Parrot(), memory=memory)


async def said(who: Agent, message: str) -> str:
    """What it answers."""
    return str((await who.run(message)).content)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Go to another machine: other directories, and nothing in memory. At the end all is closed."""

    def move(name: str) -> None:
        stores._close_all()
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("LOCALFIRST_HOME", str(tmp_path / name / "home"))

    move("here")
    yield move
    stores._close_all()


# On local disk.


async def test_a_conversation_goes_on_with_another_agent() -> None:
    session = SQLiteSession(db_path="sessions.db", session_id="user-123")
    assert await said(agent(session), "My name is Alice") == "1: Alice"
    assert await said(agent(session), "What's my name?") == "3: Alice"
    again = SQLiteSession("sessions.db", "user-123")
    assert await said(agent(again), "Do you remember me?") == "5: Alice"
    assert [message["role"] for message in again.get_messages()] == ["user", "assistant"] * 3


def test_it_goes_on_in_another_process() -> None:
    program = """
import asyncio
from localfirst.integrations.pyai import SQLiteSession
from tests.acceptance.test_pyai import agent, said
print(asyncio.run(said(agent(SQLiteSession("sessions.db", "user-123")), "{}")))
"""
    for message, answer in (("My name is Alice", "1: Alice"), ("What's my name?", "3: Alice")):
        done = subprocess.run(
            [sys.executable, "-c", program.format(message)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.stdout.strip(), done.returncode) == (answer, 0), done.stderr


async def test_an_empty_session_is_not_taken_for_none() -> None:
    session: Any = InMemorySession()
    assert agent(session).memory is session


def test_a_session_needs_no_id() -> None:
    session = SQLiteSession("conversations.db")
    session.add_message("user", "Hello")
    assert session.session_id == "default"
    assert len(SQLiteSession("conversations.db", "default")) == 1


def test_messages_and_metadata() -> None:
    session = SQLiteSession("db.sqlite", "user-123")
    session.add_message("user", "Hello")
    session.add_message("assistant", "Hi there!")
    assert session.get_messages() == HELLO
    session.clear()
    assert session.get_messages() == []
    session.set("user_name", "Alice")
    session.set("preferences", {"theme": "dark"})
    assert (session.get("user_name"), session.get("preferences")) == ("Alice", {"theme": "dark"})
    assert session.get("nothing") is None


def test_each_user_has_a_session() -> None:
    def get_session(user_id: str) -> SQLiteSession:
        return SQLiteSession(db_path="sessions.db", session_id=f"user-{user_id}")

    get_session("alice").add_message("user", "I am Alice")
    assert len(get_session("bob")) == 0
    assert len(get_session("alice")) == 1
    assert get_session("alice").store is get_session("bob").store


async def test_after_the_block_all_is_saved(central: str, home: Callable[[str], None]) -> None:
    with SQLiteSession("db.sqlite", "user-123", remote=central) as session:
        await said(agent(session), "Hello")
    with pytest.raises(RuntimeError, match="SQLiteSession is closed"):
        session.add_message("user", "Hello")
    home("there")
    with SQLiteSession("db.sqlite", "user-123", remote=central) as session:
        assert len(session) == 2


def test_export_and_import() -> None:
    session = SQLiteSession("db.sqlite", "user-123")
    for message in HELLO:
        session.add_message(**message)
    session.set("user_name", "Alice")
    new_session = SQLiteSession("new.db", "user-123")
    new_session.import_data(session.export())
    assert new_session.get_messages() == HELLO
    assert new_session.get("user_name") == "Alice"


def test_events(capsys: pytest.CaptureFixture[str]) -> None:
    session = SQLiteSession("db.sqlite", "user-123")
    session.on(SessionEvent.MESSAGE_ADDED, lambda msg: print(f"New: {msg}"))
    session.on(SessionEvent.SESSION_CLEARED, lambda: print("Cleared"))
    session.add_message("user", "Hello")
    session.clear()
    assert capsys.readouterr().out == "New: {'role': 'user', 'content': 'Hello'}\nCleared\n"


@pytest.mark.parametrize("make", [InMemorySession, lambda: SQLiteSession(":memory:")])
def test_what_is_in_memory_is_of_one_object(make: Callable[[], Any]) -> None:
    one, other = make(), make()
    one.add_message("user", "Hello")
    assert (len(one), len(other)) == (1, 0)
    directory = one.store.path
    one.close()
    other.close()
    assert not directory.exists()


def test_what_cannot_work_is_said() -> None:
    Path("old.db").write_bytes(b"SQLite format 3\0")
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: SQLiteSession("old.db"), r"localfirst import --in-place .*old\.db"),
        (lambda: SQLiteSession(":memory:", remote="redis://cache"), "name a path"),
        (lambda: SQLiteSession(""), "name a directory"),
        (lambda: SQLiteSession("new.db", ""), "can't be empty"),
        (lambda: SQLiteSession("new.db", ttl=0), "ttl is a number of seconds"),
        (lambda: RedisSession("redis://cache:6379"), r"a whole URL is for localfirst.open"),
        (lambda: RedisSession("cache", 0), "port is a number"),
        (lambda: RedisSession("cache", db=-1), "db is the number"),
        (lambda: RedisSession("cache", ssl_ca_certs="ca.crt"), "pass ssl=True"),
        (lambda: PostgresSession("mysql://db/app"), "not that of a Postgres database"),
        (lambda: PostgresSession("postgresql://me:s/cret@db/app"), "special character"),
    ]
    for call, message in calls:
        with pytest.raises(localfirst.ConfigurationError, match=message):
            call()
    stores._close_all()


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"host": "::1", "port": 7000, "db": 2}, "redis://[::1]:7000/2"),
        ({"password": "p@ss/w?rd"}, "redis://:p%40ss%2Fw%3Frd@localhost:6379/0"),
        ({"username": "a b", "password": ""}, "redis://a%20b:@localhost:6379/0"),
        ({"ssl": True, "ssl_ca_certs": "/a b.crt"}, "rediss://localhost:6379/0?ssl_ca_certs=%2Fa+b.crt"),
    ],
)
def test_the_address_of_a_redis_server(options: dict[str, Any], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def open_store(path: Path, *, remote: str, namespace: str) -> localfirst.Store:
        asked.append(str(remote))
        return localfirst.open(path, remote="", namespace=namespace)

    monkeypatch.setattr(stores, "open_store", open_store)
    RedisSession(**options).close()
    assert asked == [url]


@pytest.mark.parametrize("make", [
    lambda: RedisSession("no host", password="c4nary"),
    lambda: RedisSession("cache", password="c4nary://x@c4nary", ttl=-1),
    lambda: PostgresSession("postgresql://me:c4nary@db/app", ttl=-1),
    lambda: PostgresSession("mysql://me:c4nary@db/app"),
    lambda: SQLiteSession(":memory:", remote="redis://:c4nary@cache"),
])  # fmt: skip
def test_no_password_is_shown(make: Callable[[], object]) -> None:
    with pytest.raises(localfirst.ConfigurationError) as caught:
        make()
    told = traceback.format_exception(caught.value, chain=True)
    for frame, _ in list(traceback.walk_tb(caught.value.__traceback__))[2:]:
        told += [repr(value) for name, value in inspect.getargvalues(frame).locals.items() if name != "self"]
    assert "c4nary" not in "".join(line for line in told if "lambda" not in line)


# With a Redis server.


@pytest.mark.integration
async def test_a_chat_with_many_users(own_redis: OwnRedis, home: Callable[[str], None]) -> None:
    server = own_redis()
    sessions: list[RedisSession] = []

    def create_agent_for_user(user_id: str) -> Agent:
        session = RedisSession(host="127.0.0.1", port=server.port, session_id=f"chat:{user_id}", ttl=86400)
        sessions.append(session)
        return agent(session, "Friendly assistant")

    alice_agent, bob_agent = create_agent_for_user("alice"), create_agent_for_user("bob")
    assert await said(alice_agent, "My name is Alice") == "1: Alice"
    assert await said(bob_agent, "What's my name?") == "1: nobody"
    assert sessions[0].store is sessions[1].store
    await sessions[0].aflush(10)
    home("there")
    assert await said(create_agent_for_user("alice"), "What's my name?") == "3: Alice"


@pytest.mark.integration
def test_a_session_moves_from_sqlite_to_redis(own_redis: OwnRedis, home: Callable[[str], None]) -> None:
    port = own_redis().port
    sqlite = SQLiteSession("old.db", "user-123")
    for message in HELLO:
        sqlite.add_message(**message)
    redis = RedisSession("127.0.0.1", port, session_id="user-123")
    redis.import_data(sqlite.export())
    redis.flush(10)
    home("there")
    assert RedisSession("127.0.0.1", port, session_id="user-123").get_messages() == HELLO


@pytest.mark.integration
def test_a_session_in_redis_expires(own_redis: OwnRedis) -> None:
    session = RedisSession("127.0.0.1", own_redis().port, session_id="user-123", ttl=0.5)
    session.add_message("user", "Hello")
    assert session.expires_at is not None
    assert eventually(lambda: session.get_messages() == [])


@pytest.mark.integration
@pytest.mark.parametrize("username", [None, "default"])
def test_redis_asks_for_a_password(own_redis: OwnRedis, home: Callable[[str], None], username: str | None) -> None:
    port = own_redis(password="a/p@ss w?rd#").port
    session = RedisSession("127.0.0.1", port, "a/p@ss w?rd#", session_id="user-123", username=username)
    session.add_message("user", "Hello")
    session.flush(10)
    assert "ss w" not in repr(session) + str(session.store.status())
    home("there")
    with RedisSession(host="127.0.0.1", port=port, password="wrong", username=username) as refused:
        assert "password" in str(eventually(lambda: refused.store.status().last_error))


@pytest.mark.integration
def test_redis_over_tls(tmp_path: Path, home: Callable[[str], None]) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    with redis_with_tls(authority.issue("localhost")) as port:
        for _ in range(2):
            home("here")
            session = RedisSession("localhost", port, ssl=True, ssl_ca_certs=tmp_path / "ca.crt")
            session.add_message("user", "Hello")
            session.flush(10)
        assert len(session) == 2
        home("there")
        with RedisSession("localhost", port, ssl=True) as strict:
            assert "nobody known vouches" in str(eventually(lambda: strict.store.status().last_error))


# With a Postgres database.


@pytest.mark.integration
async def test_a_conversation_in_postgres(own_postgres: OwnPostgres, home: Callable[[str], None]) -> None:
    parts = urlsplit(own_postgres(password="p@ss").url)
    assert parts.password == "p%40ss"
    url = f"postgresql://{parts.username}:{parts.password}@{parts.hostname}:{parts.port}{parts.path}"
    session = PostgresSession(connection_string=url, session_id="user-123")
    assert await said(agent(session), "My name is Alice") == "1: Alice"
    session.set("preferences", {"theme": "dark"})
    await session.aflush(10)
    home("there")
    again = PostgresSession(url, "user-123")
    assert await said(agent(again), "What's my name?") == "3: Alice"
    assert again.get("preferences") == {"theme": "dark"}
    assert "ss@" not in repr(again)


@pytest.mark.integration
def test_postgres_over_tls(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    with postgres_with_tls(authority.issue("localhost")) as port:
        options = f"sslmode=verify-full&sslrootcert={tmp_path / 'ca.crt'}"
        session = PostgresSession(f"postgresql://postgres@localhost:{port}/postgres?{options}")
        session.add_message("user", "Hello")
        session.flush(10)
        assert session.pending == 0
        stores._close_all()
