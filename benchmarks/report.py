"""Results for people: tables on the terminal and as Markdown, made from the JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.charts import charts

Report = dict[str, Any]

_MET = {True: "yes", False: "not here", None: ""}


class _Sheet:
    """A table that is not yet drawn in any way."""

    def __init__(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.title = title
        self.columns = columns
        self.rows = rows

    def rich(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row, style="yellow" if row[-1] == _MET[False] else None)
        return table

    def markdown(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return f"**{self.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(report: Report, console: Console) -> None:
    """Print a report."""
    for note in _notes(report):
        console.print(note, highlight=False)
    for sheet in _sheets(report):
        console.print(sheet.rich())
    console.print(verdict(report), highlight=False)


def as_markdown(report: Report) -> str:
    """The report as a page."""
    notes = "\n".join(f"- {note}" for note in _notes(report))
    parts = [notes, *charts(report), *[sheet.markdown() for sheet in _sheets(report)], verdict(report)]
    return "# How fast\n\n" + "\n\n".join(parts) + "\n"


def verdict(report: Report) -> str:
    """Which of the figures that were aimed at this run saw. Missing one is a finding: the run itself went well."""
    aimed = [check for check in report["checks"] if check["met"] is not None]
    missed = [check["name"] for check in aimed if not check["met"]]
    hedge = " A quick run is too short to tell." if report["settings"]["quick"] else ""
    if not missed:
        return f"Measured. Every figure aimed at was seen on this machine.{hedge}"
    seen = len(aimed) - len(missed)
    return (
        f"Measured. {seen} of {len(aimed)} figures aimed at were seen on this machine; not: {'; '.join(missed)}.{hedge}"
    )


def _notes(report: Report) -> list[str]:
    settings = report["settings"]
    notes = [
        "{cpu}, {cores} cores, {system}, {file_system}, {python}, SQLite {sqlite}".format_map(report["machine"]),
        ", ".join(f"{package} {version}" for package, version in report["versions"].items()),
        f"{settings['rounds']} rounds in {settings['seconds']} s; messages of {settings['message_bytes']} bytes",
    ]
    return notes + [f"not measured: {title} ({reason})" for title, reason in report["missing"].items()]


def _sheets(report: Report) -> list[_Sheet]:
    return [_times(report), _limits(report), _beside(report), _replication(report), _checks(report)]


def _times(report: Report) -> _Sheet:
    systems, results = report["systems"], report["results"]
    rows = [[title, *[_cell(results[name].get(work)) for name in systems]] for work, title in report["work"].items()]
    rows.append(["durability", *[system["durability"] for system in systems.values()]])
    return _Sheet("Microseconds: median (p99)", ["", *[system["title"] for system in systems.values()]], rows)


def _limits(report: Report) -> _Sheet:
    rows = [
        [title, report["work"][work], _cell(times)]
        for name, title in report["limits"].items()
        for work, times in report["results"][name].items()
    ]
    return _Sheet("Limits, microseconds: median (p99)", ["", "for", "time"], rows)


def _beside(report: Report) -> _Sheet:
    found = report["beside"]
    titles = {"alone": "no worker", "idle": "worker with nothing else to send", "busy": "worker at full speed"}
    rows = [[title, _cell(found[name]), str(found[name]["calls"])] for name, title in titles.items()]
    rows += [[f"add 1 to a session of {size}", _cell(times), str(times["calls"])] for size, times in report["sizes"]]
    speed = f"{found['backlog_changes_per_second']:,} changes/s"
    return _Sheet(f"Add 1 beside replication to {found['remote']} ({speed})", ["", "median (p99)", "calls"], rows)


def _replication(report: Report) -> _Sheet:
    titles = {"add": "add 1 here to visible there", "message": "bare message"}
    found = report["replication"].values()
    rows = [[title, *[_cell(each[name]) for each in found]] for name, title in titles.items()]
    return _Sheet("From one process to another, microseconds: median (p99)", ["", *report["replication"]], rows)


def _checks(report: Report) -> _Sheet:
    rows = [
        [
            check["name"],
            check["wanted"],
            f"{check['seen']:.2f}",
            f"{check['lowest']:.2f} - {check['highest']:.2f}",
            _MET[check["met"]],
        ]
        for check in report["checks"]
    ]
    return _Sheet("Figures", ["figure", "aimed at", "seen", "rounds", "as aimed"], rows)


def _cell(times: dict[str, Any] | None) -> str:
    return "" if times is None else f"{_number(times['median'])} ({_number(times['p99'])})"


def _number(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.1f}"
