"""A folded log as bytes: what stands for changes that are no longer kept, on disk and in the central store. Pure.

JSON, so that the central store's own tools can read what is not sealed. Items and values are JSON texts inside strings:
what one of them holds (NaN, lone surrogates) spoils nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from localfirst import jsonvalue
from localfirst.branches import Line
from localfirst.change import Admitted, Change, encode_change
from localfirst.errors import InvalidItem, MalformedChange
from localfirst.fold import Fold
from localfirst.history import PENDING, History, Item, ItemId, Number, greatest
from localfirst.lifetime import Lifetime
from localfirst.limits import MOST_PLACES
from localfirst.merging import merge_branches
from localfirst.metadata import Conflict, Register, Stamp, is_number, merge_registers

FORMAT: Final = 1
MARKED: Final = 32
"""Changes of each origin whose hashes are kept."""
HASH_DIGITS: Final = 16

_Stamp = tuple[int, str, Number]


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The last changes of one origin: by them, the origin knows whether what was folded is its own."""

    counter: Number
    """Of the last one."""
    hashes: str
    """Of up to `MARKED` changes, the last one last."""

    def hash_at(self, counter: int) -> str | None:
        """The hash of the change with a counter; None if it was too long ago, or is not in it."""
        start = len(self.hashes) - HASH_DIGITS * (self.counter - counter + 1)
        return self.hashes[start : start + HASH_DIGITS] if 0 <= start < len(self.hashes) else None

    @staticmethod
    def after(before: Mark | None, change: Change) -> Mark:
        """The mark when one more change was folded."""
        follows = before is not None and change.counter == before.counter + 1
        hashes = before.hashes if before is not None and follows else ""
        return Mark(change.counter, (hashes + hash_of(encode_change(change)))[-MARKED * HASH_DIGITS :])


def hash_of(data: bytes) -> str:
    """Tells one change (wire bytes) from another."""
    return blake2b(data, digest_size=HASH_DIGITS // 2).hexdigest()


class _Register(msgspec.Struct, array_like=True):
    key: str
    value: str | None
    time: int
    origin: str
    seq: Number
    kind: str
    fields: dict[str, _Stamp] = {}
    sums: dict[str, str] = {}
    base: str | None = None
    beside: _Stamp | None = None


class _Conflict(msgspec.Struct, array_like=True):
    key: str
    rule: str
    values: tuple[str, str, str]
    origins: tuple[str, str]
    seq: Number


_Item = tuple[str, Number, Number, Number, Number, str]
_Named = tuple[str, Number, Number]


class _Branch(msgspec.Struct):
    id: str
    name: str
    """Empty: it is not shown."""
    time: Number
    parent: str
    seen: dict[str, Number]
    upto: dict[str, tuple[Number, Number]]
    barred: dict[str, Number]
    forked: bool
    deleted: bool
    items: list[tuple[Number, Number]]
    """Stretches of `items` and `others` of the state, one after the other: the place of the first, and how many."""
    removed: list[_Named]
    cleared: dict[str, Number]


class _State(msgspec.Struct):
    format: int
    seq: Number
    time: Number
    seen: dict[str, Number]
    items: list[_Item]
    metadata: list[_Register]
    marks: dict[str, Mark] = {}
    removed: list[_Named] = []
    cleared: dict[str, Number] = {}
    conflicts: list[_Conflict] = []
    others: list[_Item] = []
    """Items that are not on the main branch, but on others."""
    branches: list[_Branch] = []
    """All but main."""
    lifetime: tuple[Number, Number, bool] = (0, 0, False)
    expiries: dict[str, Number] = {}
    """When items expire: of those that do, by their place in `items` and, behind them, in `others`."""


class State:
    """A fold of admitted changes, and the last changes of each origin in it.

    >>> from localfirst.change import APPEND, Admitted
    >>> state = State()
    >>> state.admit([Admitted(1, 0, Change("r1", 1, 0, 0, "main", APPEND, b'["Hello"]'))])
    >>> [item.data for item in decode_state(encode_state(state)).fold.items]
    [b'"Hello"']
    """

    def __init__(self, fold: Fold | None = None, marks: Mapping[str, Mark] | None = None) -> None:
        self.fold = Fold() if fold is None else fold
        self.marks = dict(marks or {})

    def admit(self, entries: Iterable[tuple[int, int, Change]]) -> None:
        """Fold the next entries of the log, see `localfirst.fold.Fold.admit`."""
        admitted = [Admitted(*entry) for entry in entries]
        self.fold.admit(admitted)
        for entry in admitted:
            known = self.marks.get(entry.change.origin)
            if entry.change.origin and (known is None or entry.change.counter > known.counter):
                self.marks[entry.change.origin] = Mark.after(known, entry.change)


def encode_state(state: State) -> bytes:
    """As bytes. Nothing in it may be pending."""
    fold = state.fold
    lines = list(fold.branches.others(fold.counters).values())
    places: dict[ItemId, int] = {}
    if lines:
        places = {item.id: place for place, item in enumerate(fold.items)}
    others: list[Item] = []
    for item in (item for line in lines for item in line.history.items):
        if places.setdefault(item.id, len(places)) == len(fold.items) + len(others):
            others.append(item)
    return msgspec.json.encode(
        _State(
            format=FORMAT,
            seq=fold.seq,
            time=fold.time,
            seen=fold.counters,
            items=[_item(item) for item in fold.items],
            metadata=[_register(key, register) for key, register in fold.metadata.items()],
            marks=state.marks,
            removed=_named(fold.history),
            cleared=dict(fold.history.cleared),
            conflicts=[_encoded_conflict(conflict) for conflict in fold.conflicts],
            others=[_item(item) for item in others],
            branches=[_branch(line, places) for line in lines],
            lifetime=(fold.lifetime.ttl, fold.lifetime.item_ttl, fold.lifetime.own),
            expiries={str(place): item.expires for place, item in enumerate([*fold.items, *others]) if item.expires},
        )
    )


def _item(item: Item) -> _Item:
    return item.origin, item.counter, item.place, item.seq, item.time, item.data.decode()


def _named(history: History) -> list[_Named]:
    return sorted((item.origin, item.counter, item.place) for item in history.removed_early)


def _branch(line: Line, places: Mapping[ItemId, int]) -> _Branch:
    stretches: list[tuple[int, int]] = []
    for item in line.history.items:
        place = places[item.id]
        if stretches and sum(stretches[-1]) == place:
            stretches[-1] = (stretches[-1][0], stretches[-1][1] + 1)
        else:
            stretches.append((place, 1))
    return _Branch(
        line.id,
        line.name,
        line.time,
        line.parent,
        dict(line.seen),
        dict(line.upto),
        dict(line.barred),
        line.forked,
        line.deleted,
        stretches,
        _named(line.history),
        dict(line.history.cleared),
    )


def _register(key: str, register: Register) -> _Register:
    value = None if register.value is None else register.value.decode()
    fields = {_text(field): (stamp.time, stamp.origin, stamp.seq) for field, stamp in register.fields.items()}
    stamp = register.stamp
    sums = {origin: _text(added) for origin, added in register.sums.items()}
    base = None if register.base is None else register.base.decode()
    beside = register.beside and (register.beside.time, register.beside.origin, register.beside.seq)
    return _Register(_text(key), value, stamp.time, stamp.origin, stamp.seq, register.kind, fields, sums, base, beside)


def _encoded_conflict(conflict: Conflict) -> _Conflict:
    values = (_text(conflict.current), _text(conflict.incoming), _text(conflict.winner))
    return _Conflict(_text(conflict.key), conflict.rule, values, conflict.origins, conflict.seq)


def _text(value: Any) -> str:
    return jsonvalue.encode(value).decode()


_decoder = msgspec.json.Decoder(_State)


def decode_state(data: bytes) -> State:
    """The state in bytes. Raises `MalformedChange` for anything that `encode_state` can't have made."""
    try:
        found = _decoder.decode(data)
        if found.format != FORMAT:
            raise MalformedChange(f"a checkpoint has format {found.format}, this localfirst knows {FORMAT}: upgrade it")
        return _restored(found)
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidItem, TypeError, OverflowError) as error:
        raise MalformedChange(f"{len(data)} bytes are not a checkpoint: {error}") from error


def _restored(found: _State) -> State:
    fold = Fold()
    fold.seq, fold.time = found.seq, found.time
    fold.counters = dict(found.seen)
    expiries = {int(place): expires for place, expires in found.expiries.items() if place.isascii() and place.isdigit()}
    items = [
        _restored_item(each, fold, expiries.get(place, 0)) for place, each in enumerate([*found.items, *found.others])
    ]
    fold.items.extend(items[: len(found.items)])
    if len(items) + sum(count for each in found.branches for _, count in each.items) > MOST_PLACES:
        raise MalformedChange(f"the branches of a checkpoint show more than {MOST_PLACES:,} items between them")
    fold.branches.restore([_line(each, items) for each in found.branches])
    for each in found.metadata:
        fold.metadata[_name(each.key)] = _restored_register(each)
    fold.history.removed_early.update(ItemId(*named) for named in found.removed)
    fold.history.cleared = dict(found.cleared)
    fold.conflicts.extend(map(_conflict, found.conflicts))
    fold.lifetime = Lifetime(*found.lifetime)
    fold.restored()
    return State(fold, found.marks)


def _restored_item(found: _Item, fold: Fold, expires: int) -> Item:
    origin, counter, place, seq, time, text = found
    if counter > fold.counter(origin) or seq >= PENDING:
        raise MalformedChange(f"a checkpoint shows change {counter} of {origin!r:.40} and has not folded it")
    jsonvalue.check_depth(jsonvalue.decode(text.encode()))
    return Item(origin, counter, place, seq, time, text.encode(), expires)


def _line(found: _Branch, items: list[Item]) -> Line:
    history = History()
    for first, count in found.items:
        history.items += items[first : first + count]
        if count == 0 or first + count > len(items) or len(history.items) > len(items):
            raise MalformedChange(f"a checkpoint has a branch {found.id[:60]!r} of items that are not there")
    history.removed_early.update(ItemId(*named) for named in found.removed)
    history.cleared = dict(found.cleared)
    seen, upto, barred = found.seen, found.upto, found.barred
    return Line(
        found.id, history, [], found.name, found.time, found.parent, seen, upto, barred, found.forked, found.deleted
    )


def _restored_register(found: _Register) -> Register:
    value = None if found.value is None else found.value.encode()
    if value is not None:
        jsonvalue.check_depth(jsonvalue.decode(value))
    fields = {_name(text): Stamp(*stamp) for text, stamp in found.fields.items()}
    sums = {origin: jsonvalue.decode(text.encode()) for origin, text in found.sums.items()}
    base = None if found.base is None else found.base.encode()
    before = 0 if base is None else jsonvalue.decode(base) or 0
    if not all(map(is_number, sums.values())) or (sums and not is_number(before)):
        raise MalformedChange("a checkpoint has a counter that is no number")
    beside = found.beside and Stamp(*found.beside)
    return Register(value, Stamp(found.time, found.origin, found.seq), found.kind, fields, sums, base, beside)


def _name(text: str) -> str:
    name = jsonvalue.decode(text.encode())
    if not isinstance(name, str):
        raise MalformedChange("a checkpoint has a key that is no string")
    return name


def _conflict(found: _Conflict) -> Conflict:
    current, incoming, winner = (jsonvalue.decode(text.encode()) for text in found.values)
    return Conflict(_name(found.key), found.rule, current, incoming, winner, found.origins, found.seq)


def merge_states(ours: State, theirs: State) -> State:
    """What two replicas have that folded changes which the other has not, and don't have them any more.

    That takes a loss of the central log, and checkpoints of both sides. Items are exact: what one side has folded and
    does not show was taken away. So are counters. Of two values of a key that were set, the one that was written later
    stands.
    """
    mine, other = ours.fold, theirs.fold
    merged = Fold()
    merged.counters = greatest(mine.counters, other.counters)
    count = merge_branches(mine, other, merged)
    merged.seq, merged.time = max(mine.seq, other.seq, count), max(mine.time, other.time)
    merged.metadata = {**other.metadata, **mine.metadata}
    for key in mine.metadata.keys() & other.metadata.keys():
        merged.metadata[key] = merge_registers(mine.metadata[key], other.metadata[key], mine.counter, other.counter)
    known = list(other.conflicts)
    merged.conflicts.extend((*known, *(conflict for conflict in mine.conflicts if conflict not in known)))
    merged.lifetime = max(mine, other, key=lambda fold: fold.seq).lifetime
    merged.restored()
    marks = {**theirs.marks, **ours.marks}
    for origin in ours.marks.keys() & theirs.marks.keys():
        marks[origin] = max(ours.marks[origin], theirs.marks[origin], key=lambda mark: mark.counter)
    return State(merged, marks)
