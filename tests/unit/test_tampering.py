"""Whoever has the central store can lose what is sealed, but not alter, move, forge or leave out any of it unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from localfirst import plans
from localfirst.change import APPEND, EMPTY_DIGEST, PUT, Change, decode_change, encode_change, extend_digest
from localfirst.checkpoint import encode_state
from localfirst.codec import Vault
from localfirst.errors import DecryptionError, MalformedChange
from localfirst.keys import KeyRing
from localfirst.metadata import encode_put
from localfirst.records import session_key
from localfirst.testing.memory import MemoryServer
from sync.central.base import Checkpoint, LogEntry
from sync.site import Limits
from tests.unit.replica import Replica

VAULT = Vault("default", KeyRing(bytes(range(32))))
GENUINE = [f"{number} of {name}" for name in "ab" for number in range(3)]

Log = list[bytes]


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


def device(path: Path, server: MemoryServer) -> Replica:
    return Replica(path, server, vault=VAULT)


async def write(tmp_path: Path, server: MemoryServer, name: str, *texts: str, session: str = "s") -> None:
    """A device writes what it has to say, each by a call of its own."""
    writer = device(tmp_path / name, server)
    await writer.sync(session)
    for text in texts:
        writer.add(session, text)
    await writer.sync(session)


async def fill(tmp_path: Path, server: MemoryServer, session: str = "s") -> None:
    """Two devices write, one after the other."""
    for name, texts in (("a", GENUINE[:3]), ("b", GENUINE[3:])):
        await write(tmp_path, server, name, *texts, session=session)


def tamper(server: MemoryServer, change: Callable[[Log], Log], kept: int = 0) -> None:
    """Put another log in place of that of session s, behind the first changes, with all numbers and digests right."""
    session = server.namespace("default").sessions["s"]
    assert session.checkpoint is None
    entries, digest = session.log[:kept], EMPTY_DIGEST if not kept else session.digests[kept - 1]
    digests = session.digests[:kept]
    for data in change([entry.data for entry in session.log[kept:]]):
        digest = extend_digest(digest, session.log[-1].admitted_at, [data])
        entries.append(session.log[-1]._replace(seq=len(entries) + 1, data=data))
        digests.append(digest)
    session.log, session.digests, session.digest = entries, digests, digest
    session.acked = {each.origin: each.counter for each in (decode_change(entry.data) for entry in entries)}


def altered(data: bytes, **fields: Any) -> bytes:
    return encode_change(msgspec.structs.replace(decode_change(data), **fields))


def flipped(data: bytes, place: int) -> bytes:
    body = bytearray(decode_change(data).body)
    body[place] ^= 4
    return altered(data, body=bytes(body))


def forged(origin: str, counter: int) -> bytes:
    return encode_change(Change(origin, counter, 1 << 40, 6, "main", APPEND, b'["forged"]'))


def bodies_swapped(log: Log, one: int, other: int) -> Log:
    bodies = decode_change(log[one]).body, decode_change(log[other]).body
    swapped = {one: altered(log[one], body=bodies[1]), other: altered(log[other], body=bodies[0])}
    return [swapped.get(place, data) for place, data in enumerate(log)]


TAMPERING: dict[str, Callable[[Log], Log]] = {
    "a bit of the version": lambda log: [log[0], flipped(log[1], 0), *log[2:]],
    "a bit of the key's id": lambda log: [log[0], flipped(log[1], 2), *log[2:]],
    "a bit of the nonce": lambda log: [log[0], flipped(log[1], 8), *log[2:]],
    "a bit of the text": lambda log: [log[0], flipped(log[1], 20), *log[2:]],
    "a bit of the tag": lambda log: [log[0], flipped(log[1], -1), *log[2:]],
    "the end of a body": lambda log: [log[0], altered(log[1], body=decode_change(log[1]).body[:-1]), *log[2:]],
    "all of a body": lambda log: [log[0], altered(log[1], body=b"\x01"), *log[2:]],
    "bodies swapped": lambda log: bodies_swapped(log, 0, 1),
    "bodies of two replicas swapped": lambda log: bodies_swapped(log, 0, -1),
    "places swapped": lambda log: [log[1], log[0], *log[2:]],
    "the author": lambda log: [log[0], altered(log[1], origin="somebody"), *log[2:]],
    "the time": lambda log: [log[0], altered(log[1], time=1 << 50), *log[2:]],
    "what its author had seen": lambda log: [log[0], altered(log[1], base=0), altered(log[2], base=3), *log[3:]],
    "the branch": lambda log: [log[0], altered(log[1], branch="x:1"), *log[2:]],
    "the kind": lambda log: [log[0], altered(log[1], kind="clear"), *log[2:]],
    "the turn": lambda log: [log[0], altered(log[1], turn=7), *log[2:]],
    "one left out": lambda log: [log[0], *log[2:]],
    "the first left out": lambda log: log[1:],
    "a forged one": lambda log: [*log, forged("somebody", 1)],
    "a forged one by a replica that is there": lambda log: [*log, forged(decode_change(log[-1]).origin, 4)],
    "a sealed one, plain": lambda log: [altered(log[0], body=b'["forged"]'), *log[1:]],
}


@pytest.mark.parametrize("followed", [0, 3])
@pytest.mark.parametrize("what", TAMPERING)
async def test_what_was_tampered_with_is_noticed_and_not_shown(
    tmp_path: Path, server: MemoryServer, what: str, followed: int
) -> None:
    reader = device(tmp_path / "reader", server)
    await write(tmp_path, server, "a", *GENUINE[:3])
    if followed:
        await reader.sync("s")
    await write(tmp_path, server, "b", *GENUINE[3:])
    tamper(server, TAMPERING[what], followed)
    await assert_is_noticed(reader)


async def assert_is_noticed(reader: Replica, genuine: list[str] = GENUINE) -> None:
    refused = (await reader.sync("s")).refused
    assert {type(refusal.error) for refusal in refused.values()} <= {DecryptionError, MalformedChange}
    assert refused
    shown = reader.items("s")
    assert shown == genuine[: len(shown)], "no more than the beginning of what is genuine"


async def test_what_is_of_another_session_is_not_taken(tmp_path: Path, server: MemoryServer) -> None:
    await fill(tmp_path, server)
    await fill(tmp_path, server, "t")
    other = [entry.data for entry in server.namespace("default").sessions["t"].log]
    tamper(server, lambda log: [log[0], other[1], *log[2:]])
    await assert_is_noticed(device(tmp_path / "reader", server))


async def test_a_change_of_ours_that_was_not_made_here_is_not_taken(tmp_path: Path, server: MemoryServer) -> None:
    await fill(tmp_path, server)
    author = device(tmp_path / "b", server)
    tamper(server, lambda log: [*log, forged(author.origin, 4)])
    refused = (await author.sync("s")).refused
    assert [type(refusal.error) for refusal in refused.values()] == [DecryptionError]
    assert author.items("s") == GENUINE


async def test_what_is_replayed_is_there_once(tmp_path: Path, server: MemoryServer) -> None:
    await fill(tmp_path, server)
    tamper(server, lambda log: [*log, *log])
    reader = device(tmp_path / "reader", server)
    assert not (await reader.sync("s")).refused
    assert reader.items("s") == GENUINE


async def test_a_log_that_was_cut_short_is_sent_again_by_who_knew_more(tmp_path: Path, server: MemoryServer) -> None:
    await fill(tmp_path, server)
    tamper(server, lambda log: log[:2])
    await device(tmp_path / "b", server).sync("s")
    reader = device(tmp_path / "reader", server)
    await reader.sync("s")
    assert reader.items("s") == GENUINE


@pytest.fixture
async def folded(tmp_path: Path, server: MemoryServer) -> dict[str, Checkpoint]:
    """The checkpoints of two sessions."""
    found: dict[str, Checkpoint] = {}
    for session in "st":
        limits = Limits(compact_after=1, compact_bytes=-9999, keep=0)
        folder = Replica(tmp_path / session, server, limits, vault=VAULT)
        for number in range(2):
            folder.write(session, plans.always((PUT, encode_put("key", "last", b"%d" % number))))
            await folder.sync(session)
        checkpoint = server.namespace("default").sessions[session].checkpoint
        assert checkpoint is not None
        found[session] = checkpoint
    return found


@pytest.mark.parametrize("what", ["version", "key", "nonce", "text", "tag", "of another session", "plain"])
async def test_no_other_checkpoint_is_taken(
    tmp_path: Path, server: MemoryServer, folded: dict[str, Checkpoint], what: str
) -> None:
    data = bytearray(folded["s"].data)
    places = {"version": 0, "key": 2, "nonce": 8, "text": 40, "tag": -1}
    if what in places:
        data[places[what]] ^= 4
    elif what == "plain":
        data = bytearray(encode_state(VAULT.codec("s").decode_state(folded["s"].data)))
    else:
        data = bytearray(folded["t"].data)
    server.namespace("default").sessions["s"].checkpoint = folded["s"]._replace(data=bytes(data))
    reader = device(tmp_path / "reader", server)
    refused = (await reader.sync("s")).refused
    assert {type(refusal.error) for refusal in refused.values()} == {DecryptionError}
    assert reader.view("s").refresh().metadata == {}


def forged_by(origin: str) -> Callable[[Log], Log]:
    return lambda log: [forged(origin, counter) for counter in range(1, len(log) + 1)]


async def test_no_change_of_ours_that_was_folded_here_is_forged(tmp_path: Path, server: MemoryServer) -> None:
    author = Replica(tmp_path / "a", server, Limits(compact_after=1, compact_bytes=-9999, keep=0), vault=VAULT)
    author.add("s", "genuine")
    for number in range(3):
        author.write("s", plans.always((PUT, encode_put("key", "last", b"%d" % number))))
        await author.sync("s")
    session = server.namespace("default").sessions["s"]
    assert author.head("s").bottom > 1
    session.checkpoint, session.log = None, [LogEntry(seq, 1, b"") for seq in range(1, author.head("s").seq + 1)]
    tamper(server, forged_by(author.origin))
    await assert_is_noticed(author, ["genuine"])


async def test_no_change_of_ours_that_was_evicted_here_is_forged(tmp_path: Path, server: MemoryServer) -> None:
    author = device(tmp_path / "a", server)
    author.add("s", "genuine")
    author.add("s", "genuine")
    await author.sync("s")
    assert author.log.evict(session_key("default", "s"), author.head("s"), 1)
    tamper(server, forged_by(author.origin))
    await assert_is_noticed(author, [])


async def test_what_is_forged_in_our_name_is_checked_as_what_others_say(tmp_path: Path, server: MemoryServer) -> None:
    """Where nothing is sealed anybody can write in our name, but not what can't be folded."""
    author = Replica(tmp_path / "a", server)
    author.add("s", "genuine")
    await author.sync("s")
    junk = encode_change(Change(author.origin, 2, 1 << 40, 1, "main", APPEND, b"junk"))
    tamper(server, lambda log: [*log, junk])
    await assert_is_noticed(author, ["genuine"])


async def test_the_calls_of_replicas_are_shown_in_whatever_order_the_central_store_says(
    tmp_path: Path, server: MemoryServer
) -> None:
    await fill(tmp_path, server)
    tamper(server, lambda log: [*log[3:], *log[:3]])
    reader = device(tmp_path / "reader", server)
    assert not (await reader.sync("s")).refused
    assert reader.items("s") == [*GENUINE[3:], *GENUINE[:3]]
