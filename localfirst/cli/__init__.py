"""The command line. Typer and rich come with the extra `cli`; without them, `main` says how to get them."""

from __future__ import annotations

import sys

_MISSING = "localfirst: the command line needs typer and rich: pip install 'localfirst[cli]'"


def main() -> None:
    """Run `localfirst`; the entry point of the console script."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        print(_MISSING, file=sys.stderr)
        sys.exit(1)
    from localfirst.cli.app import run

    run()
