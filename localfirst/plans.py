"""What a session's calls become: checked, encoded, and decided on what is visible when they are carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from localfirst import jsonvalue
from localfirst.change import CLEAR, DELETE, INCREMENT, PUT, REMOVE
from localfirst.errors import InvalidItem
from localfirst.fold import Fold
from localfirst.history import encode_clear, encode_removal
from localfirst.metadata import RULES, Rule, encode_delete, encode_increment, encode_put, is_number
from localfirst.view import Plan, Step


class Pop:
    """Plans the removal of the last item that fits, and keeps it."""

    def __init__(self, fits: Callable[[Any], bool]) -> None:
        self.item: Any = None
        self._fits = fits

    def __call__(self, fold: Fold) -> list[Step]:
        for item in reversed(fold.items):
            self.item = jsonvalue.decode(item.data)
            if self._fits(self.item):
                return [(REMOVE, encode_removal(item))]
        self.item = None
        return []


def always(*steps: Step) -> Plan:
    """The same steps, whatever is visible."""
    return lambda _: steps


def clear(fold: Fold) -> list[Step]:
    """Nothing where there is nothing to clear."""
    seen = {item.origin: fold.counter(item.origin) for item in fold.items}
    return [(CLEAR, encode_clear(seen))] if seen else []


def encode_items(items: Sequence[Any]) -> list[bytes]:
    """All items, or `InvalidItem` that says which of them can't be stored."""
    if not isinstance(items, (list, tuple)):
        raise InvalidItem(f"items come as a list, not as {type(items).__name__}")
    encoded = []
    for place, item in enumerate(items):
        try:
            encoded.append(jsonvalue.encode(item))
        except InvalidItem as error:
            raise InvalidItem(f"item {place} of {len(items)}: {error}; nothing was stored") from None
    return encoded


def last(fold: Fold, limit: int | None) -> list[bytes]:
    """The last items, encoded; None or negative: all."""
    items = fold.items
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


def increment(key: str, by: float) -> Plan:
    """Raises `InvalidItem` when carried out on a key that holds something else than a number."""
    body = encode_increment(key, by)

    def plan(fold: Fold) -> list[Step]:
        value = value_of(fold, key)
        before = 0 if value is None else jsonvalue.decode(value)
        if not is_number(before):
            raise InvalidItem(f"metadata key {key!r} holds no number, so it can't be incremented")
        try:
            jsonvalue.encode(before + by)
        except OverflowError:
            raise InvalidItem(f"metadata key {key!r} holds a number that is too great for {by!r} to be added") from None
        return [(INCREMENT, body)]

    return plan


def delete(key: str) -> Plan:
    """Nothing where there is nothing to delete."""
    body = encode_delete(key)
    return lambda fold: [(DELETE, body)] if value_of(fold, key) is not None else []


def merge(key: str, value: dict[str, Any]) -> Plan:
    """Sets only the fields that differ from what is visible: the others are left to whoever changed them."""
    fields = {field: jsonvalue.encode(content) for field, content in jsonvalue.decode(jsonvalue.encode(value)).items()}

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
    """The key, or `InvalidItem`."""
    if not isinstance(key, str):
        raise InvalidItem(f"a metadata key is a string, not {type(key).__name__}")
    return key


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
