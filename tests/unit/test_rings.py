"""Directories and processes that seal with different keys, or have none: nothing is there twice, nothing is spoilt."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

from localfirst.change import APPEND, END, PUT
from localfirst.codec import Vault
from localfirst.errors import DecryptionError
from localfirst.keys import KeyRing
from localfirst.lifetime import Wish
from localfirst.metadata import encode_put
from localfirst.plans import always
from localfirst.records import session_key
from localfirst.resealing import _seal_anew
from localfirst.testing.memory import MemoryServer
from localfirst.turns import Turns
from sync.site import Limits
from tests.unit.replica import Replica

KEY = session_key("default", "s")
OLD, NEW = bytes(range(32)), bytes(range(1, 33))


def vault(*keys: bytes) -> Vault:
    return Vault("default", KeyRing(keys))


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


async def settle(*replicas: Replica) -> None:
    for _ in range(3):
        for replica in replicas:
            assert (await replica.sync("s")).refused == {}


@pytest.mark.parametrize("rings", [((OLD, NEW), (NEW, OLD)), ((NEW, OLD), (OLD, NEW))])
async def test_copies_that_name_alike_what_waits_and_seal_it_with_other_keys_send_it_once(
    tmp_path: Path, server: MemoryServer, rings: tuple[tuple[bytes, ...], tuple[bytes, ...]]
) -> None:
    first = Replica(tmp_path / "first", server, vault=vault(OLD))
    first.add("s", "common")
    await first.sync("s")
    copytree(tmp_path / "first", tmp_path / "second")
    first.add("s", "under the number of what waits in the others")
    await first.sync("s")
    waiting = Replica(tmp_path / "second", server, vault=vault(OLD))
    for text in ("waits", "waits too"):
        waiting.add("s", text)
    waiting.rows.close()
    copytree(tmp_path / "second", tmp_path / "third")
    second, third = (
        Replica(tmp_path / name, server, vault=vault(*ring))
        for name, ring in zip(("second", "third"), rings, strict=True)
    )
    await settle(second, third)
    expected = ["common", "under the number of what waits in the others", "waits", "waits too"]
    assert second.items("s") == third.items("s") == expected
    assert len(server.namespace("default").sessions["s"].log) == 4


async def test_a_copy_of_which_only_the_other_was_sealed_anew_is_no_twin(tmp_path: Path, server: MemoryServer) -> None:
    made = Replica(tmp_path / "first", server, vault=vault(OLD))
    for text in ("x", "y"):
        made.add("s", text)
    made.rows.close()
    copytree(tmp_path / "first", tmp_path / "second")
    first, second = (Replica(tmp_path / name, server, vault=vault(NEW, OLD)) for name in ("first", "second"))
    _seal_anew(first.log, KEY, "s")
    await settle(first, second)
    assert first.items("s") == second.items("s") == ["x", "y"]
    assert second.log.run(KEY, 0, 9) == first.log.run(KEY, 0, 9), "as they are in the central log"


@pytest.mark.parametrize("keys", [(), (NEW,)])
async def test_only_who_has_its_key_ends_a_turn_that_was_left_behind(
    tmp_path: Path, server: MemoryServer, keys: tuple[bytes, ...]
) -> None:
    """Others would seal its end otherwise, and who reads the rest could not read that."""
    author = Replica(tmp_path / "a", server, vault=vault(OLD))
    author.add("s", "in a turn", turn=7)
    Turns(author.log).open(KEY, 7, "nobody")
    lacking = Replica(tmp_path / "a", server, vault=vault(*keys) if keys else None)
    assert list(Turns(lacking.log).left_behind(tmp_path, "default")) == []
    assert list(Turns(author.log).left_behind(tmp_path, "default")) == [(KEY, 7)]
    Turns(author.log).end(KEY, 7)
    await settle(author)
    reader = Replica(tmp_path / "b", server, vault=vault(OLD))
    await settle(reader)
    assert reader.items("s") == ["in a turn"]


async def test_an_ended_turn_goes_up_without_its_key(tmp_path: Path, server: MemoryServer) -> None:
    author = Replica(tmp_path / "a", server, vault=vault(OLD))
    author.add("s", "in a turn", turn=7)
    author.write("s", always((END, b"{}")), 7)
    await settle(Replica(tmp_path / "a", server))
    reader = Replica(tmp_path / "b", server, vault=vault(OLD))
    await settle(reader)
    assert reader.items("s") == ["in a turn"]


async def test_what_waits_goes_up_without_its_key_and_says_how_long_it_lives(
    tmp_path: Path, server: MemoryServer
) -> None:
    author = Replica(tmp_path / "a", server, vault=vault(OLD))
    author.view("s").write(always((APPEND, b'["x"]')), fresh=True, wish=Wish(60_000))
    lacking = Replica(tmp_path / "a", server)
    await settle(lacking)
    assert server.namespace("default").sessions["s"].ttl == 60_000
    assert lacking.pending("s") == 0
    assert lacking.head("s").ttl == 60_000
    await settle(author)
    assert author.items("s") == ["x"]


async def test_what_could_not_be_read_and_is_gone_locks_nobody_out(tmp_path: Path, server: MemoryServer) -> None:
    folding = Limits(compact_after=1, compact_bytes=-(1 << 20), keep=0)
    author = Replica(tmp_path / "a", server, folding, vault=vault(OLD))
    for number in range(3):
        author.write("s", always((PUT, encode_put("k", "last", b"%d" % number))))
        await author.sync("s")
    assert server.namespace("default").sessions["s"].checkpoint is not None
    lacking = Replica(tmp_path / "b", server)
    (refusal,) = (await lacking.sync("s")).refused.values()
    assert isinstance(refusal.error, DecryptionError)
    lacking.log.lock(KEY, refusal.error.key_id)
    with pytest.raises(DecryptionError):
        lacking.add("s", "mine")
    server.wipe()
    await settle(lacking)
    lacking.add("s", "mine")
    await settle(lacking)
    assert lacking.items("s") == ["mine"]
