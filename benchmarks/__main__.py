"""`python -m benchmarks [local] [--quick | --full] [--json FILE]`: measure, show, and write what was found.

The exit code is 0 whatever the figures are: the last lines and the file tell them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console

from benchmarks import many
from benchmarks.beside import measure_beside
from benchmarks.checks import check_beside, check_local, check_many, check_replication, check_size, check_together
from benchmarks.local import LIMITS, QUICK, THOROUGH, WORK, Effort, Results, measure_local, measure_size
from benchmarks.machine import machine, versions
from benchmarks.messages import messages
from benchmarks.peers import SYSTEMS, why_missing
from benchmarks.replication import ALL, LITTLE, MUCH, Amount, measure_replication
from benchmarks.report import Report, as_markdown, show
from benchmarks.together import FEW, MANY, Crowd, measure_together

FORMAT: Final = 2
_WIDTH: Final = 120
_SIZES: Final = ("rest", "bulk", "crowd")
_RESULTS: Final = Path(__file__).parent / "results" / "local.json"


class Amounts(NamedTuple):
    """How much of everything is measured."""

    effort: Effort
    replication: Amount
    crowd: Crowd
    counts: many.Counts


LONG: Final = Amounts(THOROUGH, MUCH, MANY, many.THOROUGH)
SHORT: Final = Amounts(QUICK, LITTLE, FEW, many.QUICK)


async def run(directory: Path, amounts: Amounts) -> Report:
    """Everything, in a directory that is empty and may be filled."""
    effort, amount, start = amounts.effort, amounts.replication, time.monotonic()
    missing = {system: reason for system in SYSTEMS if (reason := why_missing(system))}
    systems = [system for system in SYSTEMS if system not in missing]
    results = await measure_local(directory / "local", effort, systems)
    sizes = await measure_size(directory / "sizes", effort)
    together = await measure_together(directory / "together", amounts.crowd)
    stores = await many.measure_many(directory / "many", amounts.counts)
    beside = await measure_beside(directory / "beside", effort)
    replications = await measure_replication(directory / "replication", amount)
    checks = [*check_local(results), *check_together(together), check_size(sizes, effort), *check_many(stores)]
    checks += check_beside(beside)
    checks += [check for each in replications.found for check in check_replication(each)]
    return {
        "format": FORMAT,
        "machine": machine(directory),
        "versions": versions(),
        "settings": _settings(effort, amount, time.monotonic() - start),
        "missing": {**{system.title: reason for system, reason in missing.items()}, **replications.missing},
        "systems": {each.name: {"title": each.title, "durability": each.durability} for each in systems},
        "limits": LIMITS,
        "work": {work.name: work.title for work in WORK},
        "results": _nested(results),
        "sizes": [["10 items", sizes["small", "add_1"].summary()], _large(effort, sizes)],
        "together": together.summary(),
        "many": stores.summary(),
        "beside": beside.summary(),
        "replication": {each.remote: each.summary() for each in replications.found},
        "checks": [check.summary() for check in checks],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says."""
    options = _parser().parse_args(arguments)
    os.environ.pop("LOCALFIRST_REMOTE", None)  # Nobody wants these messages there.
    with tempfile.TemporaryDirectory(prefix="localfirst-benchmark-") as directory:
        report = asyncio.run(run(Path(directory), _how_much(options)))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    options.json.with_suffix(".md").write_text(as_markdown(report), encoding="utf-8")
    console = Console()
    console.width = max(console.width, _WIDTH)
    show(report, console)
    console.print(
        f"Written: {options.json}, and beside it a page: {options.json.with_suffix('.md').name}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _how_much(options: argparse.Namespace) -> Amounts:
    if options.quick:
        return SHORT
    return LONG._replace(replication=ALL) if options.full else LONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure localfirst beside other sessions.")
    parser.add_argument(
        "suite", nargs="?", choices=["local"], default="local", help="calls, and what replicates them: all there is"
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="in seconds rather than minutes; the times mean little")
    effort.add_argument("--full", action="store_true", help="with 100,000 items, and a million sessions")
    parser.add_argument("--json", type=Path, default=_RESULTS, metavar="FILE", help="results; Markdown goes beside it")
    return parser


def _settings(effort: Effort, amount: Amount, seconds: float) -> dict[str, Any]:
    sizes = [len(msgspec.json.encode(message)) for message in messages(1000)]
    return {
        **effort._asdict(),
        "replication": {**amount._asdict(), **{name: getattr(amount, name)._asdict() for name in _SIZES}},
        "quick": effort == QUICK,
        "seconds": round(seconds, 1),
        "message_bytes": round(statistics.mean(sizes)),
    }


def _nested(results: Results) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for (name, work), series in results.items():
        nested.setdefault(name, {})[work] = series.summary()
    return nested


def _large(effort: Effort, sizes: Results) -> list[Any]:
    return [f"{effort.large:,} items", sizes["large", "add_1"].summary()]


if __name__ == "__main__":
    raise SystemExit(main())
