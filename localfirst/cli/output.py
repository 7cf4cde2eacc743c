"""What commands print: text for people, JSON for programs, errors in one line.

Sessions hold whatever users and models wrote, so nothing of theirs reaches the terminal as markup or control codes.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ENDLESS = 10_000

LOST = (
    "the central store is another one than before, or was emptied: `localfirst reseed` agrees to send it what is here"
)
"""What a person at a command line can do about `RemoteLost`."""
_STATE_STYLES = {
    "local": "blue",
    "connecting": "yellow",
    "online": "green",
    "synced": "green",
    "pending": "yellow",
    "offline": "yellow",
    "stopped": "yellow",
    "blocked": "bold red",
    "quarantined": "bold red",
}


def console() -> Console:
    """Where results go. Made when it is needed: tests and pipes replace stdout."""
    # Nothing is folded for a file or a pipe: whoever reads it goes by lines.
    return Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else _ENDLESS)


def print_json(value: Any) -> None:
    """One JSON value on one line. ASCII only, so that it fits every encoding of a pipe."""
    typer.echo(json.dumps(value, default=_jsonable))


def print_error(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"localfirst: {' '.join(plain(message).split())}", err=True)


def plain(text: str) -> str:
    """Text that does nothing to a terminal but show characters.

    >>> plain("red\\x1b[31m")
    'red\\ufffd[31m'
    """
    return _CONTROL.sub("\ufffd", text)


def name(text: str) -> str:
    """An id or a key on one line, with what can't be seen spelled out, so that no two look the same.

    >>> name("user\\n1")
    'user\\\\n1'
    """
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def count(number: int, thing: str) -> str:
    """A number of things.

    >>> count(1, "item"), count(2, "item")
    ('1 item', '2 items')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def in_quarantine(sessions: int) -> str:
    """That so many sessions are, and where to read on.

    >>> in_quarantine(1)
    '1 session in quarantine: see `localfirst quarantine`'
    """
    return f"{count(sessions, 'session')} in quarantine: see `localfirst quarantine`"


def one_line(text: str, width: int) -> str:
    """The beginning of a text, on one line.

    >>> one_line("all of\\n  it, and more", 9)
    'all of i…'
    """
    joined = " ".join(plain(text).split())
    return joined if len(joined) <= width else joined[: width - 1] + "…"


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=_STATE_STYLES.get(state, ""))


def size(length: int) -> str:
    """Bytes for people.

    >>> size(812), size(20_480)
    ('812 B', '20.0 KiB')
    """
    value = float(length)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def ago(when: datetime | None) -> str:
    """How long ago something was.

    >>> ago(None)
    'never'
    """
    return "never" if when is None else f"{duration((datetime.now(timezone.utc) - when).total_seconds())} ago"


def ahead(when: datetime | None) -> str:
    """In how long something will be.

    >>> ahead(None)
    'never'
    """
    return "never" if when is None else f"in {duration((when - datetime.now(timezone.utc)).total_seconds())}"


def duration(seconds: float) -> str:
    """A length of time, in its largest unit.

    >>> duration(0.2), duration(75), duration(7200)
    ('0 s', '1 min', '2 h')
    """
    whole = max(0, int(seconds))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def latency(seconds: float) -> str:
    """A short time, with the digits that mean something.

    >>> latency(0.0000423), latency(0.0123)
    ('42 µs', '12.3 ms')
    """
    return f"{seconds * 1e6:.0f} µs" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
