"""The command itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from localfirst.cli import stores
from localfirst.cli.bench.measure import Bench, Measured, Series, measure
from localfirst.cli.bench.plot import table
from localfirst.cli.interrupts import interruptible
from localfirst.cli.options import AsJson, Remote, StorePath
from localfirst.cli.output import console, print_json


def bench(
    store: StorePath = None,
    remote: Remote = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="SECONDS", min=0.1, max=600, help="How long to measure.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Measure this disk, and the central store if one is named.

    Writes to a directory of its own beside the store's, and to a session in a namespace of its own; both are removed at
    the end. The store itself is not touched.
    """
    place = _existing(stores.home(store))
    scratch = tempfile.TemporaryDirectory(prefix=".localfirst-bench-", dir=place)
    with interruptible(), scratch as directory, _progress() as done:
        found = measure(Path(directory), remote, seconds, done)
    described = stores.describe(remote) if remote else None
    if as_json:
        print_json(_summary(found, place, described))
    else:
        _print(found, place, described)


def _existing(path: Path) -> Path:
    """The directory in which a store is, or the nearest one above that is there: on the same disk, most likely."""
    return next(parent for parent in path.parents if parent.is_dir())


@contextmanager
def _progress() -> Iterator[Measured]:
    err = Console(stderr=True)
    if not err.is_terminal:
        yield lambda _: None
        return
    with Progress(TextColumn("measuring"), BarColumn(), console=err, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda part: progress.update(task, completed=part)


def _print(found: Bench, place: Path, remote: str | None) -> None:
    out = console()
    out.print(table(found.local, f"Here, on the disk of {place}"), soft_wrap=True)
    if remote:
        out.print()
        if found.remote:
            out.print(table(found.remote, f"By way of {remote}"), soft_wrap=True)
        out.print(f"To {remote} in bulk: {found.items_per_second:,.0f} items/s")


def _summary(found: Bench, place: Path, remote: str | None) -> dict[str, Any]:
    return {
        "path": str(place),
        "local": [_row(series) for series in found.local],
        "remote": remote,
        "replicated": [_row(series) for series in found.remote],
        "items_per_second": found.items_per_second,
    }


def _row(series: Series) -> dict[str, Any]:
    times = {"median": series.at(0.5), "p99": series.at(0.99), "longest": max(series.seconds)}
    return {"name": series.title, "what": series.what, "calls": len(series.seconds), "seconds": times}
