"""Results as pictures: Mermaid charts, which are plain text in a Markdown page and drawn where it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_FASTER: Final = ": times faster than SQLiteSession"
_WIDE: Final = "---\nconfig:\n  xyChart:\n    width: 1000\n    height: {height}\n---\n"


def charts(report: dict[str, Any]) -> list[str]:
    """How much faster calls are than those of a peer, and how near every figure is to what was aimed at."""
    aimed = [check for check in report["checks"] if check["bound"] is not None]
    faster = [check for check in aimed if check["name"].endswith(_FASTER)]
    return [
        chart(
            "Times faster than SQLiteSession: bars; what was aimed at: line",
            [check["name"].removesuffix(_FASTER) for check in faster],
            [check["seen"] for check in faster],
            [check["bound"] for check in faster],
        ),
        chart(
            "Every figure as a part of what was aimed at: below the line is better",
            [check["name"] for check in aimed],
            [_part(check) for check in aimed],
            [1.0] * len(aimed),
            horizontal=True,
        ),
    ]


def chart(
    title: str, names: Sequence[str], bars: Sequence[float], line: Sequence[float], *, horizontal: bool = False
) -> str:
    """A bar for each name, and a line across.

    >>> print(chart("Ratio", ["add 1", 'get "all"'], [2.5, 1.04], [3.0, 1.25]))  # doctest: +ELLIPSIS
    ```mermaid
    ...
    xychart-beta
        title "Ratio"
        x-axis ["add 1", "get 'all'"]
        y-axis 0 --> 3.3
        bar [2.5, 1.04]
        line [3, 1.25]
    ```
    """
    quoted = ", ".join('"{}"'.format(name.replace('"', "'")) for name in names)
    lines = [
        "```mermaid",
        _WIDE.format(height=24 * len(names) + 100 if horizontal else 400) + f"xychart-beta{' horizontal' * horizontal}",
        f'    title "{title}"',
        f"    x-axis [{quoted}]",
        f"    y-axis 0 --> {max(*bars, *line) * 1.1:.2g}",
        f"    bar [{', '.join(f'{bar:.4g}' for bar in bars)}]",
        f"    line [{', '.join(f'{each:.4g}' for each in line)}]",
        "```",
    ]
    return "\n".join(lines)


def _part(check: dict[str, Any]) -> float:
    """1: exactly what was aimed at; less is better, whichever way the figure goes."""
    seen, bound = float(check["seen"]), float(check["bound"])
    return seen / bound if check["at_most"] else bound / seen
