"""Sealed sessions, with real stores: nobody without the key reads them, and nothing happens to them."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import localfirst
from localfirst import DecryptionError, KeyRing, SessionEvent
from localfirst.records import slot_key
from tests.faults.proxy import Proxy
from tests.integration.stores import Open, contents

PATIENCE = 60.0
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
CANARY = "canary-7f3a"


@pytest.fixture(params=["redis", "postgres", "directory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return (tmp_path / "central").as_uri()
    return str(request.getfixturevalue(f"{request.param}_url"))


def write(session: localfirst.Session) -> None:
    session.add_message("user", f"{CANARY} hello")
    session.set(f"{CANARY}-key", {CANARY: 1}, merge="merge")
    session.increment(f"{CANARY}-count")
    session.add_message("assistant", f"{CANARY} popped")
    session.pop_message()
    session.branch(f"{CANARY}-branch")


def seen(session: localfirst.Session) -> tuple[object, ...]:
    return contents(session), session.metadata(), [branch.name for branch in session.branches()]


def test_devices_with_the_key_share_sealed_sessions(opened: Open, remote: str) -> None:
    a, b = opened("a", remote, encryption_key=KEY), opened("b", remote, encryption_key=KEY)
    write(a.session("s"))
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    assert seen(b.session("s")) == seen(a.session("s"))
    assert contents(b.session("s")) == [f"{CANARY} hello"]
    b.session("s").add_message("user", "more")
    b.flush(PATIENCE)
    a.refresh(PATIENCE)
    assert seen(b.session("s")) == seen(a.session("s"))
    assert a.verify().ok


def test_nothing_of_it_is_on_disk_in_the_clear(opened: Open, tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()
    for name in ("a", "b"):
        store = opened(name, central, encryption_key=KEY)
        write(store.session(name))
        store.flush(PATIENCE)
        store.refresh(PATIENCE)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("server", ["redis_url", "postgres_url"])
def test_nothing_of_it_goes_over_the_wire_or_into_the_log_in_the_clear(
    opened: Open, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    caplog.set_level(logging.DEBUG)
    url = str(request.getfixturevalue(server))
    with Proxy(urlsplit(url).port or 0) as proxy:
        proxy.heard = bytearray()
        a, b = (opened(name, proxy.url(url), encryption_key=KEY) for name in "ab")
        for number in range(300):
            a.session("s").set(f"{CANARY}-{number % 3}", CANARY * 10)
        write(a.session("s"))
        a.flush(PATIENCE)
        b.refresh(PATIENCE)
        assert seen(b.session("s")) == seen(a.session("s"))
        assert a.rotate(PATIENCE).ok
        a.close()
        b.close()
        assert len(proxy.heard) > 10_000
        assert CANARY.encode() not in proxy.heard
    assert CANARY not in caplog.text


@pytest.mark.parametrize("key", [None, OTHER, "another passphrase"])
def test_who_lacks_the_key_is_told_and_changes_nothing(opened: Open, remote: str, key: bytes | str | None) -> None:
    a = opened("a", remote, encryption_key=KEY)
    a.session("s").add_message("user", "hello")
    a.flush(PATIENCE)
    b = opened("b", remote, encryption_key=key)
    told: list[tuple[str, str]] = []
    b.on(SessionEvent.QUARANTINED, lambda *arguments: told.append(arguments))
    session = b.session("s", hydrate_timeout=PATIENCE)
    for call in (
        session.get_messages,
        session.pop_message,
        session.clear,
        session.metadata,
        lambda: asyncio.run(session.get_items()),
        lambda: session.add_message("user", "mine"),
    ):
        with pytest.raises(DecryptionError, match=r"session 's'.*sealed with key") as caught:
            call()
        assert len(caught.value.key_id) == 8
    with pytest.raises(DecryptionError, match="session 's'"):
        b.refresh(PATIENCE)
    assert [session_id for session_id, _ in told] == ["s"]
    assert [each.session_id for each in b.quarantined()] == ["s"]
    assert [info.state for info in b.sessions()] == ["sealed"]
    b.session("own").add_message("user", "goes on")
    b.flush(PATIENCE)
    assert contents(b.session("own")) == ["goes on"]
    b.close()
    b = opened("b", remote, encryption_key=KeyRing([KEY, *([key] if key else [])], plain=True))
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["hello"]
    assert contents(b.session("own")) == ["goes on"]
    assert b.quarantined() == []
    a.refresh(PATIENCE, session_id="s")
    assert contents(a.session("s")) == ["hello"]


@pytest.mark.parametrize("key", [None, OTHER])
def test_a_disk_can_t_be_read_with_another_key(opened: Open, key: bytes | None) -> None:
    store = opened("a", None)
    store.session("plain").add_message("user", "for all")
    store.close()
    store = opened("a", None, encryption_key=KEY)
    store.session("s").add_message("user", "hello")
    assert contents(store.session("plain")) == ["for all"]
    store.close()
    store = opened("a", None, encryption_key=key)
    session = store.session("s")
    for call in (session.get_messages, session.pop_message, session.clear, lambda: session.add_message("user", "x")):
        with pytest.raises(DecryptionError, match="session 's'"):
            call()
    assert contents(store.session("plain")) == ["for all"]
    assert {info.session_id: info.state for info in store.sessions()} == {"plain": "local", "s": "sealed"}
    store.close()
    store = opened("a", None, encryption_key=KEY)
    assert contents(store.session("s")) == ["hello"]


def test_what_is_pending_goes_up_without_the_key(opened: Open, remote: str) -> None:
    a = opened("a", remote, encryption_key=KEY, worker="none")
    a.session("s").add_message("user", "hello")
    a.close(timeout=0)
    a = opened("a", remote)
    a.flush(PATIENCE)
    b = opened("b", remote, encryption_key=KEY)
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["hello"]


def test_who_has_no_key_can_delete(opened: Open, remote: str) -> None:
    a = opened("a", remote, encryption_key=KEY)
    a.session("s").add_message("user", "hello")
    a.flush(PATIENCE)
    a.close()
    a = opened("a", remote)
    a.delete("s")
    a.flush(PATIENCE)
    b = opened("b", remote, encryption_key=KEY)
    b.refresh(PATIENCE)
    assert list(b.sessions()) == []


def test_what_others_wrote_without_a_key_is_not_taken(opened: Open, remote: str) -> None:
    a, b = opened("a", remote), opened("b", remote, encryption_key=KEY)
    a.session("s").add_message("user", "anybody may have written this")
    a.flush(PATIENCE)
    with pytest.raises(DecryptionError, match="not sealed"):
        b.refresh(PATIENCE)
    assert contents(b.session("s")) == []
    (aside,) = b.quarantined()
    assert "not sealed" in aside.reason
    b.close()
    b = opened("b", remote, encryption_key=KeyRing(KEY, plain=True))
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["anybody may have written this"]


def test_replicas_that_mix_are_told(opened: Open, remote: str) -> None:
    plain, sealed = opened("plain", remote), opened("sealed", remote, encryption_key=KeyRing(KEY, plain=True))
    plain.session("s").add_message("user", "plain")
    plain.flush(PATIENCE)
    sealed.refresh(PATIENCE)
    sealed.session("s").add_message("user", "sealed")
    sealed.flush(PATIENCE)
    with pytest.raises(DecryptionError):
        plain.refresh(PATIENCE)
    assert ["sealed with key" in aside.reason for aside in plain.quarantined()] == [True]
    with pytest.raises(DecryptionError):
        plain.session("s").add_message("user", "more")


def test_who_has_the_key_is_not_locked_out_by_who_has_another(opened: Open, remote: str) -> None:
    a = opened("a", remote, encryption_key=KEY)
    a.session("s").add_message("user", "hello")
    a.flush(PATIENCE)
    b = opened("b", remote, encryption_key=OTHER, worker="none")
    b.session("s", hydrate_timeout=0).add_message("user", "with a wrong key")
    b.flush(PATIENCE)
    with pytest.raises(DecryptionError, match="sealed with key"):
        a.refresh(PATIENCE)
    assert contents(a.session("s")) == ["hello"]
    a.session("s").add_message("user", "goes on")
    a.flush(PATIENCE)
    assert contents(a.session("s")) == ["hello", "goes on"]
    with pytest.raises(DecryptionError, match="sealed with key"):
        b.session("s").get_messages()
    a.close()
    b.close()
    a = opened("a", remote, encryption_key=rings(KEY, OTHER))
    a.refresh(PATIENCE)
    assert contents(a.session("s")) == ["hello", "with a wrong key", "goes on"]
    assert a.quarantined() == []


def test_sealed_logs_are_folded_and_sealed_checkpoints_read(opened: Open, remote: str) -> None:
    a = opened("a", remote, encryption_key=KEY)
    session = a.session("s")
    for number in range(400):
        session.set(f"{CANARY}-{number % 3}", "x" * 200 + str(number))
        if number % 40 == 0:
            a.flush(PATIENCE)
    a.flush(PATIENCE)
    head = a._local.log.head(session._key)
    assert head is not None
    assert head.floor > 0, "it was folded"
    b = opened("b", remote, encryption_key=KEY)
    b.refresh(PATIENCE)
    assert b.session("s").metadata() == session.metadata()
    lacking = opened("c", remote)
    with pytest.raises(DecryptionError):
        lacking.refresh(PATIENCE)
    with pytest.raises(DecryptionError):
        lacking.session("s").metadata()


def rings(first: bytes, *older: bytes) -> KeyRing:
    return KeyRing([first, *older])


def fill(store: localfirst.Store) -> None:
    for name in ("s", "t", "u"):
        write(store.session(name))
        for number in range(30):
            store.session(name).add_message("user", f"{name} {number}")


def test_rotated_stores_need_the_old_key_for_nothing(opened: Open, remote: str) -> None:
    a, b = opened("a", remote, encryption_key=KEY), opened("b", remote, encryption_key=KEY)
    fill(a)
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    b.session("s").add_message("user", "from b")
    b.flush(PATIENCE)
    shown = {name: seen(b.session(name)) for name in ("s", "t", "u")}
    a.close()
    b.close()
    told: list[tuple[int, int]] = []
    a, b = opened("a", remote, encryption_key=rings(OTHER, KEY)), opened("b", remote, encryption_key=rings(OTHER, KEY))
    assert a.rotate(PATIENCE, progress=lambda *counts: told.append(counts)).ok
    assert told == [(1, 3), (2, 3), (3, 3)]
    b.refresh(PATIENCE)
    assert {name: seen(b.session(name)) for name in shown} == shown, "others read all the time"
    assert b.rotate(PATIENCE).ok
    a.close()
    b.close()
    for name in ("a", "b", "new"):
        store = opened(name, remote, encryption_key=OTHER)
        store.refresh(PATIENCE)
        assert {name: seen(store.session(name)) for name in shown} == shown
        assert store.verify(full=True).ok
        store.session("s").add_message("user", "more")
        store.flush(PATIENCE)
        shown["s"] = seen(store.session("s"))
    assert store.rotate(PATIENCE).ok, "there is nothing to do"


def test_rotation_seals_what_was_plain(opened: Open, remote: str, tmp_path: Path) -> None:
    a = opened("a", remote)
    write(a.session("s"))
    a.flush(PATIENCE)
    a.close()
    a = opened("a", remote, encryption_key=KEY)
    assert a.rotate(PATIENCE).ok
    b = opened("b", remote, encryption_key=KEY)
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == [f"{CANARY} hello"]
    for path in (tmp_path / "a").rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_rotation_without_a_central_store(opened: Open, tmp_path: Path) -> None:
    store = opened("a", None)
    write(store.session("plain"))
    store.close()
    store = opened("a", None, encryption_key=KEY)
    fill(store)
    store.close()
    store = opened("a", None, encryption_key=rings(OTHER, KEY))
    assert store.rotate().ok
    store.close()
    for path in (tmp_path / "a").rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    store = opened("a", None, encryption_key=OTHER)
    assert contents(store.session("plain")) == [f"{CANARY} hello"]
    assert len(store.session("s")) == 31


def test_rotation_goes_on_behind_what_can_t_be_read(opened: Open) -> None:
    store = opened("a", None, encryption_key=KEY)
    fill(store)
    damaged = store.session("t")._key
    store._local.log.rows.put(slot_key(damaged, 1), b"junk")
    store.close()
    store = opened("a", None, encryption_key=rings(OTHER, KEY))
    report = store.rotate()
    assert list(report.left) == ["t"]
    store.close()
    store = opened("a", None, encryption_key=OTHER)
    assert [len(store.session(name)) for name in ("s", "u")] == [31, 31]


def test_rotation_says_what_it_can_t_do(opened: Open, remote: str) -> None:
    with pytest.raises(localfirst.ConfigurationError, match="no key"):
        opened("none", remote).rotate()
    a = opened("a", remote, encryption_key=KEY)
    a.session("s").add_message("user", "hello")
    a.flush(PATIENCE)
    a.close()
    with pytest.raises(localfirst.ConfigurationError, match="follows a central store"):
        opened("a", None, encryption_key=rings(OTHER, KEY)).rotate()
    b = opened("b", remote, encryption_key=OTHER)
    b.session("own").add_message("user", "hello")
    report = b.rotate(PATIENCE)
    assert not report.ok
    assert list(report.left) == ["s"]
    assert "sealed with key" in report.left["s"]


def test_rotation_goes_on_where_it_was_killed(opened: Open, redis_url: str, tmp_path: Path, namespace: str) -> None:
    a = opened("a", redis_url, encryption_key=KEY)
    names = [f"s{number}" for number in range(20)]
    for name in names:
        for number in range(20):
            a.session(name).add_message("user", f"{CANARY} {number}")
    a.flush(PATIENCE)
    a.close()
    for done in (1, 7, 13):
        code = _ROTATE.format(path=str(tmp_path / "a"), url=redis_url, namespace=namespace, done=done)
        killed = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False)
        assert killed.returncode == -signal.SIGKILL
    a = opened("a", redis_url, encryption_key=rings(OTHER, KEY))
    assert a.rotate(PATIENCE).ok
    a.close()
    for name in ("a", "new"):
        store = opened(name, redis_url, encryption_key=OTHER)
        store.refresh(PATIENCE)
        assert [len(store.session(name)) for name in names] == [20] * 20
        assert store.verify(full=True).ok


_ROTATE = """
import os, signal, localfirst
from localfirst import KeyRing

def told(done, total):
    if done == {done}:
        os.kill(os.getpid(), signal.SIGKILL)

ring = KeyRing([bytes(range(1, 33)), bytes(range(32))])
store = localfirst.open({path!r}, remote={url!r}, namespace={namespace!r}, encryption_key=ring, worker="none")
store.rotate(progress=told)
"""


def test_others_read_and_write_while_keys_are_rotated(opened: Open, remote: str) -> None:
    a, b = opened("a", remote, encryption_key=rings(OTHER, KEY)), opened("b", remote, encryption_key=rings(KEY, OTHER))
    names = [f"s{number}" for number in range(10)]
    for name in names:
        for number in range(30):
            b.session(name).add_message("user", f"{number}")
    b.flush(PATIENCE)
    a.refresh(PATIENCE)
    written = dict.fromkeys(names, 30)
    with ThreadPoolExecutor(1) as pool:
        rotating = pool.submit(a.rotate, PATIENCE)
        while not rotating.done():
            for name in names:
                b.session(name).add_message("user", f"{written[name]}")
                written[name] += 1
                assert contents(b.session(name)) == [f"{number}" for number in range(written[name])]
            time.sleep(0.001)  # As an agent, who thinks between two calls.
        report = rotating.result()
    assert set(report.left) <= set(names), "what others seal with the old key all the time may be left"
    b.close()
    b = opened("b", remote, encryption_key=rings(OTHER, KEY))
    assert a.rotate(PATIENCE).ok
    assert b.rotate(PATIENCE).ok
    a.close()
    b.close()
    c = opened("c", remote, encryption_key=OTHER)
    c.refresh(PATIENCE)
    for name in names:
        assert contents(c.session(name)) == [f"{number}" for number in range(written[name])]


def test_a_session_with_keys_of_its_own_can_be_shredded(opened: Open, remote: str) -> None:
    own = KeyRing(KEY, sessions={"mine": OTHER})
    a = opened("a", remote, encryption_key=own)
    a.session("mine").add_message("user", "mine")
    a.session("s").add_message("user", "hello")
    a.flush(PATIENCE)
    b = opened("b", remote, encryption_key=KEY)
    with pytest.raises(DecryptionError, match="session 'mine'"):
        b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["hello"]
    with pytest.raises(DecryptionError):
        b.session("mine").get_messages()
