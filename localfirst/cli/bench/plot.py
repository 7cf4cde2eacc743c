"""Times drawn as text: how often a call took how long, on an axis that all of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import floor, log10
from typing import Final

from rich.table import Table
from rich.text import Text

from localfirst.cli.bench.measure import Series
from localfirst.cli.output import latency

_BARS: Final = " ▁▂▃▄▅▆▇█"
_PER_DECADE: Final = 10
"""Columns for each power of ten."""


def table(found: Sequence[Series], title: str) -> Table:
    """Median, 99th percentile and distribution of each."""
    times = [seconds for series in found for seconds in series.seconds]
    first, last = floor(log10(min(times))), floor(log10(max(times))) + 1
    drawn = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    for heading, justify in (("", "left"), ("median", "right"), ("p99", "right")):
        drawn.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    drawn.add_column(Text(axis(first, last), style="dim"), no_wrap=True)
    for series in found:
        name = Text.assemble(series.title, (f"  {series.what}", "dim"))
        strip = Text(histogram(series.seconds, first, last), style="cyan")
        drawn.add_row(name, latency(series.at(0.5)), latency(series.at(0.99)), strip)
    return drawn


def histogram(seconds: Sequence[float], first: int, last: int) -> str:
    """How often calls took how long: a column for each step between two powers of ten (of seconds), a log scale; the
    highest is the most frequent one. Whatever happened at all is seen.

    >>> histogram([0.0011, 0.0011, 0.0012, 0.05], -3, -1)
    '█               ▃   '
    """
    counts = Counter(floor((log10(each) - first) * _PER_DECADE) for each in seconds)
    most = max(counts.values())
    highest = len(_BARS) - 1
    return "".join(_BARS[-(-counts[column] * highest // most)] for column in range((last - first) * _PER_DECADE))


def axis(first: int, last: int) -> str:
    """The powers of ten, each above its first column.

    >>> axis(-5, -3)
    '10 µs     100 µs    '
    """
    return "".join(f"{_label(power):<{_PER_DECADE}}" for power in range(first, last))


def _label(power: int) -> str:
    if power >= 0:
        return f"{10**power} s"
    unit, digits = ("ms", power + 3) if power >= -3 else ("µs", power + 6)
    return f"{10**digits:g} {unit}"
