"""The scenes: A talks, B goes on, both lose the central store and write on, both come back with one history."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from localfirst import jsonvalue
from localfirst.cli.demo import direct
from localfirst.cli.demo.outage import Outage
from localfirst.cli.demo.replica import Replica
from localfirst.cli.demo.screen import Screen
from localfirst.cli.demo.script import Turn, load


class Result(NamedTuple):
    """How a play ended. Times in seconds."""

    session_id: str
    items: int
    expected: int
    same_items: bool
    same_metadata: bool
    complete: bool
    """Whether every item of the conversation is there exactly once, and every count is right."""
    write_median: float
    read_median: float
    direct: direct.Direct

    @property
    def equal(self) -> bool:
        """Whether both replicas hold the same, and nothing was lost or doubled."""
        return self.same_items and self.same_metadata and self.complete


async def play(remote: str, namespace: str, directory: Path, outage: Outage, screen: Screen) -> Result:
    """Play the conversation through two replicas with stores below a directory."""
    run_id = uuid.uuid4().hex[:12]
    session_id = f"demo-{run_id}"
    laptop, tablet = replicas = (
        Replica("A", "laptop", directory / "a", namespace, session_id),
        Replica("B", "tablet", directory / "b", namespace, session_id),
    )
    turns = load()
    async with AsyncExitStack() as stack:
        for replica in replicas:
            replica.open(remote)
            stack.push_async_callback(replica.close)
        await asyncio.gather(*(replica.connect() for replica in replicas))
        async with screen.showing(replicas):
            await _scenes(laptop, tablet, turns, outage, screen)
        mine, theirs = await laptop.content(), await tablet.content()
    items, metadata = mine
    return Result(
        session_id=session_id,
        items=len(items),
        expected=len(_all_items(turns)),
        same_items=_encoded(items) == _encoded(theirs[0]),
        same_metadata=metadata == theirs[1],
        complete=_is_complete(items, metadata, turns),
        write_median=median(laptop.writes + tablet.writes),
        read_median=median(laptop.reads + tablet.reads),
        direct=await direct.measure(remote, _all_items(turns), run_id),
    )


async def _scenes(laptop: Replica, tablet: Replica, turns: list[Turn], outage: Outage, screen: Screen) -> None:
    both = (laptop, tablet)
    await screen.scene("A talks", "The agent on the laptop writes to its own disk; a worker sends it on.")
    await _say(laptop, turns[:2], screen)
    await laptop.send()
    screen.step()

    await screen.scene("B goes on", "The tablet has never seen this conversation. It reads all of it, and continues.")
    await tablet.fetch()
    await _say(tablet, turns[2:4], screen)
    await _meet(both, screen)

    await screen.scene("Offline", outage.beginning)
    await outage.begin(both)
    screen.step()
    await asyncio.gather(_say(laptop, turns[4:5], screen), _say(tablet, turns[5:6], screen))

    await screen.scene("Back", outage.ending)
    await outage.end(both)
    await _meet(both, screen)

    await screen.scene("One history", "A sums up, with what both wrote while they were apart.")
    await _say(laptop, turns[6:], screen)
    await _meet(both, screen)


async def _say(replica: Replica, turns: list[Turn], screen: Screen) -> None:
    for turn in turns:
        await replica.say(turn, screen.pause)
        screen.step()


async def _meet(replicas: tuple[Replica, ...], screen: Screen) -> None:
    """Bring everything that was written on either to both."""
    await asyncio.gather(*(replica.send() for replica in replicas))
    await asyncio.gather(*(replica.fetch() for replica in replicas))
    screen.step()


def _is_complete(items: list[Any], metadata: dict[str, Any], turns: list[Turn]) -> bool:
    counts = {"turns": len(turns), "tool_calls": sum(len(turn.tools) for turn in turns)}
    return Counter(_encoded(items)) == Counter(_encoded(_all_items(turns))) and counts.items() <= metadata.items()


def _all_items(turns: list[Turn]) -> list[Any]:
    return [item for turn in turns for item in turn.items]


def _encoded(items: list[Any]) -> list[bytes]:
    return [jsonvalue.encode(item) for item in items]
