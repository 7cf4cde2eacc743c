"""Changes as columns and back, and runs on their way there: checked, and cut into batches for one statement each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

from localfirst.change import Change, decode_change, encode_change, split_hashes
from localfirst.errors import MalformedChange, RemoteRejected
from sync.central.base import Run

MAX_BATCH_BYTES: Final = 1 << 20
"""Of changes in one statement, unless one run has more: keeps locks short, and slow lines within the timeout."""
MAX_BATCH_RUNS: Final = 1000
MAX_BIGINT: Final = (1 << 63) - 1
_KIND: Final = Change.__struct_fields__.index("kind")


class Row(NamedTuple):
    """A change as columns."""

    time: int | None
    base: int | None
    turn: int | None
    branch: str | None
    kind: str | None
    """None: the body is the whole change."""
    body: bytes


def row(data: bytes, origin: str, counter: int) -> Row:
    """The columns of a change. What they could not give back to the byte is kept as it is: the store is a log for
    changes of newer clients too, and for malformed ones, which those who read them will refuse."""
    try:
        change = decode_change(data)
    except MalformedChange:
        return Row(None, None, None, None, None, data)
    fits = "\0" not in change.branch and "\0" not in change.kind
    if fits and (change.origin, change.counter) == (origin, counter) and encode_change(change) == data:
        return Row(change.time, change.base, change.turn, change.branch, change.kind, change.body)
    return Row(None, None, None, None, None, data)


def data(columns: Sequence[Any]) -> bytes:
    """The wire bytes of a change; the columns are those of `Change`, in its order."""
    change = Change(*columns)
    return change.body if columns[_KIND] is None else encode_change(change)


def check_names(session_id: str, *names: str) -> None:
    """Raise `RemoteRejected` if Postgres could not hold the ids of origins and generations."""
    for name in names:
        if not name or "\0" in name or not _is_unicode(name):
            raise RemoteRejected(f"session {session_id!r}: the id {name[:40]!r} is empty, or not text for Postgres")


def check_run(run: Run) -> None:
    """Raise `RemoteRejected` if Postgres could not hold the names and numbers of a run."""
    check_names(run.session_id, run.origin, run.generation)
    if not 1 <= run.first <= MAX_BIGINT - len(run.changes):
        raise RemoteRejected(f"session {run.session_id!r}: there is no counter {run.first}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def batches(runs: Sequence[Run]) -> Iterator[list[int]]:
    """Places of runs that go into one statement: no session twice, and the runs of a session in their order."""
    for wave in _waves(runs):
        batch: list[int] = []
        size = 0
        for place in wave:
            more = sum(map(len, runs[place].changes))
            if batch and (size + more > MAX_BATCH_BYTES or len(batch) == MAX_BATCH_RUNS):
                yield batch
                batch, size = [], 0
            batch.append(place)
            size += more
        yield batch


def _waves(runs: Sequence[Run]) -> list[list[int]]:
    """The first run of every session, then the second of those that have more, and so on."""
    waves: list[list[int]] = []
    seen: dict[str, int] = {}
    for place, run in enumerate(runs):
        depth = seen.get(run.session_id, 0)
        seen[run.session_id] = depth + 1
        if depth == len(waves):
            waves.append([])
        waves[depth].append(place)
    return waves


def columns(runs: Sequence[Run]) -> tuple[list[str] | str | bytes, ...]:
    """The arguments of the statement `push`, from the second on."""
    lengths = [len(run.changes) for run in runs]
    rows = [row(change, run.origin, counter) for run in runs for counter, change in enumerate(run.changes, run.first)]
    sizes = [len(each.body) for each in rows]
    hashes = [pair for run in runs for pair in split_hashes(run.hashes)]
    return (
        [run.session_id for run in runs],
        [run.generation for run in runs],
        numbers(int(run.fresh) for run in runs),
        [run.origin for run in runs],
        numbers(accumulate(lengths[:-1], initial=1)),
        numbers(run.first for run in runs),
        numbers(run.first + length - 1 for run, length in zip(runs, lengths, strict=True)),
        numbers(each.time for each in rows),
        numbers(each.base for each in rows),
        numbers(each.turn for each in rows),
        _texts(each.branch for each in rows),
        _texts(each.kind for each in rows),
        b"".join(each.body for each in rows),
        numbers(accumulate(sizes[:-1], initial=1)),
        numbers(sizes),
        numbers(hash0 for hash0, _ in hashes),
        numbers(hash1 for _, hash1 in hashes),
        numbers(run.ttl for run in runs),
    )


def numbers(values: Iterable[int | None]) -> str:
    """An array of numbers as Postgres reads it; 1 and 0 are read as booleans, too.

    >>> numbers([1, None])
    '{1,NULL}'
    """
    return f"{{{','.join(['NULL' if value is None else str(value) for value in values])}}}"


def _texts(texts: Iterable[str | None]) -> str:
    r"""An array as Postgres reads it.

    >>> print(_texts(["main", None, 'a "b" \\ c']))
    {"main",NULL,"a \"b\" \\ c"}
    """
    return f"{{{','.join(['NULL' if text is None else _quoted(text) for text in texts])}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
