"""Expiry and deletion, on real servers: what was said of a session's end holds on every replica."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import localfirst
from localfirst import SessionEvent
from localfirst.change import new_id

PATIENCE = 20.0
Open = Callable[..., localfirst.Store]


@pytest.fixture
def namespace() -> str:
    return f"lives-{new_id()}"


@pytest.fixture(params=["redis", "postgres", "directory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return (tmp_path / "central").as_uri()
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def opened(tmp_path: Path, remote: str, namespace: str) -> Iterator[Open]:
    with ExitStack() as stack:

        def opened(name: str, **options: object) -> localfirst.Store:
            options = {"remote": remote, "namespace": namespace, "poll_interval": 0.1, **options}
            return stack.enter_context(localfirst.open(tmp_path / name, **options))  # type: ignore[arg-type]

        yield opened


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)


def heard(store: localfirst.Store, event: SessionEvent) -> list[str]:
    told: list[str] = []
    store.on(event, told.append)
    return told


def texts(session: localfirst.Session) -> list[str]:
    return [message["content"] for message in session.get_messages()]


def on_disk(directory: Path, secret: bytes) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_session_expires_everywhere_and_begins_anew(opened: Open) -> None:
    a, b = opened("a", ttl=1.0), opened("b")
    expired_a, expired_b = heard(a, SessionEvent.SESSION_EXPIRED), heard(b, SessionEvent.SESSION_EXPIRED)
    there = b.session("s")
    a.session("s").add_message("user", "before")
    a.flush(PATIENCE)
    there.refresh(PATIENCE)
    assert texts(there) == ["before"]
    assert there.expires_at is not None
    until(lambda: texts(a.session("s")) == texts(there) == [], "it is not shown any more")
    until(lambda: expired_a == expired_b == ["s"], "both are told once")
    there.add_message("user", "after")
    b.flush(PATIENCE)
    until(lambda: texts(a.session("s")) == ["after"], "the next life arrives")
    assert (expired_a, expired_b) == (["s"], ["s"])
    assert [info.items for info in a.sessions()] == [1]


def test_writes_renew_it(opened: Open) -> None:
    a = opened("a", ttl=1.5)
    session = a.session("s")
    begun = time.monotonic()
    count = 0
    while time.monotonic() < begun + 3:
        session.add_message("user", str(count))
        count += 1
        time.sleep(0.1)
        assert len(session) == count
    session.touch()
    assert session.expires_at is not None


def test_reads_never_return_what_expired_offline_and_without_a_worker(opened: Open, tmp_path: Path) -> None:
    opened("a", ttl=1.0).session("s").add_message("user", "x")
    store = localfirst.open(tmp_path / "alone", remote="", ttl=0.5)
    session = store.session("s")
    told = heard(store, SessionEvent.SESSION_EXPIRED)
    session.add_message("user", "old")
    session.set("key", "old")
    until(lambda: len(session) == 0, "it is not shown any more")
    assert session.get("key") is None
    assert session.metadata() == {}
    assert list(store.sessions()) == []
    session.add_message("user", "new")
    assert texts(session) == ["new"]
    assert told == ["s"]
    store.close()
    assert on_disk(tmp_path / "alone", b'"new"')


def test_a_late_push_revives_nothing(opened: Open, tmp_path: Path, remote: str, namespace: str) -> None:
    a = opened("a", ttl=1.0)
    a.session("s").add_message("user", "first")
    a.flush(PATIENCE)
    a.close()
    b = opened("b")
    b.refresh(PATIENCE)
    assert texts(b.session("s")) == ["first"]
    with localfirst.open(tmp_path / "a", remote="", namespace=namespace) as offline:
        offline.session("s").add_message("user", "too late")
        until(lambda: len(offline.session("s")) == 0, "what was written offline expires, too")
        time.sleep(0.3)  # By any clock.
    until(lambda: texts(b.session("s")) == [], "it expires")
    a = opened("a")
    a.refresh(PATIENCE)
    a.flush(PATIENCE)
    assert texts(a.session("s")) == []
    assert a.session("s").pending == 0
    b.refresh(PATIENCE)
    assert texts(b.session("s")) == []


def test_fresh_changes_begin_a_life_of_their_own(opened: Open, tmp_path: Path, namespace: str) -> None:
    a = opened("a", ttl=1.0)
    a.session("s").add_message("user", "first")
    a.flush(PATIENCE)
    a.close()
    with localfirst.open(tmp_path / "a", remote="", namespace=namespace) as offline:
        session = offline.session("s")
        until(lambda: len(session) == 0, "it expires offline")
        session.add_message("user", "fresh")
        assert texts(session) == ["fresh"]
    a = opened("a")
    a.flush(PATIENCE)
    b = opened("b")
    b.refresh(PATIENCE)
    assert texts(b.session("s")) == ["fresh"] == texts(a.session("s"))
    assert b.session("s").expires_at is not None, "the ttl goes on"


def test_items_expire_one_by_one(opened: Open) -> None:
    a, b = opened("a", item_ttl=1.5), opened("b")
    here, there = a.session("s"), b.session("s")
    here.add_message("user", "one")
    a.flush(PATIENCE)
    there.refresh(PATIENCE)
    time.sleep(0.7)
    here.add_message("user", "two")
    a.flush(PATIENCE)
    there.refresh(PATIENCE)
    assert texts(here) == texts(there) == ["one", "two"]
    until(lambda: texts(here) == ["two"] == texts(there), "the first one goes")
    until(lambda: texts(here) == [] == texts(there), "the second one goes")
    here.add_message("user", "three")
    assert texts(here) == ["three"]


def test_a_deletion_reaches_everybody(opened: Open, tmp_path: Path) -> None:
    a, b = opened("a"), opened("b")
    told_a, told_b = heard(a, SessionEvent.SESSION_DELETED), heard(b, SessionEvent.SESSION_DELETED)
    a.session("s").add_message("user", "secret-8361")
    a.session("s").set("key", "secret-8361")
    a.session("other").add_message("user", "stays")
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    assert texts(b.session("s")) == ["secret-8361"]
    a.delete("s")
    assert texts(a.session("s")) == []
    assert not on_disk(tmp_path / "a", b"secret-8361")
    until(lambda: told_b == ["s"], "the other is told")
    assert texts(b.session("s")) == []
    assert [info.session_id for info in b.sessions()] == ["other"]
    assert told_a == []
    until(lambda: not on_disk(tmp_path / "b", b"secret-8361"), "its worker leaves nothing of it on the disk")
    b.session("s").add_message("user", "anew")
    b.flush(PATIENCE)
    until(lambda: texts(a.session("s")) == ["anew"], "a write after that begins anew")
    assert not on_disk(tmp_path / "central", b"secret-8361")


def test_a_deletion_made_offline_goes_up_later(opened: Open, tmp_path: Path, namespace: str) -> None:
    a = opened("a")
    a.session("s").add_message("user", "x")
    a.flush(PATIENCE)
    a.close()
    b = opened("b")
    b.refresh(PATIENCE)
    b.session("s").add_message("user", "y")
    with localfirst.open(tmp_path / "a", remote="", namespace=namespace) as offline:
        offline.delete("s")
        assert texts(offline.session("s")) == []
        offline.session("s").add_message("user", "anew")
    a = opened("a")
    assert texts(a.session("s")) == ["anew"]
    a.flush(PATIENCE)
    until(lambda: texts(b.session("s")) == ["anew"], "the deletion, and what came after it")


def test_a_deletion_of_what_was_never_here(opened: Open) -> None:
    a, b = opened("a"), opened("b", worker="none")
    a.session("s").add_message("user", "x")
    a.flush(PATIENCE)
    b.delete("s")
    b.flush(PATIENCE)
    until(lambda: texts(a.session("s")) == [], "it is deleted there")


def test_cleanup(opened: Open) -> None:
    a = opened("a")
    a.session("old").add_message("user", "x")
    time.sleep(0.3)
    a.session("new").add_message("user", "x")
    assert a.cleanup(idle_for=0.2) == ["old"]
    assert [info.session_id for info in a.sessions()] == ["new"]
