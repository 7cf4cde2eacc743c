"""Keys, and what is sealed with them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfirst.crypto import SessionKeys, session_keys
from localfirst.errors import ConfigurationError, DecryptionError
from localfirst.keys import SEALED, KeyRing, key_of

ONE, TWO = bytes(range(32)), bytes(range(1, 33))
KEYS = session_keys(KeyRing(ONE).masters("default"), "default", "s")


def keys(*ring: bytes | str, namespace: str = "default", session: str = "s") -> SessionKeys:
    return session_keys(KeyRing(ring).masters(namespace), namespace, session)


@given(st.binary(), st.binary())
def test_opens_what_was_sealed_and_hides_it(context: bytes, body: bytes) -> None:
    sealed = KEYS.seal(context, body)
    assert KEYS.open(context, sealed) == body
    assert len(sealed) == len(body) + 33
    assert sealed[:1] == SEALED
    assert len(body) < 4 or body not in sealed


@given(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), st.tuples(st.binary(max_size=3), st.binary(max_size=3)))
def test_a_nonce_meets_a_key_twice_only_where_the_same_is_sealed(
    a: tuple[bytes, bytes], b: tuple[bytes, bytes]
) -> None:
    one, other = KEYS.seal(*a), KEYS.seal(*b)
    nonces = {sealed[5:17] for sealed in (one, other)}
    assert (len(nonces) == 1) == (a == b) == (one == other)


def test_every_bit_counts() -> None:
    sealed = KEYS.seal(b"context", b"body")
    for place in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(DecryptionError):
            KEYS.open(b"context", bytes(altered))
    for length in range(len(sealed)):
        with pytest.raises(DecryptionError):
            KEYS.open(b"context", sealed[:length])
    with pytest.raises(DecryptionError, match="altered, or is not where it was written"):
        KEYS.open(b"other context", sealed)


@pytest.mark.parametrize("others", [{"namespace": "other"}, {"session": "t"}, {"namespace": "defaul", "session": "ts"}])
def test_no_other_session_and_no_other_namespace_opens_it(others: dict[str, str]) -> None:
    with pytest.raises(DecryptionError, match="altered"):
        keys(ONE, **others).open(b"", KEYS.seal(b"", b"body"))


def test_a_missing_key_is_named() -> None:
    sealed = keys(TWO).seal(b"", b"body")
    with pytest.raises(DecryptionError, match=f"session 's'.*key {key_of(sealed).hex()}") as caught:
        KEYS.open(b"", sealed)
    assert caught.value.key_id == key_of(sealed).hex()
    assert KEYS.open(b"", KEYS.seal(b"", b"body")) == b"body"


def test_the_first_key_seals_and_all_open() -> None:
    both = keys(TWO, ONE)
    old, new = KEYS.seal(b"", b"old"), both.seal(b"", b"new")
    assert (both.open(b"", old), both.open(b"", new)) == (b"old", b"new")
    assert (both.is_newest(old), both.is_newest(new)) == (False, True)
    assert (both.has(key_of(old)), KEYS.has(key_of(new))) == (True, False)


def test_a_session_has_keys_of_its_own() -> None:
    masters = KeyRing(ONE, sessions={"own": [TWO]}).masters("default")
    sealed = session_keys(masters, "default", "own").seal(b"", b"body")
    assert keys(TWO, session="own").open(b"", sealed) == b"body"
    with pytest.raises(DecryptionError, match="not here"):
        keys(ONE, session="own").open(b"", sealed)
    assert session_keys(masters, "default", "other").open(b"", keys(ONE, session="other").seal(b"", b"x")) == b"x"


def test_a_key_may_be_written_in_base64() -> None:
    sealed = KEYS.seal(b"", b"body")
    text = base64.urlsafe_b64encode(ONE)
    assert keys(text).open(b"", sealed) == keys(text.decode()).open(b"", sealed) == b"body"
    assert keys(KeyRing.generate()).seal(b"", b"body") != keys(KeyRing.generate()).seal(b"", b"body")


def test_a_passphrase_is_the_same_key_everywhere_in_a_namespace() -> None:
    passphrase = "correct horse battery staple"
    sealed = keys(passphrase).seal(b"", b"body")
    assert keys(passphrase).open(b"", sealed) == b"body"
    with pytest.raises(DecryptionError, match="not here"):
        keys(passphrase, namespace="other").open(b"", sealed)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (b"short", "has 32 of them"),
        (b"x" * 33, "has 32 of them"),
        ("", "at least 8"),
        ("secret", "at least 8"),
        (32, "not int"),
        ("A" * 43, "nearly an encryption key"),
        ('"' + "A" * 43 + '="', "nearly an encryption key"),
        ("A" * 43 + "= # the new one", "nearly an encryption key"),
        (None, "not NoneType"),
        ("\udc80" * 8, "holds what is none"),
        (" secret \n", "at least 8"),
    ],
)
def test_refuses_what_is_no_key(key: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        KeyRing([key])  # type: ignore[list-item]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", [base64.urlsafe_b64encode(ONE).decode(), base64.urlsafe_b64encode(ONE), "a passphrase"])
def test_the_line_end_of_a_file_makes_no_other_key(key: str | bytes) -> None:
    end = "\r\n" if isinstance(key, str) else b"\r\n"
    assert keys(key + end).ids == keys(key).ids  # type: ignore[operator]
    assert keys(b"\n" * 32).ids != keys(b" " * 32).ids, "of a key nothing is taken away"


def test_refuses_rings_that_make_no_sense() -> None:
    for none in (None, 5):
        with pytest.raises(ConfigurationError, match="is a string or bytes"):
            KeyRing(none)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs a key"):
        KeyRing([])
    with pytest.raises(ConfigurationError, match="twice"):
        KeyRing([ONE, ONE])


def test_shows_no_key() -> None:
    passphrase = "correct horse battery staple"
    ring = KeyRing([ONE, passphrase], sessions={"own": TWO})
    masters = ring.masters("default")
    derived = session_keys(masters, "default", "s")
    shown = f"{ring!r} {masters!r} {derived!r} {ring._keys!r} {vars(derived)!r}"
    for secret in (passphrase, repr(ONE), ONE.hex(), repr(TWO), repr(masters.keys[1]), repr(derived._newest.bodies)):
        assert secret not in shown
    assert repr(ring) == "KeyRing(2 keys, 1 session has others)"
