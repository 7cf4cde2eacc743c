"""Expiry and deletion, on real servers: what was said of a session's end holds on every replica."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import SessionDeleted, SessionEvent
from tests.integration.stores import Open, contents
from tests.polling import eventually

PATIENCE = 20.0


@pytest.fixture
def opened(remote_url: str, opened: Open) -> Open:
    """As everywhere, with the central store of the test."""
    return partial(opened, remote=remote_url)


def heard(store: localfirst.Store, event: SessionEvent) -> list[str]:
    told: list[str] = []
    store.on(event, told.append)
    return told


def on_disk(directory: Path, secret: bytes) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_session_expires_everywhere_and_begins_anew(opened: Open) -> None:
    a, b = opened("a", ttl=1.0), opened("b")
    expired_a, expired_b = heard(a, SessionEvent.SESSION_EXPIRED), heard(b, SessionEvent.SESSION_EXPIRED)
    there = b.session("s")
    a.session("s").add_message("user", "before")
    a.flush(PATIENCE)
    there.refresh(PATIENCE)
    assert contents(there) == ["before"]
    assert there.expires_at is not None
    eventually(lambda: contents(a.session("s")) == contents(there) == [], PATIENCE, "it is not shown any more")
    eventually(lambda: expired_a == expired_b == ["s"], PATIENCE, "both are told once")
    there.add_message("user", "after")
    b.flush(PATIENCE)
    eventually(lambda: contents(a.session("s")) == ["after"], PATIENCE, "the next life arrives")
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
    eventually(lambda: len(session) == 0, PATIENCE, "it is not shown any more")
    assert session.get("key") is None
    assert session.metadata() == {}
    assert list(store.sessions()) == []
    session.add_message("user", "new")
    assert contents(session) == ["new"]
    assert told == ["s"]
    store.close()
    assert on_disk(tmp_path / "alone", b'"new"')


def test_a_late_push_revives_nothing(opened: Open, tmp_path: Path, namespace: str) -> None:
    a = opened("a", ttl=1.0)
    a.session("s").add_message("user", "first")
    a.flush(PATIENCE)
    a.close()
    b = opened("b")
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["first"]
    with localfirst.open(tmp_path / "a", remote="", namespace=namespace) as offline:
        offline.session("s").add_message("user", "too late")
        eventually(lambda: len(offline.session("s")) == 0, PATIENCE, "what was written offline expires, too")
        time.sleep(0.3)  # By any clock.
    eventually(lambda: contents(b.session("s")) == [], PATIENCE, "it expires")
    a = opened("a")
    a.refresh(PATIENCE)
    a.flush(PATIENCE)
    assert contents(a.session("s")) == []
    assert a.session("s").pending == 0
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == []


def test_fresh_changes_begin_a_life_of_their_own(opened: Open, tmp_path: Path, namespace: str) -> None:
    a = opened("a", ttl=1.0)
    a.session("s").add_message("user", "first")
    a.flush(PATIENCE)
    a.close()
    with localfirst.open(tmp_path / "a", remote="", namespace=namespace) as offline:
        session = offline.session("s")
        eventually(lambda: len(session) == 0, PATIENCE, "it expires offline")
        session.add_message("user", "fresh")
        assert contents(session) == ["fresh"]
    a = opened("a")
    a.flush(PATIENCE)
    b = opened("b")
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["fresh"] == contents(a.session("s"))
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
    assert contents(here) == contents(there) == ["one", "two"]
    eventually(lambda: contents(here) == ["two"] == contents(there), PATIENCE, "the first one goes")
    eventually(lambda: contents(here) == [] == contents(there), PATIENCE, "the second one goes")
    here.add_message("user", "three")
    assert contents(here) == ["three"]


def test_a_deletion_reaches_everybody(opened: Open, tmp_path: Path) -> None:
    a, b = opened("a"), opened("b")
    told_a, told_b = heard(a, SessionEvent.SESSION_DELETED), heard(b, SessionEvent.SESSION_DELETED)
    a.session("s").add_message("user", "secret-8361")
    a.session("s").set("key", "secret-8361")
    a.session("other").add_message("user", "stays")
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["secret-8361"]
    a.delete("s")
    assert contents(a.session("s")) == []
    assert not on_disk(tmp_path / "a", b"secret-8361")
    eventually(lambda: told_b == ["s"], PATIENCE, "the other is told")
    assert contents(b.session("s")) == []
    assert [info.session_id for info in b.sessions()] == ["other"]
    assert told_a == []
    eventually(lambda: not on_disk(tmp_path / "b", b"secret-8361"), PATIENCE, "nothing of it is left on the disk")
    b.session("s").add_message("user", "anew")
    b.flush(PATIENCE)
    eventually(lambda: contents(a.session("s")) == ["anew"], PATIENCE, "a write after that begins anew")
    assert not on_disk(tmp_path / "remote", b"secret-8361")


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
        assert offline.status().pending_changes == 1, "the deletion"
        assert contents(offline.session("s")) == []
        offline.session("s").add_message("user", "anew")
    a = opened("a")
    assert contents(a.session("s")) == ["anew"]
    a.flush(PATIENCE)
    assert a.status().pending_changes == 0
    eventually(lambda: contents(b.session("s")) == ["anew"], PATIENCE, "the deletion, and what came after it")


def test_a_flush_says_that_what_it_was_to_send_was_dropped(opened: Open) -> None:
    a, b = opened("a"), opened("b", worker="none")
    a.session("s").add_message("user", "x")
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    b.session("s").add_message("user", "y")
    b.session("other").add_message("user", "goes up")
    a.delete("s")
    a.flush(PATIENCE)
    with pytest.raises(SessionDeleted, match="session 's'"):
        b.flush(PATIENCE)
    b.flush(PATIENCE)
    eventually(lambda: contents(a.session("other")) == ["goes up"], PATIENCE, "the rest goes up")
    b.session("s").add_message("user", "anew")
    b.session("s").flush(PATIENCE)
    eventually(lambda: contents(a.session("s")) == ["anew"], PATIENCE, "what is written later begins anew")


def test_a_deletion_of_what_was_never_here(opened: Open) -> None:
    a, b = opened("a"), opened("b", worker="none")
    a.session("s").add_message("user", "x")
    a.flush(PATIENCE)
    b.delete("s")
    b.flush(PATIENCE)
    eventually(lambda: contents(a.session("s")) == [], PATIENCE, "it is deleted there")


@pytest.mark.parametrize("idle_for", [None, -1, timedelta(days=-1), float("nan"), float("inf"), "30d", True])
def test_cleanup_takes_lengths_of_time_only(opened: Open, idle_for: Any) -> None:
    a = opened("a")
    a.session("s").add_message("user", "x")
    with pytest.raises(localfirst.ConfigurationError, match="idle_for"):
        a.cleanup(idle_for)
    assert len(a.session("s")) == 1


def test_cleanup(opened: Open) -> None:
    a = opened("a")
    a.session("old").add_message("user", "x")
    time.sleep(0.3)
    a.session("new").add_message("user", "x")
    assert a.cleanup(idle_for=0.2) == ["old"]
    assert [info.session_id for info in a.sessions()] == ["new"]
