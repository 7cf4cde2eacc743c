"""Who a directory is, and which central store it follows: also when it is copied, moved, or shared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import localfirst
from localfirst.errors import StoreCorrupt
from localfirst.identity import Identity, fingerprint
from localfirst.rows import Rows


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    opened = Rows(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def identity(rows: Rows) -> Identity:
    return Identity(rows)


# The replica id.


def test_it_stays_what_it_is(identity: Identity, rows: Rows) -> None:
    found = identity.replica_id()
    assert len(found) == 20
    assert identity.replica_id() == Identity(rows).replica_id() == found


def test_two_that_open_a_directory_at_once_have_one(tmp_path: Path) -> None:
    both = Rows(tmp_path / "data"), Rows(tmp_path / "data")
    assert len({Identity(rows).replica_id() for rows in both}) == 1
    for rows in both:
        rows.close()


def test_it_is_renewed_once_however_many_ask(identity: Identity, rows: Rows) -> None:
    before = identity.replica_id()
    after = identity.renew(before)
    assert after != before
    assert Identity(rows).renew(before) == after  # It was somebody else who asked, for the same reason.
    assert identity.replica_id() == after


@pytest.mark.parametrize("value", [b"", b"\xff"])
def test_one_that_is_damaged_is_told(identity: Identity, rows: Rows, value: bytes) -> None:
    identity.replica_id()
    rows.put(b"s:replica", value)
    with pytest.raises(StoreCorrupt, match="replica id"):
        identity.replica_id()


# Where it is.


def test_a_directory_that_is_elsewhere_becomes_another_replica(identity: Identity) -> None:
    before = identity.replica_id()
    assert identity.check_host("here")
    assert identity.check_host("here")
    assert identity.replica_id() == before
    assert not identity.check_host("there")
    after = identity.replica_id()
    assert after != before
    assert identity.check_host("there")
    assert identity.replica_id() == after


def test_a_copy_is_told_from_its_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    shutil.copy(file, tmp_path / "copy")
    here = fingerprint(file)
    assert fingerprint(file) == here
    assert fingerprint(tmp_path / "copy") != here
    file.rename(tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == here
    (tmp_path / "machine-id").write_text("another\n")
    monkeypatch.setattr("localfirst.identity._MACHINE_ID", tmp_path / "machine-id")
    assert fingerprint(tmp_path / "moved") != here
    monkeypatch.setattr("localfirst.identity._MACHINE_ID", tmp_path / "nothing")
    assert fingerprint(tmp_path / "moved")


def test_the_fingerprint_tells_nobody_the_machine(tmp_path: Path) -> None:
    assert len(fingerprint(tmp_path)) == 16


@pytest.mark.parametrize(("how", "same"), [(shutil.move, True), (shutil.copytree, False)], ids=["moved", "copied"])
def test_a_store_that_was(tmp_path: Path, how: object, same: bool) -> None:
    with localfirst.open(tmp_path / "first") as store:
        before = store.status().replica_id
        store.session("s").add_message("user", "Hello")
    assert callable(how)
    how(tmp_path / "first", tmp_path / "second")
    for _ in range(2):
        with localfirst.open(tmp_path / "second") as store:
            assert (store.status().replica_id == before) is same
            assert len(store.session("s")) == 1
            store.session("s").add_message("user", "again")
            store.session("s").pop_message()


def test_a_copy_of_a_store_and_its_original_both_go_on(tmp_path: Path) -> None:
    """What both wrote after the copy is there, once, and so is what was pending when it was made."""
    central = (tmp_path / "central").as_uri()
    with localfirst.open(tmp_path / "first", remote=central, worker="none") as store:
        store.session("s").add_message("user", "synced")
        store.flush(5)
    with localfirst.open(tmp_path / "first") as store:
        store.session("s").add_message("user", "pending")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    for name in ("first", "second"):
        with localfirst.open(tmp_path / name, remote=central, worker="none") as store:
            store.session("s").add_message("user", f"after, in {name}")
    for _ in range(2):
        for name in ("first", "second"):
            with localfirst.open(tmp_path / name, remote=central, worker="none") as store:
                store.flush(5)
                store.refresh(5)
    seen = []
    for name in ("first", "second", "third"):
        with localfirst.open(tmp_path / name, remote=central, worker="none") as store:
            store.refresh(5)
            seen.append([item["content"] for item in store.session("s")])
            assert store.verify(5, full=True).ok
    assert seen[0] == seen[1] == seen[2]
    assert set(seen[0]) == {"synced", "pending", "after, in first", "after, in second"}
    assert seen[0].count("synced") == seen[0].count("after, in first") == seen[0].count("after, in second") == 1


# Which central store.


def test_each_namespace_follows_its_own(identity: Identity) -> None:
    assert identity.followed("one") is None
    identity.follow("one", "store")
    assert (identity.followed("one"), identity.followed("two")) == ("store", None)


def test_what_was_found_is_followed_when_somebody_says_so(identity: Identity) -> None:
    identity.follow("one", "old")
    assert not identity.accept("one")
    identity.offer("one", "new")
    assert identity.followed("one") == "old"
    assert not identity.accept("two")
    assert identity.accept("one")
    assert identity.followed("one") == "new"


def test_an_answer_counts_once(identity: Identity) -> None:
    identity.follow("one", "old")
    identity.offer("one", "new")
    assert identity.accept("one")
    assert not identity.accept("one")
    identity.offer("one", "newer")
    assert identity.accept("one")
    assert identity.followed("one") == "newer"


def test_an_offer_of_what_is_followed_is_none(identity: Identity) -> None:
    identity.follow("one", "old")
    identity.offer("one", "new")
    identity.follow("one", "old")  # It came back by itself.
    assert not identity.accept("one")
    assert identity.followed("one") == "old"


def test_it_is_known_that_sessions_may_still_have_to_move(identity: Identity) -> None:
    identity.follow("one", "old")
    identity.follow("one", "old")
    assert not identity.is_moving("one")
    identity.offer("one", "new")
    assert identity.is_offered("one")
    assert not identity.is_moving("one")
    assert identity.accept("one")
    assert (identity.is_offered("one"), identity.is_moving("one"), identity.is_moving("two")) == (False, True, False)
    identity.arrived("one")
    assert not identity.is_moving("one")
