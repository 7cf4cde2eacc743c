"""What the audience sees: two panels that live, on a terminal; lines, everywhere else."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from localfirst.cli.demo.replica import Replica
from localfirst.cli.output import state_text
from localfirst.cli.sessions import brief

_FRAME_SECONDS = 0.08
_ITEM_SECONDS = 0.05
_SCENE_SECONDS = 0.7
_SHOWN_ITEMS = 9
_COLOURS = {"A": "cyan", "B": "magenta"}
_BULLETS = {"user": ("▸", "bold"), "assistant": ("◂", "green"), "call": ("⚙", "yellow"), "output": ("↳", "dim")}


class Screen(ABC):
    """Told by the play what happens; shows it, at the pace that suits the audience."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0
        self._replicas: Sequence[Replica] = ()

    def showing(self, replicas: Sequence[Replica]) -> contextlib.AbstractAsyncContextManager[None]:
        """Show these replicas while the context lasts."""
        self._replicas, self._number = replicas, 0
        return self._show()

    async def scene(self, title: str, text: str) -> None:
        """A new scene begins."""
        self._number += 1
        await self._scene(
            Text.assemble((f"{self._number}  {title}", "bold"), "\n", (f"   {text}", "dim")),
        )

    @abstractmethod
    def _show(self) -> contextlib.AbstractAsyncContextManager[None]: ...

    @abstractmethod
    async def _scene(self, heading: Text) -> None: ...

    @abstractmethod
    def step(self) -> None:
        """Something worth telling has happened."""

    @abstractmethod
    async def pause(self) -> None:
        """Time for the audience, between two items."""


class Lines(Screen):
    """One line for each step, and no pauses."""

    @asynccontextmanager
    async def _show(self) -> AsyncIterator[None]:
        yield

    async def _scene(self, heading: Text) -> None:
        self.console.print(Text("\n"), heading, sep="")

    def step(self) -> None:
        parts = [_summary(replica) for replica in self._replicas]
        self.console.print(Text("   ").append_text(Text("   |   ").join(parts)))

    async def pause(self) -> None:
        await asyncio.sleep(0)


class Panels(Screen):
    """A panel for each replica, drawn anew many times a second."""

    @asynccontextmanager
    async def _show(self) -> AsyncIterator[None]:
        self._heading = Text()
        with Live(console=self.console, auto_refresh=False, transient=False) as live:
            drawing = asyncio.create_task(self._draw(live))
            try:
                yield
                await asyncio.sleep(_SCENE_SECONDS)
            finally:
                drawing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await drawing
                live.update(self._picture(), refresh=True)

    async def _draw(self, live: Live) -> None:
        while True:
            live.update(self._picture(), refresh=True)
            await asyncio.sleep(_FRAME_SECONDS)

    async def _scene(self, heading: Text) -> None:
        if self._number > 1:
            await asyncio.sleep(_SCENE_SECONDS)  # Time to see how the last one ended.
        self._heading = heading

    def step(self) -> None:
        """Nothing to do: the next frame shows it."""

    async def pause(self) -> None:
        await asyncio.sleep(_ITEM_SECONDS)

    def _picture(self) -> RenderableType:
        grid = Table.grid(expand=True)
        for _ in self._replicas:
            grid.add_column(ratio=1)
        grid.add_row(*(self._panel(replica) for replica in self._replicas))
        return Group(Text(), self._heading, grid)

    def _panel(self, replica: Replica) -> Panel:
        facts = replica.facts
        width = max(20, self.console.width // len(self._replicas) - 8)
        shown = [_item_line(item, width) for item in facts.items[-_SHOWN_ITEMS:]]
        shown += [Text()] * (_SHOWN_ITEMS - len(shown))
        metadata = " ".join(f"{key}={value}" for key, value in facts.metadata.items() if not isinstance(value, list))
        footer = Text(metadata or " ", style="dim", no_wrap=True, overflow="ellipsis")
        return Panel(
            Group(_summary(replica), _bar(facts.pending, width), Text(), *shown, Text(), footer),
            title=f"[bold]{replica.name}[/]  {replica.device}",
            title_align="left",
            border_style=_COLOURS.get(replica.name, ""),
        )


def screen_for(console: Console) -> Screen:
    """Panels if somebody watches, else lines."""
    return Panels(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


def _summary(replica: Replica) -> Text:
    facts = replica.facts
    pending = f"{facts.pending:3} pending"
    return Text.assemble(
        (replica.name, f"bold {_COLOURS.get(replica.name, '')}"),
        "  ",
        state_text(f"{facts.state}"),
        " " * (10 - len(facts.state)),
        f"{len(facts.items):3} items  ",
        (pending, "yellow" if facts.pending else "green"),
    )


def _bar(pending: int, width: int) -> Text:
    """One block for each change that waits."""
    if not pending:
        return Text("everything written here is in the central store", style="dim")
    return Text("■" * min(pending, width), style="yellow")


def _item_line(item: Any, width: int) -> Text:
    kind, text = brief(item, width - 2)
    bullet, style = _BULLETS.get(kind, ("·", ""))
    return Text(f"{bullet} {text}", style=style, no_wrap=True)
