"""A directory as central store that is damaged, locked or gone: what it raises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from localfirst.errors import RemoteRejected, RemoteUnavailable
from localfirst.rows import Rows
from sync import retry
from sync.central.base import Run, Want
from sync.central.directory import DirectoryStore
from sync.central.directory import store as store_module
from sync.central.directory.rows import decode_entry

ALL = Want("s", None, 0, 0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    """With a session of three changes."""
    made = DirectoryStore((tmp_path / "central").as_uri(), "n")
    await made.push([Run("s", "g", True, "r1", 1, [b"one", b"two", b"three"])])
    yield made
    await made.close()


@pytest.fixture
def rows(store: DirectoryStore, tmp_path: Path) -> Iterator[Rows]:
    """What is in the directory, for somebody who meddles with it."""
    made = Rows(tmp_path / "central")
    yield made
    made.close()


def lose(rows: Rows, place: int) -> None:
    """One entry of the log is not there any more."""
    row_key = rows.keys(b"l", b"m")[place]
    with rows.transaction():
        rows.delete_range(row_key, row_key + b"\0")


async def test_a_log_with_a_hole_is_not_read_beyond_it(store: DirectoryStore, rows: Rows) -> None:
    [whole] = await store.pull([ALL], 1 << 20)
    assert [entry.data for entry in whole.entries] == [b"one", b"two", b"three"]
    digest = decode_entry(rows.range(b"l", b"m")[1][1]).digest
    lose(rows, 1)
    for want in (ALL, Want("s", "g", 2, digest)):
        with pytest.raises(RemoteRejected, match="the log of 's' has no seq 2"):
            await store.pull([want], 1 << 20)


async def test_a_log_without_its_end_is_told(store: DirectoryStore, rows: Rows) -> None:
    lose(rows, 2)
    with pytest.raises(RemoteRejected, match="the log of 's' ends before its head 3"):
        await store.pull([ALL], 1 << 20)
    [pulled] = await store.pull([ALL], 1)
    assert [entry.data for entry in pulled.entries] == [b"one"]  # What is there can be had.


@pytest.mark.parametrize("kind", [b"h", b"l", b"store"])
async def test_what_can_not_be_decoded_is_refused(store: DirectoryStore, rows: Rows, kind: bytes) -> None:
    """Invariant 10."""
    [row_key] = rows.keys(kind, kind + b"\xff")[:1] or [kind]
    rows.put(row_key, b"\xc1")
    with pytest.raises(RemoteRejected, match="holds what can't be decoded"):
        await (store.identify() if kind == b"store" else store.pull([ALL], 1 << 20))


async def test_a_directory_that_is_locked_is_tried_again(
    store: DirectoryStore, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("s", "g", False, "r1", 4, [b"four"])
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "patiently", partial(retry.patiently, patience=0.05))
        with rows.transaction(), pytest.raises(RemoteUnavailable, match=r"^the central store .* is locked by another"):
            await store.push([run])
    [pushed] = await store.push([run])
    assert (pushed.admitted, pushed.head) == (1, 4)


async def test_a_file_that_is_no_store_any_more(store: DirectoryStore, rows: Rows) -> None:
    """It is the central store's trouble, which passes when somebody puts it right: nothing of ours is damaged."""
    await store.close()
    rows.checkpoint()
    rows.close()
    with rows.file.open("r+b") as file:
        file.write(b"\0" * rows.file.stat().st_size)
    with pytest.raises(RemoteUnavailable, match=r"can't be used: .* is damaged"):
        await store.heads(["s"])
