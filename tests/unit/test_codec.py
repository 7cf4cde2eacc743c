"""Changes and checkpoints, sealed and plain."""

from __future__ import annotations

import msgspec
import pytest

from localfirst.change import APPEND, Admitted, Change, decode_change, encode_change, in_turn
from localfirst.checkpoint import State
from localfirst.codec import Codec, Vault
from localfirst.errors import DecryptionError
from localfirst.keys import KeyRing

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
CHANGE = Change("r1", 7, 5 << 16, 3, "main", APPEND, b'["a secret"]', 9)


def codec(*ring: bytes, session: str = "s", namespace: str = "default", plain: bool = False) -> Codec:
    return Vault(namespace, KeyRing(ring, plain=plain) if ring else None).codec(session)


def test_without_a_key_everything_is_plain() -> None:
    assert codec().encode(CHANGE) == encode_change(CHANGE)
    assert codec().decode(encode_change(CHANGE)) == CHANGE


def test_with_a_key_the_body_is_sealed_and_nothing_else() -> None:
    data = codec(KEY).encode(CHANGE)
    assert b"secret" not in data
    assert msgspec.structs.replace(decode_change(data), body=CHANGE.body) == CHANGE
    assert in_turn(data)
    assert codec(KEY).decode(data) == codec(OTHER, KEY).decode(data) == CHANGE
    codec(KEY).check_sealed(decode_change(data))


@pytest.mark.parametrize(
    "altered",
    [
        {"origin": "r2"},
        {"counter": 8},
        {"time": 6 << 16},
        {"base": 2},
        {"branch": "r1:1"},
        {"kind": "put"},
        {"turn": 11},
    ],
)
def test_all_that_a_change_says_is_bound_to_its_body(altered: dict[str, object]) -> None:
    sealed = decode_change(codec(KEY).encode(CHANGE))
    with pytest.raises(DecryptionError, match="altered, or is not where"):
        codec(KEY).decode(encode_change(msgspec.structs.replace(sealed, **altered)))


def test_it_is_bound_to_session_and_namespace() -> None:
    data = codec(KEY).encode(CHANGE)
    for other in (codec(KEY, session="t"), codec(KEY, namespace="other")):
        with pytest.raises(DecryptionError):
            other.decode(data)


def test_a_body_can_t_stand_for_a_checkpoint() -> None:
    state = State()
    state.admit([Admitted(1, 0, msgspec.structs.replace(CHANGE, turn=0))])
    data = codec(KEY).encode_state(state)
    assert b"secret" not in data
    assert [item.data for item in codec(KEY).decode_state(data).fold.items] == [b'"a secret"']
    with pytest.raises(DecryptionError):
        codec(KEY).decode_state(decode_change(codec(KEY).encode(CHANGE)).body)
    with pytest.raises(DecryptionError):
        codec(KEY).decode(encode_change(msgspec.structs.replace(CHANGE, body=data)))


def test_who_lacks_the_key_is_told_which() -> None:
    data = codec(KEY).encode(CHANGE)
    for lacking in (codec(), codec(OTHER)):
        with pytest.raises(DecryptionError, match=r"session 's': it is sealed with key [0-9a-f]{8}") as caught:
            lacking.decode(data)
        assert len(caught.value.key_id) == 8


def test_with_a_key_nothing_plain_is_taken_from_elsewhere() -> None:
    state = codec().encode_state(State())
    with pytest.raises(DecryptionError, match="change 7 of replica 'r1' is not sealed"):
        codec(KEY).check_sealed(CHANGE)
    with pytest.raises(DecryptionError, match="its checkpoint in the central store is not sealed"):
        codec(KEY).take_state(state)
    assert codec(KEY).decode(encode_change(CHANGE)) == CHANGE
    codec(KEY, plain=True).check_sealed(CHANGE)
    assert codec(KEY, plain=True).take_state(state).fold.seq == 0


def test_one_change_is_the_same_by_whichever_key() -> None:
    old, new = codec(KEY).encode(CHANGE), codec(OTHER).encode(CHANGE)
    ring = codec(OTHER, KEY)
    assert ring.same(old, new)
    assert ring.same(old, codec().encode(CHANGE))
    assert not ring.same(old, ring.encode(msgspec.structs.replace(CHANGE, body=b"[]")))
