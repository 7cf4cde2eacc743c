"""What a session's calls become: checked, encoded, and decided on what is visible when they are carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from localfirst import jsonvalue
from localfirst.branches import MAX_NAME, encode_drop, encode_fork
from localfirst.change import CLEAR, DELETE, DROP, FORK, INCREMENT, MAIN_BRANCH, PUT, REMOVE
from localfirst.errors import ConfigurationError, InvalidItem
from localfirst.fold import Fold
from localfirst.history import Item, encode_clear, encode_removal
from localfirst.limits import MAX_ITEM_BYTES, MAX_PLACES, check_item, check_key
from localfirst.metadata import OWN, RULES, Register, Rule, encode_delete, encode_increment, encode_put, is_number
from localfirst.view import OnBranch, Plan, Step, on_main


class _Role(msgspec.Struct):
    role: Any = None


_role_decoder = msgspec.json.Decoder(_Role)


class Pop:
    """Plans the removal of the last item of a branch that fits, and keeps it."""

    def __init__(self, fits: Callable[[Any], bool], branch: OnBranch = on_main) -> None:
        self.item: Any = None
        self._fits = fits
        self._branch = branch

    def __call__(self, fold: Fold) -> list[Step]:
        for item in reversed(fold.on(self._branch(fold))):
            self.item = jsonvalue.decode(item.data)
            if self._fits(self.item):
                return [(REMOVE, encode_removal(item))]
        self.item = None
        return []


class Replace:
    """Plans a write to a metadata key, if what stands there is still what was seen; tells whether it was."""

    def __init__(self, key: str, seen: Register, step: Step) -> None:
        self.done = False
        self._key, self._seen, self._step = key, seen, step

    def __call__(self, fold: Fold) -> list[Step]:
        self.done = fold.metadata.get(self._key) == self._seen
        return [self._step] if self.done else []


def always(*steps: Step) -> Plan:
    """The same steps, whatever is visible."""
    return lambda _: steps


def clear(fold: Fold, branch: OnBranch = on_main) -> list[Step]:
    """Nothing where there is nothing to clear."""
    seen = {item.origin: fold.counter(item.origin) for item in fold.on(branch(fold))}
    return [(CLEAR, encode_clear(seen))] if seen else []


def fork(name: str, at_turn: int | None, branch: OnBranch = on_main) -> Plan:
    """Raises `ConfigurationError` when carried out where the name is taken, or there is no such turn."""

    def plan(fold: Fold) -> list[Step]:
        if fold.branches.named(name):
            raise ConfigurationError(f"there is a branch {name!r} already: switch() to it, or take another name")
        items = fold.on(branch(fold))
        begins = len(items) if at_turn is None else turn_begins(items, at_turn)
        if begins is None:
            count = sum(begins_turn(item.data) for item in items)
            raise ConfigurationError(
                f"there is no turn {at_turn}: turns begin with messages of the user, and there are {count}"
            )
        check_places(fold, begins)
        return [fork_before(fold, name, items[begins:])]

    return plan


def check_places(fold: Fold, more: int) -> None:
    """Raise `ConfigurationError` where a fork with so many items would be too much."""
    if fold.branches.pointers() + more > MAX_PLACES:
        raise ConfigurationError(
            f"the branches of this session show {MAX_PLACES:,} items between them, and that is as many as there may"
            " be: delete_branch() some that are not needed"
        )


def fork_before(fold: Fold, name: str, left_out: Sequence[Item]) -> Step:
    """A fork that takes over all but the last items."""
    upto = {item.origin: (item.counter, item.place) for item in reversed(left_out)}
    return FORK, encode_fork(name, fold.counters, upto)


def turn_begins(items: Sequence[Item], turn: int) -> int | None:
    """The place of the message with which a turn begins; None: there is no such turn."""
    places = (place for place, item in enumerate(items) if begins_turn(item.data))
    return next((place for number, place in enumerate(places, start=1) if number == turn), None)


def begins_turn(data: bytes) -> bool:
    """Whether an item (JSON) is a message of the user.

    >>> begins_turn(b'{"role":"user","content":"Hello"}'), begins_turn(b'"user"')
    (True, False)
    """
    if b'"user"' not in data:
        return False
    try:
        return bool(_role_decoder.decode(data).role == "user")
    except (msgspec.DecodeError, UnicodeDecodeError):  # No dict, or one that msgspec can't read.
        item = jsonvalue.decode(data)
        return isinstance(item, dict) and item.get("role") == "user"


def drop(name: str, branch: OnBranch) -> Plan:
    """Raises `ConfigurationError` when carried out where there is no such branch, or it is that on which one is."""

    def plan(fold: Fold) -> list[Step]:
        line = fold.branches.named(name)
        if line is None:
            raise no_branch(name, fold)
        if line.id in (MAIN_BRANCH, branch(fold)):
            why = "the main branch can't be deleted" if line.id == MAIN_BRANCH else "it is in use here: switch() first"
            raise ConfigurationError(f"branch {name!r} was not deleted: {why}")
        return [(DROP, encode_drop(line.id))]

    return plan


def branch_of(fold: Fold, name: str) -> tuple[str, int]:
    """The id of a branch, and the time of its fork, or `ConfigurationError`."""
    line = fold.branches.named(name)
    if line is None:
        raise no_branch(name, fold)
    return line.id, line.time


def no_branch(name: object, fold: Fold) -> ConfigurationError:
    """What tells that there is none of this name."""
    known = [repr(line.name) for line in fold.branches.shown()]
    others = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return ConfigurationError(f"there is no branch {name!r:.300}: there are {', '.join(known[:10])}{others}")


def checked_name(name: object) -> str:
    """The name for a branch, or `ConfigurationError`."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ConfigurationError(f"the name of a branch is a string of 1 to {MAX_NAME} characters, not {name!r:.60}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("the name of a branch can't hold lone surrogates: it must be valid Unicode") from None
    return name


def checked_turn(turn: object) -> int | None:
    """The number of a turn, or `ConfigurationError`."""
    if turn is None or (isinstance(turn, int) and not isinstance(turn, bool) and turn > 0):
        return turn
    raise ConfigurationError(f"at_turn is the number of a turn: 1, 2, 3, …; not {turn!r:.60}")


def encode_items(items: Sequence[Any]) -> list[bytes]:
    """All items, or `InvalidItem` that says which of them can't be stored."""
    if not isinstance(items, (list, tuple)):
        raise InvalidItem(f"items come as a list, not as {type(items).__name__}")
    encoded = []
    for place, item in enumerate(items):
        try:
            data = jsonvalue.encode(item)
            if len(data) > MAX_ITEM_BYTES:
                check_item(data, f"item {place} of {len(items)}")
            encoded.append(data)
        except InvalidItem as error:
            raise InvalidItem(f"item {place} of {len(items)}: {error}; nothing was stored") from None
    return encoded


def last(fold: Fold, limit: int | None, branch: OnBranch = on_main) -> list[bytes]:
    """The last items of a branch, encoded; None or negative: all."""
    items = fold.on(branch(fold))
    if limit is not None and limit >= 0:
        items = items[max(0, len(items) - limit) :]
    return [item.data for item in items]


def is_item(_: Any) -> bool:
    """Everything is."""
    return True


def is_message(item: Any) -> bool:
    """Whether it has a role and a content."""
    return isinstance(item, dict) and "role" in item and "content" in item


def value_of(fold: Fold, key: str) -> bytes | None:
    """The JSON of a metadata key; None if it is not set."""
    register = fold.metadata.get(key)
    return None if register is None else register.value


def metadata(fold: Fold) -> dict[str, bytes]:
    """The keys that are set, but for those of our own records, in their order, and their JSON."""
    return {
        key: register.value
        for key, register in sorted(fold.metadata.items())
        if register.value is not None and not key.startswith(OWN)
    }


def increment(key: str, by: float) -> Plan:
    """Raises `InvalidItem` when carried out on a key that holds something else than a number."""
    body = encode_increment(key, by)

    def plan(fold: Fold) -> list[Step]:
        value = value_of(fold, key)
        before = None if value is None else jsonvalue.decode(value)
        before = 0 if before is None else before
        if not is_number(before):
            raise InvalidItem(f"metadata key {key!r} holds no number, so it can't be incremented")
        try:
            jsonvalue.encode(before + by)
        except OverflowError:
            raise InvalidItem(f"metadata key {key!r} holds a number that is too great for {by!r} to be added") from None
        return [(INCREMENT, body)]

    return plan


def delete(key: str, *, ask: bool = False) -> Plan:
    """Nothing where there is nothing to delete."""
    body = encode_delete(key, ask=ask)
    return lambda fold: [(DELETE, body)] if value_of(fold, key) is not None else []


def merge(key: str, value: dict[str, Any]) -> Plan:
    """Sets only the fields that differ from what is visible: the others are left to whoever changed them."""
    fields = {field: jsonvalue.encode(content) for field, content in jsonvalue.decode(encode_value(key, value)).items()}

    def plan(fold: Fold) -> list[Step]:
        standing = value_of(fold, key)
        before = jsonvalue.decode(standing) if standing is not None else None
        known = (
            {field: jsonvalue.encode(content) for field, content in before.items()} if isinstance(before, dict) else {}
        )
        changed = [field for field in fields if known.get(field) != fields[field]]
        gone = [field for field in known if field not in fields]
        body = b"{%b}" % b",".join(b"%b:%b" % (jsonvalue.encode(field), fields[field]) for field in changed)
        return [(PUT, encode_put(key, "merge", body, gone))]

    return plan


def checked_key(key: object) -> str:
    """The key, or `InvalidItem`, or `ItemTooLarge`."""
    if not isinstance(key, str):
        raise InvalidItem(f"a metadata key is a string, not {type(key).__name__}")
    if key.startswith(OWN):
        raise InvalidItem(f"metadata keys that begin with {OWN!r} are taken: {key[:60]!r} needs another name")
    return check_key(key)


def encode_value(key: str, value: Any) -> bytes:
    """The value of a metadata key as JSON; raises `InvalidItem` and `ItemTooLarge`."""
    return check_item(jsonvalue.encode(value), f"the value of {key!r}")


def checked_rule(key: str, value: Any, rule: str) -> Rule:
    """The rule, or `InvalidItem` if there is none of this name, or none for such a value."""
    for known in RULES:
        if rule == known:
            break
    else:
        raise InvalidItem(f"no merge rule {rule!r}: take one of {', '.join(RULES)}")
    wanted = {"merge": dict, "union": list}.get(known, object)
    if not isinstance(value, wanted):
        raise InvalidItem(f"rule {known} of key {key!r} takes a {wanted.__name__}, not {type(value).__name__}")
    return known
